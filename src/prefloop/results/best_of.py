"""What `prefloop best-of` found: what the best of n answers score, and how far from the policy that choice goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from prefloop.results.base import Interval, Outcome, Refused, flat


@dataclass(frozen=True, kw_only=True)
class BestAt:
    """The best of n answers by the reward: means over prompts, from all subsets of n of the samples.

    kl: in nats, an upper bound where rewards tie; kl_estimate: what it is about then
    judge: what `[evaluate] scorer` says of the same answers, which did not choose them
    """

    n: int
    kl: float
    reward: Interval
    kl_estimate: float | None = None
    judge: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class BestOf(Outcome):
    """One answer to each prompt, chosen among n of the policy. kl: of that choice from the policy, in nats.

    by: "best" of the reward, "majority" of the final answers, or "weighted" majority
    asked, prompts: how many prompts there were, and how many have an answer now
    unscored: prompts whose answers could not be scored, each with the reason; the first of them
    bounded: whether `kl` is an upper bound, since rewards tie or answers were voted for
    tied: share of the prompts that have answers of equal reward
    distinct: mean number of different texts among the n
    share: mean share of the votes (or of their weight) for the answer that won
    unmatched: share of all samples that have no final answer; unanswered: prompts of which no sample has one
    answers, lists: files with the chosen answers, and with all n in the format of rankings
    """

    stage: ClassVar[str] = "best-of"

    policy: str
    by: Literal["best", "majority", "weighted"]
    scorer: str | None
    n: int
    asked: int
    prompts: int
    left_out: Refused | None = flat()
    unscored: tuple[str, ...]
    kl: float
    bounded: bool
    kl_estimate: float | None = None
    tied: float | None = None
    distinct: float
    ended: float
    share: float | None = None
    unmatched: float | None = None
    unanswered: int | None = None
    curve: tuple[BestAt, ...]
    answers: Path
    lists: Path
