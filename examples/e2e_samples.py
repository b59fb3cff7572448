"""Prints what the checker says of many samples for every held-out prompt, before and after training.

    python examples/e2e_samples.py PROJECT [--samples 8] [--temperature 1]

Eight samples of each of the 91 held-out prompts tell smaller differences than the one per test prompt of the report.
The best step was chosen with the help of half of these prompts; the report's own figures leave those out.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

import numpy as np
from e2e_checker import report, score
from scipy.stats import bootstrap

from prefloop.engine import make as make_engine
from prefloop.engine.base import Sampling
from prefloop.models.policy import Policy
from prefloop.project.left_out import fitting
from prefloop.project.project import ModelRef, Project, derive, load_policy


def answers(project: Project, ref: ModelRef, samples: int, temperature: float) -> list[list[tuple[str, str]]]:
    """Return [prompts][samples] of (prompt, text), with the same random numbers for every model."""
    settings = project.config
    model, tokenization = load_policy(project, ref)
    prompts = project.store.prompts(split="heldout", heldout=settings.data.heldout)
    kept = fitting(project, tokenization, prompts, settings.evaluate.max_tokens)
    keys = [derive(0, prompt.id, n) for prompt, _ in kept for n in range(samples)]
    asked_ids = [ids for _, ids in kept for _ in range(samples)]
    sampling = Sampling(settings.evaluate.max_tokens, temperature, 1.0, settings.sample.batch)
    models, seed = {"policy": Policy(model)}, settings.project.seed
    with closing(make_engine(models, tokenization, seed, project.placement)) as engine:
        drawn = engine.generate(asked_ids, keys, sampling)
    asked = [prompt for prompt, _ in kept for _ in range(samples)]
    texts = iter(tokenization.decode(sample.ids, prompt) for prompt, sample in zip(asked, drawn, strict=True))
    return [[(prompt.text, next(texts)) for _ in range(samples)] for prompt, _ in kept]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=1.0)
    asked = parser.parse_args()
    shares = []
    with Project.open(asked.project) as project:
        for name, ref in (("before", project.reference()), ("after", project.policy(1))):
            found = answers(project, ref, asked.samples, asked.temperature)
            shares.append(np.array([np.mean([score(*pair) for pair in of_prompt]) for of_prompt in found]))
            counts = report(pair for of_prompt in found for pair in of_prompt)
            print(f"{name}: as asked {shares[-1].mean():.3f} ({len(found)} prompts, {counts['texts']} texts),", end=" ")
            print(f"missing or contradicted {counts['error_rate']:.3f}, made up {counts['unasked']:.3f} a text")
    gain = shares[1] - shares[0]
    low, high = bootstrap((gain,), np.mean, rng=0).confidence_interval
    print(f"gain: {gain.mean():+.3f} [{low:.3f}, {high:.3f}], 95 % over prompts")


if __name__ == "__main__":
    main()
