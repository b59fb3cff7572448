"""`[model] load_in_4bit`: layers under adapters are held in 4 bits, and whatever reads a weight reads the same one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_lora import DORA, KINDS, LORA, ROWS, by_transformers, drawn, engine_of, gradients, logp, moved, storages
from transformers import AutoModelForCausalLM, FalconConfig, FalconForCausalLM

from prefloop.algorithms.sft import Sft
from prefloop.config import Config, Lora, Model, make_config
from prefloop.engine import budget, forecast
from prefloop.engine.base import Term
from prefloop.engine.forecast import Adapter
from prefloop.engine.outline import outline_of
from prefloop.errors import ConfigError, ModelError
from prefloop.models.adapter_folder import read_adapter
from prefloop.models.four_bit import Quantised, quantise
from prefloop.models.load import load_causal
from prefloop.models.lora import add_adapter, merged
from prefloop.models.packed_forward import computed_by
from prefloop.models.policy import Policy
from prefloop.models.reward import load_reward_model, new_critic, new_reward_model
from prefloop.models.save import save_pretrained
from prefloop.models.shapes import shapes_of
from prefloop.models.trunk import Trunks
from prefloop.models.without_hub import without_hub_kernels
from tiny_models import causal, folder

with without_hub_kernels():
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: prefloop[bitsandbytes]")

IN_4BIT, DORA_IN_4BIT = (settings.model_copy(update={"load_in_4bit": True}) for settings in (LORA, DORA))
LOW = IN_4BIT.model_copy(update={"dtype": "bfloat16"})
WIDE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 6}


def quantised(model: Any) -> dict[str, Any]:
    return {name: part for name, part in model.named_modules() if isinstance(part, Quantised)}


# -- what is computed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_matrix_has_the_numbers_that_the_library_gives_it_and_they_are_near_its_own(dtype: torch.dtype) -> None:
    model = causal(**WIDE).to(dtype)
    own = {f"model.{name}": part.weight.detach().clone() for name, part in model.model.named_modules()
           if type(part) is torch.nn.Linear}  # fmt: skip
    quantise(model)
    assert quantised(model).keys() == own.keys() and type(model.lm_head) is torch.nn.Linear
    for name, part in quantised(model).items():
        by = bitsandbytes.functional
        expected = by.dequantize_4bit(*by.quantize_4bit(own[name], compress_statistics=True, quant_type="nf4"))
        assert torch.equal(part.weight, expected) and part.weight.dtype == dtype
        assert (part.weight - own[name]).float().std() < 0.12 * own[name].float().std()


CASES = [*((kind, IN_4BIT) for kind in KINDS), ("Llama", LOW), ("GPT2", DORA_IN_4BIT), ("Cohere", DORA_IN_4BIT)]


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=[f"{k}-{s.dtype}-{s.lora.dora}" for k, s in CASES])
def test_policy_and_reference_are_the_same_bits_and_the_policy_learns_what_peft_would(
    tmp_path: Path, kind: str, settings: Model
) -> None:
    trunks, base = Trunks(), folder(tmp_path / kind, kind)
    policy, _ = trunks.causal(base, settings, seed=1)
    reference, _ = trunks.causal(base, settings)
    assert torch.equal(logp(policy), logp(reference, as_learner=True)), "before the first step the KL is not 0"
    assert computed_by(policy, learns=True) == ("transformers" if kind == "Cohere" else "packed")
    plain = merged(reference)
    assert not quantised(plain) and torch.equal(logp(plain, as_learner=True), logp(reference, as_learner=True))
    moved(policy)
    ratio = torch.exp(Policy(policy.train())(ROWS).logp.detach() - logp(policy.eval()))
    assert torch.equal(ratio, torch.ones_like(ratio)), "the first ratio of a step is not 1"
    near = 0.1 if settings is LOW else 1e-5
    assert torch.allclose(logp(policy), logp(merged(policy)), atol=near)
    add_adapter(plain, settings.lora, "base", seed=1)
    theirs = by_transformers(moved(plain)).float()  # It has the same numbers, and no modules in 4 bits.
    assert torch.allclose(logp(policy), theirs.detach(), atol=near)
    expected = gradients(plain, theirs)
    found = gradients(policy, Policy(policy)(ROWS).logp)
    assert found.keys() == expected.keys() and all("lora_" in name for name in found)
    for name, gradient in found.items():
        apart = (gradient - expected[name]).norm() / expected[name].norm()
        assert apart < (0.1 if settings is LOW else 1e-4), name


# -- what is in memory -------------------------------------------------------------------------------------------------


def test_four_models_hold_one_trunk_of_as_many_bytes_as_the_plan_says(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", hidden_size=256, intermediate_size=512)
    trunks, settings = Trunks(), IN_4BIT.model_copy(update={"lora": Lora(rank=1)})
    policy, tokenization = trunks.causal(base, settings, seed=1)
    fresh, _ = new_reward_model(base, settings, 0, trunks=trunks)
    save_pretrained(fresh.model, tokenization, tmp_path / "reward")
    judge, _ = load_reward_model(tmp_path / "reward", settings, trunks)
    critic, _ = new_critic(tmp_path / "reward", settings, 0, trunks)
    reference, _ = trunks.causal(base, settings)
    said = forecast.trunk(shapes_of(policy.config, settings), Adapter(1, in_4bit=True))
    assert storages(reference) == pytest.approx(said, rel=0.01)
    maps = Path("/proc/self/maps")
    assert not maps.is_file() or str(base) not in maps.read_text(), "the file of the whole trunk is held in memory"
    assert storages(policy, reference, judge, critic) < 1.2 * said
    whole = Trunks()
    assert whole.causal(base, LORA)[0].standing.trunk is not whole.causal(base, IN_4BIT)[0].standing.trunk
    assert storages(whole.causal(base, LORA)[0]) > 2 * said


@pytest.mark.parametrize("kind", ["Llama", "GPTNeoX"])
def test_a_pass_keeps_no_matrix_for_its_backward_pass(tmp_path: Path, kind: str) -> None:
    base = folder(tmp_path / "base", kind, **WIDE)
    in_4bit, whole = (Trunks().causal(base, settings, seed=1)[0].train() for settings in (IN_4BIT, LORA))
    held = {name: budget._kept({"policy": Policy(model)}, 64, "cpu") for name, model in (("4", in_4bit), ("32", whole))}
    assert held["4"] <= held["32"]


# -- folders, engines and ranks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "lora"), [("Llama", Lora(rank=3, targets=("v_proj",))), ("GPT2", DORA.lora)])
def test_what_is_saved_is_an_ordinary_model_and_an_adapter_that_fits_its_base_in_any_number_of_bits(
    tmp_path: Path, kind: str, lora: Lora
) -> None:
    settings = IN_4BIT.model_copy(update={"lora": lora})
    trunks, base, out = Trunks(), folder(tmp_path / "base", kind), tmp_path / "out"
    policy, tokenization = trunks.causal(base, settings, seed=1)
    save_pretrained(moved(policy), tokenization, out)
    plain = AutoModelForCausalLM.from_pretrained(out)
    assert torch.allclose(by_transformers(plain), logp(policy), atol=1e-5)
    assert torch.equal(logp(load_causal(out, settings)[0]), logp(plain)), "it is not rounded to 4 bits once more"
    alone = load_causal(out / "adapter", settings)[0]
    assert torch.equal(logp(alone), logp(plain)) and all(p.requires_grad for p in alone.parameters())
    assert torch.equal(logp(trunks.causal(out, settings)[0], as_learner=True), logp(policy))
    for dtype in ("float32", "bfloat16"):
        full = LORA.model_copy(update={"dtype": dtype})
        assert not quantised(Trunks().causal(out, full)[0])
    # Where a model is the reference, it has the weights that the policy stands on, whatever reads it.
    assert torch.equal(logp(load_causal(base, settings)[0]), logp(trunks.causal(base, settings)[0]))
    folder(base, kind, seed=9)
    with pytest.raises(ModelError, match="other weights than the one that the adapter was trained on"):
        Trunks().causal(out, settings)


def test_an_adapter_from_before_stands_on_the_trunk_in_4_bits(tmp_path: Path) -> None:
    base, out = folder(tmp_path / "base"), tmp_path / "out"
    policy, tokenization = Trunks().causal(base, LORA, seed=1)
    save_pretrained(moved(policy), tokenization, out)
    again, _ = Trunks().causal(out, IN_4BIT)
    ours, theirs = dict(again.named_parameters()), dict(policy.named_parameters())
    assert quantised(again) and all(torch.equal(ours[name], theirs[name]) for name in theirs if "lora_" in name)
    assert read_adapter(out / "adapter").trained_on is not None


@pytest.mark.parametrize("settings", [IN_4BIT, DORA_IN_4BIT], ids=["lora", "dora"])
def test_the_learner_moves_the_adapter_alone_and_a_sampler_of_its_own_follows(tmp_path: Path, settings: Model) -> None:
    engine: Any = engine_of(folder(tmp_path / "base"), settings, own_sampler=True)
    reference = engine.models["reference"]
    kept = {name: p.clone() for name, p in reference.named_parameters()}
    assert storages(engine.sampled, engine.models["policy"]) < 1.9 * storages(reference)
    first = drawn(engine)
    engine.step(Term(ROWS, Sft()))
    assert drawn(engine) == first
    engine.sync()
    samples = drawn(engine)
    assert samples != first and all(torch.equal(p, kept[name]) for name, p in reference.named_parameters())
    whole = engine_of(tmp_path / "base", LORA)
    whole.models["policy"] = Policy(merged(engine.models["policy"].model))  # type: ignore[attr-defined]
    for ours, theirs in zip(samples, drawn(whole), strict=True):
        assert ours.ids == theirs.ids and ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)
    assert all("lora_" in name for name in engine.state().tensors["policy"])


def test_a_trunk_in_4_bits_is_sent_to_other_ranks_and_no_cast_changes_it(tmp_path: Path) -> None:
    policy = moved(Trunks().causal(folder(tmp_path / "base"), IN_4BIT, seed=1)[0])
    outline, tensors = outline_of({"policy": Policy(policy)})
    sent, made = outline.build(lambda spec: torch.empty(spec.shape, dtype=spec.dtype))
    with torch.no_grad():
        for mine, theirs in zip(made, tensors, strict=True):
            mine.copy_(theirs)
    assert torch.equal(logp(sent["policy"].model), logp(policy))
    (matrices, cast) = ({n: p.weight for n, p in quantised(model).items()} for model in (policy, policy.bfloat16()))
    assert matrices and all(torch.equal(matrices[name], cast[name]) for name in matrices)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_without_adapters_beside_vllm_or_without_linear_modules_it_is_refused() -> None:
    asked = {"path": "x", "load_in_4bit": True}
    with pytest.raises(ConfigError, match='load_in_4bit = True would have no effect: adapter = "none" trains all'):
        make_config({"model": asked})
    servers = {"backend": "vllm", "servers": ["http://127.0.0.1:1"]}
    with pytest.raises(ConfigError, match="vLLM gets adapters alone.*sample from another model"):
        make_config({"model": asked | {"adapter": "lora"}, "rollout": servers})
    allowed = make_config({"model": asked | {"adapter": "lora"}, "rollout": servers | {"backend": "sglang"}})
    assert isinstance(allowed, Config)
    falcon = FalconForCausalLM(FalconConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(ConfigError, match="FalconForCausalLM have no plain linear modules"):
        quantise(falcon)


def test_without_bitsandbytes_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r'load_in_4bit needs the package .*pip install "prefloop\[bitsandbytes\]"'):
        Trunks().causal(folder(tmp_path / "base"), IN_4BIT)
