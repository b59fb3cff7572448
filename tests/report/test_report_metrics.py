"""Every metric that a real loop logs is explained and documented, and the report says of it what the findings say."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prefloop import record
from prefloop.config import CONFIG_NAME
from prefloop.diagnose.diagnosis import diagnose
from prefloop.diagnose.reading import read_run
from prefloop.project.project import Project
from prefloop.report.collect import StoreFacts, collect
from prefloop.report.metrics import METRICS, explain
from prefloop.report.page import render
from prefloop.report.words import metric_rows
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
    # tests/stages/test_every_algorithm.py compares the names of all others with the documentation.
    for algorithm in ("dpo", "ppo", "grpo", "rloo"):
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
    assert re.search(r"[A-Z]+ learned from", html) and "by independent judge" in html


def test_every_metric_has_its_row_in_the_documentation() -> None:
    text = DOCS.read_text(encoding="utf-8")
    rows = [f"| `{m.name}` | {m.meaning} | {m.unit} | {m.healthy} | {m.source} |" for m in METRICS]
    assert [row for row in text.splitlines() if row in rows] == rows
    named = set(re.findall(r"`([a-z_0-9]+)`", text.split("## Which stage")[1].split("`timings.jsonl`")[0]))
    options = {"sft", "reward", "align", "eval_every"}
    assert {n for n in named - options if explain(n) is None} == set()


def test_the_report_marks_a_metric_where_a_finding_speaks_of_it_and_nowhere_else(tmp_path: Path) -> None:
    config = {"align": {"algorithm": "ppo", "steps": 12}}
    run = record.begin_run(tmp_path, "align", "f", config, inputs={}, seed=0)
    for step in range(1, 13):
        run.metric(step, {"clip_fraction": 0.5, "entropy": 1.5, "first_ratio": 1.01 if step == 3 else 1.0})
    run.finish({"algorithm": "ppo"})
    facts = collect("p", record.runs(tmp_path), StoreFacts())
    said = facts["diagnosis"]["align-001"]
    assert said == json.loads(json.dumps(diagnose(read_run(run.path)).to_json()))
    rows = metric_rows(facts["stages"]["align"][0], said)
    assert {row["name"]: row["flag"] for row in rows if row["flag"]} == {
        "clip_fraction": "50% of the tokens are clipped"
    }
    html = render(facts)
    for finding in said["findings"]:
        assert finding["title"] in html and finding["action"]["command"] in html
    assert metric_rows(facts["stages"]["align"][0])[0]["flag"] is None


def test_a_name_is_explained_with_and_without_its_criterion() -> None:
    assert explain("reward_helpful") is explain("eval_reward_helpful") is not None
    assert explain("reward") is not explain("reward_helpful") is not explain("reward_max")
    assert explain("made_up") is None
