"""Case notes: what a desk writes down after an answer. They teach the demo's model to read, as a large corpus would.

A note states what the case is, what the policy says about it, and what was answered: facts, never whether the answer
was a good one. The model that the demo starts from has seen notes; preferences it has not.
"""

from __future__ import annotations

from random import Random

from prefloop.demo.phrases import ACTIONS
from prefloop.demo.reading import read_answer
from prefloop.demo.scenario import demonstration, prompts, read_facts
from prefloop.types import Demonstration, Message, Prompt

REQUEST = "Note:"
_COUNTS = ("none", "one", "two")


def note(prompt: Prompt, answer: str) -> str:
    """The note on one answer to a prompt of the scenario."""
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


def _match(said: frozenset[str], true: str) -> str:
    """How what was said fits the case."""
    if not said:
        return "none"
    if said == {true}:
        return "same"
    return "both" if true in said else "other"


def notes(n: int, seed: int) -> list[Demonstration]:
    """n chats: a customer, an imperfect answer, then the request for a note; the note is what is to be learnt."""
    rng = Random(f"demo notes {seed}")
    made = []
    for prompt in prompts(n, seed):
        answer = demonstration(prompt, rng)
        chat = (Message("user", prompt.text), Message("assistant", answer), Message("user", REQUEST))
        made.append(Demonstration(Prompt(chat), note(prompt, answer)))
    return made
