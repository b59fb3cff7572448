"""What stages leave for a diagnosis: evidence, samples, alarms; and `prefloop diagnose` on real runs."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from resumable import build

from prefloop.cli.main import run as cli
from prefloop.diagnose.diagnosis import diagnose
from prefloop.diagnose.reading import read_run
from prefloop.errors import ConfigError, NothingToDoError
from prefloop.project.diagnosing import Announcer, newest
from prefloop.project.evidence import data_of, knows_an_end, people_of
from prefloop.project.project import Project
from prefloop.record import Run, find_run
from prefloop.rewards.model import ModelScorer
from prefloop.stages.align import align
from prefloop.stages.diagnosing import diagnose_runs
from prefloop.stages.status import status
from prefloop.stages.train_reward import reward
from prefloop.types import Completion, Item, Prompt, Ranking

ONLINE = [
    "align.algorithm=grpo",
    "align.steps=4",
    "align.rollout.k=3",
    "align.lr=1e-2",
    "align.evaluation.eval_every=2",
]
ONLINE += ["align.checkpoint_every=2", "evaluate.scorer=length"]


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("diagnosed") / "project"
    build(root, with_reward=True)
    with Project.open(root, ONLINE, quiet=True) as project:
        align(project)
    return root


def run_of(root: Path, stage: str) -> Path:
    found = find_run(root, stage)
    assert found is not None
    return found.path


def test_a_run_leaves_its_evidence_its_samples_and_the_judge_s_opinion(aligned: Path) -> None:
    run = read_run(run_of(aligned, "align"))
    assert run.problems == () and run.data is not None and run.data.train > 0 and run.ends is not None
    assert set(run.judges) == {"quality"} and run.judges["quality"]["heldout"]["pairs"] > 0
    assert {check["name"]: check["status"] for check in run.checks} == {
        "prompts apart": "ok",
        "reward order": "ok",
        "reward padding": "ok",
        "reward template": "ok",
    }
    assert set(run.metrics) >= {"eval_judge", "eval_judge_std", "eval_sampler_gap", "reward_max", "kl_coefficient"}
    assert run.metrics["eval_ranked_pairs"].values[0] > 0
    assert set(run.manifest["learning_rates"]) == {"policy"}
    people = read_run(run_of(aligned, "reward")).people
    assert people and sum(person.rankings for person in people) > 0


def test_the_samples_of_a_run_say_what_each_token_is_worth(aligned: Path) -> None:
    rows = [json.loads(line) for line in (run_of(aligned, "align") / "samples.jsonl").read_text().splitlines()]
    kinds = {(row["step"], row["kind"]) for row in rows}
    assert kinds == {(0, "eval"), (2, "eval"), (4, "eval"), (2, "train"), (4, "train")}
    for row in rows:
        assert len(row["tokens"]) == len(row["token_kl"]) == row["length"]
        assert sum(row["token_kl"]) == pytest.approx(row["kl"], abs=0.01)
        assert ("advantage" in row) == (row["kind"] == "train") and ("judge" in row) == (row["kind"] == "eval")
    first = [row for row in rows if row["step"] == 0]
    assert all(abs(row["kl"]) < 1e-3 for row in first)  # the policy still is the reference
    assert any(abs(row["kl"]) > 1e-2 for row in rows if row["step"] == 4)


def test_samples_are_cut_back_with_the_metrics(aligned: Path, tmp_path: Path) -> None:
    shutil.copytree(run_of(aligned, "align"), tmp_path / "align-001")
    run = Run(tmp_path / "align-001")
    whole = (run.path / "samples.jsonl").read_text()
    (run.path / "samples.jsonl").write_text(whole + '{"step": 4, "torn')
    run.rewind(2)
    left = [json.loads(line)["step"] for line in (run.path / "samples.jsonl").read_text().splitlines()]
    assert set(left) == {0, 2} and whole.startswith((run.path / "samples.jsonl").read_text())


def test_a_run_stops_at_a_finding_and_says_what_to_do(aligned: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(aligned, root)
    stop = ["align.on_alarm=stop", 'align.stop_on=["kl-weak"]', "algorithms.grpo.kl=0", "project.seed=3"]
    with Project.open(root, [*ONLINE, *stop], quiet=True) as project:
        outcome = align(project)
    result = read_run(run_of(root, "align")).result
    assert result["steps"] == 2 and outcome.run is not None
    assert (
        result["stopped"].startswith("alarm: The KL term is off")
        and "--set algorithms.grpo.kl=0.05" in result["stopped"]
    )
    wrong = ["align.on_alarm=stop", 'align.stop_on=["kl-week"]', "project.seed=4"]
    with Project.open(root, [*ONLINE, *wrong], quiet=True) as project, pytest.raises(ConfigError, match="kl-weak"):
        align(project)


def test_a_scorer_with_the_wrong_sign_orders_ranked_lists_the_other_way_round(
    aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ModelScorer.score

    def swapped(self: ModelScorer, *asked: object) -> object:
        found = real(self, *asked)  # type: ignore[arg-type]
        return type(found)([-v for v in found.total], found.parts, found.cut)

    root = tmp_path / "project"
    shutil.copytree(aligned, root)
    with Project.open(root, [*ONLINE, "project.seed=5"], quiet=True) as project:
        align(project)
        right = read_run(run_of(root, "align")).metrics["eval_ranked_accuracy"].values[0]
    monkeypatch.setattr(ModelScorer, "score", swapped)
    with Project.open(root, [*ONLINE, "project.seed=6"], quiet=True) as project:
        align(project)
    wrong = read_run(run_of(root, "align")).metrics["eval_ranked_accuracy"].values[0]
    assert wrong == pytest.approx(1 - right, abs=0.02) and right > 0.55


def test_the_command_reads_a_run_by_name_or_folder_and_ends_with_1_where_something_is_wrong(
    aligned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {d.stage for d in diagnose_runs(aligned)} >= {"align", "reward"}
    copied = tmp_path / "elsewhere"
    shutil.copytree(run_of(aligned, "align"), copied)
    lines = (copied / "metrics.jsonl").read_text().replace('"first_ratio": 1', '"first_ratio": 3')
    (copied / "metrics.jsonl").write_text(lines)
    assert cli(["diagnose", "-C", str(tmp_path), str(copied), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["ok"] and found["runs"][0]["findings"][0]["causes"][0]["id"] == "dropout-on"
    assert cli(["diagnose", "-C", str(tmp_path), str(copied)]) == 1
    said = capsys.readouterr().out
    assert "Dropout is on" in said and "[first-ratio]" in said and "next:" in said
    assert cli(["diagnose", "-C", str(aligned), "aling-001"]) == 2
    assert "align-001" in capsys.readouterr().err
    with pytest.raises(NothingToDoError):
        diagnose_runs(tmp_path)


def test_a_reward_model_s_run_is_failed_with_its_reason_where_it_cannot_go_on(
    aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefloop.models.reward import RewardModel

    root = tmp_path / "project"
    shutil.copytree(aligned, root)
    real = RewardModel.normalise
    monkeypatch.setattr(RewardModel, "normalise", lambda self, score: real(self, score) * float("nan"))
    with (
        Project.open(root, [*ONLINE, "project.seed=7"], quiet=True) as project,
        pytest.raises(Exception, match="gave nan"),
    ):
        align(project)
    run = read_run(root / "runs" / "align-002")
    assert run.status == "failed"
    (found,) = diagnose_runs(root, [run.name])
    assert found.findings[0].causes[0].id == "reward-not-a-number"


# -- evidence ---------------------------------------------------------------------------------------------------------


def test_prompts_on_both_sides_are_counted_whatever_their_case_and_spaces() -> None:
    words = [f"please tell me about the {n} th thing that you saw there today" for n in range(40)]
    train = [Prompt(text) for text in words]
    held = [
        Prompt(words[0].upper()),
        Prompt(words[1].replace(" ", "  ")),
        Prompt(words[2] + " ok"),
        Prompt("another one"),
    ]
    found = data_of([*train, Prompt(words[3].title())], held)
    assert (found["leaked"], found["near"], found["duplicates"]) == (2, 1, 1)
    assert found["train"] == 41 and found["examples"][0] == words[0].upper()


def test_people_are_counted_with_how_far_others_agree_with_them() -> None:
    def item(n: int) -> Item:
        prompt = Prompt(f"p{n}")
        answers = tuple(Completion(f"{n}:{k}", "x" * (k + 1)) for k in range(3))
        orders = {"ann": (0, 1, 2), "bob": (0, 1, 2), "cat": (2, 1, 0)}
        rankings = tuple(
            Ranking(f"i{n}", who, "quality", tuple((f"{n}:{k}",) for k in order)) for who, order in orders.items()
        )
        return Item(f"i{n}", prompt, answers, rankings)

    people = {row["name"]: row for row in people_of([item(n) for n in range(40)], "quality", {})}
    assert people["ann"]["agreement"] == 0.5 and people["cat"]["agreement"] == 0.0
    assert people["ann"]["longer"] == 0.0 and people["cat"]["longer"] == 1.0
    assert people["cat"]["weight"] < 0 < people["ann"]["weight"] and people["ann"]["rankings"] == 40
    assert people_of([item(0)], "another", {}) == []


def test_a_policy_knows_an_end_if_it_was_taught_one_or_was_seen_to_end(aligned: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(aligned, root)
    with Project.open(root, quiet=True) as project:
        base = project.policy(0)
        assert not knows_an_end(project, base, chat=False) and knows_an_end(project, base, chat=True)
        assert knows_an_end(project, replace(base, registered=True), chat=False)
        for reason, number in (("length", 30), ("stop", 40)):
            texts = [
                Completion(f"{reason}{n}", f"{reason} {n}", policy_version=base.version, finish_reason=reason)  # type: ignore[arg-type]
                for n in range(number)
            ]
            project.store.add([Item(f"{reason}-list", Prompt(f"{reason}?"), tuple(texts))])
            assert knows_an_end(project, base, chat=True) == (reason == "stop")


def test_a_reward_run_names_the_people_it_learnt_from(aligned: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(aligned, root)
    with Project.open(root, ["project.seed=8"], quiet=True) as project:
        reward(project)
    assert read_run(run_of(root, "reward")).people


def test_a_stage_says_in_one_line_what_is_wrong_with_its_run_and_status_says_it_again(
    aligned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "project"
    shutil.copytree(aligned, root)
    with Project.open(root, [*ONLINE, "algorithms.grpo.kl=0", "project.seed=7"], quiet=True) as project:
        align(project)
    assert "diagnosis:" not in capsys.readouterr().err
    with Project.open(root, [*ONLINE, "algorithms.grpo.kl=0", "project.seed=8"]) as project:
        name = align(project).run
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("diagnosis: ")]
        (found,) = [found for found in status(project).findings if found.run == name]
    assert said == [f"diagnosis: {found.sentence}"]
    assert found.titles[0] in said[0]
    assert any("The KL term is off" in title for title in found.titles) and f"(prefloop diagnose {name} -C " in said[0]
    assert cli(["status", "-C", str(root)]) == 0
    assert said[0] in capsys.readouterr().out
    assert cli(shlex.split(found.command)[1:]) == 1  # the command works from where it was printed
    assert found.titles == tuple(f.title for f in diagnose(read_run(root / "runs" / str(name))).alarms)


def test_a_run_that_cannot_be_diagnosed_breaks_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    run = Run(tmp_path, listeners=(Announcer(said.append),))
    (tmp_path / "manifest.json").write_text('{"config": {}}')  # of what stage it is cannot be told
    run.finish({})
    assert run.status == "done" and len(said) == 1 and said[0].startswith(f"diagnosis: {tmp_path.name} could not be")
    run.fail("out of memory")
    assert run.status == "failed" and len(said) == 2


def test_the_newest_run_of_each_stage_round_and_criterion_is_looked_at(tmp_path: Path) -> None:
    for n, (stage, round, criterion) in enumerate(
        [("reward", 0, "a"), ("reward", 0, "b"), ("reward", 0, "a"), ("align", 0, None), ("align", 1, None)]
        + [("sample", 0, None)]
    ):
        inputs = {"round": round} | ({"criterion": criterion} if criterion else {})
        folder = tmp_path / "runs" / f"{stage}-{n:03d}"
        folder.mkdir(parents=True)
        manifest = {"stage": stage, "started_at": f"2026-01-0{n + 1}", "inputs": inputs}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    assert {folder.name for folder in newest(tmp_path)} == {"reward-001", "reward-002", "align-003", "align-004"}
    assert [folder.name for folder in newest(tmp_path, "align")] == ["align-003", "align-004"]
