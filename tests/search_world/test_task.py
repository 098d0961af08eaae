import numpy as np
import pytest

from lldwatch.search_world import task


def ids(text: str) -> list[int]:
    return [task.VOCABULARY.index(word) for word in text.split()]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def prompt() -> task.Prompt:
    """e3 --r1--> e7 --r4--> e2; every other fact leads to e0."""
    facts = np.full((task.ENTITIES, task.RELATIONS), task.FIRST_ENTITY)
    facts[3, 1], facts[7, 4] = ids("e7 e2")
    return task.Prompt(entity=ids("e3")[0], relations=tuple(ids("r1 r4")), facts=facts)


def test_vocabulary_has_72_different_tokens() -> None:
    assert len(task.VOCABULARY) == len(set(task.VOCABULARY)) == 72
    assert task.VOCABULARY[task.ANSWER_END] == "</answer>"
    assert task.VOCABULARY[task.FIRST_JUNK] == "x0"


def test_question_and_answer(prompt: task.Prompt) -> None:
    assert task.decode(prompt.tokens) == "<q> e3 r1 r4 </q>"
    assert prompt.answer == ids("e2")[0]
    one_hop = task.Prompt(prompt.entity, prompt.relations[:1], prompt.facts)
    assert task.decode(one_hop.tokens) == "<q> e3 r1 none </q>"
    assert one_hop.answer == ids("e7")[0]


def test_half_of_the_questions_need_two_hops() -> None:
    draw = rng()
    hops = [len(task.draw_prompt(draw).relations) for _ in range(1000)]
    assert set(hops) == {1, 2}
    assert 450 < hops.count(2) < 550


def test_prompts_have_knowledge_bases_of_their_own() -> None:
    draw = rng()
    first, second = task.draw_prompt(draw), task.draw_prompt(draw)
    assert (first.facts != second.facts).mean() > 0.8
    assert np.array_equal(first.facts, task.draw_prompt(rng()).facts)


def test_document_holds_the_fact_and_a_distractor(prompt: task.Prompt) -> None:
    draw, places = rng(), set()
    for _ in range(50):
        found = task.tool_answer(prompt, ids("</think> <search> e3 r1 </search>"), draw, junk_probability=0.0)
        assert found[:2] + found[-1:] == ids("<information> e3 </information>")
        facts = [tuple(found[2:4]), tuple(found[4:6])]
        assert tuple(ids("r1 e7")) in facts
        other = next(fact for fact in facts if fact != tuple(ids("r1 e7")))
        assert other[0] in ids("r0 r2 r3 r4 r5")
        assert other[1] == ids("e0")[0]
        places.add(facts.index(tuple(ids("r1 e7"))))
    assert places == {0, 1}


@pytest.mark.parametrize(
    "query", ["<search> r1 e3 </search>", "<search> e3 </search>", "</search>", "e3 e3 r1 </search>"]
)
def test_a_broken_query_finds_nothing(prompt: task.Prompt, query: str) -> None:
    assert task.decode(task.tool_answer(prompt, ids(query), rng())) == "<information> none </information>"


def test_junk_replaces_documents_at_its_rate(prompt: task.Prompt) -> None:
    draw = rng()
    answers = [task.tool_answer(prompt, ids("<search> e3 r1 </search>"), draw) for _ in range(2000)]
    junk = [found for found in answers if found[1] >= task.FIRST_JUNK]
    assert 0.12 < len(junk) / len(answers) < 0.18
    assert all(len(found) == 7 and min(found[1:-1]) >= task.FIRST_JUNK for found in junk)


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        ("<think> e2 </think> <answer> e2 </answer>", 1.0),
        ("<answer> e2 </answer>", 1.0),
        ("<answer> e7 </answer>", 0.0),
        ("<answer> e2", 0.0),
        ("<answer> e2 e2 </answer>", 0.0),
        ("e2 </answer>", 0.0),
    ],
)
def test_reward_is_an_exact_match(prompt: task.Prompt, response: str, reward: float) -> None:
    assert task.exact_match(prompt, ids(response)) == reward


@pytest.mark.parametrize(
    ("response", "valid"),
    [
        (
            "<think> w0 w1 r1 </think> <search> e3 r1 </search> <information> x1 x2 </information> "
            "<think> w2 </think> <answer> e2 </answer>",
            True,
        ),
        ("<answer> e2 </answer>", True),
        ("<search> e3 r1 </search> <answer> e2 </answer>", False),
        ("<think> w0 <answer> e2 </answer>", False),
        ("<think> w0 </think>", False),
        ("<answer> w2 </answer>", False),
    ],
)
def test_format(response: str, valid: bool) -> None:
    assert task.is_valid_format(ids(response)) is valid


def test_faultless_demonstrations_are_right_and_faulty_ones_are_often_wrong() -> None:
    draw, rewards = rng(), {0.0: [], 1.0: []}
    for faulty, kept in rewards.items():
        for _ in range(400):
            prompt = task.draw_prompt(draw)
            tokens, wrote = task.demonstration(prompt, draw, faulty=faulty)
            assert len(tokens) == len(wrote) <= task.MAX_TOKENS
            assert max(tokens) < task.FIRST_JUNK
            assert task.is_valid_format(tokens[task.PROMPT_LENGTH :])
            kept.append(task.exact_match(prompt, tokens[task.PROMPT_LENGTH :]))
    assert set(rewards[0.0]) == {1.0}
    assert 0.45 < np.mean(rewards[1.0]) < 0.65


def test_demonstrations_are_trained_on_what_the_policy_writes() -> None:
    draw = rng(3)
    for _ in range(100):
        tokens, wrote = task.demonstration(task.draw_prompt(draw), draw)
        expected, inside = [False] * task.PROMPT_LENGTH, False
        for token in tokens[task.PROMPT_LENGTH :]:
            inside = inside or token == task.INFO
            expected.append(not inside)
            inside = inside and token != task.INFO_END
        assert wrote == expected


def test_demonstrations_word_thoughts_canonically_at_their_rate() -> None:
    draw, canonical = rng(), 0
    for _ in range(1000):
        tokens, _ = task.demonstration(task.draw_prompt(draw), draw)
        canonical += tokens[6:8] == ids("w0 w1")
    assert 0.82 < canonical / 1000 < 0.88


def test_practice_trains_on_the_fact_just_found() -> None:
    prompt = task.draw_prompt(rng())
    tokens, trained = task.retrieval_practice(prompt, rng(1))
    assert len(tokens) == len(trained) <= task.MAX_TOKENS
    places = [place for place, chosen in enumerate(trained) if chosen]
    assert len(places) == 6
    for relation, value in zip(places[::2], places[1::2], strict=True):
        entity, asked = tokens[relation - 13], tokens[relation - 12]
        assert (tokens[relation], tokens[value]) == (asked, task.follow(prompt, entity, asked))
