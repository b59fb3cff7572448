"""Writes notes, codes and tables that a desk files. They teach the demo's model to read, as a corpus would.

A note states what the case is, what the policy says about it, and what was answered. Codes say the same of the answer
in letters, right after it ends and in any order, so that the model has to know all of it by then. A table is a list of
answers to one case, each with codes of its own, some for another number than the customer's: it shows the rule many
times in one text. They state facts only, never whether an answer was a good one: the model that the demo starts from
has read them, but no preferences.
"""

from __future__ import annotations

from random import Random
from typing import Any

from prefloop.demo import phrases
from prefloop.demo.phrases import ACTIONS, KINDS
from prefloop.demo.reading import read_answer
from prefloop.demo.scenario import COMPONENTS, Facts, compose, demonstration, prompts, read_facts, sentence
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
    "limit": {True: "a", False: "b"},  # The number is within the policy's limit, or not.
    "place": {
        (True, False): "c",
        (False, True): "d",
        (True, True): "e",
        (False, False): "f",
    },  # early, late step offered
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
    """Return one letter for each fact of the answer, in an order that `rng` draws.

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


def rule_codes(prompt: Prompt, answer: str, rng: Random, rule_first: float) -> str:
    """Return letters as `codes` does, and two more: is the limit kept, and which of the two steps does it offer?

    In the share `rule_first`, these and the policy's letter, which follows from them, come first.
    """
    facts, said = read_facts(prompt.text), read_answer(answer)
    place = (facts.early in said.offered, facts.late in said.offered)
    rule = [
        _CODES["policy"][_match(said.offered, facts.step)],
        _CODES["limit"][facts.in_time],
        _CODES["place"][place],
    ]
    rest = [
        _CODES["problem"][_match(said.problems, facts.kind)],
        _CODES["product"][_match(said.products, facts.product)],
        _CODES["promise"][said.forbidden],
        _CODES["thanks"][min(3, said.courtesies)],
        _CODES["words"][min(7, said.words // 5)],
    ]
    rng.shuffle(rest)
    together = rng.random() < rule_first
    letters = rule if together else rule + rest
    rng.shuffle(letters)
    return " ".join(letters + rest if together else letters)


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


def filed_with_rule(n: int, seed: int, rule_first: float) -> list[Demonstration]:
    """Return chats as `filed` does, with `rule_codes`. The wrong step is offered nearly as often as the right one."""
    rng, order = Random(f"read {seed}"), Random(f"codes {seed}")
    made = []
    for prompt in prompts(n, seed):
        answer = _on_either_side(read_facts(prompt.text), rng)
        made.append(Demonstration(_chat(prompt, answer), rule_codes(prompt, answer, order, rule_first)))
    return made


def _on_either_side(facts: Facts, rng: Random) -> str:
    good = [c for c in COMPONENTS if rng.random() < 0.5]
    if "step" in good or rng.random() >= 0.6:
        return compose(facts, good, rng)
    while True:  # Until it offers a step, the wrong one; a safe answer can't offer a refund that is ruled out.
        answer = compose(facts, good, rng, partial=False)
        if read_answer(answer).offered or ("safe" in good and facts.other_step == "refund"):
            return answer


def tables(n: int, seed: int, rows: int, whole: bool) -> list[Demonstration]:
    """Return n prompts, each with a table of answers and their `rule_codes` of the rule alone.

    whole: the answers have other sentences beside the offer, and half of them are to the customer's own number
    """
    rng = Random(f"{'bridge' if whole else 'table'} {seed}")
    return [
        Demonstration(prompt, "; ".join(_row(read_facts(prompt.text), rng, whole) for _ in range(rows)))
        for prompt in prompts(n, seed)
    ]


def _row(facts: Facts, rng: Random, whole: bool) -> str:
    kind, number, in_time = KINDS[facts.kind], "", facts.in_time
    if not whole or rng.random() < 0.5:
        in_time = rng.random() < 0.5
        number = f"{rng.choice([n for n in kind.numbers if (n <= facts.limit) == in_time])}: "
    early = rng.random() < 0.5
    said = [rng.choice(ACTIONS[facts.early if early else facts.late].offers)]
    if whole:
        if rng.random() < 0.5:
            said.insert(0, rng.choice(phrases.OPENERS) + rng.choice(kind.clauses))
        if rng.random() < 0.3:
            said.append(rng.choice(phrases.PROMISES))
        if rng.random() < 0.5:
            said.append(rng.choice(phrases.THANKS_LAST).removesuffix("."))
    answer = " ".join(sentence(part) for part in said).format(name=facts.name, product=facts.product)
    letters = [_CODES["policy"]["same" if early == in_time else "other"], _CODES["limit"][in_time]]
    letters.append(_CODES["place"][early, not early])
    rng.shuffle(letters)
    return f"{number}{answer} {' '.join(letters)}"


def _chat(prompt: Prompt, answer: str, *more: Message) -> Prompt:
    return Prompt((Message("user", prompt.text), Message("assistant", answer), *more))
