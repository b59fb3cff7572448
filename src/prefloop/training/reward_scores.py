"""Scores by reward models: a round's models as one scorer, the raw scores of lists, and how scores are normalised."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import closing

import torch

from prefloop.engine import make as make_engine
from prefloop.engine.base import Sampling
from prefloop.errors import ConfigError
from prefloop.models.policy import Policy
from prefloop.models.reward import RewardModel
from prefloop.models.tokenization import Tokenization
from prefloop.project.left_out import LeftOut, fitting
from prefloop.project.project import Project, derive, load_policy, load_registered_reward
from prefloop.rewards.model import ModelScorer, WeightedRewardModel, raw_scores
from prefloop.store import ModelRow
from prefloop.training.sampled_lists import draw_lists, to_completion
from prefloop.types import Completion, Item, Prompt


def make_scorer(project: Project, models: list[ModelRow], weights: Mapping[str, float] | None = None) -> ModelScorer:
    """Return the reward models of a round as one scorer. weights: none = what `[align] reward_weights` says."""
    if weights is None:
        weights = _checked_weights(project, models)
    judges = []
    for row in models:
        model, tokenization = load_registered_reward(project, row)
        name = row.criterion or row.version
        judges.append(
            WeightedRewardModel(name, model, tokenization, weights.get(name, 0.0) if weights else 1.0 / len(models))
        )
    align = project.config.align
    return ModelScorer(judges, align.scored_budget, project.device, align.frozen_offload)


def _checked_weights(project: Project, models: list[ModelRow]) -> Mapping[str, float]:
    weights = project.config.align.reward_weights
    unknown = set(weights) - {m.criterion for m in models}
    if unknown:
        raise ConfigError(
            f"[align] reward_weights names {', '.join(sorted(unknown))}, but reward models exist for "
            f"{', '.join(str(m.criterion) for m in models)}"
        )
    return weights


def score_items(
    model: RewardModel, tokenization: Tokenization, items: Sequence[Item], token_budget: int, device: str
) -> dict[str, float]:
    """Return the score of every completion before normalisation, as {completion id: score}."""
    pairs = [(item.prompt, c) for item in items for c in item.completions]
    raw = raw_scores(model, tokenization, [p for p, _ in pairs], [c for _, c in pairs], token_budget, device)
    return {c.id: float(s) for (_, c), s in zip(pairs, raw, strict=True)}


def normalisation(project: Project, model: RewardModel, tokenization: Tokenization) -> tuple[float, float]:
    """Return mean and standard deviation of the raw score on fresh samples of the reference (detail 9 of PPO)."""
    label = f"reward {model.criterion}: samples to normalise on"
    asked = reference_answers(project, label, [tokenization])
    raw = raw_scores(model, tokenization, *asked, project.config.reward.scored_budget, project.device)
    if not bool(torch.isfinite(raw).all()):
        return float("nan"), float("nan")
    values = raw.tolist()
    return statistics.fmean(values), statistics.pstdev(values)


def reference_answers(
    project: Project, label: str, theirs: Sequence[Tokenization] = ()
) -> tuple[list[Prompt], list[Completion]]:
    """Return two answers of the reference policy to each of `[reward] normalise_prompts` training prompts.

    They are sampled at the temperature and length that `align` samples with, so that the KL coefficient keeps its
    meaning.
    """
    settings = project.config.align
    ref = project.reference()
    if project.config.model.adapter == "lora":  # The reward model's own trunk is the reference, too.
        policy, policy_tokenization = project.trunks.causal(ref.intact(), project.config.model)
    else:
        policy, policy_tokenization = load_policy(project, ref)
    prompts = project.store.prompts(split="train", heldout=project.config.data.heldout)
    kept = fitting(project, policy_tokenization, prompts, settings.max_tokens, LeftOut(), theirs)
    stride = max(1, len(kept) // project.config.reward.normalise_prompts)
    kept = kept[::stride][: project.config.reward.normalise_prompts]
    sampling = Sampling(settings.max_tokens, settings.rollout.temperature)
    seed = derive(project.config.project.seed, "normalise")
    engine = make_engine({"policy": Policy(policy)}, policy_tokenization, seed, project.placement)
    with closing(engine), project.progress(2 * len(kept), label):
        lists, _ = draw_lists(engine, policy_tokenization, kept, 2, sampling, avoid_duplicates=False)
    asked: list[Prompt] = [p for p, _ in kept for _ in range(2)]
    answers: list[Completion] = [
        to_completion(policy_tokenization, prompt, f"norm:{n}", s, ref.version, {})
        for n, (prompt, s) in enumerate(zip(asked, (s for row in lists for s in row), strict=True))
    ]
    return asked, answers
