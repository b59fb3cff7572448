"""Defines the messages of a chat: their content, their JSON form, and how a person reads them.

It uses the standard library only. A message may hold more than its role and its text: tool calls, a tool's name,
reasoning. All of it belongs to the message, so all of it is compared, hashed, shown, given to the chat template and
exported. People, and models without a chat template, read a call as `calls weather(city=Oslo)`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

Json = Mapping[str, Any]

REASONING = ("reasoning_content", "reasoning", "thinking")
WHO = ("name", "tool_call_id")  # These keys describe a message, and a message that has only these is empty.


@dataclass(frozen=True)
class Message:
    """Holds one turn of a chat, as in the chat templates of Hugging Face models.

    content: its text; None only if the message holds something else, as in `"content": null` beside `tool_calls`
    extra:   everything else (`tool_calls`, `tool_call_id`, `name`, `reasoning_content`, ...), as it was written
    """

    role: str
    content: str | None
    extra: Json = field(default_factory=dict, hash=False)

    @property
    def plain(self) -> bool:
        """Whether the message holds nothing but a role and a text."""
        return self.content is not None and not self.extra

    @property
    def silent(self) -> bool:
        """Whether the message says nothing at all."""
        return not (self.content or "").strip() and not self.extra.keys() - set(WHO)

    @property
    def calls(self) -> tuple[Json, ...]:
        """Return the tool calls: those of `tool_calls`, or the single `function_call` of older chats."""
        if self.extra.get("tool_calls"):
            return tuple(self.extra["tool_calls"])
        return ({"function": self.extra["function_call"]},) if self.extra.get("function_call") else ()


Turns = tuple[Message, ...]
Content = str | Turns


def digest(*parts: object) -> str:
    """Return the first 16 hex digits of a SHA-256 over canonical JSON. They are the same on every run and machine."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def message_to_json(message: Message) -> dict[str, Any]:
    return {"role": message.role, "content": message.content, **message.extra}


def content_to_json(content: Content) -> str | list[dict[str, Any]]:
    """Return a prompt in JSON form: a string, or a list of `{role, content}` with the other keys of each message."""
    return content if isinstance(content, str) else [message_to_json(m) for m in content]


def content_from_json(value: str | Sequence[Mapping[str, Any]]) -> Content:
    """Return the content whose JSON form `content_to_json` gave."""
    return value if isinstance(value, str) else to_turns(value)


def to_turns(value: Sequence[Mapping[str, Any]]) -> Turns:
    return tuple(
        Message(m["role"], m["content"], {k: v for k, v in m.items() if k not in ("role", "content")}) for m in value
    )


# -- as a person reads it ----------------------------------------------------------------------------------------------


def content_text(content: Content) -> str:
    """Return a prompt or a conversation as plain text, for people and for scorers that read text."""
    if isinstance(content, str):
        return content
    return "\n\n".join(f"{speaker(m)}: {message_text(m)}" for m in content)


def answer_text(turns: Turns) -> str:
    """Return an answer as plain text. If it is a single turn of the assistant, it is only that turn's own text."""
    if len(turns) == 1 and turns[0].role == "assistant" and not turns[0].extra.keys() & set(WHO):
        return message_text(turns[0])
    return content_text(turns)


def speaker(message: Message) -> str:
    """Return the name of the speaker for people: "user", "user Ann", "tool weather [call_1]"."""
    name, answers = (message.extra.get(key) for key in WHO)
    return message.role + (f" {name}" if name else "") + (f" [{answers}]" if answers else "")


def message_text(message: Message) -> str:
    """Return everything in a message except its speaker: its text, and a line for each other part."""
    before, after = asides(message)
    return "\n".join([*before, *([message.content] if message.content else []), *after])


def asides(message: Message) -> tuple[list[str], list[str]]:
    """Return the parts of a message other than its text.

    They are lines to show before the text (reasoning) and after it (calls).
    """
    extra = message.extra
    before = [f"thinks: {_value_text(extra[key])}" for key in REASONING if key in extra]
    after = [f"refuses: {_value_text(extra['refusal'])}"] if "refusal" in extra else []
    after += [f"calls {call_text(call)}" for call in message.calls]
    known = {*REASONING, *WHO, "refusal", "tool_calls", "function_call"}
    after += [f"{key}: {_value_text(extra[key])}" for key in sorted(extra.keys() - known)]
    return before, after


def call_text(call: Json) -> str:
    """Return a tool call for people: "weather(city=Oslo, days=3) [call_1]"."""
    function = call.get("function") or call
    given = arguments(function.get("arguments"))
    if isinstance(given, dict):
        said = ", ".join(f"{name}={_argument(value)}" for name, value in given.items())
    else:
        said = "" if given is None else _value_text(given)
    return f"{function.get('name')}({said})" + (f" [{call['id']}]" if call.get("id") else "")


def arguments(value: object) -> object:
    """Return the arguments of a call as an object, decoded from JSON text if needed.

    Other text is returned as it is.
    """
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return found if isinstance(found, dict) else value
    return value


def tool_text(tool: Json) -> str:
    """Return a tool for people: "weather(city, days): How the weather will be"."""
    function = tool.get("function") or tool
    schema = function.get("parameters")
    names = schema.get("properties", schema) if isinstance(schema, dict) else {}
    listed = ", ".join(map(str, names)) if isinstance(names, dict) else ""
    about = f": {function['description']}" if function.get("description") else ""
    return f"{function.get('name')}({listed}){about}"


_WORD = re.compile(r"[^\W\d][\w.-]*")


def _argument(value: object) -> str:
    """Return an argument for people.

    A text of one word has no quotes; other values are JSON, so that "3" and 3 differ.
    """
    if isinstance(value, str) and _WORD.fullmatch(value) and value not in ("true", "false", "null", "NaN", "Infinity"):
        return value
    return json.dumps(value, ensure_ascii=False)


def _value_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# -- transcripts: "\n\nHuman: ...\n\nAssistant: ..." -------------------------------------------------------------------

_ROLES = {"Human": "user", "Assistant": "assistant"}
_HEADS = re.compile(r"(Human|Assistant):")
ANSWERS_NOW = "Assistant:"


def transcript(text: str) -> Turns | None:
    """Return the turns of a prompt written as a transcript, as in Anthropic's hh-rlhf; None if it is not one.

    A transcript begins with "Human:" and ends with "Assistant:". What stands before the last "Assistant:" separates all
    turns: an empty line, a line break, or a space if there is only one question. Therefore "Human:" inside a text does
    not make it a transcript, and "Human:" inside a turn does not start another turn.
    """
    asked = text.rstrip()
    if not asked.endswith(ANSWERS_NOW) or not text.lstrip().startswith("Human:"):
        return None
    turns = _parted(asked.removesuffix(ANSWERS_NOW), _gap(asked))
    return turns if turns and turns[-1].role == "user" else None


def transcript_answer(prompt: str, text: str) -> Turns | None:
    """Return the turns of an answer to a transcript that goes on with more turns; None if it is one turn."""
    if (before := transcript(prompt)) is None:
        return None
    asked = prompt.rstrip()
    turns = _parted(f"{asked} {text}", _gap(asked))
    if turns is None or turns[-1].role != "assistant" or turns[: len(before)] != before:
        return None
    answer = turns[len(before) :]
    return answer if len(answer) > 1 or answer[0].content != text.strip() else None


def transcript_spans(prompt: str, text: str) -> list[tuple[int, int]]:
    """Return where the assistant speaks in the text of an answer to a transcript that goes on with more turns."""
    asked = prompt.rstrip()
    whole, at = f"{asked} {text}", len(asked) + 1
    said = [(start, end) for role, start, end in _said(whole, _gap(asked)) if role == "assistant" and end > at]
    ends = [end if end == len(whole) else len(whole[:end].rstrip()) for _, end in said]
    return [(max(0, start - at), end - at) for (start, _), end in zip(said, ends, strict=True) if start < end]


def conversation(content: Content) -> Content:
    """Return the turns of a prompt that is a chat or a transcript; otherwise its text."""
    return (transcript(content) or content) if isinstance(content, str) else content


def shown_turns(asked: Content, text: str, messages: Turns) -> Turns:
    """Return the turns of an answer: its messages, or the turns of a transcript in its text; () for a plain text."""
    return messages or ((transcript_answer(asked, text) or ()) if isinstance(asked, str) else ())


def _gap(asked: str) -> int:
    """Return how many line breaks stand before the last "Assistant:". More than two count as two."""
    return min(2, _breaks(asked, len(asked) - len(ANSWERS_NOW)))


def _breaks(text: str, at: int) -> int:
    """Return how many line breaks are in the white space before a position."""
    start = at
    while start and text[start - 1].isspace():
        start -= 1
    return text.count("\n", start, at)


def _parted(text: str, breaks: int) -> Turns | None:
    """Return the turns of a text that begins with a person's turn.

    It is None if the text has more than two turns but no line breaks. Several turns in a row by one speaker are joined.
    Empty turns are dropped.
    breaks: the least number of line breaks before each turn except the first
    """
    said = [(role, text[start:end].strip()) for role, start, end in _said(text, breaks)]
    turns = tuple(
        Message(role, "\n\n".join(content for _, content in together))
        for role, together in groupby((pair for pair in said if pair[1]), key=lambda pair: pair[0])
    )
    return turns if turns and turns[0].role == "user" and (breaks or len(said) <= 2) else None


def _said(text: str, breaks: int) -> list[tuple[str, int, int]]:
    """Return who speaks and where: (role, start, end). The arguments are as of `_parted`."""
    start = len(text) - len(text.lstrip())
    heads = [head for head in _HEADS.finditer(text) if head.start() == start or _parts(text, head.start(), breaks)]
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return [(_ROLES[head[1]], head.end(), end) for head, end in zip(heads, ends, strict=True)]


def _parts(text: str, at: int, breaks: int) -> bool:
    return text[at - 1].isspace() and _breaks(text, at) >= breaks
