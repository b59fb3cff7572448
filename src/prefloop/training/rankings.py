"""Finds the rankings that a stage reads: in the store by criterion and round, or in a file. It loads no model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from prefloop.errors import NothingToDoError
from prefloop.exchange import Parsed, RowError
from prefloop.known_algorithms import learns_from, names_that_learn_from
from prefloop.labels.ranking import good_and_bad
from prefloop.labels.votes import Tiers
from prefloop.project.project import Project
from prefloop.types import ACCEPTABLE, Item

Split = Literal["train", "heldout"]

NOT_COMPARABLE = (ACCEPTABLE,)  # These criteria label one completion at a time, so they give no pairs to learn from.
NO_RANKINGS = (
    "there are no rankings yet: let people rank what was sampled (prefloop annotate), or simulated people (prefloop "
    "crowd), or import a file of rankings or pairs"
)


def ranked_criteria(project: Project) -> list[str]:
    """Return the criteria of the store whose rankings compare completions with each other."""
    return [c for c in project.store.criteria() if c not in NOT_COMPARABLE]


def rankable(project: Project, criterion: str, round: int, split: Split | None) -> list[Item]:
    """Return the items up to a round that have a ranking by this criterion of two completions or more."""
    items = project.store.items(split=split, heldout=project.config.data.heldout, criterion=criterion, ranked=True)
    kept = []
    for item in items:
        useful = tuple(r for r in item.rankings if sum(len(t) for t in r.tiers) >= 2)
        if item.round <= round and useful:
            kept.append(replace(item, rankings=useful))
    return kept


def learnable(project: Project, algorithm: str, criterion: str, round: int, split: Split | None) -> list[Item]:
    """Return the items up to a round that an offline algorithm may learn from by this criterion."""
    what = learns_from(algorithm)
    if criterion not in NOT_COMPARABLE:
        items = rankable(project, criterion, round, split)
    else:
        found = project.store.items(split=split, heldout=project.config.data.heldout, criterion=criterion, ranked=True)
        items = [item for item in found if item.round <= round and what in ("labels", "best")]
    # A list without any order still says to a method of pairs that its answers are equal.
    return [item for item in items if usable(item, what)] if what in ("labels", "best") else items


def usable(item: Item, what: str) -> bool:
    """Return whether an item holds what an algorithm learns from: an order of two answers, a label, a best answer."""
    if what == "any":
        return True
    if what == "pairs":
        return any(len(r.tiers) > 1 for r in item.rankings)
    said = [good_and_bad(r) for r in item.rankings]
    return any(good or (bad and what == "labels") for good, bad in said)


def refuse_useless(project: Project, algorithm: str, items: Iterable[Item]) -> None:
    """Raise NothingToDoError where an offline algorithm finds nothing to learn from in these lists."""
    items, what = list(items), learns_from(algorithm)
    if any(usable(item, what) for item in items):
        if what == "labels" and len({item.prompt.id for item in items}) == 1:
            raise NothingToDoError(
                f"{algorithm} compares answers with answers to other prompts, and there is one prompt only. Import more"
            )
        return
    if what == "labels":
        raise NothingToDoError(
            f"{algorithm} learns from answers that people call good or bad, and there are none, nor lists with a best "
            "and a worst answer: import rows of prompt, completion and label (docs/formats.md), or let people rank"
        )
    if items:
        ties = (
            f"{algorithm} finds no order to learn from: in all of {len(items)} lists every answer ties with the others"
        )
        raise NothingToDoError(f"{ties}. Let people say which answer is better, or import lists that do")
    if ACCEPTABLE in project.store.criteria() and (others := names_that_learn_from("labels")):
        raise NothingToDoError(
            f"{algorithm} learns from answers that are compared, and the store has labels of single answers only: "
            f"{' or '.join(f'prefloop align --algorithm {name}' for name in others)} learns from those"
        )
    raise NothingToDoError(NO_RANKINGS)


def learnt_criteria(project: Project, algorithm: str) -> list[str]:
    """Return the criteria that an offline algorithm learns from where no setting names any.

    A method that learns from labels takes rankings only where nobody gave a label, and one that imitates the best
    answers takes those that are called good only where nobody ranked.
    """
    ranked, what = ranked_criteria(project), learns_from(algorithm)
    labelled = ACCEPTABLE in project.store.criteria()
    return [ACCEPTABLE] if labelled and (what == "labels" or (what == "best" and not ranked)) else ranked


def gold_of(project: Project, criterion: str) -> dict[str, Tiers]:
    """Return the gold items as {item id: expected tiers}.

    It is {} for any criterion but the one that people are asked for.
    """
    if criterion != project.config.annotate.criterion:
        return {}
    return dict(project.queue.golds())


def read_items(records: Iterable[Parsed]) -> tuple[list[Item], list[str]]:
    """Return the lists among what `exchange.read` gives, and one sentence for each row that cannot be used."""
    items: list[Item] = []
    rejected: list[str] = []
    for row in records:
        if isinstance(row, Item):
            items.append(row)
        elif isinstance(row, RowError):
            rejected.append(f"row {row.line}: {row.reason}")
    return items, rejected
