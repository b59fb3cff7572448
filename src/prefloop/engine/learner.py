"""Runs forward, loss, backward and optimiser. The only division in the code base is here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prefloop.algorithms.base import Objective, Role
from prefloop.batch import PolicyOutput, Rows
from prefloop.config_section import Optimiser
from prefloop.engine.adamw_8bit import AdamW8bit
from prefloop.engine.base import State, Term
from prefloop.errors import TrainingError
from prefloop.kernels.memory import named_when_full
from prefloop.kernels.plain import whole
from prefloop.models.checkpointing import checkpoint_layers
from prefloop.models.value_head import ValueHead

MAX_SKIPS = 5  # After so many steps in a row with a gradient that is not finite, the run is ended.
Sums = dict[str, list[Tensor]]  # a sum and its weight [] by the name of a metric


class Part(NamedTuple):
    """Is a part of a batch that is run at once. factor: what its loss is multiplied by; 0 where it does not count"""

    rows: Any
    factor: float = 1.0


class Learner:
    """Trains the models of some roles. All its state is in `state()`: what is not there does not survive a kill.

    Only parameters that require a gradient are trained, averaged and in the state. The others are as they were loaded.
    Where weights are in low precision, it trains float32 copies, and the models hold these rounded (Micikevicius 2018):
    a bfloat16 has eight bits, and most steps are too small to move it.
    """

    def __init__(
        self,
        models: Mapping[Role, nn.Module],
        settings: Optimiser,
        total_steps: int,
        lr: Mapping[Role, float],
        average: float = 0.0,
        device: str | None = None,
    ):
        """Prepare the training. The models are moved to `device` first, if one is named."""
        self.models = {role: model.to(device) for role, model in models.items()}
        if settings.gradient_checkpointing:
            for role, model in self.models.items():
                checkpoint_layers(getattr(model, "model", model), role)
        self.settings = settings
        self.token_budget = settings.usual_budget  # With "auto" the engine sets it before the first step.
        self.total_steps = total_steps
        self.lr = {role: lr[role] for role in models}
        self.average = average
        self.steps = 0
        self.skipped_in_a_row = 0
        trained = {role: _trained(role, model) for role, model in models.items()}
        self.weights = {role: {n: _precise(p) for n, p in own.items()} for role, own in trained.items()}
        both = [(self.weights[role][n], p) for role, own in trained.items() for n, p in own.items()]
        self.rounded = [(weight, parameter) for weight, parameter in both if weight is not parameter]
        make: Any = AdamW8bit if settings.optim == "adamw_8bit" else partial(torch.optim.AdamW, fused=True)
        # The original PPO code has eps 1e-5 (detail 17).
        self.optimisers: dict[Role, torch.optim.Optimizer] = {
            role: make(weights.values(), lr=self.lr[role], eps=1e-5, weight_decay=settings.weight_decay)
            for role, weights in self.weights.items()
        }
        self.averaged: dict[Role, dict[str, Tensor]] = {}
        if average:
            self.averaged = {r: {n: w.detach().clone() for n, w in own.items()} for r, own in self.weights.items()}

    def step(self, *terms: Term) -> dict[str, float]:
        """Make one optimiser step.

        Return means over the whole batch; `skipped` is 1 where the gradient was not finite.
        """
        return self._backward(terms) | self._update()

    def gradients(self, *terms: Term) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Return what a step would report, and the gradient it would follow, as "role.parameter". The weights stay."""
        metrics = self._backward(terms)
        found = {
            f"{role}.{name}": whole(parameter.grad.detach()).cpu()
            for role, model in self.models.items()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }
        for model in self.models.values():
            model.zero_grad(set_to_none=True)
        return metrics, found

    def _backward(self, terms: Sequence[Term]) -> dict[str, float]:
        """Add the gradient of the terms to the parameters. Return means over the whole batch.

        Terms on one batch share its forward and backward passes. A mean of nothing is left out.
        """
        sums: Sums = {}
        for shared in _on_one_batch(terms):
            first = shared[0]
            with named_when_full("a training step", first.batch.rows().ids.shape, self._smaller):
                parts, mine = self._parts(first.batch)
                weights = [torch.stack([t.objective.weight(part) for part in parts]).sum() for t in shared]
                # What counts nothing has a loss of 0, and no gradient.
                scales = [t.scale / weight.clamp(min=1e-12) for t, weight in zip(shared, weights, strict=True)]
            for part, factor in mine:
                with named_when_full("a training step", part.rows().ids.shape, self._smaller):
                    out = self._run(first.objective, part, first.temperature)
                    losses = [t.objective.loss(out, part) for t in shared]
                    total = torch.stack([x.total * scale for x, scale in zip(losses, scales, strict=True)]).sum()
                    (total * factor).backward()
                for name, (amount, count) in (m for loss in losses if factor for m in loss.metrics.items()):
                    add(sums, name, amount.detach().cpu(), count.detach().cpu())
        return {name: float(total / count) for name, (total, count) in self._added_up(sums).items() if count > 0}

    def _parts(self, batch: Rows) -> tuple[list[Rows], list[Part]]:
        """Return all parts of a batch, and those that are run here."""
        parts = list(batch.split(self.token_budget))
        return parts, [Part(part) for part in parts]

    def _added_up(self, sums: Sums) -> Sums:
        """Return the sums over all parts, wherever they were run."""
        return sums

    @property
    def _smaller(self) -> str:
        fewer = "" if self.settings.gradient_checkpointing else ", or set gradient_checkpointing = true"
        return f"Lower token_budget (now {self.token_budget}){fewer}: no result changes, only how much is held."

    def _run(self, objective: Objective, part: Rows, temperature: float | None) -> Any:
        rows, roles = part.rows(), objective.trains
        if "reward" in roles:
            return self.models["reward"](rows)
        how = {} if temperature is None else {"temperature": temperature}
        critic = self.models["critic"] if "critic" in roles else None
        if isinstance(critic, ValueHead):  # Both come from one pass.
            read = critic.read_detached if "policy" in getattr(objective, "holds", ()) else critic.read
            return self.models["policy"](rows, **how, value_head=read)
        out: PolicyOutput = self.models["policy"](rows, **how)
        return out if critic is None else PolicyOutput(out.logp, critic(rows))

    def _update(self) -> dict[str, float]:
        for weight, parameter in self.rounded:
            if parameter.grad is not None:
                weight.grad, parameter.grad = parameter.grad.float(), None
        norms = {
            role: whole(nn.utils.clip_grad_norm_(weights.values(), self.settings.clip_norm))
            for role, weights in self.weights.items()
        }
        finite = all(bool(torch.isfinite(norm)) for norm in norms.values())
        if finite:
            self.skipped_in_a_row = 0
            scale = lr_scale(self.settings, self.steps, self.total_steps)
            for role, optimiser in self.optimisers.items():
                for group in optimiser.param_groups:
                    group["lr"] = self.lr[role] * scale
                optimiser.step()
            self._round()
            self._average()
        else:
            self.skipped_in_a_row += 1
        for optimiser in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)
        self.steps += 1
        if self.skipped_in_a_row >= MAX_SKIPS:
            bad = ", ".join(role for role, norm in norms.items() if not torch.isfinite(norm))
            raise TrainingError(
                f"the gradient of the {bad} model was not finite {MAX_SKIPS} steps in a row; weights and the last "
                "checkpoint are untouched. Lower the learning rate (and say --new), and check the rewards for NaN."
            )
        return {
            **{f"grad_norm_{role}": float(norm) if finite else math.nan for role, norm in norms.items()},
            "skipped": float(not finite),
        }

    @torch.no_grad()
    def _round(self) -> None:
        for weight, parameter in self.rounded:
            parameter.copy_(weight)

    @torch.no_grad()
    def _average(self) -> None:
        for role, shadow in self.averaged.items():
            # The warm-up keeps the random first weights from staying in the average.
            decay = min(self.average, (1 + self.steps) / (10 + self.steps))
            for name, weight in self.weights[role].items():
                shadow[name].lerp_(weight, 1 - decay)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Hold averaged weights in the models inside this block, to evaluate and save.

        Without an average nothing changes.
        """
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their averages."""
        for role, shadow in self.averaged.items():
            for name, weight in self.weights[role].items():
                held = weight.detach().clone()
                weight.copy_(shadow[name])
                shadow[name].copy_(held)
        if self.averaged:
            self._round()

    def state(self) -> State:
        """Return everything needed to go on: tensors by file and parameter name, and plain values."""
        files: dict[str, dict[str, Tensor]] = {}
        for role, weights in self.weights.items():
            files[role] = {n: w.detach() for n, w in weights.items()}
            moments, names = files.setdefault(f"{role}.adam", {}), list(weights)
            for index, slots in self.optimisers[role].state_dict()["state"].items():
                moments |= {f"{names[index]}.{slot}": value for slot, value in slots.items()}
        for role, shadow in self.averaged.items():
            files[f"{role}.average"] = shadow
        plain = {"steps": self.steps, "skipped_in_a_row": self.skipped_in_a_row, "optim": self.settings.optim}
        return State(files, plain)

    @torch.no_grad()
    def restore(self, files: Mapping[str, Mapping[str, Tensor]], plain: Mapping[str, Any]) -> None:
        """Take over what `state` returned.

        Where it raises TrainingError, for names of other models or another optimiser, nothing is changed.
        """
        if (theirs := plain.get("optim", "adamw")) != self.settings.optim:
            raise TrainingError(
                f'the checkpoint holds moments of optim = "{theirs}", and this run has optim = '
                f'"{self.settings.optim}". Set it back to go on, or begin again with --new.'
            )
        moments = {role: self._moments(role, files.get(f"{role}.adam", {})) for role in self.weights}
        for role, weights in self.weights.items():
            same_names(f"the {role} model", weights, files.get(role, {}))
            if role in self.averaged:
                same_names(f"the average of the {role} model", weights, files.get(f"{role}.average", {}))
        self.steps = int(plain["steps"])
        self.skipped_in_a_row = int(plain["skipped_in_a_row"])
        for role, weights in self.weights.items():
            for name, weight in weights.items():
                weight.copy_(files[role][name])
            optimiser = self.optimisers[role]
            groups = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({"state": moments[role], "param_groups": groups})
        for role, shadow in self.averaged.items():
            for name in shadow:
                shadow[name].copy_(files[f"{role}.average"][name])
        self._round()

    def _moments(self, role: Role, tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """Return AdamW's state by the number that torch gives a parameter, from tensors named "parameter.slot"."""
        number = {name: index for index, name in enumerate(self.weights[role])}
        found: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            name, _, slot = key.rpartition(".")
            if name not in number:
                raise TrainingError(
                    f"the checkpoint's optimiser state names {key}, which is no parameter of the {role} model: another "
                    "version of prefloop, or another model, wrote it. Begin again with --new."
                )
            found.setdefault(number[name], {})[slot] = value.clone()
        return found


def add(sums: Sums, name: str, amount: Tensor, count: Tensor) -> None:
    """Add to the sum of a metric and to its weight."""
    pair = sums.setdefault(name, [torch.zeros(()), torch.zeros(())])
    pair[0], pair[1] = pair[0] + amount, pair[1] + count


def _on_one_batch(terms: Sequence[Term]) -> list[list[Term]]:
    """Return the terms by batch, of which the models are asked the same."""
    groups: dict[tuple[Any, ...], list[Term]] = {}
    for term in terms:
        groups.setdefault((id(term.batch), term.objective.trains, term.temperature), []).append(term)
    return list(groups.values())


def same_names(what: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    if different := sorted(ours.keys() ^ theirs.keys()):
        whose = "the model" if different[0] in ours else "the checkpoint"
        raise TrainingError(
            f"{what} in the checkpoint has other parameters than the model that goes on: only {whose} has "
            f"{different[0]} ({len(different)} differ). Begin again with --new."
        )


def _trained(role: Role, model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that learn, by name. Raises TrainingError where there are none."""
    if not (found := {name: p for name, p in model.named_parameters() if p.requires_grad}):
        raise TrainingError(
            f"no parameter of the {role} model requires a gradient, so that it cannot learn. Call "
            "model.requires_grad_(True), or give it an adapter."
        )
    return found


def _precise(parameter: nn.Parameter) -> Tensor:
    """Return the parameter, or a float32 copy of one in low precision."""
    if parameter.dtype not in (torch.bfloat16, torch.float16):
        return parameter
    return parameter.detach().float().requires_grad_()


def lr_scale(settings: Optimiser, step: int, total: int) -> float:
    """Return the learning rate's factor at a step: linear warm-up, then the schedule down to 0 at `total`."""
    warm = round(settings.warmup * total)
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, total - warm)
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "linear":
        return max(0.0, 1.0 - done)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
