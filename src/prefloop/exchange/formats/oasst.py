"""Reads Open-Assistant: conversation trees in which people ranked sibling replies, and flat lists of ranked replies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from prefloop.exchange import fields
from prefloop.exchange.base import BadRow, FieldLook, Format, Record, quoted
from prefloop.exchange.build import IMPORTED, PREFERENCE, build_item, by_score, draft
from prefloop.types import Completion, Content, Item, Message, Prompt

TREE_USED = ("message_id", "parent_id", "text", "role", "rank", "model_name", "replies")
TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant): ")


def fits_tree(record: Record) -> bool:
    return "message_tree_id" in record and "prompt" in record


def parse_tree(records: Sequence[Record]) -> Iterator[Item | BadRow]:
    """Yield one item for each group of replies of which at least two have a rank. Lower is better, and equal ranks tie.

    Deleted replies are left out. A reply without a rank stays in the list, unranked.
    """
    (record,) = records
    root = fields.object_of(record.get("prompt"), "prompt")
    pending: list[tuple[Mapping[str, Any], tuple[Message, ...]]] = [(root, ())]
    while pending:
        node, before = pending.pop()
        message, _ = fields.message({"from": node.get("role"), "value": node.get("text")}, "a message of the tree")
        path = (*before, message)
        replies = [fields.object_of(r, "a reply") for r in fields.items_of(node.get("replies") or [], "replies")]
        replies = [r for r in replies if r.get("deleted") is not True]
        pending += [(reply, path) for reply in reversed(replies)]
        ranked = {f"c{i}": reply["rank"] for i, reply in enumerate(replies) if reply.get("rank") is not None}
        if message.role == "user" and len(ranked) > 1:
            try:
                yield _group(record, node, path, replies, ranked)
            except BadRow as error:
                yield BadRow(f"replies to {quoted(node.get('message_id'))}: {error}")


def _group(
    record: Record,
    node: Mapping[str, Any],
    path: tuple[Message, ...],
    replies: Sequence[Mapping[str, Any]],
    ranked: Mapping[str, object],
) -> Item:
    completions = [
        Completion(
            f"c{i}",
            fields.text(reply.get("text"), "the text of a reply"),
            model=fields.optional_text(reply, "model_name"),
            metadata={"message_id": reply.get("message_id"), **fields.rest(reply, TREE_USED)},
        )
        for i, reply in enumerate(replies)
    ]
    tiers = by_score({local: -fields.number(rank, "rank") for local, rank in ranked.items()})
    return build_item(
        Prompt(path),
        completions,
        [draft(IMPORTED, PREFERENCE, tiers)],
        external_id=fields.optional_name(node, "message_id"),
        metadata={
            "message_tree_id": record.get("message_tree_id"),
            **{name: node[name] for name in ("lang",) if node.get(name) is not None},
        },
    )


def fits_replies(record: Record) -> bool:
    return "responses" in record and "ranks" in record


def parse_replies(records: Sequence[Record]) -> Iterable[Item]:
    """Yield items from `prompt`, `responses` and a rank for each; lower is better, equal ranks tie."""
    (record,) = records
    responses = fields.items_of(record.get("responses"), "responses")
    ranks = fields.items_of(record.get("ranks"), "ranks")
    if len(ranks) != len(responses) or len(responses) < 2:
        raise BadRow(
            f"{len(responses)} responses and {len(ranks)} ranks: there must be at least two, and one rank each"
        )
    tiers = by_score({f"c{i}": -fields.number(rank, "a rank") for i, rank in enumerate(ranks)})
    prompt = fields.prompt_of(record)
    if isinstance(prompt.content, str):
        prompt = replace(prompt, content=_turns(prompt.content), id="")
    yield build_item(
        prompt,
        [fields.completion(response, f"c{i}", "a response") for i, response in enumerate(responses)],
        [draft(IMPORTED, PREFERENCE, tiers)],
        external_id=fields.optional_name(record, "id"),
        metadata=fields.rest(record, ("id", "responses", "ranks", *fields.prompt_fields(record))),
    )


def _turns(text: str) -> Content:
    """Return "Human: ... Assistant: ..." as messages if the turns alternate; any other text as it is."""
    _, *parts = TURN.split(text)
    names, texts = parts[::2], parts[1::2]
    expected = ["Assistant" if i % 2 else "Human" for i in range(len(names))]
    if not text.startswith("Human: ") or names != expected or not len(names) % 2 or not all(s.strip() for s in texts):
        return text
    return tuple(Message("user" if n == "Human" else "assistant", s) for n, s in zip(names, texts, strict=True))


TREES = Format(
    "oasst", "Open-Assistant conversation trees with ranked replies", fits_tree, parse_tree, fields.everything
)
REPLIES = Format(
    "ranked-replies",
    "a prompt, its responses, and a rank for each (0 is best)",
    fits_replies,
    parse_replies,
    lambda record: ("id", "responses", "ranks", *fields.prompt_fields(record)),
    frozenset({FieldLook.VERDICT, FieldLook.NUMBERED}),
)
