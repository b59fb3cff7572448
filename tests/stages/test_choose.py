"""Of several runs in a round, or a run without a new policy, the right one counts, and it is said.

The project is real.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefloop.errors import DataError, ModelError, NothingToDoError
from prefloop.project.choose import Candidate, choose
from prefloop.project.project import Project
from prefloop.record import write_json_atomic
from prefloop.results import read_aligned
from prefloop.stages.align import align
from prefloop.stages.crowd import crowd
from prefloop.stages.evaluate import evaluate
from prefloop.stages.exporting import export
from prefloop.stages.report import report
from prefloop.stages.sample import sample
from prefloop.stages.sft import sft
from prefloop.stages.train_reward import reward
from prefloop.store import ModelRow
from prefloop.training.policy_evaluation import validation_and_test

JUDGES = {"quality": "a"}


def candidate(name: str, judged_by: Any = JUDGES, **result: Any) -> Candidate:
    row = ModelRow(name, "policy", f"runs/{name}/model", run_id=name)
    return Candidate(name, 0, row, read_aligned({"best_step": 4, **result}), judged_by)


@pytest.mark.parametrize(
    ("how", "runs", "chosen"),
    [
        ("win_rate", [{"win_rate": 0.7, "reward": 0.1}, {"win_rate": 0.6, "reward": 0.9}], 0),
        ("reward", [{"win_rate": 0.7, "reward": 0.1}, {"win_rate": 0.6, "reward": 0.9}], 1),
        ("newest", [{"win_rate": 0.7}, {"win_rate": 0.6}], 1),
        ("run-0", [{"win_rate": 0.6}, {"win_rate": 0.7}], 0),
        ("run-9", [{"win_rate": 0.7}, {"win_rate": 0.6}], 0),  # This is a run of another round.
        ("win_rate", [{"win_rate": 0.7}, {"win_rate": 0.7}], 1),
        ("win_rate", [{"win_rate": 0.6}, {"win_rate": 0.9, "best_step": 0}], 0),
        ("win_rate", [{"win_rate": 0.6}, {"win_rate": 0.9, "collapsed": ["variety"]}], 0),
        ("newest", [{"win_rate": 0.6}, {"win_rate": 0.9, "collapsed": ["variety"]}], 0),
        ("win_rate", [{"win_rate": 0.6}, {"win_rate": 0.9, "judged_by": {"quality": "older"}}], 0),
        ("win_rate", [{}, {}], 1),
        ("win_rate", [{"win_rate": 0.4}, {}], 0),
        ("win_rate", [{"collapsed": ["variety"]}], 0),
        ("win_rate", [{"best_step": 0}], None),
        ("win_rate", [], None),
    ],
)
def test_a_rounds_policy_is_what_the_setting_names_among_those_that_can_be_compared(
    how: str, runs: list[dict[str, Any]], chosen: int | None
) -> None:
    found = [candidate(f"run-{n}", run.pop("judged_by", JUDGES), **run) for n, run in enumerate(map(dict, runs))]
    got = choose(found, how, JUDGES)
    assert (got.run if got else None) == (None if chosen is None else f"run-{chosen}")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, make_tiny: Callable[[Path], Path]) -> Path:
    """Return a tiny project up to its reward model."""
    root = make_tiny(tmp_path_factory.mktemp("judged"))
    with Project.open(root, quiet=True) as project:
        sft(project)
        sample(project)
        crowd(project)
        reward(project)
    return root


@pytest.fixture(scope="module")
def aligned(judged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return it with three runs in round 0: one, one by other settings, and one that learns nothing."""
    root = tmp_path_factory.mktemp("aligned") / "project"
    shutil.copytree(judged, root)
    for overrides in ([], ["align.rollout.k=4", "align.rollout.prompts=8", "align.lr=0.03"], ["align.lr=1e-9"]):
        with Project.open(root, overrides, quiet=True) as project:
            align(project)
    return root


@pytest.fixture
def project(aligned: Path) -> Iterator[Project]:
    with Project.open(aligned, quiet=True) as opened:
        yield opened


def test_a_run_that_found_nothing_better_registers_no_policy_and_says_so(project: Project) -> None:
    still = next(c for c in project.candidates(0) if c.run == "align-003")
    assert still.result and still.result.best_step == 0 and still.unchanged and still.result.model is None
    assert still.result.policy == project.reference().version == "sft-001"
    assert [row.version for row in project.store.models("policy")] == ["sft-001", "align-001", "align-002"]
    assert not (project.root / "runs" / "align-003" / "model").exists()


def test_the_chosen_run_is_where_the_next_round_and_every_verb_start_from(project: Project) -> None:
    best = max(project.candidates(0)[:2], key=lambda c: c.result.win_rate).run
    for how, wanted in (("win_rate", best), ("newest", "align-002"), ("align-001", "align-001")):
        with Project.open(project.root, [f"run.choose={how}"], quiet=True) as again:
            assert again.policy(1).version == wanted
            assert align(again, 0).standing.chosen == wanted
            to = project.root / f"to-{how}"
            assert export(again, "policy", to).models[0].version == wanted


def test_a_name_that_no_run_has_or_that_made_no_policy_is_said(aligned: Path, capsys: Any) -> None:
    for how, said in (
        ("align-009", "no finished run of align is called that"),
        ("align-003", "made no policy"),
        ("align-001", ""),
    ):
        with Project.open(aligned, [f"run.choose={how}"]) as project:
            assert project.policy(1).version == project.policy(1).version != "align-003"
        told = capsys.readouterr().err
        assert told.count("warning: [run] choose names") == bool(said) and said in told


def test_evaluate_and_export_take_the_run_that_is_named(project: Project) -> None:
    for name in ("align-001", "align-002"):
        assert evaluate(project, run=name).policy == name
        assert evaluate(project, run=name).skipped
    made = export(project, "policy", project.root / "named", run="align-001").models[0]
    assert made.version == "align-001"
    assert "| `align.rollout.prompts` | `4` |" in (project.root / "named" / "README.md").read_text()
    with pytest.raises(DataError, match="align-002"):
        evaluate(project, run="align-02")
    with pytest.raises(DataError, match="leave out --round"):
        evaluate(project, 1, "align-001")
    with pytest.raises(NothingToDoError, match="align-003 made no policy"):
        export(project, "policy", project.root / "none", run="align-003")
    assert evaluate(project, run="align-003").unchanged


def test_several_answers_a_prompt_count_once_a_prompt(project: Project) -> None:
    result = evaluate(project, run="align-001")
    sampled = result.sampled
    assert result.samples_per_prompt == 8 and sampled.policy["sequences"] == 8 * result.prompts
    assert sampled.win_rate.n == sampled.reward_gain.n == result.prompts
    assert result.greedy.policy["sequences"] == result.prompts
    assert sampled.reward_gain.detectable > 0


def test_answers_sampled_at_a_low_temperature_are_not_taken_for_a_distance(project: Project) -> None:
    """The KL of cooled models is larger by far than that of the models, which is what a sign of collapse reads."""
    usual = evaluate(project, run="align-001").sampled.policy
    with Project.open(project.root, ["evaluate.temperature=0.05"], quiet=True) as again:
        cool = evaluate(again, run="align-001").sampled.policy
    assert "kl_at_1" not in usual and 0 < cool["kl_at_1"] < 0.5 * cool["kl"]


def test_what_chose_a_run_does_not_measure_it(project: Project) -> None:
    """The prompts are those that were in fact used, also where the halves would be others today."""
    chose = {id for c in project.candidates() for id in c.result.validation.prompts}
    assert chose and evaluate(project, run="align-001").independent
    heldout = project.store.prompts(split="heldout", heldout=project.config.data.heldout)
    last = project.root / "runs" / "align-003" / "result.json"
    kept = last.read_text()
    try:  # It is as if the last run had been chosen on every held-out prompt.
        write_json_atomic(last, json.loads(kept) | {"validation": {"prompts": [p.id for p in heldout]}})
        result = evaluate(project, run="align-001")
        assert result.independent is False and result.prompts > 0
    finally:
        last.write_text(kept)


def test_the_report_shows_every_run_of_the_round_in_one_table(project: Project) -> None:
    evaluate(project, run="align-001")
    report(project)
    page = (project.root / "report.html").read_text()
    facts = json.loads((project.root / "report.json").read_text())
    runs = facts["runs_of_align"]
    assert [run["run"] for run in runs] == ["align-001", "align-002", "align-003"]
    assert [run["unchanged"] for run in runs] == [False, False, True]
    assert sum(run["chosen"] for run in runs) == 1
    assert runs[0]["differs"] == {"align.rollout.k": 2, "align.lr": 0.003, "align.rollout.prompts": 4}
    assert runs[1]["differs"]["align.rollout.k"] == 4 and runs[2]["differs"]["align.lr"] == 1e-9
    assert all(name in page for name in ("align-001", "align-002", "align-003", "no new policy"))


def test_a_policy_whose_files_are_gone_is_passed_over_by_name_or_refused_before_anything_begins(
    aligned: Path, tmp_path: Path, capsys: Any
) -> None:
    root = tmp_path / "project"
    shutil.copytree(aligned, root)
    with Project.open(root, quiet=True) as project:
        best = project.policy(1).version
    shutil.rmtree(root / "runs" / best)
    other = "align-001" if best == "align-002" else "align-002"
    before = sorted(path.name for path in (root / "runs").iterdir())
    with Project.open(root) as project:
        assert project.policy(1).version == project.policy(1).version == other
        assert capsys.readouterr().err.count(f"{best} is passed over, for its files are gone: round 0 goes by") == 1
        for act in (lambda: evaluate(project, run=best), lambda: export(project, "policy", tmp_path / "to", run=best)):
            with pytest.raises(ModelError, match=f"{best} with it. Put the folder back from a backup, or run its"):
                act()
    with Project.open(root, [f"run.choose={best}"], quiet=True) as project:
        for act in (lambda: sample(project), lambda: evaluate(project), lambda: align(project, 1)):
            with pytest.raises((ModelError, NothingToDoError), match="is gone|no round 1"):
                act()
        report(project)
    (root / "runs" / other / "model" / "model.safetensors").unlink()
    with Project.open(root, quiet=True) as project:
        with pytest.raises(ModelError, match="what was in .* is gone, and align-00"):
            sample(project)
        shutil.rmtree(root / "runs" / "reward-001")
        with pytest.raises(ModelError, match="reward-001 with it"):
            align(project, 0)
    assert [name for name in before if name not in (best, "reward-001")] == sorted(
        path.name for path in (root / "runs").iterdir()
    ), "nothing was begun"


def test_a_round_that_found_nothing_better_leaves_the_policy_before_it(judged: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(judged, root)
    with Project.open(root, ["align.lr=1e-9"], quiet=True) as project:
        align(project)
        assert project.aligned(0) is None and project.aligned_rounds() == 1
        assert project.policy(1).version == "sft-001"
        outcome = evaluate(project)
        assert outcome.skipped and outcome.run is None and outcome.unchanged
        with pytest.raises(NothingToDoError, match="run prefloop align first"):
            project.policy(2)
        report(project)
        facts = json.loads((root / "report.json").read_text())
        assert "unchanged" in facts["headline"]["sentence"]
    with Project.open(root, quiet=True) as project:
        align(project)  # Now there is one that is better.
        assert project.policy(1).version == "align-002"


def test_a_collapse_is_named_when_it_happens_and_is_never_the_result(judged: Path, tmp_path: Path, capsys: Any) -> None:
    """The learning rate is a thousand times too high, distance has no price, and the reward model knows nothing."""
    root = tmp_path / "project"
    shutil.copytree(judged, root)
    place = root / "runs" / "reward-001" / "result.json"
    measured = {"accuracy": 0.51, "low": 0.4, "high": 0.62, "pairs": 40, "prompts": 9}
    learnt = json.loads(place.read_text())
    write_json_atomic(place, learnt | {"heldout": learnt["heldout"] | measured})
    wild = ["align.lr=3.0", "align.clip_norm=1000.0", "algorithms.ppo.kl=0.0", "align.evaluation.kl_budget=1e9"]
    with Project.open(root, wild) as project:
        result = align(project)
        said = capsys.readouterr().err
        assert said.index("is at chance: it is right on 51.0% of 40 held-out pairs") < said.index("step 0:")
        assert "is at chance" in result.warnings[0]
        at = [collapse.step for collapse in result.collapses]
        assert at and result.best_step not in at and result.collapsed == ()
        assert f"step {at[0]}: the policy has collapsed, and is not kept" in said
        report(project)
        facts = json.loads((root / "report.json").read_text())
        assert facts["runs_of_align"][0]["collapsed"] == []
    assert "the policy had collapsed, so that step is not kept" in (root / "report.html").read_text()


def test_a_single_held_out_prompt_is_said_to_have_chosen_what_it_measures(judged: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(judged, root)
    with Project.open(root, quiet=True) as project:
        shares = (n / 1000 for n in range(1, 250))
        share = next(n for n in shares if len(project.store.prompts(split="heldout", heldout=n)) == 1)
        one = project.store.prompts(split="heldout", heldout=share)
        assert validation_and_test(one) == (one, one)
        align(project)
    with Project.open(root, [f"data.heldout={share}"], quiet=True) as project:
        align(project)  # It is chosen on that one prompt.
        result = evaluate(project, run="align-001")
        assert result.independent is False and result.prompts == 1
        report(project)
        facts = json.loads((root / "report.json").read_text())
        assert facts["headline"]["verdict"].startswith("Too few prompts to tell: 1")
        assert "not independent" in facts["headline"]["verdict"]
