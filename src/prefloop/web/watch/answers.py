"""Reads the answers of one step from samples.jsonl, beside the reference's answers to the same prompts.

The file of a long run is large, so its lines are found by an index of where each begins, which grows with the file. A
run that is resumed replaces the file; then the index is made anew.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prefloop.web.watch.results import finite

SORTS = ("prompt", "reward", "gain", "judge", "kl", "length")
COLOURS = ("kl", "advantage", "none")
KINDS = ("eval", "train", "reference")
REMEMBERED = 50  # files
# From these values on, in nats or in spreads of the advantage, a token is marked more strongly.
LEVELS = (0.1, 0.5, 1.0, 2.0)
_HEAD = re.compile(rb'\{"step": (\d{1,12}), "kind": "(\w{1,20})"')


@dataclass(frozen=True)
class Token:
    """A piece of an answer. value: what it is coloured by; None where that is not known."""

    text: str
    value: float | None

    @property
    def level(self) -> str:
        """How strongly it is marked: "", or a sign (p or n) with 1 to 4."""
        if self.value is None:
            return ""
        strength = sum(abs(self.value) >= edge for edge in LEVELS)
        return f"{'p' if self.value > 0 else 'n'}{strength}" if strength else ""


@dataclass(frozen=True)
class Answer:
    """An answer with its figures; those that it has not are None."""

    id: str
    prompt: str
    text: str
    reward: float | None
    judge: float | None
    kl: float | None
    length: float | None
    ended: bool
    parts: Mapping[str, float] = field(default_factory=dict)
    pieces: tuple[str, ...] = ()
    values: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)

    def tokens(self, colour: str) -> tuple[Token, ...]:
        """Return its tokens with what they are coloured by; () where it does not know its tokens or that figure."""
        values = self.values.get(colour, ())
        if not self.pieces or len(values) != len(self.pieces):
            return ()
        return tuple(Token(piece, value) for piece, value in zip(self.pieces, values, strict=True))

    def strongest(self, colour: str) -> tuple[Token, ...]:
        """Return the three tokens whose figures are largest, for those who see no colours."""
        marked = [token for token in self.tokens(colour) if token.level]
        return tuple(sorted(marked, key=lambda token: -abs(token.value or 0.0))[:3])


@dataclass(frozen=True)
class Pair:
    """An answer and the reference's to the same prompt; None where there is none."""

    answer: Answer
    reference: Answer | None

    @property
    def gain(self) -> float | None:
        """How much more reward it has than the reference's answer."""
        if self.reference is None or self.answer.reward is None or self.reference.reward is None:
            return None
        return self.answer.reward - self.reference.reward

    def key(self, name: str) -> float | None:
        found: float | None = self.gain if name == "gain" else getattr(self.answer, name)
        return found


@dataclass(frozen=True)
class _Index:
    """(step, kind) -> where its lines begin. read: how far the file was read.  torn: lines that are no samples."""

    inode: int
    read: int
    places: Mapping[tuple[int, str], tuple[int, ...]]
    torn: int


class Answers:
    """Finds the answers of runs. Several threads may use it."""

    def __init__(self) -> None:
        self._known: OrderedDict[Path, _Index] = OrderedDict()
        self._lock = threading.Lock()

    def steps(self, folder: Path) -> dict[str, list[int]]:
        """Return the steps that have answers, by kind."""
        found: dict[str, list[int]] = {}
        for step, kind in sorted(self._index(folder).places):
            found.setdefault(kind, []).append(step)
        return found

    def torn(self, folder: Path) -> int:
        """Return how many lines are no samples."""
        return self._index(folder).torn

    def pairs(self, folder: Path, step: int, kind: str) -> list[Pair]:
        """Return the answers of a step in order of the file, with the reference's.

        A run whose start is its reference has no answers of the reference's own: there it is those before step 1.
        """
        index = self._index(folder)
        references = [at for (_, k), at in index.places.items() if k == "reference"] or (
            [index.places[0, "eval"]] if (0, "eval") in index.places and step > 0 else []
        )
        beside = {answer.id: answer for places in references for answer in _read(folder, places)}
        found = _read(folder, index.places.get((step, kind), ()))
        return [Pair(answer, beside.get(answer.id) if kind != "reference" else None) for answer in found]

    def _index(self, folder: Path) -> _Index:
        path = folder / "samples.jsonl"
        with self._lock:
            try:
                now = path.stat()
            except OSError:
                return _Index(0, 0, {}, 0)
            known = self._known.get(path)
            if known is None or known.inode != now.st_ino or known.read > now.st_size:
                known = _Index(now.st_ino, 0, {}, 0)
            if known.read < now.st_size:
                known = _grown(known, path)
            self._known[path] = known
            self._known.move_to_end(path)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            return known


def _grown(index: _Index, path: Path) -> _Index:
    """Return the index with the complete lines that were added. A line that is being written waits for its end."""
    places = {key: list(at) for key, at in index.places.items()}
    read, torn = index.read, index.torn
    with path.open("rb") as file:
        file.seek(read)
        for line in file:
            if not line.endswith(b"\n"):
                break
            key = _key(line)
            if key is None:
                torn += bool(line.strip())
            else:
                places.setdefault(key, []).append(read)
            read += len(line)
    return replace(index, read=read, places={key: tuple(at) for key, at in places.items()}, torn=torn)


def _key(line: bytes) -> tuple[int, str] | None:
    if match := _HEAD.match(line):
        return int(match[1]), match[2].decode()
    try:
        row = json.loads(line)
        return int(row["step"]), str(row.get("kind", "eval"))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _read(folder: Path, places: Sequence[int]) -> Iterator[Answer]:
    try:
        with (folder / "samples.jsonl").open("rb") as file:
            for place in places:
                file.seek(place)
                if (answer := _answer(file.readline())) is not None:
                    yield answer
    except OSError:
        return


def _answer(line: bytes) -> Answer | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or "text" not in row:
        return None
    pieces = row.get("tokens")
    parts = row.get("parts")
    return Answer(
        id=str(row.get("id", row.get("prompt"))),
        prompt=str(row.get("prompt", "")),
        text=str(row["text"]),
        reward=finite(row.get("reward")),
        judge=finite(row.get("judge")),
        kl=finite(row.get("kl")),
        length=finite(row.get("length")),
        ended=bool(row.get("ended", True)),
        parts={str(k): v for k, v in parts.items() if finite(v) is not None} if isinstance(parts, dict) else {},
        pieces=tuple(map(str, pieces)) if isinstance(pieces, list) else (),
        values={"kl": _values(row.get("token_kl")), "advantage": _values(row.get("advantage"))},
    )


def _values(found: Any) -> tuple[float | None, ...]:
    return tuple(map(finite, found)) if isinstance(found, list) else ()


def ordered(pairs: Sequence[Pair], sort: str, descending: bool) -> list[Pair]:
    """Return the pairs by a figure; those that have it not come last. "prompt" is the order of the file."""
    if sort == "prompt":
        return list(reversed(pairs)) if descending else list(pairs)
    known = [(value, pair) for pair in pairs if (value := pair.key(sort)) is not None]
    known.sort(key=lambda one: -one[0] if descending else one[0])
    return [pair for _, pair in known] + [pair for pair in pairs if pair.key(sort) is None]
