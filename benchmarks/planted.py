"""Faults are planted, runs are made, and `prefloop diagnose` is asked what went wrong. Healthy runs lie beside them.

    python benchmarks/planted.py --quick                # one strength, one seed, one world: some minutes on two cores
    python benchmarks/planted.py --json planted.json    # every kind, strength, seed and world, and the healthy runs
    python benchmarks/planted.py --only "learning rate" # faults whose name holds a text

A job is a process of its own: it copies a world's project, plants one fault (`faults.py`), runs the stage that shows
it, and writes what the diagnosis says. Thresholds and weights were set on one half of the jobs ("tune"), and are
measured on the other ("test"): the half is a hash of kind, strength, seed and world. The table says for each kind how
often its cause was named first and among the first three, and the step of the first symptom.

Alarms of healthy runs are findings that are more than a note.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

HEALTHY: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    # name, world, overrides: several algorithms and sizes, nothing planted
    ("ppo", "demo", ()),
    ("grpo", "demo", ("align.algorithm=grpo",)),
    ("rloo", "demo", ("align.algorithm=rloo",)),
    ("ppo, larger batch", "demo", ("align.rollout.prompts=24",)),
    ("ppo, more steps", "demo", ("align.steps=28",)),
    ("grpo", "stories", ()),
    ("rloo", "stories", ("align.algorithm=rloo",)),
    ("ppo", "stories", ("align.algorithm=ppo", "align.critic_lr=1e-3")),
    ("grpo, groups of 8", "stories", ("align.rollout.k=8", "align.rollout.prompts=8")),
    ("grpo, more steps", "stories", ("align.steps=28",)),
)


@dataclass(frozen=True)
class Job:
    """One run. fault: its name; None for a healthy run, which then has a `label` and overrides."""

    fault: str | None
    label: str
    world: str
    strength: float
    seed: int
    overrides: tuple[str, ...] = ()

    @property
    def half(self) -> str:
        text = f"{self.label}/{self.world}/{self.strength:g}/{self.seed}"
        return "tune" if int(hashlib.sha256(text.encode()).hexdigest(), 16) % 2 else "test"


def jobs(asked: argparse.Namespace) -> list[Job]:
    from faults import FAULTS

    seeds = range(1 if asked.quick else asked.seeds)
    found = []
    for fault in FAULTS:
        if asked.only and asked.only not in fault.name:
            continue
        worlds = [w for w in fault.worlds if w in asked.worlds]
        strengths = fault.strengths[-1:] if asked.quick else fault.strengths
        for world in worlds[:1] if asked.quick else worlds:
            if fault.needs == "ppo" and world != "demo":
                over: tuple[str, ...] = ("align.algorithm=ppo", "align.critic_lr=1e-3")
            else:
                over = ()
            found += [Job(fault.name, fault.name, world, s, seed, over) for s in strengths for seed in seeds]
    if not asked.only or asked.only == "healthy":
        for name, world, overrides in HEALTHY:
            if world in asked.worlds:
                some = range(1 if asked.quick else asked.healthy_seeds)
                found += [Job(None, f"healthy {name}", world, 0.0, seed, overrides) for seed in some]
    return found


# -- one job, in a process of its own ----------------------------------------------------------------------------------


def do(job: Job, base: Path) -> dict[str, Any]:
    """Plant, run, diagnose."""
    from faults import FAULTS

    from prefloop.project.project import Project
    from prefloop.stages.align import align
    from prefloop.stages.crowd import crowd
    from prefloop.stages.diagnosing import diagnose_runs
    from prefloop.stages.train_reward import reward

    fault = next((f for f in FAULTS if f.name == job.fault), None)
    settings = list(job.overrides) + (fault.settings(job.strength) if fault else [])
    stage = fault.stage if fault else "align"
    stopped = ""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "project"
        shutil.copytree(base, folder)
        redo = fault.redo if fault else ()
        if redo:
            _forget(folder, redo)
        with Project.open(folder, settings, quiet=True) as project:
            if fault and fault.prepare:
                fault.prepare(project, job.strength)
            with contextlib.ExitStack() as stack:
                if fault and fault.patch:
                    stack.enter_context(fault.patch(job.strength))
                try:
                    if "crowd" in redo:
                        crowd(project)
                    if stage == "reward":
                        reward(project)
                    else:
                        align(project, 0)
                except Exception as error:  # noqa: BLE001 -- a run that a fault ends is still diagnosed
                    stopped = f"{type(error).__name__}: {error}"
                    traceback.print_exc()
        found = [d for d in diagnose_runs(folder, stage=stage)]
        diagnosis = found[-1]
        causes = [cause.id for finding in diagnosis.findings for cause in finding.causes[:1]]
        order = [cause.id for finding in diagnosis.findings for cause in finding.causes]
        return {
            **asdict(job),
            "half": job.half,
            "stage": stage,
            "stopped": stopped,
            "alarms": [f.title for f in diagnosis.alarms],
            "first": (causes or ["nothing"])[0],
            "firsts": causes,
            "three": _three(diagnosis),
            "order": order,
            "symptoms": [s.rule for f in diagnosis.findings for s in f.symptoms],
            "since": min((f.since for f in diagnosis.alarms if f.since is not None), default=None),
            "steps": diagnosis.steps,
            "problems": list(diagnosis.problems),
            "findings": [f.to_json() for f in diagnosis.findings],
        }


def _three(diagnosis: Any) -> list[str]:
    """The first three causes: the first of each finding in turn, then the second of each, and so on."""
    named: list[str] = []
    for place in range(3):
        for finding in diagnosis.findings:
            if place < len(finding.causes) and finding.causes[place].id not in named:
                named.append(finding.causes[place].id)
    return named[:3]


def _forget(folder: Path, stages: tuple[str, ...]) -> None:
    """Remove what the stages have made, so that they are run again."""
    from sqlalchemy import create_engine, text

    for stage in (*stages, "align"):
        for run in (folder / "runs").glob(f"{stage}-*"):
            shutil.rmtree(run)
    engine = create_engine(f"sqlite:///{folder / 'prefloop.db'}")
    with engine.begin() as connection:
        if "crowd" in stages:
            connection.execute(text("delete from rankings"))
        if "reward" in stages:
            connection.execute(text("delete from models where kind = 'reward'"))
    engine.dispose()


# -- all of them -------------------------------------------------------------------------------------------------------


def main() -> None:
    asked = _arguments()
    if asked.job:
        job = Job(**{**json.loads(asked.job), "overrides": tuple(json.loads(asked.job)["overrides"])})
        print(json.dumps(do(job, Path(asked.base))))
        return
    todo = jobs(asked)
    worlds = Path(asked.folder or tempfile.mkdtemp(prefix="planted-"))
    worlds.mkdir(parents=True, exist_ok=True)
    began = time.time()
    for world, seed in sorted({(job.world, job.seed) for job in todo}):
        from worlds import make_world

        print(f"world {world}, seed {seed}", file=sys.stderr, flush=True)
        with contextlib.redirect_stdout(sys.stderr):
            make_world(world, worlds / f"{world}-{seed}", seed)
    with ThreadPoolExecutor(asked.workers) as pool:
        rows = [row for row in pool.map(lambda job: _process(job, worlds), todo) if row]
    result = {"rows": rows, "seconds": round(time.time() - began), **summary(rows)}
    if asked.json:
        Path(asked.json).write_text(json.dumps(result, indent=1), encoding="utf-8")
    print("\n".join(table(rows)))
    for half in ("tune", "test"):
        print(f"{half}: {json.dumps(result[half])}")


def _process(job: Job, worlds: Path) -> dict[str, Any] | None:
    base = worlds / f"{job.world}-{job.seed}"
    command = [sys.executable, __file__, "--job", json.dumps(asdict(job)), "--base", str(base)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        print(f"FAILED {job}: {done.stderr[-1500:]}", file=sys.stderr, flush=True)
        return None
    row: dict[str, Any] = json.loads(lines[-1])
    mark = "healthy" if job.fault is None else ("first" if right(row) else "three" if right(row, 3) else "WRONG")
    print(f"{mark:8} {job.label} x{job.strength:g} seed {job.seed} {job.world}: {row['firsts']} since {row['since']}",
          file=sys.stderr, flush=True)  # fmt: skip
    return row


def right(row: dict[str, Any], among: int = 1) -> bool:
    """Whether the planted cause is the first of all, or among the first three."""
    from faults import FAULTS

    causes = next(f.cause for f in FAULTS if f.name == row["fault"])
    named = row["three"][:1] if among == 1 else row["three"]
    return any(cause in named for cause in causes)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    out = {}
    for half in ("tune", "test"):
        some = [row for row in rows if row["half"] == half]
        planted, healthy = [r for r in some if r["fault"]], [r for r in some if not r["fault"]]
        out[half] = {
            "planted": len(planted),
            "first": sum(right(r) for r in planted),
            "among_three": sum(right(r, 3) for r in planted),
            "healthy": len(healthy),
            "alarmed": sum(bool(r["alarms"]) for r in healthy),
        }
    return out


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| fault | runs | first | among three | first symptom at step (of) |"
    yield "|---|---|---|---|---|"
    for label in dict.fromkeys(row["label"] for row in rows):
        some = [row for row in rows if row["label"] == label]
        steps = sorted(str(row["since"]) for row in some if row["since"] is not None)
        when = f"{', '.join(dict.fromkeys(steps))} ({some[0]['steps']})" if steps else "-"
        if some[0]["fault"]:
            first, three = sum(right(r) for r in some), sum(right(r, 3) for r in some)
            yield f"| {label} | {len(some)} | {first} | {three} | {when} |"
        else:
            alarmed = sum(bool(r["alarms"]) for r in some)
            yield f"| {label} ({some[0]['world']}) | {len(some)} | {alarmed} alarmed | | {when} |"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one strength, one seed and one world of each fault")
    parser.add_argument("--only", help='faults whose name holds this text; "healthy" for the healthy runs')
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--healthy-seeds", type=int, default=4)
    parser.add_argument("--worlds", nargs="+", default=["demo", "stories"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", help="where the worlds are kept, to be used again")
    parser.add_argument("--json", help="write every row there")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
