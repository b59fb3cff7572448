"""Turns prompts into a rollout batch: sample, judge, line up. Policy training and evaluation share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prefloop.algorithms.base import Need
from prefloop.batch import LogprobBatch, RolloutBatch, collate
from prefloop.config_align import Rollout
from prefloop.engine.base import Engine, Sampling
from prefloop.engine.profiling import span
from prefloop.models.tokenization import Tokenization
from prefloop.ops.kl import k3
from prefloop.ops.masked import keep, masked_sum
from prefloop.project.project import derive
from prefloop.rewards.base import Scorer, Scores
from prefloop.training.sampled_lists import to_completion
from prefloop.types import Completion, Prompt

Encoded = tuple[Prompt, list[int]]
REFERENCE: frozenset[Need] = frozenset({"reference"})  # Whoever evaluates a policy asks for its distance only.


@dataclass(frozen=True)
class Rollouts:
    """Holds N completions with prompts [N], their scores [N], and the same as tensors.

    The rewards of the tensors have the rules of length applied.

    replaced: groups that took the place of constant ones; None where none is looked for (`dynamic_sampling`)
    """

    prompts: Sequence[Prompt]
    completions: Sequence[Completion]
    scores: Scores
    batch: RolloutBatch
    replaced: int | None = None


def roll_out(
    engine: Engine,
    tokenization: Tokenization,
    scorer: Scorer,
    prompts: Sequence[Encoded],
    k: int,
    sampling: Sampling,
    settings: Rollout,
    name: str,
    version: str,
) -> Rollouts:
    """Return K completions for each prompt, judged.

    `name` makes ids and random keys: the same name gives the same samples.
    """
    rows = [(p, ids, n) for n, (p, ids) in enumerate(prompts) for _ in range(k)]
    keys = [derive(0, name, place) for place in range(len(rows))]
    samples = engine.generate([ids for _, ids, _ in rows], keys, sampling)
    how = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_tokens}
    asked = [p for p, _, _ in rows]
    completions = [
        to_completion(tokenization, p, f"{name}:{place}", s, version, how)
        for place, (p, s) in enumerate(zip(asked, samples, strict=True))
    ]
    with span("reward"):
        scores = scorer.score(asked, completions)
    flat = collate([[*ids, *s.ids] for (_, ids, _), s in zip(rows, samples, strict=True)], [len(i) for _, i, _ in rows])
    sampler_logp = torch.zeros(flat.ids.shape)
    sampler_logp[flat.action] = torch.tensor([lp for s in samples for lp in s.logprobs])
    ended = torch.tensor([s.ended for s in samples])
    batch = RolloutBatch(
        flat.ids,
        flat.mask,
        flat.action,
        sampler_logp=sampler_logp,
        reward=length_rules(scores.total, flat.action, ended, settings, sampling.max_tokens),
        group=torch.tensor([n for _, _, n in rows]),
        ended=ended,
    )
    return Rollouts(asked, completions, scores, batch)


def length_rules(score: Sequence[float], action: Tensor, ended: Tensor, settings: Rollout, max_tokens: int) -> Tensor:
    """Return rewards [N] of scores: answers that come near `max_tokens` cost something, and cut-off ones as well."""
    reward = length_control(torch.tensor(list(score), dtype=torch.float32), action.sum(1).float(), settings)
    return eos_rule(overlong_rule(reward, action.sum(1), ended, settings, max_tokens), ended, settings)


def length_control(reward: Tensor, length: Tensor, settings: Rollout) -> Tensor:
    """Return rewards [N] less what a straight line in length says of them, and less a price on tokens over a target.

    length: tokens [N].  The line is fitted to these answers; where all are of one length there is none.
    """
    if settings.length_normalised:
        off = length - length.mean()
        reward = reward - off * (off @ reward) / (off @ off).clamp(min=1e-6)
    if settings.length_penalty:
        reward = reward - settings.length_penalty * (length - settings.length_target).clamp(min=0.0)
    return reward


def overlong_rule(reward: Tensor, length: Tensor, ended: Tensor, settings: Rollout, max_tokens: int) -> Tensor:
    """Return rewards less a price on long answers, which rises over the last share of `max_tokens` (DAPO, eq. 13).

    It rises to the penalty of a cut-off answer, so that the last token is no cliff. Where those are not punished,
    neither are long ones.
    """
    room = (settings.overlong or 0.0) * max_tokens
    if not room or settings.missing_eos == "off":
        return reward
    price = settings.missing_eos_penalty * ((length - (max_tokens - room)) / room).clamp(0.0, 1.0)
    return torch.where(ended, reward - price, reward)  # A cut-off answer pays its own price, once.


def eos_rule(reward: Tensor, ended: Tensor, settings: Rollout) -> Tensor:
    """Return rewards in which a cut-off answer costs something: a penalty, or a constant instead (detail 7 of PPO).

    It may also cost nothing. "subtract" is the default: "replace" gives every sample the same reward while a policy has
    not learnt to stop.
    """
    if settings.missing_eos == "replace":
        return torch.where(ended, reward, torch.full_like(reward, -settings.missing_eos_penalty))
    if settings.missing_eos == "subtract":
        return torch.where(ended, reward, reward - settings.missing_eos_penalty)
    return reward


def add_logprobs(
    batch: RolloutBatch,
    engine: Engine,
    needs: frozenset[Need] = REFERENCE,
    trust_sampler: bool = False,
    reference_shift: float = 0.0,
) -> LogprobBatch:
    """Add what the models compute before the first update: logprobs, and what an algorithm needs beside.

    needs:           "reference" for the frozen reference's logprobs, "value" for the critic's values; no other model is
    run
    trust_sampler:   take the sampler's logprobs for the learner's, where they were seen to agree. Else the reference's
                     are computed just as the learner's are: with the same weights the KL is 0, and not some rounding.
    reference_shift: nats a token that the reference says too little, because it was rounded (`[align] frozen_dtype`)
    """
    old_logp = batch.sampler_logp if trust_sampler else engine.forward("policy", batch)
    ref_logp = engine.forward("reference", batch, as_learner=not trust_sampler) if "reference" in needs else None
    if ref_logp is not None and reference_shift:
        ref_logp = keep(ref_logp + reference_shift, batch.action)
    value = engine.forward("critic", batch) if "value" in needs else None
    return LogprobBatch(**vars(batch), old_logp=old_logp, ref_logp=ref_logp, value=value)


def describe(rolls: Rollouts, batch: LogprobBatch) -> dict[str, float]:
    """Return masked means of a rollout batch: KL in nats a sequence, lengths in tokens.

    `kl` and `kl_k3` are there where the reference was asked, `sampler_mismatch` where the learner's logprobs were
    computed.
    """
    n, action = len(batch), batch.action
    score = torch.tensor(list(rolls.scores.total))
    mismatch: dict[str, float] = {}
    if batch.old_logp is not batch.sampler_logp:
        apart = (batch.sampler_logp - batch.old_logp)[action]
        mismatch = {"sampler_mismatch": float(apart.abs().max()), "sampler_gap": float(apart.mean())}
    parts = {f"reward_{name}": float(torch.tensor(list(v)).mean()) for name, v in rolls.scores.parts.items()}
    return {
        "sequences": float(n),
        "reward": float(score.mean()),
        "reward_std": float(score.std(unbiased=False)),
        "reward_max": float(score.max()),
        **_distance(batch),
        "entropy": float(-masked_sum(batch.old_logp, action) / action.sum()),
        "length": float(action.sum(1).float().mean()),
        "ended": float(batch.ended.float().mean()),
        **mismatch,
        **(parts if len(parts) > 1 else {}),
        **({"reward_cut": rolls.scores.cut / n} if rolls.scores.cut else {}),
        **({} if rolls.replaced is None else {"groups_replaced": float(rolls.replaced)}),
    }


def _distance(batch: LogprobBatch) -> dict[str, float]:
    if batch.ref_logp is None:
        return {}
    n, action = len(batch), batch.action
    return {
        "kl": float(masked_sum(batch.old_logp - batch.ref_logp, action) / n),
        "kl_k3": float(masked_sum(k3(batch.old_logp, batch.ref_logp), action) / n),
    }


def summary(values: Mapping[str, float], *names: str) -> str:
    return "  ".join(f"{name} {values[name]:.3f}" for name in names if name in values)
