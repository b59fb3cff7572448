"""Decodes by compiled code (`kernels/native.c`), on a CPU in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prefloop.engine.decoding.base import Decoder
from prefloop.kernels import native
from prefloop.models.compiled import CompiledBody


class CompiledDecoder(Decoder):
    """Decodes by compiled code. It takes a copy of the weights, so a changed model needs a new one.

    Nothing moves when rows leave: each has a region of its own for its keys and values, and reads its prompt's.
    """

    computed_by = "compiled"
    refills = True

    def __init__(self, model: PreTrainedModel, rows: int, max_tokens: int):
        head: Any = model.get_output_embeddings()
        self.model, self.max_tokens = model, max_tokens
        self.body, self.head = CompiledBody(model), native.Panels(head.weight, head.bias)
        self.own = torch.empty(rows, self.body.region_size(max_tokens))
        # Each row has its last token as `body` wants it, and the last position and place for which there is room.
        self.table = torch.empty(len(CompiledBody.COLUMNS) + 2, 0, dtype=torch.long)
        self.prompts: list[Tensor] = []  # the region of the prompt of each row

    def add(self, prompts: Sequence[Sequence[int]], counts: Sequence[int]) -> Tensor:
        regions = [torch.empty(self.body.region_size(len(prompt))) for prompt in prompts]
        logits = native.times(self._read(prompts, regions), self.head)
        which = torch.repeat_interleave(torch.tensor(counts))
        length = torch.tensor([len(prompt) for prompt in prompts])[which]
        region = torch.tensor([one.data_ptr() for one in regions])[which]
        none, last = torch.zeros_like(which), torch.full_like(which, self.max_tokens - 1)
        own, room = self._free(len(which)), torch.full_like(which, native.padded(self.max_tokens))
        rows = (none, length, none, own, room, region, native.padded(length), length, length + last, last)
        self.table = torch.cat([self.table, torch.stack(rows)], dim=1)
        self.prompts += [regions[prompt] for prompt in which.tolist()]
        return logits[which]

    def _read(self, prompts: Sequence[Sequence[int]], regions: Sequence[Tensor]) -> Tensor:
        """Read the keys and values of prompts into regions. Return final states of their last tokens [G,H]."""
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        ends = lengths.cumsum(0)
        which = torch.repeat_interleave(lengths)
        ids, none = torch.tensor([token for prompt in prompts for token in prompt]), torch.zeros_like(which)
        at = torch.arange(len(which)) - (ends - lengths)[which]
        own = torch.tensor([region.data_ptr() for region in regions])[which]
        table = torch.stack([ids, at, at, own, native.padded(lengths)[which], own, none, none])
        return self.body.forward(table)[ends - 1]

    def _free(self, count: int) -> Tensor:
        """Return addresses [count] of as many regions that no row has."""
        start, size = self.own.data_ptr(), self.own.shape[1] * self.own.element_size()
        taken = set(self.table[3].tolist())
        return torch.tensor([a for n in range(len(self.own)) if (a := start + n * size) not in taken][:count])

    def step(self, tokens: Tensor, ended: Tensor | None = None) -> Tensor:
        self.table[0] = tokens
        logits = native.times(self.body.forward(self.table), self.head)
        last = self.table[1:3]  # Rows that ended go on until they leave.
        torch.minimum(last.add_(1), self.table[-2:], out=last)
        return logits

    def keep(self, index: Tensor) -> None:
        self.table = self.table.index_select(1, index)
        self.prompts = [self.prompts[row] for row in index.tolist()]
