"""Computes log-probabilities of completion tokens by a causal language model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from prefloop.batch import PolicyOutput, Rows
from prefloop.kernels.logprobs import capped, from_logits, predicting, scatter, token_logprobs
from prefloop.models.packed_forward import predicting_hidden

AT_ONCE = 64  # Whoever looks at whole distributions sorts them, for example: a few times the memory of the logits.


class Head(NamedTuple):
    """Says what a model makes of its output embedding's products x: scale * x, or cap * tanh(x / cap)."""

    scale: float = 1.0
    cap: float | None = None

    def logits(self, x: Tensor) -> Tensor:
        return capped(x if self.scale == 1 else x * self.scale, self.cap)


class Policy(nn.Module):
    """Wraps a causal model whose output embedding is computed only where a completion token is predicted."""

    def __init__(self, model: PreTrainedModel, temperature: float = 1.0):
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.head = _head_of(model)

    def forward(
        self,
        rows: Rows,
        temperature: float | None = None,
        as_learner: bool = False,
        value_head: Callable[[Tensor], Tensor] | None = None,
    ) -> PolicyOutput:
        """Return log-probabilities [N,T] of the action tokens; 0 elsewhere.

        temperature: replaces the policy's own sampling temperature
        as_learner: compute a frozen model as one in training is computed, which gives the same bits
        value_head: gives the values of the states [M,H] that the action tokens are predicted from, in the same pass
        """
        temperature = self.temperature if temperature is None else temperature
        targets = rows.ids[rows.action]
        if self.head is not None:
            head = self.model.get_output_embeddings()
            hidden = predicting_hidden(self.model, rows, as_learner)
            bias = getattr(head, "bias", None)
            temperature = temperature / self.head.scale
            logp = token_logprobs(hidden, head.weight, bias, targets, temperature, cap=self.head.cap)
        else:
            with _heard(self.model.base_model) as said:
                out = self._outputs(rows)
            before = predicting(rows.action)
            logp = from_logits(out.logits[before], targets, temperature)
            if value_head is not None:
                hidden = said[0].last_hidden_state[before]
        value = None if value_head is None else scatter(value_head(hidden), rows.action)
        return PolicyOutput(scatter(logp, rows.action), value)

    def _outputs(self, rows: Rows) -> Any:
        ids = torch.where(rows.mask, rows.ids, torch.zeros_like(rows.ids))
        return self.model(input_ids=ids, attention_mask=rows.mask.long(), position_ids=rows.positions, use_cache=False)

    def logits(self, rows: Rows) -> Iterator[Tensor]:
        """Yield the logits [m,V] that the action tokens are predicted from, a few of them at a time, in order."""
        if self.head is not None:
            head = self.model.get_output_embeddings()
            for hidden in predicting_hidden(self.model, rows).split(AT_ONCE):
                yield self.head.logits(F.linear(hidden, head.weight, getattr(head, "bias", None)))
        else:
            yield from self._outputs(rows).logits[predicting(rows.action)].split(AT_ONCE)

    def states(self, rows: Rows) -> Tensor:
        """Return the hidden states [M,H] that the action tokens are predicted from."""
        return predicting_hidden(self.model, rows)


@contextmanager
def _heard(body: nn.Module) -> Iterator[list[Any]]:
    """Yield what a body returns inside this block. In pieces a model does not keep the states that it is asked for."""
    said: list[Any] = []
    handle = body.register_forward_hook(lambda _, inputs, out: said.append(out))
    try:
        yield said
    finally:
        handle.remove()


@torch.no_grad()
def _head_of(model: PreTrainedModel) -> Head | None:
    """Return what turns body(x) into logits; None where that is something else than a head knows. It is tried out.

    The head's output is replaced by large numbers during the trial, because a cap does not change the small logits of
    an untrained model.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or model.base_model is model:
        return None
    ids = torch.arange(4, device=model.device)[None] % head.weight.shape[0]
    # These are what went into the head, and what came out as far as the model can tell.
    seen: list[tuple[Tensor, Tensor]] = []

    def replace(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        large = torch.linspace(-100.0, 100.0, out.numel(), device=out.device).view_as(out).to(out.dtype)
        seen.append((args[0], large))
        return large

    handle = head.register_forward_hook(replace)
    try:
        logits = model(input_ids=ids, use_cache=False).logits
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    except (TypeError, AttributeError, RuntimeError):
        return None
    finally:
        handle.remove()
    if len(seen) != 1 or seen[0][0].shape != hidden.shape or seen[0][1].shape != logits.shape:
        return None
    if not torch.allclose(seen[0][0], hidden, rtol=1e-4, atol=1e-5):
        return None
    close = 1e-5 if logits.dtype in (torch.float32, torch.float64) else 2**-6  # Models scale and cap as they round.
    known = (
        one
        for one in _known_heads(model.config)
        if torch.allclose(one.logits(seen[0][1].float()), logits.float(), close, 100 * close)
    )
    return next(known, None)


def _known_heads(config: Any) -> Iterator[Head]:
    """Yield what a model's config says of its logits, under the names that transformers has for it."""
    text = config.get_text_config()
    yield Head()
    if scale := getattr(text, "logit_scale", None):  # Cohere
        yield Head(scale=float(scale))
    if divisor := getattr(text, "logits_scaling", None):  # Granite
        yield Head(scale=1 / float(divisor))
    if cap := getattr(text, "final_logit_softcapping", None):  # Gemma
        yield Head(cap=float(cap))
