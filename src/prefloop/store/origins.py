"""Says which file and row a record was read from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Select, Table, select, union_all

from prefloop.store.schema import demonstrations, imports, items
from prefloop.store.schema import origins as table
from prefloop.store.store import Store
from prefloop.store.write import chunks


def origins(store: Store, ids: Iterable[str]) -> dict[str, str]:
    """Return {id: "pairs.jsonl row 8"} of the records whose origin is known.

    A demonstration or item may bring its prompt.
    """
    found: dict[str, str] = {}
    with store.database.read() as connection:
        logged = connection.execute(select(imports.c.sha256, imports.c.name).order_by(imports.c.seq))
        names = {row.sha256: row.name for row in logged}
        for part in chunks(dict.fromkeys(ids)):
            own: Select[Any] = select(table.c.record_id.label("id"), table.c.sha256, table.c.row).where(
                table.c.record_id.in_(part)
            )
            through = [_through(of, part) for of in (demonstrations, items)]
            for row in connection.execute(union_all(own, *through)):
                found.setdefault(row.id, f"{names.get(row.sha256, row.sha256[:16])} row {row.row}")
    return found


def has_origins(store: Store, sha256: str) -> bool:
    """Return whether any record is known to come from this file. Rows of older imports were not numbered."""
    with store.database.read() as connection:
        return connection.scalar(select(table.c.row).where(table.c.sha256 == sha256).limit(1)) is not None


def _through(of: Table, prompts: list[str]) -> Select[Any]:
    """Select the origins of prompts through the demonstrations and items that ask them."""
    joined = select(of.c.prompt_id.label("id"), table.c.sha256, table.c.row)
    return joined.join(table, table.c.record_id == of.c.id).where(of.c.prompt_id.in_(prompts))
