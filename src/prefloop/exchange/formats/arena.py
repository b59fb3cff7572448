"""Reads two models' answers to a prompt and who won: LMArena's and MT-bench's conversations, and Kaggle's files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from prefloop.exchange import fields
from prefloop.exchange.base import BadRow, Format, Record, quoted
from prefloop.exchange.build import PREFERENCE, build_item, draft
from prefloop.exchange.formats import pairs
from prefloop.exchange.formats.kto import judged
from prefloop.exchange.formats.sides import FIRST, SECOND, STOPS, TIE, annotator, written
from prefloop.exchange.turns import tools_of
from prefloop.types import Completion, Item, Message, Prompt

CONVERSATIONS, REPLIES = ("conversation_a", "conversation_b"), ("response_a", "response_b")
MODELS = ("model_a", "model_b")
ONE_HOT = ("winner_model_a", "winner_model_b", "winner_tie")
WINNERS = {
    **dict.fromkeys(("model_a", "a", "response_a", "conversation_a"), FIRST),
    **dict.fromkeys(("model_b", "b", "response_b", "conversation_b"), SECOND),
    **dict.fromkeys(("tie", "tie (bothbad)", "tie (both bad)", "both_bad", "bothbad", "both bad"), TIE),
}


def fits(record: Record) -> bool:
    shown = set(CONVERSATIONS) <= record.keys() or set(REPLIES) <= record.keys()
    return shown and ("winner" in record or set(ONE_HOT[:2]) <= record.keys())


def uses(record: Record) -> tuple[str, ...]:
    return (
        *CONVERSATIONS,
        *REPLIES,
        *MODELS,
        *ONE_HOT,
        "winner",
        "judge",
        "id",
        "question_id",
        *fields.prompt_fields(record),
    )


def parse(records: Sequence[Record]) -> Iterable[Item]:
    """Yield items. `winner` is model_a, model_b or a tie; for "tie (bothbad)" no answer is acceptable.

    `turn` is the judged turn.
    """
    (record,) = records
    tiers, bad = _winner(record)
    ranking = draft(
        annotator(record, "judge"),
        PREFERENCE,
        tiers,
        unacceptable=("c0", "c1") if bad else (),
        none_acceptable=bad,
    )
    prompt, completions = _shown(record)
    yield build_item(
        prompt,
        written(record, completions, MODELS),
        [ranking],
        external_id=fields.optional_name(record, "id") or fields.optional_name(record, "question_id"),
        metadata=fields.rest(record, uses(record)),
    )


def _winner(record: Record) -> tuple[list[list[str]], bool]:
    """Return the tiers, and whether both answers were called bad."""
    if record.get("winner") is None:
        hot = [name for name in ONE_HOT if record.get(name) is not None and judged(record[name], name)]
        if len(hot) != 1:
            raise BadRow(f"exactly one of {', '.join(ONE_HOT)} must be 1, not {len(hot)}")
        return {ONE_HOT[0]: FIRST, ONE_HOT[1]: SECOND, ONE_HOT[2]: TIE}[hot[0]], False
    winner = str(record["winner"]).strip().casefold()
    named = [str(record.get(name)).strip().casefold() for name in MODELS]
    if winner not in WINNERS and named.count(winner) == 1:
        return (FIRST, SECOND)[named.index(winner)], False
    if winner not in WINNERS:
        raise BadRow(
            f"winner must be model_a, model_b, the name of one, tie or tie (bothbad), not {quoted(record['winner'])}"
        )
    return WINNERS[winner], "bad" in winner


def _shown(record: Record) -> tuple[Prompt, list[Completion]]:
    names = CONVERSATIONS if record.get(CONVERSATIONS[0]) is not None else REPLIES
    prompt = record.get("prompt")
    turns: list[tuple[Message, ...]]
    if names == CONVERSATIONS:
        turns = [_until(fields.messages(record.get(name), name)[0], record.get("turn")) for name in names]
    elif all(_is_listed(value) for value in (prompt, *(record.get(name) for name in names))):
        turns = [_interleaved(json.loads(str(prompt)), json.loads(str(record[name])), name) for name in names]
    else:
        return fields.prompt_of(record), [fields.completion(record.get(n), f"c{i}", n) for i, n in enumerate(names)]
    start = pairs.shared_turns(*turns)
    if not start:
        raise BadRow("the two conversations share no beginning that could be the prompt")
    prompt = Prompt(turns[0][:start], fields.optional_text(record, "system"), tools=tools_of(record))
    return prompt, [
        fields.answer(pairs.answering(conversation[start:], name), f"c{i}", name)
        for i, (name, conversation) in enumerate(zip(names, turns, strict=True))
    ]


def _until(turns: tuple[Message, ...], turn: object) -> tuple[Message, ...]:
    """Return a conversation up to the judged turn of the assistant. MT-bench judges the first and the second."""
    ends = [place + 1 for place, message in enumerate(turns) if message.role == "assistant"]
    if isinstance(turn, int) and not isinstance(turn, bool) and 0 < turn < len(ends):
        return turns[: ends[turn - 1]]
    return turns


def _is_listed(value: object) -> bool:
    """Return whether a text is a JSON list of texts, one for each turn, as in Kaggle's arena files."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return False
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, list) and bool(found) and all(isinstance(text, str | None) for text in found)


def _interleaved(questions: Sequence[str | None], answers: Sequence[str | None], name: str) -> tuple[Message, ...]:
    if len(questions) != len(answers):
        raise BadRow(f"prompt has {len(questions)} turns and {name} {len(answers)}")
    return tuple(
        Message(role, fields.text(text, f"a turn of {field}"))
        for pair in zip(questions, answers, strict=True)
        for role, field, text in (("user", "prompt", pair[0]), ("assistant", name, pair[1]))
    )


FORMAT = Format("arena", "two models' answers and a winner (LMArena, MT-bench, Kaggle)", fits, parse, uses, STOPS)
