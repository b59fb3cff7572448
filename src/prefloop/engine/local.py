"""Runs sampler, forward passes and learner on models held here, in one process on one device."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from prefloop.algorithms.base import Role
from prefloop.batch import PolicyOutput, RewardOutput, Rows
from prefloop.config_section import SCORED, TOKEN_BUDGET
from prefloop.engine.base import Sampled, Sampling, State, Term
from prefloop.engine.budget import most_tokens
from prefloop.engine.checkpoint import publish
from prefloop.engine.decoding import sampler
from prefloop.engine.decoding.drawable import drawable
from prefloop.engine.decoding.select import decoder_class
from prefloop.engine.learner import Learner, same_names
from prefloop.engine.profiling import span
from prefloop.engine.refreshed import Refreshed
from prefloop.kernels import gpu, native
from prefloop.kernels.logprobs import scatter
from prefloop.kernels.memory import free_memory, named_when_full
from prefloop.models.load import weights_hash
from prefloop.models.lora import copy_of, rank_of
from prefloop.models.offload import keep_on_cpu, lent
from prefloop.models.packed_forward import computed_by
from prefloop.models.save import save_pretrained
from prefloop.models.tokenization import Tokenization


class LocalEngine:
    """Keeps the promises of `engine.base.Engine`. `learner` is None where nothing is trained."""

    trusts_sampler = True

    def __init__(
        self,
        models: Mapping[Role, nn.Module],
        tokenization: Tokenization,
        seed: int,
        token_budget: int = TOKEN_BUDGET,
        learner: Learner | None = None,
        device: str = "cpu",
        own_sampler: bool = False,
        offload: bool = False,
    ):
        """Hold the models.

        own_sampler: whether samples come from a copy of the policy, which changes only in `sync`
        offload: whether a frozen reference is in the CPU's memory between uses
        """
        self.models = dict(models)
        self.offloaded = [model for role, model in models.items() if offload and role == "reference"]
        for model in self.models.values():
            model.eval()
            if model in self.offloaded:
                keep_on_cpu(model)
            else:
                model.to(device)
        self.tokenization = tokenization
        self.seed = seed
        self.token_budget = token_budget
        self.learner = learner
        self.device = device
        self.refreshed = Refreshed(self.models["refreshed"]) if "refreshed" in self.models else None
        policy: Any = self.models.get("policy")
        self.sampled = copy_of(policy.model) if own_sampler else None

    def generate(self, prompts: Sequence[Sequence[int]], keys: Sequence[int], sampling: Sampling) -> list[Sampled]:
        longest = max(map(len, prompts), default=0) + sampling.max_tokens
        advice = "Lower max_tokens, or ask for fewer answers at once."
        with span("sampling"), self._there("policy"), named_when_full("sampling", (len(prompts), longest), advice):
            return sampler.generate(self._sampler, self.tokenization.stop_ids, prompts, keys, sampling, self.seed)

    def stop_sampling(self) -> None:
        """Do nothing: samples are made here, and whoever wants them waits for nobody."""

    @property
    def _sampler(self) -> Any:
        policy: Any = self.models["policy"]
        return policy.model if self.sampled is None else self.sampled

    @torch.no_grad()
    def forward(self, role: Role, batch: Rows, as_learner: bool = False, temperature: float | None = None) -> Tensor:
        how: dict[str, Any] = {"as_learner": True} if as_learner else {}
        with span(role), self._there(role):
            return self._forward(role, batch, how if temperature is None else how | {"temperature": temperature})

    def _forward(self, role: Role, batch: Rows, how: Mapping[str, Any]) -> Tensor:
        rows = batch.rows().to(self.device)
        parts = rows.split_index(SCORED * self.token_budget)
        return assembled(rows, ((index, self._part(role, rows.select(index), how)) for index in parts)).cpu()

    def _there(self, *roles: Role) -> AbstractContextManager[None]:
        """Return a context in which those of the models that are offloaded are on the device."""
        asked = [self.models[role] for role in roles]
        return lent(self.device, *(model for model in self.offloaded if model in asked))

    def _part(self, role: Role, rows: Rows, how: Mapping[str, Any]) -> Tensor:
        with named_when_full(f"scoring by the {role} model", rows.ids.shape, "Lower token_budget or max_tokens."):
            return _tensor(self.models[role](rows, **how))

    @torch.no_grad()
    def drawable(self, batch: Rows, sampling: Sampling) -> tuple[Tensor, Tensor]:
        rows, policy = batch.rows().to(self.device), self._whole_policy
        with named_when_full("checking samples", rows.ids.shape, "Lower max_tokens."):
            tokens, found = rows.ids[rows.action], list[tuple[Tensor, Tensor]]()
            for logits in policy.logits(rows):
                there = sum(len(low) for low, _ in found)
                some = tokens[there : there + len(logits)]
                found.append(drawable(logits, some, sampling, policy.model.dtype != torch.float32))
        low, high = (scatter(torch.cat(parts), rows.action).cpu() for parts in zip(*found, strict=True))
        return low, high

    @property
    def _whole_policy(self) -> Any:
        return self.models["policy"]

    def with_policy(self, role: Role) -> Self:
        other = copy.copy(self)
        other.models = {**self.models, "policy": self.models[role]}
        other.learner = other.sampled = None
        return other

    def step(self, *terms: Term) -> Mapping[str, float]:
        with self._learning(terms) as (learner, moved):
            return learner.step(*moved)

    def gradients(self, *terms: Term) -> tuple[Mapping[str, float], Mapping[str, Tensor]]:
        with self._learning(terms) as (learner, moved):
            return learner.gradients(*moved)

    @contextmanager
    def _learning(self, terms: Sequence[Term]) -> Iterator[tuple[Learner, list[Term]]]:
        """Yield the learner with its models in training mode, and the terms where the models are."""
        learner = self._learner()
        for model in learner.models.values():
            model.train()  # This matters only where a reward model trains with dropout.
        try:
            with span("learner"):
                moved = {id(t.batch): t.batch.to(self.device) for t in terms}  # Terms on one batch stay on one.
                yield learner, [replace(t, batch=moved[id(t.batch)]) for t in terms]
        finally:
            for model in learner.models.values():
                model.eval()

    def fit_budget(self, found: int | None = None) -> int | None:
        learner = self._learner()
        if learner.settings.token_budget != "auto":
            return None
        if found is None:
            devices = [self.device] if self.device.startswith("cuda") else []
            with self._learning(()), torch.random.fork_rng(devices):  # Dropout draws there.
                found = most_tokens(learner.models, self.device, free_memory(self.device), learner.settings.optim)
        learner.token_budget = self.token_budget = found
        return found

    def _learner(self) -> Learner:
        if self.learner is None:
            raise AssertionError("this engine was made without `training`: it samples and scores, but does not learn")
        return self.learner

    def averaged_weights(self) -> AbstractContextManager[None]:
        return nullcontext() if self.learner is None else self.learner.averaged_weights()

    def cast(self, role: Role, dtype: str) -> None:
        if self.learner is not None and role in self.learner.models:
            raise AssertionError(f"the {role} model learns: its number type is set where it is loaded")
        self.models[role].to(getattr(torch, dtype))
        if self.models[role] in self.offloaded:
            keep_on_cpu(self.models[role])

    def refresh(self, keep: float = 0.0) -> None:
        if self.refreshed is None:
            raise AssertionError('this engine was made without a model "refreshed"')
        self.refreshed.move(self._learner().weights["policy"], keep)

    def state(self) -> State:
        learnt = self._learner().state()
        if self.refreshed is None:
            return learnt
        return learnt._replace(tensors={**learnt.tensors, "refreshed": self.refreshed.state()})

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]) -> None:
        if self.refreshed is not None:
            same_names("the refreshed reference", self.refreshed.weights, tensors.get("refreshed", {}))
        self._learner().restore(tensors, values)
        if self.refreshed is not None:
            self.refreshed.restore(tensors["refreshed"])

    def sync(self) -> None:
        """Give the sampler's copy the learner's weights. Without a copy they share them."""
        if self.sampled is not None:
            policy: Any = self.models["policy"]
            with torch.no_grad():
                for mine, learned in zip(self.sampled.parameters(), policy.model.parameters(), strict=True):
                    if mine is not learned:  # What no adapter changes is shared.
                        mine.copy_(learned)

    def computed_by(self) -> Mapping[str, Any]:
        wrapped: Mapping[Role, Any] = self.models
        models = {role: one.model for role, one in wrapped.items()}
        learns: Mapping[Role, Any] = self.learner.models if self.learner is not None else {}
        with self._there(*models):
            scoring = {role: computed_by(model, learns=role in learns) for role, model in models.items()}
            found: dict[str, Any] = {"scoring": scoring}
            if "policy" in models:
                found["sampling"] = decoder_class(self._sampler).computed_by
        if self.learner is not None:
            found["learning"] = {role: scoring[role] for role in learns}
        if ranks := {role: rank for role, model in models.items() if (rank := rank_of(model))}:
            found["adapters"] = {role: f"rank {rank}" for role, rank in ranks.items()}
        if self.device == "cuda":
            return found | {"kernels": "triton" if gpu.AVAILABLE else "torch"}
        return found | {"kernels": torch.backends.cpu.get_cpu_capability() if native.AVAILABLE else "torch"}

    def weights_hash(self, role: Role) -> str:
        model: Any = self.models[role]
        return weights_hash(model.model)

    def save(self, role: Role, folder: Path, adapter_alone: bool = False) -> None:
        model: Any = self.models[role]
        publish(folder, lambda tmp: save_pretrained(model.model, self.tokenization, tmp, adapter_alone))

    def close(self) -> None:
        self.models, self.learner, self.sampled = {}, None, None
        if self.device == "cuda":
            torch.cuda.empty_cache()


def assembled(rows: Rows, parts: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return what a model says of rows [N,T] or [N], from what it says of parts of them, each with its places."""
    result: Tensor | None = None
    for index, part in parts:
        if result is None:
            result = part.new_zeros(rows.ids.shape if part.dim() == 2 else rows.ids.shape[:1])
        if part.dim() == 2:
            result[index, : part.shape[1]] = part
        else:
            result[index] = part
    if result is None:
        raise AssertionError("forward was given an empty batch")
    return result


def _tensor(out: Any) -> Tensor:
    if isinstance(out, PolicyOutput):
        return out.logp
    if isinstance(out, RewardOutput):
        return out.score
    assert isinstance(out, Tensor)
    return out
