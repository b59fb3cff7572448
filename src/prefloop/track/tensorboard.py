"""TensorBoard: one folder of event files a run. They are written anew by each process, so that no step stands twice."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from prefloop.track.base import Tracked, flat


class TensorBoard:
    known = ""  # the folder says it

    def __init__(self, run: Tracked):
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard" / run.project / run.name
        shutil.rmtree(folder, ignore_errors=True)
        self.writer = SummaryWriter(str(folder))
        self.writer.add_text("settings", "\n".join(f"    {key} = {value}" for key, value in flat(run.config)), 0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self, done: bool) -> None:
        self.writer.close()
