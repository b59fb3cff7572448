"""Reward models as a Scorer: one a criterion, normalised, mixed by weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prefloop.batch import as_lists, collate
from prefloop.errors import TrainingError
from prefloop.kernels.memory import named_when_full
from prefloop.models.reward import RewardModel
from prefloop.models.tokenization import Codec
from prefloop.rewards.base import Scorer, Scores
from prefloop.rewards.sequence import Joined, join_completion
from prefloop.types import Completion, Prompt


@dataclass(frozen=True)
class Judge:
    """One reward model and how much it counts."""

    name: str
    model: RewardModel
    codec: Codec
    weight: float = 1.0


class ModelScorer:
    """Normalised rewards of several reward models, as a weighted sum (weights as given, not rescaled)."""

    def __init__(self, judges: Sequence[Judge], token_budget: int = 32768, device: str = "cpu"):
        self.judges = [replace(j, model=j.model.to(device).eval().requires_grad_(False)) for j in judges]
        self.token_budget = token_budget
        self.device = device

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scores:
        """Raises TrainingError naming the completion where a model gives something that is no finite number."""
        parts, cut = {}, set[int]()
        for judge in self.judges:
            asked = zip(prompts, completions, strict=True)
            joined = [join_completion(judge.codec, p, c, judge.model.max_tokens) for p, c in asked]
            cut.update(n for n, one in enumerate(joined) if one.lost)
            raw = _scores(judge.model, prompts, joined, self.token_budget, self.device)
            values = judge.model.normalise(raw)
            bad = torch.nonzero(~torch.isfinite(values)).flatten()
            if len(bad):
                culprit = completions[int(bad[0])]
                raise TrainingError(
                    f"the reward model for {judge.name} gave {float(values[bad[0]])} for {len(bad)} of {len(values)} "
                    f"completions, first {culprit.id}: {culprit.text[:80]!r}. Train the reward model again, with a "
                    "lower learning rate; the policy's last checkpoint is kept."
                )
            parts[judge.name] = values
        total = sum((j.weight * parts[j.name] for j in self.judges), torch.zeros(len(completions)))
        return Scores(total.tolist(), {name: values.tolist() for name, values in parts.items()}, len(cut))


def judge_codecs(scorer: Scorer) -> list[Codec]:
    """How the reward models of a scorer read text; of a scorer that is a rule, none."""
    return [judge.codec for judge in scorer.judges] if isinstance(scorer, ModelScorer) else []


def raw_scores(
    model: RewardModel,
    codec: Codec,
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    token_budget: int = 32768,
    device: str = "cpu",
) -> Tensor:
    """What plain transformers would compute from the same folder, [N] on the CPU, in the length the model learnt at."""
    asked = zip(prompts, completions, strict=True)
    joined = [join_completion(codec, p, c, model.max_tokens) for p, c in asked]
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
