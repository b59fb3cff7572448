"""Makes the demo scenario: customers write to a shop whose agents are bound by a policy; no human answer is perfect.

A prompt states a problem, one number, and a policy with a limit: the number decides which next step is right. A
demonstration does one to four of five things well (`COMPONENTS`), never all five, so the best answer has to be *found*
by a model that learns what people prefer; it can't be copied. All facts can be read back from a prompt's text.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import lru_cache
from random import Random

from prefloop.demo import phrases
from prefloop.demo.phrases import ACTIONS, KINDS
from prefloop.errors import DataError
from prefloop.types import Demonstration, Prompt

COMPONENTS = ("acknowledge", "step", "safe", "brief", "polite")
# {how many components of a demonstration are good: share of demonstrations}
GOOD_COUNTS = {1: 0.06, 2: 0.38, 3: 0.51, 4: 0.05}
BRIEF_WORDS = (12, 25)  # a brief answer, from and to so many words
LONG_WORDS = (33, 40)


@dataclass(frozen=True)
class Facts:
    """Holds what a prompt says. `early` and `late` are keys of ACTIONS: the step up to the limit, and beyond it."""

    kind: str
    name: str
    product: str
    order: int
    n: int
    unit: str
    limit: int
    early: str
    late: str

    @property
    def in_time(self) -> bool:
        return self.n <= self.limit

    @property
    def step(self) -> str:
        """Return the one right next step."""
        return self.early if self.in_time else self.late

    @property
    def other_step(self) -> str:
        """Return the policy's step for the other side of the limit."""
        return self.late if self.in_time else self.early


# --- prompts -----------------------------------------------------------------------------------------------------


def prompts(n: int, seed: int) -> list[Prompt]:
    """Return n distinct prompts, the same for the same seed on every machine. `metadata` holds the facts."""
    rng = Random(f"demo prompts {seed}")
    made: dict[str, Prompt] = {}
    while len(made) < n:
        facts = _draw_facts(rng)
        text = _write_prompt(facts, rng)
        made.setdefault(text, Prompt(text, metadata=asdict(facts)))
    return list(made.values())


def _draw_facts(rng: Random) -> Facts:
    name = rng.choice(sorted(KINDS))
    kind = KINDS[name]
    limit = rng.choice(kind.limits)
    early, late = rng.choice(kind.rules)
    in_time = rng.random() < 0.5  # Both sides of the limit are equally common.
    n = rng.choice([number for number in kind.numbers if (number <= limit) == in_time])
    return Facts(
        kind=name,
        name=rng.choice(phrases.NAMES),
        product=rng.choice(kind.products),
        order=rng.randint(100, 999),
        n=n,
        unit=kind.unit,
        limit=limit,
        early=early,
        late=late,
    )


def _write_prompt(facts: Facts, rng: Random) -> str:
    hello = rng.choice(phrases.HELLOS).format(name=facts.name, order=facts.order)
    problem = sentence(rng.choice(KINDS[facts.kind].asks).format(product=facts.product, n=facts.n))
    policy = rng.choice(phrases.POLICIES).format(
        early=ACTIONS[facts.early].noun, late=ACTIONS[facts.late].noun, limit=facts.limit, unit=facts.unit
    )
    return f"Customer: {hello} {problem} {rng.choice(phrases.QUESTIONS)}\n{policy}\nAnswer:"


@lru_cache(maxsize=65536)
def read_facts(text: str) -> Facts:
    """Return the facts of a prompt, from its text alone.

    Raises DataError where the text is not a prompt of this scenario.
    """
    customer, _, rest = text.partition("\nPolicy:")
    policy = rest.partition("\n")[0]
    kinds = [kind for kind, k in KINDS.items() if re.search(k.pattern, customer.lower())]
    names = [word for word in re.findall(r"\w+", customer) if word in phrases.NAMES]
    products = find_products(customer)
    order = re.search(r"\border (\d+)", customer)
    number = re.search(r"(\d+) (days|tries|months)", customer)
    limit = re.search(r"(\d+) (days|tries|months)", policy)
    steps = sorted((policy.find(action.noun), key) for key, action in ACTIONS.items() if action.noun in policy)
    if not (len(kinds) == len(names) == len(products) == 1 and len(steps) == 2 and order and number and limit):
        raise DataError(
            f"not a prompt of the demo scenario: {text[:80]!r}. The scorer 'demo' reads only prompts made by "
            "prefloop.demo.scenario.prompts; give [crowd] scorer another name or your own 'file.py:function'."
        )
    return Facts(
        kind=kinds[0],
        name=names[0],
        product=products.pop(),
        order=int(order[1]),
        n=int(number[1]),
        unit=number[2],
        limit=int(limit[1]),
        early=steps[0][1],
        late=steps[1][1],
    )


def find_products(text: str) -> set[str]:
    """Return every product that the text names."""
    return set(re.findall(_PRODUCT, text.lower()))


_PRODUCT = re.compile(rf"\b({'|'.join(phrases.PRODUCTS)})\b")


# --- answers -----------------------------------------------------------------------------------------------------


def demonstrations(n: int, seed: int) -> list[Demonstration]:
    """Return n prompts, each with one imperfect human-like answer."""
    rng = Random(f"demo demonstrations {seed}")
    return [Demonstration(prompt, demonstration(prompt, rng)) for prompt in prompts(n, seed)]


def demonstration(prompt: Prompt, rng: Random) -> str:
    """Return an answer that does some things well and at least one not at all; chance decides which ones."""
    (count,) = rng.choices(list(GOOD_COUNTS), weights=list(GOOD_COUNTS.values()))
    good = rng.sample(COMPONENTS, count)
    return compose(read_facts(prompt.text), good, rng, partial=count < 4)


def ideal(prompt: Prompt) -> str:
    """Return an answer with all five components: the ceiling of the scale. No demonstration is ever made like this."""
    return compose(read_facts(prompt.text), COMPONENTS, Random(prompt.text))


def compose(facts: Facts, good: Collection[str], rng: Random, partial: bool = True) -> str:
    """Write an answer in which exactly the components in `good` are good.

    partial: whether the others may be half right (the problem but not the product, the right step and a second one)
    """
    low, high = BRIEF_WORDS if "brief" in good else LONG_WORDS
    while True:  # The wording is drawn again until the length fits; every combination has wordings that fit.
        sentences = _sentences(facts, good, rng, partial)
        if "brief" not in good:
            low = LONG_WORDS[0] if partial else 36
            for filler in rng.sample(phrases.FILLERS, len(phrases.FILLERS)):
                if _words(sentences) >= low:
                    break
                sentences.insert(rng.randint(1, len(sentences)), filler)
        if low <= _words(sentences) <= high:
            return " ".join(sentences)


def _sentences(facts: Facts, good: Collection[str], rng: Random, partial: bool) -> list[str]:
    opening, closing = _courtesy("polite" in good, rng, partial)
    acknowledge = _acknowledge(facts, "acknowledge" in good, rng, partial)
    if not opening and rng.random() < 0.5:
        acknowledge = rng.choice(phrases.GREETINGS) + acknowledge
    sentences = [opening, sentence(acknowledge), *_step(facts, "step" in good, "safe" in good, rng, partial)]
    if "safe" not in good:
        sentences.append(sentence(rng.choice(phrases.PROMISES)))
    return [s.format(name=facts.name, product=facts.product) for s in (*sentences, closing) if s]


def _acknowledge(facts: Facts, good: bool, rng: Random, partial: bool) -> str:
    kind = KINDS[facts.kind]
    if good:
        return rng.choice(phrases.OPENERS) + rng.choice(kind.clauses)
    failure = rng.random()
    if partial and failure < 0.3:
        return rng.choice(phrases.OPENERS) + rng.choice(kind.bare)
    if partial and failure < 0.5:
        return rng.choice(phrases.ABOUT)
    if failure < 0.65:
        other = rng.choice([key for key in sorted(KINDS) if key != facts.kind])
        return rng.choice(phrases.OPENERS) + rng.choice(KINDS[other].bare)
    return rng.choice(phrases.GENERIC)


def _step(facts: Facts, good: bool, safe: bool, rng: Random, partial: bool) -> list[str]:
    right = _offer(facts.step, facts.in_time, rng)
    if good:
        return [right]
    # A refund that the policy rules out is a forbidden promise.
    may_offer_other = not safe or facts.other_step != "refund"
    failure = rng.random()
    if partial and may_offer_other and failure < 0.3:
        noun = with_article(ACTIONS[facts.other_step].noun)
        return [right, sentence(rng.choice(phrases.SECOND).format(noun=noun))]
    if may_offer_other and failure < 0.6:
        return [_offer(facts.other_step, not facts.in_time, rng)]
    return [sentence(rng.choice(phrases.VAGUE))]


def _offer(action: str, in_time: bool, rng: Random) -> str:
    reason = rng.choice(phrases.IN_TIME if in_time else phrases.TOO_LATE) if rng.random() < 0.4 else ""
    return sentence(reason + rng.choice(ACTIONS[action].offers))


def _courtesy(good: bool, rng: Random, partial: bool) -> tuple[str, str]:
    """Return (opening, closing): one of them is a courtesy if good; else neither is, or there are far too many."""
    if good:
        return (rng.choice(phrases.THANKS_FIRST), "") if rng.random() < 0.4 else ("", rng.choice(phrases.THANKS_LAST))
    failure = rng.random()
    if failure < 0.4:
        return "", ""
    if partial and failure < 0.6:
        return "", rng.choice(phrases.TWO_THANKS)
    return "", rng.choice(phrases.BEGGING)


def with_article(noun: str) -> str:
    """Return "a refund", "an exchange", "store credit"."""
    if noun == "store credit":
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def sentence(clause: str) -> str:
    return clause[0].upper() + clause[1:] + "."


def _words(sentences: list[str]) -> int:
    return len(" ".join(sentences).split())
