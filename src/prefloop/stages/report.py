"""Runs `prefloop report`, which writes report.json and report.html from the runs and the store of a project."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from prefloop import record
from prefloop.labels.agreement import agreement_by_criterion
from prefloop.project.choose import Candidate
from prefloop.project.project import Project
from prefloop.report.collect import StoreFacts, collect, read_demo
from prefloop.report.hacking import evidence_of
from prefloop.report.page import as_json, render
from prefloop.report.words import headline
from prefloop.results import Reported
from prefloop.types import Item


def report(project: Project) -> Reported:
    """Write both files. It works at any point of the loop; what has not run is absent.

    Raises DataError for a bad demo.json.

    It has no run folder: drawing it again is cheaper than deciding whether to. `skipped` says nothing has changed.
    """
    store, heldout = project.store, project.config.data.heldout
    per_round, doubly = tally(store.items())
    rounds = range(project.aligned_rounds())
    # fmt: skip
    facts = collect(
        project.config.project.name,
        record.runs(project.root),
        StoreFacts(
            counts=store.counts(),
            prompts={
                "train": len(store.prompts(split="train", heldout=heldout)),
                "heldout": len(store.prompts(split="heldout", heldout=heldout)),
            },
            rounds=per_round,
            agreement={name: a.to_json() for name, a in agreement_by_criterion(doubly).items()},
            imports=[asdict(row) for row in store.imports()],
            models=[
                {
                    "version": m.version,
                    "kind": m.kind,
                    "criterion": m.criterion,
                    "parent": m.parent,
                    "snapshot": m.snapshot_hash,
                    "weights": m.weights_sha256,
                }
                for m in store.models()
            ],
        ),
        read_demo(project.root / "demo.json"),
        {round: _name(project.chosen(round)) for round in rounds},
        {round: project.policy(round + 1).version for round in rounds},
    )
    facts |= {"headline": headline(facts), "evidence": evidence_of(facts)}
    pages = {"report.json": as_json(facts), "report.html": render(facts)}
    changed = False
    for name, text in pages.items():
        path, data = project.root / name, text.encode("utf-8")
        if not path.is_file() or path.read_bytes() != data:
            record.write_atomic(path, data)
            changed = True
    return Reported(html=project.root / "report.html", json=project.root / "report.json", skipped=not changed)


def _name(chosen: Candidate | None) -> str | None:
    return chosen.run if chosen else None


def tally(items: Iterable[Item]) -> tuple[list[dict[str, Any]], list[Item]]:
    """Return counts of each round, and the items that several people ranked."""
    rounds: dict[int, dict[str, Any]] = {}
    people: dict[int, set[str]] = {}
    doubly = []
    for item in items:
        row = rounds.setdefault(
            item.round, {"round": item.round, "items": 0, "completions": 0, "rankings": 0, "simulated": 0}
        )
        row["items"] += 1
        row["completions"] += len(item.completions)
        row["rankings"] += len(item.rankings)
        row["simulated"] += sum(r.simulated for r in item.rankings)
        people.setdefault(item.round, set()).update(r.annotator for r in item.rankings)
        if len({r.annotator for r in item.rankings}) > 1:
            doubly.append(item)
    return [row | {"annotators": len(people[n])} for n, row in sorted(rounds.items())], doubly
