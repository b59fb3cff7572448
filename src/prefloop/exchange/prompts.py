"""Prompts alone, and demonstrations: prompts with an answer to imitate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prefloop.exchange import fields
from prefloop.exchange.base import Format, Record
from prefloop.types import Demonstration, Prompt

ANSWERS = ("completion", "response", "output")
CHATS = ("messages", "conversations")


def fits_demonstration(record: Record) -> bool:
    if any(record.get(name) is not None for name in ("prompt", "instruction")):
        return any(record.get(name) for name in ANSWERS)
    turns = next((record[name] for name in CHATS if record.get(name)), None)
    last = turns[-1] if isinstance(turns, list) else None
    return isinstance(last, dict) and (last.get("role") == "assistant" or last.get("from") == "gpt")


def parse_demonstration(records: Sequence[Record]) -> Iterable[Demonstration]:
    """Chats (`messages`) end with the assistant's turn, which is the demonstration; what comes before is the prompt."""
    (record,) = records
    prompt = fields.prompt_of(record)
    used = fields.prompt_fields(record)
    answered = next((name for name in ANSWERS if record.get(name) is not None), None)
    if answered is None and used[1] in CHATS:
        asked, turn = fields.split_answer(prompt.content, used[1])
        prompt = Prompt(asked, prompt.system, prompt.metadata)
        text = fields.text(turn.content, "the last message")
    else:
        answered = answered or ANSWERS[0]
        text = fields.completion(record.get(answered), "c0", answered).text
    yield Demonstration(prompt, text, fields.rest(record, (*used, answered or used[1])))


def fits_prompt(record: Record) -> bool:
    return any(record.get(name) is not None for name in fields.PROMPT_FIELDS)


def parse_prompt(records: Sequence[Record]) -> Iterable[Prompt]:
    (record,) = records
    prompt = fields.prompt_of(record)
    left = fields.rest(record, fields.prompt_fields(record))
    yield Prompt(prompt.content, prompt.system, {**left, **prompt.metadata})


DEMONSTRATIONS = Format(
    "demonstrations",
    "prompt and completion, chats ending with the assistant, or alpaca instruction/input/output",
    fits_demonstration,
    parse_demonstration,
)
PROMPTS = Format("prompts", "prompts alone, as text or messages (TRL, verl)", fits_prompt, parse_prompt)
