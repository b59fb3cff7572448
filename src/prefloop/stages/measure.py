"""How good a reward model is: any one on any file (`prefloop evaluate reward`), a project's own before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefloop import exchange, record
from prefloop.config import CONFIG_NAME, load_config
from prefloop.diagnose.reward_model import at_chance
from prefloop.errors import ConfigError, StoreError
from prefloop.exchange import RowError
from prefloop.models.folder import check_folder
from prefloop.project.project import Outcome, Project
from prefloop.store import ModelRow, Store
from prefloop.types import Item


def measure_file(model: str, data: Path, format: str | None = None) -> Outcome:
    """Accuracy of a reward model by criterion. Raises ModelError, DataError, or NothingToDoError without any pair."""
    records = exchange.read(data, format)
    check_folder(model)
    _check_registered(Path(model))
    items: list[Item] = []
    rejected: list[str] = []
    for row in records:
        if isinstance(row, Item):
            items.append(row)
        elif isinstance(row, RowError):
            rejected.append(f"row {row.line}: {row.reason}")

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
    try:
        config = load_config(root / CONFIG_NAME)
        store = Store.open(config.project.store, root, create=False)
    except (ConfigError, StoreError):
        return  # this verb needs no project: one that cannot be opened has nothing to compare with
    with Project(root, config, store, quiet=True) as project:
        for row in project.store.models("reward"):
            if (root / row.path).resolve() == folder:
                project.ref(row).intact()


def chance_warnings(project: Project, models: Sequence[ModelRow]) -> list[str]:
    """One sentence for each reward model that is not known to tell better from worse: at chance, or never measured."""
    said = []
    for row in models:
        run = record.Run(project.root / record.RUNS / (row.run_id or row.version))
        said.append(at_chance(run.result.get("heldout"), f'{row.version} ("{row.criterion}")'))
    return [warning for warning in said if warning]
