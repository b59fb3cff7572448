"""Combines reward models into one scorer: each criterion has one model, whose normalised reward is added by weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prefloop.batch import as_lists, collate
from prefloop.config_section import SCORED, TOKEN_BUDGET
from prefloop.errors import TrainingError
from prefloop.kernels.memory import named_when_full
from prefloop.models.offload import keep_on_cpu, lent
from prefloop.models.reward import RewardModel
from prefloop.models.tokenization import Tokenization
from prefloop.rewards.base import Scorer, Scores
from prefloop.rewards.sequence import Joined, join_completion
from prefloop.types import Completion, Prompt


@dataclass(frozen=True)
class WeightedRewardModel:
    """Holds one reward model, the criterion it is named after, and the weight of its reward in the sum."""

    name: str
    model: RewardModel
    tokenization: Tokenization
    weight: float = 1.0


class ModelScorer:
    """Scores by the weighted sum of the normalised rewards of several reward models. Weights are not rescaled."""

    def __init__(
        self,
        reward_models: Sequence[WeightedRewardModel],
        token_budget: int = SCORED * TOKEN_BUDGET,
        device: str = "cpu",
        offload: bool = False,
    ):
        """Take over the models. offload: whether they are in the CPU's memory between uses"""
        self.reward_models = [replace(one, model=one.model.eval().requires_grad_(False)) for one in reward_models]
        self.token_budget = token_budget
        self.device = device
        self.offload = offload
        self._place()

    def _place(self) -> None:
        for one in self.reward_models:
            if self.offload:
                keep_on_cpu(one.model)
            else:
                one.model.to(self.device)

    def cast(self, dtype: str) -> None:
        """Hold the reward models in another number type, such as "bfloat16"."""
        for one in self.reward_models:
            one.model.to(getattr(torch, dtype))
        self._place()

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scores:
        """Return the rewards of completions[i] as an answer to prompts[i].

        Raises TrainingError, which names the completion, where a reward is not a finite number.
        """
        parts, cut = {}, set[int]()
        for one in self.reward_models:
            asked = zip(prompts, completions, strict=True)
            joined = [join_completion(one.tokenization, p, c, one.model.max_tokens) for p, c in asked]
            cut.update(n for n, text in enumerate(joined) if text.lost)
            with lent(self.device, *([one.model] if self.offload else [])):
                raw = _scores(one.model, prompts, joined, self.token_budget, self.device)
            values = one.model.normalise(raw)
            bad = torch.nonzero(~torch.isfinite(values)).flatten()
            if len(bad):
                culprit = completions[int(bad[0])]
                raise TrainingError(
                    f"the reward model for {one.name} gave {float(values[bad[0]])} for {len(bad)} of {len(values)} "
                    f"completions, first {culprit.id}: {culprit.text[:80]!r}. Train the reward model again, with a "
                    "lower learning rate; the policy's last checkpoint is kept."
                )
            parts[one.name] = values
        total = sum((one.weight * parts[one.name] for one in self.reward_models), torch.zeros(len(completions)))
        return Scores(total.tolist(), {name: values.tolist() for name, values in parts.items()}, len(cut))


def reward_tokenizations(scorer: Scorer) -> list[Tokenization]:
    """Return the tokenizations of a scorer's reward models; an empty list for a scorer that is a rule."""
    return [one.tokenization for one in scorer.reward_models] if isinstance(scorer, ModelScorer) else []


def raw_scores(
    model: RewardModel,
    tokenization: Tokenization,
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    token_budget: int = SCORED * TOKEN_BUDGET,
    device: str = "cpu",
) -> Tensor:
    """Return rewards before normalisation [N], on the CPU: what plain transformers computes from the same folder.

    Texts are cut to the length that the model was trained with.
    """
    asked = zip(prompts, completions, strict=True)
    joined = [join_completion(tokenization, p, c, model.max_tokens) for p, c in asked]
    return _scores(model, prompts, joined, token_budget, device)


@torch.no_grad()
def _scores(
    model: RewardModel, prompts: Sequence[Prompt], joined: Sequence[Joined], token_budget: int, device: str
) -> Tensor:
    if not joined:
        return torch.zeros(0)
    flat = collate([one.ids for one in joined], [one.prompt for one in joined]).to(device)
    number = {id: n for n, id in enumerate(dict.fromkeys(prompt.id for prompt in prompts))}
    rows = as_lists(flat, torch.tensor([number[prompt.id] for prompt in prompts], device=device))
    model.eval()
    out = torch.zeros(len(rows))
    for index in rows.split_index(token_budget):
        some = rows.select(index)
        with named_when_full("scoring by a reward model", some.ids.shape, "Lower max_tokens of the answers."):
            out[index.cpu()] = model(some).score.cpu()
    return out
