"""Weights & Biases. It is offline unless the user's own WANDB_MODE says otherwise, and never asks for a login."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from prefloop.errors import ConfigError
from prefloop.track.base import Tracked


class Wandb:
    def __init__(self, run: Tracked):
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else the library reports its crashes to its makers
        import wandb

        mode: Any = os.environ.get("WANDB_MODE") or "offline"
        if mode not in ("offline", "disabled") and not _has_login(wandb):
            raise ConfigError(f"WANDB_MODE is {mode}, and nobody is logged in: run wandb login")
        run.folder.mkdir(parents=True, exist_ok=True)
        self.known = run.id
        self.run = wandb.init(
            project=run.project,
            name=run.name,
            id=run.id,
            job_type=run.stage,
            config=dict(run.config),
            dir=str(run.folder),
            mode=mode,
            resume="allow" if run.known and mode != "offline" else None,
            reinit="create_new",  # the program that uses prefloop may have a run of its own
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True, save_code=False, x_disable_stats=True
            ),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step, commit=True)

    def close(self, done: bool) -> None:
        self.run.finish(exit_code=0 if done else 1)


def _has_login(wandb: Any) -> bool:
    return bool(os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or wandb.api.api_key)
