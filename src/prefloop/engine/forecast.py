"""Forecasts the memory of a run, by count: what each model holds, and what each phase of a step adds to it.

`benchmarks/plan.py` compares it with measured peaks. What is counted is what `learner`, `local`, `rank_engine` and the
decoders do; who changes one of these changes this file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from prefloop.engine.adamw_8bit import BLOCK
from prefloop.kernels.linear import LARGEST
from prefloop.kernels.logprobs import KEPT, LOGITS, LOGITS_GPU
from prefloop.models.shapes import Shapes
from prefloop.results import MemoryPart, PhaseMemory

MOMENTS = {"adamw": 8.0, "adamw_8bit": 2 + 8 / BLOCK}  # bytes of the two moments of a weight, by the setting `optim`
LOW = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Adapter:
    """Is a LoRA adapter as [model.lora] describes it."""

    rank: int
    targets: tuple[str, ...] = ()
    dora: bool = False


@dataclass(frozen=True)
class Device:
    """Says where a run computes. ranks: processes that share the models that learn, each with a device of this kind.

    memory: bytes of each device;  base: bytes that a process takes before it has a model
    """

    kind: str
    memory: float
    ranks: int = 1
    base: float = 0.0


@dataclass(frozen=True)
class Cast:
    """Says which models a stage holds.

    learns:  the roles that are trained: "policy", "critic", "reward"
    frozen:  those that are not: "reference", "refreshed" and reward models by name
    scorers: which of the frozen ones the stage itself asks, on the first rank alone
    """

    learns: tuple[str, ...]
    frozen: tuple[str, ...] = ()
    scorers: tuple[str, ...] = ()
    value_head: bool = False
    own_sampler: bool = False
    samples: bool = False
    average: bool = False
    optim: str = "adamw"
    frozen_dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Load:
    """Says how much goes through the models at a time.

    learned: real tokens of one pass with a gradient;  scored: those of one without
    predicted: which of the learned ones need a word's probability
    rows, length: how many texts grow at a time, and how long they become
    """

    learned: float
    scored: float
    predicted: float = 0.0
    rows: int = 0
    length: int = 0
    checkpointing: bool = False


def phases(shapes: Shapes, adapter: Adapter | None, cast: Cast, load: Load, device: Device) -> list[PhaseMemory]:
    """Return what each phase of a step holds on the device that holds most, in the order of a step."""
    held = [*_process(device), *_weights(shapes, adapter, cast, device)]
    state = list(_state(shapes, adapter, cast, device))
    found = []
    if cast.samples:
        found.append(PhaseMemory("sampling", (*held, *state, *_sampling(shapes, adapter, load, device))))
    if cast.frozen or cast.scorers:
        found.append(PhaseMemory("scoring", (*held, *state, *_scoring(shapes, load, device))))
    gradients = _gradients(shapes, adapter, cast, device)
    found.append(
        PhaseMemory("learning", (*held, *state, *gradients, *_activations(shapes, adapter, cast, load, device)))
    )
    return found


def _process(device: Device) -> Iterator[MemoryPart]:
    if device.base:
        yield MemoryPart("process", "python and torch", device.base)


def _weights(shapes: Shapes, adapter: Adapter | None, cast: Cast, device: Device) -> Iterator[MemoryPart]:
    each = shapes.dtype.itemsize
    if adapter is not None:
        yield MemoryPart("trunk", "weights", shapes.parameters * each)
        for role in (*cast.learns, *cast.frozen, *cast.scorers):
            if role not in ("reference",) and not (role == "critic" and cast.value_head):
                yield MemoryPart(role, "weights", 4.0 * learned(shapes, adapter, role, cast))
        return
    for role in cast.learns:
        mine = learned(shapes, None, role, cast)
        if device.ranks > 1:
            yield MemoryPart(role, "weights", 4.0 * mine / device.ranks + 2 * shapes.layer * each)
        else:
            yield MemoryPart(role, "weights", mine * each)
    frozen = (cast.frozen_dtype or shapes.dtype).itemsize
    for role in cast.frozen:
        yield MemoryPart(role, "weights", shapes.parameters * (each if role == "refreshed" else frozen))
    for role in cast.scorers:
        yield MemoryPart(role, "weights", shapes.body * frozen)
    if cast.samples and (cast.own_sampler or device.ranks > 1):
        yield MemoryPart("sampler", "weights", shapes.parameters * each)


def learned(shapes: Shapes, adapter: Adapter | None, role: str, cast: Cast) -> float:
    """Return how many numbers of a role are trained."""
    if role == "critic" and cast.value_head:
        return shapes.hidden + 1
    if adapter is not None:
        head = 0 if role in ("policy", "refreshed") else shapes.hidden
        return shapes.adapter(adapter.rank, adapter.targets, adapter.dora) + head
    return shapes.parameters if role == "policy" else shapes.body + shapes.hidden


def _state(shapes: Shapes, adapter: Adapter | None, cast: Cast, device: Device) -> Iterator[MemoryPart]:
    """Yield what the learner keeps between steps."""
    copies = adapter is None and shapes.dtype in LOW and device.ranks == 1
    for role in cast.learns:
        mine = learned(shapes, adapter, role, cast) / _pieces(adapter, device)
        yield MemoryPart(role, "optimiser", moments(adapter, cast, device) * mine)
        if copies:
            yield MemoryPart(role, "float32 copies", 4.0 * mine)
        if cast.average:
            yield MemoryPart(role, "average", 4.0 * mine)


def moments(adapter: Adapter | None, cast: Cast, device: Device) -> float:
    """Return the bytes of AdamW's moments of a weight. Pieces of models have none in 8 bits."""
    return MOMENTS["adamw" if _pieces(adapter, device) > 1 else cast.optim]


def _gradients(shapes: Shapes, adapter: Adapter | None, cast: Cast, device: Device) -> list[MemoryPart]:
    pieces = _pieces(adapter, device)
    return [MemoryPart(role, "gradients", 4.0 * learned(shapes, adapter, role, cast) / pieces) for role in cast.learns]


def _pieces(adapter: Adapter | None, device: Device) -> int:
    """Return how many pieces models that learn are cut into. Those with adapters are whole on every rank."""
    return device.ranks if adapter is None else 1


def _sampling(shapes: Shapes, adapter: Adapter | None, load: Load, device: Device) -> Iterator[MemoryPart]:
    each, matrices = shapes.dtype.itemsize, shapes.layers * shapes.layer
    yield MemoryPart("policy", "caches", load.rows * load.length * shapes.cached * each)
    if adapter is not None:
        yield MemoryPart("policy", "merged copy", matrices * each)
    if shapes.is_packed and device.kind == "cpu" and shapes.dtype == torch.float32:
        yield MemoryPart("policy", "copies for compiled code", (matrices + shapes.head) * 4.0)
    elif shapes.is_packed:
        yield MemoryPart("policy", "copies of matrices", shapes.copied * each)
    yield MemoryPart("policy", "words", load.rows * shapes.vocabulary * (4.0 + each))


def _scoring(shapes: Shapes, load: Load, device: Device) -> Iterator[MemoryPart]:
    """Yield what a pass without a gradient needs: a few layers' numbers of each token, and of a head."""
    each = shapes.dtype.itemsize
    wide = 3 * shapes.hidden + shapes.kept // 3
    yield MemoryPart("scoring", "activations", load.scored * wide * each)
    if shapes.is_packed and device.kind == "cpu" and shapes.dtype == torch.float32:
        yield MemoryPart("scoring", "copies for compiled code", shapes.layers * shapes.layer * 4.0)


def _activations(
    shapes: Shapes, adapter: Adapter | None, cast: Cast, load: Load, device: Device
) -> Iterator[MemoryPart]:
    each = shapes.dtype.itemsize
    separate = [role for role in cast.learns if not (role == "critic" and cast.value_head)]
    for role in separate:
        layers = shapes.layers * (2 * shapes.hidden if load.checkpointing else shapes.kept)
        yield MemoryPart(role, "activations", load.learned * layers * each)
        if not load.checkpointing:
            yield MemoryPart(role, "copies of matrices", shapes.copied * each)
    # The backward pass is in one layer at a time, whose gradients are about as large as what it kept.
    yield MemoryPart("learning", "one layer, backward", load.learned * shapes.kept * each)
    if "policy" in cast.learns:
        yield MemoryPart("policy", "words", _words(shapes, load, device, adapter is None))


def _words(shapes: Shapes, load: Load, device: Device, learns: bool) -> float:
    """Return the bytes of the probabilities of words, which exist for some tokens at a time."""
    each, all_words = shapes.dtype.itemsize, load.predicted * shapes.vocabulary
    head = shapes.head * 4.0 if learns else 0.0  # A gradient of the head is added to that of the embedding.
    if device.kind != "cpu":
        return min(all_words, LOGITS_GPU) * 2 * each + head
    copies = shapes.head * 4.0 if shapes.head <= LARGEST else 0.0
    kept = all_words if all_words <= KEPT else 3 * max(LOGITS, 64 * shapes.vocabulary)
    return 4.0 * kept + head + copies


def peak(found: Sequence[PhaseMemory]) -> float:
    """Return the bytes of the phase that holds most."""
    return max(phase.total for phase in found)
