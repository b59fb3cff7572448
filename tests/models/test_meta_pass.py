"""What a pass on the meta device counts is what a real pass keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prefloop.models.load import disable_dropout
from prefloop.models.meta_pass import meta_pass
from tiny_models import causal

LENGTH = 48


def really_kept(model: Any) -> float:
    """Return the bytes of the tensors that a pass on one text keeps for the backward pass, but for the weights."""
    own = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return x

    ids = torch.arange(LENGTH)[None] % 30
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return float(sum(storage.nbytes() for storage in kept.values()))


@pytest.mark.parametrize("kind", ["Cohere", "Gemma2", "GPT2"])  # Gemma 2 holds its scores of attention.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pass_without_numbers_keeps_what_a_real_one_does(kind: str, dtype: torch.dtype) -> None:
    model = causal(kind).to(dtype).train()
    disable_dropout(model)
    with torch.device("meta"):
        counted = meta_pass(type(model)(model.config).to(dtype))
    assert counted is not None
    assert (counted.pairs > 0) == (kind == "Gemma2")
    assert counted.kept * LENGTH + counted.pairs * LENGTH**2 == pytest.approx(really_kept(model), rel=0.15)
    assert counted.freed > 0


def test_what_is_no_model_of_texts_is_not_counted() -> None:
    class Strange(torch.nn.Module):
        dtype, config = torch.float32, causal("Llama").config

        @property
        def base_model(self) -> Any:
            def ask(**_: Any) -> None:
                raise RuntimeError("Tensor.item() cannot be called on meta tensors")

            return ask

    assert meta_pass(Strange()) is None
