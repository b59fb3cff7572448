"""The queue gives people first what the reward models are unsure of."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from prefloop.errors import NothingToDoError
from prefloop.project.project import Project
from prefloop.results import PeopleRanked
from prefloop.results.base import from_json
from prefloop.stages.crowd import crowd
from prefloop.stages.prioritise import informativeness, prioritise
from prefloop.stages.run import run
from prefloop.stages.sample import sample
from prefloop.stages.train_reward import reward
from prefloop.store import People
from prefloop.types import Completion, Item, Prompt


def test_one_model_is_unsure_where_scores_are_close() -> None:
    assert informativeness(torch.zeros(1, 3)) == pytest.approx(math.log(2))
    assert informativeness(torch.tensor([[0.0, 40.0, -40.0]])) == pytest.approx(0.0, abs=1e-9)
    close, apart = torch.tensor([[0.0, 0.5]]), torch.tensor([[0.0, 2.0]])
    assert informativeness(close) > informativeness(apart) > 0


def test_of_several_models_it_is_their_disagreement_that_counts() -> None:
    opposed = torch.tensor([[0.0, 40.0], [40.0, 0.0]])
    assert informativeness(opposed) == pytest.approx(math.log(2))
    assert informativeness(torch.zeros(2, 2)) == pytest.approx(0.0, abs=1e-9), "both know that it is a toss-up"
    p, q = 1 / (1 + math.exp(-1)), 0.5
    entropy = lambda x: -(x * math.log(x) + (1 - x) * math.log(1 - x))  # noqa: E731
    expected = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
    assert informativeness(torch.tensor([[1.0, 0.0], [0.0, 0.0]])) == pytest.approx(expected)


def test_long_lists_are_not_favoured() -> None:
    assert informativeness(torch.zeros(1, 9)) == pytest.approx(informativeness(torch.zeros(1, 2)))


@pytest.mark.slow
def test_people_get_the_most_informative_lists_first(tiny_project: Path) -> None:
    with Project.open(tiny_project, ["annotate.overlap_share=0.0", "annotate.quota=1"]) as project:
        for stage in (sample, crowd):
            stage(project)
        with pytest.raises(NothingToDoError, match="prefloop reward"):
            prioritise(project)
        reward(project)
        done = prioritise(project)
        queue = project.queue
        assert done.items == len(queue.fresh()) == 40 and done.measure == "entropy"
        again = prioritise(project)
        assert again.skipped and again.items == 0, "the same models have judged them all"
        project.store.add([Item("late", Prompt("Say grey hat."), (Completion("l0", "No."), Completion("l1", "Yes.")))])
        assert prioritise(project).items == 1
        queue.set_tag(["late"], "nobody")
        assert 0 < done.mean < done.largest <= math.log(2) + 1e-9

        priority = {id: queue.view(id).priority for id in queue.fresh() if id != "late"}
        people = People(project.store)
        somebody = people.accept(str(people.owner_link()), "Olga", "hash").id
        given, last = [], None
        for _ in range(10):
            shown = queue.next(somebody, last)
            assert shown is not None
            queue.skip(somebody, shown.lease, f"uuid-{len(given):04}", "unclear")
            (item,) = set(priority) - set(queue.fresh()) - set(given)
            given.append(item)
        by_priority = [id for id in given if queue.view(id).arm == "priority"]
        assert by_priority and by_priority == sorted(by_priority, key=lambda id: -priority[id])
        best = sorted(priority, key=lambda id: -priority[id])[:10]
        assert set(by_priority) <= set(best), "the random arm may have taken some of the best, no others"


@pytest.mark.slow
def test_run_does_it_before_people_are_asked(tiny_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def nobody_comes(project: Project, round: int) -> PeopleRanked:
        queue = project.queue
        seen.append(max((queue.view(id).priority for id in queue.fresh()), default=0.0))
        return from_json(PeopleRanked, {})

    monkeypatch.setattr("prefloop.stages.run.annotate", nobody_comes)
    with Project.open(tiny_project, ['run.stages=["sample", "annotate"]']) as project:
        run(project)
        crowd(project)
        reward(project)
        run(project)
        # Nothing is judged a second time.
        monkeypatch.setattr("prefloop.stages.prioritise.load_registered_reward", None)
        run(project)
    assert seen[0] == 0 < seen[1] == seen[2]
