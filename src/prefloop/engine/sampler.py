"""Sampling from a causal language model, in process.

Randomness is counter-based: the uniform number behind each token is a hash of (seed, key, position). A sample therefore
depends on its own key, never on who shares its batch (beyond rounding), and nothing has to be saved to resume.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from prefloop.engine.base import Sampled, Sampling

KEEP = 0.8  # once this share of a batch is still unfinished, or less, the others leave it

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seed: int, keys: np.ndarray, position: int) -> np.ndarray:
    """Numbers in (0, 1), one a key: SplitMix64 (Steele 2014) over seed, key and position. keys: [N] uint64."""
    with np.errstate(over="ignore"):
        x = _mix(np.uint64(seed) * _GOLDEN + keys)
        x = _mix(x + np.uint64(position + 1) * _GOLDEN)
    return ((x >> np.uint64(11)).astype(np.float64) + 0.5) / float(1 << 53)


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def choose(logits: Tensor, u: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Inverse-CDF draw and its log-probability under the processed distribution.

    logits: [N,V];  u: [N] in (0,1), float64;  temperature 0 takes the most likely token
    returns: token [N], logp [N] float32
    """
    if temperature == 0:
        logp = torch.log_softmax(logits.float(), dim=-1)
        token = logp.argmax(-1)
        return token, logp.gather(1, token[:, None]).squeeze(1)
    logp = torch.log_softmax(logits.float() / temperature, dim=-1)
    if top_p < 1.0:
        logp = _nucleus(logp, top_p)
    cdf = logp.double().exp().cumsum(-1)
    token = torch.searchsorted(cdf, (u * cdf[:, -1])[:, None]).squeeze(1).clamp(max=logits.shape[-1] - 1)
    return token, logp.gather(1, token[:, None]).squeeze(1)


def _nucleus(logp: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of tokens whose probability reaches top_p (Holtzman 2019), renormalised."""
    ordered, index = logp.sort(dim=-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    cut = ordered.masked_fill(before >= top_p, -torch.inf)
    kept = torch.full_like(logp, -torch.inf).scatter(1, index, cut)
    return torch.log_softmax(kept, dim=-1)


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    stop_ids: Sequence[int],
    prompts: Sequence[Sequence[int]],
    keys: Sequence[int],
    sampling: Sampling,
    seed: int,
) -> list[Sampled]:
    """One completion for each prompt (repeat a prompt, with other keys, for several)."""
    results: list[Sampled | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # like lengths together: less padding
    for start in range(0, len(order), sampling.batch):
        rows = order[start : start + sampling.batch]
        drawn = _generate_batch(model, stop_ids, [prompts[i] for i in rows], [keys[i] for i in rows], sampling, seed)
        for row, sample in zip(rows, drawn, strict=True):
            results[row] = sample
    return [r for r in results if r is not None]


def _generate_batch(
    model: PreTrainedModel,
    stop_ids: Sequence[int],
    prompts: Sequence[Sequence[int]],
    keys: Sequence[int],
    sampling: Sampling,
    seed: int,
) -> list[Sampled]:
    device = model.device
    distinct = {tuple(p): n for n, p in enumerate(dict.fromkeys(map(tuple, prompts)))}  # each is read once
    width, count = max(len(p) for p in distinct), len(prompts)
    ids = torch.zeros(len(distinct), width, dtype=torch.long)
    mask = torch.zeros(len(distinct), width + sampling.max_tokens, dtype=torch.long)
    for prompt, row in distinct.items():  # left-padded, so that every row's next token is in the last column
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) : width] = 1
    mask[:, width:] = 1
    stops = torch.tensor(list(stop_ids) or [-1], device=device)
    key_array = np.array([k & 0xFFFFFFFFFFFFFFFF for k in keys], dtype=np.uint64)
    tokens: list[list[int]] = [[] for _ in prompts]
    logps: list[list[float]] = [[] for _ in prompts]
    ended = [False] * count

    alive, done = np.arange(count), torch.zeros(count, dtype=torch.bool, device=device)
    mask, inputs = mask.to(device), ids.to(device)
    positions = (mask[:, :width].cumsum(1) - 1).clamp(min=0)
    past = None
    for t in range(sampling.max_tokens):
        out = model(
            input_ids=inputs,
            attention_mask=mask[:, : width + t],
            position_ids=positions,
            past_key_values=past,
            use_cache=True,
            logits_to_keep=1,
        )
        past, logits = out.past_key_values, out.logits[:, -1]
        if t == 0 and len(distinct) < count:  # from here on, a row for each completion
            index = torch.tensor([distinct[tuple(p)] for p in prompts], device=device)
            past.batch_select_indices(index)
            logits, positions, mask = logits[index], positions[index], mask[index]
        u = torch.from_numpy(uniforms(seed, key_array[alive], t)).to(device)
        token, logp = choose(logits, u, sampling.temperature, sampling.top_p)
        done |= torch.isin(token, stops)
        drawn = zip(alive.tolist(), token.tolist(), logp.tolist(), done.tolist(), strict=True)
        for row, tok, lp, stop in drawn:
            if ended[row]:  # finished before, but still in the batch
                continue
            tokens[row].append(tok)
            logps[row].append(lp)
            ended[row] = stop
        left = int((~done).sum())
        if not left:
            break
        inputs, positions = token[:, None], positions[:, -1:] + 1
        if left <= KEEP * len(done):  # leaving costs a copy of the cache, so finished rows leave several at a time
            index = (~done).nonzero().squeeze(1)
            past.batch_select_indices(index)
            inputs, positions, mask, done = inputs[index], positions[index], mask[index], done[index]
            alive = alive[index.cpu().numpy()]
    return [Sampled(tuple(i), tuple(p), e) for i, p, e in zip(tokens, logps, ended, strict=True)]
