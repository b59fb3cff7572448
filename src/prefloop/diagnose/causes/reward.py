"""Causes in the reward: its scorer, its model, what it was learnt from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from prefloop.diagnose.causes.scorer import asks_scorer
from prefloop.diagnose.features import LENGTH, explained, followed
from prefloop.diagnose.finding import Action, Evidence
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import cause
from prefloop.diagnose.rules.optimiser import rates
from prefloop.diagnose.rules.people import coins, inverted, share, weighed
from prefloop.diagnose.rules.reward_model import learnt_from

BOTH = ("align", "reward")
FEW_PAIRS = 150  # one standard error is over 4 %


def judge_reports(run: RunRecord) -> Iterator[Mapping[str, Any]]:
    """The held-out reports of the reward models that a run was judged by."""
    for judge in run.judges.values():
        if report := judge.get("heldout"):
            yield report


def _reliability(run: RunRecord, said: str) -> Action:
    """Say whose rankings count how much, where people can be told apart and have not been weighed yet."""
    if weighed(run):
        return Action("They count little already, or not at all. Ask them what they meant.", "prefloop agreement")
    if not any(person.weight is not None for person in run.people):
        return Action("See who disagrees with the others.", "prefloop agreement")
    return Action(said, "prefloop reward --annotators weighted")


@cause(
    "reward-sign",
    "The reward has the wrong sign",
    broke="The reward that is optimised agrees with people's own rankings.",
    remedy="Look for a minus in the scorer or a negative weight in [align] reward_weights.",
    act=lambda run: Action(
        "Measure the scorer on ranked lists; look for a minus or a negative weight.", asks_scorer(run)
    ),
    explains={
        "scorer-inverted": 4.0,
        "scorer-less-accurate": 0.7,
        "scorer-at-chance": 0.3,
        "judge-down": 1.0,
        "judge-parted": 0.5,
        "judge-contradicts": 0.7,
        "reward-inverted": 1.0,
        "length-moved": 0.1,
        "ends-lost": 0.2,
    },
    expects={"scorer-inverted": 3.0},
    stages=BOTH,
)
def reward_sign(run: RunRecord) -> Iterator[Evidence]:
    weights = run.align("reward_weights") or {}
    for name, weight in weights.items():
        if weight < 0:
            yield Evidence(f"the weight of {name} is {weight:g}", 1.5)
    for report in judge_reports(run):
        if report.get("low") is not None and report["low"] > 0.5:
            yield Evidence(f"the reward model itself was right on {report['accuracy']:.0%} when it was trained", 1.0)


@cause(
    "rankings-flipped",
    "A large share of the rankings is upside down",
    broke="Nobody ranks upside down.",
    remedy="Weigh people by how reliable they are, which leaves those out; or turn theirs round before an import.",
    act=lambda run: _reliability(run, "Leave out those whose order is the opposite of the others'."),
    explains={
        "reward-inverted": 2.5,
        "annotator-inverted": 3.0,
        "reward-at-chance": 1.0,
        "agreement-at-chance": 1.0,
        "reward-overfitted": 0.2,
        "reward-underfitted": 0.3,
    },
    stages=("reward",),
)
def rankings_flipped(run: RunRecord) -> Iterator[Evidence]:
    part = share(inverted(list(run.people)), run)
    if part > 0.02:
        yield Evidence(f"{part:.0%} of the rankings come from people whose order is the opposite of the others'", 1.5)
    elif any(p.weight is not None for p in run.people):
        yield Evidence("nobody's order is surely the opposite of the others'", -0.7)


@cause(
    "annotators-careless",
    "Some people rank at random",
    broke="People's orders tell something about the answers.",
    remedy="Weigh people by how reliable they are, or leave the careless out.",
    act=lambda run: _reliability(run, "Weigh people by how reliable they are."),
    explains={
        "annotator-careless": 3.5,
        "agreement-at-chance": 1.5,
        "reward-at-chance": 0.7,
        "reward-underfitted": 0.4,
        "reward-overfitted": 0.3,
    },
    stages=("reward",),
)
def annotators_careless(run: RunRecord) -> Iterator[Evidence]:
    part = share(coins(list(run.people)), run)
    if part > 0.1:
        yield Evidence(f"{part:.0%} of the rankings come from people whose order tells little", 1.0)
    if weighed(run):
        yield Evidence("people are weighted already", -1.0)


@cause(
    "position-bias",
    "People leave the answers in the order in which they were shown",
    broke="The order in which answers are shown does not decide their rank.",
    remedy="Weigh people by how reliable they are; ask them, and look at their time a list.",
    act=lambda run: _reliability(run, "Take the order shown out of the weights."),
    explains={"position-decides": 4.0, "annotator-careless": 0.5, "agreement-at-chance": 0.5, "reward-at-chance": 0.3},
    expects={"position-decides": 2.0},
    stages=("reward",),
)
def position_bias(run: RunRecord) -> Iterator[Evidence]:
    yield from ()


@cause(
    "length-bias",
    "The rankings follow length, and the reward model has learnt that",
    broke="A reward model is right as often where the shorter answer won as where the longer did.",
    remedy="Have pairs of like length ranked, say in the guidelines that length is no merit, or subtract it.",
    act=lambda run: Action("Have lists ranked in which length does not follow quality.", "prefloop prioritise"),
    explains={
        "reward-likes-length": 3.0,
        "people-like-length": 2.5,
        "scorer-less-accurate": 0.7,
        "feature-carries-reward": 0.7,
        "length-moved": 1.2,
        "judge-parted": 0.7,
        "judge-down": 0.7,
        "cut-off": 0.5,
        "ends-lost": 0.5,
        "judge-contradicts": 0.5,
    },
    stages=BOTH,
)
def length_bias(run: RunRecord) -> Iterator[Evidence]:
    for report in judge_reports(run):
        a, b = (report.get(n, {}).get("share") for n in ("longer_won", "shorter_won"))
        if a is not None and b is not None:
            if abs(a - b) > 0.2:
                yield Evidence(f"its reward model is right on {a:.0%} where the longer won and {b:.0%} otherwise", 2.0)
            elif abs(a - b) < 0.1:
                yield Evidence("its reward model does not favour length", -1.0)
    found = explained(run.samples)
    if found is not None and found.share >= 0.5 and found.feature == LENGTH:
        yield Evidence("length is the feature that explains most of the gain", 1.5)
    if followed(run) == LENGTH:
        yield Evidence("within prompts the reward follows length so closely that it hardly sees anything else", 2.5)


@cause(
    "reward-overfit",
    "The reward model is overfitted",
    broke="What a reward model learns holds on prompts that it has not seen.",
    remedy="Fewer passes, a lower rate, or more lists.",
    act=lambda run: Action("Train it for fewer passes.", "prefloop reward --set reward.epochs=1"),
    explains={"reward-overfitted": 3.0, "heldout-too-sure": 1.5, "reward-at-chance": 0.5, "judge-parted": 0.2},
    expects={"reward-overfitted": 1.5},
    stages=BOTH,
)
def reward_overfit(run: RunRecord) -> Iterator[Evidence]:
    epochs = float(run.setting("reward", "epochs", default=1.0))
    if run.stage == "reward" and epochs > 4:
        yield Evidence(f"it was trained for {epochs:g} passes", 1.5)
    asked, usual = rates(run).get("reward", (0.0, 0.0))
    if run.stage == "reward" and asked and usual and asked / usual > 5:
        yield Evidence(f"its learning rate is {asked / usual:.0f} times what is usual", 0.5)


@cause(
    "reward-underfit",
    "The reward model was hardly trained",
    broke="A reward model learns the lists that it is trained on.",
    remedy="Train it for longer, or at the rate that is usual for its width.",
    act=lambda run: Action("Train it at the usual rate, for two passes.", "prefloop reward --set reward.epochs=2"),
    explains={"reward-underfitted": 2.5, "reward-at-chance": 0.8, "reward-inverted": 1.0, "rate-unusual": 1.0},
    expects={"reward-underfitted": 1.0},
    stages=("reward",),
)
def reward_underfit(run: RunRecord) -> Iterator[Evidence]:
    asked, usual = rates(run).get("reward", (0.0, 0.0))
    if asked and usual:
        if asked / usual < 0.2:
            yield Evidence(f"its learning rate is {asked / usual:.2g} times what is usual for its width", 3.0)
        elif asked / usual > 0.5:
            yield Evidence("its learning rate is usual for its width", -0.7)
    epochs = float(run.setting("reward", "epochs", default=1.0))
    lists = learnt_from(run)
    updates = epochs * lists / max(1, int(run.setting("reward", "batch", default=8)))
    if lists and updates < 15:
        yield Evidence(f"it has made {updates:.0f} updates", 2.0)


@cause(
    "lists-few",
    "There are too few rankings",
    broke="A reward model can tell better from worse on prompts that it was not trained on.",
    remedy="Have more lists ranked.",
    act=lambda run: Action("Have more lists ranked, the uncertain ones first.", "prefloop prioritise"),
    explains={"lists-few": 4.0, "reward-at-chance": 1.0, "reward-overfitted": 0.7, "heldout-too-sure": 1.0},
    stages=("reward",),
)
def lists_few(run: RunRecord) -> Iterator[Evidence]:
    report = run.result.get("heldout") or {}
    accuracy, pairs = report.get("accuracy"), report.get("pairs") or 0
    if accuracy is not None and accuracy > 0.5 and 0 < pairs < FEW_PAIRS:
        yield Evidence(f"{pairs} held-out pairs are too few to tell {accuracy:.0%} from chance", 2.0)
    lists = learnt_from(run)
    if lists and lists < 100:
        yield Evidence(f"it learnt from {lists} lists", 3.0 if lists < 30 else 1.5)
    elif lists >= 500:
        yield Evidence(f"it learnt from {lists} lists", -1.5)


@cause(
    "reward-off-distribution",
    "The reward model was trained on another policy's answers",
    broke="A reward model has seen answers like those that it is asked about.",
    remedy="Sample from the policy that the run starts from, have that ranked, and train the reward model again.",
    act=lambda run: Action(
        "Have answers of the policy that the run starts from ranked, train the reward model again, and align again.",
        f"prefloop sample --round {run.round}",
    ),
    explains={
        "reward-other-policy": 3.0,
        "judge-parted": 1.0,
        "judge-down": 1.0,
        "scorer-at-chance": 1.0,
        "feature-carries-reward": 0.8,
        "judge-contradicts": 0.7,
        "reward-flat": 0.2,
    },
    expects={"reward-other-policy": 2.0},
)
def off_distribution(run: RunRecord) -> Iterator[Evidence]:
    for report in judge_reports(run):
        if report.get("low") is not None and report["low"] > 0.5:
            yield Evidence(f"on its own lists it is right on {report['accuracy']:.0%}", 0.5)


@cause(
    "reward-model-bad",
    "The reward model was no good to begin with",
    broke="A reward model can tell better from worse on prompts that it was not trained on.",
    remedy="Look at the diagnosis of the reward run first.",
    act=lambda run: Action("Look at the reward model first.", "prefloop diagnose --stage reward"),
    explains={
        "scorer-at-chance": 1.5,
        "scorer-less-accurate": 0.1,
        "judge-down": 1.0,
        "judge-parted": 0.7,
        "reward-flat": 0.3,
        "judge-contradicts": 0.7,
    },
)
def reward_model_bad(run: RunRecord) -> Iterator[Evidence]:
    if run.align("reward"):
        yield Evidence("a function gives the reward", -5.0)
    for report in judge_reports(run):
        low = report.get("low")
        if low is not None and low <= 0.5:
            yield Evidence(f"its held-out accuracy is {report['accuracy']:.0%}, at chance", 2.5)
        elif low is not None:
            yield Evidence(f"its held-out accuracy is {report['accuracy']:.0%}, over chance", -1.5)


@cause(
    "overoptimised",
    "The reward is over-optimised",
    broke="A better reward is a better answer.",
    remedy="Stop at the KL where the judge was best, use more KL, and have people rank the newest answers.",
    act=lambda run: Action("Stop where the independent judge was best.", _stop(run)),
    explains={
        "judge-parted": 2.0,
        "judge-down": 1.0,
        "kl-far": 0.7,
        "feature-carries-reward": 0.5,
        "variety-lost": 0.4,
        "judge-contradicts": 1.5,
        "judge-unmoved": 0.7,
        "length-moved": 0.3,
    },
    stages=("align", "evaluate"),
)
def overoptimised(run: RunRecord) -> Iterator[Evidence]:
    for report in judge_reports(run):
        if report.get("low") is not None and report["low"] > 0.5:
            yield Evidence("the reward model was better than chance where it was measured", 0.3)


def _stop(run: RunRecord) -> str:
    judge, kl = run.series("eval_judge"), run.series("eval_kl")
    if judge is None or kl is None or len(kl) != len(judge):
        return "prefloop align --set align.evaluation.kl_budget=10"
    best = max(float(kl.values[int(judge.values.argmax())]), 1.0)
    return f"prefloop align --set align.evaluation.kl_budget={best:.1f}"


def _loophole(run: RunRecord) -> Action:
    said = "Have the newest answers ranked by people, train the reward model again, and align again"
    if function := run.align("reward"):
        return Action(f"{said}, without [align] reward = {json.dumps(function)}.", "prefloop sample")
    return Action(f"{said}.", "prefloop sample")


@cause(
    "reward-loophole",
    "The reward pays for one feature or phrase",
    broke="No phrase by itself earns a high reward.",
    remedy="Read the ten answers with the highest reward, have such answers ranked, and train the reward model again.",
    act=lambda run: _loophole(run),
    explains={
        "jackpot": 4.0,
        "scorer-less-accurate": 0.7,
        "feature-carries-reward": 1.8,
        "reward-tail": 2.0,
        "judge-down": 0.7,
        "judge-parted": 0.7,
        "variety-lost": 0.7,
        "judge-contradicts": 0.7,
        "reward-spread-lost": 0.3,
        "length-moved": 0.4,
        "ends-lost": 0.3,
        "scorer-at-chance": 0.7,
        "groups-constant": 0.4,
    },
)
def reward_loophole(run: RunRecord) -> Iterator[Evidence]:
    paid = followed(run)
    if paid and paid != LENGTH:
        yield Evidence(f"within prompts the reward follows {paid} so closely that it hardly sees anything else", 2.5)
    if run.align("reward"):
        yield Evidence(
            f"the reward is a function ({run.align('reward')}), which pays for what it says and no more", 0.5
        )


@cause(
    "no-signal",
    "The answers to one prompt are all alike, or score alike",
    broke="The answers to one prompt differ in reward.",
    remedy="Larger groups, a higher temperature, other prompts, or a scorer that tells more apart.",
    act=lambda run: Action(
        "Sample more answers a prompt.", f"prefloop align --set align.rollout.k={2 * int(run.align('k', 4))}"
    ),
    explains={
        "groups-constant": 3.0,
        "reward-flat": 0.7,
        "nothing-moves": 0.7,
        "reward-spread-lost": 0.7,
        "scorer-less-accurate": 1.2,
        "scorer-at-chance": 0.7,
    },
)
def no_signal(run: RunRecord) -> Iterator[Evidence]:
    spread = run.series("reward_std")
    if spread is not None and spread.values[0] > 1e-3 and run.series("constant_groups") is not None:
        yield Evidence("answers to different prompts do differ in reward", 0.5)
