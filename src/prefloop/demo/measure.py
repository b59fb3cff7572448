"""Measures every system of the demo by the hidden true quality, on held-out prompts that nothing was chosen on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from random import Random
from typing import Any

import numpy as np

from prefloop.config_best_of import BestOf
from prefloop.demo.quality import WEIGHTS, Quality, quality
from prefloop.demo.scenario import demonstration, demonstrations
from prefloop.diagnose.collapse import text_figures
from prefloop.engine import make as make_engine
from prefloop.engine.base import Sampling
from prefloop.intervals import mean_interval, win_rate
from prefloop.models.policy import Policy
from prefloop.models.tokenization import Tokenization
from prefloop.project.project import ModelRef, Project, derive, load_policy
from prefloop.training.best_of import draw
from prefloop.training.policy_evaluation import validation_and_test
from prefloop.training.reward_scores import make_scorer
from prefloop.types import Completion, Prompt

BEST_OF = 8
SHOWN = 8


def tested(project: Project) -> list[Prompt]:
    """Return the held-out prompts that `align` did not choose a checkpoint on."""
    _, test = validation_and_test(project.store.prompts(split="heldout", heldout=project.config.data.heldout))
    return test


def measure(project: Project, models: Mapping[str, ModelRef], round: int, seed: int) -> dict[str, Any]:
    """Return what demo.json holds of each system.

    models: {"sft", "dpo" and "rlhf": its policy}. Best-of-n draws from the project's base model.
    """
    asked, settings = tested(project), project.config.evaluate
    usual, all_words = Sampling(settings.max_tokens, settings.temperature), Sampling(settings.max_tokens, 1.0)
    texts: dict[str, list[str]] = {}
    varied: dict[str, float] = {}
    for name, ref in models.items():
        model, tokenization = load_policy(project, ref)
        drawn = answers(project, model, tokenization, asked, 1, usual, derive(seed, "demo", name))
        texts[name] = [row[0].text for row in drawn]
        drawn = answers(project, model, tokenization, asked, 2, all_words, derive(seed, "demo-variety", name))
        varied[name] = text_figures([[c.text for c in draw] for draw in zip(*drawn, strict=True)])["distinct_2"]
    model, tokenization = load_policy(project, project.base())
    drawn = answers(project, model, tokenization, asked, BEST_OF, usual, derive(seed, "demo", "base"))
    texts["best_of_n"] = _best(project, asked, drawn, round)
    rng = Random(derive(seed, "demo-shown"))
    texts["demonstration"] = [demonstration(prompt, rng) for prompt in asked]
    judged = {name: [quality(p, t) for p, t in zip(asked, rows, strict=True)] for name, rows in texts.items()}
    scores = {name: [q.score for q in found] for name, found in judged.items()}
    written = [quality(d.prompt, d.text).score for d in demonstrations(2000, derive(seed, "demo-measure"))]
    return {
        "quality": {
            "demonstrations": float(np.mean(written)),
            "demonstrations_p95": float(np.percentile(written, 95)),
            "demonstrations_best": float(np.max(written)),
            **{name: float(np.mean(scores[name])) for name in ("sft", "best_of_n", "dpo", "rlhf")},
        },
        "quality_interval": {n: mean_interval(s, settings.bootstrap, seed) for n, s in scores.items()},
        "quality_parts": {name: _parts(found) for name, found in judged.items()},
        "right_step": {
            name: mean_interval([float(q.step == 1) for q in found], settings.bootstrap, seed)
            for name, found in judged.items()
        },
        "distinct_2": varied,
        "per_prompt": scores,
        "win_rate": win_rate(scores["rlhf"], scores["sft"], settings.bootstrap, seed),
        "best_of": BEST_OF,
        "samples": _samples(asked, texts, scores),
    }


def answers(
    project: Project,
    model: Any,
    tokenization: Tokenization,
    asked: Sequence[Prompt],
    k: int,
    sampling: Sampling,
    seed: int,
) -> list[list[Completion]]:
    """Draw K completions of each prompt."""
    how = BestOf(n=k, max_tokens=sampling.max_tokens, temperature=sampling.temperature)
    encoded = [(p, tokenization.encode_prompt(p)) for p in asked]
    with closing(make_engine({"policy": Policy(model)}, tokenization, seed, project.placement)) as engine:
        return [list(item.completions) for item in draw(engine, tokenization, encoded, how, "demo", "demo")]


def _best(project: Project, asked: Sequence[Prompt], drawn: list[list[Completion]], round: int) -> list[str]:
    """Choose from each list the completion with the highest score of the round's reward model."""
    scorer = make_scorer(project, project.reward_models(round))
    flat = [c for row in drawn for c in row]
    scores = scorer.score([p for p, row in zip(asked, drawn, strict=True) for _ in row], flat).total
    ranked = np.array(scores).reshape(len(drawn), -1).argmax(1)
    return [row[int(best)].text for row, best in zip(drawn, ranked, strict=True)]


def _parts(judged: Sequence[Quality]) -> dict[str, float]:
    """Return the mean of each component of true quality."""
    return {name: float(np.mean([getattr(q, name) for q in judged])) for name in (*WEIGHTS, "readable")}


def _samples(
    asked: Sequence[Prompt], texts: dict[str, list[str]], scores: dict[str, list[float]]
) -> list[dict[str, Any]]:
    stride = max(1, len(asked) // SHOWN)
    return [
        {
            "prompt": asked[n].text,
            **{name: {"text": texts[name][n], "quality": scores[name][n]} for name in texts},
        }
        for n in list(range(0, len(asked), stride))[:SHOWN]
    ]
