"""Runs `prefloop agreement`: it says what the rankings of a project, or of any file, tell about people and items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from prefloop import exchange
from prefloop.errors import ConfigError, NothingToDoError
from prefloop.labels.annotators import HARDEST, annotator_report
from prefloop.project.project import Project
from prefloop.results import Agreed
from prefloop.training.rankings import NOT_COMPARABLE, gold_of, ranked_criteria, read_items
from prefloop.types import Item


def agreement(project: Project, criterion: str | None = None, hardest: int = HARDEST) -> Agreed:
    """Report on every criterion of a project's store, or on one. Excluded people are in it, to be looked at.

    It reads the store only and keeps no run. Raises NothingToDoError without rankings.
    """
    chosen = _chosen(ranked_criteria(project), criterion)
    reports = {}
    for name in chosen:
        items = list(project.store.items(criterion=name, ranked=True, excluded=True))
        reports[name] = annotator_report(items, name, gold_of(project, name), hardest=hardest)
    return Agreed(criteria=reports)


def agreement_file(
    data: Path, format: str | None = None, criterion: str | None = None, hardest: int = HARDEST
) -> Agreed:
    """Report on a file of rankings, without a project. Raises DataError, or NothingToDoError without rankings."""
    rows, rejected = read_items(exchange.read(data, format))
    read: dict[str, Item] = {}
    for row in rows:
        read[row.id] = _joined(read[row.id], row) if row.id in read else row
    items = list(read.values())
    found = sorted({r.criterion for item in items for r in item.rankings} - set(NOT_COMPARABLE))
    reports = {name: annotator_report(items, name, hardest=hardest) for name in _chosen(found, criterion)}
    return Agreed(file=str(data), rejected=len(rejected), reasons=tuple(rejected[:10]), criteria=reports)


def _joined(one: Item, other: Item) -> Item:
    """Join the rankings of one item that a file spreads over rows. A ranking that is there twice counts once."""
    said = {r.id: r for r in (*one.rankings, *other.rankings)}
    return replace(one, rankings=tuple(said.values()))


def _chosen(criteria: Sequence[str], asked: str | None) -> list[str]:
    if not criteria:
        raise NothingToDoError(
            "there are no rankings yet: let people rank (prefloop annotate), or import a file of rankings"
        )
    if asked is None:
        return list(criteria)
    if asked not in criteria:
        raise ConfigError(f'nobody has ranked by "{asked}". Criteria: {", ".join(criteria)}')
    return [asked]
