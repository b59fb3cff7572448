"""`prefloop remove`, as it is typed, asks, says and takes out the right things, and what should come back does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chat_templates import FAMILIES
from prefloop.cli.main import run
from prefloop.project.project import Project
from prefloop.types import Demonstration, Prompt
from tiny_models import causal

SETTINGS = """
[project]
threads = 1
device = "cpu"
[model]
path = "model"
[sft]
epochs = 1
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a project on a model with Gemma's template, and a file of eight demonstrations, two with a system
    prompt.
    """
    made = FAMILIES["Gemma"].tokenizer()
    causal("Llama", len(made), eos=made.eos_token_id, max_position_embeddings=128).save_pretrained(tmp_path / "model")
    made.save_pretrained(tmp_path / "model")
    (tmp_path / "prefloop.toml").write_text(SETTINGS)
    rows = [
        ([{"role": "system", "content": "Be kind."}] if n in (2, 5) else [])
        + [{"role": "user", "content": f"Say hello {n}."}, {"role": "assistant", "content": f"Hello, cat {n}!"}]
        for n in range(8)
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    assert run(["import", str(tmp_path / "d.jsonl"), "-C", str(tmp_path), "-q"]) == 0
    return tmp_path


def say(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any], str]:
    """Return (exit code, result, what was said beside it)."""
    capsys.readouterr()
    code = run([*words, "--json"])
    out = capsys.readouterr()
    return code, json.loads(out.out), out.err


def counts(root: Path) -> dict[str, Any]:
    with Project.open(root, quiet=True) as project:
        return project.store.counts()


def test_what_the_template_refuses_goes_and_then_nothing_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result, _ = say(capsys, "remove", "--refused", "--yes", "-C", str(root))
    assert code == 0 and result["demonstrations"] == result["prompts"] == 2 and result["removed"]
    assert result["rows"] == ["d.jsonl row 3", "d.jsonl row 6"]
    assert counts(root)["demonstrations"] == 6
    code, result, _ = say(capsys, "remove", "--refused", "--yes", "-C", str(root))
    assert code == 8 and "refuses none" in result["error"]["message"]


def test_a_file_goes_by_its_name_and_comes_back_when_it_is_imported_again(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = counts(root)
    code, result, _ = say(capsys, "remove", "--import", "d.jsonl", "--yes", "-C", str(root))
    assert code == 0 and result["demonstrations"] == 8 and counts(root)["prompts"] == 0
    code, result, _ = say(capsys, "import", str(root / "d.jsonl"), "-C", str(root))
    assert not result["skipped"] and result["demonstrations"] == 8 and counts(root) == before
    assert say(capsys, "import", str(root / "d.jsonl"), "-C", str(root))[1]["skipped"]


def test_one_row_goes_by_its_id_and_who_learnt_from_it_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sft", "-C", str(root), "-q"]) == 0
    learnt = Demonstration(Prompt("Say hello 0."), "Hello, cat 0!")
    with Project.open(root, quiet=True) as project:
        shown = next(d for d in project.store.demonstrations() if d.text == learnt.text)
        trained = {d.id for d in project.store.demonstrations(split="train", heldout=project.config.data.heldout)}
    code, result, _ = say(capsys, "remove", shown.id, "--yes", "-C", str(root))
    assert code == 0 and result["demonstrations"] == 1 and counts(root)["demonstrations"] == 7
    named = [(model["version"], model["run"], model["through"]) for model in result["models"]]
    assert named == ([("sft-001", "sft-001", "")] if shown.id in trained else [])
    with Project.open(root, quiet=True) as project:
        assert project.store.check() == [], "the snapshot still names it, and is not taken for damaged"


def test_nothing_goes_on_a_dry_run_or_where_nobody_can_be_asked(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = counts(root)
    code, result, _ = say(capsys, "remove", "--import", "d.jsonl", "--dry-run", "-C", str(root))
    assert code == 0 and not result["removed"] and result["demonstrations"] == 8
    code, result, said = say(capsys, "remove", "--import", "d.jsonl", "-C", str(root))
    assert code == 2 and "--yes" in said
    code, result, said = say(capsys, "remove", "--yes", "-C", str(root))
    assert code == 2 and "say what to remove" in said
    code, result, said = say(capsys, "remove", "--import", "e.jsonl", "--yes", "-C", str(root))
    assert code == 3 and 'Did you mean "d.jsonl"' in said
    assert counts(root) == before


def test_what_goes_is_told_in_words(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(["remove", "--refused", "--dry-run", "-C", str(root)]) == 0
    said = capsys.readouterr().out
    assert "would go: 2 prompts, 2 demonstrations" in said and "d.jsonl row 3, d.jsonl row 6" in said
    assert "nothing was removed" in said
