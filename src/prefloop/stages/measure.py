"""`prefloop evaluate reward`: any reward model on any file of rankings or pairs, without a project."""

from __future__ import annotations

from pathlib import Path

from prefloop import exchange
from prefloop.config import CONFIG_NAME
from prefloop.exchange import RowError
from prefloop.models.folder import check_folder
from prefloop.stages.project import Outcome, Project
from prefloop.types import Item


def measure_file(model: str, data: Path, format: str | None = None) -> Outcome:
    """Accuracy of a reward model by criterion. Raises ModelError, DataError, or NothingToDoError without any pair."""
    records = exchange.read(data, format)
    check_folder(model)
    _check_registered(Path(model))
    items: list[Item] = []
    rejected: list[str] = []
    for record in records:
        if isinstance(record, Item):
            items.append(record)
        elif isinstance(record, RowError):
            rejected.append(f"row {record.line}: {record.reason}")

    from prefloop.stages.train_reward import evaluate_reward

    figures = evaluate_reward(model, items)
    result = {**figures, "file": str(data), "rejected": len(rejected), "reasons": rejected[:10]}
    return Outcome("evaluate reward", None, result)


def _check_registered(folder: Path) -> None:
    """A model that lies in a project and is registered there must be what was registered. Raises ModelError."""
    folder = folder.resolve()
    root = next((above for above in folder.parents if (above / CONFIG_NAME).is_file()), None)
    if root is None:
        return
    with Project.open(root, quiet=True) as project:
        for row in project.store.models("reward"):
            if (root / row.path).resolve() == folder:
                project.ref(row).intact()
