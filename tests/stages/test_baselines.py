"""The running mean reward of a prompt is known before a step, and follows the step's rewards after it."""

from __future__ import annotations

import json

import pytest
import torch

from prefloop.training.baselines import Baselines


def test_a_prompts_baseline_is_the_mean_of_its_earlier_steps_and_later_follows_the_newest() -> None:
    baselines = Baselines()
    first = torch.tensor([1.0, 3.0, -1.0])
    assert baselines.of(["a", "a", "b"], first).tolist() == [1.0, 1.0, 1.0]  # No prompt was asked before.
    baselines.see(["a", "a", "b"], first)
    assert baselines.of(["b", "a", "new"], torch.tensor([0.0, 0.0, 9.0])).tolist() == [-1.0, 2.0, 3.0]
    baselines.see(["a"], torch.tensor([5.0]))
    assert baselines.known["a"] == (pytest.approx((2.0 + 5.0) / 2), 2)
    for _ in range(60):
        baselines.see(["a"], torch.tensor([5.0]))
    before = baselines.known["a"][0]
    baselines.see(["a"], torch.tensor([15.0]))
    assert baselines.known["a"][0] == pytest.approx(before + 0.1 * (15.0 - before))


def test_baselines_come_back_from_json_to_the_bit() -> None:
    baselines = Baselines()
    baselines.see(["a", "b"], torch.tensor([0.1, 1 / 3]))
    assert Baselines.restored(json.loads(json.dumps(baselines.state()))) == baselines
