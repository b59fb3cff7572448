"""Messages as a chat template takes them, and as plain text where there is no template.

Templates differ in how they want tool calls: arguments as an object or as JSON text, an empty content as null or as "".
Nothing says so in a model's folder, so the template is asked, with a made-up call. One that writes no calls, or drops a
part of what an answer says, is no use for such messages: that is an error and never a silent loss.
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
PLAIN_END = "\n\nAssistant:"  # where the answer begins, for a model without a chat template


class Unwritten(ValueError):
    """A chat template would leave out a part of the messages; says which."""


@dataclass(frozen=True)
class Calls:
    """How a template wants tool calls: what stands for an empty content, and whether arguments are JSON text."""

    empty: str | None
    as_text: bool


@dataclass(frozen=True)
class Chat:
    """A tokenizer's chat template, asked for what it can write."""

    tokenizer: Any

    def render(self, turns: Turns, tools: Sequence[Json] = (), generate: bool = True) -> str:
        """The conversation as text, up to where the answer begins (`generate`) or to its end.

        Raises Unwritten, or whatever the template raises.
        """
        if tools and not self.writes_tools:
            raise Unwritten("it does not write the tools that may be called")
        text = self._apply([self._message(turn) for turn in turns], [_wrapped(tool) for tool in tools], generate)
        for turn in turns:
            if turn.calls:
                _need(text, turn.content, "the text of a message that calls a tool")
                for call in turn.calls:
                    _need(text, (call.get("function") or call)["name"], "a tool call")
        return text

    def answer(self, prompt: Prompt, turns: Turns) -> str:
        """What stands behind the prompt where these turns answer it, with the end of the last one.

        Raises Unwritten, also where the template writes the prompt in another way once there is an answer.
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
        """None where the template writes no tool calls."""
        given = {"place": VALUE}
        for as_text in (False, True):
            for empty in (None, ""):
                # nine letters and digits: some templates take no other id
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
        role = "tool" if turn.role == "function" else turn.role  # OpenAI's older name
        found = {"role": role, "content": turn.content, **turn.extra}
        reasoning = next((turn.extra[key] for key in REASONING if key in turn.extra), None)
        if reasoning is not None:  # every template has a name of its own for it
            found = dict.fromkeys(REASONING, reasoning) | found
        if not turn.calls:
            return found | ({} if turn.content is not None else {"content": ""})
        if self.calls is None:
            raise Unwritten("it does not write tool calls")
        found.pop("function_call", None)
        found["tool_calls"] = [self._call(call) for call in turn.calls]
        return found if (turn.content or "").strip() else found | {"content": self.calls.empty}

    def _call(self, call: Json) -> dict[str, Any]:
        wrapped = _wrapped(call)
        given = wrapped["function"].get("arguments")
        given = {} if given is None else given
        assert self.calls is not None
        if self.calls.as_text:
            given = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        else:
            given = arguments(given)
        return {**wrapped, "function": {**wrapped["function"], "arguments": given}}


_PARAMETERS = {"type": "object", "properties": {"place": {"type": "string", "description": "-"}}}
# what a template prints that was given another kind of value than it expects
_MISREAD = ("{'place'", '\\"place', "None")


def _wrapped(value: Json) -> dict[str, Any]:
    """A call or a tool with its function under "function", as chat templates read them; many files leave that out."""
    if "function" in value:
        return {"type": "function", **value}
    beside = {key: value[key] for key in ("id",) if key in value}
    return {**beside, "type": "function", "function": {k: v for k, v in value.items() if k not in ("id", "type")}}


def _need(text: str, part: object, what: str) -> None:
    if isinstance(part, str) and part.strip() not in text:
        raise Unwritten(f"it leaves out {what}")


def prompt_turns(prompt: Prompt) -> Turns:
    """A prompt as the messages of a chat: a text is the user's one message, a transcript its turns."""
    said = conversation(prompt.content)
    turns = (Message("user", said),) if isinstance(said, str) else said
    return (Message("system", prompt.system), *turns) if prompt.system else turns


# -- without a chat template -------------------------------------------------------------------------------------------


def plain_prompt(prompt: Prompt) -> str:
    """Text as it is; a chat as named turns, up to where the answer begins. The tools stand at the beginning."""
    tools = "\n".join(["Tools:", *map(tool_text, prompt.tools)]) if prompt.tools else ""
    if isinstance(prompt.content, str):
        return "\n\n".join(filter(None, (tools, prompt.system, prompt.content)))
    return tools + plain_turns(prompt_turns(prompt)) + PLAIN_END


def plain_turns(turns: Turns) -> str:
    return "".join(f"\n\n{SPEAKER.get(turn.role, turn.role)}: {message_text(turn)}" for turn in turns)


def plain_lead(asked: str, answer: str) -> str:
    """The space that stands behind "Assistant:" in transcripts, unless the answer brings white space of its own."""
    return " " if asked.endswith("Assistant:") and answer[:1].strip() else ""


def plain_answer(text: str, turns: Turns) -> str:
    """An answer's text; where it is more than one plain text, its turns, of which the first is the assistant's."""
    return plain_turns(turns).removeprefix(f"{PLAIN_END} ") if turns else text
