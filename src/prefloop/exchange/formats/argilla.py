"""Reads Argilla's ranking questions: `to_json` and `to_datasets` of 2.x, the server's own records, and 1.x datasets.

A ranked option is the name of a field ("response-1"), which holds the completion. Numbered fields beside it that were
not ranked are completions too. Each submitted answer of a person gives one ranking. Drafts, discarded answers, vectors
and suggestions, which come from a model, are left out. Everything else that a person answered is kept with their
ranking.

Note that the 2.x SDK writes a ranking as its options in order, and loses ties. Other exports keep the ranks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefloop.exchange import fields
from prefloop.exchange.base import BadRow, Format, Record, quoted
from prefloop.exchange.build import IMPORTED, build_item, by_score, draft
from prefloop.types import Item, Ranking

RESPONSES = ".responses"
NOT_FIELDS = ("id", "external_id", "_server_id", "status", "metadata", "fields", "responses", "suggestions", "vectors")
COUNTED = ("submitted", None)  # Answers of this status count; some exports have none.
NUMBERED = re.compile(r"(.*?)[\s_.-]*(\d+|[a-h])")


@dataclass
class _Person:
    """Holds the answers of one person: {question: value}."""

    at: str | None = None
    answers: dict[str, Any] = field(default_factory=dict)


def fits(record: Record) -> bool:
    if isinstance(record.get("fields"), dict):
        return "responses" in record
    return any(_is_flat(record, name) or _is_old_column(value) for name, value in record.items())


def _is_flat(record: Record, name: str) -> bool:
    return name.endswith(RESPONSES) and f"{name}.users" in record


def _is_old_column(value: object) -> bool:
    """Return whether a column is a question of a 1.x dataset, which holds every person's answer with its status."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and {"user_id", "value", "status"} <= first.keys()


def parse(records: Sequence[Record]) -> Iterable[Item]:
    (record,) = records
    nested = isinstance(record.get("fields"), dict)
    shown = record["fields"] if nested else _flat_fields(record)
    people = _people(record)
    options = _completion_fields(shown, people.values())
    prompt, used = fields.named_prompt({name: value for name, value in shown.items() if name not in options})
    rest = {n: v for n, v in shown.items() if n not in options and n not in used and v is not None}
    given = fields.object_of(record.get("metadata") or {}, "metadata")
    yield build_item(
        prompt,
        [fields.completion(shown[name], name, f"the field {name[:40]!r}") for name in options],
        [ranking for who, person in people.items() for ranking in _rankings(who, person, options)],
        external_id=next(
            (id for n in ("external_id", "id", "_server_id") if (id := fields.optional_name(record, n))), None
        ),
        metadata={**given, **rest},
    )


FORMAT = Format(
    "argilla",
    "Argilla: records with a ranking question (2.x JSON, datasets, 1.x feedback)",
    fits,
    parse,
    fields.everything,
)


# -- who answered what -------------------------------------------------------------------------------------------------


def _people(record: Record) -> dict[str, _Person]:
    found: dict[str, _Person] = {}
    for who, at, question, value in _answers(record):
        person = found.setdefault(who, _Person())
        person.at = at or person.at
        person.answers[question] = value
    return found


def _answers(record: Record) -> Iterator[tuple[str, str | None, str, Any]]:
    """Yield (person, when, question, value) of every submitted answer, in any of the layouts."""
    responses = record.get("responses")
    if isinstance(responses, list):  # Records of the server, and of 1.x, have one entry a person.
        for entry in responses:
            response = fields.object_of(entry, "an entry of responses")
            if response.get("status") in COUNTED:
                for question, value in fields.object_of(response.get("values") or {}, "values").items():
                    yield (
                        _who(response),
                        _when(response),
                        question,
                        value.get("value") if isinstance(value, dict) else value,
                    )
    elif isinstance(responses, dict):  # Records of 2.x have one entry a question.
        for question, entries in responses.items():
            for entry in fields.items_of(entries, f"the responses to {quoted(question)}"):
                yield from _one(question, entry)
    else:
        for name, value in record.items():
            if _is_flat(record, name):
                yield from _columns(record, name)
            elif _is_old_column(value):
                for entry in value:
                    yield from _one(name, entry)


def _one(question: str, entry: object) -> Iterator[tuple[str, str | None, str, Any]]:
    response = fields.object_of(entry, f"a response to {quoted(question)}")
    if response.get("status") in COUNTED:
        yield _who(response), _when(response), question, response.get("value")


def _columns(record: Record, name: str) -> Iterator[tuple[str, str | None, str, Any]]:
    """Yield the answers in the flattened columns of 2.x, which are three lists of equal length for each question."""
    values = fields.items_of(record[name] or [], name)
    users = fields.items_of(record.get(f"{name}.users") or [], f"{name}.users")
    statuses = fields.items_of(record.get(f"{name}.status") or [None] * len(values), f"{name}.status")
    if not len(values) == len(users) == len(statuses):
        raise BadRow(f"{name[:60]!r} has {len(values)} answers of {len(users)} people with {len(statuses)} statuses")
    for value, user, status in zip(values, users, statuses, strict=True):
        if status in COUNTED:
            yield user if isinstance(user, str) and user else IMPORTED, None, name.removesuffix(RESPONSES), value


def _who(response: Mapping[str, Any]) -> str:
    return fields.optional_name(response, "user_id") or IMPORTED


def _when(response: Mapping[str, Any]) -> str | None:
    return fields.optional_text(response, "updated_at") or fields.optional_text(response, "inserted_at")


# -- what is ranked ----------------------------------------------------------------------------------------------------


def _flat_fields(record: Record) -> dict[str, Any]:
    """Return the columns that are not about the record, its answers or its suggestions."""
    return {
        name: value
        for name, value in record.items()
        if name not in NOT_FIELDS
        and not re.search(r"\.(responses|suggestion)\b|-suggestion(-metadata)?$", name)
        and not _is_old_column(value)
    }


def _ranks(value: object) -> dict[str, float | None] | None:
    """Return {option: rank}, where 1 is best; None if a value is not a ranking.

    Options without a rank stay unranked.
    """
    if isinstance(value, dict) and isinstance(value.get("value"), list) and isinstance(value.get("rank"), list):
        if len(value["value"]) != len(value["rank"]):
            raise BadRow(f"a ranking has {len(value['value'])} values but {len(value['rank'])} ranks")
        value = [{"value": v, "rank": r} for v, r in zip(value["value"], value["rank"], strict=True)]
    if not isinstance(value, list) or len(value) < 2:
        return None
    if all(isinstance(v, str) for v in value):
        return {v: float(place) for place, v in enumerate(value)} if len(set(value)) == len(value) else None
    if not all(isinstance(v, dict) and isinstance(v.get("value"), str) for v in value):
        return None
    if len({v["value"] for v in value}) < len(value):
        raise BadRow("a ranking names one option twice")
    if not any("rank" in v for v in value):
        return {v["value"]: float(place) for place, v in enumerate(value)}
    return {v["value"]: fields.optional_number(v, "rank") for v in value}


def _completion_fields(shown: Mapping[str, Any], people: Iterable[_Person]) -> list[str]:
    """Return the fields that are ranked and their numbered neighbours, in the order of the record."""
    ranked: set[str] = set()
    for person in people:
        for question, value in person.answers.items():
            ranks = _ranks(value)
            names = {_field_of(option, shown) for option in ranks or ()}
            if ranks and None not in names:
                ranked |= {name for name in names if name}
            elif ranks and not _may_be_labels(value):
                lost = next(option for option in ranks if _field_of(option, shown) is None)
                raise BadRow(f"{quoted(question)} ranks {quoted(lost)}, and no field is called so")
    stems = {_stem(name) for name in ranked}
    if not ranked:
        numbered = [stem for name in shown if (stem := _stem(name)) != name]
        stems = {stem for stem in numbered if numbered.count(stem) > 1}
    named = [n for n in shown if n in ranked or (_stem(n) in stems and _stem(n) != n and isinstance(shown[n], str))]
    found = [n for n in named if n in ranked or shown[n].strip()]
    if len(found) < 2:
        raise BadRow("no ranking question was answered, and no numbered fields look like completions")
    return found


def _may_be_labels(value: object) -> bool:
    """Return whether a value is a list of plain texts: a ranking of the 2.x SDK, or labels of a question."""
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _stem(name: str) -> str:
    """Return "response" for "response-1", "response_b" or "response2". A name without a number is its own stem."""
    match = NUMBERED.fullmatch(name)
    return match[1] if match and match[1] and (match[2].isdigit() or name[-2:-1] in "_-. ") else name


def _field_of(option: str, shown: Iterable[str]) -> str | None:
    """Return the field that an option names, ignoring case, spaces and dashes if there is no exact match."""
    names = list(shown)
    if option in names:
        return option
    alike = [name for name in names if _bare(name) == _bare(option)]
    return alike[0] if len(alike) == 1 else None


def _bare(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _rankings(who: str, person: _Person, options: Sequence[str]) -> Iterator[Ranking]:
    """Yield a ranking for each ranking question. Answers to other questions are kept with each."""
    ranked: dict[str, dict[str, float]] = {}
    other: dict[str, Any] = {}
    for question, value in person.answers.items():
        placed = {_field_of(option, options): rank for option, rank in (_ranks(value) or {}).items()}
        if placed and None not in placed:
            ranked[question] = {name: -rank for name, rank in placed.items() if name and rank is not None}
        elif value is not None:
            other[question] = value
    for question, scores in ranked.items():
        if len(scores) > 1:
            metadata = {"answers": other} if other else {}
            yield draft(who, question, by_score(scores), shown=tuple(options), created_at=person.at, metadata=metadata)
