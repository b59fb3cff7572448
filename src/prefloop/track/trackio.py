"""Trackio. It writes to a folder of the project unless the user's own settings name another place."""

from __future__ import annotations

import os
from collections.abc import Mapping

from prefloop.track.base import Tracked


class Trackio:
    def __init__(self, run: Tracked):
        if "TRACKIO_DIR" not in os.environ:
            os.environ["TRACKIO_DIR"] = str(run.folder / "trackio")
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        import trackio

        self.known = run.name
        self.run = trackio.init(
            project=run.project,
            name=run.name,
            group=run.stage,
            config={key.replace(".", "/"): value for key, value in run.config.items()},
            resume="allow" if run.known else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self, done: bool) -> None:
        self.run.finish()
