"""Adds the settings of annotation that were changed in the browser, and the guidelines that people have read."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_Seq = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "rules",
        sa.Column("seq", _Seq, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("who", sa.Text()),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text()),
        sa.Column("base", sa.Text(), nullable=False),
    )
    op.create_index("ix_rules_key", "rules", ["key", "seq"])
    op.create_table(
        "guidelines",
        sa.Column("seq", _Seq, primary_key=True, autoincrement=True),
        sa.Column("hash", sa.Text(), nullable=False, unique=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
    )
    op.add_column("people", sa.Column("guidelines", sa.Text()))
