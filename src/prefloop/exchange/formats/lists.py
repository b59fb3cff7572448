"""Reads lists of answers that published data sets score or rank in their own ways.

UltraFeedback has four answers with four aspects and an overall score, HelpSteer3 has two answers with a preference from
-3 to 3, Nectar has seven ranked answers, and NeMo has `context` and `completions` with ranks. Answers in rows of their
own are read by `rated`. HelpSteer3's individual votes are left out, and UltraFeedback's critiques are kept as metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from prefloop.exchange import fields
from prefloop.exchange.base import BadRow, Format, Record, Unrepresentable
from prefloop.exchange.build import IMPORTED, PREFERENCE, build_item, by_score, draft
from prefloop.exchange.turns import TOOLS
from prefloop.types import Completion, Item, Prompt, Ranking

OVERALL = "overall_score"
ULTRAFEEDBACK = ("model", "response", "annotations", OVERALL, "fine-grained_score", "critique", "principle")


def _objects(record: Record, name: str) -> list[Mapping[str, Any]]:
    found = [fields.object_of(value, f"an entry of {name}") for value in fields.items_of(record.get(name), name)]
    if len(found) < 2:
        raise BadRow(f"a ranking needs at least two completions; {name} has {len(found)}")
    return found


def rankings(scores: Mapping[str, Mapping[str, float]]) -> list[Ranking]:
    """Return one ranking for each criterion with at least two scores, from {criterion: {local id: score}}."""
    return [
        draft(IMPORTED, criterion, by_score(of), ratings={local: {criterion: score} for local, score in of.items()})
        for criterion, of in scores.items()
        if len(of) > 1
    ]


def fits_ultrafeedback(record: Record) -> bool:
    listed = record.get("completions")
    first = listed[0] if isinstance(listed, list) and listed else None
    return "instruction" in record and isinstance(first, dict) and "response" in first


def parse_ultrafeedback(records: Sequence[Record]) -> Iterable[Item]:
    """Yield items with a ranking for each aspect, and one for the overall score.

    Ratings are text; "N/A" is unranked.
    """
    (record,) = records
    completions: list[Completion] = []
    scores: dict[str, dict[str, float]] = {}
    for i, entry in enumerate(_objects(record, "completions")):
        local, model = f"c{i}", fields.optional_text(entry, "model")
        kept = fields.rest(entry, ("response", "model"))
        completion = fields.completion(entry.get("response"), local, "response")
        completions.append(replace(completion, model=model, metadata={**completion.metadata, **kept}))
        for aspect, judged in fields.object_of(entry.get("annotations") or {}, "annotations").items():
            # This key is that of the first edition of the data set.
            judged = judged[0] if isinstance(judged, list) and len(judged) == 1 else judged
            rating = judged.get("Rating") if isinstance(judged, dict) else None
            if isinstance(rating, Unrepresentable):
                raise BadRow(f"the Rating of {aspect[:40]!r} is {rating.what}")
            if isinstance(rating, str) and rating.strip().isdecimal():
                rating = int(rating[:9])
            if isinstance(rating, int | float) and not isinstance(rating, bool):
                scores.setdefault(aspect, {})[local] = float(rating)
        if entry.get(OVERALL) is not None:
            scores.setdefault("overall", {})[local] = fields.number(entry[OVERALL], OVERALL)
    left = fields.rest(record, ("completions", *fields.prompt_fields(record)))
    yield build_item(fields.prompt_of(record), completions, rankings(scores), metadata=left)


def fits_helpsteer3(record: Record) -> bool:
    return {"response1", "response2", "overall_preference"} <= record.keys()


def parse_helpsteer3(records: Sequence[Record]) -> Iterable[Item]:
    """Yield items. `overall_preference` below 0 prefers response 1, above 0 response 2, and 0 is a tie."""
    (record,) = records
    preference = fields.number(record.get("overall_preference"), "overall_preference")
    tiers = [["c0", "c1"]] if preference == 0 else [["c0"], ["c1"]] if preference < 0 else [["c1"], ["c0"]]
    yield build_item(
        _context(record),
        [fields.completion(record.get(name), f"c{i}", name) for i, name in enumerate(("response1", "response2"))],
        [draft(IMPORTED, PREFERENCE, tiers, metadata={"overall_preference": preference})],
        metadata=fields.rest(record, ("context", *TOOLS, "response1", "response2", "overall_preference")),
    )


def _context(record: Record) -> Prompt:
    return fields.prompt_of({"prompt": record.get("context"), **{name: record.get(name) for name in TOOLS}})


def fits_nectar(record: Record) -> bool:
    listed = record.get("answers")
    first = listed[0] if isinstance(listed, list) and listed else None
    return "prompt" in record and isinstance(first, dict) and {"answer", "rank"} <= first.keys()


def parse_nectar(records: Sequence[Record]) -> Iterable[Item]:
    """Yield items. Rank 1 is best; equal ranks tie."""
    (record,) = records
    entries = _objects(record, "answers")
    yield build_item(
        fields.prompt_of(record),
        [
            replace(fields.completion(e.get("answer"), f"c{i}", "answer"), model=fields.optional_text(e, "model"))
            for i, e in enumerate(entries)
        ],
        [draft(IMPORTED, PREFERENCE, _by_rank(entries))],
        metadata=fields.rest(record, ("answers", *fields.prompt_fields(record))),
    )


def fits_nemo(record: Record) -> bool:
    return "context" in record and isinstance(record.get("completions"), list)


def parse_nemo(records: Sequence[Record]) -> Iterable[Item]:
    """Yield items. The lowest rank is best; equal ranks tie."""
    (record,) = records
    entries = _objects(record, "completions")
    yield build_item(
        _context(record),
        [fields.completion(e.get("completion"), f"c{i}", "completion") for i, e in enumerate(entries)],
        [draft(IMPORTED, PREFERENCE, _by_rank(entries))],
        metadata=fields.rest(record, ("context", "completions", *TOOLS)),
    )


def _by_rank(entries: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], ...]:
    return by_score({f"c{i}": -fields.number(entry.get("rank"), "rank") for i, entry in enumerate(entries)})


def _entries(name: str, *known: str) -> tuple[str, ...]:
    return (name, *(f"{name}.{field}" for field in known))


def uses_ultrafeedback(record: Record) -> tuple[str, ...]:
    return (
        *fields.prompt_fields(record),
        *_entries("completions", *ULTRAFEEDBACK),
        "correct_answers",
        "incorrect_answers",
        "models",
    )


def uses_helpsteer3(record: Record) -> tuple[str, ...]:
    return ("context", *TOOLS, "response1", "response2", "overall_preference", "individual_preference")


def uses_nectar(record: Record) -> tuple[str, ...]:
    return (*fields.prompt_fields(record), *_entries("answers", "answer", "model", "rank"))


def uses_nemo(record: Record) -> tuple[str, ...]:
    return ("context", *TOOLS, *_entries("completions", "completion", "rank", "reward"))


LISTS = (
    Format(
        "ultrafeedback",
        "UltraFeedback: an instruction and scored answers",
        fits_ultrafeedback,
        parse_ultrafeedback,
        uses_ultrafeedback,
    ),
    Format(
        "helpsteer3",
        "HelpSteer3: two responses, overall_preference",
        fits_helpsteer3,
        parse_helpsteer3,
        uses_helpsteer3,
    ),
    Format("nectar", "Nectar: a prompt and ranked answers", fits_nectar, parse_nectar, uses_nectar),
    Format("nemo", "NeMo-RL: a context and completions with ranks", fits_nemo, parse_nemo, uses_nemo),
)
