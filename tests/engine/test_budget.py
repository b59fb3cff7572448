"""`token_budget = "auto"` takes as many tokens as fit, changes nothing that is learnt, and stays as a run began."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.algorithms.sft import Sft
from prefloop.config_section import Optimiser
from prefloop.engine import Training, make
from prefloop.engine.base import Term
from prefloop.engine.budget import MOST_CPU, coming, most_tokens
from prefloop.engine.local import LocalEngine
from prefloop.errors import TrainingError
from prefloop.models.checkpointing import checkpoint_layers
from prefloop.models.policy import Policy
from prefloop.models.reward import Critic
from prefloop.models.tokenization import make_tokenization
from prefloop.models.value_head import ValueHead
from prefloop.project.project import Project
from prefloop.record import write_json_atomic
from prefloop.stages.sft import sft
from prefloop.types import Demonstration, Prompt
from tiny_models import TINY_MODEL, causal, random_rows, tokenizer

SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 6}


def budgets(policy: Policy, *free: int, **others: Any) -> list[int]:
    models: Any = {"policy": policy, **others}
    return [most_tokens(models, "cpu", coming(models) + some) for some in free]


def test_a_budget_is_a_power_of_two_that_follows_memory_up_to_what_a_processor_can_use() -> None:
    policy = Policy(causal(**SIZES).train())
    found = budgets(policy, 4_000_000, 8_000_000, 64_000_000, 10**11)
    assert found[0] < found[1] < found[2] < found[3] == MOST_CPU
    assert all(n & (n - 1) == 0 for n in found)
    # Each of six layers keeps fifteen times its width of 64 numbers, in 4 bytes; 80 % of the memory are for that.
    assert found[2] <= 0.8 * 64_000_000 / (6 * 15 * 64 * 4) < 2 * found[2]


def test_what_is_kept_decides_the_budget() -> None:
    policy, free = Policy(causal(**SIZES).train()), 16_000_000
    alone = budgets(policy, free)[0]
    critic = Critic(_scorer().train(), 0.0, 1.0)
    assert budgets(policy, free, critic=critic)[0] < alone == budgets(policy, free, critic=ValueHead(policy))[0]
    checkpoint_layers(policy, "policy")
    assert budgets(policy, free)[0] >= 4 * alone


def test_moments_in_8_bits_leave_room_for_more_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model = causal("Llama", 300, **SIZES)
    less = coming({"policy": model}) - coming({"policy": model}, "adamw_8bit")
    assert less == pytest.approx(5.97 * sum(p.numel() for p in model.parameters()), rel=0.01)

    def found(optim: Any, free: int) -> int | None:
        monkeypatch.setattr("prefloop.engine.local.free_memory", lambda device: free)
        settings, lr = Optimiser(token_budget="auto", optim=optim), {"policy": 1e-3}
        policy = Policy(model)
        engine = make({"policy": policy}, make_tokenization(tokenizer(), model), 1, "cpu", Training(settings, 4, lr))
        return engine.fit_budget()

    free = coming({"policy": model}) + 3_800_000
    assert found("adamw_8bit", free - less) == found("adamw", free) == 64
    assert found("adamw_8bit", free) == 128


def _scorer() -> Any:
    import transformers

    model = causal(**SIZES)
    config = type(model.config)(**{**model.config.to_dict(), "num_labels": 1})
    return transformers.AutoModelForSequenceClassification.from_config(config)


def test_where_nothing_fits_the_error_says_what_takes_the_memory() -> None:
    with pytest.raises(TrainingError, match=r"token_budget = \"auto\": .* free.* not even 64 .*gradient_checkpointing"):
        budgets(Policy(causal(**SIZES).train()), 1_000_000)


def engine_of(budget: Any) -> Any:
    words = tokenizer()
    model = causal(vocab=len(words), sharp=3.0, attention_dropout=0.1)
    training = Training(Optimiser(token_budget=budget, lr=1e-2), 8, {"policy": 1e-2})
    return make({"policy": Policy(model)}, make_tokenization(words, model), 1, training=training)


def test_finding_the_budget_changes_no_bit_of_what_is_learnt() -> None:
    states = []
    for budget in (MOST_CPU, "auto"):
        engine = engine_of(budget)
        torch.manual_seed(3)
        assert engine.fit_budget() == (None if budget == MOST_CPU else MOST_CPU)
        engine.step(Term(random_rows(), Sft()))
        states.append({name: w.clone() for name, w in engine.state().tensors["policy"].items()})
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_budget_found_before_is_taken_without_looking_again() -> None:
    engine = engine_of("auto")
    assert engine.fit_budget(128) == 128
    assert isinstance(engine, LocalEngine) and engine.learner is not None
    assert (engine.token_budget, engine.learner.token_budget) == (128, 128)


def test_a_run_that_goes_on_takes_the_budget_of_its_manifest(tmp_path: Path) -> None:
    (tmp_path / "prefloop.toml").write_text(TINY_MODEL + "[data]\nheldout = 0\n[sft]\nbatch = 4\nepochs = 2\n")
    overrides = ["sft.token_budget=auto", "sft.checkpoint_every=1"]
    with Project.open(tmp_path, overrides, quiet=True) as project:
        project.store.add([Demonstration(Prompt(f"the cat {n}"), "sat on the mat") for n in range(8)])
        run = tmp_path / "runs" / sft(project).run
    with Project.open(tmp_path, overrides, quiet=True) as project:
        manifest = json.loads((run / "manifest.json").read_text())
        assert manifest["token_budget"] == MOST_CPU
        # As if it had been killed after its last step, on a machine where less was free.
        write_json_atomic(run / "manifest.json", manifest | {"status": "running", "token_budget": 64})
        assert sft(project).run == run.name
    assert json.loads((run / "manifest.json").read_text())["token_budget"] == 64
