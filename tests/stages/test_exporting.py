"""Exporting: what is written can be read back, nothing is replaced unasked, and a model arrives whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefloop.config import Model
from prefloop.errors import DataError, NothingToDoError, TrainingError
from prefloop.models.load import load_causal, weights_hash
from prefloop.models.scratch import make_scratch
from prefloop.stages.exporting import export
from prefloop.stages.importing import import_file
from prefloop.stages.project import Project
from prefloop.store import ModelRow
from prefloop.types import Completion, Demonstration, Item, Prompt, Ranking


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    root = tmp_path / "p"
    root.mkdir()
    (root / "prefloop.toml").write_text("")
    with Project.open(root, quiet=True) as opened:
        yield opened


def item(n: int, criterion: str = "helpful") -> Item:
    made = tuple(Completion(f"i{n}:c{j}", f"answer {j}") for j in range(3))
    ranking = Ranking(f"i{n}", "ann", criterion, ((f"i{n}:c2",), (f"i{n}:c0", f"i{n}:c1")))
    return Item(f"i{n}", Prompt(f"question {n}"), made, (ranking,))


def add_model(project: Project, model: Path, version: str, kind: str, criterion: str | None = None) -> None:
    shutil.copytree(model, project.root / "runs" / version / "model")
    row = ModelRow(
        version,
        "policy" if kind == "policy" else "reward",
        f"runs/{version}/model",
        criterion=criterion,
        metrics={"round": 0},
    )
    project.store.add_model(row)


def test_rankings_read_back_are_equal(project: Project, tmp_path: Path) -> None:
    project.store.add([item(0), item(1, "harmless")])
    assert export(project, "rankings", tmp_path / "r.jsonl").result["rows"] == 2
    root = tmp_path / "q"
    root.mkdir()
    (root / "prefloop.toml").write_text("")
    with Project.open(root, quiet=True) as other:
        import_file(other, tmp_path / "r.jsonl")
        assert other.store.criteria() == project.store.criteria()
        assert [i.prompt for i in other.store.items()] == [i.prompt for i in project.store.items()]


def test_one_criterion_leaves_the_others_out(project: Project, tmp_path: Path) -> None:
    project.store.add([item(0), item(1, "harmless")])
    assert export(project, "pairs", tmp_path / "p.jsonl", criterion="harmless").result["rows"] == 2
    with pytest.raises(DataError, match='Did you mean "harmless"'):
        export(project, "pairs", tmp_path / "q.jsonl", criterion="harmles")


def test_items_nobody_ranked_are_exported_for_people_to_rank(project: Project, tmp_path: Path) -> None:
    made = item(0)
    project.store.add([Item(made.id, made.prompt, made.completions, source="sample")])
    assert export(project, "rankings", tmp_path / "r.jsonl").result["rows"] == 1
    with pytest.raises(NothingToDoError, match="prefloop crowd"):
        export(project, "pairs", tmp_path / "p.jsonl")


@pytest.mark.parametrize("what", ["policy", "reward", "rankings", "pairs", "kto", "demonstrations", "prompts"])
def test_an_empty_project_names_what_makes_it(project: Project, tmp_path: Path, what: str) -> None:
    with pytest.raises(NothingToDoError):
        export(project, what, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_demonstrations_and_prompts_read_back_add_nothing(project: Project, tmp_path: Path) -> None:
    project.store.add([Demonstration(Prompt("Hi", system="Be kind."), "Hello!")])
    for what in ("demonstrations", "prompts"):
        export(project, what, tmp_path / f"{what}.jsonl.gz")
        assert import_file(project, tmp_path / f"{what}.jsonl.gz").skipped


def test_what_is_there_is_not_replaced_unasked(project: Project, tmp_path: Path) -> None:
    project.store.add([Prompt("Hi")])
    out = tmp_path / "p.jsonl"
    out.write_text("mine")
    with pytest.raises(DataError, match="--overwrite"):
        export(project, "prompts", out)
    assert out.read_text() == "mine"
    export(project, "prompts", out, overwrite=True)
    assert "Hi" in out.read_text()


def test_a_policy_arrives_whole(project: Project, tiny_model: Path, tmp_path: Path) -> None:
    add_model(project, tiny_model, "align-001", "policy")
    result = export(project, "policy", tmp_path / "out").result
    assert result["models"][0]["version"] == "align-001"
    assert weights_hash(load_causal(tmp_path / "out")[0]) == weights_hash(load_causal(tiny_model)[0])
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_the_newest_policy_is_exported_and_a_round_can_be_chosen(
    project: Project, tiny_model: Path, tmp_path: Path
) -> None:
    add_model(project, tiny_model, "sft-001", "policy")
    with pytest.raises(NothingToDoError, match="prefloop align"):
        export(project, "policy", tmp_path / "a", round=0)
    assert export(project, "policy", tmp_path / "a").result["models"][0]["version"] == "sft-001"
    add_model(project, tiny_model, "align-001", "policy")
    assert export(project, "policy", tmp_path / "b").result["models"][0]["version"] == "align-001"


def test_several_criteria_get_a_folder_each_or_one_is_chosen(
    project: Project, tiny_model: Path, tmp_path: Path
) -> None:
    add_model(project, tiny_model, "reward-001", "reward", "helpful")
    add_model(project, tiny_model, "reward-002", "reward", "not/a folder")
    export(project, "reward", tmp_path / "all")
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == ["helpful", "not_a_folder"]
    export(project, "reward", tmp_path / "one", criterion="helpful")
    assert (tmp_path / "one" / "config.json").is_file()
    with pytest.raises(DataError, match="helpful"):
        export(project, "reward", tmp_path / "none", criterion="helpfull")


def test_a_model_whose_folder_is_gone_is_named(project: Project, tmp_path: Path) -> None:
    project.store.add_model(ModelRow("align-001", "policy", "runs/align-001/model"))
    with pytest.raises(DataError, match="align-001"):
        export(project, "policy", tmp_path / "out")


def test_an_export_that_fails_leaves_the_old_folder(project: Project, tmp_path: Path, tiny_model: Path) -> None:
    add_model(project, tiny_model, "align-001", "policy")
    old = tmp_path / "out"
    other = Model(init="scratch", vocab_size=300, hidden_size=16, layers=2, heads=2)
    old.mkdir()
    make_scratch(old, other, ["some text"], seed=1)
    before = sorted(p.name for p in old.iterdir())
    (project.root / "runs" / "align-001" / "model" / "dangling").symlink_to("nowhere")
    with pytest.raises(TrainingError, match="still there"):
        export(project, "policy", old, overwrite=True)
    assert sorted(p.name for p in old.iterdir()) == before
