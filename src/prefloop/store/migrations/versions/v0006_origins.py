"""Adds where records come from, so that errors name file and row, and a file's records can be taken out again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "origins",
        sa.Column("record_id", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("record_id", "sha256"),
    )
    op.create_index("ix_origins_sha256", "origins", ["sha256"])
    op.add_column("imports", sa.Column("removed", sa.Integer(), nullable=False, server_default="0"))
    op.execute("ALTER TABLE removals RENAME COLUMN ranking_id TO member_id")
