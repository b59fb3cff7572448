"""Lets a program's own function rank lists, as an annotator beside people.

Such a function may be a language model as a judge, or a set of rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prefloop.errors import ConfigError, DataError, NothingToDoError
from prefloop.project.project import Project
from prefloop.results import FunctionRanked
from prefloop.source import source_hash
from prefloop.types import Item, Ranking

Tiers = Sequence[int | Sequence[int]]
Annotator = Callable[[str, Sequence[str]], Tiers | None]

BATCH = 32  # So many lists come between two writes to the store.
SHOWN = 10


def annotate_with(
    project: Project, function: Annotator, name: str | None = None, criterion: str | None = None
) -> FunctionRanked:
    """Let `function(prompt, completions)` rank every list that it has not ranked yet.

    It gives the places of the completions, best first: `[2, 0, 1]`, with ties `[2, [0, 1]]`; what it leaves out stays
    unranked, None skips the list. Its rankings are marked as simulated and carry a hash of its source. Interrupted, the
    same call goes on with the lists that are left. One annotator judges in one way: where its code has changed since
    its first ranking, ConfigError asks for another name. Raises DataError where it fails on every list.
    """
    name = name or str(getattr(function, "__name__", type(function).__name__))
    criterion = criterion or project.config.annotate.criterion
    code = source_hash(function)
    items = [item for item in project.store.items() if len(item.completions) > 1]
    if not items:
        raise NothingToDoError("there is no list to rank yet: run prefloop sample, or import lists")
    _check_same(items, name, code)
    todo = [i for i in items if not any((r.annotator, r.criterion) == (name, criterion) for r in i.rankings)]
    ranked, skipped, failed = 0, 0, list[str]()
    made: list[Ranking] = []
    with project.lock(), project.progress(len(items), f"annotate with {name}", len(items) - len(todo)) as bar:
        for item in todo:
            try:
                tiers = _tiers(item, function(item.prompt.text, [c.text for c in item.completions]))
            except Exception as error:  # noqa: BLE001 -- the caller's own code: the other lists go on
                failed.append(f"list {item.external_id or item.id}: {type(error).__name__}: {error}")
            else:
                if tiers:
                    metadata = {"function": name, "code": code}
                    made.append(Ranking(item.id, name, criterion, tiers, simulated=True, metadata=metadata))
                else:
                    skipped += 1
            if len(made) == BATCH:
                ranked += project.store.add_rankings(made)
                made = []
            bar.update()
        ranked += project.store.add_rankings(made)
    if todo and len(failed) == len(todo):
        raise DataError(f"the annotator {name} failed on each of {len(failed)} lists. First: {failed[0]}")
    for reason in failed[:SHOWN]:
        project.say(f"  {reason}")
    return FunctionRanked(
        annotator=name,
        criterion=criterion,
        code=code,
        items=len(todo),
        rankings=ranked,
        skipped_items=skipped,
        failed=len(failed),
        reasons=tuple(failed[:SHOWN]),
        skipped=not todo,
    )


def _check_same(items: Sequence[Item], name: str, code: str) -> None:
    """Raise ConfigError where an annotator of this name is somebody else, or this function with other code."""
    for ranking in (r for item in items for r in item.rankings if r.annotator == name):
        before = ranking.metadata.get("code")
        if before is None:
            raise ConfigError(f'"{name}" is an annotator already, and no function. Give yours another name: name="..."')
        if before != code:
            raise ConfigError(
                f'the code of the annotator "{name}" has changed since it ranked ({before} then, {code} now), and its '
                'rankings would be of two kinds. Give it another name: name="..."'
            )


def _tiers(item: Item, places: Tiers | None) -> tuple[tuple[str, ...], ...]:
    """Return completion ids, best first. Raises DataError for a place that is not there or is named twice."""
    if places is None:
        return ()
    tiers = [tuple(place) if isinstance(place, Sequence) else (place,) for place in places]
    flat = [place for tier in tiers for place in tier]
    n = len(item.completions)
    wrong = [p for p in flat if isinstance(p, bool) or not isinstance(p, int) or not 0 <= p < n]
    if wrong or len(set(flat)) < len(flat):
        raise DataError(f"it ranked {list(places)}: give each place from 0 to {n - 1} at most once")
    return tuple(tuple(item.completions[place].id for place in tier) for tier in tiers if tier)
