"""`Queue` hands out items to people and takes their answers: exactly as many as wanted, however many ask at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from prefloop.config import Annotate
from prefloop.labels.answer import Answer
from prefloop.store.queue import fill as queue_fill
from prefloop.store.queue import lease as queue_lease
from prefloop.store.queue import read as queue_read
from prefloop.store.queue import review as queue_review
from prefloop.store.queue import submit as queue_submit
from prefloop.store.queue.rows import QueueContext
from prefloop.store.queue.rules import Rules
from prefloop.store.queue.types import (
    Browse,
    Given,
    ItemView,
    Presentation,
    Progress,
    Quota,
    Receipt,
    TaskRow,
)
from prefloop.store.store import Store
from prefloop.types import Json

_COUNTED_EVERY_S = 5.0
_COUNTED_SHARE = 50  # A count is reused for this many times the time it took.


class Queue:
    """Make one with `Queue(store, config.annotate, seed=config.project.seed)`.

    Threads may share it, and on Postgres processes may too. `rules` is [annotate] together with what was changed in the
    browser; every method follows it.

    Persons are given by public ids ("p-..."). Every method raises ForbiddenError for a person who does not exist or is
    disabled, LeaseError for a lease that does not exist or belongs to another person, and StoreError and BusyError as
    the store does.
    """

    def __init__(
        self, store: Store, settings: Annotate, clock: Callable[[], float] = time.time, *, seed: int = 0
    ) -> None:
        self._database, self._clock, self._seed = store.database, clock, seed
        self.rules = Rules(store.database, settings, clock)
        # The values of each person are (from, until, open + done + skipped).
        self._open_known: dict[str, tuple[float, float, int]] = {}

    @property
    def _context(self) -> QueueContext:
        return QueueContext(self._database, self.rules.current(), self.rules.file, self._clock, self._seed)

    # -- work --------------------------------------------------------------------------------------------------------

    def fill(self) -> int:
        """Make tasks for items that have none, and return how many. It looks only at items added since the last call.

        If the overlap was changed in the browser, items that are not ranked yet get the new one here. Items that people
        (not simulated ones) have ranked by this criterion, and items that cannot be shown, get no task.
        """
        queue_fill.overlap_anew(self._context)
        return queue_fill.fill(self._context)

    def next(self, person: str, after: str | None = None) -> Presentation | None:
        """Return what this person should rank now: their own open lease first, else a new one.

        It is None if there is nothing.

        after: the lease on screen, if the item that follows it is fetched ahead of time
        """
        return queue_lease.next_item(self._context, person, after)

    def heartbeat(self, person: str, lease: str) -> float:
        """Keep the lease alive and return its new expiry.

        Raises LeaseError if the place is gone; a submit is still accepted.
        """
        return queue_submit.heartbeat(self._context, person, lease)

    def draft(self, person: str, lease: str, state: Json) -> None:
        """Keep the unfinished answer (up to 100 kB of JSON) for `Presentation.draft`.

        Raises AnswerError if it is larger.
        """
        queue_submit.draft(self._context, person, lease, state)

    def submit(self, person: str, lease: str, uuid: str, answer: Answer) -> Receipt:
        """Write the ranking and close the lease. The same uuid and answer again give the same receipt.

        Late answers are kept: they count if a place is free, else they are surplus. Raises AnswerError for an answer
        that does not fit the presentation. Raises ConflictError for the same uuid with another body, and for a second
        answer without `reopen`.
        """
        return queue_submit.submit(self._context, person, lease, uuid, answer)

    def skip(self, person: str, lease: str, uuid: str, reason: str, said: Answer | None = None) -> Receipt:
        """Give the item up, so that somebody else gets it. `reason` is one of `labels.answer.SKIP_REASONS`.

        said: the unfinished answer; only its flags and its comment are kept, for reviewers
        """
        return queue_submit.skip(self._context, person, lease, uuid, reason, said)

    def reopen(self, person: str, lease: str) -> Presentation:
        """Open one of the last 10 answers, or a returned one, again. The next submit on it supersedes the answer."""
        return queue_submit.reopen(self._context, person, lease)

    def history(self, person: str, limit: int = 10) -> list[Given]:
        """Return what this person submitted or skipped, newest first."""
        return queue_read.history(self._context, person, limit)

    def progress(self, person: str) -> Progress:
        """Return this person's own numbers."""
        found = queue_read.progress(self._context, person)
        given = found.done + found.skipped
        now, (at, until, known) = self._clock(), self._open_known.get(person, (0.0, 0.0, 0))
        if not at <= now < until:
            began = time.perf_counter()
            known = queue_read.open_to(self._context, person) + given
            # Counting takes tens of milliseconds in a large queue, so it is not done at every answer.
            took = time.perf_counter() - began
            self._open_known[person] = (now, now + max(_COUNTED_EVERY_S, _COUNTED_SHARE * took), known)
        return replace(found, open=max(0, known - given))

    def pace(self, person: str) -> float | None:
        """Return items an hour, from the median of the last 50 answers; None before the fifth."""
        return queue_read.progress(self._context, person).per_hour

    def held_elsewhere(self, person: str) -> bool:
        """Return whether somebody holds an item that this person could get if it were released."""
        return queue_read.held_elsewhere(self._context, person)

    def starts(self, items: Iterable[str]) -> dict[str, str]:
        """Return the start of the prompt of each item, by which people recognise items. Unknown ids are left out."""
        return queue_read.starts(self._context, items)

    # -- the whole queue --------------------------------------------------------------------------------------------

    def quota(self, round: int | None = None) -> Quota:
        """Return the progress of the whole queue, or of one round; `prefloop run` waits for `quota().met`."""
        return queue_read.quota(self._context, round)

    def set_priorities(self, scores: Mapping[str, float], by: str = "") -> int:
        """Set {item id: how informative}; higher goes first. Return how many tasks were found.

        by: the name of the models that scored the items, for `fresh`. Raises DataError for NaN.
        """
        return queue_fill.set_priorities(self._context, scores, by)

    def fresh(self, by: str = "") -> list[str]:
        """Return the ids of items that nobody has been given yet, oldest first, without those that `by` scored last."""
        return queue_read.fresh(self._context, by)

    def set_tag(self, items: Sequence[str], tag: str) -> int:
        """Give these items only to people of the group `tag`; "" means everybody. Return how many tasks were found."""
        return queue_fill.set_tag(self._context, items, tag)

    def set_gold(self, reviewer: str | None, item: str, tiers: Sequence[Sequence[str]] | None) -> None:
        """Make `item` gold: everybody ranks it once, without knowing. `tiers` (completion ids, best first) is expected.

        Completions that are left out are not checked. None makes it an ordinary item again. Raises DataError.
        """
        queue_fill.set_gold(self._context, reviewer, item, tiers)

    def golds(self) -> Iterator[tuple[str, tuple[tuple[str, ...], ...]]]:
        """Yield (item id, expected tiers of completion ids) of every gold item."""
        return queue_read.golds(self._context)

    def skipped_only(self) -> int:
        """Return how many items somebody skipped and nobody ranked."""
        return queue_review.skipped_only(self._context)

    def settled(self) -> set[str]:
        """Return the ids of the items that a reviewer has made gold or discarded."""
        return queue_read.settled(self._context)

    # -- reviewers ---------------------------------------------------------------------------------------------------

    def browse(self, kind: Browse = "all", after: int = 0, limit: int = 50) -> list[TaskRow]:
        """Return a page of the queue: kind "all", "answered", "skipped", "several", "gold" or "discarded"."""
        return queue_review.browse(self._context, kind, after, limit)

    def skip_flags(self) -> dict[str, tuple[str, ...]]:
        """Return, for each item, the flags that people set before they skipped it. Discarded items are left out."""
        return queue_review.skip_flags(self._context)

    def tallies(self) -> dict[Browse, int]:
        """Return how many items each list of `browse` holds."""
        return queue_review.tallies(self._context)

    def view(self, item: str) -> ItemView:
        """Return everyone's rankings of an item side by side. Raises DataError if there is no such item."""
        return queue_review.view(self._context, item)

    def adjudicate(self, reviewer: str, item: str, uuid: str, answer: Answer) -> Receipt:
        """Take the reviewer's own ranking, marked `metadata.adjudication`. Positions are those of `view(item).item`."""
        return queue_review.adjudicate(self._context, reviewer, item, uuid, answer)

    def give_back(self, reviewer: str, item: str, person: str, note: str = "") -> None:
        """Ask a person to rank an item again; `next` gives it to them first. Their answer counts until then."""
        queue_review.give_back(self._context, reviewer, item, person, note)

    def discard(self, reviewer: str, item: str, reason: str) -> None:
        """Take an item out of every queue, and its rankings out of training. Answers in progress are still kept."""
        queue_review.discard(self._context, reviewer, item, reason)

    def restore(self, reviewer: str, item: str) -> None:
        """Undo `discard`."""
        queue_review.restore(self._context, reviewer, item)
