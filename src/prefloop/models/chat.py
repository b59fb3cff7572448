"""Turns messages into text: by the model's chat template, or as a plain transcript where it has none.

Templates differ in how they expect tool calls: arguments as an object or as JSON text, empty content as null or as "".
A model's folder does not say which, so the template is tried with a made-up call. If a template writes no calls, or
leaves out a part of an answer, that is an error: nothing is lost silently.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from prefloop.errors import ModelError
from prefloop.messages import REASONING, Json, Message, Turns, arguments, conversation, message_text, tool_text
from prefloop.models.bounded import bounded
from prefloop.types import Prompt

NAME, VALUE = "prefloop_probe", "prefloop_value"
SPEAKER = {"user": "Human", "prompter": "Human", "assistant": "Assistant", "system": "System", "tool": "Tool"}
PLAIN_END = "\n\nAssistant:"  # It stands before an answer where there is no chat template.


class Unwritten(ValueError):
    """States that a chat template would leave out a part of the messages. The text says which part."""


@dataclass(frozen=True)
class Calls:
    """Says how a template expects tool calls: the value of empty content, and whether arguments are JSON text."""

    empty: str | None
    as_text: bool


@dataclass(frozen=True)
class Chat:
    """Holds a tokenizer's chat template, and what it was found to support."""

    tokenizer: Any

    def render(self, turns: Turns, tools: Sequence[Json] = (), generate: bool = True) -> str:
        """Return the conversation as text: up to where the answer begins if `generate`, else to its end.

        Raises Unwritten if a part would be missing, and whatever the template itself raises.
        """
        if tools and not self.writes_tools:
            raise Unwritten("it does not write the tools that may be called")
        text = self._apply([self._message(turn) for turn in turns], [wrapped(tool) for tool in tools], generate)
        for turn in turns:
            if turn.calls:
                _need(text, turn.content, "the text of a message that calls a tool")
                for call in turn.calls:
                    _need(text, (call.get("function") or call)["name"], "a tool call")
        return text

    def answer(self, prompt: Prompt, turns: Turns) -> str:
        """Return the text that the template writes after the prompt if these turns answer it.

        It goes to the end of the last turn. Raises Unwritten, also if the template writes the prompt differently once
        an answer follows.
        """
        asked = prompt_turns(prompt)
        head = self.render(asked, prompt.tools)
        whole = self.render((*asked, *turns), prompt.tools, generate=False)
        if not whole.startswith(head):
            raise Unwritten("what it writes of the prompt is another text when an answer stands behind it")
        said = whole[len(head) :]
        for turn in turns:
            _need(said, turn.content, f"the text of the {turn.role}'s turn")
            for key in REASONING:
                _need(said, turn.extra.get(key), f"{key} of an answer")
        return said

    @cached_property
    def writes_tools(self) -> bool:
        tool = {"type": "function", "function": {"name": NAME, "description": "-", "parameters": _PARAMETERS}}
        return NAME in self._tried([{"role": "user", "content": "-"}], [tool])

    @cached_property
    def calls(self) -> Calls | None:
        """Return how the template expects tool calls; None if it does not write them."""
        given = {"place": VALUE}
        for as_text in (False, True):
            for empty in (None, ""):
                # Some templates accept only ids of nine letters and digits.
                function = {"name": NAME, "arguments": json.dumps(given) if as_text else given}
                call = {"id": "prefloop1", "type": "function", "function": function}
                calling = {"role": "assistant", "content": empty, "tool_calls": [call]}
                text = self._tried([{"role": "user", "content": "-"}, calling], [])
                if NAME in text and VALUE in text and not any(sign in text for sign in _MISREAD):
                    return Calls(empty, as_text)
        return None

    def _tried(self, messages: list[dict[str, Any]], tools: list[Json]) -> str:
        try:
            return self._apply(messages, tools, False)
        except ModelError:
            raise
        except Exception:  # noqa: BLE001 -- a template is a program of somebody else
            return ""

    def _apply(self, messages: list[dict[str, Any]], tools: Sequence[Json], generate: bool) -> str:
        more: dict[str, Any] = {"tools": list(tools)} if tools else {}
        more |= {"tokenize": False, "add_generation_prompt": generate}
        with bounded():
            return str(self.tokenizer.apply_chat_template(messages, **more))

    def _message(self, turn: Message) -> dict[str, Any]:
        role = "tool" if turn.role == "function" else turn.role  # This is OpenAI's older name.
        found = {"role": role, "content": turn.content, **turn.extra}
        reasoning = next((turn.extra[key] for key in REASONING if key in turn.extra), None)
        if reasoning is not None:  # Templates differ in what they call it.
            found = dict.fromkeys(REASONING, reasoning) | found
        if not turn.calls:
            return found | ({} if turn.content is not None else {"content": ""})
        if self.calls is None:
            raise Unwritten("it does not write tool calls")
        found.pop("function_call", None)
        found["tool_calls"] = [self._call(call) for call in turn.calls]
        return found if (turn.content or "").strip() else found | {"content": self.calls.empty}

    def _call(self, call: Json) -> dict[str, Any]:
        whole = wrapped(call)
        given = whole["function"].get("arguments")
        given = {} if given is None else given
        assert self.calls is not None
        if self.calls.as_text:
            given = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        else:
            given = arguments(given)
        return {**whole, "function": {**whole["function"], "arguments": given}}


_PARAMETERS = {"type": "object", "properties": {"place": {"type": "string", "description": "-"}}}
# A template prints these if it is given another kind of value than it expects.
_MISREAD = ("{'place'", '\\"place', "None")


def wrapped(value: Json) -> dict[str, Any]:
    """Return a call or a tool with its function under the key "function".

    Templates expect the key, and many files leave it out.
    """
    if "function" in value:
        return {"type": "function", **value}
    beside = {key: value[key] for key in ("id",) if key in value}
    return {**beside, "type": "function", "function": {k: v for k, v in value.items() if k not in ("id", "type")}}


def _need(text: str, part: object, what: str) -> None:
    if isinstance(part, str) and part.strip() not in text:
        raise Unwritten(f"it leaves out {what}")


def prompt_turns(prompt: Prompt) -> Turns:
    """Return a prompt as chat messages: a text becomes one user message, a transcript becomes its turns."""
    said = conversation(prompt.content)
    turns = (Message("user", said),) if isinstance(said, str) else said
    return (Message("system", prompt.system), *turns) if prompt.system else turns


# -- without a chat template -------------------------------------------------------------------------------------------


def plain_prompt(prompt: Prompt) -> str:
    """Return a text prompt unchanged, or a chat as named turns up to where the answer begins. Tools come first."""
    tools = "\n".join(["Tools:", *map(tool_text, prompt.tools)]) if prompt.tools else ""
    if isinstance(prompt.content, str):
        return "\n\n".join(filter(None, (tools, prompt.system, prompt.content)))
    return tools + plain_turns(prompt_turns(prompt)) + PLAIN_END


def plain_turns(turns: Turns) -> str:
    return "".join(f"\n\n{SPEAKER.get(turn.role, turn.role)}: {message_text(turn)}" for turn in turns)


def plain_lead(asked: str, answer: str) -> str:
    """Return the space after "Assistant:" in a transcript; empty if the answer itself starts with white space."""
    return " " if asked.endswith("Assistant:") and answer[:1].strip() else ""


def plain_answer(text: str, turns: Turns) -> str:
    """Return an answer as text: `text` itself, or its turns if it has several. The first turn is the assistant's."""
    return plain_turns(turns).removeprefix(f"{PLAIN_END} ") if turns else text
