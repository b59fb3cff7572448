"""Runs `prefloop plan`: says what a run will hold and take before anything starts, and refuses what cannot fit."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from prefloop.config import Config, Lora
from prefloop.config_rollout import refuse_endpoint
from prefloop.engine.budget import LEAST, MOST_CPU, MOST_GPU
from prefloop.engine.forecast import Adapter, Device, learned, moments, offloaded, peak, phases
from prefloop.engine.speed import measure
from prefloop.errors import ModelError
from prefloop.kernels.memory import total_memory
from prefloop.known_algorithms import is_offline
from prefloop.models.load import load_tokenizer
from prefloop.models.lora import needs_peft
from prefloop.models.shapes import Shapes, config_of, shapes_of
from prefloop.models.without_hub import needs_bitsandbytes
from prefloop.project.project import Project
from prefloop.results import PhaseMemory, Placed, Planned, Speed, StagePlan
from prefloop.training.workload import CHARACTERS, Work, work_of

STAGES = ("sft", "reward", "align")
PLACED = (1, 2, 8, 16)
CONTEXT = 0.6e9  # bytes that CUDA takes of a GPU for itself
LATER = 0.1e9  # bytes of code that a run loads later than a plan, and of what is small (benchmarks/plan.py)
USED = 0.95  # A device is full before the last byte is taken.
KEPT_CHECKPOINTS = 2
FEW = 1024  # tokens of a pass that are proposed where memory is short


def plan(
    project: Project,
    stages: Sequence[str] = STAGES,
    devices: int | None = None,
    memory: float | None = None,
    measured: bool = True,
) -> Planned:
    """Forecast memory and time of stages, from settings, store and the model's config.

    devices: None = what `[project] ranks` says
    memory: bytes of each device, for GPUs that are not here; None = what this machine has, which ranks on a CPU share
    """
    refuse_endpoint(project.config.rollout, "prefloop plan")
    return _Planner(project, devices or _ranks(project), memory, measured).planned(stages)


class _Planner:
    def __init__(self, project: Project, devices: int, memory: float | None, measured: bool):
        self.project, self.measured = project, measured
        here = project.device
        self.here = here if memory is None else "cuda"
        settings = project.config.model
        self.config = config_of(settings, project.root)
        self.shapes = shapes_of(self.config, settings, settings.path or "the model from scratch")
        kind = "cpu" if self.here == "cpu" else "cuda"
        if settings.adapter == "lora":
            needs_peft()  # A run loads it, too: 60 MB.
        if settings.load_in_4bit:
            needs_bitsandbytes("[model] load_in_4bit")
        base = _resident() + LATER if kind == "cpu" else CONTEXT
        shared = devices if kind == "cpu" else 1
        self.device = Device(kind, memory or total_memory(here) / shared, devices, base)
        self.count = _counter(project)

    def planned(self, stages: Sequence[str]) -> Planned:
        made = [self._work(self.project, stage) for stage in stages]
        speed = self._speed(max((work.load.rows for work, _ in made), default=0))
        plans = [self._stage(work, budget, speed) for work, budget in made]
        most = max(zip(plans, made, strict=True), key=lambda pair: pair[0].peak)[1][0]
        shapes, model = self.shapes, self.project.config.model
        return Planned(
            model=shapes.name,
            parameters=shapes.parameters,
            layers=shapes.layers,
            hidden=shapes.hidden,
            vocabulary=shapes.vocabulary,
            dtype=model.dtype,
            adapter=model.adapter,
            device=self.device.kind,
            devices=self.device.ranks,
            memory=self.device.memory,
            computed_by="prefloop's own code" if shapes.is_packed else "transformers",
            stages=tuple(plans),
            placements=tuple(self._placed(most, n, speed) for n in self._places),
            speed=speed,
        )

    @property
    def _places(self) -> tuple[int, ...]:
        return PLACED if self.device.kind != "cpu" else (self.device.ranks,)

    # -- one stage -----------------------------------------------------------------------------------------------------

    def _work(
        self, project: Project, stage: str, shapes: Shapes | None = None, device: Device | None = None
    ) -> tuple[Work, int]:
        """Return what a stage does, and the tokens of a pass: with "auto" the most that fit."""
        asked, device = getattr(project.config, stage).token_budget, device or self.device
        if asked != "auto":
            return work_of(project, stage, asked, self.count, device.ranks), asked
        budget = MOST_CPU if device.kind == "cpu" else MOST_GPU
        while budget > LEAST:
            work = work_of(project, stage, budget, self.count, device.ranks)
            if self._fits(peak(self._phases(work, project.config, shapes, device))):
                break
            budget //= 2
        return work_of(project, stage, budget, self.count, device.ranks), budget

    def _phases(
        self, work: Work, config: Config, shapes: Shapes | None = None, device: Device | None = None
    ) -> list[PhaseMemory]:
        shapes, device, adapter = shapes or self.shapes, device or self.device, adapter_of(config)
        found = phases(shapes, adapter, work.cast, work.load, device)
        if work.normalising is not None:
            after = phases(shapes, adapter, *work.normalising, device)[0]
            found.append(PhaseMemory("normalising", after.parts))
        return found

    def _stage(self, work: Work, budget: int, speed: Speed | None) -> StagePlan:
        config = self.project.config
        found = self._phases(work, config)
        most, adapter = peak(found), adapter_of(config)
        trained = sum(learned(self.shapes, adapter, role, work.cast) for role in work.cast.learns)
        return StagePlan(
            name=work.name,
            method=work.method,
            steps=work.steps,
            tokens=round(work.tokens),
            sampled=round(work.sampled),
            budget=budget,
            trained=round(trained),
            phases=tuple(found),
            peak=most,
            fits=self._fits(most),
            checkpoints=KEPT_CHECKPOINTS
            * trained
            * (4 + moments(adapter, work.cast, self.device) + 4 * work.cast.average),
            hours=self._hours(work, speed, adapter, self.device.ranks),
            notes=(
                *work.notes,
                *self._refused_of_ranks(work, adapter),
                *self._offloaded(work, adapter),
                *_not_timed(adapter),
            ),
            advice=() if self._fits(most) else tuple(self._advice(work.name, most)),
        )

    def _refused_of_ranks(self, work: Work, adapter: Adapter | None) -> Iterator[str]:
        if work.cast.optim != "adamw" and adapter is None and self.device.ranks > 1:
            yield f'[{work.name}] optim = "{work.cast.optim}" is refused on several devices; counted is "adamw"'

    def _offloaded(self, work: Work, adapter: Adapter | None) -> Iterator[str]:
        elsewhere = sum(part.bytes for part in offloaded(self.shapes, adapter, work.cast, self.device))
        if elsewhere:
            each = ", the reference of them for each device" if self.device.ranks > 1 else ""
            yield f"[align] frozen_offload takes {elsewhere / 1e9:.1f} GB of the machine's own memory{each}"

    def _fits(self, total: float) -> bool:
        return total <= USED * self.device.memory

    def _speed(self, rows: int) -> Speed | None:
        if not self.measured or self.here != self.project.device:
            return None
        return measure(self.config, self.shapes, self.project.config.model, self.here, max(1, rows))

    def _hours(self, work: Work, speed: Speed | None, adapter: Adapter | None, ranks: int) -> float | None:
        if speed is None:
            return None
        learning, scoring, sampling = self._seconds(work, speed, adapter)
        return (learning + scoring + sampling) / ranks / 3600

    def _seconds(self, work: Work, speed: Speed, adapter: Adapter | None) -> tuple[float, float, float]:
        """Return the seconds of learning, scoring and sampling on one device."""
        passes = (2 if adapter else 3) + work.load.checkpointing  # Frozen matrices have no gradients.
        operations = self.shapes.operations
        learning = work.learnings * passes * operations(work.tokens, work.length / 2) / speed.learning
        sampling = operations(work.sampled, work.length) / speed.sampling
        return learning, operations(work.scored, work.length / 2) / speed.scoring, sampling

    # -- what else there is --------------------------------------------------------------------------------------------

    def _advice(self, stage: str, most: float) -> Iterator[str]:
        """Yield changes of settings with what they would come to, those that fit first."""
        tried = [(said, self._peak_with(stage, changes)) for said, changes in self._changes(stage)]
        less = sorted((total, said) for said, total in tried if total < 0.98 * most)
        for total, said in less[:5]:
            yield f"{said}: {total / 1e9:.1f} GB{'' if self._fits(total) else ', which does not fit either'}"
        for ranks in PLACED[1:]:
            device = replace(self.device, ranks=ranks)
            work, _ = self._work(self.project, stage, device=device)
            total = peak(self._phases(work, self.project.config, device=device))
            if self.device.kind != "cpu" and ranks > self.device.ranks and self._fits(total):
                yield f"{ranks} devices: {total / 1e9:.1f} GB on each"
                break

    def _changes(self, stage: str) -> Iterator[tuple[str, dict[str, Any]]]:
        config = self.project.config
        settings = getattr(config, stage)
        less = {f"{stage}.gradient_checkpointing": True}
        if config.model.adapter == "none":
            yield '[model] adapter = "lora"', {"model.adapter": "lora"}
            if not settings.gradient_checkpointing:
                yield '[model] adapter = "lora" with gradient_checkpointing = true', {"model.adapter": "lora", **less}
        if not settings.gradient_checkpointing:
            yield f"[{stage}] gradient_checkpointing = true", less
        if settings.optim == "adamw" and config.model.adapter == "none" and self.device.ranks == 1:
            yield f'[{stage}] optim = "adamw_8bit"', {f"{stage}.optim": "adamw_8bit"}
        if settings.usual_budget > FEW:
            few = {f"{stage}.token_budget": FEW}
            yield f"[{stage}] token_budget = {FEW}", few
            if not settings.gradient_checkpointing:
                yield f"[{stage}] token_budget = {FEW} with gradient_checkpointing = true", few | less
        yield from _fewer_bits(config)
        whole_models_on_gpu = config.model.adapter == "none" and self.device.kind != "cpu"
        if stage == "align" and whole_models_on_gpu and not settings.frozen_offload:
            yield "[align] frozen_offload = true", {"align.frozen_offload": True}
        if stage == "align" and not is_offline(settings.algorithm):
            if settings.critic == "separate":
                yield '[align] critic = "head"', {"align.critic": "head"}
            if settings.frozen_dtype is None and config.model.dtype == "float32":
                yield '[align] frozen_dtype = "bfloat16"', {"align.frozen_dtype": "bfloat16"}

    def _peak_with(self, stage: str, changes: dict[str, Any]) -> float:
        other = copy.copy(self.project)
        other.config = changed(self.project.config, changes)
        shapes = self.shapes
        if "model.dtype" in changes:
            shapes = shapes_of(self.config, other.config.model, shapes.name)
        work, _ = self._work(other, stage, shapes)
        return peak(self._phases(work, other.config, shapes))

    def _placed(self, work: Work, devices: int, speed: Speed | None) -> Placed:
        config = self.project.config
        device = replace(self.device, ranks=devices)
        work, _ = self._work(self.project, work.name, device=device)
        full = peak(phases(self.shapes, None, work.cast, work.load, device))
        adapter = adapter_of(config)
        lora = peak(phases(self.shapes, adapter or Adapter(Lora().rank), work.cast, work.load, device))
        return Placed(
            devices=devices,
            how=self._how(work, devices, speed, adapter),
            full=full,
            lora=lora,
            full_fits=self._fits(full),
            lora_fits=self._fits(lora),
            hours=self._hours(work, speed, adapter, devices),
        )

    def _how(self, work: Work, devices: int, speed: Speed | None, adapter: Adapter | None) -> str:
        """Say which devices learn and which sample, so that neither waits long for the other."""
        if devices == 1:
            return "one process"
        if speed is None or not work.cast.samples or devices < 8:
            return f"{devices} ranks"
        *others, sampling = self._seconds(work, speed, adapter)
        servers = min(devices - 1, max(1, round(devices * sampling / (sum(others) + sampling))))
        return f"{devices} ranks; or {devices - servers} ranks and {servers} that sample ([rollout])"


def _fewer_bits(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    if config.model.adapter == "lora" and not config.model.load_in_4bit:
        yield "[model] load_in_4bit = true", {"model.load_in_4bit": True}
    if config.model.dtype == "float32":
        yield '[model] dtype = "bfloat16"', {"model.dtype": "bfloat16"}


def _not_timed(adapter: Adapter | None) -> Iterator[str]:
    if adapter is not None and adapter.in_4bit:
        yield "hours are measured without [model] load_in_4bit, which makes each matrix anew for each pass"


def _ranks(project: Project) -> int:
    asked = project.config.project.ranks
    if isinstance(asked, int):
        return asked
    return max(1, torch.cuda.device_count()) if project.device != "cpu" else 1


def adapter_of(config: Config) -> Adapter | None:
    """Return the adapter that the settings ask for."""
    if config.model.adapter == "none":
        return None
    lora = config.model.lora
    return Adapter(lora.rank, tuple(lora.targets), lora.dora, config.model.load_in_4bit)


def changed(config: Config, changes: dict[str, Any]) -> Config:
    """Return settings with others at some dotted keys of two parts."""
    for key, value in changes.items():
        section, name = key.split(".")
        config = config.model_copy(update={section: getattr(config, section).model_copy(update={name: value})})
    return config


def _counter(project: Project) -> Callable[[str], float]:
    """Return a function that counts the tokens of a text: by the tokenizer that is here, or by characters."""
    settings = project.config.model
    folder = project.root / ("model" if settings.init == "scratch" else settings.path or "")
    if (folder / "tokenizer.json").is_file():
        try:
            tokenizer = load_tokenizer(folder, settings)
        except ModelError:
            return lambda text: len(text) / CHARACTERS
        return lambda text: float(len(tokenizer(text)["input_ids"]))
    return lambda text: len(text) / CHARACTERS


def _resident() -> float:
    """Return the bytes of this process, which a run takes too before it has a model."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError):
        return 0.5e9
    return float(pages * os.sysconf("SC_PAGE_SIZE"))
