"""Waits in `prefloop run` while people rank. It loads no model.

Nothing is held while it waits, neither the project nor a transaction: the server, imports and other commands go on.
What people gave is in the store: an interrupted wait loses nothing, and the same command takes it up where it stands.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass

from prefloop.errors import BusyError, NothingToDoError, StoreError
from prefloop.project.project import Project
from prefloop.results import PeopleRanked
from prefloop.store import Queue, Quota, get_address, listens

POLL_S = 2.0  # The queue is looked at so often.
SHARE_OF_TIME = 0.05  # At most this share of the time is spent looking, since a sum over a large queue takes a moment.
STALLED_S = 3600.0  # After so long without a new ranking it says what can be done.
PATIENCE_S = 600.0  # The database may be away so long.
STEPS = 10  # So many lines are printed on the way where there is no terminal for a bar.
DEFAULT_ADDRESS = "http://127.0.0.1:8300"


@dataclass(frozen=True)
class Clock:
    """Gives the time in seconds, which tests replace. `now` never goes back."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def annotate(project: Project, round: int, clock: Clock | None = None) -> PeopleRanked:
    """Wait until people have ranked as much of a round as `[annotate] quota` asks for; `skipped` if they had already.

    Raises NothingToDoError where there is nothing to rank, StoreError where the database stays away for ten minutes.
    """
    clock = clock or Clock()
    rules = project.config.annotate
    queue = project.queue
    queue.fill()
    quota = queue.quota(round)
    if not quota.tasks and not _ranked(project, round):
        raise NothingToDoError(_nothing(round, quota, rules.criterion))
    waited = not quota.met
    if waited:
        _announce(project, round, quota)
        quota = _wait(project, round, queue, quota, clock)
    return PeopleRanked(
        round=round,
        criterion=rules.criterion,
        simulated=False,
        items=quota.tasks,
        rankings=quota.done,
        wanted=quota.target,
        left_open=quota.open,
        discarded=quota.discarded,
        skipped=not waited,
    )


def _nothing(round: int, quota: Quota, criterion: str) -> str:
    if quota.discarded:
        return f"round {round}: reviewers discarded all {quota.discarded} items. Sample or import others."
    if quota.unfit:
        return f"nothing can be ranked: {quota.unfit} items have fewer than 2 or more than 9 completions. Set sample.k"
    return f'there is nothing to rank by "{criterion}" in round {round}: run prefloop sample, or import completions'


def _ranked(project: Project, round: int) -> bool:
    """Return whether people had ranked the round before it could be queued, as when their rankings were imported."""
    criterion = project.config.annotate.criterion
    items = project.store.items(round=round, criterion=criterion, ranked=True)
    return any(not ranking.simulated for item in items for ranking in item.rankings)


def _announce(project: Project, round: int, quota: Quota) -> None:
    address = get_address(project.store)
    if address is not None and listens(address):
        where = f"  they rank at {address}\n"
    else:
        command = f"prefloop annotate -C {shlex.quote(str(project.root))}"
        where = f"  they rank at {DEFAULT_ADDRESS} once the server runs; start it in another terminal:\n    {command}\n"
    project.say(
        f"annotate: round {round} waits for people: {quota.done} of {quota.target} rankings are there\n{where}"
        "  run goes on by itself when the rankings are there; Ctrl-C stops it, and the same command goes on later"
    )


def _wait(project: Project, round: int, queue: Queue, quota: Quota, clock: Clock) -> Quota:
    """Look until the quota is met. Raises StoreError after PATIENCE_S without a database."""
    told, stalled = _step(quota), False
    last_change = last_seen = clock.now()
    with project.progress(quota.target, "rankings", quota.done, lines=False) as bar:
        pause = POLL_S
        while not quota.met:
            clock.sleep(pause)
            begun = clock.now()
            try:
                found = queue.quota(round)
            except (BusyError, StoreError) as error:
                if begun - last_seen > PATIENCE_S:
                    raise
                project.say(f"annotate: {error} Trying again.")
                pause = min(60.0, 2 * pause)
                continue
            last_seen = clock.now()
            pause = max(POLL_S, (last_seen - begun) / SHARE_OF_TIME)
            if (found.done, found.target) != (quota.done, quota.target):
                last_change, stalled = last_seen, False
            quota = found
            bar.total, bar.n = quota.target, quota.done
            bar.refresh()
            if bar.disable and _step(quota) > told:
                project.say(f"annotate: {quota.done} of {quota.target} rankings")
                told = _step(quota)
            if last_seen - last_change > STALLED_S and not stalled:
                stalled = True
                project.say(
                    f"annotate: nothing new for an hour, {quota.open} rankings are open. Invite somebody (prefloop "
                    "annotate --invite annotator), or run again with a lower --set annotate.quota=N"
                )
    return quota


def _step(quota: Quota) -> int:
    """Return how many tenths of the quota are done."""
    return STEPS if quota.met else quota.done * STEPS // max(1, quota.target)
