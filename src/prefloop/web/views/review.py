"""Prepares what reviewers' pages show: the queue with its disagreements, and one item with all rankings side by side.

The store's lists know states and counts. Disagreements and flags are in the rankings, which are read a page at a time,
so that no list ever loads the whole project.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from prefloop.labels.answer import LETTERS
from prefloop.labels.ranking import current, mid_ranks
from prefloop.messages import shown_turns
from prefloop.store import GivenRanking, ItemView, Queue, Store, TaskRow
from prefloop.store.queue.types import Browse
from prefloop.types import Item, Ranking
from prefloop.web.views.present import Shown, TaskPage, cards, data, turns, words

Kind = Literal["all", "waiting", "answered", "several", "disagreement", "flagged", "skipped", "gold", "discarded"]
KINDS: Mapping[Kind, str] = {
    "all": "All",
    "waiting": "Waiting for review",
    "answered": "Ranked",
    "several": "Ranked by several",
    "disagreement": "Disagreement",
    "flagged": "Flagged",
    "skipped": "Skipped",
    "gold": "Gold",
    "discarded": "Discarded",
}
PAGE = 50  # A page has so many rows.
SCAN = 300  # So many rows are looked at for one page of a list that depends on rankings.
_CHUNK = 150


@dataclass(frozen=True)
class ItemSummary:
    """Counts what people said about an item.

    ordered: how many pairs (of answers and of people) both people put in an order
    opposed: how many of them the two people ordered in opposite ways
    flags:   how often anybody set each flag
    """

    people: int
    opposed: int
    ordered: int
    flags: Mapping[str, int]
    comments: int
    adjudicated: bool

    @property
    def waiting(self) -> bool:
        """Return whether a reviewer should look: it is flagged, or most pairs are opposed, and nobody has decided."""
        return not self.adjudicated and (bool(self.flags) or 2 * self.opposed > self.ordered)


@dataclass(frozen=True)
class Line:
    """Holds one line of the list."""

    row: TaskRow
    heard: ItemSummary

    @property
    def beside(self) -> int:
        """Return how many rankings take no place, because they are surplus or by excluded people."""
        return max(0, self.heard.people - self.row.done)

    @property
    def waiting(self) -> bool:
        """Return whether the item needs a reviewer. Gold and discarded items do not."""
        return self.heard.waiting and self.row.state not in ("gold", "discarded")


@dataclass(frozen=True)
class Listing:
    """Holds a page of the list.

    `after` is the cursor of the next page, or None; `scanned` counts the rows looked at.
    """

    lines: tuple[Line, ...]
    after: int | None
    scanned: int


def listing(queue: Queue, store: Store, criterion: str, kind: Kind, after: int) -> Listing:
    """Return a page of the queue, oldest first. It looks through at most `SCAN` rows; `after` continues."""
    lines: list[Line] = []
    scanned = 0
    within = {"disagreement": "several", "flagged": "given", "waiting": "given"}
    browse: Browse = within.get(kind, kind)  # type: ignore[assignment]
    whole = kind in get_args(Browse)
    while scanned < SCAN:
        size = PAGE + 1 if whole else _CHUNK
        rows = queue.browse(browse, after, size)
        items = {item.id: item for item in store.item_by_ids([row.item for row in rows])}
        for row in rows:
            line = Line(row, summarise(items[row.item], criterion, row.flags))
            if len(lines) == PAGE:
                return Listing(tuple(lines), after, scanned)
            after, scanned = row.number, scanned + 1
            if whole or _belongs(line, kind):
                lines.append(line)
        if len(rows) < size:
            return Listing(tuple(lines), None, scanned)
    return Listing(tuple(lines), after, scanned)


def _belongs(line: Line, kind: Kind) -> bool:
    """Return whether a line belongs to one of the lists that only the rankings tell."""
    return {"flagged": bool(line.heard.flags), "disagreement": line.heard.opposed > 0, "waiting": line.waiting}[kind]


def summarise(item: Item, criterion: str, passed: Sequence[str] = ()) -> ItemSummary:
    """Return what the rankings of a criterion say about an item. passed: flags of people who then skipped it."""
    said = [r for r in current(item.rankings) if r.criterion == criterion]
    flags: dict[str, int] = {}
    for flag in itertools.chain(passed, *(r.flags for r in said)):
        flags[flag] = flags.get(flag, 0) + 1
    opposed, ordered = opposition(said)
    judged = sum(1 for r in said if r.metadata.get("adjudication"))
    return ItemSummary(len(said) - judged, opposed, ordered, flags, sum(1 for r in said if r.comment), judged > 0)


def opposition(said: list[Ranking]) -> tuple[int, int]:
    """Return (pairs ordered in opposite ways, pairs that both ordered), over all pairs of people.

    Adjudications do not count, because their authors had seen the others.
    """
    opposed = ordered = 0
    ranks = [mid_ranks(r.tiers) for r in said if not r.metadata.get("adjudication")]
    for one, other in itertools.combinations(ranks, 2):
        for a, b in itertools.combinations([id for id in one if id in other], 2):
            product = (one[a] - one[b]) * (other[a] - other[b])
            opposed += product < 0
            ordered += product != 0
    return opposed, ordered


# -- one item ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """Holds one person's judgement of one answer: its rank ("2", "2=" for a tie, "" if unranked) and its marks."""

    rank: str
    best: bool
    unacceptable: bool
    flags: tuple[str, ...]
    ratings: str


@dataclass(frozen=True)
class ReviewedRanking:
    """Holds one person's ranking of the item. `cells` are in the order of the letters."""

    said: GivenRanking
    cells: tuple[Cell, ...]
    seconds: int | None
    gold: bool  # whether it is the expected order


def rows(view: ItemView) -> tuple[ReviewedRanking, ...]:
    """Return everyone's current rankings, oldest first, adjudications last."""
    shown = sorted(view.said, key=lambda one: one.adjudication)
    return tuple(_row(one, view) for one in shown)


def _row(said: GivenRanking, view: ItemView) -> ReviewedRanking:
    ranking = said.ranking
    ids = [completion.id for completion in view.item.completions]
    duration = None if ranking.duration_s is None else round(ranking.duration_s)
    return ReviewedRanking(said, tuple(_cell(ranking, id) for id in ids), duration, view.gold == ranking.tiers)


def _cell(ranking: Ranking, id: str) -> Cell:
    place = next((n for n, tier in enumerate(ranking.tiers) if id in tier), None)
    tied = place is not None and len(ranking.tiers[place]) > 1
    return Cell(
        rank="" if place is None else f"{place + 1}{'=' if tied else ''}",
        best=place == 0,
        unacceptable=id in ranking.unacceptable,
        flags=tuple(ranking.metadata.get("flags", {}).get(id, ())),
        ratings=", ".join(f"{name} {value:g}" for name, value in ranking.ratings.get(id, {}).items()),
    )


def letters(ids: tuple[tuple[str, ...], ...], item: Item) -> str:
    """Return tiers of completion ids as letters of the reviewer's order: "B, then A = C"."""
    letter = letters_of(item)
    return ", then ".join(" = ".join(sorted(letter[id] for id in tier)) for tier in ids)


def letters_of(item: Item) -> dict[str, str]:
    """Return the letter of each completion id, in the order that reviewers see."""
    return {completion.id: LETTERS[n] for n, completion in enumerate(item.completions)}


def texts(item: Item) -> tuple[Shown, ...]:
    """Return the answers in the order that reviewers see. Models are not named, so that adjudication is blind too."""
    asked = item.prompt.content
    return cards([c.text for c in item.completions], [shown_turns(asked, c.text, c.messages) for c in item.completions])


def adjudication_page(view: ItemView, attributes: tuple[str, ...]) -> TaskPage:
    """Return the item on the ranking screen, in the order that `Queue.adjudicate` uses. There is no lease."""
    item = view.item
    return TaskPage(
        lease=f"review-{item.id}",
        seconds_left=0,
        position=0,
        criterion=view.criterion,
        attributes=attributes,
        turns=turns(item.prompt),
        cards=texts(item),
        words=words(item.prompt.text, *(completion.text for completion in item.completions)),
        draft="",
        answer="",
        progress=data(None),
        returned=None,
    )
