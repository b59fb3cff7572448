"""`prefloop frontier` on a real tiny model: two criteria that are at odds, points that are made once, and a verdict."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from resumable import build
from test_objective import USUAL

from prefloop import record
from prefloop.cli.show import summary
from prefloop.errors import ConfigError
from prefloop.project.project import Project
from prefloop.results import Traded
from prefloop.stages.align import align
from prefloop.stages.frontier import frontier

FAST = [*USUAL, "evaluate.max_tokens=10", "evaluate.samples=2"]
STATED = [
    "align.objective.kind=constrained",
    "align.objective.maximise=reward",
    "align.objective.subject_to={brevity=-15}",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("frontier") / "project"
    build(root, with_reward=False)
    return root


@pytest.fixture(scope="module")
def weights(root: Path) -> Iterator[Traded]:
    with Project.open(root, [*FAST, *STATED, "frontier.weights=[0,1]"], quiet=True) as project:
        yield frontier(project)


def test_the_weight_moves_the_policy_along_the_front(weights: Traded) -> None:
    long, short = weights.points
    assert long.first and short.first and long.second and short.second and weights.reference
    assert long.first.mean > weights.reference["reward"].mean + 3 > short.first.mean
    assert short.second.mean > long.second.mean
    assert long.front and short.front and (long.satisfies, short.satisfies) == (False, True)
    assert weights.chosen == short.run
    said = "\n".join(summary(weights, Path(".")))
    assert f'[run] choose = "{short.run}"' in said and "brevity >= -15" in said


def test_a_point_that_is_there_is_not_made_again_and_the_files_hold_what_was_found(root: Path, weights: Traded) -> None:
    before = [run.name for run in record.runs(root)]
    with Project.open(root, [*FAST, *STATED, "frontier.weights=[0,1]"], quiet=True) as project:
        again = frontier(project)
    assert again.skipped and again.points == weights.points
    assert [run.name for run in record.runs(root)] == before
    read = Traded.read(json.loads((root / "frontier.json").read_text()))
    assert read and read.points == weights.points and read.chosen == weights.chosen
    drawn = ET.fromstring((root / "frontier.svg").read_text())
    text = " ".join(drawn.itertext())
    assert "weight 0" in text and "bound: brevity >= -15" in text and "prefers-color-scheme: dark" in text


def test_the_points_of_a_front_give_the_round_no_policy_until_one_is_named(root: Path, weights: Traded) -> None:
    named = weights.points[0].run
    with Project.open(root, quiet=True) as project:
        assert project.policy(1).version == project.reference().version
    with Project.open(root, [f"run.choose={named}"], quiet=True) as project:
        assert project.policy(1).version == named


def test_a_point_that_is_asked_for_by_itself_counts_like_any_other_run(
    root: Path, weights: Traded, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    with Project.open(copy, [*FAST, "align.reward_weights={reward=0.0, brevity=1.0}"], quiet=True) as project:
        again = align(project)
        assert again.skipped and again.run == weights.points[1].run and project.policy(1).version == again.run


def test_bounds_are_points_too_and_one_that_cannot_be_kept_has_no_policy(root: Path) -> None:
    asked = ["frontier.bounds=[-1000,-0.5]"]
    with Project.open(root, [*FAST, *STATED, *asked], quiet=True) as project:
        found = frontier(project)
    free, tight = found.points
    assert found.kind == "bounds" and free.met and free.first
    assert tight.policy is None and tight.met is False and not tight.satisfies
    said = f"({tight.run}): no new policy, since no step keeps the bound"
    assert any(said in line for line in summary(found, Path(".")))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (['frontier.criteria=["reward","brevty"]'], '"brevty", which nothing measures.*brevity'),
        (['frontier.criteria=["reward"]'], "a front is of two criteria"),
        (["align.objective.scorers={}"], "There is reward"),
        (["frontier.weights=[2]"], "2 is none"),
        (["align.algorithm=dpo", "align.reward=none", "align.objective.scorers={}"], "dpo"),
        (["frontier.weights=[0]", "frontier.bounds=[1]"], "would have no effect"),
    ],
)
def test_a_front_that_cannot_be_is_refused(root: Path, asked: list[str], said: str) -> None:
    with (
        pytest.raises(ConfigError, match=said),
        Project.open(root, [*USUAL, *asked], quiet=True) as project,
    ):
        frontier(project)
