"""Stores of before messages were kept whole: what they hold comes along, and ids stay."""

from __future__ import annotations

import json
from collections.abc import Callable

from sqlalchemy import text

from prefloop.exchange.build import build_item, draft
from prefloop.store import Store
from prefloop.types import Completion, Message, Prompt

TURNS = (Message("assistant", "yes"), Message("user", "sure?"), Message("assistant", "no"))
TOLD = "assistant: yes\n\nuser: sure?\n\nassistant: no"


def test_answers_of_several_turns_move_out_of_the_metadata_and_importing_again_adds_nothing(
    opener: Callable[[], Store],
) -> None:
    answers = [Completion("c0", TOLD, metadata={"from": "x"}, messages=TURNS), Completion("c1", "maybe")]
    own = Completion("c2", "mine", metadata={"messages": "mine"})
    item = build_item(Prompt("q"), [*answers, own], [draft("ann", "quality", [["c0"], ["c1"]])])
    store = opener()
    store.add([item])
    turns = [{"role": m.role, "content": m.content} for m in TURNS]
    with store.database.write() as connection:  # as the program before wrote it
        for table, column in (("completions", "messages"), ("demonstrations", "messages"), ("prompts", "tools")):
            connection.execute(text(f"ALTER TABLE {table} DROP COLUMN {column}"))
        before = {"m": json.dumps({"from": "x", "messages": turns}, separators=(",", ":")), "id": f"{item.id}:c0"}
        connection.execute(text("UPDATE completions SET metadata = :m WHERE id = :id"), before)
        connection.execute(text("UPDATE alembic_version SET version_num = '0006'"))
    again = opener()
    found = again.item(item.id)
    assert found == item and [c.metadata for c in found.completions] == [{"from": "x"}, {}, {"messages": "mine"}]
    assert not any(vars(again.add([item])).values())
