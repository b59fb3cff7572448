"""`Queue`: hands out items to people and takes their answers; every method is one transaction, exact under any crowd."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from prefloop.config import Annotate
from prefloop.labels.answer import Answer
from prefloop.store.queue_types import (
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


class Queue:
    """`Queue(store, config.annotate, seed=config.project.seed)`. Safe from several threads; on Postgres also processes.

    Persons are public ids ("p-..."). Every method raises ForbiddenError for a person who does not exist or is disabled,
    LeaseError for a lease that does not exist or is another's, StoreError and BusyError as the store does.
    """

    def __init__(
        self, store: Store, settings: Annotate, clock: Callable[[], float] = time.time, *, seed: int = 0
    ) -> None:
        self._store, self._settings, self._clock, self._seed = store, settings, clock, seed

    # -- work --------------------------------------------------------------------------------------------------------

    def fill(self) -> int:
        """Make tasks for items that have none; returns how many. Only looks at items added since the last call.

        Left out: items that people (not simulated ones) have ranked on this criterion, and those that cannot be shown.
        """
        raise NotImplementedError

    def next(self, person: str, after: str | None = None) -> Presentation | None:
        """What this person should rank now: their own live lease first, else a new one; None: nothing for them.

        after: the lease on screen, to fetch the one that follows it ahead of time.
        """
        raise NotImplementedError

    def heartbeat(self, person: str, lease: str) -> float:
        """A sign of life; returns the new expiry. Raises LeaseError where the place is gone (a submit is still kept)."""
        raise NotImplementedError

    def draft(self, person: str, lease: str, state: Json) -> None:
        """Keep the half-made answer: any JSON of up to 100 kB, given back as `Presentation.draft`. AnswerError beyond."""
        raise NotImplementedError

    def submit(self, person: str, lease: str, uuid: str, answer: Answer) -> Receipt:
        """Write the ranking and close the lease. The same uuid and answer again: the same receipt, nothing written.

        Late answers are kept: counted where a place is free, else as surplus. Raises AnswerError for what does not
        answer the presentation, ConflictError for the same uuid with another body and for a second answer without
        `reopen`.
        """
        raise NotImplementedError

    def skip(self, person: str, lease: str, uuid: str, reason: str) -> Receipt:
        """Give the item up for good: somebody else gets it. `reason` is one of `labels.answer.SKIP_REASONS`."""
        raise NotImplementedError

    def reopen(self, person: str, lease: str) -> Presentation:
        """One of the last 10 answers (or one returned by a reviewer) again; the next submit on it supersedes it."""
        raise NotImplementedError

    def history(self, person: str, limit: int = 10) -> list[Given]:
        """What this person gave, newest first."""
        raise NotImplementedError

    def progress(self, person: str) -> Progress:
        """Own numbers."""
        raise NotImplementedError

    # -- whole -------------------------------------------------------------------------------------------------------

    def quota(self, round: int | None = None) -> Quota:
        """Where the whole queue, or one round of it, stands; `prefloop run` waits for `quota().met`."""
        raise NotImplementedError

    def set_priorities(self, scores: Mapping[str, float]) -> int:
        """{item id: how informative}; higher goes first. Returns how many tasks were found. DataError for NaN."""
        raise NotImplementedError

    def set_tag(self, items: Sequence[str], tag: str) -> int:
        """Only people of the group `tag` get these items; "" = everybody. Returns how many tasks were found."""
        raise NotImplementedError

    def set_gold(self, reviewer: str | None, item: str, tiers: Sequence[Sequence[str]] | None) -> None:
        """Everybody is to rank `item` once, mixed in unseen; `tiers` (completion ids, best first) is what is expected.

        Leaving completions out says nothing about them. None: an ordinary item again. Raises DataError.
        """
        raise NotImplementedError

    def golds(self) -> Iterator[tuple[str, tuple[tuple[str, ...], ...]]]:
        """(item id, expected tiers of completion ids) of every gold item."""
        raise NotImplementedError

    # -- reviewers ---------------------------------------------------------------------------------------------------

    def browse(self, kind: str = "all", after: int = 0, limit: int = 50) -> list[TaskRow]:
        """A page of the queue: kind "all", "answered", "skipped", "several", "gold" or "discarded"."""
        raise NotImplementedError

    def view(self, item: str) -> ItemView:
        """Everyone's rankings of an item side by side. Raises DataError where there is no such item."""
        raise NotImplementedError

    def adjudicate(self, reviewer: str, item: str, uuid: str, answer: Answer) -> Receipt:
        """The reviewer's own ranking, marked `metadata.adjudication`; positions are those of `view(item).item`."""
        raise NotImplementedError

    def give_back(self, reviewer: str, item: str, person: str, note: str = "") -> None:
        """Ask a person to rank an item again: `next` gives it first. Their answer stands until then."""
        raise NotImplementedError

    def discard(self, reviewer: str, item: str, reason: str) -> None:
        """Take an item out of every queue, and its rankings out of training. Answers still under way are kept."""
        raise NotImplementedError
