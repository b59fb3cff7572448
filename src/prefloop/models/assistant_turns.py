"""Finds which part of an answer of several turns the assistant itself wrote.

A policy learns from that part only, because it never writes the rest: what a tool or a person says in between, and what
the chat template writes before each turn. The template is asked by rendering the conversation up to each turn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from prefloop.messages import Message, Turns
from prefloop.models.chat import PLAIN_END, Chat, Unwritten, plain_turns, prompt_turns
from prefloop.types import Prompt

Spans = list[tuple[int, int]]  # (start, end) of each piece of a text


def of_several_turns(turns: Turns) -> bool:
    """Return whether somebody else than the assistant wrote a part of an answer."""
    return len(turns) > 1 or any(turn.role != "assistant" for turn in turns)


def template_spans(
    chat: Chat,
    prompt: Prompt,
    turns: Turns,
    said: str,
    lead: str,
    ends: Collection[str],
    until_end: Callable[[str, Message], str],
) -> Spans:
    """Return where the assistant speaks in the text that the template writes after the prompt for these turns.

    A turn begins where the template ends if it is asked for an answer to everything before, and goes on to the token
    that ends it. The last turn goes on to the end of the text.

    said:      the text that the template writes for the turns
    lead:      what the template writes before an answer, but may leave out of earlier ones, such as empty thoughts
    ends:      the tokens that end answers
    until_end: cuts the text of a turn before the token that ends it
    Raises Unwritten if the template writes the beginning of the conversation differently once more turns follow, since
    nothing then says where a turn begins and ends.
    """
    asked = prompt_turns(prompt)
    head = len(chat.render(asked, prompt.tools))
    whole = chat.render(asked, prompt.tools) + said
    spans: Spans = []
    for n, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        before = chat.render((*asked, *turns[:n]), prompt.tools)
        if not whole.startswith(before):
            raise Unwritten(f"what it writes before turn {n + 1} of an answer is another text when more turns follow")
        start = len(before) - head
        if n == len(turns) - 1:
            spans.append((start, len(said)))
            continue
        through = chat.render((*asked, *turns[: n + 1]), prompt.tools, generate=False)
        own = until_end(through[len(before) :], turn)
        written = next((text for text in (own, own.removeprefix(lead)) if said.startswith(text, start)), None)
        if written is None or not through.startswith(before):
            raise Unwritten(f"it writes turn {n + 1} of an answer as another text when more turns follow")
        spans.append((start, _with_end(said, start + len(written), ends)))
    return spans


def _with_end(text: str, at: int, ends: Collection[str]) -> int:
    """Return the place behind the token that ends a turn, if one follows; otherwise the same place."""
    rest = text[at:].lstrip()
    name = next((name for name in ends if rest.startswith(name)), None)
    return at if name is None else len(text) - len(rest) + len(name)


def plain_spans(turns: Turns) -> Spans:
    """Return where the assistant speaks in `plain_answer` of these turns."""
    spans: Spans = []
    at = len(plain_turns(turns).removeprefix(f"{PLAIN_END} ")) - len(plain_turns(turns))
    for turn in turns:
        end = at + len(plain_turns((turn,)))
        if turn.role == "assistant":
            spans.append((max(0, at + len(PLAIN_END)), end))
        at = end
    return spans
