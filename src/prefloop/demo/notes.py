"""Writes notes and codes that a desk files after an answer. They teach the demo's model to read, as a corpus would.

A note states what the case is, what the policy says about it, and what was answered. Codes say the same of the answer
in letters, right after it ends and in any order, so that the model has to know all of it by then. They state facts
only, never whether an answer was a good one: the model that the demo starts from has read notes and codes, but no
preferences.
"""

from __future__ import annotations

from random import Random
from typing import Any

from prefloop.demo.phrases import ACTIONS
from prefloop.demo.reading import read_answer
from prefloop.demo.scenario import demonstration, prompts, read_facts
from prefloop.types import Demonstration, Message, Prompt

REQUEST = "Note:"
_COUNTS = ("none", "one", "two")
_CODES: dict[str, Any] = {  # These letters say how an answer stands to its case.
    "policy": {"same": "A", "other": "B", "both": "C", "none": "D"},
    "problem": {"same": "E", "other": "F", "both": "G", "none": "H"},
    "product": {"same": "I", "other": "J", "both": "K", "none": "L"},
    "promise": "MN",
    "thanks": "OPQR",
    "words": "STUVWXYZ",  # Each letter stands for five words.
}


def note(prompt: Prompt, answer: str) -> str:
    """Return the note on one answer to a prompt of the scenario."""
    facts, said = read_facts(prompt.text), read_answer(answer)
    side = "in time" if facts.in_time else "too late"
    case = f"{facts.kind} {facts.product}, {facts.n} of {facts.limit}, {side}, {ACTIONS[facts.step].noun}"
    offered = " and ".join(action.noun for key, action in ACTIONS.items() if key in said.offered) or "none"
    reply = (
        f"problem {_match(said.problems, facts.kind)}, product {_match(said.products, facts.product)}, "
        f"step {offered}, policy {_match(said.offered, facts.step)}, promise {'yes' if said.forbidden else 'no'}, "
        f"thanks {_COUNTS[said.courtesies] if said.courtesies < len(_COUNTS) else 'many'}, "
        f"{min(50, 5 * round(said.words / 5))} words"
    )
    return f"{case}. {reply}."


def codes(prompt: Prompt, answer: str, rng: Random, policy_first: float = 0.0) -> str:
    """Return one letter for each fact, in an order that `rng` draws.

    The policy's letter, the hardest to know, comes first in the share `policy_first`.
    """
    facts, said = read_facts(prompt.text), read_answer(answer)
    letters = [
        _CODES["policy"][_match(said.offered, facts.step)],
        _CODES["problem"][_match(said.problems, facts.kind)],
        _CODES["product"][_match(said.products, facts.product)],
        _CODES["promise"][said.forbidden],
        _CODES["thanks"][min(3, said.courtesies)],
        _CODES["words"][min(7, said.words // 5)],
    ]
    if policy_first and rng.random() < policy_first:
        rest = letters[1:]
        rng.shuffle(rest)
        return " ".join([letters[0], *rest])
    rng.shuffle(letters)
    return " ".join(letters)


def _match(said: frozenset[str], true: str) -> str:
    """Say in letters how an answer fits its case."""
    if not said:
        return "none"
    if said == {true}:
        return "same"
    return "both" if true in said else "other"


def notes(n: int, seed: int) -> list[Demonstration]:
    """Return n chats: a customer, an imperfect answer, then the request for a note, which is what is to be learnt."""
    rng = Random(f"demo notes {seed}")
    answered = ((prompt, demonstration(prompt, rng)) for prompt in prompts(n, seed))
    return [Demonstration(_chat(p, a, Message("user", REQUEST)), note(p, a)) for p, a in answered]


def filed(n: int, seed: int, policy_first: float = 0.0) -> list[Demonstration]:
    """Return n chats: a customer, an imperfect answer, and the codes that follow it, which are what is to be learnt."""
    rng = Random(f"demo codes {seed}")
    answered = ((prompt, demonstration(prompt, rng)) for prompt in prompts(n, seed))
    return [Demonstration(_chat(p, a), codes(p, a, rng, policy_first)) for p, a in answered]


def _chat(prompt: Prompt, answer: str, *more: Message) -> Prompt:
    return Prompt((Message("user", prompt.text), Message("assistant", answer), *more))
