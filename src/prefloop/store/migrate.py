"""Brings a store to the schema of this program in one transaction, so that a kill leaves the old schema intact."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from prefloop.errors import StoreError
from prefloop.store.connections.database import Database
from prefloop.store.schema import HEAD

if TYPE_CHECKING:
    from alembic.config import Config

_ALEMBIC_IS_GLOBAL = threading.Lock()  # Alembic's `op` and `context` are global.


def migrate(database: Database, *, create: bool) -> None:
    """Bring the store up to date.

    Raises StoreError for a store of a newer prefloop, and for a database that holds something else.
    """
    with database.read() as connection:
        if _version(connection, database.label) == HEAD:
            return
    # The import stands here, because importing Alembic takes longer than opening a store.
    from alembic import command
    from alembic.script import ScriptDirectory

    with _ALEMBIC_IS_GLOBAL, database.write() as connection:
        # The version is checked again, because another process may have migrated meanwhile.
        version = _version(connection, database.label)
        if version is None and not create:
            raise StoreError(f"{database.label} is an empty database. Make a project with: prefloop init")
        settings = alembic_config()
        known = {script.revision for script in ScriptDirectory.from_config(settings).walk_revisions()}
        if version is not None and version not in known:
            raise StoreError(
                f"{database.label} was written by a newer prefloop (schema {version}, this one knows up to {HEAD}). "
                "Run: pip install --upgrade prefloop"
            )
        settings.attributes["connection"] = connection
        command.upgrade(settings, "head")


def alembic_config() -> Config:
    """Return Alembic's settings without an ini file. The migrations are shipped in this package."""
    from alembic.config import Config

    settings = Config()
    folder = str(Path(__file__).parent / "migrations")
    settings.set_main_option("script_location", folder.replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    return settings


def _version(connection: Connection, label: str) -> str | None:
    """Return the version of a store's schema; None for an empty database."""
    tables = inspect(connection).get_table_names()
    if "alembic_version" in tables:
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if tables:
        raise StoreError(
            f"{label} holds tables that are not prefloop's ({', '.join(sorted(tables)[:5])}). "
            "Give prefloop a database of its own: [project] store in prefloop.toml"
        )
    return None
