"""Finds fields that a reader does not use and that look like labels, scores or further answers.

A reader uses the fields it knows and keeps the rest as metadata. That is harmless for a source or a language. But if
nobody read the labels of a file, its bad answers would be imitated like its good ones. Therefore the registry checks
what the reader of each record left, and stops if the name and the shape of a field suggest a label or an answer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any

from prefloop.exchange.base import FieldLook, Record, words

# Names are split into words: "better_response_id" and "betterResponseId" both have three.
VERDICTS = words(
    "label labels preference preferences preferred prefer prefers winner winners loser losers better worse best worst"
    " safer chosen rejected accept reject choice choices verdict verdicts judgement judgment judgements judgments"
    " desirable undesirable kto picked selected favored favoured accepted dispreferred"
)
SCORES = words(
    "score scores rating ratings rated rank ranks ranking rankings reward rewards margin vote votes upvotes downvotes"
    " thumb thumbs stars grade grades elo likert feedback liked disliked likes dislikes"
)
# These words mean a label only if the value is a number, true or false, or a word for one of them.
MEASURES = words(
    "quality helpfulness correctness coherence harmlessness honesty truthfulness toxicity safety good bad safe unsafe"
    " harmful harmless helpful toxic correct incorrect right wrong acceptable ok okay approved valid invalid pass"
    " passed fail failed success successful flag y target class positive negative win lose like outcome mark marks"
    " points percentile solved resolved hallucination hallucinated hallucinations upvote upvoted downvote downvoted"
    " dislike useful usable unhelpful satisfied satisfaction evaluation eval judge judged annotation decision grading"
)
BESIDE = words(
    "is was has overall human response answer completion output model annotated rate ratio mean average avg level"
    " count total final llm user gpt"
)
# These mean a label if the value is true or false, whatever other words are in the name.
FLAGS = words(
    "correct incorrect correctness harmful harmless toxic unsafe passed failed hallucination hallucinated acceptable"
    " approved helpful unhelpful"
)
# These mean a label only if the name has no other words.
ALONE = MEASURES | BESIDE | words("result flagged hate sentiment gold keep review annotations useless refuse bug")
OPPOSITES = words("positive negative pos neg good bad correct incorrect accepted win lose winning losing")
ANSWERS = words(
    "response responses completion completions output outputs reply replies generation generations generated candidate"
    " candidates continuation continuations"
)
NUMBERED = ANSWERS | words(
    "answer answers summary summaries sample samples conversation conversations assistant option options text texts"
    " ref message messages solution translation caption story essay"
)
# These fields are named after who answers.
SPEAKERS = words("assistant bot chatbot chatgpt gpt claude llama mistral gemini gemma qwen vicuna bard deepseek")
ENDS = words("pos neg left right first second one two")
OPPOSED = OPPOSITES | NUMBERED | words("example examples sentence document passage")
NOT_TEXTS = words("model generator id lang language source name type category policy annotator tokens url")
MAX_FIELDS = 1_000  # An object inside a record that has more fields is a map, such as a vocabulary.
MASKS = words("weight train trainable loss loss_mask mask learn")
YES_NO = words("true false yes no y n good bad positive negative right wrong correct incorrect up down")
# verl and reward functions read these; they describe a prompt and judge no answer.
KNOWN = frozenset({"reward_model", "extra_info", "ground_truth", "reward_kwargs"})


def lookalikes(
    record: Record, used: Collection[str], stops: Collection[FieldLook], ignored: Collection[str]
) -> list[str]:
    """Return the unused fields that look like something in `stops`, in order; inner ones as "metadata.label"."""
    found = [
        path
        for path, name, value in _left(record, used)
        if path not in ignored and _look(name, value, record, used) in stops
    ]
    if FieldLook.NUMBERED in stops:
        found += [n for n in _alike({n: v for n, v in record.items() if n not in used}) if n not in found]
    return list(dict.fromkeys(name for name in found if name not in ignored))


def _left(record: Record, used: Collection[str]) -> Iterator[tuple[str, str, Any]]:
    """Yield (path, name, value) of unused fields, and of fields directly inside unused objects."""
    for name, value in record.items():
        if name in KNOWN or value in (None, "", [], {}):
            continue
        if name in used:
            yield from _of_last_message(name, value)
            yield from _of_entries(name, value, used)
            continue
        yield name, name, value
        inner = value[0] if isinstance(value, list) and isinstance(value[0], dict) else value
        if isinstance(inner, dict) and len(inner) <= MAX_FIELDS and not {"role", "from"} & inner.keys():
            for key, deep in inner.items():
                if deep not in (None, "", [], {}) and key not in KNOWN:
                    yield f"{name}.{key}", key, deep


def _of_last_message(name: str, value: object) -> Iterator[tuple[str, str, Any]]:
    """Yield what the last of a list of messages holds beside role and content. Some files put a label there."""
    last = value[-1] if isinstance(value, list) and value else None
    if isinstance(last, dict) and {"role", "from"} & last.keys():
        for key, deep in last.items():
            if deep not in (None, "", [], {}):
                # A field "train" that is false says that nobody should imitate the answer.
                masked = key in MASKS and deep in (False, 0)
                yield f"{name}.{key}", "label" if masked else key, deep


def _of_entries(name: str, value: object, used: Collection[str]) -> Iterator[tuple[str, str, Any]]:
    """Yield what the entries of a used list hold beside the fields that the reader says it uses ("answers.rank")."""
    known = {path.removeprefix(f"{name}.") for path in used if path.startswith(f"{name}.")}
    for entry in value if known and isinstance(value, list) else ():
        for key, deep in entry.items() if isinstance(entry, dict) else ():
            if key not in known and deep not in (None, "", [], {}):
                yield f"{name}.{key}", key, deep


def _look(name: str, value: object, record: Record, used: Collection[str]) -> FieldLook | None:
    parts = split_name(name)
    if not parts:
        return None
    is_text = isinstance(value, str | list | dict)
    if (
        is_text
        and (parts[-1] in ANSWERS or parts[0] in SPEAKERS or parts == ("answers",))
        and not _repeats(value, record, used)
    ):
        return FieldLook.ANSWER
    if (
        is_text
        and len(parts) > 1
        and _is_end(parts[-1])
        and NUMBERED.intersection(parts) | VERDICTS.intersection(parts)
    ):
        return FieldLook.NUMBERED
    if VERDICTS.intersection(parts) or (is_text and OPPOSITES.intersection(parts) and OPPOSED.issuperset(parts)):
        return FieldLook.VERDICT
    if SCORES.intersection(parts):
        return FieldLook.SCORE
    if _is_measure(value) and MEASURES.intersection(parts) and MEASURES.union(BESIDE).issuperset(parts):
        return FieldLook.SCORE
    if _is_flag(value) and (FLAGS.intersection(parts) or (ALONE.issuperset(parts) and not BESIDE.issuperset(parts))):
        return FieldLook.SCORE
    return None


def _repeats(value: object, record: Record, used: Collection[str]) -> bool:
    """Return whether an answer is one that the reader has under another name, such as `response` beside `chosen`."""
    return any(record.get(name) == value for name in used)


def _is_measure(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().casefold() in YES_NO or re.fullmatch(r"\s*[+-]?\d+(\.\d*)?\s*", value) is not None
    return isinstance(value, bool | int | float)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().casefold() in YES_NO)


def _is_end(word: str) -> bool:
    return word.isdecimal() or len(word) == 1 or word in ENDS


def _alike(left: Mapping[str, Any]) -> list[str]:
    """Return texts or messages whose names differ only in their ends, such as reply_x1 and reply_x2."""
    stems: dict[tuple[str, ...], list[str]] = {}
    for name, value in left.items():
        parts = split_name(name)
        if isinstance(value, str | list) and value and len(parts) > 1 and _is_end(parts[-1]):
            stems.setdefault(parts[:-1], []).append(name)
    return [n for stem, names in stems.items() if len(names) > 1 and not NOT_TEXTS.intersection(stem) for n in names]


@lru_cache(4096)
def split_name(name: str) -> tuple[str, ...]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name[:200])
    return tuple(re.findall(r"[^\W\d_]+|\d+", spaced.casefold()))
