"""Asks the function or service of `[align] reward` about answers that the store has, before a run is made with it."""

from __future__ import annotations

import math
import time
from itertools import islice

from prefloop.project.project import Project
from prefloop.stages.doctor.base import Check, Status
from prefloop.types import Completion, Prompt

NAME = "reward function"
ASKED = 64  # lists, or demonstrations where nobody has ranked yet
ASKED_AGAIN = 16  # answers
SLOW = 0.1  # seconds an answer


def reward_function(project: Project) -> Check:
    """Check that it answers, tells answers apart, repeats itself, and orders ranked lists as people did."""
    from prefloop.training.first_checks import asked_twice, ranked_accuracy

    scorer = project.scorer(str(project.config.align.reward))
    lists = list(islice(project.store.items(ranked=True), ASKED))
    asked = [(item.prompt, completion) for item in lists for completion in item.completions] or _demonstrated(project)
    if not asked:
        return Check(NAME, "skipped", f"there are no answers yet that {scorer.name} could be asked about")
    prompts, completions = [p for p, _ in asked], [c for _, c in asked]
    began = time.perf_counter()
    values = list(scorer.score(prompts, completions).total)
    seconds = (time.perf_counter() - began) / len(values)
    said = f"{scorer.name} scores {len(values)} answers from {min(values):.3g} to {max(values):.3g}"
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
        if share < 0.5 + error:
            return Check(NAME, "warn", said, "it hardly agrees with people: read a list beside its scores")
    if seconds > SLOW:
        advice = "a step waits for it; let it work on several answers at once, as a service can"
        return Check(NAME, "warn", f"{said}; it takes {seconds:.2g} s an answer", advice)
    return Check(NAME, "ok", said)


def _demonstrated(project: Project) -> list[tuple[Prompt, Completion]]:
    shown = islice(project.store.demonstrations(), ASKED)
    return [(d.prompt, Completion(f"demonstration-{n}", d.text)) for n, d in enumerate(shown)]
