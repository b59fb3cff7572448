"""What a person submits about a presentation: checked against what was shown, and turned into a `Ranking` and back.

An answer speaks of display positions (0 = A), a ranking of completion ids; the order shown joins the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefloop.config import Annotate
from prefloop.types import digest

LETTERS = "ABCDEFGHI"  # one a card: lists of 2 to 9 can be shown
FLAGS = ("wrong", "unsafe", "pii", "off")
SKIP_REASONS = ("unclear", "no expertise", "too long", "broken", "distressing", "other")
LONGEST_COMMENT = 5000  # characters
LONGEST_DURATION_S = 7 * 86400.0
RATINGS = range(1, 6)


@dataclass(frozen=True)
class Answer:
    """One person's answer to one presentation. Positions are display positions, 0 = A.

    tiers:        best first; positions in one tier tie; positions in no tier are unplaced.
    unacceptable: positions marked unacceptable, placed or not.
    ratings:      {position: {attribute: 1 to 5}}.
    flags:        {position: some of `FLAGS`}.
    duration_s:   seconds from showing to submitting; dwell_s: seconds each card was in view, by position.
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
        """Lists and tables only; positions as keys become texts. `from_json` reads it back."""
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
        """A hash of what is said, not of how long it took: a retry that measures time again says the same."""
        said = {key: value for key, value in self.to_json().items() if key not in ("duration_s", "dwell_s")}
        return digest(
            "answer", said | {"tiers": [sorted(t) for t in self.tiers], "unacceptable": sorted(self.unacceptable)}
        )


def from_json(value: object) -> Answer:
    """An answer from parsed JSON (an untrusted body). Raises AnswerError naming the field that is wrong.

    Only types are looked at here; `check` compares with what was shown.
    """
    raise NotImplementedError


def check(answer: Answer, count: int, settings: Annotate) -> None:
    """Raise AnswerError unless `answer` answers a presentation of `count` cards under the project's rules."""
    raise NotImplementedError
