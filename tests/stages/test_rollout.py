"""Prompts become a rollout batch: groups, rewards, the price of a cut-off answer, and what is said about it all."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.algorithms.registry import make
from prefloop.config_align import Rollout
from prefloop.engine.base import Engine, Sampling
from prefloop.engine.local import LocalEngine
from prefloop.engine.scripted import ScriptedEngine
from prefloop.models.policy import Policy
from prefloop.models.tokenization import Tokenization, make_tokenization
from prefloop.rewards.base import Scores
from prefloop.rewards.objective import Balance, Criterion, Goal
from prefloop.training.baselines import Baselines
from prefloop.training.fit import Order
from prefloop.training.kl_calibration import KlCalibration
from prefloop.training.progress import Progress
from prefloop.training.rollout import add_logprobs, describe, eos_rule, roll_out
from prefloop.types import Completion, Prompt
from tiny_models import causal, tokenizer


class Length:
    """Scores by the number of characters."""

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scores:
        values = [float(len(c.text)) for c in completions]
        return Scores(values, {"length": values})


@pytest.fixture(scope="module")
def tokenization() -> Tokenization:
    made = tokenizer()
    return make_tokenization(made, causal("Llama", len(made)))


@pytest.fixture(scope="module")
def engine(tokenization: Tokenization) -> LocalEngine:
    size = len(tokenization.tokenizer)
    models: Any = {"policy": Policy(causal("Llama", size)), "reference": Policy(causal("Llama", size, seed=1))}
    return LocalEngine(models, Tokenization(None, tuple(range(1, 60)), 1, False, 64), 3)


PROMPTS = [Prompt("the cat"), Prompt("a dog ran"), Prompt("mat")]


def rolled(engine: Engine, tokenization: Tokenization, k: int = 3, name: str = "x", **settings: Any) -> Any:
    encoded = [(p, tokenization.encode_prompt(p)) for p in PROMPTS]
    return roll_out(engine, tokenization, Length(), encoded, k, Sampling(8), Rollout(**settings), name, "v1")


def test_every_prompt_has_its_group_and_every_row_its_own_tokens(
    engine: LocalEngine, tokenization: Tokenization
) -> None:
    rolls = rolled(engine, tokenization)
    assert rolls.batch.group.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [p.id for p in rolls.prompts] == [p.id for p in PROMPTS for _ in range(3)]
    for n, c in enumerate(rolls.completions):
        ids, action = rolls.batch.ids[n], rolls.batch.action[n]
        assert tuple(ids[action].tolist()) == c.token_ids
        assert ids[rolls.batch.mask[n] & ~action].tolist() == tokenization.encode_prompt(rolls.prompts[n])
        assert rolls.batch.sampler_logp[n][action].tolist() == pytest.approx(c.logprobs)
        assert bool(rolls.batch.ended[n]) == (c.finish_reason == "stop")
    assert {True, False} == set(rolls.batch.ended.tolist()), "both kinds are needed to show anything"
    assert len({c.id for c in rolls.completions}) == 9 and len({c.token_ids for c in rolls.completions}) > 5


def test_scripted_answers_become_rows_with_their_own_tokens_and_ends(tokenization: Tokenization) -> None:
    """Even keys end by themselves. No model is needed to see where each number goes."""
    engine = ScriptedEngine()
    rolls = rolled(engine, tokenization, missing_eos="replace", missing_eos_penalty=9.0)
    assert engine.calls == ["generate"]
    for n, (ids, action) in enumerate(zip(rolls.batch.ids, rolls.batch.action, strict=True)):
        prompt = tokenization.encode_prompt(PROMPTS[n // 3])
        assert ids[action].tolist()[0] == prompt[-1] and int(action.sum()) == 2
        assert rolls.batch.sampler_logp[n][action].tolist() == [-0.5, -1.0]
        assert (float(rolls.batch.reward[n]) == -9.0) is not bool(rolls.batch.ended[n])
    assert {True, False} == set(rolls.batch.ended.tolist())


@pytest.mark.parametrize(
    ("name", "options", "asked"),
    [
        ("grpo", {}, ["forward policy", "forward reference"]),
        ("grpo", {"kl": 0}, ["forward policy"]),
        ("rloo", {"kl": 0}, ["forward policy"]),
        ("ppo", {}, ["forward policy", "forward reference", "forward critic"]),
        ("ppo", {"kl": 0}, ["forward policy", "forward critic"]),
        ("ppo", {"kl_target": 6}, ["forward policy", "forward reference", "forward critic"]),
    ],
)
def test_only_the_models_that_an_algorithm_needs_are_asked(
    tokenization: Tokenization, name: str, options: dict[str, Any], asked: list[str]
) -> None:
    engine, algorithm = ScriptedEngine(), make(name, options)
    rolls = rolled(engine, tokenization)
    engine.calls.clear()
    batch = add_logprobs(rolls.batch, engine, algorithm.needs)
    assert engine.calls == asked
    assert ("kl" in describe(rolls, batch)) is ("forward reference" in asked)
    credited, _ = algorithm.credit(batch)
    assert torch.isfinite(credited.advantage[credited.action]).all()


def test_the_same_name_gives_the_same_samples_and_another_name_others(
    engine: LocalEngine, tokenization: Tokenization
) -> None:
    a, b, c = (rolled(engine, tokenization, name=name) for name in ("x", "x", "y"))
    assert [x.token_ids for x in a.completions] == [x.token_ids for x in b.completions]
    assert [x.token_ids for x in a.completions] != [x.token_ids for x in c.completions]


def test_a_cut_off_answer_costs_what_the_settings_say(engine: LocalEngine, tokenization: Tokenization) -> None:
    reward, ended = torch.tensor([2.0, 3.0]), torch.tensor([True, False])
    for rule, expected in [("subtract", [2.0, 1.5]), ("replace", [2.0, -1.5]), ("off", [2.0, 3.0])]:
        assert eos_rule(reward, ended, Rollout(missing_eos=rule, missing_eos_penalty=1.5)).tolist() == expected
    rolls = rolled(engine, tokenization, missing_eos="subtract", missing_eos_penalty=100.0)
    for score, got, stop in zip(rolls.scores.total, rolls.batch.reward, rolls.batch.ended, strict=True):
        assert float(got) == pytest.approx(score if stop else score - 100.0)


def test_annotations_and_figures_are_those_of_the_models(engine: LocalEngine, tokenization: Tokenization) -> None:
    rolls = rolled(engine, tokenization)
    batch = add_logprobs(rolls.batch, engine)
    with torch.no_grad():
        old, ref = (engine.models[role](rolls.batch.rows()).logp for role in ("policy", "reference"))
    assert torch.allclose(batch.old_logp, old, atol=1e-5) and torch.allclose(batch.ref_logp, ref, atol=1e-5)
    assert batch.value is None
    figures, action = describe(rolls, batch), batch.action
    assert figures["sampler_mismatch"] < 1e-5
    assert figures["kl"] == pytest.approx(float((old - ref)[action].sum() / 9), rel=1e-4)
    assert figures["kl_k3"] == pytest.approx(float(((ref - old).exp() - 1 + old - ref)[action].sum() / 9), rel=1e-3)
    assert figures["entropy"] == pytest.approx(float(-old[action].mean()), rel=1e-4)
    assert figures["length"] == pytest.approx(sum(len(c.token_ids) for c in rolls.completions) / 9)
    assert figures["ended"] == pytest.approx(float(batch.ended.float().mean()))
    assert figures["reward"] == pytest.approx(sum(rolls.scores.total) / 9) and figures["sequences"] == 9


def test_an_epoch_takes_every_example_once_in_a_fresh_order() -> None:
    order = Order(n=10, batch=4, epochs=2.5, seed=7)
    assert order.steps == 8 and order.steps_per_epoch == 3
    epochs = [[i for step in range(3 * e, 3 * e + 3) for i in order.at(step)] for e in range(2)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs) and epochs[0] != epochs[1]
    assert order.at(4) == Order(10, 4, 9, 7).at(4) and order.at(4) != Order(10, 4, 2.5, 8).at(4)
    assert Order(3, 8, 0.1, 0).steps == 1


def test_forward_gives_the_same_in_parts_of_any_size(
    engine: LocalEngine, tokenization: Tokenization, tmp_path: Path
) -> None:
    rows = rolled(engine, tokenization).batch
    whole = engine.forward("policy", rows)
    small = LocalEngine(engine.models, tokenization, 0, token_budget=4)
    assert torch.allclose(small.forward("policy", rows), whole, atol=1e-5)
    assert whole.shape == rows.ids.shape and not math.isnan(float(whole.sum()))


def test_all_that_the_policy_loop_carries_comes_back_from_its_state() -> None:
    seen = {"figures": {"distinct_2": 0.5}, "rewards": [0.25]}
    evals = [{"step": 7, "reward": 0.5, "kl": 1.0}]
    start = Balance(Goal("constrained", (Criterion("b", bound=0.5), Criterion("a"))))
    balance = replace(start, recent={"b": (0.25,)}, logs={"b": 0.5}, margins={"b": 0.125})
    full = Progress(make("ppo", {"kl": 0.321}), balance, 7, 0.5, "KL is spent", True, 0.01, evals, seen, seen,
                    Baselines({"p": (0.25, 3)}))  # fmt: skip
    begun = KlCalibration.starting(0.05, 25.0, 1e-4, 10.0)
    full.calibration = begun.look(5, [1.0, 2.0], [0.5, 0.25], 0).steer(3.0)
    untouched = Progress(make("ppo"))
    assert all(getattr(full, f.name) != getattr(untouched, f.name) for f in fields(Progress))
    for progress, made in ((full, start), (untouched, None)):
        again = Progress(make("ppo", {"kl": 9.0}), made, 99, 9.0, "?", evals=[{}])
        again.calibration = begun if progress is full else None
        again.restore(json.loads(json.dumps(progress.state(), allow_nan=False)))
        assert again == progress
