"""`prefloop evaluate` says what became of behaviour: in the result, on the terminal, and in the report."""

from __future__ import annotations

import json

import pytest

from prefloop.api.project import Project
from prefloop.cli.show import summary
from prefloop.errors import ConfigError
from prefloop.results import Evaluated

ASK = {"scorer": "length", "samples": 2, "prompts": 12}


def opened(project: Project, **settings: object) -> Project:
    return Project.open(project.root, {f"behaviour.{key}": value for key, value in settings.items()}, quiet=True)


def test_evaluate_runs_the_built_in_checks_without_a_setting(project: Project) -> None:
    found = project.evaluate(**ASK)
    assert found.behaviour is not None and found.behaviour.broken == ()
    assert {"length", "ended", "likelihood", "distinct_2"} <= {row.check for row in found.behaviour.checks}
    stored = json.loads((project.root / "runs" / str(found.run) / "result.json").read_text())
    assert Evaluated.read(stored, found.run) == found


def test_functions_slices_and_sets_of_prompts_have_rows_of_their_own(project: Project) -> None:
    rows = [{"prompt": f"Say {n} hats.", "tone": "calm"} for n in range(12)]
    (project.root / "more.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nnot json\n")
    settings = {
        "functions": ["mine.py:ends_in_stop", "mine.py:fails"],
        "checks": ["ended"],
        "prompt_sets": {"hats": "more.jsonl"},
        "max_drop": {"fails": 0.1},
        "slices": ["tone"],
    }
    with opened(project, **settings) as other:
        found = other.evaluate(**ASK)
        page = other.report().html.read_text()
    assert found.behaviour is not None and found.behaviour.prompts["hats"] == 12
    assert {(row.check, row.slice) for row in found.behaviour.checks} == {
        (check, name) for check in ("ended", "ends_in_stop") for name in ("all", "hats")
    }
    told = "\n".join(summary(found, project.root))
    assert (
        "LookupError: no such thing" in told
        and 'NOT CHECKED, so not held: the bound on "fails" could not be checked on "hats"' in told
    )
    assert 'no prompt has the metadata field "tone"' in told
    assert '<h2 id="behaviour-h">Behaviour</h2>' in page and "ends_in_stop" in page and "LookupError" in page


def test_a_bound_that_is_broken_is_said_first(project: Project) -> None:
    """The policy learnt to say words and not odd signs, which is called worse here."""
    rows = [{"prompt": f"Say {n} hats."} for n in range(12)]
    (project.root / "more.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {
        "functions": ["mine.py:calm"],
        "max_drop": {"calm": 0.01},
        "worse": {"calm": "higher"},
        "prompt_sets": {"hats": "more.jsonl"},
    }
    with opened(project, **settings) as other:
        found = other.evaluate(**ASK)
        page = other.report().html.read_text()
    assert found.behaviour is not None
    assert found.behaviour.broken, found.behaviour.checks
    assert "BREAKS max_drop 1 points" in "\n".join(summary(found, project.root)) and "BROKEN bounds: calm" in page


def test_new_settings_are_another_evaluation_and_the_same_are_not(project: Project) -> None:
    assert not project.evaluate(**ASK).skipped and project.evaluate(**ASK).skipped
    with opened(project, max_drop={"ended": 0.02}) as other:
        assert not other.evaluate(**ASK).skipped and other.evaluate(**ASK).skipped


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_drop": {"endded": 0.02}}, 'Did you mean "ended"?'),
        ({"prompt_sets": {"hats": "nowhere.jsonl"}}, "which does not exist"),
        ({"prompt_sets": {"all": "mine.py"}}, "take another name"),
    ],
)
def test_a_wrong_setting_ends_evaluate_before_it_samples(
    project: Project, settings: dict[str, object], said: str
) -> None:
    with opened(project, **settings) as other, pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        other.evaluate(**ASK)
    assert not list((project.root / "runs").glob("evaluate-*"))


def test_run_finds_a_bound_on_an_unknown_name_before_it_trains(project: Project) -> None:
    with opened(project, max_drop={"endded": 0.02}) as other, pytest.raises(ConfigError, match='Did you mean "ended"'):
        other.run(stages=["sample", "crowd", "reward", "align"])
    assert not list((project.root / "runs").glob("sample-*"))
