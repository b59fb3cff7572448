"""Two policies, or a policy and texts, head to head on any prompts, in a project and without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefloop.api.project import Project
from prefloop.cli.main import run
from prefloop.errors import ConfigError, DataError, NothingToDoError

FEW = {"samples": 2, "max_tokens": 8, "bootstrap": 200}  # of 8 prompts, as the settings of the project say


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    rows = [{"prompt": f"Say {n} hats.", "tone": "calm" if n % 2 else "loud"} for n in range(12)]
    path = tmp_path / "asked.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def texts(folder: Path, answer: str, count: int = 12) -> Path:
    path = folder / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"Say {n} hats.", "completion": answer}) for n in range(count)))
    return path


def test_two_policies_are_compared_by_scorers_and_checks_on_every_slice(project: Project, asked: Path) -> None:
    made = {"scorers": ["length", lambda prompt, answer: float(answer.count("a"))], "slices": ["tone"], **FEW}
    found = project.compare("align-001", "reference", prompts=asked, **made)
    assert (found.a, found.b, found.prompts, found.answers_a) == ("align-001", "reference", 8, 2)
    assert {(row.scorer == "length", row.slice) for row in found.scores} == {
        (kind, name) for kind in (True, False) for name in ("all", "tone = calm", "tone = loud")
    }
    first = found.scores[0]
    assert first.gain.mean == pytest.approx(first.a - first.b) and first.win_rate.mean > 0.9, "it learnt to be long"
    back = project.compare("reference", "align-001", prompts=asked, **made).scores[0]
    assert back.gain.mean == pytest.approx(-first.gain.mean)
    assert back.win_rate.mean == pytest.approx(1 - first.win_rate.mean)
    assert found.behaviour.prompts == {"all": 8, "tone = calm": 4, "tone = loud": 4}
    assert found.samples[0].prompt == "Say 0 hats." and found.samples[0].scores_a["length"] > 0


def test_a_policy_beside_itself_is_a_draw(project: Project, asked: Path) -> None:
    found = project.compare("align-001", "policy", prompts=asked, scorers=["length"], **FEW)
    assert found.scores[0].win_rate.mean == 0.5 and found.scores[0].gain.mean == 0
    assert {row.change.mean for row in found.behaviour.checks} == {0.0}


def test_a_policy_is_compared_with_texts_whose_prompts_are_taken(project: Project, tmp_path: Path) -> None:
    file = texts(tmp_path, "x" * 500)
    found = project.compare(str(file), "policy", scorers=["length"], **FEW)
    assert (found.answers_a, found.answers_b, found.prompts) == (1, 2, 8)
    assert found.scores[0].win_rate.mean == 1.0 and found.scores[0].a == 500
    assert "ended" not in {row.check for row in found.behaviour.checks}, "nobody knows it of a text"


def test_what_cannot_be_compared_is_said(project: Project, asked: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match='Did you mean "align-001"'):
        project.compare("align-01", "policy", prompts=asked)
    with pytest.raises(NothingToDoError, match="--prompts FILE"):
        project.compare("align-001", "policy")
    with pytest.raises(DataError, match="prompts and no answers"):
        project.compare(str(asked), "policy")
    with pytest.raises(ConfigError, match='no scorer "lenght"'):
        project.compare("align-001", "policy", prompts=asked, scorers=["lenght"])
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "Nothing alike."}\n')
    with pytest.raises(DataError, match="none of the 1 prompts"):
        project.compare(str(texts(tmp_path, "x")), "policy", prompts=other)


def test_folders_and_files_need_no_project(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = texts(tmp_path, "The hats are red.", 3)
    options = [part for key, value in FEW.items() for part in ("--set", f"evaluate.{key}={value}")]
    assert run(["compare", str(tiny_model), file.name, "--scorer", "length", "--json", "-q", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["b"], found["prompts"], found["scores"][0]["b"]) == ("texts.jsonl", 3, 17)
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]
    assert run(["compare", str(tiny_model), file.name, "--scorer", "length", "-q", *options]) == 0
    assert "behaviour against texts.jsonl on all (3 prompts)" in capsys.readouterr().out
