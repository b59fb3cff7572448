"""Writing: canonical records without loss, and pairs, single judgements, prompts and demonstrations for trainers.

Files appear whole or not at all; equal input gives equal bytes. Names ending in .gz or .xz are compressed.
"""

from __future__ import annotations

import gzip
import json
import lzma
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from itertools import combinations, pairwise
from pathlib import Path
from typing import IO, Any, cast

from prefloop.errors import DataError
from prefloop.exchange.canonical import present, to_record
from prefloop.types import Content, Demonstration, Item, Message, Prompt, Ranking, content_to_json

# which tiers of a ranking are set against each other
PAIRINGS: dict[str, Callable[[int], list[tuple[int, int]]]] = {
    "all": lambda tiers: list(combinations(range(tiers), 2)),
    "adjacent": lambda tiers: list(pairwise(range(tiers))),
    "extremes": lambda tiers: [(0, tiers - 1)] if tiers > 1 else [],
}


def write_rankings(items: Iterable[Item], path: Path) -> int:
    """Canonical records, one a line; reading them gives equal items. Returns how many were written."""
    return _write(path, (_checked(item) for item in items))


def write_pairs(items: Iterable[Item], path: Path, *, pairing: str = "all") -> int:
    """`prompt, chosen, rejected` for every two completions that a ranking puts in different tiers. Ties make no row.

    pairing: "all", "adjacent" (neighbouring tiers) or "extremes" (first and last tier).
    margin:  how many tiers apart the two are.
    weight:  1 / number of rows of this ranking, so that long lists do not drown short ones.
    item_id: rows of one list are not independent; split by it.
    Returns how many rows were written.
    """
    if pairing not in PAIRINGS:
        raise DataError(f"there is no pairing {pairing!a}. Use one of: {', '.join(PAIRINGS)}.")
    return _write(path, (row for item in items for row in _pair_rows(item, PAIRINGS[pairing])))


def write_kto(items: Iterable[Item], path: Path) -> int:
    """`prompt, completion, label` for every completion that a ranking says is good or bad.

    Rankings with marks of acceptability decide by those. Of the others, the first tier is good and the last is bad;
    what lies between, and rankings that are one tie, say neither. Returns how many rows were written.
    """
    return _write(path, (row for item in items for row in _kto_rows(item)))


def write_prompts(prompts: Iterable[Prompt], path: Path) -> int:
    """`prompt`, with `system` and `metadata` where there are any. Returns how many were written."""
    return _write(path, (_prompt_record(prompt) for prompt in prompts))


def write_demonstrations(demonstrations: Iterable[Demonstration], path: Path) -> int:
    """`prompt, completion`, with `system` and `metadata` where there are any. Returns how many were written."""
    rows = (
        {**_prompt_record(d.prompt), "completion": d.text, **present(metadata=dict(d.metadata) or None)}
        for d in demonstrations
    )
    return _write(path, rows)


def _checked(item: Item) -> dict[str, Any]:
    try:
        return to_record(item)
    except KeyError as error:
        raise DataError(
            f"item {item.id} ranks {error}, which is none of its completions. Export was stopped."
        ) from None


def _prompt_record(prompt: Prompt) -> dict[str, Any]:
    return present(prompt=content_to_json(prompt.content), system=prompt.system, metadata=dict(prompt.metadata) or None)


def _standing(item: Item) -> Iterator[Ranking]:
    """The rankings that no later one of the same item replaces."""
    replaced = {ranking.supersedes for ranking in item.rankings if ranking.supersedes}
    return (ranking for ranking in item.rankings if ranking.id not in replaced)


def _said(prompt: Prompt, text: str) -> tuple[Any, Any]:
    """Prompt and answer as trainers expect them: both text, or both message lists with the system prompt first."""
    if isinstance(prompt.content, str) and prompt.system is None:
        return prompt.content, text
    turns: Content = (Message("user", prompt.content),) if isinstance(prompt.content, str) else prompt.content
    if prompt.system is not None:
        turns = (Message("system", prompt.system), *turns)
    return content_to_json(turns), [{"role": "assistant", "content": text}]


def _origin(item: Item, ranking: Ranking) -> dict[str, Any]:
    return {
        "criterion": ranking.criterion,
        "annotator": ranking.annotator,
        "simulated": ranking.simulated,
        "item_id": item.id,
    }


def _pair_rows(item: Item, pairing: Callable[[int], list[tuple[int, int]]]) -> Iterator[dict[str, Any]]:
    texts = {c.id: c.text for c in item.completions}
    for ranking in _standing(item):
        tiers = ranking.tiers
        found = [
            (better, worse, low - high)
            for high, low in pairing(len(tiers))
            for better in tiers[high]
            for worse in tiers[low]
        ]
        for better, worse, margin in found:
            prompt, chosen = _said(item.prompt, texts[better])
            _, rejected = _said(item.prompt, texts[worse])
            yield {
                "prompt": prompt,
                "chosen": chosen,
                "rejected": rejected,
                "margin": float(margin),
                "weight": 1 / len(found),
                **_origin(item, ranking),
            }


def _kto_rows(item: Item) -> Iterator[dict[str, Any]]:
    texts = {c.id: c.text for c in item.completions}
    for ranking in _standing(item):
        for completion_id, label in labels(item, ranking).items():
            prompt, completion = _said(item.prompt, texts[completion_id])
            yield {"prompt": prompt, "completion": completion, "label": label, **_origin(item, ranking)}


def labels(item: Item, ranking: Ranking) -> dict[str, bool]:
    """{completion id: whether it is good}, for the completions that a ranking says it of."""
    if ranking.none_acceptable:
        return {c.id: False for c in item.completions}
    if ranking.unacceptable or ranking.criterion == "acceptable":
        judged = dict.fromkeys((i for tier in ranking.tiers for i in tier), True)
        return {**judged, **dict.fromkeys(ranking.unacceptable, False)}
    if len(ranking.tiers) < 2:
        return {}
    return {**dict.fromkeys(ranking.tiers[0], True), **dict.fromkeys(ranking.tiers[-1], False)}


def _write(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    path = Path(path)
    if path.suffix == ".parquet":
        raise DataError(f"cannot write {path}: exports are JSON lines. Name it .jsonl, .jsonl.gz or .jsonl.xz.")
    if path.is_dir() or not path.parent.is_dir():
        raise DataError(f"cannot write {path}: it must be a file in a folder that exists. Make the folder first.")
    count = 0
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file, closing(_compressed(file, path.suffix)) as out:
            for record in records:
                out.write(_line(record))
                count += 1
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}. Check the folder's permissions and the space left.") from None
    finally:
        with suppress(OSError):  # gone after a success; never made where the folder is read-only
            temporary.unlink()
    return count


def _compressed(file: IO[bytes], suffix: str) -> IO[bytes]:
    if suffix == ".gz":
        return cast(IO[bytes], gzip.GzipFile("", "wb", fileobj=file, mtime=0))  # no name, no time: equal bytes
    if suffix == ".xz":
        return lzma.open(file, "wb")
    return file


def _line(record: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(_sorted(record), ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:  # ValueError: NaN, or half a surrogate pair
        raise DataError(
            f"a record cannot be written as JSON: {error}. Its prompt: {record.get('prompt')!a:.80}"
        ) from None


FREE = ("metadata", "sampling", "ratings", "prefloop")


def _sorted(value: object, free: bool = False) -> object:
    """Free-form objects in the order of their keys: databases do not keep another."""
    if isinstance(value, Mapping):
        names = sorted(value) if free else value
        return {name: _sorted(value[name], free or name in FREE) for name in names}
    if isinstance(value, list | tuple):
        return [_sorted(inner, free) for inner in value]
    return value
