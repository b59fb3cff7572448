"""Makes tasks from new items, a thousand at a time, and stores what programs say about tasks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, and_, bindparam, exists, func, insert, select, update

from prefloop.errors import DataError
from prefloop.labels.answer import LETTERS
from prefloop.labels.assign import draw, overlaps
from prefloop.store import mapping
from prefloop.store.queue.read import setting
from prefloop.store.queue.rows import Phase, QueueContext, StoredRow, change_task, note, reviewer, task_of_item
from prefloop.store.queue.rules import OVERLAP, applied, last_changes
from prefloop.store.read import effective
from prefloop.store.schema import completions, items, rankings, rules, settings, tasks
from prefloop.store.write import chunks

_ITEMS = 1000  # So many items are read in one transaction.


def fill(context: QueueContext) -> int:
    """See `Queue.fill`."""
    total = 0
    while True:
        with context.database.write() as connection:
            read, added = _fill_some(connection, context)
        total += added
        if read < _ITEMS:
            return total


def _fill_some(connection: Connection, context: QueueContext) -> tuple[int, int]:
    """Return how many items were looked at, and how many tasks were made.

    `fill:<criterion>` in the settings says how far earlier calls came.
    """
    criterion = context.settings.criterion
    at = {"items": 0, "tasks": 0, "unfit": 0} | setting(connection, f"fill:{criterion}", {})
    cards = select(func.count()).where(completions.c.item_id == items.c.id).scalar_subquery()
    by_people = and_(rankings.c.criterion == criterion, ~rankings.c.simulated, effective())
    ranked = exists().where(rankings.c.item_id == items.c.id, by_people)
    columns = (items.c.seq, items.c.id, items.c.round, items.c.metadata, cards.label("cards"), ranked.label("ranked"))
    query = select(*columns).where(items.c.seq > at["items"]).order_by(items.c.seq).limit(_ITEMS)
    rows = connection.execute(query).mappings().all()
    if not rows:
        return 0, 0
    fit = [row for row in rows if 2 <= row["cards"] <= len(LETTERS)]
    todo = [row for row in fit if not row["ranked"]]
    wanted = _overlaps(context, at["tasks"], len(todo))
    if todo:
        made = [_task(context, row, people) for row, people in zip(todo, wanted, strict=True)]
        # With `returning`, Postgres inserts many rows in one statement.
        connection.execute(insert(tasks).returning(tasks.c.seq), made)
    unfit = at["unfit"] + len(rows) - len(fit)
    keep_setting(
        connection,
        f"fill:{criterion}",
        {"items": rows[-1]["seq"], "tasks": at["tasks"] + len(todo), "unfit": unfit},
    )
    return len(rows), len(todo)


def _task(context: QueueContext, item: StoredRow, wanted: int) -> dict[str, Any]:
    tag = json.loads(item["metadata"]).get("tag") if '"tag"' in item["metadata"] else None
    return {
        "item_id": item["id"],
        "criterion": context.settings.criterion,
        "round": item["round"],
        "wanted": wanted,
        "done": 0,
        "live": 0,
        "phase": int(Phase.FRESH),
        "tag": tag if isinstance(tag, str) else "",
        "shuffle": draw(context.seed, "place", item["id"]).random(),
        "priority": 0.0,
        "skips": 0,
    }


def overlap_anew(context: QueueContext) -> None:
    """Give items that are not ranked yet the overlap last set in the browser, a thousand at a time.

    `overlap:<criterion>` in the settings holds the last change and how far it has been applied, so that a server that
    is stopped continues at its next start. Nobody's place is taken away.
    """
    key = f"overlap:{context.settings.criterion}"
    while True:
        with context.database.work(alone=True) as connection:
            newest = connection.scalar(select(func.max(rules.c.seq)).where(rules.c.key.in_(OVERLAP))) or 0
            at = {"change": 0, "task": 0, "count": 0, "done": True} | setting(connection, key, {})
            if at["change"] != newest:
                at = {"change": newest, "task": 0, "count": 0, "done": False}
            if at["done"]:
                return
            now = replace(context, settings=applied(context.file, last_changes(connection, context.file)))
            last, number = _overlap_some(connection, now, at["task"], at["count"])
            context.database.in_order(connection)
            done = number < _ITEMS
            keep_setting(connection, key, at | {"task": last, "count": at["count"] + number, "done": done})
        if done:
            return


def _overlap_some(connection: Connection, context: QueueContext, after: int, first: int) -> tuple[int, int]:
    """Return the number of the last task looked at, and how many tasks were looked at."""
    unfinished = tasks.c.phase.in_([Phase.FRESH, Phase.HALF, Phase.FULL]) & (tasks.c.done < tasks.c.wanted)
    here = (tasks.c.criterion == context.settings.criterion) & (tasks.c.seq > after) & unfinished
    held = connection.execute(select(tasks).where(here).order_by(tasks.c.seq).limit(_ITEMS).with_for_update())
    rows = held.mappings().all()
    for row, people in zip(rows, _overlaps(context, first, len(rows)), strict=True):
        change_task(connection, row, wanted=max(people, row["done"] + row["live"]))
    return (rows[-1]["seq"] if rows else after), len(rows)


def _overlaps(context: QueueContext, first: int, count: int) -> list[int]:
    few, many, share = context.settings.overlap, context.settings.overlap_many, context.settings.overlap_share
    return overlaps(first, count, few=few, many=many, share=share, seed=context.seed)


def keep_setting(connection: Connection, key: str, value: object) -> None:
    """Store a setting. Callers hold the write lock, so that two cannot insert the same key."""
    text = mapping.dumps(value)
    if not connection.execute(update(settings).where(settings.c.key == key).values(value=text)).rowcount:
        connection.execute(insert(settings), {"key": key, "value": text})


def set_priorities(context: QueueContext, scores: Mapping[str, float], by: str) -> int:
    """See `Queue.set_priorities`."""
    for item, score in scores.items():
        if not math.isfinite(score):
            raise DataError(f"the priority of item {item} is {score}. Give a finite number, or leave the item out.")
    values: dict[str, Any] = {item: float(score) for item, score in scores.items()}
    return _set_all(context, {"priority": values, "judged_by": dict.fromkeys(scores, by)})


def set_tag(context: QueueContext, chosen: Sequence[str], tag: str) -> int:
    """See `Queue.set_tag`."""
    return _set_all(context, {"tag": dict.fromkeys(chosen, tag)})


def _set_all(context: QueueContext, values: Mapping[str, Mapping[str, Any]]) -> int:
    """Set several columns, given as {column: {item id: value}} with the same items each."""
    found = 0
    for part in chunks(next(iter(values.values()))):
        with context.database.work(alone=True) as connection:
            here = (tasks.c.criterion == context.settings.criterion) & tasks.c.item_id.in_(part)
            held = select(tasks.c.seq, tasks.c.item_id).where(here).order_by(tasks.c.seq).with_for_update()
            rows = connection.execute(held).all()
            if rows:
                one = update(tasks).where(tasks.c.seq == bindparam("at"))
                one = one.values({column: bindparam(f"to_{column}") for column in values})
                to = [{f"to_{name}": column[row.item_id] for name, column in values.items()} for row in rows]
                connection.execute(one, [{"at": row.seq} | new for row, new in zip(rows, to, strict=True)])
            found += len(rows)
    return found


def set_gold(context: QueueContext, by: str | None, item: str, tiers: Sequence[Sequence[str]] | None) -> None:
    """See `Queue.set_gold`."""
    with context.database.work() as connection:
        reviewer(connection, by)
        task = task_of_item(connection, context, item)
        if tiers is not None:
            _check_gold(connection, item, tiers)
        gold = None if tiers is None else mapping.dumps(tiers)
        note(connection, context.clock(), by, "gold", item, task["gold"], gold)
        change_task(connection, task, gold=gold)


def _check_gold(connection: Connection, item: str, tiers: Sequence[Sequence[str]]) -> None:
    known = set(connection.scalars(select(completions.c.id).where(completions.c.item_id == item)))
    named = [id for tier in tiers for id in tier]
    for id in named:
        if id not in known:
            raise DataError(f"gold of item {item}: {id!r} is not one of its completions ({', '.join(sorted(known))})")
    if len(set(named)) != len(named) or len(tiers) < 2 or not all(tiers):
        raise DataError(f"gold of item {item}: give two or more tiers, each completion once; best first")
