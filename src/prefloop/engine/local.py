"""One process, one device: sampler, forward passes and learner on models held here."""

from __future__ import annotations

import copy
import ctypes
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prefloop.algorithms.base import Role
from prefloop.batch import PolicyOutput, RewardOutput, Rows
from prefloop.engine.base import Sampled, Sampling, Term
from prefloop.engine.checkpoint import publish
from prefloop.engine.decoding import sampler
from prefloop.engine.learner import Learner
from prefloop.engine.profiling import span
from prefloop.kernels.memory import named_when_full
from prefloop.models.tokenization import Codec, name_end

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt, as glibc's malloc.h numbers them


class LocalEngine:
    """See `engine.base.Engine`. `learner` is none where nothing is trained."""

    def __init__(
        self,
        models: Mapping[Role, nn.Module],
        codec: Codec,
        seed: int,
        token_budget: int = 8192,
        learner: Learner | None = None,
        device: str = "cpu",
        own_sampler: bool = False,
    ):
        """own_sampler: samples come from a copy of the policy, which changes only in `sync`."""
        self.models = {role: model.to(device) for role, model in models.items()}
        for model in self.models.values():
            model.eval()
        self.codec = codec
        self.seed = seed
        self.token_budget = token_budget
        self.learner = learner
        self.device = device
        if device == "cuda":  # cuDNN's attention is planned anew for every shape, and ours all differ
            torch.backends.cuda.enable_cudnn_sdp(False)
        policy: Any = self.models.get("policy")
        self.sampled = copy.deepcopy(policy.model) if own_sampler else None

    def generate(self, prompts: Sequence[Sequence[int]], keys: Sequence[int], sampling: Sampling) -> list[Sampled]:
        policy: Any = self.models["policy"]
        model = policy.model if self.sampled is None else self.sampled
        longest = max(map(len, prompts), default=0) + sampling.max_tokens
        advice = "Lower max_tokens, or ask for fewer answers at once."
        with span("sampling"), named_when_full("sampling", (len(prompts), longest), advice):
            return sampler.generate(model, self.codec.stop_ids, prompts, keys, sampling, self.seed)

    @torch.no_grad()
    def forward(self, role: Role, batch: Rows, as_learner: bool = False) -> Tensor:
        with span(role):
            return self._forward(role, batch, {"as_learner": True} if as_learner else {})

    def _forward(self, role: Role, batch: Rows, how: Mapping[str, bool]) -> Tensor:
        rows = batch.rows().to(self.device)
        model = self.models[role]
        result: Tensor | None = None
        for index in rows.split_index(4 * self.token_budget):  # no gradient: four times the rows fit
            some = rows.select(index)
            with named_when_full(f"scoring by the {role} model", some.ids.shape, "Lower token_budget or max_tokens."):
                part = _tensor(model(some, **how))
            if result is None:
                result = part.new_zeros(rows.ids.shape if part.dim() == 2 else rows.ids.shape[:1])
            if part.dim() == 2:
                result[index, : part.shape[1]] = part
            else:
                result[index] = part
        if result is None:
            raise AssertionError("forward was given an empty batch")
        return result.cpu()

    def step(self, *terms: Term) -> Mapping[str, float]:
        assert self.learner is not None
        for model in self.learner.models.values():
            model.train()  # matters only where a reward model trains with dropout
        try:
            with span("learner"):
                return self.learner.step(*[replace(t, batch=t.batch.to(self.device)) for t in terms])
        finally:
            for model in self.learner.models.values():
                model.eval()

    def sync(self) -> None:
        """The sampler's copy gets the learner's weights. Without a copy they share them."""
        if self.sampled is not None:
            policy: Any = self.models["policy"]
            with torch.no_grad():
                for mine, learned in zip(self.sampled.parameters(), policy.model.parameters(), strict=True):
                    mine.copy_(learned)

    def save(self, role: Role, folder: Path) -> None:
        model: Any = self.models[role]
        publish(folder, lambda tmp: save_pretrained(model.model, self.codec, tmp))


def save_pretrained(model: Any, codec: Codec, folder: Path) -> None:
    """A Hugging Face folder: config, safetensors, tokenizer, generation config."""
    name_end(model, codec)
    model.save_pretrained(folder)
    codec.save(str(folder))


def _tensor(out: Any) -> Tensor:
    if isinstance(out, PolicyOutput):
        return out.logp
    if isinstance(out, RewardOutput):
        return out.score
    assert isinstance(out, Tensor)
    return out


def pick_device(wanted: str) -> str:
    """ "auto" is CUDA where there is one, else the CPU."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def set_threads(threads: int) -> None:
    """All cores this process may use by default. The number of threads is part of what makes a CPU run repeatable."""
    torch.set_num_threads(threads or cores())
    _keep_memory()


def _keep_memory() -> None:
    """glibc keeps what large tensors free, and gives it to the next, in place of fresh pages that the kernel zeroes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            mallopt(parameter, 1 << 30)


def cores() -> int:
    """Cores this process may run on: `taskset` and containers give fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
