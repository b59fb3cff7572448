"""`prefloop agreement` on a project and on a file; and what `[reward] annotators` makes of people."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefloop import exchange
from prefloop.config import CONFIG_NAME, Crowd
from prefloop.errors import ConfigError, NothingToDoError
from prefloop.labels.crowd import simulate
from prefloop.project.project import Project
from prefloop.stages.agreement import agreement, agreement_file
from prefloop.training.annotator_weights import LEAST_WEIGHT, weigh_annotators
from prefloop.training.rankings import gold_of
from prefloop.types import Completion, Item, Prompt, Ranking
from tiny_models import TINY_MODEL

SETTINGS = """
[data]
heldout = 0.2
[reward]
batch = 8
epochs = 1
normalise_prompts = 8
[align]
max_tokens = 8
"""


def make_items(count: int = 120, k: int = 3, overlap: int = 3, seed: int = 0, **mixture: Any) -> list[Item]:
    """Return items whose quality is a standard normal number, ranked by a crowd with an adversary."""
    rng = np.random.default_rng(seed)
    items, quality = [], {}
    for n in range(count):
        ids = [f"i{n}:c{c}" for c in range(k)]
        items.append(Item(f"i{n}", Prompt(f"say {n}"), tuple(Completion(id, f"answer {id}") for id in ids)))
        quality |= {id: float(rng.normal()) for id in ids}
    shares = {"careful": 0.6, "weak": 0.0, "coin": 0.2, "display_order": 0.0, "inverted": 0.2} | mixture
    crowd = Crowd(annotators=10, overlap=overlap, **shares)
    said = simulate(items, quality, crowd, seed)
    return [replace(item, rankings=tuple(r for r in said if r.item_id == item.id)) for item in items]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / CONFIG_NAME).write_text(TINY_MODEL + SETTINGS)
    return Project.open(tmp_path, quiet=True)


def kind(name: str) -> str:
    return name.split("-")[1]


# -- the verb ----------------------------------------------------------------------------------------------------------


def test_a_project_and_its_file_say_the_same(project: Project, tmp_path: Path) -> None:
    items = make_items()
    project.store.add(items)
    path = tmp_path / "rankings.jsonl"
    exchange.write_rankings(items, path)
    of_project = agreement(project).criteria["quality"]
    of_file = agreement_file(path).criteria["quality"]
    assert asdict(of_project.agreement) == pytest.approx(asdict(of_file.agreement), abs=0.02)
    assert of_project.rankings == of_file.rankings == 360
    for ours, theirs in zip(of_project.people, of_file.people, strict=True):
        assert ours.reliability.weight == pytest.approx(theirs.reliability.weight, abs=0.02)


def test_rows_about_the_same_item_are_one_item_and_a_ranking_given_twice_counts_once(tmp_path: Path) -> None:
    whole, spread = tmp_path / "whole.jsonl", tmp_path / "spread.jsonl"
    items = make_items(30)
    exchange.write_rankings(items, whole)
    rows = [json.loads(line) for line in whole.read_text().splitlines()]
    apart = [row | {"rankings": [said]} for row in rows for said in row["rankings"]]
    spread.write_text("".join(json.dumps(row) + "\n" for row in [*apart, apart[0]]))
    one, other = (agreement_file(path).criteria["quality"] for path in (whole, spread))
    assert (other.items, other.rankings) == (one.items, one.rankings) == (30, 90)
    assert other.agreement == one.agreement


def test_a_criterion_nobody_ranked_by_is_an_error_that_names_those_there_are(project: Project) -> None:
    with pytest.raises(NothingToDoError, match="prefloop annotate"):
        agreement(project)
    project.store.add(make_items(5))
    with pytest.raises(ConfigError, match="Criteria: quality"):
        agreement(project, "qualty")


def test_gold_is_about_the_criterion_that_people_are_asked_for(project: Project) -> None:
    assert gold_of(project, "quality") == {}
    assert gold_of(project, "style") == {}


def test_the_table_names_suspects_with_their_evidence(prefloop_cli: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "rankings.jsonl"
    exchange.write_rankings(make_items(), path)
    text = prefloop_cli("agreement", "--data", path, "--people", "3", "--items", "2")
    assert '"quality": 360 rankings of 120 items by 10 people' in text
    assert "7 more, of higher weight" in text
    suspects = text[text.index("to look at") : text.index("hardest")]
    assert suspects.count("sim-inverted") == 2 and suspects.count("sim-coin") == 2 and "careful" not in suspects
    assert "the other way round" in suspects
    assert max(map(len, text.splitlines())) <= 120
    told = json.loads(prefloop_cli("agreement", "--data", path, "--json"))
    assert len(told["criteria"]["quality"]["people"]) == 10


def test_the_table_says_when_overlap_is_too_small(prefloop_cli: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "rankings.jsonl"
    exchange.write_rankings(make_items(overlap=1), path)
    text = prefloop_cli("agreement", "--data", path)
    assert "too little overlap" in text and "one person only" in text and "? = too few" in text


@pytest.fixture
def prefloop_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    from prefloop.cli.main import run

    def call(*argv: object) -> str:
        capsys.readouterr()
        assert run([str(a) for a in argv]) == 0
        return capsys.readouterr().out

    return call


# -- [reward] annotators -----------------------------------------------------------------------------------------------


def test_all_changes_nothing() -> None:
    items = make_items(20)
    assert weigh_annotators(items, "quality", "all", {}).items == items


def test_weighted_leaves_out_the_adversary_and_counts_one_on_average() -> None:
    items = make_items()
    weighed = weigh_annotators(items, "quality", "weighted", {})
    left = [r for item in weighed.items for r in item.rankings]
    assert weighed.warning is None
    assert not [r for r in left if kind(r.annotator) == "inverted"]
    assert np.mean([weighed.weights[r.id] for r in left]) == pytest.approx(1.0)
    careful = np.mean([weighed.weights[r.id] for r in left if kind(r.annotator) == "careful"])
    coins = [weighed.weights[r.id] for r in left if kind(r.annotator) == "coin"] or [0.0]
    assert careful > 2 * np.mean(coins)
    assert weighed.left_out + len(left) == 360
    told = weighed.counted()
    assert told.enough and told.weights
    assert told.weights["sim-inverted" + told_number(items, "inverted")] < LEAST_WEIGHT


def told_number(items: Sequence[Item], which: str) -> str:
    name = next(r.annotator for item in items for r in item.rankings if kind(r.annotator) == which)
    return name.removeprefix(f"sim-{which}")


def test_weighted_with_too_little_overlap_counts_all_alike_and_says_so() -> None:
    items = make_items(overlap=1)
    weighed = weigh_annotators(items, "quality", "weighted", {})
    assert weighed.items == items and not weighed.weights
    assert weighed.warning is not None and "one person only" in weighed.warning
    assert set(weighed.people.values()) == {1.0}


def test_majority_is_one_ranking_an_item() -> None:
    item = Item("i", Prompt("p"), tuple(Completion(c, c) for c in "abc"))
    said = [Ranking("i", who, "quality", tiers) for who, tiers in (("x", (("a",), ("b",), ("c",))),) * 2]
    other = Ranking("i", "y", "quality", (("c",), ("b",), ("a",)))
    partial = Ranking("i", "z", "quality", (("c",), ("a",)))
    (merged,) = weigh_annotators([replace(item, rankings=(*said, other, partial))], "quality", "majority", {}).items
    assert [r.tiers for r in merged.rankings] == [(("a",), ("b",), ("c",))]
    (merged,) = weigh_annotators([replace(item, rankings=(said[0], other))], "quality", "majority", {}).items
    assert merged.rankings[0].tiers == (("a", "b", "c"),)


def test_an_adjudication_is_the_last_word_but_with_all() -> None:
    item = make_items(40)[0]
    verdict = Ranking("i0", "boss", "quality", item.rankings[0].tiers[::-1], metadata={"adjudication": True})
    items = [replace(item, rankings=(*item.rankings, verdict)), *make_items(40)[1:]]
    assert weigh_annotators(items, "quality", "majority", {}).items[0].rankings[0].tiers == verdict.tiers
    assert weigh_annotators(items, "quality", "weighted", {}).items[0].rankings == (verdict,)
    assert len(weigh_annotators(items, "quality", "all", {}).items[0].rankings) == 4
    # This is too little to know people, but the last word stays the last.
    alone = weigh_annotators(items[:1], "quality", "weighted", {})
    assert alone.warning is not None and alone.left_out == 3
    assert alone.items[0].rankings == (verdict,)


def test_reward_trains_with_each_and_keeps_who_counted_how_much(project: Project) -> None:
    from prefloop.stages.train_reward import reward
    from prefloop.types import Demonstration

    items = make_items(60)
    project.store.add([*items, *(Demonstration(i.prompt, i.completions[0].text) for i in items)])
    runs = set()
    for mode in ("all", "weighted", "majority"):
        changed = project.config.reward.model_copy(update={"annotators": mode})
        again = Project(project.root, project.config.model_copy(update={"reward": changed}), project.store, quiet=True)
        outcome = reward(again)
        told = outcome.models["quality"]
        assert told.annotators.mode == mode
        runs.add(outcome.run)
        if mode == "weighted":
            assert told.annotators.enough and told.annotators.left_out > 0
    assert len(runs) == 3  # Each is a run of its own: nothing was skipped as done.
