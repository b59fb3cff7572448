"""Loads models that share one frozen trunk: policy, reference, reward models and critic, each with its own adapter.

Every model is a tree of modules of its own around the same weights, so that no adapter has to be switched on or off,
and models may compute at the same time. A trunk is in memory once, for as long as any of its models is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoModelForCausalLM, PreTrainedModel

from prefloop.config import Model
from prefloop.errors import ModelError
from prefloop.models.adapter_folder import AdapterFolder, adapter_in
from prefloop.models.four_bit import quantise
from prefloop.models.load import disable_dropout, from_pretrained, load_tokenizer
from prefloop.models.lora import add_adapter, load_adapter, share
from prefloop.models.tokenization import Tokenization, make_tokenization

Key = tuple[str, str, str | None, bool, bool]


class Trunks:
    """Holds the trunks that models stand on now, by where they come from, as long as one of these models lives."""

    def __init__(self) -> None:
        self.held: WeakValueDictionary[Key, PreTrainedModel] = WeakValueDictionary()

    def trunk(self, base: str, settings: Model) -> Any:
        """Return the frozen model of a folder or hub id."""
        code, bits = settings.trust_remote_code, settings.load_in_4bit
        key = str(base), settings.dtype, settings.revision, code, bits
        found = self.held.get(key)
        if found is None:
            found = from_pretrained(AutoModelForCausalLM, base, settings)
            disable_dropout(found)
            if settings.load_in_4bit:
                quantise(found)
            self.held[key] = found.requires_grad_(False).eval()
        return found

    def causal(
        self, source: str | Path, settings: Model, seed: int | None = None
    ) -> tuple[PreTrainedModel, Tokenization]:
        """Return the causal model of a folder with the adapter that it was trained as, and its tokenization.

        seed: that of a new adapter, for a folder without one; with None nothing of the model learns
        """
        model, adapter, base = self._standing(source, settings, share)
        if adapter is not None:
            load_adapter(model, adapter)
        elif seed is not None:
            add_adapter(model, settings.lora, base, seed)
        if seed is None:
            model.requires_grad_(False)
        return model, make_tokenization(load_tokenizer(source, settings), model, settings.chat)

    def classifier(self, source: str | Path, settings: Model, seed: int | None = None) -> PreTrainedModel:
        """Return a sequence classifier with one label on the trunk of a folder, with an adapter.

        seed: that of a new adapter for a folder without one, and of a head of zeros; None asks for the folder's own
        """
        model, adapter, base = self._standing(source, settings, _classifier)
        if adapter is not None:
            load_adapter(model, adapter, head=seed is None)
        elif seed is not None:
            add_adapter(model, settings.lora, base, seed)
        return model

    def _standing(
        self, source: str | Path, settings: Model, make: Callable[[PreTrainedModel], Any]
    ) -> tuple[Any, AdapterFolder | None, str]:
        """Return what `make` makes of the trunk of a folder, the adapter that is to be put in, and the trunk's base."""
        adapter = adapter_in(source)
        base = str(source) if adapter is None else adapter.base
        base = str(Path(base).resolve()) if Path(base).is_dir() else base
        trunk = self.trunk(base, settings)
        model = make(trunk)
        model.standing = Standing(trunk)
        return model, adapter, base


class Standing:
    """Lets a trunk live as long as the model that stands on it. A copy holds the same trunk, and a pickle none."""

    def __init__(self, trunk: PreTrainedModel | None):
        self.trunk = trunk

    def __deepcopy__(self, _: object) -> Standing:
        return self

    def __reduce__(self) -> tuple[type[Standing], tuple[None]]:
        return Standing, (None,)


def _classifier(trunk: PreTrainedModel) -> Any:
    config: Any = copy.deepcopy(trunk.config)
    config.num_labels = 1
    try:
        kind: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    except KeyError as error:
        raise ModelError(
            f"transformers has no sequence classifier of a {type(trunk).__name__}: it cannot be a reward model."
        ) from error
    with torch.device("meta"):
        model = kind(config)
    setattr(model, model.base_model_prefix, share(trunk).base_model)
    for name, parameter in list(model.named_parameters()):
        if parameter.is_meta:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, nn.Parameter(torch.zeros(parameter.shape)))
    return model.eval()
