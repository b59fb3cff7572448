"""Reads two answers side by side with a verdict in a field of its own, which is how most comparisons are published.

It reads PKU-SafeRLHF, AlpacaFarm, WebGPT, HelpSteer2's preferences, SHP, summarize_from_feedback and OpenAI's
preference fine-tuning. Arenas are in `arena`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from prefloop.exchange import fields
from prefloop.exchange.base import BadRow, FieldLook, Format, Record, quoted
from prefloop.exchange.build import IMPORTED, PREFERENCE, build_item, draft
from prefloop.exchange.formats.kto import judged
from prefloop.exchange.turns import TOOLS
from prefloop.types import Completion, Item, Prompt, Ranking

FIRST, SECOND, TIE = [["c0"], ["c1"]], [["c1"], ["c0"]], [["c0", "c1"]]
STOPS = frozenset({FieldLook.VERDICT, FieldLook.ANSWER, FieldLook.NUMBERED})


def _two(
    record: Record,
    names: tuple[str, str],
    rankings: Iterable[Ranking],
    used: Iterable[str],
    prompt: Prompt | None = None,
    models: tuple[str, str] | None = None,
) -> Item:
    """Return an item of two answers, each text or messages; `models` are the fields that say who wrote them."""
    answers = [fields.completion(record.get(name), f"c{place}", name) for place, name in enumerate(names)]
    return build_item(
        prompt or fields.prompt_of(record),
        written(record, answers, models) if models else answers,
        rankings,
        external_id=fields.optional_name(record, "id"),
        metadata=fields.rest(record, {"id", *used, *names, *(models or ())}),
    )


def written(record: Record, answers: Sequence[Completion], models: tuple[str, str]) -> list[Completion]:
    who = [fields.optional_text(record, name) for name in models]
    return [replace(c, model=w) for c, w in zip(answers, who, strict=True)]


def annotator(record: Record, name: str = "annotator") -> str:
    return fields.optional_name(record, name) or IMPORTED


def _by_number(first: float, second: float) -> list[list[str]]:
    return TIE if first == second else FIRST if first > second else SECOND


# -- PKU-SafeRLHF ------------------------------------------------------------------------------------------------------

SAFER_RLHF = {"better_response_id": "helpfulness", "safer_response_id": "harmlessness"}
RESPONSES = ("response_0", "response_1")
SAFE = ("is_response_0_safe", "is_response_1_safe")


def fits_safer(record: Record) -> bool:
    return set(RESPONSES) <= record.keys() and any(record.get(name) is not None for name in SAFER_RLHF)


def uses_safer(record: Record) -> tuple[str, ...]:
    about = tuple(name for name in record if name.startswith(RESPONSES))
    return (*fields.prompt_fields(record), *SAFER_RLHF, *SAFE, *about)


def parse_safer(records: Sequence[Record]) -> Iterable[Item]:
    """Yield items. `better_response_id` is about helpfulness, `safer_response_id` about harmlessness.

    An unsafe answer lacks harmlessness.
    """
    (record,) = records
    safe = {f"c{i}": judged(record[name], name) for i, name in enumerate(SAFE) if record.get(name) is not None}
    found = []
    for name, criterion in SAFER_RLHF.items():
        if record.get(name) is not None:
            if record[name] not in (0, 1) or isinstance(record[name], bool):
                raise BadRow(f"{name} must be 0 or 1, not {quoted(record[name])}")
            tiers = SECOND if record[name] else FIRST
            flags = safe if criterion == "harmlessness" else {}
            unsafe = tuple(local for local, good in flags.items() if not good)
            rated = {local: {"safe": float(good)} for local, good in flags.items()}
            found.append(draft(IMPORTED, criterion, tiers, unacceptable=unsafe, ratings=rated))
    yield _two(record, RESPONSES, found, (*fields.prompt_fields(record), *SAFER_RLHF, *SAFE))


# -- AlpacaFarm and AlpacaEval -----------------------------------------------------------------------------------------

OUTPUTS = ("output_1", "output_2")


def fits_alpaca_farm(record: Record) -> bool:
    return {*OUTPUTS, "preference"} <= record.keys()


def uses_alpaca_farm(record: Record) -> tuple[str, ...]:
    return (*fields.prompt_fields(record), *OUTPUTS, "preference", "annotator", "generator_1", "generator_2")


def parse_alpaca_farm(records: Sequence[Record]) -> Iterable[Item]:
    """Yield items. `preference` 1 prefers output_1, 2 output_2; 0 and 1.5 are ties, and others lean to one side."""
    (record,) = records
    value = fields.number(record.get("preference"), "preference")
    if value != 0 and not 1 <= value <= 2:
        raise BadRow(f"preference must be between 1 and 2, or 0 for a tie, not {value:g}")
    ranking = draft(annotator(record), PREFERENCE, TIE if value == 0 else _by_number(1.5, value))
    yield _two(record, OUTPUTS, [ranking], uses_alpaca_farm(record), models=("generator_1", "generator_2"))


# -- WebGPT ------------------------------------------------------------------------------------------------------------

ANSWERS, SCORES = ("answer_0", "answer_1"), ("score_0", "score_1")


def fits_webgpt(record: Record) -> bool:
    return {*ANSWERS, *SCORES} <= record.keys()


def uses_webgpt(record: Record) -> tuple[str, ...]:
    about = (name for name in record if name.startswith(("tokens_", "quotes_")))  # Either answer has such fields.
    return ("question", *ANSWERS, *SCORES, *fields.prompt_fields(record), *about)


def parse_webgpt(records: Sequence[Record]) -> Iterable[Item]:
    """Yield items. The answer with the higher score is better; equal scores (both 0) are a tie."""
    (record,) = records
    scores = [fields.number(record.get(name), name) for name in SCORES]
    rated = {f"c{place}": {"score": score} for place, score in enumerate(scores)}
    question = record.get("question")
    prompt, about = None, {}
    if isinstance(question, dict):
        prompt = Prompt(fields.text(question.get("full_text"), "question.full_text"))
        about = {name: value for name, value in question.items() if name != "full_text" and value is not None}
    left = {**record, "question_fields": about} if about else record
    ranking = draft(IMPORTED, PREFERENCE, _by_number(*scores), ratings=rated)
    used = ("question", *SCORES, *fields.prompt_fields(record))
    yield _two(left, ANSWERS, [ranking], used, prompt)


# -- HelpSteer2's preferences ------------------------------------------------------------------------------------------

STRENGTH = ("response_1", "response_2")


def fits_strength(record: Record) -> bool:
    return {*STRENGTH, "preference_strength"} <= record.keys()


def uses_strength(record: Record) -> tuple[str, ...]:
    verdicts = (name for name in record if name.startswith("preference_") or "_preferences" in name)
    return (*fields.prompt_fields(record), *STRENGTH, "preference_strength", *verdicts)


def parse_strength(records: Sequence[Record]) -> Iterable[Item]:
    """Yield items. `preference_strength` below 0 prefers response_1, above 0 response_2, and 0 is a tie."""
    (record,) = records
    value = fields.number(record.get("preference_strength"), "preference_strength")
    ranking = draft(IMPORTED, PREFERENCE, _by_number(0, value), metadata={"preference_strength": value})
    yield _two(record, STRENGTH, [ranking], (*fields.prompt_fields(record), "preference_strength"))


# -- SHP ---------------------------------------------------------------------------------------------------------------

REFERENCES = ("human_ref_A", "human_ref_B")


def fits_shp(record: Record) -> bool:
    return {*REFERENCES, "labels", "history"} <= record.keys()


def uses_shp(record: Record) -> tuple[str, ...]:
    return ("history", *REFERENCES, "labels", "score_A", "score_B", "score_ratio")


def parse_shp(records: Sequence[Record]) -> Iterable[Item]:
    """Yield items. `labels` 1 prefers the first answer, 0 the second. The votes of both are kept as ratings."""
    (record,) = records
    first = judged(record.get("labels"), "labels")
    votes = {f"c{i}": fields.optional_number(record, name) for i, name in enumerate(("score_A", "score_B"))}
    rated = {local: {"score": score} for local, score in votes.items() if score is not None}
    ranking = draft(IMPORTED, PREFERENCE, FIRST if first else SECOND, ratings=rated)
    prompt = Prompt(fields.text(record.get("history"), "history"))
    yield _two(record, REFERENCES, [ranking], ("history", "labels", "score_A", "score_B"), prompt)


# -- summarize_from_feedback -------------------------------------------------------------------------------------------


def fits_summaries(record: Record) -> bool:
    return {"summaries", "choice", "info"} <= record.keys()


def uses_summaries(record: Record) -> tuple[str, ...]:
    return ("summaries", "choice", "info", "worker", "extra")


def parse_summaries(records: Sequence[Record]) -> Iterable[Item]:
    """Yield items. `choice` is the place of the better summary of a post or article."""
    (record,) = records
    info = fields.object_of(record.get("info"), "info")
    name = "post" if info.get("post") else "article"
    listed = [fields.object_of(s, "a summary") for s in fields.items_of(record.get("summaries"), "summaries")]
    choice = record.get("choice")
    if len(listed) != 2 or choice not in (0, 1) or isinstance(choice, bool):
        raise BadRow(f"there must be two summaries, and choice must be 0 or 1, not {quoted(choice)}")
    yield build_item(
        Prompt(fields.text(info.get(name), f"info.{name}")),
        [
            replace(fields.completion(s.get("text"), f"c{i}", "text"), model=fields.optional_text(s, "policy"))
            for i, s in enumerate(listed)
        ],
        [draft(annotator(record, "worker"), PREFERENCE, SECOND if choice else FIRST)],
        metadata={
            **fields.rest(record, ("summaries", "choice", "info", "worker")),
            "info": {key: value for key, value in info.items() if key != name and value is not None},
        },
    )


# -- OpenAI's preference fine-tuning -----------------------------------------------------------------------------------

PREFERRED = ("preferred_output", "non_preferred_output")


def fits_openai(record: Record) -> bool:
    return set(PREFERRED) <= record.keys()


def uses_openai(record: Record) -> tuple[str, ...]:
    return ("input", *PREFERRED)


def parse_openai(records: Sequence[Record]) -> Iterable[Item]:
    """Yield items. `input.messages` are the prompt; what else `input` holds is kept with it."""
    (record,) = records
    source = record.get("input")
    given: Mapping[str, Any] = source if isinstance(source, dict) else {"messages": source}
    content = given.get("messages")
    prompt = fields.prompt_of({"prompt": content, **{name: given.get(name) for name in TOOLS}})
    more = {name: value for name, value in given.items() if name not in ("messages", *TOOLS) and value is not None}
    prompt = replace(prompt, metadata={**more, **prompt.metadata})
    yield _two(record, PREFERRED, [draft(IMPORTED, PREFERENCE, FIRST)], uses_openai(record), prompt)


# -- stack-exchange-paired ---------------------------------------------------------------------------------------------

VOTED = ("response_j", "response_k")


def fits_stack(record: Record) -> bool:
    return set(VOTED) <= record.keys() and fields.prompt_name(record) is not None


def uses_stack(record: Record) -> tuple[str, ...]:
    return (*VOTED, *fields.prompt_fields(record))


def parse_stack(records: Sequence[Record]) -> Iterable[Item]:
    """Yield items. `response_j` had more votes than `response_k`."""
    (record,) = records
    yield _two(record, VOTED, [draft(IMPORTED, PREFERENCE, FIRST)], fields.prompt_fields(record))


SIDES = (
    Format(
        "safer-rlhf",
        "PKU-SafeRLHF: two responses, the better and the safer one",
        fits_safer,
        parse_safer,
        uses_safer,
        STOPS,
    ),
    Format(
        "alpaca-farm",
        "AlpacaFarm, AlpacaEval: output_1, output_2 and a preference",
        fits_alpaca_farm,
        parse_alpaca_farm,
        uses_alpaca_farm,
        STOPS,
    ),
    Format("webgpt", "WebGPT: a question, two answers and their scores", fits_webgpt, parse_webgpt, uses_webgpt, STOPS),
    Format(
        "helpsteer2-preference",
        "HelpSteer2: two responses, preference_strength",
        fits_strength,
        parse_strength,
        uses_strength,
        STOPS,
    ),
    Format(
        "stack-exchange", "stack-exchange-paired: response_j and response_k", fits_stack, parse_stack, uses_stack, STOPS
    ),
    Format("shp", "SHP: a history, two references, labels", fits_shp, parse_shp, uses_shp, STOPS),
    Format(
        "summaries",
        "summarize_from_feedback: two summaries and a choice",
        fits_summaries,
        parse_summaries,
        uses_summaries,
        STOPS,
    ),
    Format(
        "openai", "OpenAI: input, preferred_output, non_preferred_output", fits_openai, parse_openai, uses_openai, STOPS
    ),
)
