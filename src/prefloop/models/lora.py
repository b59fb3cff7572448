"""Gives models LoRA adapters (Hu 2021) by peft, reads and writes them in peft's format, and merges them into copies.

An adapter is never merged in place: weights that are added and taken off again drift. `merged` makes a model of other
weights, computed in float32, which shares everything else.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from prefloop.config import Lora
from prefloop.errors import ConfigError, ModelError
from prefloop.models.adapter_folder import WEIGHTS, AdapterFolder, write_note
from prefloop.models.four_bit import KINDS, Quantised, put_weight, sampled
from prefloop.models.matrix import is_adapted, matrix_of, row_lengths
from prefloop.models.without_hub import without_hub_kernels

NAME = "default"  # what peft calls an adapter that has no other name
OWN = "of_its_own"  # an attribute of a model: the names of parameters beside its adapter that its base has otherwise
_PREFIX = "base_model.model."  # before every name in peft's files


def needs_peft() -> Any:
    """Return the library. Raises ConfigError that names the extra where it is not installed."""
    try:
        with without_hub_kernels():
            import peft
    except ImportError as error:
        raise ConfigError('adapters need the package peft: pip install "prefloop[lora]"') from error
    return peft


def share(model: PreTrainedModel) -> Any:
    """Return a model with modules of its own and the same weights: not copies, the same tensors."""
    kept = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in kept})


def copy_of(model: nn.Module) -> Any:
    """Return a copy of a model, to be changed apart from it. Of a model with an adapter, that alone is copied."""
    kept = [p for name, p in model.named_parameters() if not of_adapter(name)] if has_adapter(model) else []
    return copy.deepcopy(model, {id(tensor): tensor for tensor in kept})


@torch.no_grad()
def silent_copy(model: nn.Module) -> Any:
    """Return a frozen copy of a model with an adapter, which adds 0."""
    silent = copy_of(model).requires_grad_(False)
    for _, module in adapted(silent):
        module.lora_B[NAME].weight.zero_()
        if module.lora_magnitude_vector:
            module.lora_magnitude_vector[NAME].weight.copy_(row_lengths(module, NAME))
    return silent


def of_adapter(name: str) -> bool:
    """Return whether a parameter of this name belongs to an adapter."""
    return "lora_" in name


def adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the modules that have an adapter, by name."""
    return ((name, module) for name, module in model.named_modules() if is_adapted(module))


def has_adapter(model: nn.Module) -> bool:
    """Return whether any module of a model has an adapter."""
    return any(True for _ in adapted(model))


def rank_of(model: nn.Module) -> int:
    """Return the largest rank of a model's adapter; 0 without one."""
    return max((module.r[NAME] for _, module in adapted(model)), default=0)


# -- adapters of a model -----------------------------------------------------------------------------------------------


def add_adapter(model: PreTrainedModel, settings: Lora, base: str, seed: int) -> None:
    """Give a model a new adapter, which adds 0, and let nothing but it learn. Raises ConfigError for wrong targets.

    base: the folder or hub id of the model's weights, which the adapter's own folder will name
    """
    peft = needs_peft()
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=sorted(_targets(model, settings)),
        use_dora=settings.dora,
        base_model_name_or_path=base,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _inject(model, config)


def linear_names(model: PreTrainedModel) -> set[str]:
    """Return the names, without their paths, of the linear modules of a model's body."""
    return {
        name.rpartition(".")[2]
        for name, module in model.base_model.named_modules()
        if type(module) in KINDS or isinstance(module, Quantised) or is_adapted(module)
    }


def _targets(model: PreTrainedModel, settings: Lora) -> set[str]:
    known = linear_names(model)
    if not known:
        raise ConfigError(
            f"the layers of a {type(model).__name__} have no plain linear modules, which adapters are for. Set "
            '[model] adapter = "none", or take another model.'
        )
    if unknown := set(settings.targets) - known:
        raise ConfigError(
            f"[model.lora] targets names {', '.join(sorted(unknown))}, which is no linear module of the layers of a "
            f"{type(model).__name__}. There are {', '.join(sorted(known))}."
        )
    return set(settings.targets) or known


def _inject(model: PreTrainedModel, config: Any) -> None:
    """Put the modules of an adapter into a model, in float32. Everything else is frozen."""
    peft = needs_peft()
    model.requires_grad_(False)
    peft.inject_adapter_in_model(config, model, NAME)
    body = {id(module) for module in model.base_model.modules()}
    for name, module in adapted(model):
        if id(module) not in body:
            raise ModelError(f"the adapter changes {name}. prefloop trains adapters of a model's layers only.")
        for part in (module.lora_A, module.lora_B):
            part.float()
        if module.lora_magnitude_vector:
            module.lora_magnitude_vector[NAME].weight = nn.Parameter(row_lengths(module, NAME))
    model.eval()


# -- merging -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def merged(model: PreTrainedModel) -> Any:
    """Return a model without adapters that computes the same, up to rounding, and is held in 4 bits nowhere.

    What has no adapter, and is not in 4 bits, is shared.
    """
    plain = share(model)
    for name, module in list(adapted(plain)):
        linear = module.base_layer  # The module is the copy's own, and only its weight is shared.
        matrix = matrix_of(module, linear.weight.dtype).merged().weight
        put_weight(linear, matrix.t().contiguous() if isinstance(linear, Conv1D) else matrix)
        plain.set_submodule(name, linear)
    for module in plain.modules():
        if isinstance(module, Quantised):
            put_weight(module, module.weight)
    if hasattr(plain, "peft_config"):
        del plain.peft_config
    return plain


# -- folders -----------------------------------------------------------------------------------------------------------


def fingerprint(model: PreTrainedModel) -> str:
    """Return what identifies the weights that an adapter stands on, in any number type: a hash of some of each.

    Of weights in 4 bits these are numbers from before, so that an adapter fits both.
    """
    digest = hashlib.sha256()
    for name, module in sorted(adapted(model), key=lambda pair: pair[0]):
        base = module.base_layer
        quantised = isinstance(base, Quantised)
        shape, some = (base.shape, base.sample) if quantised else (base.weight.shape, sampled(base.weight))
        digest.update(f"{name} {tuple(shape)}".encode() + some.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def save_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Write a model's adapter, with its head if it has one, as peft does."""
    peft = needs_peft()
    config = copy.deepcopy(model.peft_config[NAME])
    heads = sorted({name.partition(".")[0] for name in _heads(model)})
    config.inference_mode, config.modules_to_save = True, heads or None
    config.task_type = "SEQ_CLS" if heads else "CAUSAL_LM"
    tensors = peft.get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False) | _beside(model)
    found = {f"{_PREFIX}{name}": t.detach().contiguous() for name, t in sorted(tensors.items())}
    config.save_pretrained(folder)
    save_file(found, folder / WEIGHTS, {"format": "pt"})
    write_note(folder, config.base_model_name_or_path, fingerprint(model))


def _beside(model: Any) -> dict[str, Tensor]:
    """Return the head of a classifier by name, and whatever else is not the base's, such as an embedding that grew."""
    own = getattr(model, OWN, ())
    return _heads(model) | {name: p for name, p in model.named_parameters() if name in own}


def _heads(model: Any) -> dict[str, Tensor]:
    if type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        return {}
    return {name: p for name, p in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}


def load_adapter(model: Any, source: AdapterFolder, head: bool = True) -> None:
    """Put the adapter of a folder into a model. Raises ModelError where it is for another model.

    head: whether a classifier's head is in the folder, too
    """
    peft = needs_peft()
    try:
        tensors = {name.removeprefix(_PREFIX): t for name, t in load_file(source.path / WEIGHTS).items()}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{source.path / WEIGHTS} cannot be read ({error}). Put it back from a backup.") from error
    config = peft.LoraConfig.from_pretrained(str(source.path))
    config.modules_to_save, config.inference_mode, config.base_model_name_or_path = None, False, source.base
    config.lora_dropout = 0.0  # With dropout the ratio of the first update is not 1.
    own = {name: t for name, t in tensors.items() if of_adapter(name)}
    others = {name: t for name, t in tensors.items() if name not in own}
    try:
        _inject(model, config)
        report = peft.set_peft_model_state_dict(model, own, adapter_name=NAME)
    except (ValueError, RuntimeError, KeyError) as error:
        raise _other_base(source, str(error).strip().splitlines()[0]) from error
    placed = {name for name, _ in model.named_parameters() if of_adapter(name)}
    lost = sorted(set(report.unexpected_keys) | {n for n in report.missing_keys if n in placed})
    if lost:
        raise _other_base(source, f"{lost[0]} has no place or no weights, and {len(lost) - 1} others")
    if source.trained_on not in (None, fingerprint(model)):
        raise _other_base(source, "that model has other weights than the one that the adapter was trained on")
    if head:
        _load_heads(model, others, source)


def _load_heads(model: Any, tensors: Mapping[str, Tensor], source: AdapterFolder) -> None:
    own, heads = dict(model.named_parameters(remove_duplicate=False)), _heads(model)
    if missing := sorted(heads.keys() - tensors.keys()):
        head = missing[0].partition(".")[0]
        raise ModelError(
            f"{source.path} has no {missing[0]}: the head of a reward model was not saved with its adapter. Save it "
            f'again with modules_to_save = ["{head}"] in its LoraConfig.'
        )
    for name, tensor in tensors.items():
        if name not in own:
            raise _other_base(source, f"{name} has no place in it")
        parent, _, leaf = name.rpartition(".")
        value = (
            tensor.clone() if name in heads else tensor.to(own[name].dtype)
        )  # in memory of its own, for the same bits
        learnt = nn.Parameter(value.to(own[name].device), requires_grad=name in heads)
        setattr(model.get_submodule(parent), leaf, learnt)
        if name not in heads:
            setattr(model, OWN, (*getattr(model, OWN, ()), name))
    model.config.vocab_size = len(model.get_input_embeddings().weight)
    model.tie_weights()


def _other_base(source: AdapterFolder, why: str) -> ModelError:
    return ModelError(
        f"the adapter in {source.path} does not fit {source.base}, which it names as its base: {why}. Give it the "
        'model that it was trained on ("base_model_name_or_path" in its adapter_config.json).'
    )
