"""Models outside what is known run by the slow path, or are refused in a sentence that says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from prefloop.batch import collate
from prefloop.config import Model
from prefloop.engine.base import Sampling
from prefloop.engine.decoding.base import Decoder
from prefloop.engine.decoding.recompute import RecomputingDecoder
from prefloop.engine.decoding.sampler import generate
from prefloop.engine.decoding.select import decoder_class
from prefloop.errors import ModelError
from prefloop.models.load import load_causal
from prefloop.models.policy import Policy
from prefloop.models.reward import new_reward_model
from tiny_models import causal, folder, tokenizer

IDS: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
SMALL: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2}
STATES: dict[str, dict[str, Any]] = {
    "Mamba2": {**SMALL, "state_size": 4, "num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 4},
    "RecurrentGemma": {
        **SMALL,
        "num_hidden_layers": 3,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "lru_width": 16,
    },
    "Jamba": {
        **SMALL,
        "num_hidden_layers": 4,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 2,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
}


def with_states(kind: str) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**STATES[kind], **IDS)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(5.0)
    return model


@pytest.mark.parametrize("kind", sorted(STATES))
def test_models_with_states_sample_what_they_learn_and_alone_as_together(kind: str) -> None:
    model, prompts, keys = with_states(kind), [[5, 6, 7], [8, 9], [5, 6, 7], [20]], [1, 2, 3, 4]
    assert decoder_class(model) is RecomputingDecoder
    drawn = generate(model, (1,), prompts, keys, Sampling(5), 0)
    assert len({s.ids for s in drawn}) > 1 and drawn[0].ids != drawn[2].ids
    alone = [generate(model, (1,), [p], [k], Sampling(5), 0)[0] for p, k in zip(prompts, keys, strict=True)]
    assert [s.ids for s in drawn] == [s.ids for s in alone]
    rows = collate([[*p, *s.ids] for p, s in zip(prompts, drawn, strict=True)], [len(p) for p in prompts])
    with torch.no_grad():
        logp = Policy(model)(rows).logp
    for row, prompt, sample in zip(logp, prompts, drawn, strict=True):
        ours = row[len(prompt) : len(prompt) + len(sample.ids)]
        assert torch.allclose(ours, torch.tensor(sample.logprobs), atol=1e-3)


@pytest.mark.parametrize("kind", ["Gemma2", "Cohere"])
def test_a_model_whose_cache_works_is_decoded_with_it(kind: str) -> None:
    assert decoder_class(causal(kind)) is Decoder


@pytest.mark.parametrize("method", ["fp8", "mxfp4", "gptq", "bitsandbytes"])
def test_a_quantised_model_is_refused_before_it_is_loaded(tmp_path: Path, method: str) -> None:
    path = folder(tmp_path / "m")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": method}}))
    with pytest.raises(ModelError, match=rf"quantised \({method}\).* Take the model that it was made from"):
        load_causal(path)


@pytest.mark.parametrize(("kind", "named"), [(torch.float8_e4m3fn, "F8_E4M3"), (torch.int8, "I8")])
def test_weights_of_few_bits_are_refused_though_the_config_says_nothing(
    tmp_path: Path, kind: torch.dtype, named: str
) -> None:
    path = folder(tmp_path / "m")
    weights = load_file(path / "model.safetensors")
    few = {name: w.to(kind) if "q_proj" in name else w for name, w in weights.items()}
    save_file(few, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"of {named} numbers \(.*q_proj.weight in model.safetensors\)"):
        load_causal(path)


def test_a_model_of_text_and_images_is_named_as_one(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    config = {"model_type": "llava", "text_config": json.loads((path / "config.json").read_text()), "vision_config": {}}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"a model of text and vision \(llava\).* language models of text alone"):
        load_causal(path)


def test_encoders_and_models_without_a_classifier_say_what_they_are(tmp_path: Path) -> None:
    path = folder(tmp_path / "t5")
    (path / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))
    with pytest.raises(ModelError, match=r"an encoder with a decoder \(t5\)"):
        load_causal(path)
    words = tokenizer()
    config = {**STATES["Mamba2"], **IDS, "vocab_size": len(words)}
    transformers.Mamba2ForCausalLM(transformers.Mamba2Config(**config)).save_pretrained(tmp_path / "mamba")
    words.save_pretrained(tmp_path / "mamba")
    assert load_causal(tmp_path / "mamba")[1].context > 0
    with pytest.raises(ModelError, match=r"no classifier of this kind \(mamba2\).*\[reward\] start"):
        new_reward_model(tmp_path / "mamba", Model(), 0)


def test_a_model_that_reads_ahead_is_refused(tmp_path: Path) -> None:
    words = tokenizer()
    sizes: dict[str, Any] = {**SMALL, "vocab_size": len(words), "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    transformers.BertForMaskedLM(transformers.BertConfig(**sizes)).save_pretrained(tmp_path / "m")
    words.save_pretrained(tmp_path / "m")
    with pytest.raises(ModelError, match="reads the tokens after it"):
        load_causal(tmp_path / "m")
