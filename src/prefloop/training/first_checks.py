"""Invariants of a run's own prompts and reward, tried before the first update, and before money is spent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prefloop.labels.preference_eval import pair_accuracy
from prefloop.models.tokenization import Tokenization
from prefloop.rewards.base import Scorer
from prefloop.rewards.model import ModelScorer
from prefloop.types import Completion, Item, Prompt

TRIED = 6  # answers that are scored once more, each by itself
COMPARED = 1000  # prompts
LISTS = 64  # held-out lists that the scorer is asked about
TOLERANCE = 2e-2  # in spreads of the reward; bfloat16 rounds to about 2^-8

Check = dict[str, str]


def reward_checks(
    scorer: Scorer, tokenization: Tokenization, prompts: Sequence[Prompt], completions: Sequence[Completion]
) -> list[Check]:
    """Return whether a text has one score, whatever it stands beside; and whether policy and judge read one prompt."""
    if len(completions) < 2:
        return []
    prompts, completions = prompts[:TRIED], completions[:TRIED]
    found = [asked_twice(scorer, prompts, completions)]
    if isinstance(scorer, ModelScorer):
        found += [_alone(scorer, prompts, completions), *_templates(scorer, tokenization, prompts)]
    return found


def prompts_apart(encoded: Sequence[tuple[Prompt, Sequence[int]]]) -> Check:
    """Return whether different prompts are different tokens to the policy: a template may leave the question out."""
    read: dict[tuple[int, ...], set[str]] = {}
    for prompt, ids in encoded[:COMPARED]:
        read.setdefault(tuple(ids), set()).add(prompt.id)
    asked = sum(map(len, read.values()))
    lost = asked - len(read)
    status = "fail" if lost > 0.5 * asked else "warn" if lost > 0.1 * asked else "ok"
    said = f"{lost} of {asked} prompts are the very tokens of another one, as the policy reads them"
    return _check("prompts apart", status, said)


def asked_twice(scorer: Scorer, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Check:
    """Any scorer is asked twice, the second time the other way round."""
    forth = np.array(scorer.score(prompts, completions).total)
    back = np.array(scorer.score(prompts[::-1], completions[::-1]).total)[::-1]
    spread = max(float(forth.std()), TOLERANCE)
    apart = float(np.max(np.abs(forth - back)))
    if apart <= max(TOLERANCE, 0.25 * spread):
        return _check("reward order", "ok", f"answers score up to {apart:.2g} apart when they are asked again")
    if np.allclose(np.sort(forth), np.sort(back), atol=TOLERANCE):
        return _check("reward order", "fail", "asked again the other way round, the same rewards went to other answers")
    return _check(
        "reward order", "warn", f"answers score up to {apart:.2g} apart when they are asked again (spread {spread:.2g})"
    )


def _alone(scorer: ModelScorer, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Check:
    together = scorer.score(prompts, completions).total
    alone = [scorer.score([p], [c]).total[0] for p, c in zip(prompts, completions, strict=True)]
    apart = float(np.max(np.abs(np.subtract(together, alone))))
    status = "ok" if apart <= TOLERANCE else "fail"
    return _check("reward padding", status, f"answers score up to {apart:.2g} apart, alone and in a batch")


def _templates(scorer: ModelScorer, tokenization: Tokenization, prompts: Sequence[Prompt]) -> list[Check]:
    """Only where both have one vocabulary: a reward model with a tokenizer of its own has its own template."""
    found = []
    for one in scorer.reward_models:
        ours, theirs = tokenization.tokenizer.get_vocab(), one.tokenization.tokenizer.get_vocab()
        if any(theirs.get(piece) != id for piece, id in ours.items()):
            continue
        differ = sum(one.tokenization.encode_prompt(p) != tokenization.encode_prompt(p) for p in prompts)
        said = f"{one.name}: {differ} of {len(prompts)} prompts are other tokens to the reward model than to the policy"
        found.append(_check("reward template", "fail" if differ else "ok", said))
    return found


def ranked_accuracy(scorer: Scorer, items: Sequence[Item], criterion: str | None = None) -> dict[str, float]:
    """Return how well the scorer itself orders held-out lists that people have ranked; {} where no pair is decided."""
    lists = [item for item in items if len(item.completions) > 1 and item.rankings]
    if not lists:
        return {}
    asked = [(item.prompt, completion) for item in lists for completion in item.completions]
    values = scorer.score([p for p, _ in asked], [c for _, c in asked]).total
    scores = {completion.id: float(value) for (_, completion), value in zip(asked, values, strict=True)}
    criteria = sorted({r.criterion for item in lists for r in item.rankings})
    right, pairs = 0.0, 0
    for name in [criterion] if criterion else criteria:
        report = pair_accuracy(scores, lists, name, resamples=0)
        if report.accuracy is not None:
            right, pairs = right + report.accuracy * report.pairs, pairs + report.pairs
    return {"eval_ranked_accuracy": right / pairs, "eval_ranked_pairs": float(pairs)} if pairs else {}


def _check(name: str, status: str, detail: str) -> Check:
    return {"name": name, "status": status, "detail": detail}
