"""Reads and writes the canonical ranking record without loss: one JSON object for each list.

    {"id", "prompt", "system",
     "completions": [{"id", "text", ...}],
     "rankings": [{"annotator", "criterion", "tiers", ...}]}

Fields that are not part of the format are kept under `metadata`. What only this program knows (hashes that it could not
derive again, rounds, the split, the version of this layout) is under the key "prefloop", where it cannot be mistaken
for other data. In Parquet, where a column has one type, a prompt that is a chat is called "messages".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from prefloop.exchange import fields
from prefloop.exchange.base import BadRow, Format, Record
from prefloop.exchange.build import ACCEPTABLE, build_item, derived_item_id, draft
from prefloop.exchange.turns import TOOLS
from prefloop.types import Completion, Item, Prompt, Ranking, content_to_json, digest, prompt_id

OWN = "prefloop"
SCHEMA = 1  # Written records have this version; newer ones are refused.
RECORD = ("id", "prompt", "system", *TOOLS, "completions", "rankings", OWN)
COMPLETION = ("id", "text", "messages", "model", "policy_version", "token_ids", "logprobs", "sampling", "tokenizer")
RANKING = ("annotator", "criterion", "tiers", "unacceptable", "none_acceptable", "ratings", "comment", "flags", "shown")
EVENT = ("duration_s", "created_at", "supersedes", "simulated", OWN)
BESIDE = ("system", *TOOLS)  # These are fields of a prompt.
FINISH_REASONS = ("stop", "length")


def fits(record: Record) -> bool:
    has_prompt = "prompt" in record or (OWN in record and "messages" in record)
    return has_prompt and isinstance(record.get("completions"), list) and "labels" not in record


def parse(records: Sequence[Record]) -> Iterable[Item]:
    (record,) = records
    own = _own(record)
    prompt, used = _asked(record, own)
    if own:
        prompt = _own_prompt(prompt, own)
    # Our own models may give empty answers; in other people's files an empty text is a mistake.
    completions = [
        _completion(value, may_be_empty=bool(own))
        for value in fields.items_of(record.get("completions"), "completions")
    ]
    rankings = [_ranking(value) for value in fields.items_of(record.get("rankings") or [], "rankings")]
    judged = bool(rankings) and all(r.criterion == ACCEPTABLE for r in rankings)
    if not completions or (len(completions) < 2 and not judged and not own):
        raise BadRow(f"a ranking needs at least two completions; this record has {len(completions)}")
    yield build_item(
        prompt,
        completions,
        rankings,
        external_id=fields.optional_name(record, "id"),
        metadata=_checked_rest(record, used),
        item_id=own.get("item_id"),
        round=own.get("round", 0),
        source=own.get("source", "import"),
    )


COMPLETIONS = tuple(f"completions.{name}" for name in (*COMPLETION, "finish_reason", "metadata"))


def uses(record: Record) -> Collection[str]:
    """Return the used fields.

    In a record with rankings, or one written by this program, all other fields are metadata.
    """
    return record.keys() if record.get("rankings") or OWN in record else (*RECORD, "messages", *COMPLETIONS)


FORMAT = Format("rankings", "canonical ranking records: prompt, completions, rankings with tiers", fits, parse, uses)


def _asked(record: Record, own: Mapping[str, Any]) -> tuple[Prompt, tuple[str, ...]]:
    """Return the prompt, and the fields that are not metadata."""
    if own and record.get("prompt") is None:
        return fields.prompt_of({name: record.get(name) for name in ("messages", *BESIDE)}), (*RECORD, "messages")
    return fields.prompt_of({name: record.get(name) for name in ("prompt", *BESIDE)}), RECORD


def _own(record: Record) -> dict[str, Any]:
    """Return the content of "prefloop", with every field in the type it was written with."""
    own = dict(fields.object_of(record.get(OWN) or {}, OWN))
    for name, types in OWN_TYPES.items():
        if name in own and (not isinstance(own[name], types) or isinstance(own[name], bool)):
            raise BadRow(f"{OWN}.{name} must not be {fields.kind(own[name])}")
    if own.get("split") not in (None, "train", "heldout"):
        raise BadRow(f"{OWN}.split must be train or heldout")
    if own.get("schema", SCHEMA) > SCHEMA:
        raise BadRow(f"written by a newer prefloop (layout {own['schema']}, this one knows up to {SCHEMA})")
    if ":" in own.get("item_id", ""):
        raise BadRow(f"{OWN}.item_id must not contain a colon")
    return own


OWN_TYPES: Mapping[str, type] = {
    "schema": int,
    "item_id": str,
    "prompt_id": str,
    "prompt_metadata": dict,
    "round": int,
    "source": str,
    "split": str,
    "id": str,
    "ordinal": int,
}


def _own_prompt(prompt: Prompt, own: Mapping[str, Any]) -> Prompt:
    metadata = own.get("prompt_metadata", {})
    return replace(prompt, metadata=metadata, split=own.get("split"), id=own.get("prompt_id", ""))


def _checked_rest(record: Record, used: tuple[str, ...]) -> dict[str, Any]:
    if record.get("metadata") is not None:
        fields.object_of(record["metadata"], "metadata")
    return fields.rest(record, used)


def _completion(value: object, may_be_empty: bool) -> Completion:
    entry = fields.object_of(value, "a completion")
    local_id = fields.text(entry.get("id"), "the id of a completion")
    name = f"completion {local_id[:40]!r}"
    known: dict[str, Any] = {n: fields.optional_text(entry, n) for n in ("model", "policy_version", "tokenizer")}
    if entry.get("token_ids") is not None:
        known["token_ids"] = fields.token_ids(entry["token_ids"])
    if entry.get("logprobs") is not None:
        listed = fields.items_of(entry["logprobs"], "logprobs")
        known["logprobs"] = tuple(fields.number(v, "a logprob") for v in listed)
        if "token_ids" in known and len(known["token_ids"]) != len(known["logprobs"]):
            raise BadRow(f"{name} has {len(known['token_ids'])} token_ids but {len(known['logprobs'])} logprobs")
    if entry.get("sampling") is not None:
        known["sampling"] = fields.object_of(entry["sampling"], "sampling")
    used: tuple[str, ...] = COMPLETION
    if entry.get("finish_reason") in FINISH_REASONS:  # Other reasons ("eos", "tool_calls") stay in the metadata.
        known["finish_reason"] = entry["finish_reason"]
        used = (*COMPLETION, "finish_reason")
    known["metadata"] = _checked_rest(entry, used)
    # A list holds spelt-out messages.
    turns = entry["text"] if isinstance(entry.get("text"), list) else entry.get("messages")
    if turns is not None:
        made = fields.answer(fields.messages(turns, name)[0], local_id, name, **known)
        return replace(made, text=entry["text"]) if isinstance(entry.get("text"), str) else made
    if may_be_empty and isinstance(entry.get("text"), str):
        return Completion(local_id, entry["text"], **known)
    return Completion(local_id, fields.text(entry.get("text"), f"the text of {name}"), **known)


def _ids(entry: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = fields.items_of(entry.get(name) or [], name)
    return tuple(fields.text(local, f"an id in {name}") for local in found)


def _ranking(value: object) -> Ranking:
    entry = fields.object_of(value, "a ranking")
    own = _own(entry)
    tiers = [_ids({"tiers": tier}, "tiers") for tier in fields.items_of(entry.get("tiers"), "tiers")]
    ratings = fields.object_of(entry.get("ratings") or {}, "ratings")
    duration_s = fields.optional_number(entry, "duration_s")
    if duration_s is not None and duration_s < 0:
        raise BadRow("duration_s must not be negative")
    more: dict[str, Any] = {n: own[n] for n in ("id", "ordinal") if n in own}
    return draft(
        fields.text(entry.get("annotator"), "the annotator of a ranking"),
        fields.text(entry.get("criterion"), "the criterion of a ranking"),
        tiers,
        unacceptable=_ids(entry, "unacceptable"),
        none_acceptable=fields.flag(entry, "none_acceptable", False),
        ratings={
            local: {a: fields.number(v, f"the rating {a[:40]!r}") for a, v in fields.object_of(r, "a rating").items()}
            for local, r in ratings.items()
        },
        comment=fields.optional_text(entry, "comment"),
        flags=_ids(entry, "flags"),
        shown=_ids(entry, "shown"),
        duration_s=duration_s,
        created_at=fields.optional_text(entry, "created_at"),
        supersedes=fields.optional_text(entry, "supersedes"),
        simulated=fields.flag(entry, "simulated", False),
        metadata=_checked_rest(entry, (*RANKING, *EVENT)),
        **more,
    )


def to_record(item: Item) -> dict[str, Any]:
    """Return the record that `parse` turns back into an equal item. Fields with default values are left out."""
    prompt = item.prompt
    local = {c.id: c.local_id for c in item.completions}
    derived_prompt_id = prompt_id(prompt.content, prompt.system, prompt.tools)
    own = {
        "schema": SCHEMA,
        "item_id": item.id if item.id != derived_item_id(prompt, item.external_id, item.completions) else None,
        "prompt_id": prompt.id if prompt.id != derived_prompt_id else None,
        "prompt_metadata": dict(prompt.metadata) or None,
        "split": prompt.split,
        "round": item.round or None,
        "source": item.source if item.source != "import" else None,
    }
    return present(
        id=item.external_id,
        prompt=content_to_json(prompt.content),
        system=prompt.system,
        tools=list(prompt.tools) or None,
        completions=[_completion_record(c) for c in item.completions],
        rankings=[_ranking_record(r, place, local) for place, r in enumerate(item.rankings)],
        metadata=dict(item.metadata) or None,
        **{OWN: present(**own)},
    )


def present(**record: Any) -> dict[str, Any]:
    return {name: value for name, value in record.items() if value is not None}


def _completion_record(completion: Completion) -> dict[str, Any]:
    return present(
        id=completion.local_id,
        text=completion.text,
        messages=content_to_json(completion.messages) if completion.messages else None,
        model=completion.model,
        policy_version=completion.policy_version,
        token_ids=completion.token_ids,
        logprobs=completion.logprobs,
        finish_reason=completion.finish_reason,
        sampling=completion.sampling,
        tokenizer=completion.tokenizer,
        metadata=dict(completion.metadata) or None,
    )


def _ranking_record(ranking: Ranking, place: int, local: Mapping[str, str]) -> dict[str, Any]:
    r = ranking
    derived = digest("ranking", r.item_id, r.annotator, r.criterion, r.tiers, r.created_at, r.ordinal)
    own = present(id=r.id if r.id != derived else None, ordinal=r.ordinal if r.ordinal != place else None)
    return present(
        annotator=r.annotator,
        criterion=r.criterion,
        tiers=[[local[i] for i in tier] for tier in r.tiers],
        unacceptable=[local[i] for i in r.unacceptable] or None,
        none_acceptable=r.none_acceptable or None,
        ratings={local[i]: dict(rated) for i, rated in r.ratings.items()} or None,
        comment=r.comment,
        flags=list(r.flags) or None,
        shown=[local[i] for i in r.shown] or None,
        duration_s=r.duration_s,
        created_at=r.created_at,
        supersedes=r.supersedes,
        simulated=r.simulated or None,
        metadata=dict(r.metadata) or None,
        **{OWN: own or None},
    )
