"""Runs `prefloop prioritise`: people then rank first the lists whose order the reward models are unsure of.

With two or more reward models of the criterion (from other rounds or seeds) a pair's priority is how far they disagree:
the mutual information between the outcome and the model (BALD, Houlsby et al. 2011). With one model it is the entropy
of the pair's outcome. A list has the mean over its pairs in nats, so that long lists are not favoured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from prefloop.errors import NothingToDoError
from prefloop.models.reward import RewardModel
from prefloop.models.tokenization import Tokenization
from prefloop.project.left_out import LeftOut
from prefloop.project.project import Project, load_registered_reward
from prefloop.results import Prioritised
from prefloop.rewards.model import raw_scores
from prefloop.store import ModelRow
from prefloop.types import Item, digest

MOST_MODELS = 4  # Only the newest models are asked.
CHUNK = 512  # So many items are in memory at a time.


def prioritise(project: Project) -> Prioritised:
    """Score every list that nobody has been given yet; `skipped` where these models have scored them all.

    Raises NothingToDoError without a reward model.
    """
    rows = judges(project)
    criterion = project.config.annotate.criterion
    if not rows:
        raise NothingToDoError(
            f'there is no reward model for "{criterion}" yet: people rank in random order. Run prefloop reward first'
        )
    project.queue.fill()
    versions = [row.version for row in rows]
    measure = "disagreement" if len(rows) > 1 else "entropy"
    result = Prioritised(criterion=criterion, models=tuple(versions), measure=measure, items=0)
    judged_by = digest("priorities", *versions)
    ids = project.queue.fresh(judged_by)
    if not ids:
        return replace(result, skipped=True)
    models = [load_registered_reward(project, row) for row in rows]
    for model, _ in models:
        model.model.to(project.device)
    found: dict[str, float] = {}
    left_out = LeftOut(project)
    with project.progress(len(ids), "prioritise") as bar:
        for start in range(0, len(ids), CHUNK):
            part = ids[start : start + CHUNK]
            items = left_out.accepted(
                [tokenization for _, tokenization in models], project.store.item_by_ids(part), "lists", some=False
            )
            scores = torch.stack([_scores(project, model, tokenization, items) for model, tokenization in models])
            for item, of_item in zip(items, scores.split([len(i.completions) for i in items], dim=1), strict=True):
                found[item.id] = informativeness(of_item)
            bar.update(len(part))
    if not found:
        left_out.stop("lists")
    last = dict.fromkeys(left_out.reasons, 0.0)  # Whatever order people give, the model cannot learn from it.
    return replace(
        result,
        items=project.queue.set_priorities(found | last, judged_by) - len(last),
        mean=sum(found.values()) / len(found),
        largest=max(found.values()),
        left_out=left_out.counted(),
    )


def judges(project: Project) -> list[ModelRow]:
    """Return the newest reward models of the criterion that people rank by."""
    rows = [row for row in project.store.models("reward") if row.criterion == project.config.annotate.criterion]
    return rows[-MOST_MODELS:]


def informativeness(scores: Tensor) -> float:
    """Return the nats of information in the order of a list. scores: [models, K] in logits, one row a model."""
    i, j = torch.triu_indices(scores.shape[1], scores.shape[1], 1)
    p = torch.sigmoid((scores[:, i] - scores[:, j]).double())
    entropy = _entropy(p.mean(0))
    if len(scores) > 1:
        entropy = entropy - _entropy(p).mean(0)
    return max(0.0, float(entropy.mean()))


def _entropy(p: Tensor) -> Tensor:
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))


def _scores(project: Project, model: RewardModel, tokenization: Tokenization, items: Sequence[Item]) -> Tensor:
    """Return the scores of all completions of the items before normalisation.

    Their differences are logits of a preference.
    """
    prompts = [item.prompt for item in items for _ in item.completions]
    completions = [completion for item in items for completion in item.completions]
    return raw_scores(model, tokenization, prompts, completions, project.config.align.usual_budget, project.device)
