"""Adds what somebody had marked before they skipped an item: flags by answer, and a comment."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("leases", sa.Column("marked", sa.Text()))
