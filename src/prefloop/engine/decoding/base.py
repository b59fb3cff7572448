"""Computes the logits of the next token of many texts at once, with their keys and values at hand.

`Decoder` runs any model through transformers. Three others do the same for models that `models.packed` supports, with a
prompt's keys and values kept once for all its completions: `compiled` on a CPU in float32 where there was a compiler,
`cuda_graph` on a GPU, where there is Triton, and `packed` by torch everywhere. `select` says which of them it is.
`Decoder` and `PackedDecoder` are the slow twins of the others in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel


class Decoder:
    """Grows rows of texts by one token a step, through transformers, for any causal model."""

    computed_by = "transformers"
    refills = False  # Whether rows can be added while others are still growing.
    dense = 0.9  # When only this share of the rows is still growing, the others should leave.
    patience = 1  # After so many steps the caller should look who has ended.

    def __init__(self, model: PreTrainedModel, rows: int, max_tokens: int):
        """Make room for at most `rows` rows of at most `max_tokens` tokens each beyond their prompts."""
        self.model: Any = model
        self.max_tokens = max_tokens
        self.width = 0

    def add(self, prompts: Sequence[Sequence[int]], counts: Sequence[int]) -> Tensor:
        """Read each prompt once, for `counts` rows of it in order. Return logits of their first tokens [N,V]."""
        ids, mask = _left_padded(prompts, self.model.device)
        self.width = ids.shape[1]
        self.positions = (mask.cumsum(1) - 1).clamp(min=0)
        self.mask = F.pad(mask, (0, self.max_tokens), value=1)
        out = self._run(ids)
        index = torch.repeat_interleave(torch.tensor(counts, device=ids.device))
        if len(index) > len(prompts):
            self.keep(index)
        return out[index]

    def step(self, tokens: Tensor, ended: Tensor | None = None) -> Tensor:
        """Add a token to each row [N]. Return logits of the next [N,V]; nobody reads those of `ended` rows."""
        self.positions = self.positions[:, -1:] + 1
        self.width += 1
        return self._run(tokens[:, None], self.past)

    def keep(self, index: Tensor) -> None:
        """Keep only the rows `index` [n], in this order."""
        self.past.batch_select_indices(index)
        self.positions, self.mask = self.positions[index], self.mask[index]

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return the same work, made ready for being done many times."""
        return work

    def _run(self, ids: Tensor, past: Any = None) -> Tensor:
        out = self.model(
            input_ids=ids,
            attention_mask=self.mask[:, : self.width],
            position_ids=self.positions,
            past_key_values=past,
            use_cache=True,
            logits_to_keep=1,
        )
        self.past = out.past_key_values
        logits: Tensor = out.logits[:, -1]
        return logits


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and mask [G,P], so that every row's next token comes after the last column."""
    width = max(len(p) for p in prompts)
    ids, mask = torch.zeros(len(prompts), width, dtype=torch.long), torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)
