"""Reads several answers to a prompt in one record, with scores or choices, in parallel lists or in objects.

It reads distilabel's `generations` and `ratings`, `responses` and `scores`, Stack Exchange's `answers` with their
`pm_score`, RewardBench 2 and RM-Bench (lists of `chosen` and `rejected`), and PRISM's conversations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from prefloop.exchange import fields
from prefloop.exchange.base import BadRow, FieldLook, Format, Record, quoted
from prefloop.exchange.build import IMPORTED, PREFERENCE, build_item, by_score, draft
from prefloop.exchange.formats.lists import rankings
from prefloop.types import Completion, Item, Message, Prompt

ANSWERS = ("responses", "completions", "generations", "answers", "candidates", "outputs")
SCORES = ("scores", "ratings", "rewards", "score", "rating", "reward", "pm_score", "overall_score", "votes", "upvotes")
TEXTS = ("text", "response", "answer", "completion", "content", "output", "generation")
MODELS = ("generation_models", "models", "model_names")
STOPS = frozenset({FieldLook.VERDICT, FieldLook.ANSWER, FieldLook.NUMBERED})


def _listed(record: Record) -> tuple[str, list[Any]] | None:
    """Return the field with at least two answers, and these answers."""
    for name in ANSWERS:
        value = record.get(name)
        if isinstance(value, list) and len(value) > 1:
            return name, value
    return None


def _scores(record: Record) -> dict[str, list[Any]]:
    """Return the scores in each field that has one for every answer, or in every answer itself."""
    name, answers = _listed(record) or ("", [])
    if answers and all(isinstance(answer, dict) and _text_name(answer) for answer in answers):
        held = {name: [answer.get(name) for answer in answers] for name in SCORES}
        return {name: found for name, found in held.items() if sum(score is not None for score in found) > 1}
    return {n: value for n in SCORES if isinstance(value := record.get(n), list) and len(value) == len(answers)}


def _text_name(answer: Mapping[str, Any]) -> str | None:
    return next((name for name in TEXTS if isinstance(answer.get(name), str)), None)


def fits(record: Record) -> bool:
    known = {"rankings", "prefloop", "ranks", "labels"} | {"chosen", "rejected"}
    return not known & record.keys() and fields.prompt_name(record) is not None and bool(_scores(record))


def uses(record: Record) -> tuple[str, ...]:
    name, _ = _listed(record) or ("responses", [])
    inner = (f"{name}.{part}" for part in (*SCORES, *TEXTS, "model", "selected"))
    return (*fields.prompt_fields(record), name, *_scores(record), *MODELS, "id", *inner)


def parse(records: Sequence[Record]) -> Iterable[Item]:
    """Yield items. Higher scores are better, and equal ones tie. An answer whose score is null is not ranked."""
    (record,) = records
    name, answers = _listed(record) or ("responses", [])
    scores = _scores(record)
    if not scores:
        raise BadRow(f"{name} must be at least two answers with a score each")
    models: list[Any] = next((record[n] for n in MODELS if isinstance(record.get(n), list)), [])
    models = models if len(models) == len(answers) else [None] * len(answers)
    completions = [
        _answer(answer, f"c{i}", model) for i, (answer, model) in enumerate(zip(answers, models, strict=True))
    ]
    ranked = {
        criterion: {f"c{i}": fields.scored(score, criterion) for i, score in enumerate(of) if score is not None}
        for criterion, of in scores.items()
    }
    if not (found := rankings(ranked)):
        raise BadRow(f"a ranking needs at least two answers with a score; {name} has fewer")
    yield build_item(
        fields.prompt_of(record),
        completions,
        found,
        external_id=fields.optional_name(record, "id"),
        metadata=fields.rest(record, {"id", name, *scores, *fields.prompt_fields(record)}),
    )


def _answer(value: Any, local: str, model: object) -> Completion:
    """Return an answer from text or messages, or from an object with its text and its scores."""
    name = _text_name(value) if isinstance(value, dict) and not {"role", "from"} & value.keys() else None
    if name is None:
        return replace(fields.completion(value, local, "an answer"), model=model if isinstance(model, str) else None)
    kept = fields.rest(value, (name, "model", *SCORES))
    return Completion(local, fields.text(value[name], name), fields.optional_text(value, "model"), metadata=kept)


# -- several chosen and several rejected answers -----------------------------------------------------------------------

SIDES = ("chosen", "rejected")


def fits_many(record: Record) -> bool:
    both = [record.get(name) for name in SIDES]
    return all(isinstance(side, list) and side and all(isinstance(t, str) for t in side) for side in both)


def uses_many(record: Record) -> tuple[str, ...]:
    return (
        *SIDES,
        "id",
        "num_correct",
        "num_incorrect",
        "num_rejected",
        "total_completions",
        *fields.prompt_fields(record),
    )


def parse_many(records: Sequence[Record]) -> Iterable[Item]:
    """Yield items. Each chosen answer is better than each rejected one. Chosen ones tie, and so do rejected ones."""
    (record,) = records
    chosen, rejected = (fields.items_of(record.get(name), name) for name in SIDES)
    listed = [(f"c{i}", text) for i, text in enumerate([*chosen, *rejected])]
    best = len(chosen)
    ids = [local for local, _ in listed]
    if not best or best == len(ids):
        raise BadRow("chosen and rejected must each hold an answer")
    yield build_item(
        fields.prompt_of(record),
        [fields.completion(text, local, "an answer") for local, text in listed],
        [draft(IMPORTED, PREFERENCE, [ids[:best], ids[best:]])],
        external_id=fields.optional_name(record, "id"),
        metadata=fields.rest(record, ("id", *SIDES, *fields.prompt_fields(record))),
    )


# -- PRISM -------------------------------------------------------------------------------------------------------------

HISTORY = "conversation_history"


def fits_prism(record: Record) -> bool:
    turns = record.get(HISTORY)
    return isinstance(turns, list) and any(isinstance(t, dict) and "if_chosen" in t for t in turns)


def parse_prism(records: Sequence[Record]) -> Iterable[Item | BadRow]:
    """Yield an item for each turn, with the answers of several models, the chosen one, and the score of each.

    The conversation goes on with the chosen answer.
    """
    (record,) = records
    turns: list[Message] = []
    answers: list[Mapping[str, Any]] = []
    for place, value in enumerate([*fields.items_of(record.get(HISTORY), HISTORY), None]):
        turn = {} if value is None else fields.object_of(value, f"a turn of {HISTORY}")
        if turn.get("role") == "model":
            answers.append(turn)
            continue
        if answers:
            chosen = [a for a in answers if a.get("if_chosen") is True]
            if len(chosen) != 1:
                raise BadRow(f"before turn {place + 1} of {HISTORY}, {len(chosen)} answers were chosen, not one")
            if len(answers) > 1:
                yield _turn(record, tuple(turns), answers)
            turns.append(Message("assistant", fields.text(chosen[0].get("content"), "a chosen answer")))
            answers = []
        if value is not None:
            if turn.get("role") != "user":
                raise BadRow(f"a turn of {HISTORY} is by {quoted(turn.get('role'))}, not by user or model")
            turns.append(Message("user", fields.text(turn.get("content"), "what a person asked")))


def _turn(record: Record, turns: tuple[Message, ...], answers: Sequence[Mapping[str, Any]]) -> Item:
    user = fields.optional_name(record, "user_id") or IMPORTED
    ids = [f"c{place}" for place in range(len(answers))]
    best = [local for local, answer in zip(ids, answers, strict=True) if answer["if_chosen"] is True]
    found = [draft(user, PREFERENCE, [best, [local for local in ids if local not in best]])]
    scores = {
        local: fields.number(answer["score"], "score")
        for local, answer in zip(ids, answers, strict=True)
        if answer.get("score") is not None
    }
    if len(scores) > 1:
        ratings = {local: {"score": score} for local, score in scores.items()}
        found.append(draft(user, "score", by_score(scores), ratings=ratings))
    conversation = fields.optional_name(record, "conversation_id")
    return build_item(
        Prompt(turns),
        [
            Completion(local, fields.text(a.get("content"), "an answer"), fields.optional_text(a, "model_name"))
            for local, a in zip(ids, answers, strict=True)
        ],
        found,
        external_id=conversation and f"{conversation}:{sum(m.role == 'user' for m in turns)}",
        metadata=fields.rest(record, (HISTORY, "user_id")),
    )


SCORED = Format("scored-answers", "a prompt, several answers, and a score for each", fits, parse, uses, STOPS)
MANY = Format(
    "chosen-lists",
    "lists of chosen and of rejected answers (RewardBench 2, RM-Bench)",
    fits_many,
    parse_many,
    uses_many,
)
PRISM = Format(
    "prism",
    "PRISM conversations: several models' answers to each turn",
    fits_prism,
    parse_prism,
    fields.everything,
    frozenset(),
)
