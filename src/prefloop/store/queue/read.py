"""Reads a person's own work and the state of the whole queue."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, and_, bindparam, exists, func, or_, select

from prefloop.labels.answer import from_ranking
from prefloop.store import mapping
from prefloop.store.queue.rows import Phase, QueueContext, StoredRow, able, able_person, excerpt, holding, plain
from prefloop.store.queue.submit import EDITABLE
from prefloop.store.queue.types import Given, Progress, Quota
from prefloop.store.schema import items, leases, people, prompts, rankings, settings, tasks
from prefloop.store.write import chunks

_PACED_BY = 50  # The pace is that of so many latest answers.
_FEWEST = 5
_RETURNED = select(func.count()).where(leases.c.person == people.c.id, leases.c.returned_at.is_not(None))
_ME = select(people, _RETURNED.scalar_subquery().label("returned")).where(people.c.id == bindparam("person"))
_LATEST = (
    select(leases.c.duration_s, leases.c.words)
    .where(leases.c.person == bindparam("person"), leases.c.given_at.is_not(None))
    .order_by(leases.c.given_at.desc())
    .limit(_PACED_BY)
)
_HERE = (
    tasks.c.criterion == bindparam("criterion"),
    tasks.c.tag.in_(bindparam("tags", expanding=True)),
    tasks.c.phase.in_([int(Phase.FRESH), int(Phase.HALF)]),
)
_FREE = select(func.count()).select_from(tasks).where(*_HERE)
_HAD = (
    select(
        func.count().filter(*_HERE),  # These are the items that the person had before or has now.
        func.count().filter(leases.c.state == "live"),
        func.count().filter(
            leases.c.state == "expired", tasks.c.phase.in_([int(Phase.FRESH), int(Phase.HALF), int(Phase.GOLD)])
        ),
        func.count().filter(leases.c.state == "done", leases.c.returned_at.is_not(None)),
    )
    .join(tasks, tasks.c.seq == leases.c.task)
    .where(
        leases.c.person == bindparam("person"),
        tasks.c.criterion == bindparam("criterion"),
        tasks.c.discarded.is_(None),
    )
)


def history(context: QueueContext, person: str, limit: int) -> list[Given]:
    """See `Queue.history`."""
    with context.database.read() as connection:
        able_person(connection, person)
        query = (
            select(leases, prompts.c.content, tasks.c.discarded)
            .join(tasks, tasks.c.seq == leases.c.task)
            .join(items, items.c.id == tasks.c.item_id)
            .join(prompts, prompts.c.id == items.c.prompt_id)
            .where(leases.c.person == person, leases.c.given_at.is_not(None))
            .order_by(leases.c.given_at.desc(), leases.c.seq.desc())
            .limit(limit)
        )
        rows = connection.execute(query).mappings().all()
        wanted = [row["ranking_id"] for row in rows if row["state"] == "done"]
        said = connection.execute(select(rankings).where(rankings.c.id.in_(wanted))).mappings()
        answers = {row["id"]: from_ranking(mapping.to_ranking(row)) for row in said}
    return [
        Given(
            lease=row["id"],
            at=row["given_at"],
            excerpt=excerpt(row["content"]),
            answer=answers.get(row["ranking_id"]) if row["state"] == "done" else None,
            skipped=row["reason"] if row["state"] == "skipped" else None,
            editable=row["discarded"] is None and (n < EDITABLE or row["returned"] is not None or row["reopened"]),
            returned=row["returned"],
        )
        for n, row in enumerate(rows)
    ]


def progress(context: QueueContext, person: str) -> Progress:
    """Return the same as `Queue.progress`, but for `open`, which takes longer to count."""
    with context.database.read() as connection:
        me = able(connection.execute(_ME, {"person": person}).mappings().first(), person)
        rows = connection.execute(_LATEST, {"person": person}).all()
    timed = [(float(row.duration_s), max(1, row.words)) for row in rows if row.duration_s]
    enough = len(timed) >= _FEWEST
    most = _most(context, me)
    at_limit = most is not None and me["done"] >= most
    return Progress(
        done=me["done"],
        skipped=me["skipped"],
        returned=me["returned"],
        limit=most,
        open=0,
        per_hour=3600 / statistics.median(spent for spent, _ in timed) if enough else None,
        seconds_per_word=statistics.median(spent / words for spent, words in timed) if enough else None,
        stopped="excluded" if me["excluded"] is not None else "limit" if at_limit else None,
    )


def open_to(context: QueueContext, person: str) -> int:
    """Return how many items this person can still get (`Progress.open`)."""
    with context.database.read() as connection:
        me = able_person(connection, person)
        here = {"criterion": context.settings.criterion, "tags": ["", *json.loads(me["groups"])]}
        free = connection.scalar(_FREE, here) or 0
        had, live, dropped, returned = connection.execute(_HAD, {**here, "person": person}).one()
    if me["excluded"] is not None:
        return int(live)
    most = _most(context, me)
    new = live + dropped + free - had
    return int(returned + (new if most is None else min(new, max(live, most - me["done"]))))


def held_elsewhere(context: QueueContext, person: str) -> bool:
    """See `Queue.held_elsewhere`."""
    had = leases.alias("had")
    with context.database.read() as connection:
        tags = ["", *json.loads(able_person(connection, person)["groups"])]
        seen = exists().where(had.c.task == tasks.c.seq, had.c.person == person)
        others = exists().where(
            leases.c.task == tasks.c.seq,
            tasks.c.criterion == context.settings.criterion,
            tasks.c.tag.in_(tags),
            *holding(context.clock()),
            ~seen,
        )
        return bool(connection.scalar(select(others)))


def starts(context: QueueContext, chosen: Iterable[str]) -> dict[str, str]:
    """See `Queue.starts`."""
    found: dict[str, str] = {}
    with context.database.read() as connection:
        for part in chunks(chosen):
            query = select(items.c.id, prompts.c.content).join(prompts, prompts.c.id == items.c.prompt_id)
            found |= {id: excerpt(text) for id, text in connection.execute(query.where(items.c.id.in_(part)))}
    return found


def _most(context: QueueContext, me: StoredRow) -> int | None:
    most: int | None = context.settings.limit if me["most"] is None else me["most"]
    return most


def quota(context: QueueContext, round: int | None) -> Quota:
    """See `Queue.quota`."""
    here = tasks.c.criterion == context.settings.criterion
    if round is not None:
        here = and_(here, tasks.c.round == round)
    with context.database.read() as connection:
        sums = (func.count(), func.sum(tasks.c.wanted), func.sum(tasks.c.done))
        query = select(tasks.c.phase, *sums).where(here).group_by(tasks.c.phase)
        found = {row[0]: tuple(int(n) for n in row[1:]) for row in connection.execute(query)}
        held = select(func.count()).join(tasks, tasks.c.seq == leases.c.task).where(here, *holding(context.clock()))
        live = connection.scalar(held.where(tasks.c.gold.is_(None), tasks.c.discarded.is_(None))) or 0
        unfit = int(setting(connection, f"fill:{context.settings.criterion}", {}).get("unfit", 0))
    work = [found[phase] for phase in (Phase.FRESH, Phase.HALF, Phase.FULL) if phase in found]
    number, wanted, done = (sum(column) for column in zip(*work, strict=True)) if work else (0, 0, 0)
    target = wanted if context.settings.quota is None else min(wanted, context.settings.quota)
    gold, discarded = (found.get(phase, (0,))[0] for phase in (Phase.GOLD, Phase.CLOSED))
    return Quota(wanted, done, wanted - done, live, number, gold, discarded, unfit, target)


def fresh(context: QueueContext, by: str) -> list[str]:
    """See `Queue.fresh`."""
    here = and_(tasks.c.criterion == context.settings.criterion, tasks.c.phase == int(Phase.FRESH))
    if by:
        here = and_(here, tasks.c.judged_by != by)
    with context.database.read() as connection:
        return list(connection.scalars(select(tasks.c.item_id).where(here).order_by(tasks.c.seq)))


def golds(context: QueueContext) -> Iterator[tuple[str, tuple[tuple[str, ...], ...]]]:
    """See `Queue.golds`."""
    here = and_(tasks.c.criterion == context.settings.criterion, tasks.c.gold.is_not(None))
    with context.database.read() as connection:
        rows = connection.execute(select(tasks.c.item_id, tasks.c.gold).where(here).order_by(tasks.c.seq)).all()
    for item, gold in rows:
        yield item, plain(json.loads(gold))


def settled(context: QueueContext) -> set[str]:
    """See `Queue.settled`."""
    done = or_(tasks.c.gold.is_not(None), tasks.c.discarded.is_not(None))
    with context.database.read() as connection:
        return set(
            connection.scalars(select(tasks.c.item_id).where(tasks.c.criterion == context.settings.criterion, done))
        )


def setting(connection: Connection, key: str, default: Any) -> Any:
    """Return a stored value of the project, as JSON."""
    text = connection.scalar(select(settings.c.value).where(settings.c.key == key))
    return default if text is None else json.loads(text)
