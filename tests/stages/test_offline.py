"""Learning from rankings directly: what the reference says about a completion is asked once, for all runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from resumable import build

from prefloop.engine.local import LocalEngine
from prefloop.record import Run
from prefloop.rewards.sequence import encode
from prefloop.stages.project import Project, load_policy
from prefloop.stages.train_offline import train_offline
from prefloop.types import digest


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of whom a forward pass was asked."""
    roles: list[str] = []
    forward = LocalEngine.forward

    def noted(self: LocalEngine, role: Any, batch: Any) -> torch.Tensor:
        roles.append(role)
        return forward(self, role, batch)

    monkeypatch.setattr(LocalEngine, "forward", noted)
    return roles


def test_a_second_run_does_not_ask_the_reference_again(tmp_path: Path, asked: list[str]) -> None:
    root = tmp_path / "project"
    build(root, with_reward=False)
    for lr, expected in ((1e-3, True), (1e-4, False)):
        asked.clear()
        with Project.open(root, ["align.algorithm=dpo", "align.epochs=2", f"align.lr={lr}"], quiet=True) as project:
            train_offline(project, 0)
        assert ("reference" in asked) is expected and "policy" in asked


def test_what_is_kept_is_what_the_reference_says_of_the_completion_alone(tmp_path: Path) -> None:
    root = tmp_path / "project"
    build(root, with_reward=False)
    with Project.open(root, ["align.algorithm=dpo", "align.epochs=1"], quiet=True) as project:
        train_offline(project, 0)
        reference = project.reference()
        model, codec = load_policy(project, reference)
        items = list(project.store.items(criterion="quality", ranked=True))
        known = project.store.logprobs(
            digest(reference.weights, codec.fingerprint), [c.id for item in items for c in item.completions]
        )
        assert len(known) > 60
        for prompt, completion in [(i.prompt, c) for i in items[:8] for c in i.completions if c.id in known]:
            ids, cut = encode(codec, prompt, completion)
            with torch.no_grad():
                logits: Any = model(input_ids=torch.tensor([ids])).logits[0, cut - 1 : -1]
            said = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[cut:])[:, None]).sum()
            assert known[completion.id] == pytest.approx(float(said), abs=1e-3)


def test_before_anything_is_learnt_half_of_the_pairs_are_in_order(tmp_path: Path) -> None:
    """Policy and reference are one, so that every implicit reward is 0: that is no order, and not the wrong one."""
    root = tmp_path / "project"
    build(root, with_reward=False)
    with Project.open(root, ["align.algorithm=dpo", "align.epochs=1"], quiet=True) as project:
        outcome = train_offline(project, 0)
    first, *_, last = Run(root / "runs" / str(outcome.run)).metrics()
    assert first["accuracy"] == 0.5
    assert first["examples"] == 4 and last["examples"] == (outcome.result["lists"] % 4 or 4)
