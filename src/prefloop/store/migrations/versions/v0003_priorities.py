"""Adds what judged how informative a task is, so that the same models need not judge it again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("judged_by", sa.Text(), nullable=False, server_default=""))
