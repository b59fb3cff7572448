"""Writes records: canonical ones without loss, and pairs, single labels, prompts and demonstrations for trainers.

This module makes the rows; `sinks` writes them as JSON lines, CSV or Parquet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from prefloop.errors import DataError
from prefloop.exchange.files import tables
from prefloop.exchange.files.sinks import Written, format_of, write_rows
from prefloop.exchange.formats.canonical import present, to_record
from prefloop.exchange.soft import Soft, look_up, votes
from prefloop.types import Completion, Content, Demonstration, Item, Message, Prompt, Ranking, content_to_json

# Each function returns the pairs of tiers that are compared in a ranking of so many tiers.
PAIRINGS: dict[str, Callable[[int], list[tuple[int, int]]]] = {
    "all": lambda tiers: list(combinations(range(tiers), 2)),
    "adjacent": lambda tiers: list(pairwise(range(tiers))),
    "extremes": lambda tiers: [(0, tiers - 1)] if tiers > 1 else [],
}


def write_rankings(items: Iterable[Item], path: Path) -> Written:
    """Write canonical records, one an item. Reading them from JSON lines or Parquet gives equal items.

    CSV, which is for people only, has a row for each completion of each ranking.
    """
    if format_of(Path(path)) == "csv":
        return write_rows(path, tables.PLACES, (row for item in items for row in _place_rows(item)))
    return write_rows(path, tables.RANKINGS, (_checked(item) for item in items))


def write_pairs(items: Iterable[Item], path: Path, *, pairing: str = "all", soft: Soft | None = None) -> Written:
    """Write `prompt, chosen, rejected` for every two completions in different tiers of a ranking. Ties give no row.

    pairing: "all", "adjacent" (neighbouring tiers) or "extremes" (first and last tier)
    soft:    the source of `probability`; None, or a pair it does not know, means the votes (see `exchange.soft`)

    Each row also has:

    margin:      how many tiers apart the two are in this ranking
    probability: how likely chosen is better, by everybody who placed both; below 0.5 if this person was outvoted
    judges:      how many people placed both
    weight:      1 / number of rows of this ranking, so that long lists do not outweigh short ones
    item_id:     the item, to split the rows by, since rows of one list are not independent
    """
    if pairing not in PAIRINGS:
        raise DataError(f"there is no pairing {pairing!a}. Use one of: {', '.join(PAIRINGS)}.")
    rows = (row for item in items for row in _pair_rows(item, PAIRINGS[pairing], soft))
    return write_rows(path, tables.PAIRS, rows)


def write_kto(items: Iterable[Item], path: Path) -> Written:
    """Write `prompt, completion, label` for every completion that a ranking calls good or bad.

    If a ranking has marks of acceptability, they decide. Otherwise the first tier is good and the last is bad; tiers
    between them, and rankings of one tier, give no row.
    """
    return write_rows(path, tables.KTO, (row for item in items for row in _kto_rows(item)))


def write_prompts(prompts: Iterable[Prompt], path: Path) -> Written:
    """Write `prompt`, with `system` and `metadata` if there are any."""
    return write_rows(path, tables.PROMPTS, (_prompt_record(prompt) for prompt in prompts))


def write_demonstrations(demonstrations: Iterable[Demonstration], path: Path) -> Written:
    """Write `prompt, completion`, with `system` and `metadata` if there are any."""
    return write_rows(path, tables.DEMONSTRATIONS, (_demonstration_record(d) for d in demonstrations))


def _checked(item: Item) -> dict[str, Any]:
    try:
        return to_record(item)
    except KeyError as error:
        raise DataError(
            f"item {item.id} ranks {error}, which is none of its completions. Export was stopped."
        ) from None


def _prompt_record(prompt: Prompt) -> dict[str, Any]:
    return present(
        prompt=content_to_json(prompt.content),
        system=prompt.system,
        tools=list(prompt.tools) or None,
        metadata=dict(prompt.metadata) or None,
    )


def _demonstration_record(shown: Demonstration) -> dict[str, Any]:
    """Return a row in which an answer that is more than a plain text is the list of its messages."""
    completion = content_to_json(shown.messages) if shown.messages else shown.text
    metadata = present(metadata=dict(shown.metadata) or None)
    return {**_prompt_record(shown.prompt), "completion": completion, **metadata}


def _standing(item: Item) -> list[Ranking]:
    """Return the rankings that no later one of the same item supersedes."""
    replaced = {ranking.supersedes for ranking in item.rankings if ranking.supersedes}
    return [ranking for ranking in item.rankings if ranking.id not in replaced]


def _said(prompt: Prompt, *answers: Completion) -> tuple[Any, ...]:
    """Return prompt and answers as trainers expect them: all texts, or all message lists.

    Message lists begin with the system prompt.
    """
    if isinstance(prompt.content, str) and prompt.system is None and not any(a.messages for a in answers):
        return prompt.content, *(a.text for a in answers)
    turns: Content = (Message("user", prompt.content),) if isinstance(prompt.content, str) else prompt.content
    if prompt.system is not None:
        turns = (Message("system", prompt.system), *turns)
    return content_to_json(turns), *(content_to_json(a.messages or (Message("assistant", a.text),)) for a in answers)


def _origin(item: Item, ranking: Ranking) -> dict[str, Any]:
    return {
        **present(tools=list(item.prompt.tools) or None),
        "criterion": ranking.criterion,
        "annotator": ranking.annotator,
        "simulated": ranking.simulated,
        "item_id": item.id,
    }


def _pair_rows(
    item: Item, pairing: Callable[[int], list[tuple[int, int]]], soft: Soft | None
) -> Iterator[dict[str, Any]]:
    answers = {c.id: c for c in item.completions}
    standing = _standing(item)
    for ranking in standing:
        tiers = ranking.tiers
        found = [
            (better, worse, low - high)
            for high, low in pairing(len(tiers))
            for better in tiers[high]
            for worse in tiers[low]
        ]
        if not found:
            continue
        asked_alike = [r for r in standing if r.criterion == ranking.criterion]
        table = soft(item, ranking.criterion) if soft else {}
        for better, worse, margin in found:
            prompt, chosen, rejected = _said(item.prompt, answers[better], answers[worse])
            counted = votes(asked_alike, better, worse)
            known = look_up(table, better, worse)
            yield {
                "prompt": prompt,
                "chosen": chosen,
                "rejected": rejected,
                "margin": float(margin),
                "probability": counted.probability if known is None else known,
                "judges": counted.judges,
                "weight": 1 / len(found),
                **_origin(item, ranking),
            }


def _kto_rows(item: Item) -> Iterator[dict[str, Any]]:
    answers = {c.id: c for c in item.completions}
    for ranking in _standing(item):
        for completion_id, label in labels(item, ranking).items():
            prompt, completion = _said(item.prompt, answers[completion_id])
            yield {"prompt": prompt, "completion": completion, "label": label, **_origin(item, ranking)}


def labels(item: Item, ranking: Ranking) -> dict[str, bool]:
    """Return {completion id: whether it is good} for the completions that a ranking calls good or bad."""
    if ranking.none_acceptable:
        return {c.id: False for c in item.completions}
    if ranking.unacceptable or ranking.criterion == "acceptable":
        judged = dict.fromkeys((i for tier in ranking.tiers for i in tier), True)
        return {**judged, **dict.fromkeys(ranking.unacceptable, False)}
    if len(ranking.tiers) < 2:
        return {}
    return {**dict.fromkeys(ranking.tiers[0], True), **dict.fromkeys(ranking.tiers[-1], False)}


def _place_rows(item: Item) -> Iterator[dict[str, Any]]:
    """Yield rows for spreadsheets with the rank of each completion; 1 is best, equal numbers tie, empty is unranked."""
    about = {
        "item_id": item.id,
        "external_id": item.external_id,
        "round": item.round,
        "source": item.source,
        "system": item.prompt.system,
        "prompt": content_to_json(item.prompt.content),
        "tools": list(item.prompt.tools),
    }
    for ranking in item.rankings or (None,):
        for completion in item.completions:
            event = {} if ranking is None else _event(ranking) | _place(ranking, completion)
            yield {
                **about,
                "completion": completion.local_id,
                "text": completion.text,
                "model": completion.model,
                "policy_version": completion.policy_version,
                **event,
            }


def _event(ranking: Ranking) -> dict[str, Any]:
    return {
        "ranking_id": ranking.id,
        "annotator": ranking.annotator,
        "criterion": ranking.criterion,
        "simulated": ranking.simulated,
        "created_at": ranking.created_at,
        "duration_s": ranking.duration_s,
        "supersedes": ranking.supersedes,
        "none_acceptable": ranking.none_acceptable,
        "flags": "; ".join(ranking.flags),
        "comment": ranking.comment,
    }


def _place(ranking: Ranking, completion: Completion) -> dict[str, Any]:
    tier = next((n for n, keys in enumerate(ranking.tiers, start=1) if completion.id in keys), None)
    shown = ranking.shown.index(completion.id) + 1 if completion.id in ranking.shown else None
    rated = ranking.ratings.get(completion.id)
    return {
        "rank": tier,
        "shown": shown,
        "unacceptable": completion.id in ranking.unacceptable,
        "ratings": dict(rated) if rated else None,
    }
