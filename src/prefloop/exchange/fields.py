"""Reads typed fields of a JSON object. A missing field, or one of the wrong type, is a `BadRow` that names it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import isfinite, nan
from typing import Any

from prefloop.exchange.base import BadRow, Record, Unrepresentable, quoted
from prefloop.exchange.base import kind as kind
from prefloop.exchange.turns import MEDIA_FIELDS, TOOLS, tools_of
from prefloop.exchange.turns import message as message
from prefloop.messages import answer_text
from prefloop.types import Completion, Content, Message, Prompt

MAX_TOKEN_ID = 2**31 - 1

PROMPT_NAMES = ("prompt", "instruction", "question", "query", "input", "messages", "conversation", "chat", "text")
SYSTEM_NAMES = ("system", "system_prompt")
PROMPT_FIELDS = ("prompt", "instruction", "conversations", "messages", "conversation", "question", "query", "input")
CHATS = ("messages", "conversations", "conversation")  # These hold whole conversations, which may end with an answer.
ANSWERS = ("completion", "response", "output")
ALPACA = ("input", "context", "history")
ANSWERED_BY_ANSWER = ("question", "query", "input")  # beside a `prompt`, `answer` is a reward function's column


def text(value: object, name: str) -> str:
    """Return a text that is not empty."""
    if not isinstance(value, str):
        raise BadRow(f"{name} must be text, not {kind(value)}")
    if not value.strip():
        raise BadRow(f"{name} is empty")
    return value


def optional_text(record: Record, name: str) -> str | None:
    """Return any text, also an empty one; None if the field is missing or null."""
    value = record.get(name)
    if value is not None and not isinstance(value, str):
        raise BadRow(f"{name} must be text, not {kind(value)}")
    return value


def optional_name(record: Record, name: str) -> str | None:
    """Return an id or a name as text. The field holds a text or a whole number."""
    value = record.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None if value is None else text(value, name)


def number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRow(f"{name} must be a number, not {kind(value)}")
    return float(value)


def scored(value: object, name: str) -> float:
    """Return a number. The field holds it, or a text that is nothing but a number ("4")."""
    if not isinstance(value, str):
        return number(value, name)
    try:
        found = float(value[:40])
    except ValueError:
        found = nan
    if not isfinite(found):
        raise BadRow(f"{name} must be a number, not {quoted(value)}")
    return found


def optional_number(record: Record, name: str) -> float | None:
    value = record.get(name)
    return None if value is None else number(value, name)


def flag(record: Record, name: str, default: bool | None = None) -> bool:
    value = record.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, bool):
        raise BadRow(f"{name} must be true or false, not {quoted(value)}")
    return value


def items_of(value: object, name: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise BadRow(f"{name} must be a list, not {kind(value)}")
    return value


def object_of(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadRow(f"{name} must be an object, not {kind(value)}")
    return value


def token_ids(value: object) -> tuple[int, ...]:
    ids = items_of(value, "token_ids")
    if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i <= MAX_TOKEN_ID for i in ids):
        raise BadRow("token_ids must be whole numbers from 0 up")
    return tuple(ids)


def everything(record: Record) -> Collection[str]:
    """Return the used fields of a format that explains or keeps everything in its records."""
    return record.keys()


def rest(record: Record, used: Collection[str]) -> dict[str, Any]:
    """Return the fields that nothing else read, together with those under `metadata`."""
    left = {name: value for name, value in record.items() if name not in used and name != "metadata"}
    given = record.get("metadata")
    if given is None:
        return left
    if not isinstance(given, dict):
        return {**left, "metadata": given}
    if both := left.keys() & given.keys():
        raise BadRow(f"{quoted(min(both))} stands both in the record and under its metadata")
    return {**left, **given}


def messages(value: object, name: str) -> tuple[tuple[Message, ...], dict[str, Any]]:
    """Return a list of messages, and the other fields of each by position: {"0": {...}}.

    The last one must say something.
    """
    found = [message(entry, f"message {place} of {name}") for place, entry in enumerate(items_of(value, name), start=1)]
    if not found or (found[-1][0].silent and found[-1][0].role != "tool"):  # The result of a tool may be empty.
        raise BadRow(f"{name} is empty")
    return tuple(m for m, _ in found), {str(place): extra for place, (_, extra) in enumerate(found) if extra}


def prompt_name(record: Record) -> str | None:
    """Return the field that holds the prompt, by the usual names."""
    return next((name for name in PROMPT_FIELDS if record.get(name) is not None and _asks(record[name], name)), None)


def _asks(value: object, name: str) -> bool:
    """Return whether a field is a prompt.

    `conversation` may mean other things; the other names always mean the prompt.
    """
    first = value[0] if isinstance(value, list) and value else None
    return name != "conversation" or (isinstance(first, dict) and bool({"role", "from"} & first.keys()))


def prompt_of(record: Record) -> Prompt:
    """Return the prompt of a record, under any of the usual names, and the tools that may be called."""
    _refuse_media(record)
    tools = tools_of(record)
    system = next((value for name in SYSTEM_NAMES if (value := optional_text(record, name)) is not None), None)
    name = prompt_name(record)
    if name is None:
        raise BadRow("no prompt")
    if name == "instruction":
        return Prompt(_alpaca(record), system, tools=tools)
    if isinstance(record[name], str | Unrepresentable):
        return Prompt(text(record[name], name), system, tools=tools)
    content, beside = messages(record[name], name)
    return Prompt(content, system, {"message_fields": beside} if beside else {}, tools=tools)


def _refuse_media(record: Record) -> None:
    for name in MEDIA_FIELDS:
        if record.get(name):
            raise BadRow(f"the row holds {name}; prefloop reads text only")


def prompt_fields(record: Record) -> tuple[str, ...]:
    """Return the fields that `prompt_of` reads: `input`, `context` and `history` count only beside `instruction`."""
    name = prompt_name(record) or "prompt"
    return (*SYSTEM_NAMES, *TOOLS, name, *(ALPACA if name == "instruction" else ()))


def answer_name(record: Record) -> str | None:
    """Return the field that holds the single answer to a prompt."""
    names = (*ANSWERS, "answer") if prompt_name(record) in ANSWERED_BY_ANSWER else ANSWERS
    return next((name for name in names if record.get(name) is not None), None)


def named_prompt(record: Record) -> tuple[Prompt, tuple[str, ...]]:
    """Return the prompt among fields with unknown names, and the fields that it was read from.

    It is found by a usual name, or is the only field there is. Raises BadRow if several fields could be it.
    """
    filled = {name: value for name, value in record.items() if value not in (None, "")}
    system = next((name for name in SYSTEM_NAMES if isinstance(filled.get(name), str)), None)
    candidates = [name for name in filled if name != system and isinstance(filled[name], str | list)]
    usual = [name for wanted in PROMPT_NAMES for name in candidates if name.casefold() == wanted]
    if not usual and len(candidates) != 1:
        raise BadRow(f"cannot tell which of {quoted(sorted(candidates))} is the prompt: call it prompt")
    name = usual[0] if usual else candidates[0]
    system_text = filled[system] if system else None
    used = (name, system) if system else (name,)
    if isinstance(filled[name], str):
        return Prompt(text(filled[name], name), system_text), used
    return Prompt(messages(filled[name], name)[0], system_text), used


def _alpaca(record: Record) -> Content:
    """Return `instruction`, with `input` or `context` on the next line, after the turns of `history`.

    `history` is [[question, answer], ...].
    """
    question = text(record["instruction"], "instruction")
    if more := optional_text(record, "input") or optional_text(record, "context"):
        question = f"{question}\n{more}"
    turns: list[Message] = []
    for turn in items_of(record.get("history") or [], "history"):
        if len(items_of(turn, "a turn of history")) != 2:
            raise BadRow("a turn of history must be a pair: what was asked, what was answered")
        turns += [Message("user", text(turn[0], "a question in history"))]
        turns += [Message("assistant", text(turn[1], "an answer in history"))]
    return (*turns, Message("user", question)) if turns else question


def answer(turns: Sequence[Message], local_id: str, name: str, **known: Any) -> Completion:
    """Return a completion from the turns that follow a prompt.

    An answer that is more than a plain text keeps its messages.
    """
    messages = tuple(turns)
    if len(messages) == 1 and messages[0].role == "assistant" and messages[0].plain:
        return Completion(local_id, text(messages[0].content, name), **known)
    return Completion(local_id, text(answer_text(messages), name), messages=messages, **known)


def completion(value: object, local_id: str, name: str) -> Completion:
    """Return a completion from a text, a message, or a list of messages."""
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        turns, beside = messages(value, name)
        return answer(turns, local_id, name, metadata={"message_fields": beside} if beside else {})
    if value is None:
        raise BadRow(f"no {name}")
    return Completion(local_id, text(value, name))


def split_answer(content: Content, name: str) -> tuple[tuple[Message, ...], Message]:
    """Split a conversation that ends with the assistant into the question and the answer."""
    if isinstance(content, str) or len(content) < 2 or content[-1].role != "assistant":
        raise BadRow(f"{name} must be messages of which the last is the assistant's")
    return content[:-1], content[-1]
