"""Runs `prefloop status`: what a project holds, what is running, how far people are.

It reads only, and loads no model.
"""

from __future__ import annotations

import os
import time
from typing import Any

from prefloop import record
from prefloop.project.project import Outcome, Project
from prefloop.store import People, get_address, listens
from prefloop.store.connections.lock import LOCK_NAME, holder
from prefloop.store.overview import lists_by_round, paces


def status(project: Project) -> Outcome:
    """Return rounds, data, models, people, and which processes are at work."""
    counts = project.store.counts()
    kinds = ("prompts", "demonstrations", "items", "completions", "effective", "simulated", "annotators")
    result: dict[str, Any] = {
        "name": project.config.project.name,
        "project": str(project.root),
        "store": project.store.database.label,
        "model": project.config.model.path or project.config.model.init,
        "algorithm": project.config.align.algorithm,
        "data": {kind: counts[kind] for kind in kinds} | {"criteria": counts["criteria"]},
        "rounds": _rounds(project),
        "models": _models(project),
        "people": _people(project),
        "running": _running(project),
        "unfinished": [run.name for run in record.runs(project.root) if run.status != "done"],
    }
    return Outcome("status", None, result)


def _rounds(project: Project) -> list[dict[str, Any]]:
    """Return what has been done in each round, oldest first."""
    evaluated: dict[int, Any] = {}
    for run in record.runs(project.root):
        if run.manifest["stage"] == "evaluate" and run.status == "done":
            evaluated[run.result["round"]] = run.result.get("sampled", {}).get("win_rate")
    rewards = {row.metrics.get("round") for row in project.store.models("reward")}
    lists, found = lists_by_round(project.store), []
    for round in range(max(project.latest_round() + 1, project.aligned_rounds())):
        items, ranked = lists.get(round, (0, 0))
        aligned, chosen = project.candidates(round), project.chosen(round)
        found.append(
            {
                "round": round,
                "lists": items,
                "ranked": ranked,
                "reward_model": round in rewards,
                "align_runs": len(aligned),
                "policy": chosen.run if chosen else None,
                "evaluated": round in evaluated,
                "win_rate": evaluated.get(round),
            }
        )
    return found


def _models(project: Project) -> list[dict[str, Any]]:
    return [
        {"version": row.version, "kind": row.kind, "criterion": row.criterion, "round": row.metrics.get("round")}
        for row in project.store.models()
    ]


def _people(project: Project) -> dict[str, Any]:
    """Return the queue of the criterion that people are asked about, and what each person has done."""
    quota, lately = project.queue.quota(), paces(project.store, time.time())
    people = [
        {
            "name": person.name,
            "role": person.role,
            "done": person.done,
            "last_24_hours": lately[person.id].today if person.id in lately else 0,
        }
        for person in People(project.store).list()
        if person.name is not None
    ]
    return {
        "criterion": project.config.annotate.criterion,
        "lists": quota.tasks,
        "done": quota.done,
        "wanted": quota.target,
        "at_work": quota.live,
        "people": people,
    }


def _running(project: Project) -> dict[str, Any]:
    """Return the process that makes runs, by the note beside its lock; the annotation server, where it answers."""
    address = get_address(project.store)
    return {"work": _holder(project), "server": address if address and listens(address) else None}


def _holder(project: Project) -> dict[str, Any] | None:
    """Return the holder of the lock, which is read and not tried: taking it for a moment could refuse a command."""
    found = holder(project.root / LOCK_NAME)
    return found._asdict() if found is not None and _is_alive(found.pid) else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:  # The process is there, and somebody else's.
        return True
    except (OSError, OverflowError):
        return False
    return True
