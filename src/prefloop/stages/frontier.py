"""Runs `prefloop frontier`: what a policy gains by one criterion for what it gives up by another.

Each weight or bound is a run of `align` and a run of `evaluate` in the same project, so that a point that is there
already is not made again. The front is drawn into `frontier.svg`, and its figures are in `frontier.json`.
"""

from __future__ import annotations

from dataclasses import replace

from prefloop import record
from prefloop.config import Config
from prefloop.errors import ConfigError, suggest
from prefloop.known_algorithms import is_offline
from prefloop.project.project import Project
from prefloop.report.frontier import picture
from prefloop.results import Aligned, AlignedOnline, ComparedPart, Evaluated, FrontPoint, Interval, Traded
from prefloop.stages.align import align
from prefloop.stages.evaluate import evaluate

FILE, PICTURE = "frontier.json", "frontier.svg"


def frontier(project: Project, round: int | None = None) -> Traded:
    """Make the front of two criteria. Raises ConfigError where there are not two, NothingToDoError without a round."""
    round = project.existing_round(round)
    first, second = _criteria(project, round)
    settings = project.config.frontier
    by_bound = bool(settings.bounds)
    values = dict.fromkeys(settings.bounds or settings.weights)
    if not by_bound and (wrong := [w for w in values if not 0 <= w <= 1]):
        raise ConfigError(f"[frontier] weights are shares of 1, from 0 to 1: {wrong[0]:g} is none")
    points, seen, skipped = [], list[Evaluated](), True
    for value in values:
        made = _with(project, _config(project.config, first, second, value, by_bound))
        project.say(f"frontier: {second} {'>=' if by_bound else 'weighs'} {value:g}")
        run = align(made, round)
        found = evaluate(made, round, run.run)
        skipped = skipped and run.skipped and found.skipped
        seen.append(found)
        points.append(_point(value, run, found, (first, second), by_bound))
    points = _on_the_front(points)
    stated = {c: b for c, b in project.config.align.objective.subject_to.items() if c in (first, second)}
    points = [replace(p, satisfies=_satisfies(p, first, second, stated)) for p in points] if stated else points
    good = [p for p in points if p.satisfies and p.first]
    result = Traded(
        round=round,
        first=first,
        second=second,
        kind="bounds" if by_bound else "weights",
        stated=stated,
        reference=_reference(seen, first, second),
        points=tuple(points),
        chosen=max(good, key=lambda p: p.first.mean if p.first else 0.0).run if good else None,
        skipped=skipped,
    )
    record.write_json_atomic(project.root / FILE, result.figures())
    record.write_atomic(project.root / PICTURE, picture(result).encode())
    return result


def _criteria(project: Project, round: int) -> tuple[str, str]:
    """Return the criterion to maximise and the one that is weighed against it, or bounded."""
    settings, align = project.config.frontier, project.config.align
    if is_offline(align.algorithm):
        raise ConfigError(f"{align.algorithm} learns from rankings, not from rewards: take an online algorithm")
    models = [] if align.reward else [str(m.criterion or m.version) for m in project.reward_models(round)]
    known = [*models, *align.objective.scorers, *(["reward"] if align.reward else [])]
    names = list(settings.criteria)
    if not names and align.objective.maximise and len(align.objective.subject_to) == 1:
        names = [align.objective.maximise, *align.objective.subject_to]
    names = names or (known if len(known) == 2 else [])
    if len(names) != 2 or len(set(names)) != 2:
        raise ConfigError(
            "a front is of two criteria: set [frontier] criteria = [TO_MAXIMISE, AGAINST]. "
            f"There {'is' if len(known) == 1 else 'are'} {', '.join(known)}; [align.objective] scorers adds one."
        )
    for name in names:
        if name not in known:
            raise ConfigError(
                f'[frontier] criteria names "{name}", which nothing measures. There are {", ".join(known)}.'
                f"{suggest(name, known)}"
            )
    return names[0], names[1]


def _config(config: Config, first: str, second: str, value: float, by_bound: bool) -> Config:
    """Return the settings of one point. Everything else is as the project has it."""
    objective = config.align.objective
    changed: dict[str, object]
    if by_bound:
        kind = objective.kind if objective.bounded else "constrained"
        changed = {"kind": kind, "maximise": first, "subject_to": {second: value}}
        weights: dict[str, float] = {}
    else:
        changed = {"kind": "sum", "maximise": None, "subject_to": {}}
        weights = {first: 1.0 - value, second: value}
    update = {"objective": objective.model_copy(update=changed), "reward_weights": weights}
    return config.model_copy(update={"align": config.align.model_copy(update=update)})


def _with(project: Project, config: Config) -> Project:
    made = Project(project.root, config, project.store, project.quiet, project.new, front=True)
    made.scorers, made.begun = project.scorers, project.begun
    return made


def _point(value: float, aligned: Aligned, found: Evaluated, names: tuple[str, str], by_bound: bool) -> FrontPoint:
    run = aligned.run or ""
    if found.sampled is None or found.sampled.parts is None:  # The run left the policy as it was.
        held = (aligned.constraints or {}).values() if isinstance(aligned, AlignedOnline) else ()
        kept = all(c.met for c in held)
        why = "since no step was better than the start" if kept else "since no step keeps the bound"
        return FrontPoint(value=value, run=run, policy=None, first=None, second=None, kl=None, met=kept, why=why)
    ours = [found.sampled.parts[name] for name in names]
    constraint = ours[1].constraint
    return FrontPoint(
        value=value,
        run=run,
        policy=found.policy,
        first=ours[0].policy,
        second=ours[1].policy,
        kl=found.kl,
        met=constraint.met if by_bound and constraint else None,
    )


def _on_the_front(points: list[FrontPoint]) -> list[FrontPoint]:
    """Mark the points that no other one beats by both means."""

    def beaten(p: FrontPoint) -> bool:
        assert p.first and p.second
        return any(
            q.first.mean >= p.first.mean
            and q.second.mean >= p.second.mean
            and (q.first.mean, q.second.mean) != (p.first.mean, p.second.mean)
            for q in points
            if q.first and q.second
        )

    return [replace(p, front=p.first is not None and not beaten(p)) for p in points]


def _satisfies(p: FrontPoint, first: str, second: str, stated: dict[str, float]) -> bool:
    """Return whether the lower end of every interval is at its bound or above."""
    seen = {first: p.first, second: p.second}
    return all((at := seen[name]) is not None and at.low >= bound for name, bound in stated.items())


def _reference(seen: list[Evaluated], first: str, second: str) -> dict[str, Interval] | None:
    parts = next((found.sampled.parts for found in seen if found.sampled and found.sampled.parts), None)
    if parts is None:
        return None
    both: dict[str, ComparedPart] = {name: parts[name] for name in (first, second)}
    return {name: part.reference for name, part in both.items()}
