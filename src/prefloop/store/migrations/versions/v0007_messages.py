"""Adds what messages hold beside role and text: a prompt's tools, and the turns of an answer that is more than a text.

Answers of several turns were kept under `metadata` before; they move to their column, as they are. No id changes.
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("prompts", sa.Column("tools", sa.Text()))
    op.add_column("demonstrations", sa.Column("messages", sa.Text()))
    op.add_column("completions", sa.Column("messages", sa.Text()))
    _move()


def _move() -> None:
    """Move the answers a page at a time, because a store may hold millions of them."""
    rows = sa.table("completions", sa.column("seq"), sa.column("metadata"), sa.column("messages"))
    connection, last = op.get_bind(), 0
    while True:
        query = sa.select(rows.c.seq, rows.c.metadata).where(rows.c.seq > last, rows.c.metadata.contains('"messages"'))
        page = connection.execute(query.order_by(rows.c.seq).limit(1000)).all()
        for seq, text in page:
            last, metadata = seq, json.loads(text)
            turns = metadata.pop("messages", None)
            if not (isinstance(turns, list) and all(_is_turn(turn) for turn in turns)):
                continue
            values = {"metadata": _dumps(metadata), "messages": _dumps(turns)}
            connection.execute(sa.update(rows).where(rows.c.seq == seq).values(values))
        if len(page) < 1000:
            return


def _is_turn(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == {"role", "content"}


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
