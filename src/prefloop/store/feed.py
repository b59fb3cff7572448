"""Reads rankings in the order in which they were written, for programs that fetch what is new."""

from __future__ import annotations

from sqlalchemy import func, select

from prefloop.store import mapping
from prefloop.store.schema import rankings
from prefloop.store.store import Store
from prefloop.types import Ranking


def latest(store: Store) -> int:
    """Return the number of the newest ranking; 0 before the first.

    No lower number appears later: rankings are numbered under the write lock (`Database.in_order`), which is held until
    they are committed.
    """
    with store.database.read() as connection:
        return connection.scalar(select(func.max(rankings.c.seq))) or 0


def rankings_since(store: Store, after: int, limit: int) -> list[tuple[int, Ranking]]:
    """Return up to `limit` pairs (number, ranking) with numbers above `after`, in order, superseding ones included."""
    end = latest(store)
    query = select(rankings).where(rankings.c.seq > after, rankings.c.seq <= end).order_by(rankings.c.seq).limit(limit)
    with store.database.read() as connection:
        return [(row["seq"], mapping.to_ranking(row)) for row in connection.execute(query).mappings()]
