"""Reads one message of any file as a `Message` (its roles, content and tool calls), and lists of tools.

Everything else in a message is kept with it, except fields that describe the record and not what was said
(`BOOKKEEPING`); these go to the prompt's metadata. Images, sounds and files are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefloop.exchange.base import BadRow, Record, kind, quoted
from prefloop.exchange.files.json_values import checked, parse_json
from prefloop.exchange.values import first_unrepresentable
from prefloop.messages import Json, Message

# Other people have these names for the roles of chat templates: ShareGPT, Open-Assistant, Gemini, LangChain.
ROLES = {
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "gpt4", "bing", "bard", "bot", "chatbot", "ai", "model"), "assistant"),
    "observation": "tool",
}
SPEAKERS = frozenset(("system", "developer", "user", "assistant", "tool", "function", "ipython"))
CALLS = "function_call"  # This is ShareGPT's role of a turn that is nothing but calls, as JSON text.
TOOLS = ("tools", "functions")
MEDIA_FIELDS = ("images", "videos", "audios")  # These fields describe a record, and stand beside its messages.
TEXT_PARTS = ("text", "input_text", "output_text")
MEDIA = ("image", "audio", "video", "file", "document")
OWN = "prefloop"  # Only this program wrote this key: in Parquet it holds the fields of a message that have no column.
BOOKKEEPING = frozenset(
    ("id", "message_id", "parent_id", "uuid", "index", "idx", "turn", "turn_id", "turn_identifier", "source", "model")
    + ("timestamp", "created_at", "create_time", "updated_at", "time", "date", "model_name", "status", "metadata")
    + ("language", "lang", "header", "country", "state", "hashed_ip", "usage", "finish_reason", "score", "rating")
    + ("weight", "train", "loss", "loss_mask", "mask", "tokens", "num_tokens", "token_count", "labels")
    + ("redacted", "toxic", "openai_moderation", "detoxify_moderation")
)


def message(value: object, name: str) -> tuple[Message, dict[str, Any]]:
    """Return a message from {role, content} or {from, value}, and its other fields that are not part of the message.

    Raises BadRow if it says nothing, or holds something that is not text.
    """
    if not isinstance(value, dict):
        raise BadRow(f"{name} must be an object, not {kind(value)}")
    role_key, content_key = ("from", "value") if "from" in value else ("role", "content")
    role = value.get(role_key)
    if not isinstance(role, str):
        raise BadRow(f"the {role_key} of {name} must be text, not {kind(role)}")
    if not role.strip():
        raise BadRow(f"the {role_key} of {name} is empty")
    own = value.get(OWN)
    left = {**value, **own} if isinstance(own, dict) else value
    left = {key: inner for key, inner in left.items() if key not in (role_key, content_key, OWN) and not _empty(inner)}
    beside = {key: inner for key, inner in left.items() if key in BOOKKEEPING}
    # They are sorted, since columns cannot keep another order.
    extra = {key: left[key] for key in sorted(left.keys() - BOOKKEEPING)}
    if odd := first_unrepresentable(extra):
        raise BadRow(f"{name} holds {odd.what}")
    content = value.get(content_key)
    if role_key == "from" and role == CALLS:
        role, content, extra["tool_calls"] = "assistant", None, _parsed(content, f"the calls of {name}")
    if "tool_calls" in extra:
        extra["tool_calls"] = _calls(extra["tool_calls"], name)
    if "function_call" in extra:
        (extra["function_call"],) = _calls([_parsed(extra["function_call"], f"the function_call of {name}")], name)
    content = _content(content, f"the {content_key} of {name}")
    named = role.casefold()
    found = Message(ROLES.get(named, named if named in SPEAKERS else role), content, extra)
    if content is None and found.silent:
        raise BadRow(f"the {content_key} of {name} must be text, not null")
    return found, beside


def _empty(value: object) -> bool:
    return value is None or value in ("", [], {})


def _content(value: object, name: str) -> str | None:
    """Return a text, or text parts joined with nothing between them, as chat templates join them."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise BadRow(f"{name} must be text, not {kind(value)}")
    return "".join(_part(part, name) for part in value)


def _part(part: object, name: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise BadRow(f"{name} has a part that is {kind(part)}; a part must be an object with a type and a text")
    type = part.get("type", "text")
    medium = next(
        (medium for medium in MEDIA if medium in str(type) or part.get(medium) or part.get(f"{medium}_url")), None
    )
    if medium is not None:
        raise BadRow(f"{name} holds {'an' if medium[0] in 'ai' else 'a'} {medium}; prefloop reads text only")
    if type not in TEXT_PARTS:
        raise BadRow(f"{name} holds a part of type {quoted(type)}; prefloop reads text only")
    text = part.get("text", part.get("content"))
    if not isinstance(text, str):
        raise BadRow(f"{name} has a part whose text is {kind(text)}")
    return text


def _calls(value: object, name: str) -> list[Any]:
    """Return tool calls from a list or its JSON text. Each must name a function."""
    found = _parsed(value, f"tool_calls of {name}")
    if not isinstance(found, list):
        found = [found]
    for call in found:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow(f"a tool call of {name} names no function: {quoted(call)}")
        if not isinstance(function.get("arguments"), str | dict | None):
            raise BadRow(f"the arguments of a tool call of {name} must be an object or JSON text")
    return found


def _parsed(value: object, name: str) -> Any:
    """Return the value of a JSON text, and anything else unchanged. Raises BadRow for values that cannot be kept."""
    found = value
    if isinstance(value, str):
        try:
            found = checked(parse_json(value))
        except BadRow as error:
            raise BadRow(f"{name} is no JSON: {error}") from None
    if odd := first_unrepresentable(found):
        raise BadRow(f"{name} holds {odd.what}")
    return found


def tools_of(record: Record) -> tuple[Json, ...]:
    """Return the tools that a model may call, from `tools` or from OpenAI's older `functions`.

    They are JSON schemas, or the JSON text of them.
    """
    name = next((name for name in TOOLS if record.get(name) not in (None, "", [], "[]")), None)
    if name is None:
        return ()
    found = _parsed(record[name], name)
    tools: Sequence[object] = [found] if isinstance(found, dict) else found
    if not isinstance(tools, list):
        raise BadRow(f"{name} must be a list of JSON schemas, not {kind(found)}")
    return tuple(_tool(_parsed(tool, f"a tool of {name}"), name) for tool in tools)


def _tool(tool: object, name: str) -> Mapping[str, Any]:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(tool, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow(f"an entry of {name} is no JSON schema with a name: {quoted(tool)}")
    return tool
