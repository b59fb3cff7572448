"""The last line of every verb fits what is in the project, and what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prefloop import record
from prefloop.cli import data, loop
from prefloop.config import CONFIG_NAME
from prefloop.project.project import Project
from prefloop.results import (
    Agreed,
    AlignedOnline,
    CrowdRanked,
    Evaluated,
    Imported,
    Outcome,
    Prioritised,
    Ran,
    Reported,
    Rewarded,
    Sampled,
    Tuned,
)
from prefloop.results.base import from_json
from prefloop.stages.advice import following
from prefloop.store import ModelRow
from prefloop.types import Completion, Demonstration, Item, Prompt, Ranking

PROMPTS = [Prompt(f"question {n}") for n in range(20)]
RANK = "prefloop annotate: people rank them  (prefloop crowd: simulated people do)"
KINDS: dict[str, type[Outcome]] = {
    kind.stage: kind
    for kind in (AlignedOnline, CrowdRanked, Evaluated, Imported, Prioritised, Ran, Reported, Rewarded, Sampled, Tuned)
}
AGAIN = "prefloop sample  (the next round), or: prefloop export policy --to FOLDER"


def item(n: int, source: str = "import", round: int = 0, ranked: bool = False, criterion: str = "quality") -> Item:
    id = f"{source}{round}-{n}"
    completions = tuple(Completion(f"{id}:c{k}", f"answer {k}") for k in range(2))
    said = (Ranking(id, "ann", criterion, ((completions[0].id,), (completions[1].id,))),) if ranked else ()
    return Item(id, PROMPTS[n], completions, said, round=round, source=source)


class World:
    """A project to which things happen."""

    def __init__(self, root: Path):
        (root / CONFIG_NAME).write_text("")
        self.root, self.overrides = root, list[str]()

    def add(self, *records: Any) -> None:
        with Project.open(self.root, quiet=True) as project:
            project.store.add(records)

    def model(self, version: str, round: int = 0) -> None:
        kind: Any = "reward" if version.startswith("reward") else "policy"
        with Project.open(self.root, quiet=True) as project:
            project.store.add_model(ModelRow(version, kind, "gone", metrics={"round": round}))

    def run(self, stage: str, round: int = 0) -> None:
        run = record.begin_run(self.root, stage, f"{stage}{round}", {}, inputs={}, seed=0)
        run.finish({"round": round})

    def after(self, stage: str, **result: Any) -> str:
        with Project.open(self.root, self.overrides, quiet=True) as project:
            found = {"files": [{"rankings": 0, **result}]} if stage == "import" else result
            agreed = Agreed(criteria={})  # which is never read from a file
            return following(project, agreed if stage == "agreement" else from_json(KINDS[stage], found))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_what_an_import_held_decides_what_follows(world: World) -> None:
    assert world.after("import") == "prefloop import FILE"
    world.add(*PROMPTS)
    assert world.after("import") == "prefloop sample"
    world.add(item(0))
    assert world.after("import") == RANK, "answers are there, and nobody has ranked them"
    world.add(item(1, ranked=True))
    assert world.after("import", rankings=1) == "prefloop reward"
    world.overrides = ["align.algorithm=dpo"]
    assert world.after("import", rankings=1) == "prefloop align", "it learns from rankings"


def test_demonstrations_are_learnt_first_and_without_them_sampling_comes_first(world: World) -> None:
    world.add(*PROMPTS, *(Demonstration(p, "so it is") for p in PROMPTS))
    for stage in ("import", "report"):
        assert world.after(stage) == "prefloop sft"
    world.model("sft-001")
    assert world.after("sft") == "prefloop sample"
    world.add(item(0, ranked=True))
    assert world.after("sft") == "prefloop reward", "imported rankings are enough"


def test_labels_of_single_answers_are_nothing_to_learn_an_order_from(world: World) -> None:
    world.add(*PROMPTS, item(0, ranked=True, criterion="acceptable"))
    assert world.after("import") == "prefloop sample"


def test_a_round_goes_from_samples_to_a_report_and_the_next_begins(world: World) -> None:
    world.add(*PROMPTS, *(item(n, "sample") for n in range(4)))
    assert world.after("sample") == world.after("report") == RANK
    assert world.after("prioritise") == "prefloop annotate"
    world.add(*(item(n, "sample", ranked=True) for n in range(3)))
    assert world.after("crowd") == world.after("agreement") == world.after("report") == "prefloop reward"
    world.model("reward-001")
    assert world.after("reward") == world.after("report") == "prefloop align"
    assert world.after("crowd") == "prefloop reward", "there are newer rankings than that model has seen"
    assert world.after("align", round=0, best_step=0).startswith("prefloop align, with a larger [align] lr or more")
    world.model("align-001")
    assert world.after("align", round=0) == world.after("agreement") == "prefloop evaluate"
    world.run("evaluate")
    assert world.after("evaluate") == "prefloop report"
    assert world.after("report") == AGAIN
    world.add(*(item(n, "sample", round=1) for n in range(4)))
    assert world.after("sample") == RANK, "those of the round before are no answer"
    world.add(item(1, "sample", round=1, ranked=True))
    assert world.after("agreement") == "prefloop reward"


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"warnings": ["at chance"]}, "prefloop annotate, for more rankings"),
        ({"stopped": "KL 40 nats a sequence is over the budget of 25"}, "a smaller [align] lr or a larger"),
        ({"collapses": [{"step": 3, "signs": []}], "algorithm": "dpo"}, "a larger [algorithms.dpo] beta"),
        ({"algorithm": "dpo"}, "prefloop annotate, for more rankings"),
        ({}, "prefloop align, with a larger [align] lr or more steps; or: prefloop annotate"),
    ],
)
def test_after_a_run_without_a_new_policy_what_stood_in_its_way_comes_next(
    world: World, result: dict[str, Any], said: str
) -> None:
    """It comes next after the report too, which would else send people to evaluate what is not there."""
    world.add(*PROMPTS, item(0, "sample", ranked=True), item(1, "sample"))
    world.model("reward-001")
    run = record.begin_run(world.root, "align", "no better", {}, inputs={"round": 0}, seed=0)
    run.finish({"round": 0, "best_step": 0, **result})
    for stage in ("align", "report"):
        advice = world.after(stage, **run.result)
        assert said in advice and "prefloop evaluate" not in advice and "no new policy was made" in advice
    world.add(item(1, "sample", ranked=True))
    assert "prefloop sample --round 0" in world.after("align", round=0, best_step=0, warnings=["at chance"])
    world.model("align-007")  # Another run of the round made one.
    assert world.after("align", **run.result).startswith("prefloop evaluate  (this run made no new policy")


def test_a_run_that_is_not_the_rounds_policy_is_evaluated_by_its_name(world: World) -> None:
    world.add(*PROMPTS)
    for version in ("reward-001", "align-001"):
        world.model(version)
    with Project.open(world.root, quiet=True) as project:
        said = following(project, from_json(AlignedOnline, {"round": 0, "best_step": 5}, run="align-009"))
    assert said == "prefloop evaluate --run align-009  (the round's policy is that of align-001)"


def test_what_evaluation_lacks_is_named(world: World) -> None:
    world.add(*PROMPTS)
    world.model("align-001")
    world.overrides = ["align.algorithm=dpo"]
    assert world.after("align", round=0).startswith(
        "prefloop reward, for something to judge by, then prefloop evaluate"
    )
    world.overrides += ["evaluate.scorer=length"]
    assert world.after("align", round=0) == "prefloop evaluate"
    world.overrides += ["data.heldout=0"]
    assert "held-out prompts, and there are none" in world.after("align", round=0)


def test_after_run_the_report_is_opened_where_there_is_one(world: World) -> None:
    world.add(*PROMPTS)
    assert world.after("run") == "prefloop sample"
    (world.root / "report.html").write_text("")
    assert world.after("run") == f"open {world.root / 'report.html'}"


@pytest.mark.parametrize("verb", ["sample", "crowd", "import_", "prioritise"])
def test_the_help_of_verbs_that_lead_to_ranking_names_annotate(verb: str) -> None:
    command = getattr(data if verb == "import_" else loop, verb)
    assert "prefloop annotate" in command.help or "annotate or reward" in command.help
