"""The search task: questions, a knowledge base, tool answers, rewards and demonstrations.

Why it exists: the death spiral needs a policy that calls a tool, reads feedback it did not write, and is paid for the
last word only. This is the smallest task which has all three. A prompt brings its own random knowledge base, so nothing
can be learned by heart: the answer has to be searched for and read. Rejected: natural language (needs a larger policy
and hides the mechanism) and one fixed knowledge base (is memorised, and the tool is then ignored).

A full episode, one token a word::

    <q> e3 r1 r4 </q> <think> w0 w1 r1 </think> <search> e3 r1 </search> <information> e3 r5 e9 r1 e7 </information>
    <think> w2 w3 r1 e7 </think> <search> e7 r4 </search> <information> e7 r4 e2 r0 e5 </information>
    <think> w2 w3 r4 e2 </think> <answer> e2 </answer>

A thought after reading names the relation before the value: without that only some seeds learn to read in time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ENTITIES = 24
RELATIONS = 6
WORDS = 18
JUNK = 12
_MARKS = (
    *("<pad>", "<q>", "</q>", "<think>", "</think>", "<search>", "</search>"),
    *("<information>", "</information>", "<answer>", "</answer>", "none"),
)
PAD, Q, Q_END, THINK, THINK_END, SEARCH, SEARCH_END, INFO, INFO_END, ANSWER, ANSWER_END, NONE = range(len(_MARKS))
FIRST_ENTITY = len(_MARKS)
FIRST_RELATION = FIRST_ENTITY + ENTITIES
FIRST_WORD = FIRST_RELATION + RELATIONS
FIRST_JUNK = FIRST_WORD + WORDS

VOCABULARY: tuple[str, ...] = (
    *_MARKS,
    *(f"e{i}" for i in range(ENTITIES)),
    *(f"r{i}" for i in range(RELATIONS)),
    *(f"w{i}" for i in range(WORDS)),
    *(f"x{i}" for i in range(JUNK)),
)
"""The 72 tokens; a token id is an index into it. ``x*`` is the junk which only a broken tool answer contains."""

VERSION = 1
"""Raise it when the task or the demonstrations change: it is part of the key of the pre-training cache."""

PROMPT_LENGTH = 5
MAX_TOKENS = 66
"""The longest sequence, prompt and tool feedback included."""

JUNK_PROBABILITY = 0.15
FAULTS = ("guess", "misread", "detour", "repeat")
"""How a demonstration is faulty: answers too early, reads the distractor, searches the wrong relation first, or
the same one twice. The first two end wrong, the last two only waste a search."""

_KINDS = ".qqTtSsIiAan" + "e" * ENTITIES + "r" * RELATIONS + "w" * WORDS + "x" * JUNK
_VALID = re.compile(r"(?:T[wer]*tSersI[^i]*i)*(?:T[wer]*t)?Aea")


@dataclass(frozen=True)
class Prompt:
    """A question and the world it is asked in.

    Attributes:
        entity: token id of the entity the question starts from.
        relations: token ids of the relations to follow, one or two.
        facts: (ENTITIES, RELATIONS) int64; ``facts[e, r]`` is the token id of what relation r of entity e leads to.
    """

    entity: int
    relations: tuple[int, ...]
    facts: NDArray[np.int64]

    @property
    def tokens(self) -> list[int]:
        """The question as PROMPT_LENGTH token ids."""
        second = self.relations[1] if len(self.relations) == 2 else NONE
        return [Q, self.entity, self.relations[0], second, Q_END]

    @property
    def answer(self) -> int:
        """Token id of the right answer."""
        entity = self.entity
        for relation in self.relations:
            entity = follow(self, entity, relation)
        return entity


def follow(prompt: Prompt, entity: int, relation: int) -> int:
    """Token id of the entity that `relation` of `entity` leads to in this prompt's knowledge base."""
    return int(prompt.facts[entity - FIRST_ENTITY, relation - FIRST_RELATION])


def decode(tokens: Sequence[int]) -> str:
    """Token ids as readable text."""
    return " ".join(VOCABULARY[token] for token in tokens)


def is_entity(token: int) -> bool:
    """Whether the token names an entity."""
    return FIRST_ENTITY <= token < FIRST_RELATION


def is_relation(token: int) -> bool:
    """Whether the token names a relation."""
    return FIRST_RELATION <= token < FIRST_WORD


def draw_prompt(rng: np.random.Generator) -> Prompt:
    """Draws a question with a fresh knowledge base; half of the questions need two hops."""
    facts = rng.integers(FIRST_ENTITY, FIRST_RELATION, size=(ENTITIES, RELATIONS))
    hops = 1 + int(rng.random() < 0.5)
    relations = tuple(int(r) for r in rng.integers(FIRST_RELATION, FIRST_WORD, size=hops))
    return Prompt(entity=int(rng.integers(FIRST_ENTITY, FIRST_RELATION)), relations=relations, facts=facts)


def document(prompt: Prompt, entity: int, relation: int, rng: np.random.Generator) -> list[int]:
    """The document about an entity: the fact asked for and one distractor (another relation), in random order."""
    other = int(rng.integers(FIRST_RELATION, FIRST_WORD - 1))
    other += other >= relation
    pair = [relation, other] if rng.random() < 0.5 else [other, relation]
    facts = [token for name in pair for token in (name, follow(prompt, entity, name))]
    return [INFO, entity, *facts, INFO_END]


def tool_answer(
    prompt: Prompt, written: Sequence[int], rng: np.random.Generator, junk_probability: float = JUNK_PROBABILITY
) -> list[int]:
    """What the search tool answers to a sequence that has just been closed with ``</search>``.

    Args:
        prompt: the question, which carries the knowledge base.
        written: token ids so far, ending in ``</search>``.
        rng: draws the distractor and the junk.
        junk_probability: how often the document is replaced with tokens never seen in pre-training.

    Returns:
        Token ids of ``<information> ... </information>``; ``none`` inside if the query is not ``entity relation``.
    """
    if len(written) < 4 or written[-4] != SEARCH or not (is_entity(written[-3]) and is_relation(written[-2])):
        return [INFO, NONE, INFO_END]
    found = document(prompt, written[-3], written[-2], rng)
    if rng.random() < junk_probability:
        junk = rng.integers(FIRST_JUNK, FIRST_JUNK + JUNK, size=len(found) - 2)
        return [INFO, *(int(token) for token in junk), INFO_END]
    return found


def exact_match(prompt: Prompt, response: Sequence[int]) -> float:
    """The reward: 1.0 if the response (token ids after the prompt) ends in the right ``<answer> x </answer>``."""
    return float(list(response[-3:]) == [ANSWER, prompt.answer, ANSWER_END])


def is_valid_format(response: Sequence[int]) -> bool:
    """Whether the response (token ids after the prompt) is (think, search, information)*, think, answer."""
    return _VALID.fullmatch("".join(_KINDS[token] for token in response)) is not None


def _think(start: int, said: Sequence[int], rng: np.random.Generator, canonical: float) -> list[int]:
    words = [start, start + 1] if rng.random() < canonical else rng.integers(WORDS, size=2).tolist()
    return [THINK, *(FIRST_WORD + w for w in words), *said, THINK_END]


def _searches(relation: int, fault: str, rng: np.random.Generator) -> list[int]:
    if fault == "detour":
        other = (relation - FIRST_RELATION + 1 + int(rng.integers(RELATIONS - 1))) % RELATIONS
        return [FIRST_RELATION + other, relation]
    return [relation, relation] if fault == "repeat" else [relation]


def demonstration(
    prompt: Prompt, rng: np.random.Generator, faulty: float = 0.4, canonical: float = 0.85
) -> tuple[list[int], list[bool]]:
    """Writes one demonstration of the task.

    Args:
        prompt: the question.
        rng: draws the fault, the wording and the documents (never junk).
        faulty: probability that it is faulty in one of the FAULTS.
        canonical: probability that a thought is worded canonically.

    Returns:
        Token ids of prompt and response, and for each whether the policy wrote it (what is trained on).
    """
    fault = FAULTS[int(rng.integers(len(FAULTS)))] if rng.random() < faulty else ""
    fault_hop = int(rng.integers(len(prompt.relations)))
    tokens, wrote = prompt.tokens, [False] * PROMPT_LENGTH
    entity = prompt.entity
    thought = _think(0, prompt.relations[:1], rng, canonical)

    for hop, relation in enumerate(prompt.relations):
        here = fault if hop == fault_hop else ""
        if here == "guess":
            if hop == 0:
                entity = int(rng.integers(FIRST_ENTITY, FIRST_RELATION))
            break
        source = entity
        for asked in _searches(relation, here, rng):
            found = document(prompt, source, asked, rng)
            read = found[2:4] if (found[2] == asked) != (here == "misread") else found[4:6]
            entity = read[1]
            written = [*thought, SEARCH, source, asked, SEARCH_END]
            tokens += [*written, *found]
            wrote += [True] * len(written) + [False] * len(found)
            thought = _think(2, read, rng, canonical)
    written = [*thought, ANSWER, entity, ANSWER_END]
    return tokens + written, wrote + [True] * len(written)


def retrieval_practice(prompt: Prompt, rng: np.random.Generator) -> tuple[list[int], list[bool]]:
    """Random searches, each followed by what was found: practises reading and nothing else.

    Returns:
        Token ids (question included), and for each whether it is the value just read (what is trained on).
    """
    tokens, trained = prompt.tokens, [False] * PROMPT_LENGTH
    while len(tokens) + 17 <= MAX_TOKENS:
        entity = int(rng.integers(FIRST_ENTITY, FIRST_RELATION))
        relation = int(rng.integers(FIRST_RELATION, FIRST_WORD))
        tokens += [SEARCH, entity, relation, SEARCH_END, *document(prompt, entity, relation, rng)]
        tokens += [THINK, FIRST_WORD + 2, FIRST_WORD + 3, relation, follow(prompt, entity, relation), THINK_END]
        trained += [False] * 14 + [True, True, False]
    return tokens, trained
