"""A stage killed again and again comes to the same bytes as one left in peace: weights, metrics, result, samples."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ALGORITHMS = ["sft", "reward", "ppo", "grpo", "stale", "constrained", "dpo"]


@pytest.fixture(scope="module", params=ALGORITHMS)
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script = Path(__file__).with_name("resumable.py")
    command = [sys.executable, "-W", "ignore", str(script), request.param, str(tmp_path_factory.mktemp(request.param))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def test_kills_change_no_byte_of_weights_metrics_or_result(report: dict[str, Any]) -> None:
    assert report["kills"] >= 3, "a run that was not killed shows nothing"
    straight, broken = report["straight"], report["broken"]
    assert {"metrics.jsonl", "result.json"} <= straight["files"].keys()
    # Where no step was better than the start there is no model, but still what was kept as the best so far.
    assert {"model/model.safetensors", "best/model.safetensors"} & straight["files"].keys()
    assert broken["files"] == straight["files"]
    assert broken["registered"] == straight["registered"]
    assert broken["rollouts"] == straight["rollouts"]
    assert broken["runs"] == straight["runs"] == 1  # It was taken up, not begun anew.


def test_the_first_rollout_is_the_references_own(report: dict[str, Any]) -> None:
    """Before any update the KL is 0, the first ratio is 1, and the sampler agrees with the learner, so it is
    trusted.
    """
    metrics = report["straight"]["metrics"]
    if "eval_kl" not in metrics[0]:
        pytest.skip("this stage draws no samples")
    assert metrics[0]["step"] == 0 and metrics[0]["eval_kl"] == 0.0
    assert metrics[1]["kl"] == pytest.approx(0.0, abs=1e-5) and metrics[0]["eval_sampler_mismatch"] < 1e-5
    for line in metrics[1:]:
        assert "sampler_mismatch" not in line
        if line.get("staleness"):
            assert "first_ratio" not in line and 0 < line["stale_kl"] < 0.1
        else:
            assert line["first_ratio"] == pytest.approx(1.0, abs=1e-5)
    if "staleness" in metrics[-1]:
        assert [line["staleness"] for line in metrics[1:]] == [0, 1, 1, 1, 0, 1, 1, 1, 0, 1]
    assert abs(metrics[-1]["kl"]) > 1e-4


def test_a_constrained_run_that_is_killed_has_learnt_the_same_multiplier(report: dict[str, Any]) -> None:
    straight, broken = (
        [line.get("multiplier_brevity") for line in report[n]["metrics"]] for n in ("straight", "broken")
    )
    if straight[-1] is None:
        pytest.skip("this run has no constraint")
    assert broken == straight and len(set(straight)) == len(straight), "it moves at every step"


def test_forgetting_any_one_item_of_the_state_does_change_them(report: dict[str, Any]) -> None:
    """This is the negative control: the comparison above can fail."""
    for what, found in report["controls"].items():
        assert found["files"]["metrics.jsonl"] != report["straight"]["files"]["metrics.jsonl"], what
