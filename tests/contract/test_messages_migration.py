"""Stores of before messages were kept whole: what they hold comes along, and ids stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, text

from prefloop.errors import DataError
from prefloop.exchange.build import build_item, draft
from prefloop.store import Store, mapping
from prefloop.store.connections.database import Database, resolve
from prefloop.store.migrate import alembic_config
from prefloop.types import Completion, Item, Message, Prompt

TURNS = (Message("assistant", "yes"), Message("user", "sure?"), Message("assistant", "no"))
TOLD = "assistant: yes\n\nuser: sure?\n\nassistant: no"


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_answers_of_several_turns_move_out_of_the_metadata_and_importing_again_adds_nothing(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    answers = [Completion("c0", TOLD, metadata={"from": "x"}, messages=TURNS), Completion("c1", "maybe")]
    own = Completion("c2", "mine", metadata={"messages": "mine"})
    item = build_item(Prompt("q"), [*answers, own], [draft("ann", "quality", [["c0"], ["c1"]])])
    url = "sqlite:///store.db" if kind == "sqlite" else request.getfixturevalue("fresh_postgres")
    database = Database(resolve(url, tmp_path))
    with database.write() as connection:
        _write_before(connection, item)
    database.close()
    with Store.open(url, tmp_path) as store:
        found = store.item(item.id)
        assert found == item and [c.metadata for c in found.completions] == [{"from": "x"}, {}, {"messages": "mine"}]
        assert not any(vars(store.add([item])).values())


def _write_before(connection: Connection, item: Item) -> None:
    """Write the item as the program before wrote it: into the tables of then, with turns under the metadata."""
    settings = alembic_config()
    settings.attributes["connection"] = connection
    command.upgrade(settings, "0006")
    rows: dict[str, list[dict[str, Any]]] = {
        "prompts": [mapping.prompt_row(item.prompt)],
        "items": [mapping.item_row(item, 0)],
        "completions": [
            mapping.completion_row(c, place, prompt_id=item.prompt.id, item_id=item.id)
            for place, c in enumerate(item.completions)
        ],
        "rankings": [mapping.ranking_row(ranking) for ranking in item.rankings],
    }
    for table, found in rows.items():
        for row in found:
            row.pop("tools", None)
            if turns := row.pop("messages", None):
                row["metadata"] = mapping.dumps({**json.loads(row["metadata"]), "messages": json.loads(turns)})
            names = ", ".join(row)
            connection.execute(
                text(f"INSERT INTO {table} ({names}) VALUES ({', '.join(f':{name}' for name in row)})"), row
            )


def test_an_id_whose_answer_calls_another_tool_is_refused(store: Store) -> None:
    def item(tool: str) -> Item:
        turn = Message("assistant", None, {"tool_calls": [{"function": {"name": tool, "arguments": {}}}]})
        return Item("i", Prompt("q"), (Completion("i:c0", "calls it", messages=(turn,)), Completion("i:c1", "no")))

    store.add([item("weather")])
    assert not any(vars(store.add([item("weather")])).values())
    with pytest.raises(DataError, match="already in the store with other completions"):
        store.add([item("delete")])
