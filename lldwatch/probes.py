"""Re-score responses under the policy as it is now: the only way to see what an update did to text it was not shown.

The in-batch change of positive responses has the wrong sign all the way into a collapse, since an update pushes up what
it trains on. The headline is therefore the *cross-update* change: the correct responses of the previous step, scored
before and after this step's updates. Beside it stand the change of the batch itself (`post_update`), of responses some
steps old (`lagged`) and of anchors that stay (`fixed`). Scoring the same responses twice without an update in between
(A/A) gives the noise floor below which a change means nothing. `schema.KINDS` says what each kind compares,
`probe_plan.PRESETS` how often.

Reference: likelihood change of correct responses, arXiv:2512.04220, Sec. 3 (definition of LLD).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lldwatch.columns import RowTable, stack_columns
from lldwatch.errors import InputError, ScoreError
from lldwatch.probe_plan import Plan, plan_of
from lldwatch.rescore import Batch, Held, Score, Scored, action_rows, probe_rows, score_all, token_rows
from lldwatch.samples import evenly, held_of, pairs
from lldwatch.schema import Probes

__all__ = ["LikelihoodProbe"]

ANCHOR_STEPS = 4
"""Fixed anchors are taken from so many steps, the first ones that have correct responses."""


class LikelihoodProbe:
    """Measures how each step changes the likelihood of responses, and the A/A noise floor.

    ```python
    probe = LikelihoodProbe(lambda batch: policy(batch)[0], "standard")
    ...
    about = {"response_mask": mask, "correct": rewards > 0, "advantages": advantages, "uid": uid, "group": group}
    probe.before_update(batch, **about)     # only for post_update
    ...                                     # the step's optimizer updates
    monitor.probe(probe.after_update(batch, **about))
    ```

    Args:
        score: batch -> log-probs (responses, tokens) in nats of the batch's own tokens under the policy as it is now,
            or a pair of them and the entropies, of the same shape. It must not change the model. It is called without
            gradient, and the random streams are put back after it. If it is the model itself, dropout is off meanwhile;
            if it is a function, that is the function's business.
        preset: `economy`, `standard`, `full`, or a `Plan`; what it costs is said at the first step.
        micro_batch: score at most so many responses at a time; None: all that are due at once (the logits of 64 long
            ones with a large vocabulary take a hundred gigabytes).
        text: token id -> the token in words, for the table `tokens` (`lambda token: tokenizer.decode([token])`).
        every_rank: make the same number of forward passes on every rank, also where there is nothing to score, as
            sharded models want it; None: if torch.distributed is running. Each rank then makes as many as the plan has
            at most, so give a plan that fits the batch of a rank: the rows of all ranks are put together.

    Raises:
        InputError: there is no such preset, or `micro_batch` is not at least 1.
    """

    def __init__(
        self,
        score: Score,
        preset: str | Plan = "standard",
        *,
        micro_batch: int | None = 8,
        text: Callable[[int], str] | None = None,
        every_rank: bool | None = None,
    ) -> None:
        if micro_batch is not None and (not isinstance(micro_batch, int) or micro_batch < 1):
            raise InputError(f"micro_batch={micro_batch!r}, expected a whole number from 1, or None")
        self.preset, self.plan = plan_of(preset)
        self._score, self._micro_batch, self._text = score, micro_batch, text
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self._every_rank = distributed if every_rank is None else every_rank
        self._words: dict[int, str] = {}
        self._calls = 0
        self._seconds = 0.0
        self._before_called = self._priced = self._noise_known = False
        self._own_batch: Held | None = None
        self._previous: Held | None = None
        self._past: dict[int, Held] = {}
        self._anchors: list[Held] = []
        self._own_anchors = False
        self._stand_in: Held | None = None
        self._error: Exception | None = None

    def set_anchors(
        self, batch: Batch, *, response_mask: Tensor, uid: Tensor | None = None, group: Tensor | None = None
    ) -> None:
        """Take fixed anchors of your own, correct responses, instead of those of the first steps. Before the training.

        Args:
            batch: as for `after_update`.
            response_mask: (responses, tokens), 1 on policy tokens. Of more than `fixed` responses so many are chosen
                evenly. On many ranks give each a part of them.
            uid: (responses,) int, identity of each response.
            group: (responses,) int, identity of each prompt.

        Raises:
            InputError: a tensor has another shape than it should, or the score returned one; or the plan scores none.
            ScoreError: the score raised.
        """
        if not self.plan.fixed:
            raise InputError(f"set_anchors with fixed=0 (preset {self.preset}): give a Plan that scores them")
        correct = torch.ones(len(response_mask), dtype=torch.bool)
        anchors = held_of(batch, response_mask, correct, step=self._calls, uid=uid, group=group)
        rows = evenly(torch.arange(len(anchors), device=response_mask.device), self.plan.fixed)
        self._anchors, self._own_anchors = [self._taken(anchors.pick(rows), self.plan.fixed)], True
        error, self._error = self._error, None
        if error is not None:
            raise error

    def before_update(self, batch: Batch, **about: Any) -> None:
        """Call once a step, before its first optimizer update; without it `post_update` is not measured.

        Args:
            batch: as for `after_update`.
            about: as for `after_update`. Nothing is raised here: what went wrong is said by `after_update`.
        """
        began = time.perf_counter()
        plan, self._own_batch, self._before_called = self.plan, None, True
        if plan.post_update and self._calls % plan.post_update_every == 0:
            try:
                everything = self._whole(self._calls + 1, batch, about)
                rows = pairs(everything, plan.post_update) if everything is not None else None
                self._own_batch = self._take(everything, rows, plan.post_update, self._calls + 1)
            except Exception as mistake:  # nothing of ours ends a training
                self._keep(mistake)
        self._seconds += time.perf_counter() - began

    def after_update(
        self,
        batch: Batch,
        *,
        response_mask: Tensor,
        correct: Tensor,
        advantages: Tensor | None = None,
        uid: Tensor | None = None,
        group: Tensor | None = None,
        answer_mask: Tensor | None = None,
        tokens: Tensor | None = None,
    ) -> Probes:
        """Call once a step, after its last optimizer update.

        Args:
            batch: what `score` needs, as tensors whose first dimension is the response.
            response_mask: (batch, tokens), 1 on policy tokens.
            correct: (batch,) bool.
            advantages: (batch,) or (batch, tokens).
            uid: (batch,) int, identity of each response.
            group: (batch,) int, identity of each prompt.
            answer_mask: (batch, tokens), 1 on the tokens of the final answer.
            tokens: (batch, tokens) token ids, for the table `tokens`.

        Returns:
            The rows for `Monitor.probe`, with those of `actions` and `tokens` as companions. Nothing is raised here:
            what went wrong stands in `error`; what could be measured all the same is there.
        """
        began = time.perf_counter()
        self._calls += 1
        rows: list[RowTable] = []
        note = None
        about = {
            **{"response_mask": response_mask, "correct": correct, "advantages": advantages},
            **{"uid": uid, "group": group, "answer_mask": answer_mask, "tokens": tokens},
        }
        try:
            everything = self._whole(self._calls, batch, about)
            self._measure(everything, rows)
            note = None if self._priced or everything is None else self._price(len(everything))
        except Exception as mistake:  # the same
            self.reset()  # what was taken earlier compares with a step that is missing
            self._keep(mistake)
        error, self._error = self._error, None
        seconds, self._seconds = self._seconds + time.perf_counter() - began, 0.0
        main, others = _main(rows)
        return main.having(companions=others, error=error, seconds=seconds, note=note)

    def reset(self, back: int = 0) -> None:
        """Forget what was taken from the last steps: the training goes back to an earlier checkpoint.

        The next steps would be compared with a policy that was given up. Fixed anchors from before stay.

        Args:
            back: how many steps the training goes back.
        """
        self._calls = max(self._calls - back, 0)
        self._previous = self._own_batch = None
        self._past.clear()
        self._anchors = [anchors for anchors in self._anchors if anchors.step <= self._calls]

    def state_dict(self) -> dict[str, Any]:
        """The fixed anchors and how many steps there were, as tensors and numbers, to be kept with a checkpoint."""
        return {"calls": self._calls, "own": self._own_anchors, "anchors": [held.as_state() for held in self._anchors]}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        """Go on with the fixed anchors of a checkpoint; without it a resumed training takes new ones.

        Args:
            state: what `state_dict` gave.
            device: where the batches are.
        """
        self.reset()
        self._calls, self._own_anchors = state["calls"], state["own"]
        self._anchors = [Held.from_state(held, torch.device(device)) for held in state["anchors"]]

    def _whole(self, step: int, batch: Batch, about: dict[str, Any]) -> Held | None:
        """The whole batch; None if it cannot be used, or is empty."""
        try:
            everything = held_of(batch, step=step, **about)
        except Exception as mistake:  # the same
            self._keep(mistake)
            return None
        if not len(everything):
            return None
        if self._every_rank and self._stand_in is None:
            self._stand_in = everything.pick(torch.zeros(1, dtype=torch.long, device=everything.response_mask.device))
        return everything

    def _measure(self, everything: Held | None, rows: list[RowTable]) -> None:
        """Score what is due, then take what later steps will ask for."""
        for kind, held, at_most in self._due():
            after = self._attempt(held, at_most)
            if after is not None and held.before is not None:
                rows += self._rows(kind, held, after)
        plan, right = self.plan, None
        if everything is not None:
            right = evenly(torch.from_numpy(everything.correct).nonzero().flatten(), plan.cross_update)
        taken = self._take(everything, right, plan.cross_update, self._calls)
        self._previous, self._own_batch = taken, None
        if taken is None:
            return
        first = not (self._noise_known or self._every_rank)  # on many ranks only the schedule is the same for all
        if (self._calls - 1) % plan.noise_every == 0 or first:
            again = self._attempt(taken, plan.cross_update)
            if again is not None and taken.before is not None:
                rows.append(probe_rows("noise", taken, again, self._calls))
                self._noise_known = True
        self._keep_for_later(taken)

    def _due(self) -> list[tuple[str, Held, int]]:
        """Kind, responses, and how many of them there can be on a rank."""
        plan, now = self.plan, self._calls
        due = []
        if self._own_batch is not None and self._own_batch.step == now:
            due.append(("post_update", self._own_batch, plan.post_update))
        if self._previous is not None:
            due.append(("cross_update", self._previous, plan.cross_update))
        if now % plan.lagged_every == 0:
            due += [("lagged", self._past[now - lag], plan.lagged) for lag in plan.lags if now - lag in self._past]
        if now % plan.fixed_every == 0:
            share = plan.fixed if self._own_anchors else -(-plan.fixed // ANCHOR_STEPS)
            due += [("fixed", anchors, share) for anchors in self._anchors]
        return due

    def _rows(self, kind: str, held: Held, after: Scored) -> list[RowTable]:
        plan = self.plan
        rows: list[RowTable] = [probe_rows(kind, held, after, self._calls)]
        if kind in ("cross_update", "post_update"):
            rows.append(action_rows(kind, held, after))
        if kind == "cross_update" and plan.tokens and self._calls % plan.tokens_every == 0:
            rows.append(token_rows(kind, held, after, plan.tokens, self._text and self._in_words))
        return rows

    def _keep_for_later(self, held: Held) -> None:
        """As lagged responses and as fixed anchors; what was scored for the headline is not scored again."""
        plan, now = self.plan, self._calls
        if plan.lagged and now % plan.lagged_every == 0:
            self._past[now] = _short(held.pick(evenly(torch.arange(len(held)), plan.lagged)))
            self._past = {step: past for step, past in self._past.items() if now - step < max(plan.lags, default=0)}
        share = -(-plan.fixed // ANCHOR_STEPS)
        empty = [place for place, anchors in enumerate(self._anchors) if anchors.before is None]
        if self._own_anchors or not share or not (empty or len(self._anchors) < ANCHOR_STEPS):
            return
        anchors = _short(held.pick(evenly(torch.arange(len(held)), share)))
        if len(self._anchors) < ANCHOR_STEPS:
            self._anchors.append(anchors)
        elif anchors.before is not None:
            self._anchors[empty[0]] = anchors

    def _take(self, everything: Held | None, rows: Tensor | None, at_most: int, step: int) -> Held | None:
        """The rows, scored; None where nothing is to be scored.

        On many ranks the first response that this one ever had stands in for none: it is scored, so that the ranks keep
        in step, but has no `before` and so is never recorded.
        """
        if everything is not None and rows is not None and len(rows):
            return self._taken(everything.pick(rows.to(everything.response_mask.device)), at_most)
        if not at_most or self._stand_in is None:
            return None
        stand_in = replace(self._stand_in, step=step)
        self._attempt(stand_in, at_most)
        return stand_in

    def _taken(self, held: Held, at_most: int) -> Held:
        """With what it scores now; without if the score fails."""
        scored = self._attempt(held, at_most)
        return held if scored is None else held.scored(scored)

    def _attempt(self, held: Held, at_most: int) -> Scored | None:
        """Score; a failure is kept for later, and costs these rows only."""
        passes = -(-at_most // self._micro_batch) if self._micro_batch and self._every_rank else 0
        try:
            return score_all(self._score, held, self._micro_batch, passes)
        except InputError as error:
            self._keep(error)
        except _MISTAKES as error:
            what = f"score raised {type(error).__name__}: {error}"
            self._keep(InputError(f"{what}: expected a function of the batch that the probe is given"))
        except Exception as error:  # out of memory, most of all
            memory = ", score fewer at a time (micro_batch)" if "out of memory" in str(error).lower() else ""
            words = f"score failed in a probe ({type(error).__name__}: {error}): its rows are missing{memory}"
            self._keep(ScoreError(words))
        return None

    def _keep(self, error: Exception) -> None:
        """The first mistake of a step; one of the caller before a failure of the score, since it is said louder."""
        if self._error is None or (isinstance(error, InputError) and not isinstance(self._error, InputError)):
            words = f"probe failed ({type(error).__name__}: {error})"
            ours = isinstance(error, InputError | ScoreError)
            self._error = error if ours else (InputError if isinstance(error, _MISTAKES) else ScoreError)(words)

    def _price(self, batch: int) -> str:
        self._priced = True
        words = self.plan.in_words(self.preset, batch, at_most=bool(self._every_rank and self._micro_batch))
        if self.plan.post_update and not self._before_called:
            words += "; post_update is not measured: before_update was not called"
        return words

    def _in_words(self, token: int) -> str:
        if token not in self._words:
            assert self._text is not None
            try:
                self._words[token] = str(self._text(token))
            except Exception:  # a label of -100 at tool feedback, say: no word is worth the rows
                self._words[token] = f"<{token}>"
        return self._words[token]


_MISTAKES = (TypeError, KeyError, IndexError, AttributeError, NameError, ValueError)


def _short(held: Held) -> Held:
    """Without the token ids, which only the table `tokens` asks for."""
    return replace(held, tokens=None)


def _main(rows: list[RowTable]) -> tuple[Probes, tuple[RowTable, ...]]:
    """Probes of the same columns as one table; what has others beside it, where a column that it lacks is null."""
    probes = [table for table in rows if isinstance(table, Probes)]
    others = [table for table in rows if not isinstance(table, Probes)]

    def filled(table: Probes) -> list[str]:
        return [name for name, column in table.columns().items() if column is not None]

    same = [table for table in probes if filled(table) == filled(probes[0])]
    others += [table for table in probes if all(table is not one for one in same)]
    return Probes(**stack_columns(same)), tuple(others)
