"""Cuts and counts answers that are longer than a model reads. Pairs that no longer differ are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

from prefloop.errors import NothingToDoError
from prefloop.models.tokenization import Tokenization
from prefloop.results import Cut
from prefloop.rewards.sequence import Joined, join_completion, reads
from prefloop.types import Item, Ranking

if TYPE_CHECKING:
    from prefloop.project.project import Project


class Lengths:
    """Counts what a model's reading length cuts from the lists of one stage. `counted` goes into the stage's result."""

    def __init__(self, project: Project | None, tokenization: Tokenization, max_tokens: int | None = None):
        self.project, self.tokenization, self.max_tokens = project, tokenization, max_tokens
        self.limit = reads(tokenization, max_tokens)
        self.lost: dict[str, bool] = {}  # {answer id: whether the answer lost its end}
        self.shortened: set[str] = set()  # ids of prompts that lost their beginning
        self.same: set[tuple[str, str]] = set()  # pairs of answers that are equal after the cut

    def telling(self, items: Sequence[Item], some: bool = True, what: str = "lists") -> list[Item]:
        """Return the lists as this model can learn from them, without answers that became equal when they were cut.

        some: raise NothingToDoError where there are lists, and nothing of them is left
        """
        before = self._counts()
        kept = [told for item in items if (told := self._told(item)) is not None]
        if self.project is not None and self._counts() != before:
            self.project.say(self._words(what, len(items) - len(kept)))
        if some and items and not kept:
            raise NothingToDoError(
                f"all answers of a list are the same to this model, which reads {self.limit} tokens of prompt and "
                f"answer: they are longer than that, and differ in what is cut off. {self._advice()}"
            )
        return kept

    def _told(self, item: Item) -> Item | None:
        """Return the list as this model reads it; None where no ranking is left that compares anything."""
        joined = {c.id: join_completion(self.tokenization, item.prompt, c, self.max_tokens) for c in item.completions}
        self.lost |= {id: one.lost > 0 for id, one in joined.items()}
        if any(one.shortened for one in joined.values()):
            self.shortened.add(item.prompt.id)
        same = _same(item, joined)
        if not same:
            return item
        self.same.update(same)
        gone = {id for pair in same for id in pair}
        rankings = tuple(ranking for r in item.rankings if _compares(ranking := _without(r, gone)))
        return replace(item, rankings=rankings) if rankings else None

    def _counts(self) -> tuple[int, int, int]:
        return sum(self.lost.values()), len(self.shortened), len(self.same)

    def _words(self, what: str, left: int) -> str:
        cut, shortened, same = self._counts()
        read = f"the model reads ({self.limit} tokens of prompt and answer)"
        said = f"warning: {what}: {cut} of {len(self.lost)} answers are longer than {read}, and cut" if cut else ""
        if shortened:
            more = f"{shortened} prompts lose their beginning"
            said = f"{said}; {more}" if said else f"warning: {what}: {more}, since they are longer than {read}"
        if same:
            said += f"; {same} pairs of answers that differ only in what was cut are not learnt from"
        if left:
            said += f", and with them {left} {what}"
        return f"{said}. {self._advice()}"

    def _advice(self) -> str:
        if self.limit < self.tokenization.context:
            return f"The model could read {self.tokenization.context} tokens: raise max_tokens."
        return "It cannot read more."

    def counted(self) -> Cut | None:
        """The counts for a result; None where nothing was cut."""
        cut, shortened, same = self._counts()
        return Cut(self.limit, len(self.lost), cut, shortened, same) if cut or shortened else None


def _same(item: Item, joined: dict[str, Joined]) -> list[tuple[str, str]]:
    """Return pairs of answers whose texts differ but whose ids are the same, because one of them was cut."""
    cut = [c for c in item.completions if joined[c.id].lost]
    if not cut:
        return []
    pairs = combinations(item.completions, 2)
    return [
        (a.id, b.id)
        for a, b in pairs
        if joined[a.id].ids == joined[b.id].ids and a.text != b.text and (joined[a.id].lost or joined[b.id].lost)
    ]


def _without(ranking: Ranking, gone: set[str]) -> Ranking:
    tiers = tuple(left for tier in ranking.tiers if (left := tuple(id for id in tier if id not in gone)))
    return replace(ranking, tiers=tiers)


def _compares(ranking: Ranking) -> bool:
    return sum(len(tier) for tier in ranking.tiers) >= 2
