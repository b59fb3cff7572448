"""Measures how well any reward model orders the rankings of any file (`prefloop evaluate reward`).

It needs no project.
"""

from __future__ import annotations

from pathlib import Path

from prefloop import exchange
from prefloop.config import CONFIG_NAME, load_config
from prefloop.errors import ConfigError, StoreError
from prefloop.models.folder import check_folder
from prefloop.project.project import Project
from prefloop.results import EvaluatedReward
from prefloop.store import Store
from prefloop.training.rankings import read_items


def evaluate_reward(model: str, data: Path, format: str | None = None) -> EvaluatedReward:
    """Return the accuracy of a reward model by criterion.

    Raises ModelError, DataError, or NothingToDoError without any pair.
    """
    records = exchange.read(data, format)  # A wrong file is an error before a model is looked for.
    check_folder(model)
    _check_registered(Path(model))
    items, rejected = read_items(records)

    # This loads torch, and an error above should not wait for that.
    from prefloop.training.reward_evaluation import pair_accuracies

    return pair_accuracies(model, items, data, rejected)


def _check_registered(folder: Path) -> None:
    """Raise ModelError if a model that is registered in a project is not what was registered."""
    folder = folder.resolve()
    root = next((above for above in folder.parents if (above / CONFIG_NAME).is_file()), None)
    if root is None:
        return
    try:
        config = load_config(root / CONFIG_NAME)
        store = Store.open(config.project.store, root, create=False)
    except (ConfigError, StoreError):
        return  # This verb needs no project: one that cannot be opened has nothing to compare with.
    with Project(root, config, store, quiet=True) as project:
        for row in project.store.models("reward"):
            if (root / row.path).resolve() == folder:
                project.ref(row).intact()
