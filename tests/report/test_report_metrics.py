"""Every metric that a real loop logs is explained, documented and checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from prefloop import record
from prefloop.algorithms import registry
from prefloop.config import CONFIG_NAME
from prefloop.project.project import Project
from prefloop.report.metrics import METRICS, explain, flag
from prefloop.stages.align import align
from prefloop.stages.crowd import crowd
from prefloop.stages.evaluate import evaluate
from prefloop.stages.report import report
from prefloop.stages.sample import sample
from prefloop.stages.sft import sft
from prefloop.stages.train_reward import reward
from prefloop.types import Demonstration, Prompt

DOCS = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
TINY = """
[project]
threads = 1
[model]
init = "scratch"
vocab_size = 80
hidden_size = 16
layers = 1
heads = 2
context = 64
[data]
heldout = 0.4
[sft]
epochs = 1
eval_every = 1
[sample]
max_tokens = 6
avoid_duplicates = false
[crowd]
scorer = "length"
[reward]
epochs = 1
eval_every = 1
normalise_prompts = 4
[align]
steps = 2
max_tokens = 6
[align.rollout]
prompts = 4
k = 2
[align.evaluation]
eval_every = 1
eval_prompts = 4
[evaluate]
max_tokens = 6
scorer = "length"
"""


def test_every_metric_of_a_real_loop_is_explained(tmp_path: Path) -> None:
    (tmp_path / CONFIG_NAME).write_text(TINY)
    logged: dict[str, set[str]] = {}
    for algorithm in registry.names("online", "offline"):
        with Project.open(tmp_path, [f"align.algorithm={algorithm}"], quiet=True) as project:
            shown = [Demonstration(Prompt(f"What is {n} and {n}?"), f"It is {2 * n}, I think.") for n in range(24)]
            project.store.add(shown)
            for stage in (sft, sample, crowd, reward):
                stage(project)
            name = str(align(project, 0).run)
            names = {n for line in record.Run(tmp_path / "runs" / name).metrics() for n in line}
            logged[algorithm] = names - {"step"}
            evaluate(project, 0)
            report(project)  # The results are real, not only those that the tests make up.
    logged["rest"] = {n for run in record.runs(tmp_path) for line in run.metrics() for n in line} - {"step"}
    unknown = sorted(n for names in logged.values() for n in names if explain(n) is None)
    assert unknown == []
    assert {"constant_groups"} < logged["grpo"] and {"explained_variance"} < logged["ppo"]
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "DPO learned from" in html and "by independent judge" in html


def test_every_metric_has_its_row_in_the_documentation() -> None:
    text = DOCS.read_text(encoding="utf-8")
    rows = [f"| `{m.name}` | {m.meaning} | {m.unit} | {m.healthy} | {m.source} |" for m in METRICS]
    assert [row for row in text.splitlines() if row in rows] == rows
    named = set(re.findall(r"`([a-z_0-9]+)`", text.split("## Which stage")[1].split("`timings.jsonl`")[0]))
    options = {"sft", "reward", "align", "eval_every"}
    assert {n for n in named - options if explain(n) is None} == set()


@pytest.mark.parametrize(
    ("name", "fine", "odd"),
    [
        ("kl", [0, 3, 6, 12], [0, 20, 51, 40]),
        ("eval_kl", [0, 3], [0, 51]),
        ("entropy", [2.0, 1.8, 1.6, 1.5], [2.0, 1.0, 0.3, 0.05]),
        ("ended", [0.2, 0.9, 0.97, 0.99], [0.99, 0.98, 0.97, 0.8]),
        ("length", [30, 33, 36, 40], [30, 33, 40, 46]),
        ("length", [30, 25, 22, 20], [30, 20, 15, 10]),
        ("first_ratio", [1.0, 1.000001], [1.0, 1.01]),
        ("ratio", [1.0, 0.9, 1.3], [1.0, 2.5]),
        ("ratio", [0.6, 1.0], [0.4, 1.0]),
        ("clip_fraction", [0.5, 0.1, 0.05, 0.02], [0.1, 0.2, 0.3, 0.35]),
        ("approx_kl", [0.05, 0.01, 0.001, 0.001], [0.001, 0.01, 0.02, 0.03]),
        ("explained_variance", [-2, -1, 0.1, 0.4], [0.4, 0.1, 0.0, -0.1]),
        ("constant_groups", [0.6, 0.4, 0.2, 0.1], [0.1, 0.3, 0.5, 0.7]),
        ("value_clip_fraction", [0.4, 0.1, 0.0, 0.0], [0, 0.1, 0.3, 0.3]),
        ("reward_std", [1.0, 0.8], [1.0, 0.0]),
        ("sampler_mismatch", [1e-5, 1e-2], [1e-5, 0.2]),
        ("skipped", [0, 0], [0, 0.5]),
        ("grad_norm_policy", [1, 2, 1, 3], [1, 2, 1, 60]),
        ("heldout_accuracy", [0.4, 0.6], [0.6, 0.45]),
        ("heldout_log_loss", [0.8, 0.6], [0.6, 0.8]),
    ],
)
def test_a_check_speaks_outside_its_range_and_only_there(
    name: str, fine: Sequence[float], odd: Sequence[float]
) -> None:
    assert flag(name, fine) is None
    assert flag(name, odd)


def test_the_gradient_of_an_epochs_last_few_examples_is_no_spike() -> None:
    norms, examples = [1.0, 2.0, 1.0, 60.0], [32.0, 32.0, 32.0, 1.0]
    assert flag("grad_norm_policy", norms, examples) is None
    assert flag("grad_norm_policy", norms, [32.0, 32.0, 1.0, 32.0])
    assert flag("grad_norm_policy", norms, [None, None, None, None])


def test_a_name_without_a_check_or_without_values_is_never_marked() -> None:
    assert flag("reward", [-100.0]) is None and flag("made_up", [1.0]) is None and flag("kl", []) is None
    assert explain("reward_helpful") is explain("eval_reward_helpful") is not None
    assert explain("reward") is not explain("reward_helpful")
