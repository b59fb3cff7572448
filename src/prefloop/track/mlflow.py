"""MLflow. It writes to an SQLite file in the project unless the user's own MLFLOW_TRACKING_URI names a server."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping

from prefloop.track.base import Tracked, flat

_NOT_ALLOWED = re.compile(r"[^\w\-. :/]")
_PARAMS = 100  # that one request may hold


class Mlflow:
    def __init__(self, run: Tracked):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # A server that does not answer must not hold up training: the defaults try for many minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        address = os.environ.get("MLFLOW_TRACKING_URI")
        if address is None:
            run.folder.mkdir(parents=True, exist_ok=True)
            address = f"sqlite:///{run.folder / 'mlflow.db'}"
        self.metric, self.client = Metric, MlflowClient(tracking_uri=address)
        if run.known:
            self.known = run.known
            self.client.update_run(self.known, status="RUNNING")
            return
        experiment = self.client.get_experiment_by_name(run.project)
        files = (run.folder / "mlflow-artifacts").as_uri() if address.startswith("sqlite:") else None
        place = experiment.experiment_id if experiment else self.client.create_experiment(run.project, files)
        made = self.client.create_run(place, run_name=run.name, tags={"stage": run.stage, "prefloop.run": run.name})
        self.known = str(made.info.run_id)
        params = [Param(_NOT_ALLOWED.sub("_", key), value[:6000]) for key, value in flat(run.config)]
        for at in range(0, len(params), _PARAMS):
            self.client.log_batch(self.known, params=params[at : at + _PARAMS])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        rows = [self.metric(_NOT_ALLOWED.sub("_", name), value, now, step) for name, value in values.items()]
        self.client.log_batch(self.known, metrics=rows)

    def close(self, done: bool) -> None:
        self.client.set_terminated(self.known, "FINISHED" if done else "FAILED")
