"""Supervised fine-tuning learns from the completions that people ranked first."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from prefloop.config import CONFIG_NAME
from prefloop.errors import NothingToDoError
from prefloop.project.project import Project
from prefloop.stages.sft import sft
from prefloop.training.demonstrations import preferred
from prefloop.types import Completion, Item, Prompt, Ranking
from tiny_models import TINY_MODEL

SETTINGS = """
[data]
heldout = 0.3
[sft]
preferred = "quality"
epochs = 1
batch = 4
"""


def ranked(n: int, *orders: tuple[tuple[int, ...], ...], criterion: str = "quality", source: str = "import") -> Item:
    """Return three completions for prompt n, ranked by one person for each order."""
    id = f"{source}{criterion}{n}"
    completions = tuple(Completion(f"{id}:c{k}", f"answer {k} to {n}") for k in range(3))
    rankings = tuple(
        Ranking(id, f"w{w}", criterion, tuple(tuple(f"{id}:c{k}" for k in tier) for tier in tiers))
        for w, tiers in enumerate(orders)
    )
    return Item(id, Prompt(f"question {n}"), completions, rankings, source=source)


def make_project(root: Path, items: list[Item]) -> Project:
    (root / CONFIG_NAME).write_text(TINY_MODEL + SETTINGS)
    project = Project.open(root, quiet=True)
    project.store.add(items)
    return project


def test_the_best_by_mean_rank_is_learnt() -> None:
    item = ranked(0, ((0,), (1,), (2,)), ((1,), (2,), (0,)), ((1,), (0,), (2,)))
    assert [d.text for d in preferred([item])] == ["answer 1 to 0"]


def test_completions_that_tie_for_the_first_place_are_all_learnt() -> None:
    assert {d.text for d in preferred([ranked(0, ((0, 2), (1,)))])} == {"answer 0 to 0", "answer 2 to 0"}


def test_a_list_whose_completions_all_tie_has_no_best_answer() -> None:
    assert preferred([ranked(0, ((0, 1, 2),))]) == []
    assert preferred([ranked(0, ((0, 1),))]) == []
    assert preferred([ranked(0, ((0,), (1,), (2,)), ((2,), (1,), (0,)))]) == []  # Two people say the opposite.
    one = Ranking("i", "w", "quality", (("i:c0",),), unacceptable=("i:c1", "i:c2"))
    item = Item("i", Prompt("q"), tuple(Completion(f"i:c{k}", f"answer {k}") for k in range(3)), (one,))
    assert [d.text for d in preferred([item])] == ["answer 0"]


def test_the_best_of_a_list_of_which_none_is_acceptable_is_not_learnt() -> None:
    item = ranked(0, ((0,), (1,), (2,)))
    (said,) = item.rankings
    assert preferred([replace(item, rankings=(replace(said, none_acceptable=True),))]) == []


def test_a_project_in_which_every_list_ties_is_told_so(tmp_path: Path) -> None:
    with (
        make_project(tmp_path, [ranked(n, ((0, 1, 2),)) for n in range(8)]) as project,
        pytest.raises(NothingToDoError, match="every list ties"),
    ):
        sft(project)


def test_a_completion_that_nobody_ranked_is_never_learnt() -> None:
    assert {d.text for d in preferred([ranked(0, ((1,), (2,)))])} == {"answer 1 to 0"}


def test_the_same_text_is_learnt_once_a_prompt() -> None:
    assert len(preferred([ranked(0, ((0,), (1,))), ranked(0, ((0,), (2,)), source="x")])) == 1


def test_held_out_prompts_sampled_lists_and_other_criteria_teach_nothing(tmp_path: Path) -> None:
    items = [ranked(n, ((0,), (1,), (2,))) for n in range(40)]
    items += [ranked(n, ((1,), (0,), (2,)), source="sample") for n in range(40)]
    items += [ranked(n, ((2,), (0,), (1,)), criterion="naturalness") for n in range(40)]
    with make_project(tmp_path, items) as project:
        result = sft(project)
        train = project.store.prompts(split="train", heldout=0.3)
        assert 0 < len(train) < 40
        assert result.demonstrations == len(train)


def test_a_criterion_that_nobody_ranked_by_is_an_error_that_names_those_there_are(tmp_path: Path) -> None:
    with (
        make_project(tmp_path, [ranked(n, ((0,), (1,)), criterion="style") for n in range(9)]) as project,
        pytest.raises(NothingToDoError, match="style"),
    ):
        sft(project)


def test_training_again_after_deleting_the_run_loses_nothing(tmp_path: Path) -> None:
    """The store still knows the deleted run's model by its name: another one must not come under the same."""
    with make_project(tmp_path, [ranked(n, ((0,), (1,), (2,))) for n in range(12)]) as project:
        first = sft(project)
    shutil.rmtree(tmp_path / "runs" / str(first.run))
    with Project.open(tmp_path, ["sft.epochs=2"], quiet=True) as project:
        again = sft(project)
        known = [model.version for model in project.store.models("policy")]
    assert (first.run, again.run) == ("sft-001", "sft-002") and known[-2:] == ["sft-001", "sft-002"]
