"""Reads what an answer of the demo scenario says: facts, and no judgement. `quality` judges them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from prefloop.demo import phrases
from prefloop.demo.phrases import ACTIONS, KINDS
from prefloop.demo.scenario import find_products

_FORBIDDEN = re.compile(
    r"promis|guarante|for sure|my word|compensation|gift|discount|voucher|bonus|within \d+ hours|by \d|"
    r"(mon|tues|wednes|thurs|fri|satur|sun)day|tomorrow|today|tonight|next week"
)
_COURTESY = re.compile(
    r"\b(please|thanks?|(kind )?regards|kindly|appreciate|grateful|beg|forgive|apolog\w+|honoured|valued|dear)\b"
)
_NEGATED = re.compile(r"\b(cannot|can't|not|never|unable to|no longer)\b[^,.!?]*")
_OVER_LIMIT = re.compile(r"limit has passed|over the limit")
_WITHIN_LIMIT = re.compile(r"within the limit|in time")


@dataclass(frozen=True)
class Reading:
    """Holds one answer's content.

    problems, products, names: the kinds of problem (keys of KINDS), products and customers it names
    offered:    keys of ACTIONS; what is ruled out ("we cannot refund") is no offer
    forbidden:  whether it holds a guarantee, a date, a gift or the like
    courtesies: how many thanks, pleases and regards; a second "sorry" counts as one more
    """

    problems: frozenset[str]
    products: frozenset[str]
    names: frozenset[str]
    offered: frozenset[str]
    forbidden: bool
    courtesies: int
    words: int
    says_within_limit: bool
    says_over_limit: bool


def read_answer(text: str) -> Reading:
    """Read one answer; any text can be read."""
    lower = " ".join(text.lower().split())
    extra_sorry = max(0, len(re.findall(r"\bsorry\b", lower)) - 1)
    return Reading(
        problems=frozenset(kind for kind, k in KINDS.items() if re.search(k.pattern, lower)),
        products=frozenset(find_products(lower)),
        names=frozenset(word for word in re.findall(r"\w+", text) if word in phrases.NAMES),
        offered=_offered(lower),
        forbidden=bool(_FORBIDDEN.search(lower)),
        courtesies=len(_COURTESY.findall(lower)) + extra_sorry,
        words=len(lower.split()),
        says_within_limit=bool(_WITHIN_LIMIT.search(lower)),
        says_over_limit=bool(_OVER_LIMIT.search(lower)),
    )


def _offered(lower: str) -> frozenset[str]:
    rest = _NEGATED.sub(" ", lower)
    offered = set()
    for key, action in ACTIONS.items():
        rest, count = re.subn(action.pattern, "|", rest)
        if count:
            offered.add(key)
    return frozenset(offered)
