"""Causes in how the policy is optimised: distance, rates, clipping, sampling."""

from __future__ import annotations

from collections.abc import Iterator

from prefloop.diagnose.finding import Action, Evidence
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import cause
from prefloop.diagnose.rules.kl import moved_unseen
from prefloop.diagnose.rules.on_policy import first_ratio
from prefloop.diagnose.rules.optimiser import rates
from prefloop.diagnose.rules.signal import reward_falls, reward_fell


def again(setting: str) -> str:
    """The command that runs `align` with another setting."""
    return f"prefloop align --set {setting}"


def _algorithm(run: RunRecord) -> str:
    return str(run.align("algorithm", "ppo"))


def _more_kl(run: RunRecord) -> Action:
    return Action("Hold the policy nearer to the reference.", again(f"algorithms.{_algorithm(run)}.kl=0.05"))


@cause(
    "kl-term-weak",
    "The KL term is off, or far too small",
    broke="Something holds the policy near its reference.",
    remedy="Set the algorithm's kl to 0.05, or to ten times what it is.",
    act=_more_kl,
    explains={
        "kl-weak": 5.0,
        "kl-far": 1.5,
        "judge-parted": 1.0,
        "judge-down": 1.0,
        "variety-lost": 0.5,
        "kl-budget-spent-early": 0.5,
        "entropy-collapsed": 0.5,
        "feature-carries-reward": 0.3,
        "length-moved": 0.2,
        "kl-jumped": 0.2,
    },
    expects={"kl-weak": 4.0},
)
def kl_term_weak(run: RunRecord) -> Iterator[Evidence]:
    beta, kl, reward = run.series("kl_coefficient"), run.series("kl"), run.series("reward")
    if beta is not None and kl is not None and reward is not None and len(reward) > 3:
        cost, gain = beta.last * max(kl.last, 0.0), reward.last - reward.first
        if gain > 0.2 and cost < 0.02 * gain:
            yield Evidence(f"at the end the KL term costs {cost:.2g} of reward, and the run gained {gain:.2f}", 1.0)


def _lower_rate(run: RunRecord) -> Action:
    asked, usual = rates(run).get("policy", (0.0, 0.0))
    value = min(asked / 10, usual) if asked and usual else None
    return Action(
        "Lower the learning rate of the policy.",
        again(f"align.lr={value:.2g}") if value else "set [align] lr to a tenth of what it is",
    )


@cause(
    "rate-high",
    "The learning rate of the policy is too high",
    broke="One update changes the policy a little.",
    remedy="Lower [align] lr to a tenth.",
    act=_lower_rate,
    explains={
        "rate-unusual": 2.0,
        "update-large": 2.5,
        "clip-many": 1.5,
        "ratio-off": 1.5,
        "kl-jumped": 2.0,
        "kl-far": 1.0,
        "kl-budget-spent-early": 1.0,
        "reward-fell": 1.0,
        "entropy-collapsed": 1.0,
        "entropy-rose": 1.5,
        "variety-lost": 1.0,
        "gradient-spikes": 0.7,
        "gradient-large": 0.7,
        "ends-lost": 0.7,
        "length-moved": 0.4,
        "steps-skipped": 0.3,
        "reward-flat": 0.3,
        "reward-spread-lost": 0.5,
        "stale": 1.0,
        "kl-negative": 0.3,
        "critic-useless": 0.3,
        "groups-constant": 0.5,
        "judge-down": 0.3,
        "judge-parted": 0.2,
        "not-finite": 0.3,
        "never-ends": 0.3,
        "cut-off": 0.4,
    },
)
def rate_high(run: RunRecord) -> Iterator[Evidence]:
    asked, usual = rates(run).get("policy", (0.0, 0.0))
    if asked and usual:
        times = asked / usual
        if times > 5:
            yield Evidence(f"[align] lr is {times:.0f} times what is usual for this width", 3.0)
        elif times <= 3:
            weight = -2.5 if times <= 2 else -1.5
            yield Evidence(f"[align] lr is {times:.2g} times what is usual for this width", weight)
    if reward_falls(run) is not None:
        yield Evidence("the reward falls from the first step on, which a rate alone seldom does", -1.5)
    moved = run.series("approx_kl")
    if moved is not None and float(abs(moved.values).max()) < 0.005:
        yield Evidence("no update moved the policy by more than 0.005 nats a token", -2.0)


@cause(
    "rate-low",
    "The learning rate of the policy is too low, or there are too few steps",
    broke="A run that learns leaves its reference.",
    remedy="Raise [align] lr to what is usual for the width, or give the run more steps.",
    act=lambda run: Action(
        "Raise the learning rate of the policy.",
        again(f"align.lr={rates(run)['policy'][1]:g}") if "policy" in rates(run) else None,
    ),
    explains={"nothing-moves": 2.0, "reward-flat": 1.0, "rate-unusual": 1.5},
)
def rate_low(run: RunRecord) -> Iterator[Evidence]:
    asked, usual = rates(run).get("policy", (0.0, 0.0))
    if asked and usual:
        if asked / usual < 0.25:
            yield Evidence(f"[align] lr is {asked / usual:.2g} times what is usual for this width", 3.0)
        elif asked / usual > 0.7:
            yield Evidence(f"[align] lr is {asked / usual:.2g} times what is usual for this width", -2.0)


@cause(
    "policy-frozen",
    "The update does not reach the policy",
    broke="A gradient that is not zero changes the policy.",
    remedy="Look at what is frozen, detached or multiplied by zero between the loss and the policy's weights.",
    act=lambda run: Action("See which parameters of the policy get a gradient.", "prefloop doctor"),
    explains={"nothing-moves": 1.5, "reward-flat": 0.7, "no-gradient": 4.0},
    prior=-1.5,
)
def policy_frozen(run: RunRecord) -> Iterator[Evidence]:
    asked, usual = rates(run).get("policy", (0.0, 0.0))
    kl, spread = run.series("kl_k3"), run.series("reward_std")
    if moved_unseen(run):
        yield Evidence("updates do move the policy", -4.0)
    elif kl is not None and float(abs(kl.values).max()) < 1e-6 and asked and usual and asked / usual > 0.01:
        yield Evidence("the KL is 0 at every step, though the learning rate is not", 2.0)
    if spread is not None and spread.last < 1e-6:
        yield Evidence("every answer has the same reward, so that there is nothing to learn", -4.0)


@cause(
    "update-sign",
    "The update makes rewarded answers rarer",
    broke="Optimising a reward raises it.",
    remedy="Look for a minus in the loss or in the advantages of an algorithm of your own.",
    act=lambda run: Action("Try the algorithm on a task whose best policy is known.", "prefloop doctor"),
    explains={
        "reward-fell": 2.0,
        "reward-falls": 3.0,
        "reward-flat": 0.5,
        "update-large": 0.3,
        "kl-jumped": 0.3,
        "judge-down": 0.3,
        "kl-far": 0.3,
        "ends-lost": 0.3,
        "cut-off": 0.3,
        "length-moved": 0.3,
        "variety-lost": 0.3,
    },
    expects={"reward-falls": 1.0},
    prior=-1.5,
)
def update_sign(run: RunRecord) -> Iterator[Evidence]:
    asked, usual = rates(run).get("policy", (0.0, 0.0))
    if asked and usual and asked / usual > 5:
        yield Evidence(f"[align] lr is {asked / usual:.0f} times what is usual for this width", -3.0)
    held = run.series("eval_reward")
    if held is not None and len(held) > 1 and float(held.values[1:].max()) < float(held.values[0]):
        yield Evidence("no evaluation found a higher reward than the one before the first update", 1.5)


@cause(
    "reused-too-often",
    "One batch of samples is used for too many updates",
    broke="Samples are nearly on policy while they are learnt from.",
    remedy="Lower [align.rollout] epochs to 1, or minibatches to 2.",
    act=lambda run: Action("Use each batch of samples once.", again("align.rollout.epochs=1")),
    explains={
        "clip-many": 2.0,
        "update-large": 2.0,
        "ratio-off": 1.2,
        "kl-jumped": 1.0,
        "reward-fell": 0.3,
        "entropy-rose": 0.5,
        "kl-far": 0.5,
        "kl-budget-spent-early": 0.5,
    },
)
def reused(run: RunRecord) -> Iterator[Evidence]:
    updates = int(run.align("epochs", 1)) * int(run.align("minibatches", 1))
    if int(run.align("epochs", 1)) >= 4 or updates >= 16:
        weight = 3.5 if int(run.align("epochs", 1)) >= 8 else 2.5
        yield Evidence(f"each batch is used for {updates} updates in {run.align('epochs', 1)} passes", weight)
    elif int(run.align("epochs", 1)) == 1:
        yield Evidence("each answer is used once", -2.5)


@cause(
    "kl-target-unreachable",
    "The target of the adaptive KL controller cannot be reached",
    broke="An adaptive controller brings the KL to its target.",
    remedy="Set kl_target to a KL that runs of this project have reached, or 0 for a fixed coefficient.",
    act=lambda run: Action(
        "Use a fixed coefficient, or a target that this project's runs reach.",
        again(f"algorithms.{_algorithm(run)}.kl_target=0"),
    ),
    explains={"kl-controller-stuck": 5.0, "kl-weak": 1.0, "nothing-moves": 0.5, "kl-far": 0.5},
    expects={"kl-controller-stuck": 3.0},
)
def kl_target_unreachable(run: RunRecord) -> Iterator[Evidence]:
    target = float(run.option("kl_target", 0) or 0)
    if not target:
        yield Evidence("the coefficient is fixed", -4.0)
    elif run.align("calibrate_kl"):
        yield Evidence("the target follows from the independent judge", -4.0)
    elif target > float(run.align("kl_budget", 1e9)):
        yield Evidence(f"the target of {target:g} nats is over the budget of {run.align('kl_budget'):g}", 1.5)


@cause(
    "sampler-temperature",
    "The sampler draws at another temperature, or from another distribution, than the learner learns",
    broke="The sampler's log-probabilities are the learner's.",
    remedy="Look at what was changed in the sampler; prefloop doctor compares it with the learner.",
    act=lambda run: Action("Compare sampler and learner on the project's model.", "prefloop doctor"),
    explains={
        "sampler-mismatch": 3.0,
        "kl-negative": 1.5,
        "sampler-tilted": 4.0,
        "entropy-collapsed": 0.3,
    },
    expects={"sampler-mismatch": 1.5},
)
def sampler_temperature(run: RunRecord) -> Iterator[Evidence]:
    if first_ratio(run) is not None:
        yield Evidence("two readings of the same tokens by the learner differ too, whatever the sampler does", -3.0)
    gap = run.series("eval_sampler_mismatch")
    if gap is not None and len(gap) and gap.steps[0] == 0:
        if gap.values[0] > 1e-2:
            yield Evidence(f"sampler and learner differ by {gap.values[0]:.2g} nats before the first update", 1.5)
        elif gap.values[0] < 1e-3:
            yield Evidence("sampler and learner agree before the first update", -3.0)


@cause(
    "sampler-stale",
    "The sampler does not get the newest weights",
    broke="The sampler has the learner's newest weights.",
    remedy="Set [align.rollout] staleness to 0; if it is 0 already, the sampler misses an update.",
    act=lambda run: Action("Sample with the newest weights.", again("align.rollout.staleness=0")),
    explains={
        "sampler-mismatch": 1.5,
        "sampler-mismatch-grows": 4.0,
        "stale": 3.0,
        "kl-negative": 0.5,
        "ratio-off": 0.3,
        "update-large": 0.3,
    },
    expects={"sampler-mismatch-grows": 2.0},
)
def sampler_stale(run: RunRecord) -> Iterator[Evidence]:
    if run.align("staleness", 0):
        yield Evidence("[align.rollout] staleness is on", 1.0)


@cause(
    "dropout-on",
    "Dropout is on while the policy is read",
    broke="The first update of a step is on policy: its ratio is exactly 1.",
    remedy="Set every dropout of the policy's config.json to 0, and do not call train() on it.",
    act=lambda run: Action(
        "Look for dropout in the policy; the check of padding and the first ratio tell it.", "prefloop doctor"
    ),
    explains={
        "first-ratio": 3.0,
        "kl-not-zero-at-start": 2.5,
        "sampler-mismatch": 1.5,
        "sampler-tilted": 1.5,
        "update-large": 0.5,
    },
    expects={"first-ratio": 2.0},
)
def dropout_on(run: RunRecord) -> Iterator[Evidence]:
    ratio, gap = run.series("first_ratio"), run.series("eval_sampler_mismatch")
    if ratio is not None and len(ratio) >= 3:
        spread = float(ratio.values.std())
        if spread > 1e-4:
            yield Evidence(f"the first ratio is another one at each step (sd {spread:.2g}): something is random", 2.0)
    if gap is not None and gap.values[0] < 1e-3:
        yield Evidence("sampler and learner agree when both only read", 1.0)


@cause(
    "staleness-too-much",
    "Updates are too large for samples that are one update behind",
    broke="Samples that are one update behind are nearly on policy.",
    remedy="Set [align.rollout] staleness to 0, or lower the learning rate.",
    act=lambda run: Action("Sample with the newest weights.", again("align.rollout.staleness=0")),
    explains={"stale": 2.5, "update-large": 0.5},
    prior=-2.0,
)
def staleness_too_much(run: RunRecord) -> Iterator[Evidence]:
    if not run.align("staleness", 0):
        yield Evidence("[align.rollout] staleness is off", -5.0)


@cause(
    "entropy-collapse",
    "The policy has become sure of one answer",
    broke="A policy keeps some doubt about its next token.",
    remedy="More KL, a lower rate, more prompts a step, or a larger group.",
    act=_more_kl,
    explains={"entropy-collapsed": 2.0, "variety-lost": 1.5, "groups-constant": 1.0, "reward-spread-lost": 1.0},
    prior=-1.5,
)
def entropy_collapse(run: RunRecord) -> Iterator[Evidence]:
    reward = run.series("eval_reward")
    if reward is not None and len(reward) > 1 and reward.last > reward.values[0] and reward_fell(run) is None:
        yield Evidence("the reward rose while entropy fell: the policy has settled on what scores", 0.5)


def _less_steep(run: RunRecord) -> Action:
    if run.setting("model", "dtype", default="float32") != "float32":
        return Action("Use float32 for the model.", f"prefloop {run.stage} --set model.dtype=float32")
    if run.stage == "align":
        return _lower_rate(run)
    asked = next((asked for role, (asked, _) in rates(run).items() if role != "critic"), 0.0)
    command = f"prefloop {run.stage} --set {run.stage}.lr={asked / 10:.2g}" if asked else None
    return Action("Lower the learning rate.", command)


@cause(
    "overflow",
    "Numbers overflow",
    broke="Every gradient is finite.",
    remedy="Use float32, a lower rate, or a smaller reward weight.",
    act=lambda run: _less_steep(run),
    explains={"steps-skipped": 3.0, "not-finite": 2.0, "gradient-spikes": 0.7, "gradient-large": 0.7},
    expects={"steps-skipped": 1.0},
    stages=("align", "reward", "sft"),
)
def overflow(run: RunRecord) -> Iterator[Evidence]:
    if run.setting("model", "dtype") == "float16":
        yield Evidence("the model is in float16, whose largest number is 65,504", 1.5)


@cause(
    "supervised-rate-high",
    "The learning rate is too high",
    broke="Training brings the loss down.",
    remedy="Lower the lr of the stage's section to what is usual for the width.",
    act=lambda run: Action(
        "Lower the learning rate.",
        f"prefloop {run.stage} --set {run.stage}.lr={_usual(run):g}" if _usual(run) else None,
    ),
    explains={
        "loss-rose": 2.5,
        "rate-unusual": 2.0,
        "gradient-spikes": 1.0,
        "gradient-large": 1.0,
        "reward-overfitted": 0.5,
        "reward-at-chance": 0.5,
        "steps-skipped": 0.3,
        "reward-underfitted": 0.5,
    },
    stages=("sft", "reward"),
)
def supervised_rate_high(run: RunRecord) -> Iterator[Evidence]:
    asked = next((asked for role, (asked, _) in rates(run).items() if role != "critic"), 0.0)
    usual = _usual(run)
    if asked and usual:
        if asked / usual > 5:
            yield Evidence(f"the learning rate is {asked / usual:.0f} times what is usual for this width", 3.0)
        elif asked / usual <= 2:
            yield Evidence(f"the learning rate is {asked / usual:.2g} times what is usual for this width", -2.5)


def _usual(run: RunRecord) -> float:
    return next((usual for role, (_, usual) in rates(run).items() if role != "critic"), 0.0)
