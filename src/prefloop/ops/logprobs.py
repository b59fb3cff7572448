"""Log-probabilities of tokens, without ever holding the full [N, T, V] tensor. The ONE place that shifts by one.

A causal model's hidden state at t-1 predicts the token at t. Everything else in the code lines up with `ids`:
`logp[n, t]` is the log-probability of `ids[n, t]` given what came before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 4096  # positions whose logits exist at one time; bounds memory, does not change results


def predicting(action: Tensor) -> Tensor:
    """Where the states that predict the action tokens sit: action [N,T] -> [N,T], shifted left by one."""
    shifted = torch.zeros_like(action)
    shifted[:, :-1] = action[:, 1:]
    return shifted


def token_logprobs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float = 1.0, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of each distribution, both in nats.

    hidden:      [M,H]  states that predict the targets
    weight:      [V,H]  output embedding;  bias: [V] or none
    targets:     [M]    token ids
    temperature: logits are divided by it, as they were in sampling (detail 3 of PPO)
    returns:     [M], [M]; computed in float32 whatever the model's dtype
    """
    logps, entropies = [], []
    for start in range(0, hidden.shape[0], chunk):
        logits = torch.nn.functional.linear(hidden[start : start + chunk], weight, bias)
        logp, entropy = from_logits(logits, targets[start : start + chunk], temperature)
        logps.append(logp)
        entropies.append(entropy)
    if not logps:
        return hidden.new_zeros(0, dtype=torch.float32), hidden.new_zeros(0, dtype=torch.float32)
    return torch.cat(logps), torch.cat(entropies)


def from_logits(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The same from logits [M,V]. Entropy carries no gradient: it is a diagnosis here, not a bonus."""
    logits = logits.float() / temperature if logits.dtype != torch.float64 else logits / temperature
    norm = torch.logsumexp(logits, dim=-1)
    logp = logits.gather(-1, targets[:, None]).squeeze(-1) - norm
    with torch.no_grad():
        scaled = logits - norm[:, None]
        entropy = -(scaled.exp() * scaled).sum(-1)
    return logp, entropy


def scatter(values: Tensor, action: Tensor) -> Tensor:
    """Put values [M] of the action tokens, in row-major order, back to [N,T]; 0 elsewhere."""
    out = values.new_zeros(action.shape)
    return out.masked_scatter(action, values)
