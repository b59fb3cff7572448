"""Settings that are far out: they are seen before anything has gone wrong."""

from __future__ import annotations

import math

from prefloop.diagnose.finding import Expected
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import Seen, rule
from prefloop.diagnose.rules.optimiser import rates

LOW, HIGH = 0.4, 1.5  # temperatures
FEWEST = 8  # answers of a step
SHRINKS = 0.02  # of the weights' length, over a run


@rule(
    "temperature-unusual",
    kind="setting",
    expected=Expected("0.4 to 1.5", "temperature", "[align.rollout]", "a run", "our level"),
    broke="Answers are sampled from about the distribution that the model has.",
    meaning="A low temperature samples nearly one answer, again and again, and makes log-ratios, KL and gradients as "
    "many times larger; a high one samples what the model would never write.",
    cannot_tell="Whether the model was trained to be sampled at such a temperature.",
)
def temperature_unusual(run: RunRecord) -> Seen | None:
    value = run.align("temperature")
    if not isinstance(value, (int, float)) or LOW <= value <= HIGH:
        return None
    return Seen(f"answers are sampled at temperature {value:g}", 0, float(value), signal="temperature")


@rule(
    "batch-tiny",
    kind="setting",
    reads=("reward",),
    expected=Expected("8 or more", "answers", "prompts x k", "a step", "our level"),
    broke="A step learns from enough answers that their mean says something.",
    meaning="The mean of a few rewards is mostly noise, and so is the gradient that is made from it.",
    cannot_tell="Whether more steps make up for it.",
)
def batch_tiny(run: RunRecord) -> Seen | None:
    prompts, k = run.align("prompts"), run.align("k")
    if not isinstance(prompts, int) or not isinstance(k, int) or prompts * k >= FEWEST:
        return None
    return Seen(
        f"a step learns from {prompts * k} answers ({prompts} prompts, {k} each)", 1, prompts * k, signal="reward"
    )


@rule(
    "decay-large",
    kind="setting",
    expected=Expected(
        "shrinks the weights by less than a fiftieth",
        "share",
        "learning rate x weight decay x updates / 2",
        "a run",
        "our level; the default is no decay",
    ),
    broke="Weight decay hardly changes a model that was trained already.",
    meaning="AdamW's decay pulls every weight to 0, away from the reference, whatever the reward says.",
    cannot_tell="How much of it the gradient gives back.",
)
def decay_large(run: RunRecord) -> Seen | None:
    decay, (rate, _) = run.align("weight_decay"), rates(run).get("policy", (0.0, 0.0))
    if not isinstance(decay, (int, float)) or not decay:
        return None
    updates = run.steps * int(run.align("epochs", 1)) * int(run.align("minibatches", 1))
    shrunk = 1 - math.exp(-rate * decay * updates / 2)
    if shrunk <= SHRINKS:
        return None
    return Seen(f"weight decay has shrunk the weights by about {shrunk:.1%}", 1, shrunk, signal="weight_decay")
