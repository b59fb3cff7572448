"""Checks the answer that a person submits against what was shown, and translates between answers and `Ranking`s.

An answer names display positions (0 = A), and a ranking names completion ids. The order shown translates between them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

from prefloop.config import Annotate
from prefloop.errors import AnswerError
from prefloop.types import Json, Ranking, digest

LETTERS = "ABCDEFGHI"  # Each card has one letter, and lists of 2 to 9 cards can be shown.
FLAGS = ("wrong", "unsafe", "pii", "off")
SKIP_REASONS = ("unclear", "no expertise", "too long", "broken", "distressing", "other")
LONGEST_COMMENT = 5000  # in characters
LONGEST_S = 7 * 86400.0  # in seconds
RATINGS = range(1, 6)


@dataclass(frozen=True)
class Answer:
    """Holds one person's answer to one presentation. Positions are display positions: 0 is card A.

    tiers:        tiers of positions, best first; positions in one tier tie, and positions in no tier are unplaced
    unacceptable: the positions marked unacceptable, whether they are placed or not
    ratings:      {position: {attribute: 1 to 5}}
    flags:        {position: some of `FLAGS`}
    duration_s:   seconds from showing to submitting
    dwell_s:      seconds for which each card was in view, by position
    """

    tiers: tuple[tuple[int, ...], ...]
    unacceptable: tuple[int, ...] = ()
    none_acceptable: bool = False
    ratings: Mapping[int, Mapping[str, int]] = field(default_factory=dict, hash=False)
    flags: Mapping[int, tuple[str, ...]] = field(default_factory=dict, hash=False)
    comment: str | None = None
    duration_s: float | None = None
    dwell_s: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return lists and tables only; positions as keys become texts. `from_json` reads them back."""
        return {
            "tiers": [list(tier) for tier in self.tiers],
            "unacceptable": list(self.unacceptable),
            "none_acceptable": self.none_acceptable,
            "ratings": {str(place): dict(given) for place, given in self.ratings.items()},
            "flags": {str(place): list(given) for place, given in self.flags.items()},
            "comment": self.comment,
            "duration_s": self.duration_s,
            "dwell_s": list(self.dwell_s),
        }

    @property
    def body(self) -> str:
        """Return a hash of the answer without its times, so that a retry with a new time has the same hash."""
        content = self.to_json()
        del content["duration_s"], content["dwell_s"]
        content["tiers"] = [sorted(tier) for tier in self.tiers]
        content["unacceptable"] = sorted(self.unacceptable)
        content["flags"] = {place: sorted(given) for place, given in content["flags"].items()}
        return digest("answer", content)


# -- from a request ----------------------------------------------------------------------------------------------------


def from_json(value: object) -> Answer:
    """Return an answer from parsed JSON, which is untrusted. Raises AnswerError, which names the field that is wrong.

    Only types are looked at here; `check` compares the answer with what was shown. Every field but `tiers` may be
    missing, and is empty then.
    """
    table = _table(value, "the answer")
    unknown = sorted(set(table) - set(_FIELDS))
    if unknown:
        raise AnswerError(f"the answer has unknown fields: {', '.join(map(repr, unknown[:5]))}. Known: {_FIELDS}")
    if "tiers" not in table:
        raise AnswerError("the answer has no tiers: send a list of lists of positions, best first")
    none_acceptable = table.get("none_acceptable", False)
    if not isinstance(none_acceptable, bool):
        raise AnswerError("none_acceptable must be true or false")
    comment = table.get("comment")
    if comment is not None and not isinstance(comment, str):
        raise AnswerError("comment must be a text")
    duration = table.get("duration_s")
    return Answer(
        tiers=tuple(_positions(tier, "a tier") for tier in _list(table["tiers"], "tiers")),
        unacceptable=_positions(table.get("unacceptable", []), "unacceptable"),
        none_acceptable=none_acceptable,
        ratings={
            _key(place): {name: _whole(n, "a rating") for name, n in _table(given, "ratings").items()}
            for place, given in _table(table.get("ratings", {}), "ratings").items()
        },
        flags={
            _key(place): tuple(_text(flag, "a flag") for flag in _list(given, "flags"))
            for place, given in _table(table.get("flags", {}), "flags").items()
        },
        comment=comment,
        duration_s=None if duration is None else _seconds(duration, "duration_s"),
        dwell_s=tuple(_seconds(spent, "dwell_s") for spent in _list(table.get("dwell_s", []), "dwell_s")),
    )


_FIELDS = ("tiers", "unacceptable", "none_acceptable", "ratings", "flags", "comment", "duration_s", "dwell_s")


def _table(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise AnswerError(f"{name} must be a table")
    return value


def _list(value: object, name: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise AnswerError(f"{name} must be a list")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise AnswerError(f"{name} must be a text")
    return value


def _whole(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise AnswerError(f"{name} must be a whole number")
    return value


def _positions(value: object, name: str) -> tuple[int, ...]:
    return tuple(_whole(place, f"a position in {name}") for place in _list(value, name))


def _key(place: str) -> int:
    if place not in _KEYS:
        raise AnswerError(f"{place[:20]!r} is no position; they are 0 to {len(LETTERS) - 1}")
    return int(place)


_KEYS = tuple(str(place) for place in range(len(LETTERS)))


def _seconds(value: object, name: str) -> float:
    # This comparison is false for NaN, which is refused too.
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= LONGEST_S:
        raise AnswerError(f"{name} must be seconds, 0 to {LONGEST_S:.0f}")
    return float(value)


# -- against what was shown --------------------------------------------------------------------------------------------


def check(answer: Answer, count: int, settings: Annotate) -> None:
    """Raise AnswerError unless `answer` answers a presentation of `count` cards under the project's rules."""
    placed = [place for tier in answer.tiers for place in tier]
    _distinct(placed, count, "is in the ranking")
    _distinct(answer.unacceptable, count, "is marked unacceptable")
    _distinct(answer.ratings, count, "is rated")
    if not all(answer.tiers):
        raise AnswerError(f"rank {answer.tiers.index(()) + 1} is empty. Leave empty ranks out.")
    if answer.none_acceptable and not settings.none_acceptable:
        raise AnswerError('this project does not offer "none acceptable". Rank the answers as they are.')
    _complete(answer, placed, count, settings.partial)
    for given in answer.ratings.values():
        for name, number in given.items():
            if name not in settings.attributes:
                raise AnswerError(f"{name!r} is not rated here. Attributes: {', '.join(settings.attributes) or 'none'}")
            if number not in RATINGS:
                raise AnswerError(f"{name} is rated {number}. Ratings are 1 to 5.")
    _flags(answer.flags, count)
    _comment(answer.comment, settings.rationale)
    _times(answer, count)


def marks(answer: Answer, shown: Sequence[str]) -> Json:
    """Return what is kept of an answer whose item is skipped: flags by completion id, and the comment.

    The result is empty where nothing was marked. Raises AnswerError if the answer ranks something.
    """
    _flags(answer.flags, len(shown))
    _comment(answer.comment, "optional")
    comment = (answer.comment or "").strip()
    flags = _flags_by_id(answer, shown)
    return {**({"flags": flags} if flags else {}), **({"comment": comment} if comment else {})}


def _flags(given: Mapping[int, tuple[str, ...]], count: int) -> None:
    _distinct(given, count, "is flagged")
    for flags in given.values():
        if set(flags) - set(FLAGS) or len(set(flags)) != len(flags):
            raise AnswerError(f"the flags {', '.join(flags)} are not distinct ones of {', '.join(FLAGS)}")


def _flags_by_id(answer: Answer, shown: Sequence[str]) -> dict[str, list[str]]:
    return {shown[place]: list(given) for place, given in answer.flags.items() if given}


def _distinct(places: Iterable[int], count: int, what: str) -> None:
    seen: set[int] = set()
    for place in places:
        if not 0 <= place < count:
            raise AnswerError(f"position {place} {what}, but {count} answers were shown: 0 to {count - 1}")
        if place in seen:
            raise AnswerError(f"{LETTERS[place]} {what} twice. Name each answer once.")
        seen.add(place)


def _complete(answer: Answer, placed: Sequence[int], count: int, partial: bool) -> None:
    """Apply the rule of `labels.ranking.check`, with messages that name cards by their letters."""
    if len(placed) < 2 and not (answer.none_acceptable or answer.unacceptable):
        raise AnswerError("fewer than two answers have a rank, which compares nothing. Rank them, or skip the item.")
    known = {*placed, *answer.unacceptable}
    unplaced = [LETTERS[place] for place in range(count) if place not in known]
    if unplaced and not partial and not (answer.none_acceptable and not placed):
        raise AnswerError(f"{', '.join(unplaced)} has no rank yet. Place every answer.")


def _comment(comment: str | None, rationale: str) -> None:
    text = (comment or "").strip()
    if rationale == "required" and not text:
        raise AnswerError("this project asks for a reason. Write a sentence in the comment.")
    if rationale == "off" and text:
        raise AnswerError("this project takes no comments. Leave the comment out.")
    if len(comment or "") > LONGEST_COMMENT:
        raise AnswerError(f"the comment has {len(comment or '')} characters. The longest is {LONGEST_COMMENT}.")
    if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in comment or ""):
        raise AnswerError("the comment holds characters that cannot be stored (NUL, or half of a surrogate pair)")


def _times(answer: Answer, count: int) -> None:
    if len(answer.dwell_s) not in (0, count):
        raise AnswerError(f"dwell_s has {len(answer.dwell_s)} times for {count} answers. Send one each, or none.")
    given = answer.dwell_s if answer.duration_s is None else (answer.duration_s, *answer.dwell_s)
    if not all(math.isfinite(spent) and 0 <= spent <= LONGEST_S for spent in given):
        raise AnswerError(f"duration_s and dwell_s must be seconds, 0 to {LONGEST_S:.0f}")


# -- to a ranking and back ---------------------------------------------------------------------------------------------


class _Event(TypedDict):
    item_id: str
    annotator: str
    criterion: str
    created_at: str
    supersedes: str | None
    ordinal: int


def to_ranking(answer: Answer, shown: Sequence[str], metadata: Json, **event: Unpack[_Event]) -> Ranking:
    """Return the ranking that an answer gives. Flags by completion and dwell times go to `metadata`.

    shown: the completion ids by display position
    """
    kept = dict(metadata)
    if any(answer.flags.values()):
        kept["flags"] = _flags_by_id(answer, shown)
    if answer.dwell_s:
        kept["dwell_s"] = list(answer.dwell_s)
    return Ranking(
        tiers=tuple(tuple(shown[place] for place in tier) for tier in answer.tiers),
        unacceptable=tuple(shown[place] for place in answer.unacceptable),
        none_acceptable=answer.none_acceptable,
        ratings={shown[place]: {k: float(v) for k, v in given.items()} for place, given in answer.ratings.items()},
        comment=(answer.comment or "").strip() or None,
        flags=tuple(flag for flag in FLAGS if any(flag in given for given in answer.flags.values())),
        shown=tuple(shown),
        duration_s=answer.duration_s,
        metadata=kept,
        **event,
    )


def from_ranking(ranking: Ranking) -> Answer:
    """Return the answer that `to_ranking` made this ranking of, by the order shown that the ranking holds."""
    place = {id: n for n, id in enumerate(ranking.shown)}
    return Answer(
        tiers=tuple(tuple(place[id] for id in tier) for tier in ranking.tiers),
        unacceptable=tuple(place[id] for id in ranking.unacceptable),
        none_acceptable=ranking.none_acceptable,
        ratings={place[id]: {k: round(v) for k, v in given.items()} for id, given in ranking.ratings.items()},
        flags={place[id]: tuple(given) for id, given in ranking.metadata.get("flags", {}).items()},
        comment=ranking.comment,
        duration_s=ranking.duration_s,
        dwell_s=tuple(ranking.metadata.get("dwell_s", ())),
    )
