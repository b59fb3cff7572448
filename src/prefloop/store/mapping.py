"""Converts records to database rows and back without loss.

Token ids and logprobs are packed: one letter (a `struct` type: H, I, q for ids; f, d for floats), then the numbers,
little-endian, in the narrowest type that holds each of them exactly. A token id takes 2 bytes for most tokenizers, and
a logprob takes 4. Everything nested is JSON text.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

from sqlalchemy import RowMapping

from prefloop.errors import DataError
from prefloop.messages import Turns, content_from_json, content_to_json, to_turns
from prefloop.store.records import ImportRow, ModelRow
from prefloop.store.split import bucket
from prefloop.types import Completion, Demonstration, Item, Prompt, Ranking


def dumps(value: object) -> str:
    """Return compact JSON. Raises DataError for values that JSON cannot express."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise DataError(f"cannot be stored as JSON: {error}. Use numbers, texts, lists and tables only.") from None


def pack_ints(values: Sequence[int] | None) -> bytes | None:
    """Return token ids [T] as bytes. Raises DataError for numbers beyond 64 bits."""
    if values is None:
        return None
    low, high = min(values, default=0), max(values, default=0)
    kind = "q" if low < 0 or high >= 2**32 else "I" if high >= 2**16 else "H"
    try:
        return kind.encode() + struct.pack(f"<{len(values)}{kind}", *values)
    except struct.error as error:
        raise DataError(f"token ids cannot be stored: {error}") from None


def pack_floats(values: Sequence[float] | None) -> bytes | None:
    """Return floats [T] as bytes: 4 bytes each if all of them are exact in 32 bits, else 8."""
    if values is None:
        return None
    kind = "f" if all(_is_float32(value) for value in values) else "d"
    return kind.encode() + struct.pack(f"<{len(values)}{kind}", *values)


def unpack(packed: bytes | None) -> tuple[Any, ...] | None:
    """Return the numbers that `pack_ints` or `pack_floats` packed."""
    if packed is None:
        return None
    kind = chr(packed[0])
    return struct.unpack(f"<{(len(packed) - 1) // struct.calcsize('<' + kind)}{kind}", memoryview(packed)[1:])


def _is_float32(value: float) -> bool:
    try:
        return bool(struct.unpack("<f", struct.pack("<f", value))[0] == value)
    except OverflowError:
        return False


def prompt_row(prompt: Prompt) -> dict[str, Any]:
    return {
        "id": prompt.id,
        "content": dumps(content_to_json(prompt.content)),
        "system": prompt.system,
        "tools": dumps(list(prompt.tools)) if prompt.tools else None,
        "metadata": dumps(dict(prompt.metadata)),
        "split": prompt.split,
        "bucket": bucket(prompt),
    }


def to_prompt(row: RowMapping) -> Prompt:
    return Prompt(
        content=content_from_json(json.loads(row["content"])),
        system=row["system"],
        metadata=json.loads(row["metadata"]),
        split=row["split"],
        id=row["id"],
        tools=tuple(json.loads(row["tools"])) if row["tools"] else (),
    )


def _turns_text(messages: Turns) -> str | None:
    return dumps(content_to_json(messages)) if messages else None


def turns(text: str | None) -> Turns:
    return to_turns(json.loads(text)) if text else ()


def demonstration_row(shown: Demonstration) -> dict[str, Any]:
    return {
        "id": shown.id,
        "prompt_id": shown.prompt.id,
        "text": shown.text,
        "messages": _turns_text(shown.messages),
        "ordinal": shown.ordinal,
        "metadata": dumps(dict(shown.metadata)),
    }


def to_demonstration(row: RowMapping, prompt: Prompt) -> Demonstration:
    return Demonstration(
        prompt, row["text"], json.loads(row["metadata"]), row["ordinal"], row["id"], messages=turns(row["messages"])
    )


def item_row(item: Item, round: int) -> dict[str, Any]:
    return {
        "id": item.id,
        "prompt_id": item.prompt.id,
        "external_id": item.external_id,
        "round": item.round or round,
        "source": item.source,
        "metadata": dumps(dict(item.metadata)),
    }


def to_item(row: RowMapping, prompt: Prompt, completions: Sequence[Completion], rankings: Sequence[Ranking]) -> Item:
    return Item(
        id=row["id"],
        prompt=prompt,
        completions=tuple(completions),
        rankings=tuple(rankings),
        external_id=row["external_id"],
        round=row["round"],
        source=row["source"],
        metadata=json.loads(row["metadata"]),
    )


def completion_row(
    completion: Completion, position: int, *, prompt_id: str, item_id: str | None = None, run_id: str | None = None
) -> dict[str, Any]:
    return {
        "id": completion.id,
        "prompt_id": prompt_id,
        "item_id": item_id,
        "position": position,
        "text": completion.text,
        "messages": _turns_text(completion.messages),
        "model": completion.model,
        "policy_version": completion.policy_version,
        "token_ids": pack_ints(completion.token_ids),
        "logprobs": pack_floats(completion.logprobs),
        "finish_reason": completion.finish_reason,
        "sampling": None if completion.sampling is None else dumps(dict(completion.sampling)),
        "tokenizer": completion.tokenizer,
        "metadata": dumps(dict(completion.metadata)),
        "run_id": run_id,
    }


def to_completion(row: RowMapping) -> Completion:
    return Completion(
        id=row["id"],
        text=row["text"],
        model=row["model"],
        policy_version=row["policy_version"],
        token_ids=unpack(row["token_ids"]),
        logprobs=unpack(row["logprobs"]),
        finish_reason=row["finish_reason"],
        sampling=None if row["sampling"] is None else json.loads(row["sampling"]),
        tokenizer=row["tokenizer"],
        metadata=json.loads(row["metadata"]),
        messages=turns(row["messages"]),
    )


def ranking_row(ranking: Ranking) -> dict[str, Any]:
    return {
        "id": ranking.id,
        "item_id": ranking.item_id,
        "annotator": ranking.annotator,
        "criterion": ranking.criterion,
        "tiers": dumps(ranking.tiers),
        "unacceptable": dumps(ranking.unacceptable),
        "none_acceptable": ranking.none_acceptable,
        "ratings": dumps({key: dict(value) for key, value in ranking.ratings.items()}),
        "comment": ranking.comment,
        "flags": dumps(ranking.flags),
        "shown": dumps(ranking.shown),
        "duration_s": ranking.duration_s,
        "created_at": ranking.created_at,
        "supersedes": ranking.supersedes,
        "simulated": ranking.simulated,
        "metadata": dumps(dict(ranking.metadata)),
        "ordinal": ranking.ordinal,
    }


def to_ranking(row: RowMapping) -> Ranking:
    return Ranking(
        item_id=row["item_id"],
        annotator=row["annotator"],
        criterion=row["criterion"],
        tiers=tuple(tuple(tier) for tier in json.loads(row["tiers"])),
        unacceptable=tuple(json.loads(row["unacceptable"])),
        none_acceptable=row["none_acceptable"],
        ratings=json.loads(row["ratings"]),
        comment=row["comment"],
        flags=tuple(json.loads(row["flags"])),
        shown=tuple(json.loads(row["shown"])),
        duration_s=row["duration_s"],
        created_at=row["created_at"],
        supersedes=row["supersedes"],
        simulated=row["simulated"],
        metadata=json.loads(row["metadata"]),
        ordinal=row["ordinal"],
        id=row["id"],
    )


def model_row(model: ModelRow) -> dict[str, Any]:
    return {
        "version": model.version,
        "kind": model.kind,
        "path": model.path,
        "parent": model.parent,
        "run_id": model.run_id,
        "weights_sha256": model.weights_sha256,
        "snapshot_hash": model.snapshot_hash,
        "criterion": model.criterion,
        "metrics": dumps(dict(model.metrics)),
        "files": None if model.files is None else dumps(dict(model.files)),
    }


def to_model(row: RowMapping) -> ModelRow:
    return ModelRow(
        version=row["version"],
        kind=row["kind"],
        path=row["path"],
        parent=row["parent"],
        run_id=row["run_id"],
        weights_sha256=row["weights_sha256"],
        snapshot_hash=row["snapshot_hash"],
        criterion=row["criterion"],
        metrics=json.loads(row["metrics"]),
        files=None if row["files"] is None else json.loads(row["files"]),
    )


def to_import(row: RowMapping) -> ImportRow:
    return ImportRow(
        name=row["name"],
        sha256=row["sha256"],
        format=row["format"],
        counts=json.loads(row["counts"]),
        rejected=row["rejected"],
        reasons=tuple(json.loads(row["reasons"])),
        imported_at=row["imported_at"],
        removed=row["removed"],
    )
