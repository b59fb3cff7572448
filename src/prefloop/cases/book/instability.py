"""A PPO run whose updates are too large."""

from __future__ import annotations

from prefloop.cases.case import Case

CASE = Case(
    name="instability",
    title="A PPO run becomes unstable",
    story=(
        "A rate that was right for another model is kept for this one, and each batch of answers is learnt from in "
        "many small updates. The first steps already move the policy so far that the answers it learns from are "
        "not its own any more. The reward falls, the answers lose their ends, and more steps make it worse."
    ),
    planted="[align] lr is 30 times the rate that suits this model, and each batch makes 8 updates instead of 4",
    cause="rate-high",
    fault=("align.lr=9e-3", "align.rollout.minibatches=8"),
    curves=("reward", "kl", "approx_kl", "clip_fraction", "entropy", "ended"),
)
