"""The store: the only place that speaks SQL. SQLite by default, Postgres by URL. See docs/store.md."""

from prefloop.store.lock import ProjectLock
from prefloop.store.records import Counts, ImportRow, ModelKind, ModelRow
from prefloop.store.split import split_of
from prefloop.store.store import Store

__all__ = ["Counts", "ImportRow", "ModelKind", "ModelRow", "ProjectLock", "Store", "split_of"]
