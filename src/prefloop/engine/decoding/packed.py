"""Decodes on packed tokens by torch, for models that `models.packed` supports, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from prefloop.batch import collate
from prefloop.engine.decoding.base import Decoder
from prefloop.models.families import family_of
from prefloop.models.matrix import Matrix
from prefloop.models.packed import PackedLayer, Segment, apply_norm, forward_packed, pad_rows, project


class PackedDecoder(Decoder):
    """Decodes on packed tokens. It takes a copy of the weights, so a changed model needs a new one.

    Attention of a row has two parts. One is its prompt, which all rows of the prompt read from one place, and for which
    they stand side by side in a grid. The other is its own tokens.
    """

    computed_by = "packed"
    refills = True

    def __init__(self, model: PreTrainedModel, rows: int, max_tokens: int):
        self.model, self.max_tokens, self.family = model, max_tokens, family_of(model)
        self.layers = [PackedLayer(self.family.layer_weights(layer).merged()) for layer in self.family.layers]
        head: Any = model.get_output_embeddings()
        self.head = [Matrix(head.weight.detach(), head.bias)]
        device, self.dtype = head.weight.device, self.family.dtype
        self.kv_heads, size = self.layers[0].heads.kv, self.family.head_dim
        shape = (2, rows, self.kv_heads, max_tokens, size)
        # Each layer has keys and values of rows' own tokens; they must be finite even where their weight is 0.
        self.own = [torch.zeros(shape, dtype=self.dtype, device=device) for _ in self.layers]
        self.prompts: list[tuple[Tensor, Tensor]] = []  # keys and values of each layer [G,head,P,size]
        self.hidden = torch.empty(0)  # [G,1,1,P]: -inf where there is no prompt
        self.prompt = torch.empty(0, dtype=torch.long, device=device)  # [N] the prompt of each row
        self.drawn = torch.empty(0, dtype=torch.long, device=device)  # [N] how many own tokens are cached
        self.length = torch.empty(0, dtype=torch.long, device=device)  # [N] the length of each row's prompt
        self.longest = 0  # upper bound of `drawn`
        self.even = True  # whether every row has `longest`
        self.next = torch.empty(0, dtype=torch.long, device=device)

    def add(self, prompts: Sequence[Sequence[int]], counts: Sequence[int]) -> Tensor:
        rows = collate(prompts, [0] * len(prompts)).to(self.prompt.device)
        block = Segment(rows.ids, rows.mask, rows.positions)
        ends, places = rows.mask.sum(1).cumsum(0) - 1, rows.mask.flatten().nonzero().squeeze(1)
        found: list[tuple[Tensor, Tensor]] = []

        def keep(layer: int, *vectors: Tensor) -> None:
            keys, values = (pad_rows(some, block, places) for some in vectors)
            found.append((keys, values))

        last = forward_packed(self.model, ends, block, on_key_values=keep)
        hidden = torch.where(rows.mask, 0.0, -torch.inf).to(self.dtype)[:, None, None]
        if len(self.prompt):
            both = zip(self.prompts, found, strict=True)
            found = [
                (_under(old_keys, keys), _under(old_values, values)) for (old_keys, old_values), (keys, values) in both
            ]
            hidden = _under(self.hidden.mT, hidden.mT, -torch.inf).mT
        which = torch.repeat_interleave(torch.tensor(counts, device=self.prompt.device))
        self.prompt = torch.cat([self.prompt, which + (len(hidden) - len(prompts))])
        self.length = torch.cat([self.length, rows.mask.sum(1)[which]])
        self.drawn = torch.cat([self.drawn, torch.zeros_like(which)])
        self.even = self.longest == 0
        self.prompts, self.hidden = found, hidden
        longest = int(self.length.max()) + self.max_tokens
        self.rope = self.family.rope(torch.arange(longest, device=which.device))
        self._place()
        return project(last, self.head)[which]

    def keep(self, index: Tensor) -> None:
        moved = (index != torch.arange(len(index), device=index.device)).nonzero().squeeze(1)
        for own in self.own:
            own[:, moved, :, : self.longest] = own[:, index[moved], :, : self.longest]
        used, self.prompt = self.prompt[index].unique(return_inverse=True)
        if len(used) < len(self.hidden):
            self.prompts = [(keys[used], values[used]) for keys, values in self.prompts]
            self.hidden = self.hidden[used]
        self.drawn, self.length = self.drawn[index], self.length[index]
        if not self.even or not len(index):
            self.longest = int(self.drawn.max()) if len(index) else 0
            self.even = bool((self.drawn == self.longest).all())
        self._place()

    def _place(self) -> None:
        """Compute where each row stands in the grid G x M of prompts and their rows, and which row stands where."""
        counts = torch.bincount(self.prompt, minlength=len(self.hidden))
        self.most = int(counts.max()) if len(counts) else 0
        order = torch.argsort(self.prompt, stable=True)
        beside = torch.empty_like(order)
        beside[order] = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[self.prompt[order]]
        who = order.new_zeros(len(counts), self.most)  # Cells without a row name the first row, and nobody reads them.
        who[self.prompt, beside] = torch.arange(len(order), device=order.device)
        group = torch.arange(self.kv_heads, device=order.device)
        self.to_grid = (who[:, None] * self.kv_heads + group[:, None]).flatten()
        self.from_grid = ((self.prompt[:, None] * self.kv_heads + group) * self.most + beside[:, None]).flatten()
        self.cut = bool(torch.isinf(self.hidden).any())

    def _to_grid(self, x: Tensor) -> Tensor:
        """Return rows [N,kv,r,*] side by side for each prompt [G,kv,M*r,*]."""
        each = x.reshape(x.shape[0] * self.kv_heads, -1).index_select(0, self.to_grid)
        return each.view(len(self.hidden), self.kv_heads, self.most * x.shape[2], -1)

    def _from_grid(self, x: Tensor, r: int) -> Tensor:
        """Return rows [N,kv,r,*] from the grid of `_to_grid`."""
        each = x.reshape(len(self.hidden) * self.kv_heads * self.most, -1).index_select(0, self.from_grid)
        return each.view(-1, self.kv_heads, r, x.shape[-1])

    def step(self, tokens: Tensor, ended: Tensor | None = None) -> Tensor:
        at = self.length + self.drawn
        rope = [(cos[at], sin[at]) for cos, sin in self.rope]
        self.longest = min(self.longest + 1, self.max_tokens)
        late = None
        if not self.even:
            after = torch.arange(self.longest, device=tokens.device) > self.drawn[:, None]
            row = torch.arange(len(tokens), device=tokens.device)[:, None] * self.kv_heads
            heads = row + torch.arange(self.kv_heads, device=tokens.device)
            # the places of the new keys and values
            self.next = (heads * self.max_tokens + self.drawn[:, None]).flatten()
            late = torch.zeros_like(after, dtype=self.dtype).masked_fill_(after, -torch.inf)[:, None, None]
        x = self.family.embed(tokens, at)
        for number, layer in enumerate(self.layers):
            x = layer.after_attention(x, self._attend(number, *layer.rotated_qkv(x, rope), layer.weights.scaling, late))
        self.drawn = (self.drawn + 1).clamp(max=self.max_tokens - 1)  # Rows that ended go on until they leave.
        return project(apply_norm(x, self.family.norm), self.head)

    def _attend(self, number: int, q: Tensor, k: Tensor, v: Tensor, scaling: float, late: Tensor | None) -> Tensor:
        """Return what the new tokens' queries [N,heads,size] read in layer `number`: [N,heads*size]."""
        n, longest = len(q), self.longest
        q = (q * scaling).unflatten(1, (k.shape[1], -1))
        keys, values = self.own[number][:, :n]
        if self.even:
            keys[:, :, longest - 1], values[:, :, longest - 1] = k, v
        else:
            for cached, new in zip(self.own[number].flatten(1, 3), (k, v), strict=True):
                cached.index_copy_(0, self.next, new.reshape(-1, new.shape[-1]))
        prompt_keys, prompt_values = self.prompts[number]

        of_prompt = torch.matmul(self._to_grid(q), prompt_keys.mT)  # [G,kv,M*r,P]
        if self.cut:
            of_prompt += self.hidden
        of_own = torch.matmul(q, keys[:, :, :longest].mT)  # [N,kv,r,longest]
        if late is not None:
            of_own += late
        r = q.shape[2]
        found = torch.cat([self._from_grid(of_prompt, r), of_own], dim=-1)
        weight = found.softmax(-1, dtype=torch.float32).to(self.dtype)
        cut = of_prompt.shape[-1]
        read = self._from_grid(torch.matmul(self._to_grid(weight[..., :cut]), prompt_values), r)
        return read.add_(torch.matmul(weight[..., cut:], values[:, :, :longest])).reshape(n, -1)


def _under(old: Tensor, new: Tensor, fill: float = 0.0) -> Tensor:
    """Return two blocks [G,head,P,size] as one, the shorter padded on the left."""
    width = max(old.shape[2], new.shape[2])
    padded = [F.pad(one, (0, 0, width - one.shape[2], 0), value=fill) for one in (old, new)]
    return torch.cat(padded)
