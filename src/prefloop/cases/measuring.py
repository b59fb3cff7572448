"""Measures a policy of a case by the hidden quality of its answers to held-out prompts that chose nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prefloop.cases.case import Case
from prefloop.engine import make as make_engine
from prefloop.engine.base import Sampling
from prefloop.intervals import bootstrap, mean_interval, percentiles
from prefloop.models.policy import Policy
from prefloop.project.project import ModelRef, Project, derive, load_policy
from prefloop.results import Interval
from prefloop.results.base import from_json
from prefloop.training.policy_evaluation import validation_and_test
from prefloop.training.sampled_lists import to_completion
from prefloop.types import Prompt

PROMPTS = 48
ANSWERS = 4  # of each prompt
RESAMPLES = 2000


@dataclass(frozen=True)
class Measured:
    """quality [N]: the mean of the answers to each prompt.  answers: the first answer to each, with its quality."""

    quality: NDArray[np.float64]
    answers: Sequence[tuple[Prompt, str, float]]

    def interval(self, seed: int) -> Interval:
        return from_json(Interval, mean_interval(self.quality, RESAMPLES, seed))


def measure(case: Case, project: Project, run: str | None) -> Measured:
    """Let the policy of a run of `align` answer; the reference where `run` is None."""
    heldout = project.store.prompts(split="heldout", heldout=project.config.data.heldout)
    _, asked = validation_and_test(heldout)
    rows = [prompt for prompt in asked[:PROMPTS] for _ in range(ANSWERS)]
    model, tokenization = load_policy(project, _policy(project, run))
    sampling = Sampling(project.config.evaluate.max_tokens, project.config.evaluate.temperature)
    keys = [derive(0, prompt.id, n % ANSWERS) for n, prompt in enumerate(rows)]
    seed = derive(project.config.project.seed, "case")
    with closing(make_engine({"policy": Policy(model)}, tokenization, seed, project.placement)) as engine:
        drawn = engine.generate([tokenization.encode_prompt(p) for p in rows], keys, sampling)
    texts = [to_completion(tokenization, p, "case", s, "case", {}).text for p, s in zip(rows, drawn, strict=True)]
    values = np.array(case.truth(rows, texts), dtype=float)
    answers = [(rows[n], texts[n], float(values[n])) for n in range(0, len(rows), ANSWERS)]
    return Measured(values.reshape(-1, ANSWERS).mean(1), answers)


def _policy(project: Project, run: str | None) -> ModelRef:
    if run is None:
        return project.reference().here()
    candidate = next(c for c in project.candidates() if c.run == run)
    return project.policy_of(candidate).here()


def restored(healthy: Measured, fault: Measured, after: Measured, seed: int) -> Interval:
    """Return which share of the lost quality came back, (after - fault) / (healthy - fault), with its interval.

    All three have answered the same prompts. Another measurement would have others, so that the interval is over them.
    """
    back, lost = after.quality - fault.quality, healthy.quality - fault.quality
    shares = bootstrap([back, lost], lambda sums: sums[0] / sums[1], RESAMPLES, seed)
    low, high = percentiles(shares)
    return Interval(float(back.sum() / lost.sum()), low, high, len(back), None)
