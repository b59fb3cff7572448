"""Reads the answers of endpoints of OpenAI's protocol. They are checked as the rows of a file are."""

from __future__ import annotations

from typing import Any

from prefloop.errors import DataError
from prefloop.exchange.base import BadRow, Unrepresentable, kind
from prefloop.exchange.files.json_values import checked
from prefloop.exchange.turns import message
from prefloop.messages import answer_text
from prefloop.types import Completion, FinishReason

CUT_OFF = ("length", "max_tokens", "model_length")


def read_choice(choice: Any) -> Completion:
    """Return one of the `choices` of an answer, without an id. Raises DataError where it cannot be used.

    Token ids and log-probabilities are left where they are: they are of another model.
    """
    try:
        return _read(checked(choice))
    except BadRow as error:
        raise DataError(str(error)) from None


def _read(choice: Any) -> Completion:
    if not isinstance(choice, dict):
        raise BadRow(f"a choice must be an object, not {kind(choice)}")
    reason = choice.get("finish_reason")
    if reason == "content_filter":
        raise BadRow("a content filter stopped the answer")
    ended: FinishReason = "length" if reason in CUT_OFF else "stop"
    if "message" not in choice:
        text = choice.get("text")
        if isinstance(text, Unrepresentable):
            raise BadRow(f"the answer holds {text.what}")
        if not isinstance(text, str):
            raise BadRow(f"the answer must be text, not {kind(text)}")
        return Completion("", text, finish_reason=ended)
    given = choice["message"]
    turn, _ = message({"role": "assistant", **given} if isinstance(given, dict) else given, "the answer")
    if isinstance(turn.content, Unrepresentable):
        raise BadRow(f"the answer holds {turn.content.what}")
    if turn.plain:
        return Completion("", turn.content or "", finish_reason=ended)
    return Completion("", answer_text((turn,)), finish_reason=ended, messages=(turn,))
