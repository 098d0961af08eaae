from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import actions_of
from torch import Tensor

from lldwatch.errors import InputError, ScoreError
from lldwatch.probe_plan import Plan
from lldwatch.probes import ANCHOR_STEPS, LikelihoodProbe
from lldwatch.rescore import Held
from lldwatch.rollup import summarise
from lldwatch.schema import Actions, Probes, Tokens

VOCABULARY, TOKENS, SIZE = 7, 6, 10
NOTHING = {"cross_update": 0, "post_update": 0, "lagged": 0, "fixed": 0, "tokens": 0, "noise_every": 1000}
CROSS = Plan(**{**NOTHING, "cross_update": 64})


class Policy(torch.nn.Module):
    """A bigram policy: the next token depends on the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(VOCABULARY, VOCABULARY)

    def log_probs(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(responses, tokens) each, nats; the first token is given, its log-prob 0."""
        logits = torch.log_softmax(self.table(tokens[:, :-1]), -1)
        chosen = logits.gather(-1, tokens[:, 1:, None])[..., 0]
        entropy = -(logits.exp() * logits).sum(-1)
        return torch.nn.functional.pad(chosen, (1, 0)), torch.nn.functional.pad(entropy, (1, 0))


class Training:
    """A tiny policy that an optimizer really moves, and batches to train it on."""

    def __init__(self) -> None:
        self.random = torch.Generator().manual_seed(0)
        torch.nn.init.normal_((policy := Policy()).table.weight, generator=self.random)
        self.policy = policy
        self.optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)

    def score(self, batch: Any) -> Tensor:
        return self.policy.log_probs(batch["tokens"])[0]

    def batch(self, correct: list[int], **about: Any) -> dict[str, Any]:
        draw = torch.randint(0, VOCABULARY, (SIZE, TOKENS), generator=self.random)
        mask = torch.rand(SIZE, TOKENS, generator=self.random) < 0.7
        mask[:, -1], mask[:, 0] = True, False
        return {
            "batch": {"tokens": draw},
            "response_mask": mask.long(),
            "correct": torch.tensor([i in correct for i in range(SIZE)]),
            "advantages": torch.randn(SIZE, generator=self.random),
            "uid": torch.randint(0, 10**6, (SIZE,), generator=self.random),
            "group": torch.arange(SIZE) // 2,
            **about,
        }

    def update(self, batch: Any) -> None:
        log_probs = self.score(batch["batch"]) * batch["response_mask"]
        loss = -(log_probs.sum(-1) * batch["advantages"]).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def by_token(self, batch: Any, row: int) -> list[float | None]:
        """The log-prob of each policy token of a response, in float64; None elsewhere."""
        table = torch.log_softmax(self.policy.table.weight.detach().double(), -1)
        tokens, mask = batch["batch"]["tokens"][row].tolist(), batch["response_mask"][row].tolist()
        return [float(table[tokens[t - 1], tokens[t]]) if mask[t] else None for t in range(TOKENS)]

    def likelihoods(self, batch: Any, rows: list[int]) -> list[float]:
        """Sum over policy tokens of each of the rows, token by token."""
        return [sum(value for value in self.by_token(batch, row) if value is not None) for row in rows]


@pytest.fixture
def training() -> Training:
    return Training()


def of_kind(probes: Probes, kind: str) -> dict[str, list[Any]]:
    tables = [table for table in (probes, *probes.companions) if isinstance(table, Probes) and len(table)]
    if not tables:
        return {}
    probes = next((table for table in tables if kind in table.kind), tables[0])
    assert probes.kind is not None
    chosen = probes.kind == kind
    return {name: column[chosen].tolist() for name, column in probes.columns().items() if column is not None}


def rows_of(table: Any, probes: Probes) -> list[dict[str, Any]]:
    """The rows of a companion table, one dict each."""
    tables = [rows for rows in probes.companions if isinstance(rows, table)]
    columns = [{n: c.tolist() for n, c in rows.columns().items() if c is not None} for rows in tables]
    return [dict(zip(part, row, strict=True)) for part in columns for row in zip(*part.values(), strict=True)]


# what each kind measures, against a measurement of its own


def test_cross_update_rows_equal_an_independent_measurement(training: Training) -> None:
    probe = LikelihoodProbe(training.score, CROSS)
    previous: tuple[Any, list[int], list[float]] | None = None
    for correct in ([0, 3, 4], [1, 2], list(range(SIZE)), [9]):
        batch = training.batch(correct)
        training.update(batch)
        training.update(batch)
        rows = of_kind(probe.after_update(**batch), "cross_update")
        if previous is None:
            assert not any(rows.values())
        else:
            held, right, before = previous
            after = training.likelihoods(held, right)
            assert rows["uid"] == held["uid"][right].tolist()
            assert rows["group"] == held["group"][right].tolist()
            assert rows["tokens"] == held["response_mask"][right].sum(-1).tolist()
            assert rows["correct"] == [True] * len(right)
            assert rows["advantage"] == pytest.approx(held["advantages"][right].tolist())
            assert rows["lag"] == [1] * len(right)
            assert rows["log_prob_before"] == pytest.approx(before, abs=1e-5)
            assert rows["log_prob_after"] == pytest.approx(after, abs=1e-5)
            assert rows["log_prob_after"] != rows["log_prob_before"]
        previous = batch, correct, training.likelihoods(batch, correct)


def test_the_headline_is_the_change_per_token_of_those_rows(training: Training) -> None:
    probe = LikelihoodProbe(training.score)
    first, second = training.batch([1, 4, 6]), training.batch([2])
    training.update(first)
    probe.after_update(**first)
    before = training.likelihoods(first, [1, 4, 6])
    training.update(second)
    probes = probe.after_update(**second)
    after = training.likelihoods(first, [1, 4, 6])
    tokens = int(first["response_mask"][[1, 4, 6]].sum())
    expected = (sum(after) - sum(before)) / tokens
    assert summarise([], [probes])["cross_update_change"] == pytest.approx(expected, abs=1e-6)


def test_post_update_rows_equal_an_independent_measurement(training: Training) -> None:
    probe = LikelihoodProbe(training.score, Plan(**{**NOTHING, "post_update": SIZE, "post_update_every": 1}))
    for correct in ([0, 3, 4], list(range(0, SIZE, 2)), [1]):
        batch = training.batch(correct)
        batch["advantages"][8:] = 0.001  # as good as none
        probe.before_update(**batch)
        before = training.likelihoods(batch, list(range(SIZE)))
        training.update(batch)
        training.update(batch)
        after = training.likelihoods(batch, list(range(SIZE)))
        rows = of_kind(probe.after_update(**batch), "post_update")
        place = [batch["uid"].tolist().index(uid) for uid in rows["uid"]]
        mixed = [row for row in range(0, 8, 2) if (row in correct) != (row + 1 in correct)]
        assert place == sorted([*mixed, *(row + 1 for row in mixed), 8, 9])
        assert rows["correct"] == [row in correct for row in place]
        assert rows["lag"] == [0] * len(place)
        assert rows["log_prob_before"] == pytest.approx([before[row] for row in place], abs=1e-5)
        assert rows["log_prob_after"] == pytest.approx([after[row] for row in place], abs=1e-5)


def test_the_three_parts_of_a_batch_and_the_gap_are_told_apart(training: Training) -> None:
    probe = LikelihoodProbe(training.score, Plan(**{**NOTHING, "post_update": SIZE, "post_update_every": 1}))
    batch = training.batch([0, 2, 5, 8])
    batch["advantages"] = torch.where(batch["correct"], 1.0, -1.0)
    batch["advantages"][8:] = 0.0
    rows = list(range(SIZE))
    probe.before_update(**batch)
    before = training.likelihoods(batch, rows)
    training.update(batch)
    after = training.likelihoods(batch, rows)
    summary = summarise([], [probe.after_update(**batch)])
    change, tokens = [b - a for a, b in zip(before, after, strict=True)], batch["response_mask"].sum(-1).tolist()
    parts = {"correct": [0, 2, 5], "incorrect": [1, 3, 4], "zero_advantage": [8, 9]}
    for name, part in parts.items():
        expected = sum(change[row] for row in part) / sum(tokens[row] for row in part)
        assert summary[f"post_update_{name}"] == pytest.approx(expected, abs=1e-6), name
    pairs = [(0, 1), (2, 3), (5, 4), (8, 9)]
    gap = sum(change[right] / tokens[right] - change[wrong] / tokens[wrong] for right, wrong in pairs) / 4
    assert summary["post_update_gap"] == pytest.approx(gap, abs=1e-6)
    assert summary["post_update_correct"] > 0 > summary["post_update_incorrect"]


def test_lagged_and_fixed_rows_equal_an_independent_measurement(training: Training) -> None:
    plan = Plan(
        **{**NOTHING, "cross_update": 64, "lagged": 3, "fixed": 8, "fixed_every": 3}, lags=(2, 4), lagged_every=2
    )
    probe = LikelihoodProbe(training.score, plan)
    batches, captured = [], []
    for step in range(1, 13):
        correct = [] if step == 2 else [0, 2, 3, 5, 9]
        batch = training.batch(correct)
        training.update(batch)
        measured = probe.after_update(**batch)
        batches.append(batch)
        captured.append(training.likelihoods(batch, correct))
        for lag in (2, 4):
            rows = of_kind(measured, "lagged")
            chosen = [i for i, of in enumerate(rows.get("lag", [])) if of == lag]
            own = step - lag
            if step % 2 or own < 2 or own == 2:
                assert not chosen
                continue
            held, some = batches[own - 1], [0, 3, 9]
            assert [rows["uid"][i] for i in chosen] == held["uid"][some].tolist()
            before = [captured[own - 1][[0, 2, 3, 5, 9].index(row)] for row in some]
            assert [rows["log_prob_before"][i] for i in chosen] == pytest.approx(before, abs=1e-5)
            after = training.likelihoods(held, some)
            assert [rows["log_prob_after"][i] for i in chosen] == pytest.approx(after, abs=1e-5)
        rows = of_kind(measured, "fixed")
        if step % 3:
            assert not any(rows.values())
            continue
        sources = [own for own in (1, 3, 4, 5) if own < step]  # step 2 had no correct response
        assert rows["uid"] == [uid for own in sources for uid in batches[own - 1]["uid"][[0, 9]].tolist()]
        assert rows["lag"] == [step - own for own in sources for _ in range(2)]
        before = [captured[own - 1][place] for own in sources for place in (0, -1)]
        assert rows["log_prob_before"] == pytest.approx(before, abs=1e-5)
        after = [nats for own in sources for nats in training.likelihoods(batches[own - 1], [0, 9])]
        assert rows["log_prob_after"] == pytest.approx(after, abs=1e-5)
        assert len(sources) <= ANCHOR_STEPS


def test_anchors_of_the_user_s_own_take_the_place_of_the_first_steps(training: Training) -> None:
    plan = Plan(**{**NOTHING, "cross_update": 4, "fixed": 64, "fixed_every": 2})
    probe = LikelihoodProbe(training.score, plan, micro_batch=3)
    own = training.batch([])
    probe.set_anchors(own["batch"], response_mask=own["response_mask"], uid=own["uid"])
    before = training.likelihoods(own, list(range(SIZE)))
    for step in range(1, 5):
        batch = training.batch([0, 1])
        training.update(batch)
        rows = of_kind(probe.after_update(**batch), "fixed")
        if step % 2:
            assert not any(rows.values())
            continue
        assert rows["uid"] == own["uid"].tolist()
        assert rows["lag"] == [step] * SIZE
        assert rows["correct"] == [True] * SIZE
        assert rows["log_prob_before"] == pytest.approx(before, abs=1e-5)
        assert rows["log_prob_after"] == pytest.approx(training.likelihoods(own, list(range(SIZE))), abs=1e-5)


def test_anchors_that_cannot_be_scored_are_refused_before_the_training(training: Training) -> None:
    own = training.batch([])
    with pytest.raises(InputError, match=r"score returned shape \(8, 5\), expected \(8, 6\)"):
        LikelihoodProbe(lambda batch: training.score(batch)[:, 1:]).set_anchors(
            own["batch"], response_mask=own["response_mask"]
        )
    with pytest.raises(ScoreError, match="no memory"):
        LikelihoodProbe(fails_from(0, training.score, RuntimeError("no memory"))).set_anchors(
            own["batch"], response_mask=own["response_mask"]
        )


def test_a_training_that_goes_back_compares_nothing_with_the_policy_it_gave_up(training: Training) -> None:
    plan = Plan(cross_update=4, lagged=2, lags=(1, 2), lagged_every=1, fixed=8, fixed_every=1, noise_every=1000)
    probe = LikelihoodProbe(training.score, plan)
    for _ in range(3):
        probe.after_update(**training.batch([0, 1]))
    probe.reset()
    assert set(probe.after_update(**training.batch([0, 1])).kind.tolist()) == {"fixed"}
    assert set(probe.after_update(**training.batch([0, 1])).kind.tolist()) == {"cross_update", "lagged", "fixed"}


def test_a_resumed_training_goes_on_with_its_fixed_anchors(training: Training, tmp_path: Path) -> None:
    plan = Plan(**{**NOTHING, "cross_update": 4, "fixed": 8, "fixed_every": 3})
    probe, rows = LikelihoodProbe(training.score, plan), []
    batches = [training.batch([0, 1], answer_mask=torch.ones(SIZE, TOKENS)) for _ in range(9)]
    for resumed in (False, True):
        for batch in batches[5:] if resumed else batches:
            if not resumed and batch is batches[5]:
                torch.save(probe.state_dict(), tmp_path / "probe.pt")
            rows.append(of_kind(probe.after_update(**batch), "fixed"))
        probe = LikelihoodProbe(training.score, plan)
        probe.load_state_dict(torch.load(tmp_path / "probe.pt"))
    uninterrupted, again = rows[5:9], rows[9:]
    assert repr(again) == repr(uninterrupted)
    assert [len(row["uid"]) if row else 0 for row in again] == [8, 0, 0, 8]


def test_anchors_of_the_user_s_own_take_nothing_from_the_other_kinds(training: Training) -> None:
    plan = Plan(post_update=SIZE, post_update_every=1, fixed=4, fixed_every=1)
    with_anchors, without = LikelihoodProbe(training.score, plan), LikelihoodProbe(training.score, plan)
    own = training.batch([])
    with_anchors.set_anchors(own["batch"], response_mask=own["response_mask"])
    for _ in range(2):
        batch = training.batch([0, 2, 5], answer_mask=torch.ones(SIZE, TOKENS))
        batch["advantages"][4:] = 0.0
        for probe in (with_anchors, without):
            probe.before_update(**batch)
        training.update(batch)
        summaries = []
        for probe in (with_anchors, without):
            probes = probe.after_update(**batch)
            tables = [probes, *(table for table in probes.companions if isinstance(table, Probes))]
            summaries.append(summarise([], tables))
            rows = sum(int((table.kind == "fixed").sum()) for table in tables)
            assert rows <= 4
            assert probes.group is not None
    assert summaries[0].pop("fixed_anchor_change") != summaries[1].pop("fixed_anchor_change")
    assert summaries[0] == summaries[1]
    assert {"post_update_zero_advantage", "post_update_gap", "cross_update_error"} <= summaries[0].keys()


def test_a_plan_that_scores_no_anchors_takes_none(training: Training) -> None:
    own = training.batch([])
    with pytest.raises(InputError, match=r"set_anchors with fixed=0 \(preset economy\)"):
        LikelihoodProbe(training.score, "economy").set_anchors(own["batch"], response_mask=own["response_mask"])


def test_going_back_forgets_the_anchors_that_were_taken_since(training: Training) -> None:
    plan = Plan(**{**NOTHING, "cross_update": 4, "fixed": 4, "fixed_every": 1})
    probe, batches = LikelihoodProbe(training.score, plan), []
    for _ in range(4):
        batches.append(training.batch([0]))
        probe.after_update(**batches[-1])
    probe.reset(back=2)
    rows = of_kind(probe.after_update(**training.batch([])), "fixed")
    assert rows["uid"] == [int(batch["uid"][0]) for batch in batches[:2]]
    assert rows["lag"] == [2, 1]


def test_what_is_kept_for_later_does_not_grow_without_end(training: Training) -> None:
    probe = LikelihoodProbe(training.score, Plan(lags=(1, 3), lagged_every=1, fixed=8))
    for _ in range(20):
        probe.after_update(**training.batch([0, 1]))
    assert len(probe._past) <= 3
    assert len(probe._anchors) == ANCHOR_STEPS


# which responses


def test_advantages_per_token_are_their_mean_over_the_policy_s_tokens(training: Training) -> None:
    batch = training.batch([0, 1])
    batch["advantages"] = torch.randn(SIZE, TOKENS, generator=training.random)
    rows = of_kind(LikelihoodProbe(training.score, CROSS).after_update(**batch), "noise")
    mask = batch["response_mask"].bool()
    expected = [float(batch["advantages"][row][mask[row]].mean()) for row in (0, 1)]
    assert rows["advantage"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("correct", "zero", "group", "expected"),
    [
        ([0, 2, 4], [], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4], [0, 1, 4, 5]),  # the first and the last of three prompts
        ([0, 1, 2, 3, 4, 5, 6, 7, 8], [], list(range(10)), [0, 8, 9]),  # no prompt has both: apart from each other
        ([0], [1, 2, 3, 4, 5, 6, 7], [0] * 10, [0, 1, 8]),  # a quarter of 4 places for those without advantage
        ([], [], [0] * 10, []),
    ],
)
def test_post_update_looks_at_pairs(
    training: Training, correct: list[int], zero: list[int], group: list[int], expected: list[int]
) -> None:
    probe = LikelihoodProbe(training.score, Plan(**{**NOTHING, "post_update": 4, "post_update_every": 1}))
    batch = training.batch(correct, group=torch.tensor(group))
    batch["advantages"] = torch.tensor([0.0 if row in zero else 1.0 for row in range(SIZE)])
    if not correct:
        batch["group"] = torch.arange(SIZE)
        batch["advantages"] = torch.zeros(SIZE)
        expected = [0]
    probe.before_update(**batch)
    rows = of_kind(probe.after_update(**batch), "post_update")
    assert [batch["uid"].tolist().index(uid) for uid in rows["uid"]] == expected


# the noise floor


def test_noise_that_could_not_be_measured_in_the_first_step_is_measured_in_the_next(training: Training) -> None:
    probe = LikelihoodProbe(training.score, Plan(noise_every=20))
    kinds = [set(probe.after_update(**training.batch(right)).kind or []) for right in ([], [0], [0])]
    assert ["noise" in seen for seen in kinds] == [False, True, False]


def test_noise_is_measured_at_the_first_step_and_each_so_many_steps(training: Training) -> None:
    probe = LikelihoodProbe(training.score, Plan(noise_every=3))
    measured = []
    for _ in range(7):
        batch = training.batch([0, 5])
        training.update(batch)
        rows = of_kind(probe.after_update(**batch), "noise")
        measured.append(bool(rows.get("uid")))
        if measured[-1]:
            assert rows["lag"] == [0, 0]
            assert rows["uid"] == batch["uid"][[0, 5]].tolist()
            assert rows["log_prob_before"] == rows["log_prob_after"]
            assert rows["largest_token_change"] == [0.0, 0.0]
    assert measured == [True, False, False, True, False, False, True]


def test_a_noisy_score_shows_in_the_noise_rows(training: Training) -> None:
    noise = iter([0.0, 0.25])
    probe = LikelihoodProbe(lambda batch: training.score(batch) + next(noise))
    batch = training.batch([0, 5])
    summary = summarise([], [probe.after_update(**batch)])
    assert summary["noise_floor"] == pytest.approx(0.25, rel=1e-5)
    assert summary["token_noise_floor"] == pytest.approx(0.25, rel=1e-5)


# actions, answer, tokens


def test_spans_and_actions_equal_the_token_by_token_twin(training: Training) -> None:
    probe = LikelihoodProbe(training.score, CROSS)
    correct = [0, 3, 4, 8]
    answer = (torch.rand(SIZE, TOKENS, generator=training.random) < 0.5).float()
    batch = training.batch(correct, answer_mask=answer)
    training.update(batch)
    probe.after_update(**batch)
    before = [training.by_token(batch, row) for row in correct]
    other = training.batch([])
    training.update(other)
    probes = probe.after_update(**other)
    after = [training.by_token(batch, row) for row in correct]
    rows, actions = of_kind(probes, "cross_update"), rows_of(Actions, probes)
    expected_actions = []
    for i, row in enumerate(correct):
        mask, uid = batch["response_mask"][row].tolist(), int(batch["uid"][row])
        spans = actions_of(mask)
        answer_span = [t for t in range(TOKENS) if mask[t] and answer[row, t]]
        for name, span in (("first_action", spans[0]), ("answer", answer_span)):
            assert rows[f"{name}_tokens"][i] == len(span)
            for moment, values in (("before", before[i]), ("after", after[i])):
                assert rows[f"{name}_{moment}"][i] == pytest.approx(sum(values[t] for t in span), abs=1e-5)
        moved = [after[i][t] - before[i][t] for t in range(TOKENS) if mask[t]]
        assert rows["fallen_tokens"][i] == sum(change < 0 for change in moved)
        assert rows["largest_token_change"][i] == pytest.approx(max(map(abs, moved)), abs=1e-5)
        for number, span in enumerate(spans):
            sums = [sum(values[t] for t in span) for values in (before[i], after[i])]
            expected_actions.append((uid, number, len(span), *sums))
    found = [
        (row["uid"], row["action"], row["tokens"], row["log_prob_before"], row["log_prob_after"]) for row in actions
    ]
    assert found == [pytest.approx(row, abs=1e-5) for row in expected_actions]
    assert {row["kind"] for row in actions} == {"cross_update"}


def test_the_responses_that_fell_most_are_kept_token_by_token(training: Training) -> None:
    plan = Plan(**{**NOTHING, "cross_update": 64, "tokens": 2, "tokens_every": 2})
    probe = LikelihoodProbe(lambda batch: training.policy.log_probs(batch["tokens"]), plan, text="abcdefg".__getitem__)
    correct = [0, 1, 4, 7, 9]
    batch = training.batch(correct)
    batch["tokens"] = batch["batch"]["tokens"]
    training.update(batch)
    assert rows_of(Tokens, probe.after_update(**batch)) == []
    before = {row: training.by_token(batch, row) for row in correct}
    training.update(training.batch([1]))
    probes = probe.after_update(**training.batch([]))
    after = {row: training.by_token(batch, row) for row in correct}
    lengths = batch["response_mask"].sum(-1).tolist()
    fall = {row: (sum_of(after[row]) - sum_of(before[row])) / lengths[row] for row in correct}
    expected = []
    for row in sorted(correct, key=fall.__getitem__)[:2]:
        mask, tokens = batch["response_mask"][row].tolist(), batch["batch"]["tokens"][row].tolist()
        first, last = mask.index(1), TOKENS - 1 - mask[::-1].index(1)
        number = {position: i for i, span in enumerate(actions_of(mask)) for position in span}
        for t in range(first, last + 1):
            nats = before[row][t] or 0.0, after[row][t] or 0.0
            expected.append((int(batch["uid"][row]), t, number.get(t, -1), tokens[t], "abcdefg"[tokens[t]], *nats))
    rows = rows_of(Tokens, probes)
    names = ("uid", "position", "action", "token", "text", "log_prob_before", "log_prob_after")
    found = [tuple(row[name] for name in names) for row in rows]
    assert [row[:5] for row in found] == [row[:5] for row in expected]
    assert [row[5:] for row in found] == [pytest.approx(row[5:], abs=1e-5) for row in expected]
    assert all((row["entropy"] > 0) == (row["action"] >= 0) for row in rows)


def sum_of(values: list[float | None]) -> float:
    return sum(value for value in values if value is not None)


# what it holds, and what it costs


@pytest.mark.parametrize(("right", "at_most"), [(10, 3), (10, 4), (10, 1), (7, 5), (10, 9), (3, 10)])
def test_at_most_so_many_responses_are_held_evenly_chosen(training: Training, right: int, at_most: int) -> None:
    probe = LikelihoodProbe(training.score, Plan(cross_update=at_most))
    batch = training.batch(list(range(right)))
    rows = of_kind(probe.after_update(**batch), "noise")
    positions = [batch["uid"].tolist().index(uid) for uid in rows["uid"]]
    assert len(positions) == min(right, at_most)
    gaps = np.diff(positions)
    assert positions[0] == 0
    assert (gaps > 0).all()
    if at_most > 1:
        assert positions[-1] == right - 1
        assert gaps.max() - gaps.min() <= 1


def counted(score: Callable[[Any], Tensor]) -> tuple[Callable[[Any], Tensor], list[int]]:
    seen: list[int] = []

    def counting(batch: Any) -> Tensor:
        seen.append(len(batch["tokens"]))
        return score(batch)

    return counting, seen


@pytest.mark.parametrize("preset", ["economy", "standard", "full"])
def test_what_is_scored_is_what_the_price_says(training: Training, preset: str) -> None:
    score, seen = counted(training.score)
    probe = LikelihoodProbe(score, preset)
    totals = []
    for _ in range(80):
        right = torch.arange(SIZE) % 2 == 0
        batch = training.batch([0, 2, 4, 6, 8], advantages=torch.where(right, 1.0, -1.0))
        before = sum(seen)
        probe.before_update(**batch)
        probe.after_update(**batch)
        totals.append(sum(seen) - before)
    steady = sum(totals[40:]) / 40
    # by hand: 5 correct responses and 5 pairs in a batch of 10
    expected = {
        "economy": 2 * 5 + 5 / 20,
        "standard": 2 * 5 + 5 / 10 + 2 * 10 + 3 * 5 / 5 + 4 * 5 / 10,
        "full": 2 * 5 + 5 / 5 + 2 * 10 + 3 * 5 + 4 * 5 / 5,
    }[preset]
    assert steady == pytest.approx(expected)
    assert steady <= sum(probe.plan.price().values())


def test_on_many_ranks_as_many_passes_are_made_as_the_price_says(training: Training) -> None:
    score, seen = counted(training.score)
    probe = LikelihoodProbe(score, "economy", micro_batch=1, every_rank=True)
    for _ in range(40):
        batch = training.batch([0, 1])
        probe.before_update(**batch)
        probes = probe.after_update(**batch)
        if probes.note is not None:
            assert "re-score up to 32.8 responses a step" in probes.note
    assert len(seen) / 40 == pytest.approx(32.8, rel=0.03)


def test_the_price_is_said_with_the_first_rows_and_only_then(training: Training) -> None:
    probe = LikelihoodProbe(training.score, "economy")
    first, second = (probe.after_update(**training.batch([0, 1])) for _ in range(2))
    assert first.note == (
        "probes (economy) re-score up to 20.5 responses a step without gradient (cross_update 20, noise 0.5): "
        "2 forward passes of a batch of 10"
    )
    assert second.note is None


def test_what_is_not_measured_without_before_update_is_said(training: Training) -> None:
    probe = LikelihoodProbe(training.score)
    words = probe.after_update(**training.batch([0])).note
    assert words is not None
    assert words.endswith("; post_update is not measured: before_update was not called")


def test_the_time_in_the_probe_is_measured(training: Training) -> None:
    probe = LikelihoodProbe(training.score)
    batch = training.batch([0])
    probe.before_update(**batch)
    spent = probe._seconds
    assert spent > 0
    first, second = (probe.after_update(**batch).seconds for _ in range(2))
    assert first is not None
    assert second is not None
    assert first > spent
    assert second > 0


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 100])
def test_scoring_a_few_at_a_time_gives_the_same_rows(training: Training, micro_batch: int) -> None:
    score, seen = counted(training.score)
    whole, parted = LikelihoodProbe(training.score, "full"), LikelihoodProbe(score, "full", micro_batch=micro_batch)
    for step in range(12):
        batch = training.batch([step % 7, 8, 9])
        for probe in (whole, parted):
            probe.before_update(**batch)
        training.update(batch)
        rows = [probe.after_update(**batch) for probe in (whole, parted)]
        for name, column in rows[0].columns().items():
            other = rows[1].columns()[name]
            assert (column is None) == (other is None)
            if column is not None and other is not None:
                assert column.tolist() == (
                    other.tolist() if column.dtype.kind in "Uib" else pytest.approx(other.tolist(), abs=1e-6)
                )
    assert max(seen) <= micro_batch


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_log_probs_of_half_precision_are_summed_in_float32(training: Training, dtype: torch.dtype) -> None:
    probe = LikelihoodProbe(
        lambda batch: training.score(batch).to(dtype), Plan(**{**NOTHING, "cross_update": 64, "noise_every": 1})
    )
    batch = training.batch([0, 5])
    rows = of_kind(probe.after_update(**batch), "noise")
    rounded = [[float(torch.tensor(v).to(dtype)) for v in training.by_token(batch, r) if v is not None] for r in (0, 5)]
    assert rows["log_prob_after"] == pytest.approx([sum(values) for values in rounded], abs=1e-2)
    assert rows["log_prob_after"] == rows["log_prob_before"]


@pytest.mark.parametrize("garbage", [math.nan, -math.inf, 1e30])
def test_what_the_score_gives_outside_of_the_mask_does_not_matter(training: Training, garbage: float) -> None:
    def score(batch: Any) -> Tensor:
        return torch.where(batch["mask"] != 0, training.score(batch), garbage)

    clean, dirty = LikelihoodProbe(training.score, "full"), LikelihoodProbe(score, "full")
    for _ in range(3):
        batch = training.batch([0, 4, 5])
        batch["batch"]["mask"] = batch["response_mask"]
        for probe in (clean, dirty):
            probe.before_update(**batch)
        training.update(batch)
        rows = [probe.after_update(**batch) for probe in (clean, dirty)]
        assert [repr(column) for column in rows[0].columns().values()] == [
            repr(column) for column in rows[1].columns().values()
        ]


def test_empty_responses_and_responses_of_one_token_have_rows_and_harm_nothing(training: Training) -> None:
    probe = LikelihoodProbe(
        training.score, Plan(**{**NOTHING, "cross_update": 64, "noise_every": 1, "tokens": 3, "tokens_every": 1})
    )
    for _ in range(2):
        batch = training.batch([0, 1, 2])
        batch["response_mask"][0] = 0
        batch["response_mask"][1] = torch.tensor([0, 0, 1, 0, 0, 0])
        training.update(batch)
        probes = probe.after_update(**batch)
        assert of_kind(probes, "noise")["tokens"] == batch["response_mask"].sum(-1)[:3].tolist()
        assert of_kind(probes, "noise")["first_action_tokens"][:2] == [0, 1]
        assert probes.error is None
    assert of_kind(probes, "cross_update")["log_prob_after"][0] == 0.0
    assert math.isfinite(summarise([], [probes])["cross_update_change"])


def test_the_next_batch_may_have_another_size(training: Training) -> None:
    probe = LikelihoodProbe(training.score, CROSS)
    probe.after_update(**training.batch([0, 1]))
    wide = {"tokens": torch.zeros(2, 9, dtype=torch.long)}
    rows = of_kind(
        probe.after_update(wide, response_mask=torch.ones(2, 9), correct=torch.tensor([1, 0])), "cross_update"
    )
    assert len(rows["uid"]) == 2


def test_a_step_without_correct_responses_measures_nothing_and_holds_nothing(training: Training) -> None:
    plan = Plan(**{**NOTHING, "cross_update": 64, "noise_every": 1})
    probe = LikelihoodProbe(training.score, plan)
    probe.after_update(**training.batch([2]))
    assert len(of_kind(probe.after_update(**training.batch([])), "cross_update")["uid"]) == 1
    nothing = probe.after_update(**training.batch([1]))
    assert of_kind(nothing, "cross_update")["uid"] == []
    assert len(of_kind(nothing, "noise")["uid"]) == 1
    assert len(LikelihoodProbe(training.score, plan).after_update(**training.batch([]))) == 0


def test_uid_and_group_and_advantages_may_be_left_out(training: Training) -> None:
    probe = LikelihoodProbe(training.score, "full")
    batch = training.batch([1, 2])
    for name in ("uid", "group", "advantages"):
        del batch[name]
    probe.before_update(**batch)
    probes = probe.after_update(**batch)
    assert probes.error is None
    assert {"noise", "post_update"} == set(probes.kind.tolist())
    assert probes.uid is None
    assert probes.advantage is None
    assert summarise([], [probes])["post_update_correct"] == 0.0


def test_the_trainings_random_stream_gradients_and_weights_are_untouched(training: Training) -> None:
    probe = LikelihoodProbe(training.score, "full")
    for _ in range(2):
        batch = training.batch(list(range(SIZE)))
        training.update(batch)
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]
        weights = {name: tensor.clone() for name, tensor in training.policy.state_dict().items()}
        gradient = training.policy.table.weight.grad.clone()
        probe.before_update(**batch)
        probe.after_update(**batch)
        assert torch.equal(torch.get_rng_state(), torch_state)
        assert (np.random.get_state()[1] == numpy_state).all()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in training.policy.state_dict().items())
        assert torch.equal(training.policy.table.weight.grad, gradient)


def test_the_score_is_called_without_gradient_and_on_a_copy(training: Training) -> None:
    graded = []

    def score(batch: Any) -> Tensor:
        graded.append(torch.is_grad_enabled())
        return training.score(batch)

    probe = LikelihoodProbe(score, CROSS)
    batch = training.batch([3, 4])
    before = training.likelihoods(batch, [3, 4])
    probe.after_update(**batch)
    batch["batch"]["tokens"].zero_()  # the loop reuses its buffers
    rows = of_kind(probe.after_update(**training.batch([])), "cross_update")
    assert rows["log_prob_after"] == pytest.approx(before, abs=1e-5)
    assert graded == [False] * 3


def test_dropout_is_off_while_the_model_is_scored_and_on_again_after_it() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(7, 7), torch.nn.Dropout(0.5))
    model[0].training = False  # a part that the user froze stays as it is

    class Scored(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, batch: Any) -> Tensor:
            return self.inner(batch["tokens"]).log_softmax(-1)[..., 0]

    scored, tokens = Scored(), torch.randint(0, 7, (6, 4))
    probe = LikelihoodProbe(scored)
    state = torch.random.get_rng_state()
    rows = probe.after_update({"tokens": tokens}, response_mask=torch.ones(6, 4), correct=torch.ones(6))
    assert rows.log_prob_before is not None
    assert (rows.log_prob_before == rows.log_prob_after).all()
    assert torch.equal(state, torch.random.get_rng_state())
    assert scored.training
    assert model[1].training
    assert not model[0].training


def test_a_function_that_draws_random_numbers_leaves_the_training_s_stream_alone(training: Training) -> None:
    probe = LikelihoodProbe(lambda batch: training.score(batch) + torch.rand(()))
    state = torch.random.get_rng_state()
    probe.after_update(**training.batch([0, 1, 2]))
    assert torch.equal(state, torch.random.get_rng_state())


def test_inside_of_autocast_the_weights_after_the_update_are_scored() -> None:
    """Autocast keeps low-precision copies of the weights for as long as its context lasts."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(7, 16), torch.nn.Linear(16, 7))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    def score(batch: Any) -> Tensor:
        return model(batch["tokens"]).float().log_softmax(-1).gather(-1, batch["tokens"][..., None])[..., 0]

    probe = LikelihoodProbe(score, Plan(post_update=6, post_update_every=1))
    tokens = torch.randint(0, 7, (6, 4))
    about = {"response_mask": torch.ones(6, 4), "correct": torch.arange(6) < 3}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        probe.before_update({"tokens": tokens}, **about)
        loss = -score({"tokens": tokens})[:3].mean()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        summary = summarise([], [probe.after_update({"tokens": tokens}, **about)])
    assert summary["post_update_correct"] > 0.05


def test_a_token_without_words_costs_no_rows(training: Training) -> None:
    plan = Plan(**{**NOTHING, "cross_update": 4, "tokens": 2, "tokens_every": 1})

    def text(token: int) -> str:
        if token == 3:
            raise OverflowError("out of range integral type conversion attempted")
        return f"t{token}"

    probe = LikelihoodProbe(training.score, plan, text=text)
    words = set()
    for _ in range(5):
        batch = training.batch([0, 1, 2])
        batch["tokens"] = batch["batch"]["tokens"]
        probes = probe.after_update(**batch)
        assert probes.error is None
        words |= {(row["token"], row["text"]) for row in rows_of(Tokens, probes)}
    assert (3, "<3>") in words
    assert all(word == f"t{token}" for token, word in words if token != 3)


def test_a_response_whose_change_is_nan_is_the_first_to_be_kept_token_by_token(training: Training) -> None:
    plan = Plan(**{**NOTHING, "cross_update": 4, "tokens": 1, "tokens_every": 2})
    broken = iter([1.0, 1.0, math.nan, 1.0])  # taken, noise, after, taken

    def score(batch: Any) -> Tensor:
        nats = training.score(batch).clone()
        nats[1] *= next(broken)
        return nats

    probe = LikelihoodProbe(score, plan)
    batch = training.batch([0, 1, 2])
    probe.after_update(**batch)
    probes = probe.after_update(**training.batch([0, 1]))
    assert {row["uid"] for row in rows_of(Tokens, probes)} == {int(batch["uid"][1])}


# mistakes


@pytest.mark.parametrize("error", [KeyError("input_id"), TypeError("got None"), AttributeError("no attribute 'x'")])
def test_a_mistake_in_the_score_is_the_caller_s(training: Training, error: Exception) -> None:
    probe = LikelihoodProbe(fails_from(0, training.score, error), CROSS)
    said = probe.after_update(**training.batch([0, 1, 2])).error
    assert isinstance(said, InputError)
    assert str(said).startswith(f"score raised {type(error).__name__}: {error}: expected a function of the batch")


@pytest.mark.parametrize("when", ["before_update", "after_update"])
def test_no_memory_to_hold_the_responses_raises_nothing(
    training: Training, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def no_memory(self: Held, rows: Tensor) -> Held:
        raise RuntimeError("CUDA out of memory")

    probe, batch = LikelihoodProbe(training.score), training.batch([0, 1])
    with monkeypatch.context() as patch:
        if when == "before_update":
            patch.setattr(Held, "pick", no_memory)
        probe.before_update(**batch)
        patch.setattr(Held, "pick", no_memory)
        probes = probe.after_update(**batch)
    assert isinstance(probes.error, ScoreError)
    assert "CUDA out of memory" in str(probes.error)
    assert probe.after_update(**batch).error is None


def test_a_wrong_shape_is_said_before_a_failure_of_the_score(training: Training) -> None:
    probe = LikelihoodProbe(fails_from(0, training.score, RuntimeError("out of memory")))
    right = training.batch([0, 1])
    probe.before_update(**right)
    assert isinstance(probe.after_update(**{**right, "uid": torch.ones(3)}).error, InputError)


def fails_from(call: int, score: Callable[[Any], Tensor], error: Exception) -> Callable[[Any], Tensor]:
    calls = iter(range(1000))

    def failing(batch: Any) -> Tensor:
        if next(calls) >= call:
            raise error
        return score(batch)

    return failing


@pytest.mark.parametrize("first_failing_call", [0, 3])
def test_a_score_that_raises_gives_no_rows_and_the_reason(training: Training, first_failing_call: int) -> None:
    probe = LikelihoodProbe(fails_from(first_failing_call, training.score, RuntimeError("out of memory")), CROSS)
    measured = [probe.after_update(**training.batch([0, 1, 2])) for _ in range(6)]
    assert [len(probes) for probes in measured[-3:]] == [0, 0, 0]
    assert isinstance(measured[-1].error, ScoreError)
    assert "score failed in a probe (RuntimeError: out of memory)" in str(measured[-1].error)


def test_after_a_failure_it_measures_again(training: Training) -> None:
    healthy = [True, True, False, True, True]
    steps = iter(healthy)

    def score(batch: Any) -> Tensor:
        if not now:
            raise RuntimeError("out of memory")
        return training.score(batch)

    probe = LikelihoodProbe(score, CROSS)
    rows = []
    for now in steps:  # noqa: B007  # read by score
        rows.append(len(of_kind(probe.after_update(**training.batch([0, 1])), "cross_update").get("uid", [])))
    assert rows == [0, 2, 0, 0, 2]


def test_one_failure_costs_its_own_rows_alone(training: Training) -> None:
    score, seen = counted(training.score)
    probe = LikelihoodProbe(
        lambda batch: fail_at(len(seen), score, batch), Plan(post_update_every=1, lags=(1, 2), lagged_every=1)
    )
    for _ in range(3):
        batch = training.batch([0, 1, 2, 5])
        probe.before_update(**batch)
        failing.clear()
        failing.add(len(seen))  # post_update's second score of the third step
        probes = probe.after_update(**batch)
    assert isinstance(probes.error, ScoreError)
    assert set(probes.kind.tolist()) == {"cross_update", "lagged"}


failing: set[int] = set()


def fail_at(call: int, score: Callable[[Any], Tensor], batch: Any) -> Tensor:
    if call in failing:
        failing.clear()
        raise RuntimeError("out of memory")
    return score(batch)


@pytest.mark.parametrize("wrong", [lambda nats: nats[:, 1:], lambda nats: nats[0], lambda nats: nats.sum(-1)])
def test_a_score_of_another_shape_names_both_shapes(training: Training, wrong: Callable[[Tensor], Tensor]) -> None:
    probe = LikelihoodProbe(lambda batch: wrong(training.score(batch)))
    error = probe.after_update(**training.batch([0, 1, 2])).error
    shape = tuple(wrong(torch.zeros(3, TOKENS)).shape)
    assert isinstance(error, InputError)
    assert f"score returned shape {shape}, expected (3, 6)" in str(error)


def test_a_score_that_returns_no_tensor_is_named(training: Training) -> None:
    probe = LikelihoodProbe(lambda batch: [0.0])  # type: ignore[arg-type,return-value]
    assert "score returned a list, expected (3, 6)" in str(probe.after_update(**training.batch([0, 1, 2])).error)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda nats: None, "score returned a NoneType, expected (3, 6): one log-prob for each position"),
        (lambda nats: (nats, nats, nats), "score returned a tuple, expected (3, 6)"),
        (lambda nats: (nats, nats[0]), "score returned shape (6,), expected (3, 6)"),
        (lambda nats: nats[..., None].expand(3, 6, 7), "(from logits: lldwatch.logits.log_probs_and_entropy)"),
    ],
)
def test_what_a_score_returns_wrongly_is_the_caller_s_mistake(
    training: Training, wrong: Callable[[Tensor], Any], words: str
) -> None:
    probe = LikelihoodProbe(lambda batch: wrong(training.score(batch)))
    error = probe.after_update(**training.batch([0, 1, 2])).error
    assert isinstance(error, InputError)
    assert words in str(error)


def test_a_batch_that_is_no_dict_is_named(training: Training) -> None:
    arguments = training.batch([0])
    arguments["batch"] = arguments["batch"]["tokens"]
    said = str(LikelihoodProbe(training.score).after_update(**arguments).error)
    assert said.startswith("batch is a Tensor, expected a dict of tensors")


@pytest.mark.parametrize("wrong", [["a"] * SIZE, None, "text", torch.tensor(3.0), 1.5])
def test_what_is_no_tensor_in_the_batch_is_named(training: Training, wrong: Any) -> None:
    arguments = training.batch([0])
    arguments["batch"] = {**arguments["batch"], "meta": wrong}
    said = str(LikelihoodProbe(training.score).after_update(**arguments).error)
    assert said.startswith("meta is a ")
    assert "give what score needs" in said


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("response_mask", torch.ones(SIZE), r"response_mask has shape \(10,\), expected \(batch, tokens\)"),
        ("correct", torch.ones(SIZE + 1), r"correct has shape \(11,\), expected \(10,\)"),
        ("correct", torch.ones(SIZE, TOKENS), r"correct has shape \(10, 6\), expected \(10,\)"),
        ("uid", torch.ones(3), r"uid has shape \(3,\), expected \(10,\)"),
        ("group", torch.ones(SIZE, 1), r"group has shape \(10, 1\), expected \(10,\)"),
        ("advantages", torch.ones(SIZE, 1), r"advantages has shape \(10, 1\), expected \(10,\) or \(10, 6\)"),
        ("answer_mask", torch.ones(SIZE), r"answer_mask has shape \(10,\), expected \(10, 6\)"),
        ("tokens", torch.ones(SIZE, 2), r"tokens has shape \(10, 2\), expected \(10, 6\)"),
        ("batch", {"tokens": torch.zeros(4, TOKENS, dtype=torch.long)}, "tokens has 4 rows, response_mask has 10"),
    ],
)
@pytest.mark.parametrize("when", ["before_update", "after_update"])
def test_a_shape_mistake_names_the_argument(training: Training, name: str, wrong: Any, words: str, when: str) -> None:
    probe, right = LikelihoodProbe(training.score), training.batch([0])
    wrong_call = {**right, name: wrong}
    probe.before_update(**(wrong_call if when == "before_update" else right))
    error = probe.after_update(**(right if when == "before_update" else wrong_call)).error
    assert isinstance(error, InputError)
    assert re.search(words, str(error))
    assert probe.after_update(**right).error is None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"preset": "cheap"}, "preset='cheap', expected economy, standard, full"),
        ({"micro_batch": 0}, "micro_batch=0"),
        ({"micro_batch": 2.5}, "micro_batch=2.5"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        LikelihoodProbe(lambda batch: batch["tokens"], **wrong)
