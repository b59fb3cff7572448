"""Forecasts the memory of a run, by count: what each model holds, and what each phase of a step adds to it.

`benchmarks/plan.py` compares it with measured peaks. What is counted is what `learner`, `local`, `rank_engine` and the
decoders do; who changes one of these changes this file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from prefloop.engine.adamw_8bit import BLOCK
from prefloop.engine.process import KEPT_FREE_ON_RANKS
from prefloop.kernels.linear import LARGEST
from prefloop.kernels.logprobs import KEPT, LOGITS, LOGITS_GPU
from prefloop.models.four_bit import BYTES
from prefloop.models.shapes import Shapes
from prefloop.results import MemoryPart, PhaseMemory

MOMENTS = {"adamw": 8.0, "adamw_8bit": 2 + 8 / BLOCK}  # bytes of the two moments of a weight, by the setting `optim`
MERGED = 4  # so many copies of a layer's matrices are made while adapters are added to them for compiled code
OF_PEFT = 2.7  # So many copies of what a matrix gave does peft free, between small tensors that stay (docs/scaling.md).
AT_ONCE = 3  # So many copies of its scores a layer makes: products, those with a mask, and their softmax.
LOW = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Adapter:
    """Is a LoRA adapter as [model.lora] describes it. in_4bit: whether the trunk that it stands on is in 4 bits"""

    rank: int
    targets: tuple[str, ...] = ()
    dora: bool = False
    in_4bit: bool = False


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
    whole:   roles that stand on no trunk although adapters are trained, since they were made without
    offload: whether the reference and the reward models are in the CPU's memory but for the phase that asks them
    """

    learns: tuple[str, ...]
    frozen: tuple[str, ...] = ()
    scorers: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    value_head: bool = False
    own_sampler: bool = False
    samples: bool = False
    average: bool = False
    optim: str = "adamw"
    frozen_dtype: torch.dtype | None = None
    offload: bool = False


@dataclass(frozen=True)
class Load:
    """Says how much goes through the models at a time.

    learned: real tokens of one pass with a gradient;  passes: of a step
    scored: those of one without, by models that do not learn;  checked: the same, by the code that learns
    predicted: which of the learned ones need a word's probability
    rows, length: how many texts grow at a time, and how long they become
    width: tokens of the longest text that is read, each of which looks at all others
    """

    learned: float
    passes: int = 1
    scored: float = 0.0
    checked: float = 0.0
    predicted: float = 0.0
    rows: int = 0
    length: int = 0
    width: float = 0.0
    checkpointing: bool = False


def phases(shapes: Shapes, adapter: Adapter | None, cast: Cast, load: Load, device: Device) -> list[PhaseMemory]:
    """Return what each phase of a step holds on the device that holds most, in the order of a step."""
    held = [*_process(device), *_weights(shapes, adapter, cast, device)]
    state = list(_state(shapes, adapter, cast, device))
    found = []
    if adapter is not None and adapter.in_4bit and device.kind == "cpu":  # A GPU gets the trunk when it is small.
        whole = MemoryPart("trunk", "weights before", shapes.parameters * shapes.dtype.itemsize)
        after = MemoryPart("trunk", "weights", trunk(shapes, adapter))
        found.append(PhaseMemory("loading", (*_process(device), whole, after)))
    # Of offloaded models one is there at a time. Evaluations also sample from the reference.
    asked = offloaded(shapes, adapter, cast, device)
    if cast.samples:
        lent = [part for part in asked if part.role == "reference"]
        found.append(PhaseMemory("sampling", (*held, *state, *lent, *_sampling(shapes, adapter, load, device))))
    if load.scored or load.checked:
        lent = sorted(asked, key=lambda part: part.bytes)[-1:]
        found.append(PhaseMemory("scoring", (*held, *state, *lent, *_scoring(shapes, adapter, cast, load, device))))
    passing = [*_activations(shapes, adapter, cast, load, device), *_gathered(shapes, adapter, cast, device)]
    # The first pass's gradients are there when the second one is computed.
    before = _gradients(shapes, adapter, cast, device, shapes.dtype.itemsize) if load.passes > 1 else []
    found.append(PhaseMemory("learning", (*held, *state, *before, *passing)))
    last = _last_gradients(shapes, adapter, cast, device)
    found.append(PhaseMemory("updating", (*held, *state, *_gradients(shapes, adapter, cast, device), *last)))
    return found


def _process(device: Device) -> Iterator[MemoryPart]:
    if device.base:
        yield MemoryPart("process", "python and torch", device.base)


def _weights(shapes: Shapes, adapter: Adapter | None, cast: Cast, device: Device) -> Iterator[MemoryPart]:
    each = shapes.dtype.itemsize
    if adapter is not None:
        yield MemoryPart("trunk", "weights", trunk(shapes, adapter))
        for role in (*cast.learns, *cast.frozen, *cast.scorers):
            if role not in ("reference",) and not (role == "critic" and cast.value_head):
                yield MemoryPart(role, "weights", 4.0 * learned(shapes, adapter, role, cast))
            if role in cast.whole:
                yield MemoryPart(role, "weights of its own", shapes.body * each)
        return
    for role in cast.learns:
        mine = learned(shapes, None, role, cast)
        yield MemoryPart(role, "weights", 4.0 * mine / device.ranks if device.ranks > 1 else mine * each)
        if device.ranks > 1 and role != "critic":  # The first rank has it, to sample, to measure and to save.
            yield MemoryPart(role, "a whole one", mine * each)
    if "refreshed" in cast.frozen:
        yield MemoryPart("refreshed", "weights", shapes.parameters * each)
    if not offloaded(shapes, adapter, cast, device):
        yield from _asked(shapes, cast)
    if cast.samples and cast.own_sampler:
        yield MemoryPart("sampler", "weights", shapes.parameters * each)


def _asked(shapes: Shapes, cast: Cast) -> list[MemoryPart]:
    """Return the weights of whole models that are only asked."""
    frozen = (cast.frozen_dtype or shapes.dtype).itemsize
    references = [MemoryPart("reference", "weights", shapes.parameters * frozen)] * ("reference" in cast.frozen)
    return references + [MemoryPart(role, "weights", shapes.body * frozen) for role in cast.scorers]


def offloaded(shapes: Shapes, adapter: Adapter | None, cast: Cast, device: Device) -> list[MemoryPart]:
    """Return the weights that are in the CPU's memory while they are not asked; on ranks those of the first one."""
    return _asked(shapes, cast) if cast.offload and device.kind != "cpu" and adapter is None else []


def trunk(shapes: Shapes, adapter: Adapter) -> float:
    """Return the bytes of the frozen model that adapters stand on."""
    each, in_4bit = shapes.dtype.itemsize, shapes.layers * shapes.linear if adapter.in_4bit else 0
    return (shapes.parameters - in_4bit) * each + in_4bit * BYTES


def _made_anew(shapes: Shapes, adapter: Adapter | None) -> Iterator[MemoryPart]:
    """Yield what a matrix takes while it is computed with, where it is in 4 bits otherwise."""
    if adapter is not None and adapter.in_4bit:
        largest = max((one.inputs * one.outputs for one in shapes.linears), default=0)
        yield MemoryPart("trunk", "one matrix, made anew", largest * shapes.dtype.itemsize)


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


def _gradients(
    shapes: Shapes, adapter: Adapter | None, cast: Cast, device: Device, each: float = 4.0
) -> list[MemoryPart]:
    """Return the gradients of a step. each: bytes of a number, where the models are neither adapters nor in pieces"""
    pieces, each = _pieces(adapter, device), each if adapter is None and device.ranks == 1 else 4.0
    return [MemoryPart(role, "gradients", each * learned(shapes, adapter, role, cast) / pieces) for role in cast.learns]


def _pieces(adapter: Adapter | None, device: Device) -> int:
    """Return how many pieces models that learn are cut into. Those with adapters are whole on every rank."""
    return device.ranks if adapter is None else 1


def _sampling(shapes: Shapes, adapter: Adapter | None, load: Load, device: Device) -> Iterator[MemoryPart]:
    each, matrices = shapes.dtype.itemsize, shapes.layers * shapes.layer
    yield MemoryPart("policy", "caches", load.rows * load.length * shapes.cached * each)
    if _is_compiled(shapes, device):
        yield MemoryPart("policy", "copies for compiled code", (matrices + shapes.head) * 4.0)
        if adapter is not None:
            yield MemoryPart("policy", "one layer, merged", MERGED * shapes.layer * each)
    else:
        if adapter is not None:
            yield MemoryPart("policy", "merged copy", matrices * each)
        yield MemoryPart("policy", "copies of matrices", shapes.copied * each)
    yield MemoryPart("policy", "words", load.rows * shapes.vocabulary * (4.0 + each))


def _is_compiled(shapes: Shapes, device: Device) -> bool:
    """Return whether compiled code reads and samples what does not learn."""
    return shapes.is_packed and device.kind == "cpu" and shapes.dtype == torch.float32


def _scoring(shapes: Shapes, adapter: Adapter | None, cast: Cast, load: Load, device: Device) -> Iterator[MemoryPart]:
    """Yield what a pass without a gradient needs, by compiled code or by the code that learns."""
    each, compiled = shapes.dtype.itemsize, _is_compiled(shapes, device)
    tokens = load.checked if compiled else max(load.scored, load.checked)
    # On a CPU nearly all that a layer computes stays in pieces until its end (see `freed pieces`).
    wide = _kept(shapes, adapter, device) if device.kind == "cpu" else 3 * shapes.hidden + shapes.kept // 3
    by_learner = tokens * wide * each
    activations = 8.0 * load.scored * (shapes.hidden + shapes.freed) if compiled else 0.0
    copies = 4.0 * shapes.layers * shapes.layer if activations else 0.0
    if shapes.scores:
        yield MemoryPart("scoring", "scores of one layer", AT_ONCE * shapes.scores * tokens * load.width)
    if by_learner > activations + copies:
        yield MemoryPart("scoring", "activations", by_learner)
    else:
        yield MemoryPart("scoring", "activations", activations)
        yield MemoryPart("scoring", "copies for compiled code", copies)
    yield from _made_anew(shapes, adapter)
    if "policy" in cast.learns and device.kind == "cpu":
        yield MemoryPart("scoring", "words", 8.0 * _some_words(shapes) + _copies_of_head(shapes, device))


def _activations(
    shapes: Shapes, adapter: Adapter | None, cast: Cast, load: Load, device: Device
) -> Iterator[MemoryPart]:
    each, of_a_layer = shapes.dtype.itemsize, _kept(shapes, adapter, device)
    scores = shapes.scores * load.learned * load.width
    for role in cast.learns:
        if role == "critic" and cast.value_head:
            continue
        if scores:
            layers = 1 if load.checkpointing else shapes.layers
            yield MemoryPart(role, "scores of attention", layers * scores)
        kept = 2 * shapes.hidden if load.checkpointing else of_a_layer
        yield MemoryPart(role, "activations", load.learned * shapes.layers * kept * each)
        if device.kind == "cpu":
            yield MemoryPart(role, "freed pieces", load.learned * shapes.layers * _freed(shapes, adapter) * each)
        if adapter is not None and adapter.in_4bit:
            if device.kind == "cpu":  # What was made and freed leaves holes that only smaller pieces fill.
                yield MemoryPart(role, "freed matrices", shapes.layers * shapes.linear * each)
        elif not load.checkpointing:
            yield MemoryPart(role, "copies of matrices", shapes.copied * each)
            if device.kind == "cpu" and adapter is None:  # The gradient of a copy is freed, too, and stays a hole.
                yield MemoryPart(role, "gradients of copies", shapes.copied * each)
    yield from _made_anew(shapes, adapter)
    # The backward pass is in one layer at a time, whose gradients are about as large as what it kept.
    yield MemoryPart("learning", "one layer, backward", load.learned * of_a_layer * each)
    if scores:  # On a CPU those of each layer stay free beside the next one's, which are as large.
        layers = shapes.layers if device.kind == "cpu" else 1
        yield MemoryPart("learning", "freed scores", AT_ONCE * layers * scores)
    if "policy" in cast.learns:
        yield MemoryPart("policy", "words", _words(shapes, load, device, adapter is None))


def _gathered(shapes: Shapes, adapter: Adapter | None, cast: Cast, device: Device) -> Iterator[MemoryPart]:
    """Yield what is whole of models in pieces while they learn: embeddings all the time, and layers by turns."""
    each, outside = shapes.dtype.itemsize, list(_outside_layers(shapes, adapter, cast, device))
    for role, rest in outside:
        slope = shapes.head if role == "policy" else 0  # That of the other embedding comes last.
        yield MemoryPart(role, "gathered embeddings", each * (rest + slope))
        if device.kind == "cpu" and shapes.layer * each <= KEPT_FREE_ON_RANKS:
            yield MemoryPart(role, "freed layers", 2.0 * shapes.layers * shapes.layer * each)  # sent, and put apart
    if outside:  # There are a layer, its gradients, which are sent in float32, and the next layer.
        yield MemoryPart("learning", "gathered layers", (3.0 * each + 4) * shapes.layer)


def _last_gradients(shapes: Shapes, adapter: Adapter | None, cast: Cast, device: Device) -> Iterator[MemoryPart]:
    """Yield what is whole of models in pieces at the end of a backward pass, when gradients of embeddings are sent."""
    outside = list(_outside_layers(shapes, adapter, cast, device))
    for role, rest in outside:
        yield MemoryPart(role, "gathered embeddings", 2.0 * shapes.dtype.itemsize * rest)
    if outside:
        yield MemoryPart("learning", "gradients to be sent", 4.0 * max(rest for _, rest in outside))


def _outside_layers(shapes: Shapes, adapter: Adapter | None, cast: Cast, device: Device) -> Iterator[tuple[str, float]]:
    """Yield the roles that are in pieces, with how many of their numbers are in no layer."""
    for role in cast.learns:
        if _pieces(adapter, device) > 1 and not (role == "critic" and cast.value_head):
            yield role, learned(shapes, None, role, cast) - shapes.layers * shapes.layer


def _kept(shapes: Shapes, adapter: Adapter | None, device: Device) -> int:
    """Return what a layer keeps of a token. On a CPU plain torch computes low precision, and norms in float32."""
    if device.kind != "cpu" or shapes.dtype not in LOW or not shapes.is_packed:
        return shapes.kept
    # A norm whose weight learns also keeps its result in float32, which is two numbers in low precision.
    return shapes.kept + shapes.torch_keeps + (2 if adapter else 4) * shapes.normed


def _freed(shapes: Shapes, adapter: Adapter | None) -> float:
    """Return what a layer frees of a token on a CPU. Plain torch copies what attention rotates once more."""
    if not shapes.is_packed:
        return shapes.freed if adapter is None else OF_PEFT * shapes.outputs(adapter.targets)
    return 2 * shapes.freed + shapes.normed if shapes.dtype in LOW else shapes.freed


def _words(shapes: Shapes, load: Load, device: Device, learns: bool) -> float:
    """Return the bytes of the probabilities of words, which exist for some tokens at a time."""
    each, all_words = shapes.dtype.itemsize, load.predicted * shapes.vocabulary
    head = shapes.head * 4.0 if learns else 0.0  # A gradient of the head is added to that of the embedding.
    if device.kind != "cpu":
        return min(all_words, LOGITS_GPU) * 2 * each + head
    copies = _copies_of_head(shapes, device)
    if all_words <= KEPT:
        return 4.0 * all_words + head + copies
    return 12.0 * _some_words(shapes) + head + 2 * copies  # Logits are computed again, and so is the copy.


def _some_words(shapes: Shapes) -> float:
    """Return how many probabilities there are at a time on a CPU."""
    return max(LOGITS, 64.0 * shapes.vocabulary)


def _copies_of_head(shapes: Shapes, device: Device) -> float:
    is_copied = device.kind == "cpu" and shapes.dtype == torch.float32 and shapes.head <= LARGEST
    return shapes.head * 4.0 if is_copied else 0.0


def peak(found: Sequence[PhaseMemory]) -> float:
    """Return the bytes of the phase that holds most."""
    return max(phase.total for phase in found)
