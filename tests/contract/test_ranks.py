"""Two ranks keep every promise of an engine, and come to the numbers of one: gradients, metrics, samples, checkpoints.

This process is rank 0, and a second one serves it. They compute on CPUs over gloo.
"""

from __future__ import annotations

import gc
import inspect
import math
import os
import shutil
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import test_engines as contract
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from toy_batches import raw_batch, ready

from prefloop import record
from prefloop.algorithms.base import Loss
from prefloop.algorithms.registry import make as make_algorithm
from prefloop.algorithms.registry import names
from prefloop.algorithms.sft import Sft
from prefloop.batch import Rows
from prefloop.config import Lora
from prefloop.config_rollout import Rollouts
from prefloop.config_section import Optimiser
from prefloop.engine import Engine, Training, make, sharded_checkpoint
from prefloop.engine.base import Sampling, State, Term, terms_of
from prefloop.engine.checkpoint import load_checkpoint, save_checkpoint
from prefloop.engine.outline import outline_of
from prefloop.engine.placement import Placement
from prefloop.engine.processes import Ranks, _joined
from prefloop.engine.rank_learner import share_index
from prefloop.engine.spmd import GroupEngine
from prefloop.errors import ConfigError, RankError, TrainingError
from prefloop.models.lora import add_adapter, share
from prefloop.models.policy import Policy
from prefloop.models.reward import Critic, RewardModel
from prefloop.models.tokenization import make_tokenization
from prefloop.models.value_head import ValueHead
from prefloop.project.project import Project
from prefloop.stages.align import align
from prefloop.stages.sft import sft
from prefloop.stages.train_reward import reward
from served import serving
from tiny_models import causal, random_rows, tokenizer
from two_ranks import two_ranks

FLAT = Optimiser(lr=1e-2, warmup=0.0, schedule="constant")
WORDS = tokenizer()


@pytest.fixture(scope="module")
def group(tiny_with_reward: Path) -> Iterator[tuple[Ranks, subprocess.Popen[bytes]]]:
    """Commands that this process runs meet no ranks, so that the project is made before there are two."""
    with two_ranks() as found:
        yield found


@pytest.fixture(scope="module")
def ranks(group: tuple[Ranks, subprocess.Popen[bytes]]) -> Ranks:
    return group[0]


def scored(seed: int, dtype: torch.dtype = torch.float32) -> Any:
    """Return a tiny sequence classifier with one label."""
    config = causal(vocab=300, sharp=3.0).config
    config.num_labels = 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.LlamaForSequenceClassification(config).to(dtype).eval()


def models_of(*roles: str, kind: str = "Llama", dtype: torch.dtype = torch.float32) -> dict[Any, Any]:
    made: dict[str, Callable[[], Any]] = {
        "policy": lambda: Policy(causal(kind, vocab=300, sharp=3.0).to(dtype)),
        "reference": lambda: Policy(causal(kind, vocab=300, sharp=3.0).to(dtype)).requires_grad_(False),
        "refreshed": lambda: Policy(causal(kind, vocab=300, sharp=3.0).to(dtype)).requires_grad_(False),
        "critic": lambda: Critic(scored(1, dtype), 0.1, 2.0),
        "reward": lambda: RewardModel(scored(2, dtype)),
    }
    return {role: made[role]() for role in roles}


ADAPTER = Lora(rank=3, alpha=6)


def adapted_of(*roles: str, settings: Lora = ADAPTER) -> dict[Any, Any]:
    """Return models that stand on one trunk, each with an adapter; that of the reference is silent."""
    trunk = causal(vocab=300, sharp=3.0)
    made: dict[str, Any] = {}
    for seed, role in enumerate(("policy", "refreshed", "reference", "critic", "reward")):
        if role in ("critic", "reward"):
            model = scored(seed)
            model.model = share(trunk).model
        else:
            model = share(trunk)
        add_adapter(model, settings, "base", 0 if role == "refreshed" else seed)
        if role in ("critic", "reward"):
            model.score.requires_grad_(True)
        wrapped = {"critic": lambda m: Critic(m, 0.1, 2.0), "reward": RewardModel}.get(role, Policy)(model)
        made[role] = wrapped.requires_grad_(False) if role in ("reference", "refreshed") else wrapped
    return {role: made[role] for role in roles}


BOTH = pytest.mark.parametrize("made", [models_of, adapted_of], ids=["whole", "adapters"])
Made = Callable[..., dict[Any, Any]]


def training(budget: int | None = None, average: float = 0.0, **lr: float) -> Training:
    return Training(FLAT.model_copy(update={"token_budget": budget or 10**6}), 20, lr or {"policy": 1e-2}, average)


def on_one(models: dict[Any, Any], how: Training) -> Engine:
    return make(models, make_tokenization(WORDS, models["policy"].model) if "policy" in models else None, 1, "cpu", how)


def on_two(ranks: Ranks, models: dict[Any, Any], how: Training, own_sampler: bool = False) -> GroupEngine:
    words = make_tokenization(WORDS, next(iter(models.values())).model)
    return GroupEngine.make(ranks, models, words, 1, how, own_sampler, offload=True)  # It changes no result.


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Return how far two gradients are from one another, relative to the first."""
    assert a.keys() == b.keys() and a
    difference = sum(float((a[n].double() - b[n].double()).square().sum()) for n in a)
    return math.sqrt(difference / sum(float(x.double().square().sum()) for x in a.values()))


def single(batch: Any) -> Any:
    """Return the batch with its numbers in float32."""
    floats = {n: x.float() for n, x in vars(batch).items() if isinstance(x, Tensor) and x.dtype == torch.float64}
    return type(batch)(**{**vars(batch), **floats})


# -- the promises ------------------------------------------------------------------------------------------------------

TESTS = [f for name, f in vars(contract).items() if name.startswith("test_")]
PROMISES = [f for f in TESTS if "make_one" in inspect.signature(f).parameters]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda f: f.__name__)
def test_two_ranks_keep_the_promises_of_every_engine(
    promise: Callable[..., None], ranks: Ranks, tmp_path: Path
) -> None:
    def make_one(budget: int = 1000) -> GroupEngine:
        how = contract.training(budget)
        return on_two(ranks, models_of("policy", "reference", "refreshed"), how)

    wanted = inspect.signature(promise).parameters
    if "file" in wanted:
        for file in ("policy", "policy.adam", "policy.average", "refreshed"):
            promise(make_one, file)
    else:
        promise(make_one, **({"tmp_path": tmp_path} if "tmp_path" in wanted else {}))


# -- the numbers of one rank -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sft", *names()])
def test_the_gradient_on_two_ranks_is_that_of_one_for_every_method(name: str, ranks: Ranks) -> None:
    algorithm = Sft() if name == "sft" else make_algorithm(name, {})
    batch = random_rows(24) if name == "sft" else single(ready(algorithm, raw_batch(name)))
    lr = dict.fromkeys(algorithm.trains, 1e-2)
    one = on_one(models_of(*lr), training(**lr))
    metrics, expected = one.gradients(*terms_of(batch, algorithm))
    two = on_two(ranks, models_of(*lr), training(64, **lr))  # parts of a few rows, not equally many on both ranks
    found, gradient = two.gradients(*terms_of(batch, algorithm))
    assert apart(dict(expected), dict(gradient)) < 1e-5
    assert found == pytest.approx(metrics, rel=1e-5, abs=1e-6)
    two.close()


@pytest.mark.parametrize("kind", ["Llama", "Gemma2", "Cohere"])
def test_a_critic_on_the_policy_learns_on_two_ranks_as_on_one(kind: str, ranks: Ranks) -> None:
    def made() -> dict[Any, Any]:
        policy = models_of("policy", kind=kind)["policy"]
        head = ValueHead(policy)
        torch.nn.init.constant_(head.head.weight, 0.1)
        return {"policy": policy, "critic": head}

    algorithm = make_algorithm("ppo", {})
    batch, lr = single(ready(algorithm, raw_batch("ppo"))), {"policy": 1e-2, "critic": 1e-2}
    one, two = on_one(made(), training(**lr)), on_two(ranks, made(), training(64, **lr))
    assert torch.allclose(one.forward("critic", batch), two.forward("critic", batch), atol=1e-5)
    (metrics, expected), (found, gradient) = (engine.gradients(Term(batch, algorithm)) for engine in (one, two))
    assert apart(dict(expected), dict(gradient)) < 1e-5 and found == pytest.approx(metrics, rel=1e-5, abs=1e-6)


def test_layers_in_pieces_are_computed_again_in_the_backward_pass_and_the_budget_is_found_by_all_ranks(
    ranks: Ranks,
) -> None:
    rows = random_rows(24)
    settings = FLAT.model_copy(update={"token_budget": "auto", "gradient_checkpointing": True})
    for kind in ("Llama", "Gemma2"):
        two = on_two(ranks, models_of("policy", kind=kind), Training(settings, 20, {"policy": 1e-2}))
        budget = two.fit_budget()
        assert budget is not None and budget >= 64 and two.fit_budget(128) == 128
        _, expected = on_one(models_of("policy", kind=kind), training()).gradients(Term(rows, Sft()))
        assert apart(dict(expected), dict(two.gradients(Term(rows, Sft()))[1])) < 1e-5


@pytest.mark.parametrize("kind", ["GPT2", "Qwen3", "Gemma3", "Gemma2"])
def test_ranks_share_every_family_packed_or_by_transformers(kind: str, ranks: Ranks) -> None:
    rows = random_rows(9)
    one, two = (
        on_one(models_of("policy", kind=kind), training()),
        on_two(ranks, models_of("policy", kind=kind), training()),
    )
    assert apart(dict(one.gradients(Term(rows, Sft()))[1]), dict(two.gradients(Term(rows, Sft()))[1])) < 1e-5
    assert torch.allclose(one.forward("policy", rows), two.forward("policy", rows), atol=1e-5)
    assert two.computed_by()["learning"] == one.computed_by()["learning"] and two.computed_by()["ranks"] == 2


def test_a_rank_without_rows_takes_part_and_counts_nothing(ranks: Ranks) -> None:
    rows = random_rows(1)
    one, two = on_one(models_of("policy"), training()), on_two(ranks, models_of("policy"), training())
    (found, expected), (same, gradient) = one.gradients(Term(rows, Sft())), two.gradients(Term(rows, Sft()))
    assert apart(dict(expected), dict(gradient)) < 1e-5 and found == pytest.approx(same, rel=1e-6)
    assert torch.allclose(one.forward("policy", rows), two.forward("policy", rows), atol=1e-6)
    (a,), (b,) = (engine.generate([[5, 6]], [3], Sampling(5)) for engine in (one, two))
    assert a.ids == b.ids


def state_of(engine: Engine) -> dict[str, Tensor]:
    return {f"{file}/{n}": x.clone() for file, some in engine.state().tensors.items() for n, x in some.items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def stepped(engine: Engine, steps: range) -> Engine:
    for step in steps:
        torch.manual_seed(step)
        engine.step(Term(random_rows(seed=step), Sft()))
    return engine


@BOTH
def test_three_steps_on_two_ranks_are_the_same_bits_again_and_those_of_one_rank_to_a_millionth(
    made: Made, ranks: Ranks
) -> None:
    first, again = (stepped(on_two(ranks, made("policy"), training(average=0.9)), range(3)) for _ in range(2))
    assert equal(state_of(first), state_of(again))
    one = state_of(stepped(on_one(made("policy"), training(average=0.9)), range(3)))
    assert all(torch.allclose(x, one[n], atol=2e-6) for n, x in state_of(first).items())


@dataclass(frozen=True)
class BrokenOnOneRow(Sft):
    """Makes the loss of a row that begins with a certain token no number. Only one rank has it."""

    token: int = 0

    def loss(self, out: Any, batch: Rows) -> Loss:
        good = super().loss(out, batch)
        return Loss(good.total * (math.nan if bool((batch.ids[:, 0] == self.token).any()) else 1.0), good.metrics)


def test_a_gradient_that_is_not_finite_on_one_rank_makes_all_ranks_skip_the_step(ranks: Ranks) -> None:
    two, rows = on_two(ranks, models_of("policy"), training(average=0.9)), random_rows(6)
    stepped(two, range(1))
    before = state_of(two)
    metrics = two.step(Term(rows, BrokenOnOneRow(token=int(rows.ids[0, 0]))))
    assert metrics["skipped"] == 1.0 and math.isnan(metrics["grad_norm_policy"])
    assert equal(before, state_of(two))
    assert stepped(two, range(1, 2)).state().values["steps"] == 3 and not equal(before, state_of(two))


def test_a_model_in_bfloat16_learns_in_float32_pieces_and_is_saved_in_bfloat16(ranks: Ranks, tmp_path: Path) -> None:
    def made() -> dict[Any, Any]:
        return models_of("policy", "reference", dtype=torch.bfloat16)

    one, two = stepped(on_one(made(), training()), range(3)), stepped(on_two(ranks, made(), training()), range(3))
    held = two.state().tensors["policy"]
    assert {x.dtype for x in held.values()} == {torch.float32}
    near = [float((x - one.state().tensors["policy"][n]).abs().max()) for n, x in held.items()]
    assert max(near) < 0.03, "three steps at 1e-2 go the same way"
    two.save("policy", tmp_path / "model")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto")
    assert loaded.dtype == torch.bfloat16
    assert all(torch.equal(p, held[f"model.{n}"].bfloat16()) for n, p in loaded.named_parameters())


def test_rank_0_lets_a_whole_critic_go_and_saves_one_that_is_made_of_the_pieces(ranks: Ranks, tmp_path: Path) -> None:
    algorithm, lr = make_algorithm("ppo", {}), {"policy": 1e-2, "critic": 1e-2}
    batch, saved = single(ready(algorithm, raw_batch("ppo"))), []
    for engine_on in (on_one, partial(on_two, ranks)):
        models = models_of(*lr)
        engine, critic = engine_on(models, training(**lr)), weakref.ref(models.pop("critic"))
        gc.collect()
        engine.step(Term(batch, algorithm))
        engine.save("critic", tmp_path / "critic")
        saved.append((load_file(tmp_path / "critic" / "model.safetensors"), critic() is None))
    (expected, _), (found, is_gone) = saved
    assert is_gone and found.keys() == expected.keys()
    assert all(torch.allclose(x, expected[n], atol=1e-5) for n, x in found.items())


def test_ranks_that_only_train_hold_no_whole_policy_and_make_one_when_they_are_to_sample(ranks: Ranks) -> None:
    one, two = on_one(models_of("policy"), training()), on_two(ranks, models_of("policy"), training())
    stepped(one, range(2)), stepped(two, range(2))
    two.sync()
    assert not two.engine.has_sampler
    prompts, keys = [[5, 6], [7, 8, 9], [10]], [3, 4, 5]
    for step in range(2, 4):  # The first time it is made, and then it follows.
        drawn = [[s.ids for s in engine.generate(prompts, keys, Sampling(6))] for engine in (one, two)]
        assert drawn[0] == drawn[1] and two.engine.has_sampler
        stepped(one, range(step, step + 1)), stepped(two, range(step, step + 1))


def test_pieces_are_written_in_files_of_bounded_size_and_read_as_they_were(
    ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, most = stepped(on_two(ranks, models_of("policy"), training()), range(2)), 20_000
    monkeypatch.setattr(sharded_checkpoint, "LARGEST_FILE", most)
    save_checkpoint(tmp_path, 2, two.state().tensors, {})
    sizes = [file.stat().st_size for file in tmp_path.rglob("shard-*")]
    assert len(sizes) > 4 and max(sizes) < 1.5 * most, "a file of each kind and rank would be larger"
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert equal({f"{file}/{n}": x for file, some in found.files.items() for n, x in some.items()}, state_of(two))


@BOTH
def test_samples_do_not_depend_on_ranks_and_those_of_an_own_sampler_not_on_a_learner_at_work(
    made: Made, ranks: Ranks
) -> None:
    prompts = [[5, 6], [5, 6], [7, 8, 9], [10], [11, 12, 13, 14]]
    keys, how = [3, 4, 5, 6, 7], Sampling(6)
    one = on_one(made("policy", "reference"), training())
    two = on_two(ranks, made("policy", "reference"), training(), own_sampler=True)
    expected = one.generate(prompts, keys, how)
    found: list[Any] = []
    beside = threading.Thread(target=lambda: found.extend(two.generate(prompts, keys, how) for _ in range(8)))
    beside.start()
    for step in range(4):  # The stage scores meanwhile, too.
        assert torch.equal(two.forward("reference", random_rows()), two.forward("reference", random_rows()))
        stepped(two, range(step, step + 1))
    beside.join()
    assert all([s.ids for s in drawn] == [s.ids for s in expected] for drawn in found) and len(found) == 8
    assert [s.logprobs for s in found[0]] == [pytest.approx(s.logprobs, abs=1e-5) for s in expected]
    two.sync()
    stepped(one, range(4))
    assert [s.ids for s in two.generate(prompts, keys, how)] == [s.ids for s in one.generate(prompts, keys, how)]


class SlowToBeMade(Optimiser):
    """Makes the other rank need longer than this one to make an engine."""

    @property
    def usual_budget(self) -> int:
        linger()
        return super().usual_budget


class SlowToBeCopied(transformers.LlamaForCausalLM):
    """Makes the other rank need longer than this one to copy weights."""

    def parameters(self, recurse: bool = True) -> Iterator[torch.nn.Parameter]:
        linger()
        return super().parameters(recurse)


def linger() -> None:
    """Wait on the other rank, but for its thread that samples."""
    if os.environ["RANK"] == "1" and threading.current_thread() is threading.main_thread():
        time.sleep(0.3)


@BOTH
def test_an_own_sampler_draws_on_every_rank_by_the_weights_it_was_given_last_however_slow_a_rank_is(
    made: Made, ranks: Ranks
) -> None:
    prompts, keys, how = [[5, 6], [7, 8, 9], [10], [11, 12, 13, 14]], [3, 4, 5, 6], Sampling(6)

    def drawn(engine: Engine) -> list[Sequence[int]]:
        return [one.ids for one in engine.generate(prompts, keys, how)]

    one, models = on_one(made("policy"), training()), made("policy")
    models["policy"].model.__class__ = SlowToBeCopied
    slow = Training(SlowToBeMade(**FLAT.model_dump()), 20, {"policy": 1e-2})
    two = on_two(ranks, models, slow, own_sampler=True)
    assert drawn(two) == (at_first := drawn(one))
    stepped(one, range(3)), stepped(two, range(3))
    assert drawn(two) == at_first
    two.sync()
    assert drawn(two) == drawn(one) != at_first


@BOTH
def test_two_ranks_learn_from_samples_of_a_rollout_server_as_one_rank_does(
    made: Made, ranks: Ranks, tmp_path: Path
) -> None:
    on_one(models_of("policy"), training()).save("policy", tmp_path / "model")
    found = []
    with serving(tmp_path / "model") as url:
        where = Placement(rollout=Rollouts(backend="prefloop", servers=(url,), retries=0), root=tmp_path)
        for group in (None, ranks):
            if group:
                _joined.append(group)
            try:
                models = made("policy", "reference")
                words = make_tokenization(WORDS, models["policy"].model)
                engine = make(models, words, 1, where, training(average=0.9), own_sampler=True)
            finally:
                _joined.clear()
            drawn = []
            for step in range(2):
                drawn.append(engine.generate([[5, 6], [7, 8, 9], [10]], [3, 4, 5], Sampling(6)))
                stepped(engine, range(step, step + 1))
                engine.sync()
            drawn.append(engine.generate([[5, 6]], [3], Sampling(6, temperature=0)))
            drawn.append(engine.with_policy("reference").generate([[5, 6]], [3], Sampling(6, top_p=0.7)))
            found.append([s for some in drawn for s in some])
            engine.close()
    one, two = found
    assert [s.ids for s in one] == [s.ids for s in two] and len({s.weights for s in two}) > 1
    assert [s.logprobs for s in two] == [pytest.approx(s.logprobs, abs=1e-5) for s in one]


def test_dropout_on_two_ranks_is_a_function_of_the_seed_of_the_step(ranks: Ranks) -> None:
    def made(dropout: float = 0.3) -> GroupEngine:
        models = models_of("policy")
        for module in models["policy"].modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = dropout
        return on_two(ranks, models, training())

    first = stepped(made(), range(2))
    saved = State({f: dict(some) for f, some in first.state().tensors.items()}, first.state().values)
    again = made()
    again.restore(*saved)
    assert equal(state_of(stepped(again, range(2, 4))), state_of(stepped(first, range(2, 4))))
    assert not equal(state_of(stepped(made(0.0), range(4))), state_of(first))


def test_a_reward_model_that_two_ranks_train_is_whole_on_rank_0_after_a_sync(ranks: Ranks) -> None:
    models = models_of("reward")
    algorithm, batch = make_algorithm("plackett_luce", {}), single(raw_batch("plackett_luce"))
    two = on_two(ranks, models, training(average=0.5, reward=1e-2))
    for _ in range(3):
        two.step(Term(batch, algorithm))
    two.sync()
    weights, own = two.state().tensors["reward"], models["reward"]
    assert all(torch.equal(p, weights[n]) for n, p in own.named_parameters())
    with two.averaged_weights():
        averaged = two.state().tensors["reward"]
        assert all(torch.equal(p, averaged[n]) for n, p in own.named_parameters())
        assert not all(torch.equal(weights[n], x) for n, x in averaged.items())
    assert all(torch.equal(p, weights[n]) for n, p in own.named_parameters())


# -- adapters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dora"), [("sft", True), ("ppo", False), ("grpo", False), ("dpo", False), ("plackett_luce", True)]
)
def test_the_gradient_of_an_adapter_on_two_ranks_is_that_of_one(name: str, dora: bool, ranks: Ranks) -> None:
    algorithm = Sft() if name == "sft" else make_algorithm(name, {})
    batch = random_rows(24) if name == "sft" else single(ready(algorithm, raw_batch(name)))
    lr, settings = dict.fromkeys(algorithm.trains, 1e-2), ADAPTER.model_copy(update={"dora": dora})
    one = on_one(adapted_of(*lr, settings=settings), training(**lr))
    two = on_two(ranks, adapted_of(*lr, settings=settings), training(64, **lr))
    (metrics, expected), (found, gradient) = (engine.gradients(*terms_of(batch, algorithm)) for engine in (one, two))
    assert apart(dict(expected), dict(gradient)) < 1e-5
    assert found == pytest.approx(metrics, rel=1e-5, abs=1e-6)
    assert all("lora_" in name or "score" in name for name in gradient)


def test_every_rank_has_the_trunk_once_and_the_same_bits_of_every_adapter(ranks: Ranks) -> None:
    roles = ("policy", "reference", "refreshed", "critic")
    models = adapted_of(*roles)
    built, _ = outline_of(models)[0].build(lambda spec: torch.zeros(spec.shape, dtype=spec.dtype))

    def held(some: dict[Any, Any]) -> int:
        return sum({p.data_ptr(): p.nbytes for model in some.values() for p in model.parameters()}.values())

    assert held(built) == held(models) < 0.5 * sum(held({role: model}) for role, model in models.items())
    assert [p.requires_grad for p in built["critic"].parameters()] == [
        p.requires_grad for p in models["critic"].parameters()
    ]
    two = on_two(ranks, models, training(policy=1e-2, critic=1e-2))
    algorithm = make_algorithm("ppo", {})
    batch = single(ready(algorithm, raw_batch("ppo")))
    assert torch.equal(two.forward("policy", batch), two.forward("reference", batch, as_learner=True))
    for _ in range(3):
        assert two.step(*terms_of(batch, algorithm))["skipped"] == 0.0
    two.refresh(0.5)
    alone = on_one(models, training(policy=1e-2, critic=1e-2))
    for role in roles:
        found = two.forward(role, batch)
        for rank, index in enumerate(share_index(batch, 2)):
            expected = alone.forward(role, batch.select(index))
            assert torch.equal(found[index, : expected.shape[1]], expected), f"the {role} of rank {rank}"
    assert not torch.equal(two.forward("policy", batch), two.forward("reference", batch))


def test_adapters_have_moments_in_8_bits_on_two_ranks_as_on_one_and_models_in_pieces_are_refused_them(
    ranks: Ranks, tmp_path: Path
) -> None:
    how = Training(FLAT.model_copy(update={"optim": "adamw_8bit"}), 20, {"policy": 1e-2})
    large = Lora(rank=256, alpha=256)  # Smaller matrices have moments in float32.

    def two() -> GroupEngine:
        return on_two(ranks, adapted_of("policy", settings=large), how)

    first = stepped(two(), range(2))
    saved(first, tmp_path, 2)
    straight = state_of(stepped(first, range(2, 4)))
    again = two()
    assert resumed(again, tmp_path, ranks) == 2
    assert equal(state_of(stepped(again, range(2, 4))), straight)
    assert any(x.dtype == torch.uint8 for x in straight.values())
    one = stepped(on_one(adapted_of("policy", settings=large), how), range(4)).state().tensors["policy"]
    far = torch.cat([(x - straight[f"policy/{name}"]).abs().flatten() for name, x in one.items()])
    # Where gradients differ by rounding, a moment may go to the next of 256 values.
    assert far.mean() < 1e-6 and far.max() < 1e-2
    with pytest.raises(ConfigError, match=r'adamw_8bit" needs whole tensors.*optim = "adamw"'):
        on_two(ranks, models_of("policy"), how)


ONLINE = ["align.steps=3", "align.rollout.prompts=3", "align.rollout.k=2", "align.lr=1e-2", "align.max_tokens=6",
          "align.checkpoint_every=3", "align.evaluation.eval_every=3", "align.average=0.5"]  # fmt: skip
OFFLINE = ["align.algorithm=dpo", "align.lists=6", "align.passes=1", "align.lr=1e-2", "align.max_tokens=6",
           "align.evaluation.eval_every=2"]  # fmt: skip
ROUND: list[tuple[Any, list[str]]] = [
    (sft, ["sft.epochs=1", "sft.lr=1e-2"]),
    (reward, ["reward.lr=1e-2"]),
    (align, [*ONLINE, "align.algorithm=ppo", "align.rollout.staleness=1"]),
    (align, [*ONLINE, "align.algorithm=grpo"]),
    (align, OFFLINE),
]


def went_round(root: Path, ranks: Ranks | None) -> list[record.Run]:
    """Return the runs of all stages that train, with adapters."""
    found = []
    for stage, settings in ROUND:
        if ranks:
            _joined.append(ranks)
        try:
            with Project.open(
                root, ["model.adapter=lora", "model.lora.rank=2", "project.threads=1", *settings], quiet=True
            ) as project:
                stage(project)
        finally:
            _joined.clear()
        found.append(max(record.runs(root), key=lambda run: run.path.stat().st_mtime_ns))
    return found


def files_of(run: record.Run) -> set[str]:
    return {str(path.relative_to(run.path)) for path in run.path.rglob("*")}


def test_every_stage_that_trains_adapters_reports_on_two_ranks_what_it_reports_on_one(
    tiny_with_reward: Path, ranks: Ranks, tmp_path: Path
) -> None:
    one = went_round(Path(shutil.copytree(tiny_with_reward, tmp_path / "one")), None)
    two = went_round(Path(shutil.copytree(tiny_with_reward, tmp_path / "two")), ranks)
    for alone, shared in zip(one, two, strict=True):
        assert len(alone.metrics()) == len(shared.metrics()) > 1
        for expected, found in zip(alone.metrics(), shared.metrics(), strict=True):
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-4, nan_ok=True)
        assert files_of(alone) == files_of(shared)
        assert any(name.endswith("adapter/adapter_model.safetensors") for name in files_of(shared))
        assert alone.manifest["computed_by"].items() < shared.manifest["computed_by"].items()
    assert [run.metrics()[0]["eval_kl"] for run in two[2:4]] == [0.0, 0.0]
    assert [run.metrics()[1]["first_ratio"] for run in two[2:4]] == [1.0, 1.0]


# -- checkpoints -------------------------------------------------------------------------------------------------------


def saved(engine: Engine, root: Path, step: int) -> None:
    tensors, values = engine.state()
    save_checkpoint(root, step, tensors, {"engine": values, "progress": {"step": step}})


def resumed(engine: Engine, root: Path, ranks: Ranks | None) -> int:
    """Go on from the newest checkpoint, as `training.loop` does. Returns its step."""
    if ranks:
        _joined.append(ranks)
    try:
        found = load_checkpoint(root)
    finally:
        _joined.clear()
    assert found is not None and found.state["progress"] == {"step": found.step}
    engine.restore(found.files, found.state["engine"])
    return found.step


@BOTH
def test_a_run_of_two_ranks_goes_on_by_one_and_one_of_one_by_two(made: Made, ranks: Ranks, tmp_path: Path) -> None:
    def one() -> Engine:
        return on_one(made("policy", "refreshed"), training(average=0.9))

    def two() -> Engine:
        return on_two(ranks, made("policy", "refreshed"), training(average=0.9))

    quiet = state_of(stepped(two(), range(6)))
    for begins, goes_on, where in ((two, two, "2-2"), (two, one, "2-1"), (one, two, "1-2")):
        first = stepped(begins(), range(3))
        first.refresh(keep=0.5)
        saved(first, tmp_path / where, 3)
        second = goes_on()
        assert resumed(second, tmp_path / where, ranks if goes_on is two else None) == 3
        assert equal(state_of(second), state_of(first)), f"{where}: nothing is lost on the way"
        ended = state_of(stepped(second, range(3, 6)))
        same = {n: x for n, x in quiet.items() if not n.startswith("refreshed")}
        assert all(torch.allclose(ended[n], x, atol=2e-6) for n, x in same.items()), where
        if where == "2-2":
            assert all(torch.equal(ended[n], x) for n, x in same.items())
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".safetensors", ".json"}, "no pickle"


def test_a_damaged_piece_falls_back_one_checkpoint_on_ranks(ranks: Ranks, tmp_path: Path) -> None:
    two = on_two(ranks, models_of("policy"), training())
    before: dict[int, dict[str, Tensor]] = {}
    for step in (1, 2, 3):
        saved(stepped(two, range(step - 1, step)), tmp_path, step)
        before[step] = state_of(two)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    piece = sorted((tmp_path / "step-00000003" / "policy").iterdir())[1]
    content = bytearray(piece.read_bytes())
    content[-1] ^= 1
    piece.write_bytes(content)
    assert resumed(two, tmp_path, ranks) == 2 and equal(state_of(two), before[2])
    piece.unlink()
    assert resumed(two, tmp_path, ranks) == 2


def test_a_checkpoint_that_ranks_cannot_write_is_an_error_on_rank_0_and_the_one_before_stays(
    ranks: Ranks, tmp_path: Path
) -> None:
    two = on_two(ranks, models_of("policy"), training())
    saved(two, tmp_path, 1)
    (tmp_path / ".step-00000002.new").touch()  # A file stands where the folder would be made.
    with pytest.raises((TrainingError, OSError)):
        saved(two, tmp_path, 2)
    assert resumed(two, tmp_path, ranks) == 1


# -- the end -----------------------------------------------------------------------------------------------------------


def test_the_death_of_a_rank_in_a_step_is_an_error_within_the_time_limit(
    group: tuple[Ranks, subprocess.Popen[bytes]],
) -> None:
    """It comes last: after it there is one rank."""
    ranks, other = group
    two = on_two(ranks, models_of("policy"), training(budget=16))
    term = Term(random_rows(200), Sft())
    two.step(term)
    threading.Timer(0.2, other.send_signal, [signal.SIGKILL]).start()
    with pytest.raises(RankError, match="the same command goes on"):
        for _ in range(1000):
            two.step(term)
