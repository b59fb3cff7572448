"""Streams all records of a kind for exports, with one chunk in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import ColumnElement, select
from sqlalchemy.sql.expression import true

from prefloop.store import mapping, read
from prefloop.store.schema import demonstrations, prompts, rankings
from prefloop.store.store import Store
from prefloop.types import Demonstration, Item, Prompt

CHUNK = 1000  # So many prompts or demonstrations are in memory at once.


def every_item(store: Store, *, criterion: str | None = None, ranked: bool | None = None) -> Iterator[Item]:
    """Yield items with every ranking ever given: superseded ones, those of excluded people, and of discarded items."""
    return read.stream_items(store._database, _Every(criterion=criterion, ranked=ranked))


def every_prompt(store: Store) -> Iterator[Prompt]:
    """Yield all prompts in the order in which they were added."""
    after = 0
    while True:
        query = select(prompts).where(prompts.c.seq > after).order_by(prompts.c.seq).limit(CHUNK)
        with store._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        yield from (mapping.to_prompt(row) for row in rows)
        if len(rows) < CHUNK:
            return
        after = rows[-1]["seq"]


def every_demonstration(store: Store) -> Iterator[Demonstration]:
    """Yield all demonstrations in the order in which they were added."""
    after = 0
    while True:
        of_chunk = select(demonstrations).where(demonstrations.c.seq > after)
        with store._database.read() as connection:
            rows = connection.execute(of_chunk.order_by(demonstrations.c.seq).limit(CHUNK)).mappings().all()
            asked = read.prompts_by_id(connection, {row["prompt_id"] for row in rows})
        yield from (mapping.to_demonstration(row, asked[row["prompt_id"]]) for row in rows)
        if len(rows) < CHUNK:
            return
        after = rows[-1]["seq"]


@dataclass(frozen=True)
class _Every(read.ItemQuery):
    def counted(self) -> ColumnElement[bool]:
        return true() if self.criterion is None else rankings.c.criterion == self.criterion
