"""Reads preference pairs: `chosen` and `rejected`, with the prompt beside them or as their common beginning.

It reads TRL, OpenRLHF, ultrafeedback_binarized and open-instruct (text or message lists), and LLaMA-Factory (alpaca and
sharegpt). Equal scores, or equal texts, are a tie. Which answer was longer or listed first does not matter.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from prefloop.exchange import fields
from prefloop.exchange.base import BadRow, FieldLook, Format, Record
from prefloop.exchange.build import IMPORTED, PREFERENCE, build_item, draft
from prefloop.exchange.turns import tools_of
from prefloop.types import Completion, Item, Message, Prompt

USED = (
    "id",
    "chosen",
    "rejected",
    "rejected_response",
    "score_chosen",
    "score_rejected",
    "annotator",
    "criterion",
    "simulated",
)
ABOUT = re.compile(r"(.*[_.-])?(chosen|rejected)([_.-]|$)", re.IGNORECASE)
NUMBERED = re.compile(r"[_.-]?\d+$")
# Scores beside a verdict are metadata, so they do not stop an import.
STOPS = frozenset({FieldLook.VERDICT, FieldLook.NUMBERED})
REJECTED = "rejected_response"
ASSISTANT = "\n\nAssistant:"


def _has_prompt(record: Record) -> bool:
    return fields.prompt_name(record) is not None


def fits(record: Record) -> bool:
    return ("chosen" in record and "rejected" in record) or _answers_in_chat(record)


def _answers_in_chat(record: Record) -> bool:
    """Return whether the chat ends with the chosen answer and the rejected one is beside it, as in ms-swift."""
    return record.get(REJECTED) is not None and "chosen" not in record


def fits_transcripts(record: Record) -> bool:
    """Return whether a record is two whole transcripts as Anthropic publishes them."""
    both = (record.get("chosen"), record.get("rejected"))
    if _has_prompt(record) and not all(_repeats(text, record.get("prompt")) for text in both):
        return False
    return all(isinstance(text, str) and _last_head(text) for text in both)


def _last_head(text: str) -> int:
    """Return where the last "Assistant:" ends, after an empty line or at a line's start; 0 if there is none."""
    heads = (ASSISTANT, ASSISTANT[1:]) if text.lstrip().startswith("Human:") else (ASSISTANT,)
    return next((at + len(head) for head in heads if (at := text.rfind(head)) >= 0), 0)


def _repeats(text: object, prompt: object) -> bool:
    """Return whether a transcript begins with the prompt that is given beside it."""
    if not isinstance(text, str) or not isinstance(prompt, str) or not text.lstrip().startswith("Human:"):
        return False
    return _bare(text).startswith(_bare(prompt))


def _bare(text: str) -> str:
    return text.strip().removeprefix("Human:").lstrip()


def uses(record: Record) -> tuple[str, ...]:
    """Return the used fields.

    `chosen_model` or `rejected-rating` describe the two answers, but `rejected_2` would be a third.
    """
    about = (name for name in record if ABOUT.match(name) and not NUMBERED.search(name))
    return (*USED, *fields.prompt_fields(record), *about)


def parse(records: Sequence[Record]) -> Iterable[Item]:
    (record,) = records
    yield pair_item(record, *_split(record))


def parse_transcripts(records: Sequence[Record]) -> Iterable[Item]:
    """Yield items of two transcripts. The prompt ends with the last "\\n\\nAssistant:" that both share.

    Where they part before the last turn (about 1 pair in 400) the answers hold the turns that follow, as text.
    """
    (record,) = records
    chosen, rejected = (fields.text(record.get(name), name) for name in ("chosen", "rejected"))
    shared = os.path.commonprefix([chosen, rejected])
    end = _last_head(shared)
    if not end:
        raise BadRow('chosen and rejected share no beginning up to "\\n\\nAssistant:"')
    answers = [
        Completion(local, fields.text(text[end:].strip(), name))
        for local, name, text in (
            ("c0", "chosen", chosen),
            ("c1", "rejected", rejected),
        )
    ]
    yield pair_item(record, Prompt(chosen[:end]), answers[0], answers[1])


FORMAT = Format(
    "pairs",
    "preference pairs: (prompt,) chosen, rejected, as text or messages (TRL, OpenRLHF, LLaMA-Factory)",
    fits,
    parse,
    uses,
    STOPS,
)
TRANSCRIPTS = Format(
    "hh-rlhf",
    "preference pairs as two whole transcripts with Human: and Assistant: turns (Anthropic hh-rlhf)",
    fits_transcripts,
    parse_transcripts,
    uses,
    STOPS,
)


def pair_item(record: Record, prompt: Prompt, chosen: Completion, rejected: Completion) -> Item:
    """Return an item with completions c0 (chosen) and c1 (rejected) and one ranking of them."""
    fields.optional_number(record, "margin")  # The margin is kept with the metadata, but it has to be a number.
    scores = [fields.optional_number(record, name) for name in ("score_chosen", "score_rejected")]
    scored = {local: {"score": score} for local, score in zip(("c0", "c1"), scores, strict=True) if score is not None}
    tie = chosen.answer == rejected.answer or (len(scored) == 2 and scores[0] == scores[1])
    ranking = draft(
        fields.optional_name(record, "annotator") or IMPORTED,
        fields.optional_name(record, "criterion") or PREFERENCE,
        [["c0", "c1"]] if tie else [["c0"], ["c1"]],
        ratings=scored,
        simulated=fields.flag(record, "simulated", False),
    )
    return build_item(
        prompt,
        [chosen, rejected],
        [ranking],
        external_id=fields.optional_name(record, "id"),
        metadata=fields.rest(record, (*USED, *fields.prompt_fields(record))),
    )


def _split(record: Record) -> tuple[Prompt, Completion, Completion]:
    if _answers_in_chat(record):
        conversation = fields.prompt_of(record)
        question, turn = fields.split_answer(conversation.content, f"a conversation with a {REJECTED}")
        other = fields.completion(record[REJECTED], "c1", REJECTED)
        return (
            replace(conversation, content=question, id=""),
            fields.answer((turn,), "c0", "the last message"),
            other,
        )
    chosen, rejected = record.get("chosen"), record.get("rejected")
    if isinstance(chosen, list) and isinstance(rejected, list):
        return _split_messages(record, fields.messages(chosen, "chosen")[0], fields.messages(rejected, "rejected")[0])
    if _has_prompt(record):
        prompt = fields.prompt_of(record)
        return prompt, fields.completion(chosen, "c0", "chosen"), fields.completion(rejected, "c1", "rejected")
    return _split_text(fields.text(chosen, "chosen"), fields.text(rejected, "rejected"))


def _split_text(chosen: str, rejected: str) -> tuple[Prompt, Completion, Completion]:
    """Split two texts by TRL's rule: the prompt is their common beginning, without a space at its end."""
    end = len(os.path.commonprefix([chosen, rejected]))
    if end and chosen[end - 1] == " ":
        end -= 1
    if not chosen[:end].strip():
        raise BadRow("no prompt, and chosen and rejected share no beginning that could be one")
    return (
        Prompt(chosen[:end]),
        Completion("c0", fields.text(chosen[end:], "chosen without the beginning it shares with rejected")),
        Completion("c1", fields.text(rejected[end:], "rejected without the beginning it shares with chosen")),
    )


Turns = tuple[Message, ...]


def _split_messages(record: Record, chosen: Turns, rejected: Turns) -> tuple[Prompt, Completion, Completion]:
    """Split two message lists, which hold the answer alone, or the whole conversation with the prompt at its start."""
    prompt = fields.prompt_of(record) if _has_prompt(record) else None
    if prompt is not None and isinstance(prompt.content, tuple):
        start = len(prompt.content)
        if chosen[:start] != prompt.content or rejected[:start] != prompt.content:
            start = 0
    else:
        start = shared_turns(chosen, rejected)
        if prompt is not None and start and prompt.content not in [m.content for m in chosen[:start]]:
            raise BadRow("prompt is not part of the conversation that chosen and rejected share")
        if start:
            system = fields.optional_text(record, "system")
            prompt = Prompt(chosen[:start], system, tools=tools_of(record))
    if prompt is None:
        raise BadRow("no prompt, and chosen and rejected share no messages that could be one")
    return (
        prompt,
        fields.answer(answering(chosen[start:], "chosen"), "c0", "chosen"),
        fields.answer(answering(rejected[start:], "rejected"), "c1", "rejected"),
    )


def answering(turns: Turns, name: str) -> Turns:
    if not turns or turns[0].role != "assistant" or turns[-1].role != "assistant":
        raise BadRow(f"after the prompt, {name} must begin and end with the assistant's turn")
    return turns


def shared_turns(chosen: Turns, rejected: Turns) -> int:
    """Return how many messages both begin with. It stops before a turn of the assistant, so that each has an answer."""
    longest = min(len(chosen), len(rejected)) - 1
    same = next((i for i in range(longest) if chosen[i] != rejected[i]), longest)
    while same and (chosen[same].role != "assistant" or rejected[same].role != "assistant"):
        same -= 1
    return same
