"""What each file of a registered model was when it was registered, so that a load can tell whether it still is.

Null: registered before this migration; such a model cannot be checked.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("models", sa.Column("files", sa.Text()))
