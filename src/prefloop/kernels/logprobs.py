"""Computes log-probabilities of tokens, without ever holding the full [N, T, V] tensor.

This is the ONE place that shifts by one: a causal model's hidden state at t-1 predicts the token at t. Everything else
in the code lines up with `ids`: `logp[n, t]` is the log-probability of `ids[n, t]` given what came before it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prefloop.kernels import gpu
from prefloop.kernels.linear import product

LOGITS = 1 << 21  # So many logits exist at one time, which bounds memory, and keeps them in the processor's cache.
LOGITS_GPU = 1 << 28  # On a GPU small pieces would not fill the device.
KEPT = 1 << 24  # So many probabilities are kept for the gradient (64 MB); if there are more, they are computed again.


def predicting(action: Tensor) -> Tensor:
    """Return where the states that predict the action tokens sit: action [N,T] -> [N,T], shifted left by one."""
    shifted = torch.zeros_like(action)
    shifted[:, :-1] = action[:, 1:]
    return shifted


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float = 1.0,
    chunk: int | None = None,
    cap: float | None = None,
) -> Tensor:
    """Return the log-probability of each target, in nats.

    hidden:      [M,H]  states that predict the targets
    weight:      [V,H]  output embedding;  bias: [V] or none
    targets:     [M]    token ids
    temperature: logits are divided by it, as they were in sampling (detail 3 of PPO)
    chunk:       how many positions have logits at one time, forward and backward; by default the vocabulary decides. It
    changes no result
    cap:         logits x become cap * tanh(x / cap), before they are divided by the temperature (Gemma 2, section 2)
    returns:     [M]; computed in float32 whatever the model's dtype
    """
    chunk = chunk or logits_at_once(weight)
    found: Tensor = _TokenLogprobs.apply(hidden, weight, bias, targets, temperature, chunk, cap)  # type: ignore[no-untyped-call]
    return found


def logits_at_once(weight: Tensor) -> int:
    """Return how many positions may have logits at one time, by an output embedding [V,..]."""
    return max(64, (LOGITS_GPU if weight.is_cuda else LOGITS) // weight.shape[0])


class _TokenLogprobs(torch.autograd.Function):
    """Computes the logits a second time for the gradient, a chunk at a time, unless all their softmax is small."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk: int,
        cap: float | None,
    ) -> Tensor:
        head = product(weight, bias, len(hidden))
        fused = gpu.fits(hidden) and cap is None
        # The slope of a cap is not in the softmax, so that logits are computed again for it.
        keep = any(ctx.needs_input_grad) and len(hidden) * len(weight) <= KEPT and not fused and cap is None
        # The results are in one piece: small results of each chunk, between large ones, would keep their memory from
        # being used again.
        found = hidden.new_empty(len(hidden), dtype=torch.float64 if hidden.dtype == torch.float64 else torch.float32)
        # This is kept of each chunk: the softmax, or where a GPU computes it again, the logarithms of its sums.
        held: list[Tensor] = []
        for some, asked, into in zip(*(x.split(chunk) for x in (hidden, targets, found)), strict=True):
            if fused:
                logp, log_sum = gpu.logprob(head(some), asked, temperature)
                into.copy_(logp)
                held.append(log_sum)
                continue
            log_p = _log_softmax(capped(head(some), cap), temperature)
            into.copy_(log_p.gather(-1, asked[:, None]).squeeze(-1))
            if keep:
                held.append(log_p.exp_())
        ctx.save_for_backward(hidden, weight, bias, targets, *held)
        ctx.temperature, ctx.chunk, ctx.fused, ctx.cap = temperature, chunk, fused, cap
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient: d logp / d logits = (one at the target - softmax) / temperature."""
        hidden, weight, bias, targets, *held = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        to_hidden = torch.empty_like(hidden) if needs_hidden else None
        to_weight = torch.zeros_like(weight, dtype=gradient.dtype) if needs_weight else None
        to_bias = torch.zeros_like(bias, dtype=gradient.dtype) if needs_bias else None
        head = product(weight, bias, len(hidden)) if ctx.fused or not held else None
        back = product(weight.t(), None, len(hidden))
        for number, start in enumerate(range(0, len(hidden), ctx.chunk)):
            at = slice(start, start + ctx.chunk)
            if ctx.fused:
                assert head is not None
                given = targets[at], ctx.temperature, held[number], gradient[at]
                slope = gpu.logprob_back(head(hidden[at]), *given)
            else:
                scaled = (gradient[at] / ctx.temperature)[:, None]
                bent = None
                if head is None:
                    slope = held[number] * -scaled  # Autograd may ask again for what is held.
                else:
                    bent = capped(head(hidden[at]), ctx.cap)
                    slope = _log_softmax(bent, ctx.temperature).exp_().mul_(-scaled)
                slope.scatter_add_(1, targets[at, None], scaled)
                if bent is not None and ctx.cap is not None:
                    slope *= 1 - (bent / ctx.cap).square()  # The slope of tanh, from its value.
            if to_bias is not None:
                to_bias += slope.sum(0)
            if to_weight is not None and slope.dtype == to_weight.dtype:
                to_weight.addmm_(slope.t(), hidden[at].to(slope.dtype))
            elif to_weight is not None:
                to_weight += slope.t() @ hidden[at]
            if to_hidden is not None:
                to_hidden[at] = back(slope.to(hidden.dtype))
        return (
            to_hidden,
            None if to_weight is None else to_weight.to(weight.dtype),
            None if to_bias is None else to_bias.to(bias.dtype),
            None,
            None,
            None,
            None,
        )


def capped(logits: Tensor, cap: float | None) -> Tensor:
    """Return logits x as cap * tanh(x / cap), in single precision or better; as they are where there is no cap."""
    if cap is None:
        return logits
    logits = logits.float() if logits.dtype != torch.float64 else logits
    return torch.tanh(logits / cap) * cap


def from_logits(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the same from logits [M,V]."""
    return _log_softmax(logits, temperature).gather(-1, targets[:, None]).squeeze(-1)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    logits = logits.float() if logits.dtype != torch.float64 else logits
    return torch.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)


def scatter(values: Tensor, action: Tensor) -> Tensor:
    """Put values [M] of the action tokens, in row-major order, back to [N,T]; 0 elsewhere."""
    out = values.new_zeros(action.shape)
    return out.masked_scatter(action, values)
