"""Adapters: what is computed with one is what peft computes, what is merged is the same, and one trunk serves all."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, FalconConfig, FalconForCausalLM

from prefloop.algorithms.sft import Sft
from prefloop.batch import Rows
from prefloop.config import Lora, Model
from prefloop.config_section import Optimiser
from prefloop.engine import Engine, Training, make
from prefloop.engine.base import Sampling, Term
from prefloop.engine.weights import publish_version, put_into, read_version
from prefloop.errors import ConfigError, ModelError
from prefloop.models.adapter_folder import WEIGHTS
from prefloop.models.load import load_causal
from prefloop.models.lora import adapted, add_adapter, copy_of, has_adapter, merged, share
from prefloop.models.matrix import Adapter, Matrix, multiply
from prefloop.models.packed import supports_packed
from prefloop.models.packed_forward import computed_by
from prefloop.models.policy import Policy
from prefloop.models.reward import Critic, load_reward_model, new_critic, new_reward_model
from prefloop.models.save import save_pretrained
from prefloop.models.trunk import Trunks
from prefloop.rewards.model import ModelScorer, WeightedRewardModel
from prefloop.training.learning_rates import OF_ADAPTERS, learning_rate, usual
from tiny_models import causal, folder, random_rows

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # by peft itself
KINDS = ["Llama", "Qwen3", "GPT2", "GPTNeoX", "Gemma3"]
ROWS = random_rows(vocab=200)
LORA = Model(path="x", adapter="lora", lora=Lora(rank=3, alpha=6))
DORA = Model(path="x", adapter="lora", lora=Lora(rank=3, alpha=6, dora=True))


def moved(model: Any, by: float = 0.1) -> Any:
    """Return the model with what learns in it changed, as if it had learnt."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn(parameter.shape, generator=draw))
    return model


@torch.no_grad()
def logp(model: Any, as_learner: bool = False, rows: Rows = ROWS) -> Tensor:
    return Policy(model)(rows, as_learner=as_learner).logp


def by_transformers(model: Any) -> Tensor:
    """Return log-probabilities of the tokens of answers by the model's own forward pass."""
    ids = torch.where(ROWS.mask, ROWS.ids, 0)
    logits = model(input_ids=ids, attention_mask=ROWS.mask.long(), position_ids=ROWS.positions).logits
    found = torch.log_softmax(logits[:, :-1], -1).gather(2, ids[:, 1:, None]).squeeze(2)
    return torch.where(ROWS.action, torch.nn.functional.pad(found, (1, 0)), 0.0)


def gradients(model: Any, of: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    of.sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# -- what an adapter computes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [LORA, DORA], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_computed_packed_as_peft_computes_it_and_learns_the_same(
    tmp_path: Path, kind: str, settings: Model
) -> None:
    trunks, base = Trunks(), folder(tmp_path / kind, kind)
    policy, _ = trunks.causal(base, settings, seed=1)
    reference, _ = trunks.causal(base, settings)
    assert torch.equal(logp(policy), logp(reference, as_learner=True)), "before the first step the KL is not 0"
    assert computed_by(policy, learns=True) == "packed"
    moved(policy)
    assert (logp(policy) - logp(reference)).abs().max() > 0.1
    ratio = torch.exp(Policy(policy.train())(ROWS).logp.detach() - logp(policy.eval()))
    assert torch.equal(ratio, torch.ones_like(ratio)), "the first ratio of a step is not 1"
    theirs = by_transformers(policy)
    assert torch.allclose(logp(policy), theirs.detach(), atol=1e-5)
    expected = gradients(policy, theirs)
    found = gradients(policy, Policy(policy)(ROWS).logp)
    assert found.keys() == expected.keys() and all("lora_" in name for name in found)
    for name, gradient in found.items():
        assert torch.allclose(gradient, expected[name], atol=2e-4, rtol=1e-3), name


def test_the_gradient_of_an_adapter_is_that_of_the_matrix_through_its_two_factors(tmp_path: Path) -> None:
    policy = moved(Trunks().causal(folder(tmp_path / "base"), LORA, seed=1)[0])
    whole = merged(policy).requires_grad_(True)
    of_whole = gradients(whole, Policy(whole)(ROWS).logp)
    found = gradients(policy, Policy(policy)(ROWS).logp)
    for name, module in adapted(policy):
        of_matrix, scale = of_whole[f"{name}.weight"], module.scaling["default"]
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        assert torch.allclose(found[f"{name}.lora_A.default.weight"], scale * b.T @ of_matrix, atol=1e-3)
        assert torch.allclose(found[f"{name}.lora_B.default.weight"], scale * of_matrix @ a.T, atol=1e-3)


class Made(TorchDispatchMode):
    """Keeps all tensors of a shape that are made inside."""

    def __init__(self, *shape: int):
        super().__init__()
        self.shape, self.found = shape, list[Tensor]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.shape == self.shape:
            self.found.append(out)
        return out


@pytest.mark.parametrize("residual", [False, True])
def test_what_a_matrix_gives_is_in_memory_once_with_an_adapter_as_without(residual: bool) -> None:
    x, onto = torch.randn(48, 16, requires_grad=True), torch.randn(48, 24) if residual else None
    plain = Matrix(torch.randn(24, 16), torch.randn(24))
    both = plain._replace(adapter=Adapter(torch.randn(3, 16, requires_grad=True), torch.randn(24, 3)))
    for matrix in (plain, both):
        with Made(48, 24) as made:
            found = multiply(x, matrix, onto)
        assert len({one.untyped_storage().data_ptr() for one in made.found}) == 1
    delta = x @ both.adapter.a.t() @ both.adapter.b.t() if both.adapter else x
    torch.testing.assert_close(found, x @ plain.weight.t() + plain.bias + (0 if onto is None else onto) + delta)


def test_what_is_merged_computes_the_same_and_merging_moves_no_weight(tmp_path: Path) -> None:
    for dtype, bound in (("float32", 1e-5), ("bfloat16", 0.3)):
        settings = LORA.model_copy(update={"dtype": dtype})
        policy = moved(Trunks().causal(folder(tmp_path / dtype, sharp=3.0), settings, seed=1)[0], 0.02)
        before = {name: p.clone() for name, p in policy.named_parameters()}
        for _ in range(20):
            whole = merged(policy)
        assert not has_adapter(whole) and has_adapter(policy)
        assert all(torch.equal(p, before[name]) for name, p in policy.named_parameters())
        assert 0 < (logp(policy) - logp(whole)).abs().max() < bound
        for name, module in adapted(policy):
            delta = module.scaling["default"] * module.lora_B["default"].weight @ module.lora_A["default"].weight
            expected = (module.base_layer.weight.float() + delta).to(policy.dtype)
            assert torch.equal(whole.get_submodule(name).weight, expected), "it is not added in float32"


def test_a_verdict_from_before_a_model_had_an_adapter_is_not_believed() -> None:
    model, other = causal(vocab=300), causal(vocab=300)
    assert supports_packed(model) and supports_packed(other)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    peft.inject_adapter_in_model(config, model)
    assert torch.allclose(logp(model), by_transformers(model).detach(), atol=1e-5)
    peft.inject_adapter_in_model(peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[]), other)
    assert not supports_packed(other) and computed_by(other) == "transformers"
    assert torch.allclose(logp(other), by_transformers(other).detach(), atol=1e-5)


def test_targets_are_all_linear_modules_of_the_layers_unless_some_are_named(tmp_path: Path) -> None:
    base = folder(tmp_path / "base")
    every = {name.rpartition(".")[2] for name, _ in adapted(Trunks().causal(base, LORA, seed=0)[0])}
    assert every == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    some = LORA.model_copy(update={"lora": Lora(targets=("v_proj",))})
    assert {name.rpartition(".")[2] for name, _ in adapted(Trunks().causal(base, some, seed=0)[0])} == {"v_proj"}
    wrong = LORA.model_copy(update={"lora": Lora(targets=("lm_head",))})
    with pytest.raises(ConfigError, match="lm_head.*There are down_proj"):
        Trunks().causal(base, wrong, seed=0)


def test_a_new_adapter_is_the_same_for_the_same_seed_alone(tmp_path: Path) -> None:
    base = folder(tmp_path / "base")
    first, again, other = (dict(Trunks().causal(base, LORA, seed=n)[0].named_parameters()) for n in (1, 1, 2))
    names = [name for name in first if "lora_A" in name]
    assert names and all(torch.equal(first[name], again[name]) for name in names)
    assert not any(torch.equal(first[name], other[name]) for name in names)


def test_an_adapter_learns_at_ten_times_the_rate_of_the_whole_model(tmp_path: Path) -> None:
    base = folder(tmp_path / "base")
    model = causal(hidden_size=16)
    model.config.hidden_size = 1024
    policy, _ = Trunks().causal(base, LORA, seed=0)
    policy.config.hidden_size = 1024
    assert usual("policy", model) == learning_rate("policy", 1024)
    assert usual("policy", policy) == pytest.approx(OF_ADAPTERS * learning_rate("policy", 1024))


# -- one trunk ---------------------------------------------------------------------------------------------------------


def storages(*models: Any) -> int:
    """Return the bytes of the parameters of models, each tensor once."""
    seen = {p.data_ptr(): p.nbytes for model in models for p in model.parameters()}
    return sum(seen.values())


def test_policy_reference_reward_model_and_critic_hold_the_memory_of_one(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", hidden_size=64, intermediate_size=128)
    small = Model(path="x", adapter="lora", lora=Lora(rank=1))
    reward, tokenization = new_reward_model(base, small, 0, trunks=Trunks())
    save_pretrained(reward.model, tokenization, tmp_path / "reward")
    trunks = Trunks()
    judge, _ = load_reward_model(tmp_path / "reward", small, trunks)
    policy, _ = trunks.causal(base, small, seed=1)
    reference, _ = trunks.causal(base, small)
    critic, _ = new_critic(tmp_path / "reward", small, 0, trunks)
    one = storages(reference)
    assert storages(policy, reference, judge, critic) < 1.25 * one
    assert storages(load_causal(base)[0], load_causal(base)[0]) > 1.9 * one, "the measure sees nothing"
    learns = {name for name, p in critic.named_parameters() if p.requires_grad}
    assert learns and all("lora_" in name or "score" in name for name in learns)
    ModelScorer([WeightedRewardModel("quality", judge, tokenization)])  # It freezes its own.
    assert learns == {name for name, p in critic.named_parameters() if p.requires_grad}
    before = critic(ROWS).detach()
    moved(critic)
    assert not torch.equal(critic(ROWS), before)
    assert torch.equal(judge(ROWS).score, load_reward_model(tmp_path / "reward", small)[0](ROWS).score)


def test_a_trunk_is_loaded_again_once_no_model_stands_on_it(tmp_path: Path) -> None:
    trunks, base = Trunks(), folder(tmp_path / "base")
    first, _ = trunks.causal(base, LORA)
    assert first.standing.trunk is trunks.causal(base, LORA, seed=0)[0].standing.trunk and len(trunks.held) == 1
    apart = trunks.causal(base, LORA.model_copy(update={"dtype": "bfloat16"}))[0]
    assert (
        apart.standing.trunk is not first.standing.trunk
        and apart.dtype == torch.bfloat16
        and first.dtype == torch.float32
    )


# -- the engine --------------------------------------------------------------------------------------------------------


def engine_of(base: Path, settings: Model = LORA, own_sampler: bool = False, average: float = 0.0) -> Engine:
    trunks = Trunks()
    policy, tokenization = trunks.causal(base, settings, seed=1)
    models: Any = {"policy": Policy(policy), "reference": Policy(trunks.causal(base, settings)[0])}
    models["refreshed"] = copy_of(models["policy"]).requires_grad_(False)
    training = Training(Optimiser(lr=5e-2, warmup=0.0), 8, {"policy": 5e-2}, average)
    return make(models, tokenization, 1, training=training, own_sampler=own_sampler)


def drawn(engine: Engine) -> list[Any]:
    return engine.generate([[5, 6], [7, 8, 9]] * 4, list(range(8)), Sampling(8))


@pytest.mark.parametrize("settings", [LORA, DORA], ids=["lora", "dora"])
def test_the_learner_moves_the_adapter_alone_and_samples_follow_it(tmp_path: Path, settings: Model) -> None:
    engine: Any = engine_of(folder(tmp_path / "base"), settings, average=0.5)
    kept, first = {n: p.clone() for n, p in engine.models["reference"].named_parameters()}, drawn(engine)
    for step in range(3):
        engine.step(Term(random_rows(seed=step), Sft()))
    assert all(torch.equal(p, kept[n]) for n, p in engine.models["reference"].named_parameters())
    tensors = engine.state().tensors
    for file in ("policy", "policy.average", "refreshed"):
        assert tensors[file] and all("lora_" in name for name in tensors[file]), file
    samples = drawn(engine)
    assert [s.ids for s in samples] != [s.ids for s in first]
    whole = make({"policy": Policy(merged(engine.models["policy"].model))}, engine.tokenization, 1)
    for ours, theirs in zip(samples, drawn(whole), strict=True):
        assert ours.ids == theirs.ids and ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)
    said = engine.computed_by()
    assert said["adapters"] == {"policy": "rank 3", "refreshed": "rank 3"} and said["learning"]["policy"] == "packed"


def test_a_sampler_of_its_own_follows_the_adapter_at_sync_and_holds_no_second_trunk(tmp_path: Path) -> None:
    engine: Any = engine_of(folder(tmp_path / "base"), own_sampler=True)
    assert storages(engine.sampled, engine.models["policy"]) < 1.5 * storages(engine.models["reference"])
    first = drawn(engine)
    engine.step(Term(ROWS, Sft()))
    assert drawn(engine) == first
    engine.sync()
    assert drawn(engine) != first


def test_a_reference_with_an_adapter_becomes_the_policy_and_the_one_that_stays_does_not(tmp_path: Path) -> None:
    engine = engine_of(folder(tmp_path / "base"))
    engine.step(Term(ROWS, Sft()))
    before = engine.forward("refreshed", ROWS, as_learner=True)
    assert torch.equal(before, engine.forward("reference", ROWS, as_learner=True))
    engine.refresh()
    assert torch.equal(engine.forward("refreshed", ROWS, as_learner=True), engine.forward("policy", ROWS))
    assert torch.equal(engine.forward("reference", ROWS, as_learner=True), before)


# -- folders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "settings"), [("Llama", LORA), ("GPT2", DORA)], ids=["llama-lora", "gpt2-dora"])
def test_a_saved_policy_is_a_whole_model_and_an_adapter_that_peft_reads(
    tmp_path: Path, kind: str, settings: Model
) -> None:
    trunks, base, out = Trunks(), folder(tmp_path / "base", kind), tmp_path / "out"
    policy, tokenization = trunks.causal(base, settings, seed=1)
    save_pretrained(moved(policy), tokenization, out)
    assert torch.equal(logp(load_causal(out)[0]), logp(merged(policy)))
    again, _ = trunks.causal(out, settings, seed=2)
    assert torch.equal(logp(again), logp(policy)) and any(p.requires_grad for p in again.parameters())
    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    theirs = peft.PeftModel.from_pretrained(plain, out / "adapter").eval()
    assert torch.equal(by_transformers(theirs), by_transformers(policy))
    said = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == str(base) and said["task_type"] == "CAUSAL_LM"
    assert said["modules_to_save"] is None, "a server that swaps adapters reads no other modules"
    # Alone, the adapter is a model too: added to its base, also where nothing is trained as an adapter.
    alone, _ = load_causal(out / "adapter")
    assert torch.equal(logp(alone), logp(merged(policy))) and all(p.requires_grad for p in alone.parameters())


@pytest.mark.parametrize("pad", [True, False], ids=["pad", "pad-is-eos"])
def test_a_reward_model_has_its_head_and_scale_again_to_the_bit(tmp_path: Path, pad: bool) -> None:
    base, out = folder(tmp_path / "base", pad=pad), tmp_path / "out"
    model, tokenization = new_reward_model(base, LORA, seed=1)
    moved(model)
    model.set_normalisation(0.5, 2.0)
    save_pretrained(model.model, tokenization, out)
    scores = model(ROWS).score
    for source in (out, out / "adapter"):
        again, read = load_reward_model(source, LORA)
        assert torch.equal(again(ROWS).score, scores) and (again.mean, again.std) == (0.5, 2.0)
        assert read.fingerprint == tokenization.fingerprint
    whole, _ = load_reward_model(out)
    assert not has_adapter(whole.model) and torch.allclose(whole(ROWS).score, scores, atol=1e-5)
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    plain.resize_token_embeddings(len(model.model.get_input_embeddings().weight))
    plain.config.pad_token_id = model.model.config.pad_token_id
    theirs = peft.PeftModel.from_pretrained(plain, out / "adapter").eval()
    ids = torch.where(ROWS.mask, ROWS.ids, plain.config.pad_token_id)
    with torch.no_grad():
        found = theirs(input_ids=ids, attention_mask=ROWS.mask.long()).logits[:, 0]
    assert torch.allclose(found, scores, atol=1e-5)


def test_what_another_program_trained_beside_an_adapter_is_kept_and_its_dropout_is_not(tmp_path: Path) -> None:
    base, theirs, out = folder(tmp_path / "base"), tmp_path / "theirs", tmp_path / "out"
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj"], lora_dropout=0.5, modules_to_save=["embed_tokens"], init_lora_weights=False
    )
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(0.5)
    model.save_pretrained(theirs)
    policy, tokenization = Trunks().causal(theirs, LORA)
    assert torch.allclose(logp(policy), by_transformers(model), atol=1e-5)
    assert not torch.allclose(logp(policy), logp(load_causal(base)[0]), atol=0.1)
    learner = Policy(policy.train())
    assert torch.equal(learner(ROWS).logp, learner(ROWS).logp)
    save_pretrained(policy.eval(), tokenization, out)
    for source in (out, out / "adapter"):
        assert torch.allclose(logp(Trunks().causal(source, LORA)[0]), logp(policy), atol=1e-6)
        assert torch.allclose(logp(load_causal(source)[0]), logp(policy), atol=1e-5)


def test_a_critic_of_a_whole_reward_model_gets_an_adapter_of_its_own(tmp_path: Path) -> None:
    base = folder(tmp_path / "base")
    reward, tokenization = new_reward_model(base, Model(), seed=1)
    save_pretrained(reward.model, tokenization, tmp_path / "whole")
    critic, _ = new_critic(tmp_path / "whole", LORA, 3)
    assert torch.allclose(critic(ROWS), Critic(reward.model, 0.0, 1.0)(ROWS), atol=1e-6)
    learns = {name for name, p in critic.named_parameters() if p.requires_grad}
    assert "model.score.weight" in learns and all("lora_" in name or "score" in name for name in learns)


def test_a_published_version_of_an_adapter_is_taken_over_by_a_server_of_the_whole_model(tmp_path: Path) -> None:
    engine = engine_of(folder(tmp_path / "base"))
    engine.step(Term(ROWS, Sft()))
    name = engine.weights_hash("policy")
    version = publish_version(tmp_path / "weights", name, lambda place: engine.save("policy", place))
    server = load_causal(tmp_path / "base")[0]
    before = logp(server)
    put_into(server, read_version(version.folder)[1], version.folder)
    assert torch.allclose(logp(server), engine.forward("policy", ROWS), atol=1e-5)
    assert not torch.allclose(logp(server), before, atol=1e-3)


def test_a_project_that_was_moved_finds_the_base_by_the_way_to_it(tmp_path: Path) -> None:
    base, out = folder(tmp_path / "here" / "base"), tmp_path / "here" / "run" / "model"
    policy, tokenization = Trunks().causal(base, LORA, seed=1)
    save_pretrained(moved(policy), tokenization, out)
    (tmp_path / "here").rename(tmp_path / "there")
    again, _ = Trunks().causal(tmp_path / "there" / "run" / "model", LORA)
    assert torch.equal(logp(again, as_learner=True), logp(policy))


def other_weights(base: Path, adapter: Path) -> None:
    folder(base, seed=9)


def other_shape(base: Path, adapter: Path) -> None:
    shutil.rmtree(base)
    folder(base, hidden_size=32)


def other_family(base: Path, adapter: Path) -> None:
    shutil.rmtree(base)
    folder(base, "GPT2")


def gone(base: Path, adapter: Path) -> None:
    shutil.rmtree(base)


def nameless(base: Path, adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))


def another_kind(base: Path, adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text('{"peft_type": "IA3", "base_model_name_or_path": "x"}')


def cut_off(base: Path, adapter: Path) -> None:
    (adapter / WEIGHTS).write_bytes((adapter / WEIGHTS).read_bytes()[:200])


def without_weights(base: Path, adapter: Path) -> None:
    (adapter / WEIGHTS).unlink()


def without_a_matrix(base: Path, adapter: Path) -> None:
    tensors = load_file(adapter / WEIGHTS)
    save_file({n: t for n, t in tensors.items() if "layers.1.mlp.up_proj.lora_B" not in n}, adapter / WEIGHTS)


def without_head(base: Path, adapter: Path) -> None:
    tensors = load_file(adapter / WEIGHTS)
    save_file({n: t for n, t in tensors.items() if "score" not in n}, adapter / WEIGHTS)


def of_an_adapter(base: Path, adapter: Path) -> None:
    shutil.copytree(adapter, adapter.with_name("first"))
    (adapter / "prefloop.json").unlink()
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(adapter.with_name("first"))
    (adapter / "adapter_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (other_weights, "does not fit .*base.*other weights"),
        (other_shape, "does not fit"),
        (other_family, "does not fit"),
        (gone, "no such folder. Put the model there"),
        (nameless, "does not say which model"),
        (another_kind, "kind IA3.*merge"),
        (cut_off, "cannot be read"),
        (without_weights, "has no adapter_model.safetensors"),
        (without_a_matrix, "does not fit.*up_proj"),
        (without_head, "head of a reward model was not saved.*modules_to_save"),
        (of_an_adapter, "which is an adapter itself"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    tmp_path: Path, spoil: Callable[[Path, Path], None], said: str
) -> None:
    base, out = folder(tmp_path / "base"), tmp_path / "out"
    model, tokenization = new_reward_model(base, LORA, seed=1)
    save_pretrained(model.model, tokenization, out)
    spoil(base, out / "adapter")
    with pytest.raises(ModelError, match=said):
        load_reward_model(out / "adapter")


def test_a_model_without_plain_linear_modules_is_refused_by_name() -> None:
    config = FalconConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(ConfigError, match='FalconForCausalLM have no plain linear.*adapter = "none"'):
        add_adapter(FalconForCausalLM(config), LORA.lora, "base", 0)


def test_sharing_copies_no_weight(tmp_path: Path) -> None:
    model = causal()
    shared = share(model)
    assert all(a is b for a, b in zip(model.parameters(), shared.parameters(), strict=True))
    assert not any(a is b for a, b in zip(model.modules(), shared.modules(), strict=True))
    assert not any(a is b for a, b in zip(model.parameters(), copy.deepcopy(model).parameters(), strict=True))
