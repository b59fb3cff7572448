"""Results of stages that train and evaluate models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from prefloop.results.base import Breach, Collapse, Cut, Interval, Outcome, Refused, flat
from prefloop.results.behaviour import BehaviourReport

if TYPE_CHECKING:
    from prefloop.labels.preference_eval import PairReport

Figures: TypeAlias = Mapping[str, float]  # metrics by the names that `align` logs


@dataclass(frozen=True, kw_only=True)
class Tuned(Outcome):
    """A supervised policy. model: its folder, relative to the project. heldout_loss: nats a token, where measured."""

    stage: ClassVar[str] = "sft"

    steps: int
    demonstrations: int
    too_long: int
    heldout_too_long: int
    left_out: Refused | None = flat()
    heldout_loss: float | None = None
    heldout_perplexity: float | None = None
    model: str


@dataclass(frozen=True)
class AnnotatorWeights:
    """Whose rankings counted how much: [reward] annotators. left_out: rankings that did not count.

    enough, reason, weights: of "weighted" only. reason: why people could not be told apart; {} then, and all count.
    """

    mode: Literal["all", "weighted", "majority"]
    left_out: int
    enough: bool | None = None
    reason: str | None = None
    weights: Mapping[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"mode": self.mode, "left_out": self.left_out}
        if self.weights is None:
            return found
        return found | {"enough": self.enough, "reason": self.reason, "weights": dict(self.weights)}


@dataclass(frozen=True)
class Normalisation:
    """The mean and standard deviation of raw scores of the reference's answers."""

    mean: float
    std: float


@dataclass(frozen=True, kw_only=True)
class TrainedReward(Outcome):
    """A reward model of one criterion. heldout: how it orders held-out pairs; None where nobody ranked any.

    lists_trained_on: with those of other criteria. train_accuracy: of pairs that it has learnt from.
    """

    stage: ClassVar[str] = "reward"

    criterion: str
    round: int
    lists: int
    lists_trained_on: int
    rankings: int
    simulated: int
    annotators: AnnotatorWeights
    heldout_lists: int
    normalisation: Normalisation
    heldout: PairReport | None
    train_accuracy: float | None
    left_out: Refused | None = flat()
    cut: Cut | None = flat()
    model: str

    @property
    def accuracy(self) -> float | None:
        """Of held-out pairs."""
        return self.heldout.accuracy if self.heldout else None

    @property
    def low(self) -> float | None:
        """The lower end of the 95 % interval of the accuracy."""
        return self.heldout.low if self.heldout else None

    @property
    def high(self) -> float | None:
        """The upper end of the 95 % interval of the accuracy."""
        return self.heldout.high if self.heldout else None


@dataclass(frozen=True, kw_only=True)
class Rewarded(Outcome):
    """Reward models, by criterion."""

    stage: ClassVar[str] = "reward"

    round: int
    models: Mapping[str, TrainedReward]


@dataclass(frozen=True)
class ValidationPrompts:
    """Ids of the prompts that chose the weights. held_out: false where training prompts had to stand in."""

    held_out: bool
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Constraint:
    """A criterion with a bound: its mean over prompts with the 95 % interval, in its own unit.

    met: whether the lower end is at the bound or above it. It may be false though the bound is kept: few prompts cannot
    show it.
    """

    bound: float
    mean: float
    low: float
    high: float
    n: int
    met: bool


@dataclass(frozen=True)
class AlignRun:
    """A run of a round beside the others, by its figures on validation prompts."""

    run: str
    chosen: bool
    unchanged: bool
    collapsed: tuple[str, ...]
    algorithm: str | None
    win_rate: float | None
    reward: float | None
    kl: float | None


@dataclass(frozen=True)
class RoundStanding:
    """How the runs of a round compare. chosen: the run whose policy is the round's; choose: [run] choose."""

    chosen: str | None
    choose: str
    runs: tuple[AlignRun, ...]


@dataclass(frozen=True, kw_only=True)
class AlignedOnline(Outcome):
    """A run of an algorithm that learns from its own samples. best_step: the step that was kept; 0 is the start.

    reward, kl, win_rate, length, ended, collapsed: of the weights that were kept, on validation prompts.
    collapses: steps that were not kept, since the policy had collapsed. stopped: why the run ended.
    constraints: of `[align.objective] subject_to`, on validation prompts, of the weights that were kept.
    breaches: steps that were not kept, since the policy broke a bound of `[behaviour]`; None where there are none.
    model: the folder of the new policy; None where no step was better than the start, and `policy` is the old one.
    """

    stage: ClassVar[str] = "align"

    steps: int
    best_step: int
    reward: float | None
    kl: float | None
    win_rate: float | None
    length: float | None
    ended: float | None
    collapsed: tuple[str, ...] | None
    reward_before: float | None
    collapses: tuple[Collapse, ...]
    validation: ValidationPrompts | None
    stopped: str
    left_out: Refused | None = flat()
    weights: str | None
    round: int
    algorithm: str
    warnings: tuple[str, ...]
    policy: str
    model: str | None
    constraints: Mapping[str, Constraint] | None = None
    standing: RoundStanding | None = flat()
    breaches: tuple[Breach, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class AlignedOffline(Outcome):
    """A run of an algorithm that learns from rankings. Its fields mean what those of `AlignedOnline` mean.

    heldout_accuracy: the share of held-out pairs that the implicit reward orders as people do.
    """

    stage: ClassVar[str] = "align"

    algorithm: str
    round: int
    lists: int
    annotators: Mapping[str, AnnotatorWeights]
    steps: int
    left_out: Refused | None = flat()
    cut: Cut | None = flat()
    kl: float | None
    length: float | None
    ended: float | None
    collapsed: tuple[str, ...] | None
    heldout_accuracy: float | None = None
    best_step: int
    collapses: tuple[Collapse, ...]
    stopped: str
    weights: str | None
    validation: ValidationPrompts | None = None
    policy: str
    model: str | None
    standing: RoundStanding | None = flat()
    breaches: tuple[Breach, ...] | None = None

    reward: ClassVar[None] = None  # nothing scores what it samples
    win_rate: ClassVar[None] = None
    warnings: ClassVar[tuple[str, ...]] = ()


Aligned: TypeAlias = AlignedOnline | AlignedOffline


def read_aligned(found: Mapping[str, Any], run: str | None = None) -> Aligned | None:
    """The result of a run of `align`; None where it has not finished."""
    return (AlignedOffline if "lists" in found else AlignedOnline).read(found, run)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two policies' answers to the same prompts. judge_: by the independent scorer, where there is one.

    parts: by criterion, where there are several
    """

    policy: Figures
    reference: Figures
    win_rate: Interval
    reward_gain: Interval
    judge_win_rate: Interval | None = None
    judge_gain: Interval | None = None
    parts: Mapping[str, ComparedPart] | None = None


@dataclass(frozen=True)
class ComparedPart:
    """One criterion's mean over prompts, of both policies' answers, in its own unit; and the gain of the new one.

    constraint: where it has a bound, whether the policy keeps it
    """

    policy: Interval
    reference: Interval
    gain: Interval
    constraint: Constraint | None = None


@dataclass(frozen=True)
class Answer:
    """One answer with its scores."""

    text: str
    reward: float
    judge: float | None = None


@dataclass(frozen=True)
class SampledPair:
    """The answers of both policies to one prompt."""

    prompt: str
    policy: Answer
    reference: Answer


@dataclass(frozen=True, kw_only=True)
class Evaluated(Outcome):
    """The aligned policy against the reference, on held-out prompts.

    unchanged: both are the same, so that there was nothing to compare, and what follows is None.
    independent: false where the same prompts had chosen the policy.
    behaviour: the checks of `[behaviour]`, of sampled answers.
    """

    stage: ClassVar[str] = "evaluate"

    round: int
    policy: str
    reference: str
    unchanged: bool | None = None
    independent: bool | None = None
    prompts: int | None = None
    samples_per_prompt: int | None = None
    left_out: Refused | None = flat()
    sampled: Comparison | None = None
    samples: tuple[SampledPair, ...] | None = None
    greedy: Comparison | None = None
    collapsed: tuple[str, ...] | None = None
    behaviour: BehaviourReport | None = None

    @property
    def win_rate(self) -> Interval | None:
        """Of sampled answers, by the reward models."""
        return self.sampled.win_rate if self.sampled else None

    @property
    def reward_gain(self) -> Interval | None:
        """Of sampled answers."""
        return self.sampled.reward_gain if self.sampled else None

    @property
    def kl(self) -> float | None:
        """From the reference, in nats a sequence, of sampled answers."""
        return self.sampled.policy["kl"] if self.sampled else None


@dataclass(frozen=True, kw_only=True)
class EvaluatedReward(Outcome):
    """How any reward model orders the rankings of a file, by criterion. trained_on: the criterion that it knows."""

    stage: ClassVar[str] = "evaluate reward"

    model: str
    items: int
    trained_on: str | None
    criteria: Mapping[str, PairReport]
    left_out: Refused | None = flat()
    cut: Cut | None = flat()
    file: str
    rejected: int
    reasons: tuple[str, ...]
