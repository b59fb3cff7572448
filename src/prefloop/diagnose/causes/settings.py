"""Causes that are settings which are far out."""

from __future__ import annotations

from collections.abc import Iterator

from prefloop.diagnose.causes.policy import again
from prefloop.diagnose.finding import Action, Evidence
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import cause


@cause(
    "temperature-set",
    "The temperature of sampling is too low or too high",
    broke="Answers are sampled from about the distribution that the model has.",
    remedy="Set [align.rollout] temperature to 1, or to 0.7.",
    act=lambda run: Action("Sample at a usual temperature.", again("align.rollout.temperature=1")),
    explains={
        "temperature-unusual": 5.0,
        "kl-jumped": 1.0,
        "kl-far": 0.7,
        "update-large": 1.0,
        "clip-many": 0.7,
        "ratio-off": 0.7,
        "critic-bad-start": 1.0,
        "critic-useless": 0.5,
        "entropy-collapsed": 1.0,
        "groups-constant": 1.0,
        "reward-spread-lost": 0.7,
        "gradient-large": 1.0,
        "gradient-spikes": 0.5,
        "reward-flat": 0.5,
        "variety-lost": 0.5,
        "never-ends": 0.5,
        "cut-off": 0.5,
        "ends-lost": 0.5,
        "length-moved": 0.3,
    },
    expects={"temperature-unusual": 5.0},
)
def temperature_set(run: RunRecord) -> Iterator[Evidence]:
    yield from ()


@cause(
    "batch-too-small",
    "A step learns from too few answers",
    broke="A step learns from enough answers that their mean says something.",
    remedy="Raise [align.rollout] prompts or k; 32 answers a step are few.",
    act=lambda run: Action("Learn from more answers a step.", again("align.rollout.prompts=16")),
    explains={
        "batch-tiny": 5.0,
        "reward-flat": 1.0,
        "reward-fell": 0.7,
        "update-large": 0.7,
        "kl-jumped": 0.7,
        "clip-many": 0.5,
        "gradient-spikes": 0.5,
        "critic-bad-start": 1.0,
        "critic-spikes": 0.7,
        "critic-useless": 0.7,
        "critic-still": 0.5,
        "groups-constant": 0.5,
        "reward-spread-lost": 0.5,
        "nothing-moves": 0.3,
    },
    expects={"batch-tiny": 5.0},
)
def batch_too_small(run: RunRecord) -> Iterator[Evidence]:
    yield from ()


@cause(
    "decay-pulls",
    "Weight decay pulls the policy away from its reference",
    broke="Weight decay hardly changes a model that was trained already.",
    remedy="Set [align] weight_decay to 0.",
    act=lambda run: Action("Do without weight decay.", again("align.weight_decay=0")),
    explains={
        "decay-large": 4.0,
        "kl-far": 0.7,
        "entropy-rose": 1.0,
        "reward-fell": 0.7,
        "judge-down": 0.5,
        "ends-lost": 0.5,
        "kl-budget-spent-early": 0.5,
        "reward-flat": 0.3,
    },
    expects={"decay-large": 4.0},
)
def decay_pulls(run: RunRecord) -> Iterator[Evidence]:
    yield from ()
