"""Messages of a chat: what they hold, how they are written to JSON, and how a person reads them. Standard library only.

A message may hold more than its role and its text: tool calls, a tool's name, reasoning. All of it is part of what was
said, so it is compared, hashed, shown, given to the chat template and exported. `calls weather(city=Oslo)` is how a
person, and a model without a chat template, reads a call.
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
WHO = ("name", "tool_call_id")  # these say who speaks and to what; alone they say nothing


@dataclass(frozen=True)
class Message:
    """One turn of a chat, as in the chat templates of Hugging Face models.

    content: its text; None only where the message says something else, as in `"content": null` beside `tool_calls`.
    extra:   what else it holds (`tool_calls`, `tool_call_id`, `name`, `reasoning_content`, ...), as it was written.
    """

    role: str
    content: str | None
    extra: Json = field(default_factory=dict, hash=False)

    @property
    def plain(self) -> bool:
        """Whether role and text are all there is."""
        return self.content is not None and not self.extra

    @property
    def silent(self) -> bool:
        """Whether it says nothing at all."""
        return not (self.content or "").strip() and not self.extra.keys() - set(WHO)

    @property
    def calls(self) -> tuple[Json, ...]:
        """The tools it calls: `tool_calls`, or the one `function_call` of older chats."""
        if self.extra.get("tool_calls"):
            return tuple(self.extra["tool_calls"])
        return ({"function": self.extra["function_call"]},) if self.extra.get("function_call") else ()


Turns = tuple[Message, ...]
Content = str | Turns


def digest(*parts: object) -> str:
    """The first 16 hex digits of SHA-256 over canonical JSON: stable across runs and machines."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def message_to_json(message: Message) -> dict[str, Any]:
    return {"role": message.role, "content": message.content, **message.extra}


def content_to_json(content: Content) -> str | list[dict[str, Any]]:
    """A prompt as it is written to JSON: a string, or a list of `{role, content}` with what else each message holds."""
    return content if isinstance(content, str) else [message_to_json(m) for m in content]


def content_from_json(value: str | Sequence[Mapping[str, Any]]) -> Content:
    """The inverse of `content_to_json`."""
    return value if isinstance(value, str) else to_turns(value)


def to_turns(value: Sequence[Mapping[str, Any]]) -> Turns:
    return tuple(
        Message(m["role"], m["content"], {k: v for k, v in m.items() if k not in ("role", "content")}) for m in value
    )


# -- as a person reads it ----------------------------------------------------------------------------------------------


def content_text(content: Content) -> str:
    """A prompt or a conversation as plain text, for people and for scorers that read text."""
    if isinstance(content, str):
        return content
    return "\n\n".join(f"{speaker(m)}: {message_text(m)}" for m in content)


def answer_text(turns: Turns) -> str:
    """An answer as plain text: of a single turn of the assistant only what it says."""
    if len(turns) == 1 and turns[0].role == "assistant" and not turns[0].extra.keys() & set(WHO):
        return message_text(turns[0])
    return content_text(turns)


def speaker(message: Message) -> str:
    """Who speaks: "user", "user Ann", "tool weather [call_1]"."""
    name, answers = (message.extra.get(key) for key in WHO)
    return message.role + (f" {name}" if name else "") + (f" [{answers}]" if answers else "")


def message_text(message: Message) -> str:
    """All that a message says, but for who says it: its text, and a line for each other thing."""
    before, after = asides(message)
    return "\n".join([*before, *([message.content] if message.content else []), *after])


def asides(message: Message) -> tuple[list[str], list[str]]:
    """What a message holds beside its text, as lines to stand before the text (reasoning) and after it (calls)."""
    extra = message.extra
    before = [f"thinks: {_value_text(extra[key])}" for key in REASONING if key in extra]
    after = [f"refuses: {_value_text(extra['refusal'])}"] if "refusal" in extra else []
    after += [f"calls {call_text(call)}" for call in message.calls]
    known = {*REASONING, *WHO, "refusal", "tool_calls", "function_call"}
    after += [f"{key}: {_value_text(extra[key])}" for key in sorted(extra.keys() - known)]
    return before, after


def call_text(call: Json) -> str:
    """ "weather(city=Oslo, days=3) [call_1]"."""
    function = call.get("function") or call
    given = arguments(function.get("arguments"))
    if isinstance(given, dict):
        said = ", ".join(f"{name}={_argument(value)}" for name, value in given.items())
    else:
        said = "" if given is None else _value_text(given)
    return f"{function.get('name')}({said})" + (f" [{call['id']}]" if call.get("id") else "")


def arguments(value: object) -> object:
    """The arguments of a call as an object: many write them as JSON text. Text that holds no object stays text."""
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return found if isinstance(found, dict) else value
    return value


def tool_text(tool: Json) -> str:
    """ "weather(city, days): How the weather will be"."""
    function = tool.get("function") or tool
    schema = function.get("parameters")
    names = schema.get("properties", schema) if isinstance(schema, dict) else {}
    listed = ", ".join(map(str, names)) if isinstance(names, dict) else ""
    about = f": {function['description']}" if function.get("description") else ""
    return f"{function.get('name')}({listed}){about}"


_WORD = re.compile(r"[^\W\d][\w.-]*")


def _argument(value: object) -> str:
    """Text that is one word stands bare; all else is JSON, so that "3" and 3 look different."""
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
    """The turns of a prompt that is written as a transcript (Anthropic's hh-rlhf and what was made of it), else None.

    It begins with "Human:" and ends with "Assistant:". Turns are parted by what stands before the last "Assistant:":
    an empty line, a line break, or, where there is one question alone, a space. So "Human:" inside a text does not make
    a transcript of it, and inside a turn it makes no further turn.
    """
    asked = text.rstrip()
    if not asked.endswith(ANSWERS_NOW) or not text.lstrip().startswith("Human:"):
        return None
    turns = _parted(asked.removesuffix(ANSWERS_NOW), _gap(asked))
    return turns if turns and turns[-1].role == "user" else None


def transcript_answer(prompt: str, text: str) -> Turns | None:
    """The turns of an answer to a transcript that goes on with further turns; None where the answer is one turn."""
    if (before := transcript(prompt)) is None:
        return None
    asked = prompt.rstrip()
    turns = _parted(f"{asked} {text}", _gap(asked))
    if turns is None or turns[-1].role != "assistant" or turns[: len(before)] != before:
        return None
    answer = turns[len(before) :]
    return answer if len(answer) > 1 or answer[0].content != text.strip() else None


def conversation(content: Content) -> Content:
    """A prompt as turns where it is a chat or a transcript, else its text."""
    return (transcript(content) or content) if isinstance(content, str) else content


def shown_turns(asked: Content, text: str, messages: Turns) -> Turns:
    """The turns of an answer: its messages, or those that its text tells as a transcript; () where it is one text."""
    return messages or ((transcript_answer(asked, text) or ()) if isinstance(asked, str) else ())


def _gap(asked: str) -> int:
    """How many line breaks part the last "Assistant:" from what was asked; more than two count as two."""
    return min(2, _breaks(asked, len(asked) - len(ANSWERS_NOW)))


def _breaks(text: str, at: int) -> int:
    """How many line breaks stand in the white space before a place."""
    start = at
    while start and text[start - 1].isspace():
        start -= 1
    return text.count("\n", start, at)


def _parted(text: str, breaks: int) -> Turns | None:
    """The turns of a text that begins with a person's. Of one speaker's turns in a row, a few in a hundred transcripts,
    one turn is made; an empty one is none. None where there are more than two turns and no line breaks between them.

    breaks: how many line breaks there are at least before each turn but the first.
    """
    start = len(text) - len(text.lstrip())
    heads = [head for head in _HEADS.finditer(text) if head.start() == start or _parts(text, head.start(), breaks)]
    ends = [head.start() for head in heads[1:]] + [len(text)]
    said = [(_ROLES[head[1]], text[head.end() : end].strip()) for head, end in zip(heads, ends, strict=True)]
    turns = tuple(
        Message(role, "\n\n".join(content for _, content in together))
        for role, together in groupby((pair for pair in said if pair[1]), key=lambda pair: pair[0])
    )
    return turns if turns and turns[0].role == "user" and (breaks or len(said) <= 2) else None


def _parts(text: str, at: int, breaks: int) -> bool:
    return text[at - 1].isspace() and _breaks(text, at) >= breaks
