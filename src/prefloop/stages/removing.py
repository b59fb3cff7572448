"""Runs `prefloop remove`, which takes rows out of a project again, and says which models learnt from them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from prefloop.errors import DataError, NothingToDoError, suggest
from prefloop.project.left_out import refusal
from prefloop.project.project import Project, load_policy
from prefloop.results import LearntModel, Removed
from prefloop.store.origins import has_origins, origins
from prefloop.store.removal import Removal, plan
from prefloop.store.removal import remove as take_out
from prefloop.store.stream import every_demonstration, every_item, every_prompt

if TYPE_CHECKING:
    from prefloop.types import Demonstration, Item, Prompt

NAMED = 10  # The result names so many rows; the others are counted.


def remove(
    project: Project,
    ids: Sequence[str] = (),
    imports: Sequence[str] = (),
    refused: bool = False,
    *,
    with_rankings: bool = False,
    dry_run: bool = False,
    agreed: Callable[[Removed], bool] = lambda planned: True,
) -> Removed:
    """Take out rows by id, by the file they were imported from, or all that the model's chat template refuses.

    agreed: asked with what would go, before anything does. dry_run: only say it. Raises DataError for an unknown id or
    file, and where people have ranked what would go, unless `with_rankings`.
    """
    files = [sha256 for name in imports for sha256 in _files(project, name)]
    wanted = {*ids, *(_refused(project) if refused else ())}
    planned = plan(project.store, wanted, files)
    if not planned.ids:
        raise NothingToDoError("no row is to be removed" + (": the chat template refuses none" if refused else ""))
    rows = _rows(project, planned)  # They are read as long as they are there.
    outcome = _outcome(planned, rows, removed=False)
    if dry_run or not agreed(outcome):
        return outcome
    with project.lock():
        gone = take_out(project.store, wanted, files, with_rankings=with_rankings)
    return _outcome(gone, rows, removed=True)


def _files(project: Project, name: str) -> list[str]:
    """Return the SHA-256 of the imported files of a name.

    Raises DataError where there is none, or its rows are not known.
    """
    log = project.store.imports()
    found = list(dict.fromkeys(row.sha256 for row in log if name in (row.name, row.sha256)))
    if not found:
        raise DataError(f'no file "{name}" was imported.{suggest(name, sorted({row.name for row in log}))}')
    known = [sha256 for sha256 in found if has_origins(project.store, sha256)]
    if not known and not any(row.removed for row in log if row.sha256 in found):
        raise DataError(
            f'"{name}" was imported by an older prefloop, which did not keep where rows come from. Import the same '
            "file once more: it adds nothing but that."
        )
    return known


def _refused(project: Project) -> Collection[str]:
    """Return the ids of prompts, demonstrations and items that the chat template of the project's model refuses."""
    _, tokenization = load_policy(project, project.reference())
    rows: tuple[Callable[[], Any], ...] = (
        lambda: every_prompt(project.store),
        lambda: every_demonstration(project.store),
        lambda: every_item(project.store),
    )
    found: list[Prompt | Demonstration | Item] = [row for read in rows for row in read() if refusal(tokenization, row)]
    return [row.id for row in found]


def _rows(project: Project, gone: Removal) -> list[str]:
    """Return the first of them by file and row."""
    ids = sorted(gone.demonstrations | gone.items | gone.prompts)
    return sorted(set(origins(project.store, ids[: 3 * NAMED]).values()))[:NAMED]


def _outcome(gone: Removal, rows: list[str], removed: bool) -> Removed:
    return Removed(
        removed=removed,
        prompts=len(gone.prompts),
        demonstrations=len(gone.demonstrations),
        items=len(gone.items),
        sampled_items=gone.sampled_items,
        rankings=len(gone.rankings),
        rankings_by_people=gone.by_people,
        rollouts=gone.rollouts,
        kept=gone.kept,
        rows=tuple(rows),
        models=tuple(LearntModel(model.version, model.kind, model.run_id, through) for model, through in gone.models),
    )
