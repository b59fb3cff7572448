"""Checks answers in transcripts ("Human: ... Assistant: ..."), which must not end with the person's turn."""

from __future__ import annotations

import re

from prefloop.exchange.base import BadRow
from prefloop.types import Demonstration, Item, Prompt

# Only the start of a line counts: answers that play the person's part within a turn ("Assistant: Human: Yes") are
# answers.
_SPACED, _LINES = re.compile(r"\n\n(Human|Assistant):"), re.compile(r"\n(Human|Assistant):")


def check_transcript(result: Prompt | Demonstration | Item) -> None:
    """Raise BadRow if an answer to a transcript ends with the person's turn."""
    if isinstance(result, Prompt):
        return
    answers = [answer.text for answer in result.completions] if isinstance(result, Item) else [result.text]
    for place, text in enumerate(answers, start=1):
        if _ends_with_person(result.prompt, text):
            of = f"answer {place}" if len(answers) > 1 else "the answer"
            raise BadRow(f"{of} ends with the person's turn (Human:), so it cannot be told what was answered")


def _ends_with_person(prompt: Prompt, text: str) -> bool:
    content = prompt.content
    if not isinstance(content, str) or "Human:" not in text:
        return False
    if not content.lstrip().startswith("Human:") or not content.rstrip().endswith("Assistant:"):
        return False
    heads = (_SPACED if content.rstrip().endswith("\n\nAssistant:") else _LINES).findall(text)
    return bool(heads) and heads[-1] == "Human"
