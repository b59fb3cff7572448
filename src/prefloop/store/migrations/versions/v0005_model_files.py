"""Adds the hash of each file of a registered model, so that a load can tell whether the file is still the same.

Null means that the model was registered before this migration; such a model cannot be checked.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("models", sa.Column("files", sa.Text()))
