"""Reads Label Studio's JSON export: tasks with Ranker annotations of a List, or Pairwise choices between two texts.

A Ranker without buckets gives an order. With buckets it gives piles, and only numbered piles have an order ("1 best",
"2 good"): they become tiers, lowest number first. One pile beside the untouched list ("_") is a partial order. Other
piles cannot be ranked, and the row's error says so. Cancelled annotations, drafts and predictions are left out.
JSON_MIN is left out too, because it does not say which control made what.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from prefloop.exchange import fields
from prefloop.exchange.base import BadRow, Format, Record, quoted
from prefloop.exchange.build import IMPORTED, build_item, draft
from prefloop.types import Completion, Item, Ranking

UNSORTED = "_"
TEXTS = ("body", "html", "text", "title")  # The text of a list's entry is the first of these that says something.
RANKED = ("ranker", "pairwise")


def fits(record: Record) -> bool:
    return isinstance(record.get("data"), dict) and isinstance(record.get("annotations"), list)


def parse(records: Sequence[Record]) -> Iterable[Item]:
    (record,) = records
    data = fields.object_of(record.get("data"), "data")
    annotations = [
        fields.object_of(a, "an annotation") for a in fields.items_of(record.get("annotations"), "annotations")
    ]
    counted = [a for a in annotations if a.get("was_cancelled") is not True]
    completions, taken = _completions(data, [r for a in counted for r in _results(a)])
    prompt, used = fields.named_prompt({name: value for name, value in data.items() if name not in taken})
    yield build_item(
        prompt,
        completions,
        [ranking for a in counted for ranking in _rankings(a, [c.id for c in completions], taken)],
        external_id=fields.optional_name(record, "id"),
        metadata={n: v for n, v in data.items() if n not in taken and n not in used and v is not None},
    )


FORMAT = Format(
    "label-studio",
    "Label Studio: tasks with Ranker or Pairwise annotations (JSON export)",
    fits,
    parse,
    fields.everything,
)


def _results(annotation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [fields.object_of(r, "a result") for r in fields.items_of(annotation.get("result") or [], "result")]


def _value(result: Mapping[str, Any]) -> Mapping[str, Any]:
    return fields.object_of(result.get("value") or {}, "the value of a result")


# -- the completions ---------------------------------------------------------------------------------------------------


def _completions(
    data: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> tuple[list[Completion], tuple[str, ...]]:
    """Return the ranked completions, and the fields of the data that held them."""
    pair = next((r for r in results if r.get("type") == "pairwise"), None)
    if pair is not None:
        sides = _sides(pair, data)
        return [fields.completion(data[name], name, name) for name in sides], sides
    ranked = {id for r in results if r.get("type") == "ranker" for ids in _piles(r).values() for id in ids}
    for name, value in data.items():
        if _is_list(value) and ranked <= {str(entry["id"]) for entry in value}:
            return [_entry(entry, name) for entry in value], (name,)
    if ranked:
        raise BadRow(f"no list in the data has all of what is ranked: {quoted(sorted(ranked)[:4])}")
    raise BadRow("no list of objects with an id, and no pairwise choice: nothing here can be ranked")


def _is_list(value: object) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(e, dict) and "id" in e for e in value)


def _entry(entry: Mapping[str, Any], name: str) -> Completion:
    key = next((key for key in TEXTS if isinstance(entry.get(key), str | list) and entry[key]), None)
    if key is None:
        raise BadRow(f"an entry of {name[:40]!r} has no text: give it a body or a title")
    left = {n: v for n, v in entry.items() if n not in ("id", key, "model") and v not in (None, "")}
    model = entry.get("model") if isinstance(entry.get("model"), str) else None
    completion = fields.completion(entry[key], str(entry["id"]), key)
    return replace(completion, model=model, metadata={**completion.metadata, **left})


def _sides(pair: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[str, str]:
    """Return the two fields of a pairwise choice: those named by `to_name`, or the only two with similar names."""
    named = pair.get("to_name")
    names = named if isinstance(named, list) else [n.strip() for n in str(named or "").split(",")]
    if len(names) == 2 and all(isinstance(n, str) and isinstance(data.get(n), str | list) for n in names):
        return names[0], names[1]
    ends = {name: match for name in data if (match := re.fullmatch(r"(.+?)[\W_]*([12ab]|left|right)", name, re.I))}
    twos = [
        (first, second)
        for first, one in ends.items()
        for second, other in ends.items()
        if one[1] == other[1] and (one[2].lower(), other[2].lower()) in (("1", "2"), ("a", "b"), ("left", "right"))
    ]
    if len(twos) != 1:
        raise BadRow("cannot tell which two fields were compared: call them by the names of the two tags in the config")
    return twos[0]


# -- the rankings ------------------------------------------------------------------------------------------------------


def _rankings(annotation: Mapping[str, Any], shown: Sequence[str], fields_taken: Sequence[str]) -> Iterator[Ranking]:
    results = _results(annotation)
    comments = [t for r in results if r.get("type") == "textarea" for t in _texts(_value(r).get("text"))]
    other = {
        str(r.get("from_name")): dict(_value(r)) for r in results if r.get("type") not in (*RANKED, "textarea", None)
    }
    metadata: dict[str, Any] = {"answers": other} if other else {}
    if annotation.get("ground_truth") is True:
        metadata["ground_truth"] = True
    spent = fields.optional_number(annotation, "lead_time")
    for result in results:
        tiers = _tiers(result, fields_taken)
        if tiers:
            yield draft(
                _who(annotation),
                fields.optional_name(result, "from_name") or "preference",
                tiers,
                comment="\n".join(comments) or None,
                shown=tuple(shown),
                duration_s=spent if spent is not None and spent >= 0 else None,
                created_at=fields.optional_text(annotation, "created_at"),
                metadata=metadata,
            )


def _texts(value: object) -> list[str]:
    return [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)]


def _who(annotation: Mapping[str, Any]) -> str:
    """Return a person's number in Label Studio, and never the e-mail address that some exports hold."""
    by = annotation.get("completed_by")
    if isinstance(by, dict):
        by = by.get("id")
    return fields.optional_name({"completed_by": by}, "completed_by") or IMPORTED


def _tiers(result: Mapping[str, Any], sides: Sequence[str]) -> list[list[str]]:
    """Return tiers, best first; [] if a result is not a ranking."""
    if result.get("type") == "pairwise":
        left, right = sides
        orders = {"left": [[left], [right]], "right": [[right], [left]]}
        return orders.get(str(_value(result).get("selected")), [])
    if result.get("type") != "ranker":
        return []
    piles = {name: ids for name, ids in _piles(result).items() if name != UNSORTED and ids}
    if len(piles) == 1:
        return [[id] for ids in piles.values() for id in ids]
    numbers = {name: re.search(r"\d+", name) for name in piles}
    if not all(numbers.values()) or len({int(m[0]) for m in numbers.values() if m}) < len(piles):
        raise BadRow(
            f"the piles {quoted(sorted(piles))} have no order. Number them in the labelling config, best first: 1 good"
        )
    return [piles[name] for name in sorted(piles, key=lambda name: int(numbers[name][0]))]  # type: ignore[index]


def _piles(result: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return {bucket: ids in order}; without buckets, one entry under the ranker's own name."""
    found = _value(result).get("ranker")
    if isinstance(found, list):
        found = {"rank": found}
    piles = fields.object_of(found, "the ranker's value")
    return {name: [_id(id) for id in fields.items_of(ids, f"the pile {quoted(name)}")] for name, ids in piles.items()}


def _id(value: object) -> str:
    return fields.optional_name({"id": value}, "id") or ""
