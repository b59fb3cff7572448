"""Adds the log-probabilities of completions by a reference model, so that it need not compute them again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "logprobs",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("completion_id", sa.Text(), nullable=False),
        sa.Column("total", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["completion_id"], ["completions.id"]),
        sa.PrimaryKeyConstraint("model", "completion_id"),
    )
