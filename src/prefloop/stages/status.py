"""Runs `prefloop status`: what a project holds, what is running, how far people are.

It reads only, and loads no model.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from prefloop import record
from prefloop.project.diagnosing import findings, newest
from prefloop.project.project import Project
from prefloop.results import (
    DataStatus,
    Evaluated,
    Interval,
    ModelStatus,
    PeopleStatus,
    PersonStatus,
    ProcessStatus,
    RoundStatus,
    RunningStatus,
    Status,
)
from prefloop.store import People, get_address, listens
from prefloop.store.overview import lists_by_round, paces


def status(project: Project) -> Status:
    """Return rounds, data, models, people, which processes are at work, and what is wrong with the newest runs."""
    counts = project.store.counts()
    kinds = ("prompts", "demonstrations", "items", "completions", "effective", "simulated", "annotators")
    return Status(
        name=project.config.project.name,
        project=str(project.root),
        store=project.store.database.label,
        model=project.config.model.path or project.config.model.init,
        algorithm=project.config.align.algorithm,
        data=DataStatus(**{kind: counts[kind] for kind in kinds}, criteria=counts["criteria"]),
        rounds=tuple(_rounds(project)),
        models=tuple(_models(project)),
        people=_people(project),
        running=_running(project),
        unfinished=tuple(run.name for run in record.runs(project.root) if run.status != "done"),
        findings=tuple(found for folder in newest(project.root) if (found := findings(folder))),
    )


def _rounds(project: Project) -> Iterator[RoundStatus]:
    """Return what has been done in each round, oldest first."""
    evaluated: dict[int, Interval | None] = {}
    for run in record.runs(project.root):
        if run.manifest["stage"] == "evaluate" and run.status == "done" and (made := Evaluated.read(run.result)):
            evaluated[made.round] = made.win_rate
    rewards = {row.metrics.get("round") for row in project.store.models("reward")}
    lists = lists_by_round(project.store)
    for round in range(max(project.latest_round() + 1, project.aligned_rounds())):
        items, ranked = lists.get(round, (0, 0))
        aligned, chosen = project.candidates(round), project.chosen(round)
        yield RoundStatus(
            round=round,
            lists=items,
            ranked=ranked,
            reward_model=round in rewards,
            align_runs=len(aligned),
            policy=chosen.run if chosen else None,
            evaluated=round in evaluated,
            win_rate=evaluated.get(round),
        )


def _models(project: Project) -> Iterator[ModelStatus]:
    for row in project.store.models():
        yield ModelStatus(row.version, row.kind, row.criterion, row.metrics.get("round"))


def _people(project: Project) -> PeopleStatus:
    """Return the queue of the criterion that people are asked about, and what each person has done."""
    quota, lately = project.queue.quota(), paces(project.store, time.time())
    people = [
        PersonStatus(person.name, person.role, person.done, lately[person.id].today if person.id in lately else 0)
        for person in People(project.store).list()
        if person.name is not None
    ]
    return PeopleStatus(
        criterion=project.config.annotate.criterion,
        lists=quota.tasks,
        done=quota.done,
        wanted=quota.target,
        at_work=quota.live,
        people=tuple(people),
    )


def _running(project: Project) -> RunningStatus:
    """Return the process that makes runs, by the note beside its lock; the annotation server, where it answers."""
    address = get_address(project.store)
    return RunningStatus(_holder(project), address if address and listens(address) else None)


def _holder(project: Project) -> ProcessStatus | None:
    """Return the holder of the lock, which is read and not tried: taking it for a moment could refuse a command."""
    found = record.holder(project.root / record.LOCK_NAME)
    return ProcessStatus(found.pid, found.command) if found is not None and record.is_alive(found) else None
