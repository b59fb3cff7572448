"""One suite, run against each engine that is shipped, says what every engine promises (`engine.base.Engine`)."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prefloop.algorithms.sft import Sft
from prefloop.batch import collate
from prefloop.config_rollout import Rollouts
from prefloop.config_section import Optimiser
from prefloop.engine import Engine, Training, make
from prefloop.engine.base import Sampling, State, Term
from prefloop.engine.placement import Placement
from prefloop.engine.refreshed import Refreshed
from prefloop.engine.scripted import ScriptedEngine
from prefloop.errors import TrainingError
from prefloop.kernels import native
from prefloop.models.policy import Policy
from prefloop.models.tokenization import make_tokenization
from served import serving
from tiny_models import causal, random_rows, tokenizer

PROMPTS = [[5, 6], [7, 8, 9], [10], [5, 6], [11, 12, 13, 14]]
KEYS = [3, 4, 5, 6, 7]
# They have more tokens than the smallest budget takes.
ROWS, OTHERS = random_rows(n=30, seed=0), random_rows(n=4, seed=1)


def training(budget: int) -> Training:
    settings = Optimiser(lr=1e-2, warmup=0.2, token_budget=budget)
    return Training(settings, 8, {"policy": 1e-2}, average=0.9)


def local(budget: int = 1000, placement: Placement = Placement()) -> Engine:  # noqa: B008 -- frozen
    words = tokenizer()
    model = causal(vocab=len(words), sharp=3.0)
    models: Any = {role: Policy(copy.deepcopy(model)) for role in ("policy", "reference", "refreshed")}
    return make(models, make_tokenization(words, model), 1, placement, training(budget))


def scripted(budget: int = 1000) -> Engine:
    return ScriptedEngine(training=training(budget))


def served(budget: int = 1000) -> Engine:
    """Return an engine whose samples come from a server."""
    folder, url = server()
    return local(budget, Placement(rollout=Rollouts(backend="prefloop", servers=(url,)), root=folder))


@cache
def server() -> tuple[Path, str]:
    """Return a project's folder and the address of a server, which ends with this process."""
    folder = Path(mkdtemp())
    local().save("policy", folder / "model")
    return folder, ALL.enter_context(serving(folder / "model"))


ALL = ExitStack()


@pytest.fixture(autouse=True, scope="module")
def ended() -> Iterator[None]:
    with ALL:
        yield
    if server.cache_info().currsize:
        shutil.rmtree(server()[0])


Make = Callable[..., Engine]
every_engine = pytest.mark.parametrize("make_one", [local, scripted, served])


def kept(state: State) -> State:
    files = {file: {n: x.clone() for n, x in some.items()} for file, some in state.tensors.items()}
    return State(files, copy.deepcopy(state.values))


def assert_same(a: State, b: State) -> None:
    assert a.values == b.values and a.tensors.keys() == b.tensors.keys()
    for file, tensors in a.tensors.items():
        assert tensors.keys() == b.tensors[file].keys()
        assert all(torch.equal(tensor, b.tensors[file][name]) for name, tensor in tensors.items()), file


def learnt(engine: Engine, steps: range) -> Engine:
    for step in steps:
        engine.step(Term(random_rows(seed=step), Sft()))
    return engine


@every_engine
def test_a_sample_depends_on_its_key_and_prompt_and_not_on_its_company(make_one: Make) -> None:
    engine, how = make_one(), Sampling(6)
    together = engine.generate(PROMPTS, KEYS, how)
    alone = [engine.generate([prompt], [key], how)[0] for prompt, key in zip(PROMPTS, KEYS, strict=True)]
    backwards = engine.generate(PROMPTS[::-1], KEYS[::-1], how)[::-1]
    assert [s.ids for s in together] == [s.ids for s in alone] == [s.ids for s in backwards]
    assert together[0].ids != together[3].ids, "another key gives another sample"
    assert all(len(s.ids) == len(s.logprobs) for s in together)


@every_engine
def test_what_a_model_says_of_a_row_does_not_depend_on_how_the_batch_is_split(make_one: Make) -> None:
    engine, narrow = make_one(), make_one(budget=64)
    whole = engine.forward("policy", ROWS)
    assert whole.shape == ROWS.ids.shape and not whole[~ROWS.action].any()
    assert torch.allclose(narrow.forward("policy", ROWS), whole, atol=1e-5)
    for row in range(len(ROWS)):
        one = engine.forward("policy", ROWS.select(torch.tensor([row])))[0]
        assert torch.allclose(one, whole[row, : len(one)], atol=1e-5)


@pytest.mark.parametrize("make_one", [local, served])
def test_what_a_sampler_may_draw_is_what_it_draws_and_little_else(make_one: Make) -> None:
    engine = make_one()
    for how in (Sampling(12), Sampling(12, temperature=0), Sampling(12, temperature=0.7, top_p=0.6)):
        made = engine.generate(PROMPTS, KEYS, how)
        rows = collate([[*p, *s.ids] for p, s in zip(PROMPTS, made, strict=True)], [len(p) for p in PROMPTS])
        low, high = (x[rows.action] for x in engine.drawable(rows, how))
        said = torch.tensor([x for s in made for x in s.logprobs])
        assert (low - 1e-5 <= said).all() and (said <= high + 1e-5).all() and (high - low).max() < 0.3
    others = engine.drawable(ROWS, Sampling(12, temperature=0))[0][ROWS.action].isinf()
    outside = engine.drawable(ROWS, Sampling(12, top_p=0.6))[0][ROWS.action].isinf()
    assert others.float().mean() > 0.95 and 0.5 < outside.float().mean() < others.float().mean()


@every_engine
def test_the_gradient_of_terms_is_their_sum_and_of_a_batch_that_of_its_parts(make_one: Make) -> None:
    engine, narrow = make_one(), make_one(budget=64)
    a, b = Term(ROWS, Sft()), Term(OTHERS, Sft(), scale=0.5)
    (_, of_a), (_, of_b), (_, of_both) = (engine.gradients(*terms) for terms in ((a,), (b,), (a, b)))
    _, in_parts = narrow.gradients(a, b)
    assert of_both and of_a.keys() == of_b.keys() == of_both.keys() == in_parts.keys()
    for name, gradient in of_both.items():
        assert torch.allclose(of_a[name] + of_b[name], gradient, atol=1e-5)
        assert torch.allclose(in_parts[name], gradient, atol=1e-5)
    assert max(float(g.abs().max()) for g in of_both.values()) > 1e-3


@every_engine
def test_asking_for_a_gradient_changes_nothing(make_one: Make) -> None:
    engine, calm = make_one(), make_one()
    engine.gradients(Term(OTHERS, Sft()))
    assert_same(learnt(engine, range(2)).state(), learnt(calm, range(2)).state())


@every_engine
def test_an_engine_restored_by_name_goes_on_to_the_same_bytes(make_one: Make) -> None:
    first = learnt(make_one(), range(3))
    saved = kept(first.state())
    again = learnt(make_one(), range(5, 6))  # What it did before is gone.
    again.restore(*saved)
    assert_same(again.state(), saved)
    names = saved.tensors["policy"].keys()
    assert {key.rpartition(".")[0] for key in saved.tensors["policy.adam"]} == names
    assert_same(learnt(again, range(3, 5)).state(), learnt(first, range(3, 5)).state())


@every_engine
@pytest.mark.parametrize("file", ["policy", "policy.adam", "policy.average", "refreshed"])
def test_a_state_with_names_of_another_model_is_refused_and_changes_nothing(make_one: Make, file: str) -> None:
    engine = learnt(make_one(), range(2))
    before = kept(engine.state())
    tensors, values = kept(learnt(make_one(), range(3)).state())
    changed = dict(tensors[file])
    first = next(iter(changed))
    changed[f"other.{first}"] = changed.pop(first)
    with pytest.raises(TrainingError, match="--new"):
        engine.restore({**tensors, file: changed}, values)
    assert_same(engine.state(), before)


@every_engine
def test_averaged_weights_are_there_inside_the_block_only(make_one: Make) -> None:
    engine = learnt(make_one(), range(3))
    own, before = engine.weights_hash("policy"), kept(engine.state())
    with pytest.raises(KeyError), engine.averaged_weights():
        assert engine.weights_hash("policy") != own
        raise KeyError
    assert engine.weights_hash("policy") == own
    assert_same(engine.state(), before)


@every_engine
def test_another_model_can_stand_for_the_policy(make_one: Make) -> None:
    engine = learnt(make_one(), range(3))
    alone = engine.with_policy("reference")
    assert torch.equal(alone.forward("policy", ROWS), engine.forward("reference", ROWS))
    assert not torch.equal(alone.forward("policy", ROWS), engine.forward("policy", ROWS))


@every_engine
def test_a_frozen_model_can_be_held_in_fewer_bits_and_one_that_learns_cannot(make_one: Make) -> None:
    engine = make_one()
    policy, reference = engine.weights_hash("policy"), engine.weights_hash("reference")
    engine.cast("reference", "bfloat16")
    assert engine.weights_hash("policy") == policy and engine.weights_hash("reference") != reference
    with pytest.raises(AssertionError, match="learns"):
        engine.cast("policy", "bfloat16")


@every_engine
def test_a_refreshed_reference_follows_the_policy_and_the_reference_stays(make_one: Make) -> None:
    engine = learnt(make_one(), range(3))
    start, learned = (copy.deepcopy(engine.state().tensors[role]) for role in ("refreshed", "policy"))
    reference, refreshed = engine.weights_hash("reference"), engine.weights_hash("refreshed")
    engine.refresh(keep=0.75)
    for name, tensor in engine.state().tensors["refreshed"].items():
        assert torch.allclose(tensor, 0.75 * start[name] + 0.25 * learned[name], atol=1e-7), name
    assert engine.weights_hash("refreshed") != refreshed and engine.weights_hash("reference") == reference
    engine.refresh()
    same = engine.forward("refreshed", ROWS, as_learner=True)
    assert engine.weights_hash("refreshed") == engine.weights_hash("policy")
    learnt(engine, range(3, 4))
    assert engine.weights_hash("refreshed") != engine.weights_hash("policy"), "it is a copy that does not learn"
    assert torch.equal(same, engine.forward("refreshed", ROWS, as_learner=True))


def test_a_refreshed_reference_in_few_bits_takes_steps_that_the_bits_cannot_tell() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 8).bfloat16()
    policy = {name: p.detach().float() + 1e-3 for name, p in model.named_parameters()}
    refreshed = Refreshed(model)
    for _ in range(100):
        refreshed.move(policy, keep=0.9)
    assert all(torch.allclose(w, policy[name], atol=1e-6) for name, w in refreshed.weights.items())
    assert all(torch.equal(p, policy[name].bfloat16()) for name, p in model.named_parameters())
    with pytest.raises(TrainingError, match="another shape: weight is"):
        refreshed.move({**policy, "weight": torch.zeros(3, 8)}, keep=0.9)


@every_engine
def test_an_engine_says_what_computes_each_of_its_models(make_one: Make) -> None:
    assert {"policy", "reference"} <= set(make_one().computed_by()["scoring"])


def test_what_computes_follows_the_model_and_what_it_is_for() -> None:
    """A model in half the bits, or one that learns, is not for code that was compiled for float32 and no gradients."""
    engine = local()
    found = engine.computed_by()
    best = "compiled" if native.AVAILABLE else "packed"
    assert found["sampling"] == best
    assert found["scoring"] == {"policy": "packed", "reference": best, "refreshed": best}
    assert found["learning"] == {"policy": "packed"}
    engine.cast("reference", "bfloat16")
    assert engine.computed_by()["scoring"] == {"policy": "packed", "reference": "packed", "refreshed": best}


@every_engine
def test_a_saved_model_is_a_hugging_face_folder_that_replaces_the_one_before(make_one: Make, tmp_path: Path) -> None:
    engine, folder = make_one(), tmp_path / "model"
    engine.save("policy", folder)
    first = load_file(folder / "model.safetensors")
    learnt(engine, range(2)).save("policy", folder)
    second = load_file(folder / "model.safetensors")
    assert (folder / "config.json").is_file() and [p.name for p in tmp_path.iterdir()] == ["model"]
    assert first.keys() == second.keys() and any(not torch.equal(first[name], second[name]) for name in first)
    engine.close()
