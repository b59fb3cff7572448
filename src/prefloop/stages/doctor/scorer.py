"""Asks the function or service of `[align] reward` about answers that the store has, before a run is made with it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import islice

from prefloop.project.project import Project
from prefloop.rewards.rules import RuleScorer
from prefloop.stages.doctor.base import Check, Status
from prefloop.types import Completion, Item, Prompt

NAME = "reward function"
ASKED = 64  # lists, or demonstrations where nobody has ranked yet
ASKED_AGAIN, TIMED = 16, 4  # answers; of a slow scorer, also so many lists
ENOUGH = 30  # ranked pairs that can tell a scorer from a coin
SLOW = 0.1  # seconds an answer


def reward_function(project: Project) -> Check:
    """Check that it answers, tells answers apart, repeats itself, and orders ranked lists as people did."""
    from prefloop.training.first_checks import asked_twice, ranked_accuracy

    scorer = project.scorer(str(project.config.align.reward))
    lists = list(islice(project.store.items(ranked=True), ASKED))
    asked = _answers(lists) or _demonstrated(project)
    if not asked:
        return Check(NAME, "skipped", f"there are no answers yet that {scorer.name} could be asked about")
    seconds = _seconds(scorer, asked[:TIMED])
    if seconds > SLOW:  # Nobody waits minutes for the doctor.
        lists = lists[:TIMED]
        asked = _answers(lists) or asked[:ASKED_AGAIN]
    prompts, completions = [p for p, _ in asked], [c for _, c in asked]
    values = list(scorer.score(prompts, completions).total)
    slow = f", in {seconds:.2g} s an answer" if seconds > SLOW else ""
    said = f"{scorer.name} scores {len(values)} answers{slow} from {min(values):.3g} to {max(values):.3g}"
    if max(values) - min(values) < 1e-9:
        return Check(NAME, "fail", f"{said}: all alike", "a reward that is the same for all answers teaches nothing")
    twice = asked_twice(scorer, prompts[:ASKED_AGAIN], completions[:ASKED_AGAIN])
    if twice["status"] != "ok":
        status: Status = "fail" if twice["status"] == "fail" else "warn"
        return Check(NAME, status, twice["detail"], "look for random draws, and for rewards that go to other answers")
    measured = ranked_accuracy(scorer, lists)
    if measured:
        share, pairs = measured["eval_ranked_accuracy"], measured["eval_ranked_pairs"]
        said += f", and orders {share:.0%} of {pairs:.0f} ranked pairs as people did"
        error = math.sqrt(0.75 / pairs)  # pairs of a list go together
        if share < 0.5 - 2 * error:
            return Check(NAME, "fail", said, "look for a minus: it prefers what people ranked lower")
        if share < 0.5 + error and pairs >= ENOUGH:
            return Check(NAME, "warn", said, "it hardly agrees with people: read a list beside its scores")
    if slow:
        return Check(
            NAME, "warn", said, "a step waits for it: let it work on several answers at once, as a service can"
        )
    return Check(NAME, "ok", said)


def _answers(lists: Sequence[Item]) -> list[tuple[Prompt, Completion]]:
    return [(item.prompt, completion) for item in lists for completion in item.completions]


def _seconds(scorer: RuleScorer, asked: Sequence[tuple[Prompt, Completion]]) -> float:
    """Return how long the scorer takes for one answer."""
    began = time.perf_counter()
    scorer.score([p for p, _ in asked], [c for _, c in asked])
    return (time.perf_counter() - began) / len(asked)


def _demonstrated(project: Project) -> list[tuple[Prompt, Completion]]:
    shown = islice(project.store.demonstrations(), ASKED)
    return [(d.prompt, Completion(f"demonstration-{n}", d.text)) for n, d in enumerate(shown)]
