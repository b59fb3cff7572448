"""Decodes on a GPU: a step is one CUDA graph, and between matrices there is one kernel each (`kernels/gpu.py`).

A step of a small batch is hundreds of short kernels; started one by one from Python they take longer than they compute.
A graph is recorded once for a number of rows, so rows don't leave one by one: those that have ended keep their places,
and read nothing, until waiting prompts take them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prefloop.batch import collate
from prefloop.engine.decoding.base import Decoder
from prefloop.kernels import gpu
from prefloop.kernels.attention import Rope
from prefloop.models.families import family_of
from prefloop.models.matrix import Matrix
from prefloop.models.packed import PackedLayer, Segment, apply_norm, forward_packed, project, supports_packed


def is_recordable(model: PreTrainedModel) -> bool:
    """Return whether `GraphDecoder` computes what the model does, and can."""
    if not (gpu.AVAILABLE and supports_packed(model)):
        return False
    family = family_of(model)
    head_dim = family.head_dim
    return gpu.fits(family.embedding) and head_dim % 2 == 0 and head_dim <= gpu.WIDEST


class GraphDecoder(Decoder):
    """Decodes by CUDA graphs. It takes a copy of some of the weights, so a changed model needs a new one."""

    computed_by = "cuda graph"
    refills = True
    dense = 1 / 4
    patience = 4

    def __init__(self, model: PreTrainedModel, rows: int, max_tokens: int):
        head: Any = model.get_output_embeddings()
        self.model, self.max_tokens, self.family = model, max_tokens, family_of(model)
        dtype, device = self.family.dtype, head.weight.device
        self.layers = [PackedLayer(self.family.layer_weights(layer).merged()) for layer in self.family.layers]
        self.head = [Matrix(head.weight.detach(), head.bias)]
        # These are keys and values of rows' own tokens.
        shape = len(self.layers), 2, rows, self.layers[0].heads.kv, max_tokens, self.family.head_dim
        self.own = torch.zeros(shape, dtype=dtype, device=device)
        # Each row has its place in `own`, how much it has drawn, and of its prompt where the keys are, how far they are
        # from the values, and how many tokens there are. These tensors never move, since graphs read them where they
        # are.
        self.table = torch.zeros(5, rows, dtype=torch.long, device=device)
        self.rows: list[tuple[int, Tensor]] = []  # the place, and keys and values of the prompt, of each row
        self.rope = self._rope_tables(0)

    def _rope_tables(self, positions: int) -> list[Rope]:
        tables = self.family.rope(torch.arange(positions, device=self.table.device))
        return [(cos.flatten(1).contiguous(), sin.flatten(1).contiguous()) for cos, sin in tables]

    def add(self, prompts: Sequence[Sequence[int]], counts: Sequence[int]) -> Tensor:
        rows = collate(prompts, [0] * len(prompts)).to(self.table.device)
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        kept = self.own.new_empty(len(self.layers), 2, int(lengths.sum()), self.own.shape[3], self.own.shape[5])

        def keep(layer: int, keys: Tensor, values: Tensor) -> None:
            kept[layer, 0], kept[layer, 1] = keys, values

        ends = lengths.cumsum(0)
        last = forward_packed(
            self.model, (ends - 1).to(kept.device), Segment(rows.ids, rows.mask, rows.positions), on_key_values=keep
        )
        which = torch.repeat_interleave(torch.tensor(counts))
        taken = {place for place, _ in self.rows}
        free = torch.tensor([n for n in range(self.own.shape[2]) if n not in taken][: len(which)])
        first = kept.data_ptr() + (ends - lengths) * kept[0, 0, 0].numel() * kept.element_size()
        columns = free, torch.zeros_like(free), first[which], torch.full_like(free, kept.stride(1)), lengths[which]
        self.table[:, len(self.rows) : len(self.rows) + len(free)] = torch.stack(columns).to(kept.device)
        self.rows += [(place, kept) for place in free.tolist()]
        longest = int(lengths.max()) + self.max_tokens
        if longest > len(self.rope[0][0]):
            self.rope = self._rope_tables(2 * longest)
        return project(last, self.head)[which.to(kept.device)]

    def step(self, tokens: Tensor, ended: Tensor | None = None) -> Tensor:
        if ended is None:
            ended = torch.zeros_like(tokens, dtype=torch.bool)
        place, drawn, *prompt = self.table[:, : len(tokens)]
        x = self.family.embed(tokens, drawn + prompt[2])
        for number, layer in enumerate(self.layers):
            given = layer.qkv(x), self.rope[layer.weights.rope_index], self.own, number, place, drawn, ended
            x = layer.after_attention(x, gpu.attend(*given, (prompt[0], prompt[1], prompt[2]), layer.weights.scaling))
        drawn += 1
        drawn.clamp_(max=self.max_tokens - 1)  # Rows that ended go on until they leave.
        return project(apply_norm(x, self.family.norm), self.head)

    def keep(self, index: Tensor) -> None:
        self.table[:, : len(index)] = self.table[:, index]
        self.rows = [self.rows[row] for row in index.tolist()]

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return work that is done once for a number of rows, then recorded, and from then on replayed."""
        if not self.table.is_cuda:
            return work
        graphs: dict[tuple[int, int], torch.cuda.CUDAGraph | None] = {}

        def again() -> None:
            shape = len(self.rows), len(self.rope[0][0])
            if shape not in graphs:  # The first time, kernels are compiled, and libraries make room for themselves.
                graphs[shape] = None
                work()
                return
            graph = graphs[shape]
            if graph is None:
                graph = graphs[shape] = _recorded(work)
            graph.replay()

        return again


def _recorded(work: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """Record work.

    `torch.cuda.graph` would give all unused memory back each time. Other threads may go on meanwhile.
    """
    graph, stream, current = torch.cuda.CUDAGraph(), torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            work()
        finally:
            graph.capture_end()
    current.wait_stream(stream)
    return graph
