"""Decodes by reading each text again for every token, for models whose state cannot be kept as keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prefloop.engine.decoding.base import Decoder
from prefloop.kernels.plain import is_plain


class RecomputingDecoder(Decoder):
    """Reads whole texts at each step, through transformers. It is slow, and right for any causal model.

    Texts are padded on the right, so that no state has read padding before it reads a text.
    """

    def __init__(self, model: PreTrainedModel, rows: int, max_tokens: int):
        self.model: Any = model
        self.texts: list[list[int]] = []

    def add(self, prompts: Sequence[Sequence[int]], counts: Sequence[int]) -> Tensor:
        new = [list(prompt) for prompt, count in zip(prompts, counts, strict=True) for _ in range(count)]
        self.texts += new
        return self._logits(new)

    def step(self, tokens: Tensor, ended: Tensor | None = None) -> Tensor:
        for text, token in zip(self.texts, tokens.tolist(), strict=True):
            text.append(token)
        return self._logits(self.texts)

    def keep(self, index: Tensor) -> None:
        self.texts = [list(self.texts[row]) for row in index.tolist()]

    def _logits(self, texts: Sequence[Sequence[int]]) -> Tensor:
        device, ends = self.model.device, torch.tensor([len(text) - 1 for text in texts])
        ids = torch.zeros(len(texts), int(ends.max()) + 1, dtype=torch.long)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
        mask = torch.arange(ids.shape[1]) <= ends[:, None]
        logits = self.model(input_ids=ids.to(device), attention_mask=mask.long().to(device), use_cache=False).logits
        found: Tensor = logits[torch.arange(len(texts), device=device), ends.to(device)]
        return found


_decides: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def keeps_cache(model: PreTrainedModel) -> bool:
    """Return whether a model continues rows from its cache as it reads them whole. It is tried out once for a model."""
    if model not in _decides:
        # A model in pieces (FSDP) is not tried out: each piece would wait for the others.
        _decides[model] = not all(map(is_plain, model.parameters())) or _continues(model)
    return _decides[model]


@torch.no_grad()
def _continues(model: PreTrainedModel) -> bool:
    words = model.get_input_embeddings().weight.shape[0]
    prompts = [[n % words for n in (1, 2, 3)], [5 % words]]
    training = model.training
    model.eval()
    try:
        found = []
        for kind in (Decoder, RecomputingDecoder):
            decoder = kind(model, 3, 2)
            decoder.add(prompts, [1, 2])
            decoder.keep(torch.tensor([2, 0], device=model.device))
            found.append(decoder.step(torch.tensor([4 % words, 6 % words], device=model.device)).float())
    except (TypeError, AttributeError, RuntimeError, ValueError, IndexError, NotImplementedError):
        return False
    finally:
        model.train(training)
    scale = max(1.0, float(found[1].std()))
    return bool((found[0] - found[1]).square().mean().sqrt() <= 0.1 * scale)
