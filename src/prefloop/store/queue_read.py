"""What a person may know of their own work, and where the queue as a whole stands. Reads only."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, and_, func, select

from prefloop.labels.answer import from_ranking
from prefloop.store import codec
from prefloop.store.queue_give import EDITABLE
from prefloop.store.queue_rows import Desk, Phase, able_person, excerpt, plain
from prefloop.store.queue_types import Given, Progress, Quota
from prefloop.store.schema import items, leases, prompts, rankings, settings, tasks

_PACED_BY = 50  # latest answers
_FEWEST = 5


def history(desk: Desk, person: str, limit: int) -> list[Given]:
    """See `Queue.history`."""
    with desk.database.read() as connection:
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
        answers = {row["id"]: from_ranking(codec.to_ranking(row)) for row in said}
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


def progress(desk: Desk, person: str, open: int) -> Progress:
    """See `Queue.progress`; open: rankings the whole queue waits for."""
    with desk.database.read() as connection:
        mine = leases.c.person == person
        asked_again = select(func.count()).where(mine, leases.c.returned_at.is_not(None)).scalar_subquery()
        me = able_person(connection, person, asked_again.label("returned"))
        latest = select(leases.c.duration_s, leases.c.words).where(mine, leases.c.given_at.is_not(None))
        rows = connection.execute(latest.order_by(leases.c.given_at.desc()).limit(_PACED_BY)).all()
    timed = [(float(row.duration_s), max(1, row.words)) for row in rows if row.duration_s]
    enough = len(timed) >= _FEWEST
    most = desk.settings.limit if me["most"] is None else me["most"]
    at_limit = most is not None and me["done"] >= most
    return Progress(
        done=me["done"],
        skipped=me["skipped"],
        returned=me["returned"],
        limit=most,
        open=open,
        per_hour=3600 / statistics.median(spent for spent, _ in timed) if enough else None,
        seconds_per_word=statistics.median(spent / words for spent, words in timed) if enough else None,
        stopped="excluded" if me["excluded"] is not None else "limit" if at_limit else None,
    )


def quota(desk: Desk, round: int | None) -> Quota:
    """See `Queue.quota`."""
    with desk.database.read() as connection:
        sums = (func.count(), func.sum(tasks.c.wanted), func.sum(tasks.c.done), func.sum(tasks.c.live))
        query = select(tasks.c.phase, *sums).where(tasks.c.criterion == desk.settings.criterion)
        if round is not None:
            query = query.where(tasks.c.round == round)
        found = {row[0]: tuple(int(n) for n in row[1:]) for row in connection.execute(query.group_by(tasks.c.phase))}
        unfit = int(setting(connection, f"fill:{desk.settings.criterion}", {}).get("unfit", 0))
    work = [found[phase] for phase in (Phase.FRESH, Phase.HALF, Phase.FULL) if phase in found]
    number, wanted, done, live = (sum(column) for column in zip(*work, strict=True)) if work else (0, 0, 0, 0)
    target = wanted if desk.settings.quota is None else min(wanted, desk.settings.quota)
    gold, discarded = (found.get(phase, (0,))[0] for phase in (Phase.GOLD, Phase.CLOSED))
    return Quota(wanted, done, wanted - done, live, number, gold, discarded, unfit, target)


def fresh(desk: Desk, by: str) -> list[str]:
    """See `Queue.fresh`."""
    here = and_(tasks.c.criterion == desk.settings.criterion, tasks.c.phase == int(Phase.FRESH))
    if by:
        here = and_(here, tasks.c.judged_by != by)
    with desk.database.read() as connection:
        return list(connection.scalars(select(tasks.c.item_id).where(here).order_by(tasks.c.seq)))


def golds(desk: Desk) -> Iterator[tuple[str, tuple[tuple[str, ...], ...]]]:
    """See `Queue.golds`."""
    here = and_(tasks.c.criterion == desk.settings.criterion, tasks.c.gold.is_not(None))
    with desk.database.read() as connection:
        rows = connection.execute(select(tasks.c.item_id, tasks.c.gold).where(here).order_by(tasks.c.seq)).all()
    for item, gold in rows:
        yield item, plain(json.loads(gold))


def setting(connection: Connection, key: str, default: Any) -> Any:
    """A stored value of the project, as JSON."""
    text = connection.scalar(select(settings.c.value).where(settings.c.key == key))
    return default if text is None else json.loads(text)
