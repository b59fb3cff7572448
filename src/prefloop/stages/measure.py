"""`prefloop evaluate reward`: any reward model on any file of rankings or pairs, without a project."""

from __future__ import annotations

from pathlib import Path

from prefloop import exchange
from prefloop.exchange import RowError
from prefloop.models.folder import check_folder
from prefloop.stages.project import Outcome
from prefloop.types import Item


def measure_file(model: str, data: Path, format: str | None = None) -> Outcome:
    """Accuracy of a reward model by criterion. Raises ModelError, DataError, or NothingToDoError without any pair."""
    records = exchange.read(data, format)
    check_folder(model)
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
