"""Finds how many tokens one pass of a training step can take: `token_budget = "auto"`.

A pass of few tokens, and one of twice as many, say what a token costs. On a GPU the peak of memory is read, backward
pass included. On a CPU what the forward pass keeps is counted, because a process cannot tell there what torch holds.
The result is a power of two, so that a machine finds the same number again even if something else takes a little of its
memory. Nothing that is learnt depends on these passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prefloop.algorithms.base import Role
from prefloop.batch import PolicyOutput, RewardOutput, Rows
from prefloop.engine.forecast import MOMENTS
from prefloop.errors import TrainingError
from prefloop.kernels.logprobs import KEPT
from prefloop.kernels.memory import is_full
from prefloop.kernels.plain import is_plain
from prefloop.models.value_head import ValueHead

SHARE = 0.8  # So much of the free memory is given to activations: others than these passes need some, too.
TRIED = 512  # tokens of the smaller pass
LONGEST = 256  # tokens of a row that is tried
LEAST, MOST_CPU, MOST_GPU = 64, 8192, 1 << 18  # On a CPU a longer pass is not faster.


def most_tokens(models: Mapping[Role, nn.Module], device: str, available: int, optim: str = "adamw") -> int:
    """Return the greatest power of two of padded tokens whose activations fit. The models stay as they were.

    models:    those that learn together
    available: bytes that are free for gradients, the optimiser's state and activations
    Raises TrainingError where not even 64 tokens fit.
    """
    cost = _peak if device.startswith("cuda") else _kept
    tried = _tried(models)
    few, many = cost(models, tried, device), cost(models, 2 * tried, device)
    each = max(1.0, (many - few) / tried)
    beside = max(0.0, few - each * tried)
    first = coming(models, optim)
    room = SHARE * (available - first - beside)
    most = MOST_GPU if device.startswith("cuda") else MOST_CPU
    if room < LEAST * each:
        raise TrainingError(
            f'token_budget = "auto": {available / 1e9:.1f} GB are free. Gradients and the optimiser take '
            f"{first / 1e9:.1f} GB of them, and each token of a step {each / 1e6:.2f} MB: not even {LEAST} "
            "tokens fit. Set gradient_checkpointing = true, or use a smaller model; prefloop plan shows what each part "
            "needs."
        )
    found = min(most, 1 << int(room / each).bit_length() - 1)
    while device.startswith("cuda") and found > LEAST and not _fits(models, found, device):
        found //= 2
    return found


def coming(models: Mapping[Role, nn.Module], optim: str = "adamw") -> int:
    """Return the bytes that the first step will add: the gradients, and AdamW's two moments."""
    learnt = [p for model in models.values() for p in model.parameters() if p.requires_grad]
    return sum(int(p.numel() * (max(4, p.element_size()) + MOMENTS[optim])) for p in learnt)


def _kept(models: Mapping[Role, nn.Module], tokens: int, device: str) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, the models' weights left out."""
    held = {p.untyped_storage().data_ptr() for m in models.values() for p in m.parameters() if is_plain(p)}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # A place in memory that is free again would be counted once for all who had it.

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in held:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(x.detach())
        return x

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        outputs = _run(models, tokens, device)
    del outputs
    return sum(sizes.values())


def _peak(models: Mapping[Role, nn.Module], tokens: int, device: str) -> int:
    """Return the bytes that forward and backward of so many tokens need at most, on top of what is there."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with torch.enable_grad():
        torch.stack(_run(models, tokens, device)).sum().backward()
    torch.cuda.synchronize(device)
    gradients = sum(p.grad.nbytes for m in models.values() for p in m.parameters() if p.grad is not None)
    for model in models.values():
        model.zero_grad(set_to_none=True)
    return torch.cuda.max_memory_allocated(device) - before - gradients


def _fits(models: Mapping[Role, nn.Module], tokens: int, device: str) -> bool:
    try:
        _peak(models, tokens, device)
    except (RuntimeError, MemoryError) as error:
        if not is_full(error):
            raise
        for model in models.values():
            model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        return False
    return True


def _run(models: Mapping[Role, nn.Module], tokens: int, device: str) -> list[Tensor]:
    """Return a number of each model whose gradient is that of a step on so many tokens."""
    rows = _rows(models, tokens, device)
    found = []
    for role, model in models.items():
        if role == "critic" and isinstance(model, ValueHead):
            continue  # The policy's pass reads it.
        how: dict[str, Any] = {}
        if role == "policy" and isinstance(head := models.get("critic"), ValueHead):
            how["value_head"] = head.read
        out = model(rows, **how)
        parts = [out.logp, out.value] if isinstance(out, PolicyOutput) else [out]
        parts = [out.score] if isinstance(out, RewardOutput) else parts
        found += [part.float().sum() for part in parts if part is not None]
    return found


def _rows(models: Mapping[Role, nn.Module], tokens: int, device: str) -> Rows:
    length = min(_longest(models), tokens)
    ids = torch.zeros(tokens // length, length, dtype=torch.long, device=device)
    real = torch.ones_like(ids, dtype=torch.bool)
    return Rows(ids, real, (torch.arange(length, device=device) > 0).expand_as(real))


def _longest(models: Mapping[Role, nn.Module]) -> int:
    """Return the tokens of a row that is tried, which every model has positions for."""
    return min([LONGEST, *(getattr(config, "max_position_embeddings", LONGEST) for config in _configs(models))])


def _tried(models: Mapping[Role, nn.Module]) -> int:
    """Return the tokens of the smaller pass. Both passes must keep the probabilities of words, or neither."""
    length = _longest(models)
    words = max((config.vocab_size for config in _configs(models)), default=1)
    both_or_neither = TRIED * words > KEPT or 2 * TRIED * words <= KEPT
    return max(length, (TRIED if both_or_neither else KEPT // (2 * words)) // length * length)


def _configs(models: Mapping[Role, nn.Module]) -> list[Any]:
    found = [getattr(getattr(model, "model", model), "config", None) for model in models.values()]
    return [config.get_text_config() for config in found if config is not None]
