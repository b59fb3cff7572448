"""The reward model by itself, and in the run that it judges."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefloop.diagnose.finding import Expected
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import Seen, rule
from prefloop.diagnose.reward_model import at_chance
from prefloop.diagnose.rules.overoptimisation import judge_rose

REWARD = ("reward",)
SURE_PROMPTS = 8  # pairs of one prompt are not independent: fewer prompts say nothing surely
FEW_LISTS = 50
_GAVE = re.compile(r"\bgave (?:nan|-?inf)\b", re.IGNORECASE)


def heldout(run: RunRecord) -> Mapping[str, Any]:
    return run.result.get("heldout") or {}


def learnt_from(run: RunRecord) -> int:
    """Return how many lists a reward model was trained on; 0 where its result does not say."""
    return int(run.result.get("lists_trained_on") or run.result.get("lists") or 0)


@dataclass(frozen=True)
class _Measured:
    accuracy: float | None
    low: float | None
    high: float | None
    pairs: int
    prompts: int


def _measured(report: Mapping[str, Any]) -> _Measured | None:
    if not report:
        return None
    pairs, prompts = report.get("pairs") or 0, report.get("prompts") or 0
    return _Measured(report.get("accuracy"), report.get("low"), report.get("high"), pairs, prompts)


@rule(
    "reward-at-chance",
    kind="data",
    stages=REWARD,
    expected=Expected(
        "the whole interval over 0.5", "share of pairs", "accuracy with 95 % interval", "held-out pairs", "our rule"
    ),
    broke="A reward model can tell better from worse on prompts that it was not trained on.",
    meaning="A policy that is optimised against it would learn noise.",
    cannot_tell="Whether people disagree, there are too few of their lists, or training went wrong.",
)
def reward_at_chance(run: RunRecord) -> Seen | None:
    if run.status != "done":
        return None
    said = at_chance(_measured(heldout(run)), str(run.result.get("criterion", run.name)))
    accuracy = heldout(run).get("accuracy")
    return Seen(said.split(". ")[0], None, accuracy, signal="heldout accuracy") if said else None


@rule(
    "reward-inverted",
    kind="data",
    stages=REWARD,
    severity="error",
    expected=Expected(
        "over 0.5", "share of pairs", "accuracy with 95 % interval", "held-out pairs of 8 prompts or more", "our rule"
    ),
    broke="A reward model prefers what people prefer.",
    meaning="It is right less often than a coin: somewhere a sign is wrong.",
    cannot_tell="Whether the rankings or the model is upside down.",
)
def reward_inverted(run: RunRecord) -> Seen | None:
    report = heldout(run)
    if report.get("high") is None or report["high"] >= 0.5 or report.get("prompts", 0) < SURE_PROMPTS:
        return None
    return Seen(
        f"it is right on {report['accuracy']:.0%} of {report['pairs']} held-out pairs",
        None,
        report["accuracy"],
        signal="heldout accuracy",
    )


@rule(
    "reward-overfitted",
    kind="level",
    stages=REWARD,
    reads=("heldout_log_loss", "loss"),
    expected=Expected(
        "held-out log loss within 0.05 of its best, and under ln 2",
        "nats a pair",
        "mean",
        "held-out pairs",
        "our rule; early stopping",
    ),
    broke="What a reward model learns holds on prompts that it has not seen.",
    meaning="The held-out loss has turned while the training loss goes on falling.",
    cannot_tell="With few held-out pairs the loss moves by itself.",
)
def reward_overfitted(run: RunRecord) -> Seen | None:
    held, loss = run.series("heldout_log_loss"), run.series("loss")
    if held is None or loss is None or len(loss) < 6:
        return None
    report = heldout(run)
    sure = [bin for bin in report.get("calibration") or [] if bin["votes"]]
    votes = sum(bin["votes"] for bin in sure)
    gap = sum(bin["votes"] * (bin["predicted"] - bin["observed"]) for bin in sure) / votes if votes else 0.0
    best = int(np.argmin(held.values))
    turned = held.values[-1] - held.values[best] > 0.05 and best < len(held) - 1
    too_sure = gap > 0.12 and held.values[-1] > math.log(2) - 0.02
    fell = loss.last < 0.7 * loss.first
    if not (turned or too_sure) or not (fell or too_sure):
        return None
    if turned:
        said = f"held-out loss rose from {held.values[best]:.3f} (step {held.steps[best]}) to {held.values[-1]:.3f}"
    else:
        said = f"it is {gap:.0%} too sure of itself on held-out pairs, and its log loss is {held.values[-1]:.3f}"
    return Seen(
        said + f", while training loss fell from {loss.first:.2f} to {loss.last:.2f}",
        int(held.steps[best]),
        float(held.values[-1]),
    )


@rule(
    "reward-underfitted",
    kind="level",
    stages=REWARD,
    reads=("loss",),
    expected=Expected("falls by a twentieth or more", "nats a list", "mean", "a step", "our rule"),
    broke="A reward model learns the lists that it is trained on.",
    meaning="The training loss has hardly moved: too small a rate, too few steps, or nothing that can be learnt.",
    cannot_tell="Lists that were ranked at random cannot be learnt either.",
)
def reward_underfitted(run: RunRecord) -> Seen | None:
    loss, accuracy = run.series("loss"), heldout(run).get("accuracy")
    if loss is None or len(loss) < 4 or accuracy is None or accuracy > 0.6:
        return None
    half = len(loss) // 2
    early, late = float(np.mean(loss.values[: max(2, half // 2)])), float(np.mean(loss.values[half:]))
    if late < 0.97 * early:
        return None
    return Seen(f"training loss went from {early:.3f} to {late:.3f}", int(loss.steps[0]), late)


@rule(
    "lists-few",
    kind="data",
    stages=REWARD,
    expected=Expected("50 or more", "lists", "count", "lists that were learnt from", "our level"),
    broke="A reward model learns from enough lists.",
    meaning="With so few lists neither what it learnt nor what was measured of it is sure.",
    cannot_tell="Long lists that many people ranked say more than short ones.",
)
def few_lists(run: RunRecord) -> Seen | None:
    lists = learnt_from(run)
    return Seen(f"it learnt from {lists} lists", None, lists, signal="lists") if 0 < lists < FEW_LISTS else None


@rule(
    "reward-likes-length",
    kind="data",
    stages=REWARD,
    expected=Expected(
        "within 0.15", "share of pairs", "difference of accuracies", "held-out pairs", "our level; Singhal 2023"
    ),
    broke="A reward model is right as often where the shorter answer won as where the longer did.",
    meaning="It prefers length, and a policy will find that out. This is only noted where people prefer the same, and "
    "the model is surely right more often than length alone.",
    cannot_tell="Whether people prefer length for its own sake, or for what goes with it.",
)
def reward_likes_length(run: RunRecord) -> Seen | None:
    report = heldout(run)
    longer, shorter = report.get("longer_won") or {}, report.get("shorter_won") or {}
    a, b = longer.get("share"), shorter.get("share")
    if a is None or b is None or min(longer["pairs"], shorter["pairs"]) < 10:
        return None
    error = 2 * math.sqrt(a * (1 - a) / longer["pairs"] + b * (1 - b) / shorter["pairs"])
    if abs(a - b) <= max(0.15, error):
        return None
    which = "longer" if a > b else "shorter"
    return Seen(
        f"it is right on {a:.0%} of pairs where the longer answer won and on {b:.0%} where the shorter did: it "
        f"likes {which} answers",
        None,
        a - b,
        signal="longer_won",
        severity="note" if _as_people_do(report, a - b) else None,
    )


def _as_people_do(report: Mapping[str, Any], gap: float) -> bool:
    """Return whether people prefer the same length, and the model is surely more often right than length alone."""
    share, low = (report.get("longer_wins") or {}).get("share"), report.get("low")
    return share is not None and low is not None and (share > 0.5) == (gap > 0) and low > max(share, 1 - share)


@rule(
    "people-like-length",
    kind="data",
    stages=REWARD,
    expected=Expected("0.35 to 0.65", "share of pairs", "mean", "held-out pairs", "our level"),
    broke="What people rank highest is not just the longest.",
    meaning="The rankings follow length so closely that nothing else can be learnt from them with certainty.",
    cannot_tell="Longer answers can be the better ones.",
)
def people_like_length(run: RunRecord) -> Seen | None:
    found = heldout(run).get("longer_wins") or {}
    share, pairs = found.get("share"), found.get("pairs", 0)
    if share is None or pairs < 20:
        return None
    error = 2 * math.sqrt(0.25 / pairs)
    if abs(share - 0.5) <= max(0.15, error):
        return None
    return Seen(f"the longer answer won {share:.0%} of {pairs} held-out pairs", None, share, signal="longer_wins")


@rule(
    "scorer-at-chance",
    kind="invariant",
    reads=("eval_ranked_accuracy", "eval_ranked_pairs"),
    expected=Expected(
        "over 0.5", "share of pairs", "accuracy, before the first update", "held-out ranked pairs", "our invariant"
    ),
    broke="The reward that is optimised agrees with people's own rankings.",
    meaning="The scorer of this run was asked about lists that people have ranked: it does not know better from worse.",
    cannot_tell="Whether the scorer is wrong or the rankings are.",
)
def scorer_at_chance(run: RunRecord) -> Seen | None:
    accuracy, pairs = run.series("eval_ranked_accuracy"), run.series("eval_ranked_pairs")
    if accuracy is None or pairs is None or pairs.values[0] < 30:
        return None
    a, error = float(accuracy.values[0]), math.sqrt(0.25 / float(pairs.values[0]) * 3)  # pairs of a list go together
    if a > 0.5 + error or a < 0.5 - 2 * error:
        return None
    said = f"it is right on {a:.0%} of {pairs.values[0]:.0f} held-out ranked pairs"
    return Seen(said, 0, a, severity="note" if run.align("reward") else None)  # a function may be meant otherwise


@rule(
    "scorer-inverted",
    kind="invariant",
    reads=("eval_ranked_accuracy", "eval_ranked_pairs"),
    severity="error",
    expected=Expected(
        "over 0.5", "share of pairs", "accuracy, before the first update", "held-out ranked pairs", "our invariant"
    ),
    broke="The reward that is optimised agrees with people's own rankings.",
    meaning="The scorer of this run prefers what people ranked lower.",
    cannot_tell="Where the sign was lost.",
)
def scorer_inverted(run: RunRecord) -> Seen | None:
    accuracy, pairs = run.series("eval_ranked_accuracy"), run.series("eval_ranked_pairs")
    if accuracy is None or pairs is None or pairs.values[0] < 30:
        return None
    a, error = float(accuracy.values[0]), math.sqrt(0.25 / float(pairs.values[0]) * 3)
    if a >= 0.5 - 2 * error:
        return None
    return Seen(f"it is right on {a:.0%} of {pairs.values[0]:.0f} held-out ranked pairs", 0, a)


@rule(
    "scorer-less-accurate",
    kind="invariant",
    reads=("eval_ranked_accuracy", "eval_ranked_pairs"),
    severity="error",
    expected=Expected(
        "within 0.02 on the same pairs, within 0.15 on others",
        "share of pairs",
        "accuracy, before the first update",
        "held-out ranked pairs",
        "our invariant",
    ),
    broke="A reward model scores as it did when it was measured.",
    meaning="On held-out lists the scorer of this run is right less often than its reward model was after training.",
    cannot_tell="Whether it is loaded, read or combined wrongly, or a part was added to it.",
)
def scorer_less_accurate(run: RunRecord) -> Seen | None:
    accuracy, pairs = run.series("eval_ranked_accuracy"), run.series("eval_ranked_pairs")
    reports = [report for judge in run.judges.values() if (report := judge.get("heldout"))]
    alone = len(run.judges) == 1 and not run.align("scorers")  # a sum of criteria orders lists by more than one
    if accuracy is None or pairs is None or not alone or not reports or pairs.values[0] < 30:
        return None
    before, now = float(reports[0].get("accuracy") or 0.0), float(accuracy.values[0])
    same = reports[0].get("pairs") == int(pairs.values[0])
    if before - now <= (0.02 if same else 0.15):
        return None
    said = f"it is right on {now:.0%} of held-out pairs, {before:.0%} when its reward model was measured"
    return Seen(said, 0, now, (before, 1.0))


@rule(
    "reward-constant",
    kind="invariant",
    reads=("reward_std",),
    severity="error",
    expected=Expected(
        "over 0.001 in the first step", "sd of the reference's reward", "sd", "a step", "no spread, no gradient"
    ),
    broke="A reward tells answers apart.",
    meaning="Every answer of the first step was given one and the same score.",
    cannot_tell="Why the scorer is constant.",
)
def reward_constant(run: RunRecord) -> Seen | None:
    spread = run.series("reward_std")
    if spread is None or spread.values[0] > 1e-3:
        return None
    return Seen(
        f"the rewards of step {spread.steps[0]} spread by {spread.values[0]:.2g}",
        int(spread.steps[0]),
        spread.values[0],
    )


@rule(
    "reward-other-policy",
    kind="data",
    reads=("reward",),
    expected=Expected(
        "most lists from the policy that the run starts from",
        "share of lists",
        "mean",
        "lists that were learnt from",
        "Touvron 2023 (a new reward model a round)",
    ),
    broke="A reward model has seen answers like those that it is asked about.",
    meaning="Its lists were sampled from another policy: it extrapolates from the first step on.",
    cannot_tell="Two policies may write alike.",
    severity="note",
)
def reward_other_policy(run: RunRecord) -> Seen | None:
    shares = [float(j["from_other_policies"]) for j in run.judges.values() if "from_other_policies" in j]
    if not shares or max(shares) <= 0.5:
        return None
    return Seen(
        f"{max(shares):.0%} of the lists that it learnt from were sampled from other policies than the one that this "
        "run starts from",
        0,
        max(shares),
        signal="lists",
    )


@rule(
    "reward-tail",
    kind="level",
    reads=("reward_max", "reward", "reward_std"),
    expected=Expected(
        "within 6 spreads of the mean, the step's or the first steps'",
        "sd of a step's rewards",
        "largest",
        "a step",
        "our rule",
    ),
    broke="No single answer earns many times what the others do.",
    meaning="A few answers score far out of the range: a bug or a loophole that the policy will find. It is only noted "
    "where an independent judge finds the answers better.",
    cannot_tell="A reward with a long tail by nature.",
)
def reward_tail(run: RunRecord) -> Seen | None:
    top, mean, spread = run.series("reward_max"), run.series("reward"), run.series("reward_std")
    if top is None or mean is None or spread is None or not len(top) == len(mean) == len(spread):
        return None
    first_spread = max(float(np.median(spread.values[: spread.head])), 1e-9)
    far = top.values - mean.values > 6 * np.maximum(spread.values, first_spread)
    if not far.any():
        return None
    place = int(np.argmax(far))
    return Seen(
        f"an answer of step {top.steps[place]} scores {top.values[place]:.1f}, the mean is {mean.values[place]:.2f}",
        int(top.steps[place]),
        float(top.values.max()),
        severity="note" if judge_rose(run) else None,
    )


@rule(
    "reward-not-finite",
    kind="invariant",
    severity="error",
    expected=Expected("every one", "answers", "count", "a run", "our invariant"),
    broke="Every reward is a finite number.",
    meaning="The scorer returned NaN or an infinity, and the run stopped there. Its last checkpoint is kept.",
    cannot_tell="Which part of the scorer does it: the answer is named.",
)
def reward_not_finite(run: RunRecord) -> Seen | None:
    reason = str(run.manifest.get("reason") or "")
    if run.status != "failed" or not _GAVE.search(reason):
        return None
    return Seen(reason.split(". ")[0], run.steps, signal="reward")
