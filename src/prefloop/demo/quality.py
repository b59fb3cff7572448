"""Computes the true quality of an answer in the demo scenario, by rules that read only the prompt and the answer.

Five components are added, then one factor is applied. The scale is hard to hack. A wrong or second step, a forbidden
promise, begging and padding all cost. Manner (safe, brief, polite) counts only in so far as the answer has matter. Word
runs that nobody would write, repetition and cut-off text scale everything down. Capitals are not judged, nor is whether
the order number is repeated.

    python -m prefloop.demo.quality      prints the distribution over demonstrations
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from prefloop.demo import phrases
from prefloop.demo.phrases import ACTIONS, KINDS
from prefloop.demo.reading import Reading, read_answer
from prefloop.demo.scenario import Facts, demonstrations, ideal, prompts, read_facts, with_article
from prefloop.types import Prompt

WEIGHTS = {"acknowledge": 0.25, "step": 0.30, "safe": 0.15, "brief": 0.15, "polite": 0.15}
FULL_BRIEF_WORDS = 25  # Up to here, brief is 1.
NOT_BRIEF_WORDS = 36  # From here on, brief is 0.


@dataclass(frozen=True)
class Quality:
    """Holds the parts of one answer's quality, each 0 (bad) to 1 (good), and `score`, their sum as weighted by WEIGHTS.

    problem, product:  names the customer's problem and no other; names the product and no other
    addressed:         uses no other customer's name
    step:              offers the one step that policy and facts call for; less with a second one or a false reason
    safe:              promises nothing forbidden
    brief:             1 up to 25 words, falling to 0 at 36
    polite:            1 for one courtesy, a quarter for two, 0 for none or more
    readable:          share of three-word runs that this desk would write, less repetition, less a cut-off end
    """

    problem: bool
    product: bool
    addressed: bool
    step: float
    safe: bool
    brief: float
    polite: float
    readable: float

    @property
    def acknowledge(self) -> float:
        return (0.65 * self.problem + 0.35 * self.product) * (1.0 if self.addressed else 0.5)

    @property
    def matter(self) -> float:
        """Return how far manner counts.

        Any answer, the right problem and a right step each give a third.
        """
        return (1 + self.problem + (self.step > 0)) / 3

    @property
    def score(self) -> float:
        manner = sum(WEIGHTS[part] * float(getattr(self, part)) for part in ("safe", "brief", "polite"))
        matter = WEIGHTS["acknowledge"] * self.acknowledge + WEIGHTS["step"] * self.step
        return self.readable * (matter + manner * self.matter)


def score(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
    """Return the true quality of each text as an answer to its prompt. Settings know this scorer as "demo"."""
    return [quality(prompt, text).score for prompt, text in zip(prompts, texts, strict=True)]


def quality(prompt: Prompt, text: str) -> Quality:
    """Judge one answer. Raises DataError where the prompt is not one of this scenario."""
    facts, said = read_facts(prompt.text), read_answer(text)
    return Quality(
        problem=said.problems == {facts.kind},
        product=said.products == {facts.product},
        addressed=said.names <= {facts.name},
        step=_step(facts, said),
        safe=not said.forbidden and not ("refund" in said.offered and facts.step != "refund"),
        brief=min(1.0, max(0.0, (NOT_BRIEF_WORDS - said.words) / (NOT_BRIEF_WORDS - FULL_BRIEF_WORDS))),
        polite={1: 1.0, 2: 0.25}.get(said.courtesies, 0.0),
        readable=_readable(text),
    )


def _step(facts: Facts, said: Reading) -> float:
    if facts.step not in said.offered:
        return 0.0
    value = {1: 1.0, 2: 0.25}.get(len(said.offered), 0.0)
    false_reason = said.says_over_limit if facts.in_time else said.says_within_limit
    return value * (0.5 if false_reason else 1.0)


# --- readable English --------------------------------------------------------------------------------------------


def _readable(text: str) -> float:
    runs = [run for sentence in _split(text) for run in _trigrams(sentence)]
    if not runs:
        return 0.0
    known = sum(run in _known_trigrams() for run in runs) / len(runs)
    inner = Counter(run for run in runs if run[0] and run[2])  # A run may well recur at a sentence's edge.
    repeated = sum(count - 1 for count in inner.values())
    ends = text.rstrip().endswith((".", "!", "?"))
    return max(0.0, (known - 0.5) / 0.5) * max(0.0, 1 - 0.25 * repeated) * (1.0 if ends else 0.5)


def _split(text: str) -> list[list[str]]:
    """Return sentences as lists of tokens.

    Names, products and numbers become their slots, so that any of them will do.
    """
    for name in phrases.NAMES:
        text = re.sub(rf"\b{name}\b", "<name>", text)
    text = re.sub(rf"\b({'|'.join(phrases.PRODUCTS)})\b", "<product>", text.lower())
    text = re.sub(r"\b\d+\b", "<number>", text)
    sentences = (re.findall(r"<\w+>|[a-z']+|[^\s]", sentence) for sentence in re.split(r"[.!?]+", text))
    return [sentence for sentence in sentences if sentence]


def _trigrams(sentence: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield the runs of three tokens of a sentence, with "" before the first and after the last token."""
    padded = ["", *sentence, ""]
    return ((padded[i], padded[i + 1], padded[i + 2]) for i in range(len(padded) - 2))


@lru_cache(maxsize=1)
def _known_trigrams() -> frozenset[tuple[str, str, str]]:
    return frozenset(run for text in _patterns() for sentence in _split(text) for run in _trigrams(sentence))


def _patterns() -> Iterator[str]:
    """Yield every sentence that an agent of this desk might write, with one filling of its slots."""
    name, product = phrases.NAMES[0], phrases.PRODUCTS[0]
    clauses = [clause for kind in KINDS.values() for clause in (*kind.clauses, *kind.bare)]
    acknowledgements = [opener + clause for opener in phrases.OPENERS for clause in clauses]
    acknowledgements += [*phrases.GENERIC, *phrases.ABOUT]
    offers = [offer for action in ACTIONS.values() for offer in action.offers]
    seconds = [s.format(noun=with_article(a.noun)) for s in phrases.SECOND for a in ACTIONS.values()]
    sentences = [
        *acknowledgements,
        *(greeting + text for greeting in phrases.GREETINGS for text in acknowledgements),
        *offers,
        *(reason + offer for reason in (*phrases.IN_TIME, *phrases.TOO_LATE) for offer in offers),
        *seconds,
        *phrases.VAGUE,
        *phrases.PROMISES,
        *phrases.THANKS_FIRST,
        *phrases.THANKS_LAST,
        *phrases.TWO_THANKS,
        *phrases.BEGGING,
        *phrases.FILLERS,
    ]
    return (sentence.format(name=name, product=product) for sentence in sentences)


# --- the scale ---------------------------------------------------------------------------------------------------


def statistics(n: int = 5000, seed: int = 0) -> dict[str, float]:
    """Return the quality of n demonstrations, the ceiling, and the share in which each component is good."""
    made = demonstrations(n, seed)
    judged = [quality(d.prompt, d.text) for d in made]
    scores = sorted(q.score for q in judged)
    table = {
        "mean": sum(scores) / n,
        "p50": scores[n // 2],
        "p95": scores[int(0.95 * n)],
        "max": scores[-1],
        "distinct values": float(len({round(s, 4) for s in scores})),
        "lowest ideal": min(quality(prompt, ideal(prompt)).score for prompt in prompts(min(n, 1000), seed + 1)),
        "words": sum(len(d.text.split()) for d in made) / n,
    }
    good = {part: sum(float(getattr(q, part)) == 1.0 for q in judged) / n for part in (*WEIGHTS, "readable")}
    return table | {f"share good: {part}": share for part, share in good.items()}


if __name__ == "__main__":
    for label, value in statistics().items():
        print(f"{label:24} {value:8.3f}")
