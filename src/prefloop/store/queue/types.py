"""Defines the data types that the queue hands out and takes in, with the standard library only.

`Presentation`, `Given`, `Progress` and `Receipt` are for annotators, so they hold no item or completion ids, models,
scores, gold flags or other people's answers. `ItemView` and `Quota` are for reviewers and programs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from prefloop.labels.answer import Answer
from prefloop.messages import Turns
from prefloop.types import Item, Json, Prompt, Ranking

Browse = Literal["all", "answered", "given", "several", "skipped", "gold", "discarded"]
TaskState = Literal["open", "being ranked", "partly ranked", "ranked", "gold", "discarded"]
ReceiptKind = Literal["ranked", "revised", "surplus", "skipped", "adjudicated"]


@dataclass(frozen=True)
class Presentation:
    """Holds one item as one person sees it. `prompt` carries no metadata; texts[0] is letter A, turns[0] its messages.

    lease:      a random name of this presentation, used in every later call
    expires_at: seconds since 1970; a heartbeat moves it
    draft:      what `Queue.draft` kept last
    answer:     the earlier answer, if it is being changed (undo, or returned by a reviewer)
    position:   1 for the first item that this person got
    returned:   a reviewer's note ("" for none) if the item was returned; otherwise None
    """

    lease: str
    expires_at: float
    prompt: Prompt
    texts: tuple[str, ...]
    turns: tuple[Turns, ...]  # It is () if an answer is its text alone.
    criterion: str
    attributes: tuple[str, ...]
    draft: Json | None
    answer: Answer | None
    position: int
    returned: str | None


@dataclass(frozen=True)
class Receipt:
    """Acknowledges a submit. Every repetition of the submit gets the same one.

    kind: "surplus" if the item's places were taken by then; annotators are thanked in any case
    ranking: the id of the ranking written; None for a skip. It is not shown to annotators.
    """

    lease: str
    kind: ReceiptKind
    at: float
    ranking: str | None = None


@dataclass(frozen=True)
class Given:
    """Holds one line of a person's own history. `answer` is None for a skip; `excerpt` is the start of the prompt."""

    lease: str
    at: float
    excerpt: str
    answer: Answer | None
    skipped: str | None  # the reason
    editable: bool  # whether `Queue.reopen` accepts it
    returned: str | None


@dataclass(frozen=True)
class Progress:
    """Says how far a person has come.

    open:     items that this person can still get: of their groups, not had before, with a place, within their limit
    stopped:  why `next` gives nothing: "limit", "excluded" or None
    per_hour: items an hour, from the median of the last 50 answers; None before the fifth
    seconds_per_word: the median of the last 50 answers, for a warning about haste; None before the fifth
    """

    done: int
    skipped: int
    returned: int
    limit: int | None
    open: int
    per_hour: float | None
    seconds_per_word: float | None
    stopped: str | None


@dataclass(frozen=True)
class Quota:
    """Holds the state of the queue, counted in rankings.

    wanted, done, open: of all tasks that are not discarded
    live:   places that somebody holds at this moment
    tasks:  items in the queue, without gold
    unfit:  items that cannot be shown (fewer than 2 or more than 9 completions)
    target: what `[annotate] quota` asks for, else `wanted`
    """

    wanted: int
    done: int
    open: int
    live: int
    tasks: int
    gold: int
    discarded: int
    unfit: int
    target: int

    @property
    def met(self) -> bool:
        """Return whether the target is reached, so that `prefloop run` goes on."""
        return self.done >= self.target


@dataclass(frozen=True)
class GivenRanking:
    """Holds one person's ranking of an item, as a reviewer sees it.

    `name` is None for imported or anonymous annotators.
    """

    ranking: Ranking
    name: str | None
    excluded: bool
    surplus: bool
    adjudication: bool
    returned: str | None  # This is the note with which a reviewer asked for it again.


@dataclass(frozen=True)
class Passed:
    """Describes somebody who holds or skipped an item. state is "live", "expired" or "skipped".

    reason is that of the skip.

    flags, comment: set before the skip; flags by completion id
    """

    person: str
    name: str | None
    state: str
    reason: str | None
    at: float
    flags: Mapping[str, tuple[str, ...]]
    comment: str | None


@dataclass(frozen=True)
class ItemView:
    """Holds everything about one item, for reviewers. `Queue.adjudicate` refers to the order of `item.completions`."""

    item: Item
    criterion: str
    said: tuple[GivenRanking, ...]
    passed: tuple[Passed, ...]
    wanted: int
    done: int
    tag: str
    gold: tuple[tuple[str, ...], ...] | None  # completion ids, best first
    discarded: str | None  # the reason
    priority: float
    arm: str | None  # It says how the item was first chosen: "random" or "priority".


@dataclass(frozen=True)
class TaskRow:
    """Holds one line of a reviewer's list; `number` is the cursor for the next page. `held`: people who have it now.

    flags: those set by people who then skipped it, one for each time
    state: "ranked" (by as many people as wanted), "being ranked" (somebody holds it), "partly ranked", or "open"
    """

    number: int
    item: str
    excerpt: str
    wanted: int
    done: int
    held: int
    skips: int
    state: TaskState
    tag: str
    flags: tuple[str, ...] = ()
