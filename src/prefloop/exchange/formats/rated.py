"""Reads answers with scores in rows of their own. The rows of one prompt are one list.

It reads HelpSteer's attributes, and `rating` or `score`. An answer whose prompt has no other answer cannot be ranked.
It is never a demonstration, since its rating may be bad.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from prefloop.exchange import fields
from prefloop.exchange.base import BadRow, FieldLook, Format, Record
from prefloop.exchange.build import build_item
from prefloop.exchange.formats.lists import rankings
from prefloop.types import Completion, Item, Prompt

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
RATINGS = ("rating", "score")
STOPS = frozenset(FieldLook) - {FieldLook.SCORE}


def fits_helpsteer(record: Record) -> bool:
    return {"prompt", "response", "helpfulness"} <= record.keys()


def fits_rated(record: Record) -> bool:
    answered = fields.answer_name(record) or fields.prompt_name(record) in fields.CHATS
    rated = any(record.get(name) is not None for name in RATINGS)
    return bool(answered) and rated and fields.prompt_name(record) is not None


def uses(record: Record) -> tuple[str, ...]:
    answered = fields.answer_name(record)
    return (*fields.prompt_fields(record), *((answered,) if answered else ()), *ATTRIBUTES, *RATINGS)


def prompt_key(record: Record) -> str:
    """Return the id of the prompt. Raises BadRow for an unusable row, so that the rest of its list can be used."""
    for name in (*ATTRIBUTES, *RATINGS):
        if record.get(name) is not None:
            fields.scored(record[name], name)
    return _split(record)[0].id


def parse(records: Sequence[Record]) -> Iterable[Item]:
    """Yield a ranking for each attribute that at least two answers have. Equal scores tie."""
    if len(records) < 2:
        raise BadRow("a ranking needs at least two completions; only one row here has this prompt")
    completions: list[Completion] = []
    scores: dict[str, dict[str, float]] = {}
    for place, record in enumerate(records):
        local = f"c{place}"
        prompt, answer = _split(record)
        left = {**prompt.metadata, **fields.rest(record, uses(record)), **answer.metadata}
        completions.append(replace(answer, id=local, metadata=left))
        for name in (*ATTRIBUTES, *RATINGS):
            if record.get(name) is not None:
                scores.setdefault(name, {})[local] = fields.scored(record[name], name)
    yield build_item(_split(records[0])[0], completions, rankings(scores))


def _split(record: Record) -> tuple[Prompt, Completion]:
    prompt = fields.prompt_of(record)
    answered = fields.answer_name(record)
    if answered is not None:
        return prompt, fields.completion(record[answered], "c0", answered)
    question, turn = fields.split_answer(prompt.content, "a conversation with a rating")
    return replace(prompt, content=question, id=""), fields.answer((turn,), "c0", "the last message")


HELPSTEER = Format(
    "helpsteer", "HelpSteer: scored answers, one a row", fits_helpsteer, parse, uses, STOPS, group=prompt_key
)
RATED = Format("rated", "answers with a rating or score, one a row", fits_rated, parse, uses, STOPS, group=prompt_key)
