"""Reads prompts alone, and demonstrations: prompts with an answer to imitate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from prefloop.exchange import fields
from prefloop.exchange.base import BadRow, Format, Record, quoted
from prefloop.exchange.turns import CALLS, MEDIA_FIELDS, ROLES, SPEAKERS, TOOLS
from prefloop.types import Demonstration, Prompt


def _chat(record: Record) -> str | None:
    """Return the field with a whole chat that ends with the assistant, if no other field holds the answer."""
    if fields.answer_name(record) is not None:
        return None
    name = next((name for name in fields.CHATS if record.get(name)), None)
    turns = record[name] if name else None
    last = turns[-1] if isinstance(turns, list) else None
    role = str(last.get("from", last.get("role"))).casefold() if isinstance(last, dict) else ""
    return name if ROLES.get(role, role) in ("assistant", CALLS) else None


def uses_demonstration(record: Record) -> tuple[str, ...]:
    chat = _chat(record)
    # UltraChat repeats the first question of `messages` as `prompt`.
    used = fields.prompt_fields({chat: record[chat]}) if chat else fields.prompt_fields(record)
    return (*used, chat or fields.answer_name(record) or fields.ANSWERS[0], *_repeated(record, chat))


def _repeated(record: Record, chat: str | None) -> tuple[str, ...]:
    """Return the field `prompt`, if it repeats what the chat says."""
    turns, prompt = record.get(chat or ""), record.get("prompt")
    if not isinstance(turns, list) or not prompt:
        return ()
    repeated = (
        turns[: len(prompt)] == prompt if isinstance(prompt, list) else any(_says(turn, prompt) for turn in turns)
    )
    return ("prompt",) if repeated else ()


def _says(turn: object, text: object) -> bool:
    texts = [turn.get(name) for name in ("content", "value")] if isinstance(turn, dict) else []
    return isinstance(text, str) and any(isinstance(s, str) and s.strip() == text.strip() for s in texts)


def fits_demonstration(record: Record) -> bool:
    chat = _chat(record)
    if chat is not None:
        return record.get("prompt") is None or bool(_repeated(record, chat))
    answered = fields.answer_name(record)
    return fields.prompt_name(record) is not None and answered is not None and bool(record[answered])


def parse_demonstration(records: Sequence[Record]) -> Iterable[Demonstration]:
    """Yield a demonstration. In a chat (`messages`) it is the last turn, and the prompt is everything before."""
    (record,) = records
    used = uses_demonstration(record)
    chat = _chat(record)
    if chat is None:
        prompt = fields.prompt_of(record)
        name = fields.answer_name(record) or fields.ANSWERS[0]
        if record.get(name) is None and fields.prompt_name(record) in fields.CHATS:
            raise BadRow(f"{fields.prompt_name(record)} must be messages of which the last is the assistant's")
        shown = fields.completion(record.get(name), "c0", name)
    else:
        beside = {name: record.get(name) for name in (*fields.SYSTEM_NAMES, *TOOLS, *MEDIA_FIELDS)}
        conversation = fields.prompt_of({chat: record[chat], **beside})
        question, turn = fields.split_answer(conversation.content, chat)
        prompt = replace(conversation, content=question, id="")
        shown = fields.answer((turn,), "c0", "the last message")
    left = fields.rest(record, used)
    yield Demonstration(prompt, shown.text, {**left, **shown.metadata}, messages=shown.messages)


def fits_prompt(record: Record) -> bool:
    return fields.prompt_name(record) is not None


def parse_prompt(records: Sequence[Record]) -> Iterable[Prompt]:
    (record,) = records
    prompt = fields.prompt_of(record)
    last = "user" if isinstance(prompt.content, str) else prompt.content[-1].role
    if last not in SPEAKERS and fields.prompt_name(record) in fields.CHATS:  # This field might be the answer.
        raise BadRow(
            f"the last message is by {quoted(last)}: rename it to user, or to assistant where it is the answer"
        )
    left = fields.rest(record, fields.prompt_fields(record))
    yield replace(prompt, metadata={**left, **prompt.metadata})


DEMONSTRATIONS = Format(
    "demonstrations",
    "prompt and completion, chats ending with the assistant, or alpaca instruction/input/output",
    fits_demonstration,
    parse_demonstration,
    uses_demonstration,
)
PROMPTS = Format(
    "prompts", "prompts alone, as text or messages (TRL, verl)", fits_prompt, parse_prompt, fields.prompt_fields
)
