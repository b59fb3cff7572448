"""Faults are planted, runs are made, and `prefloop diagnose` is asked what went wrong. Healthy runs lie beside them.

    python benchmarks/planted.py --quick                # one strength, one seed, one world: some minutes on two cores
    python benchmarks/planted.py --json planted.json    # every kind, strength, seed and world, and the healthy runs
    python benchmarks/planted.py --only "learning rate" # faults whose name holds a text
    python benchmarks/planted.py --folder F             # keep the runs in F, and make those that are missing

A job is a process of its own: it copies a world's project, plants one fault (`faults.py`), runs the stage that shows
it, and keeps the run's folder. Then the diagnosis reads the folders, as it would read folders that were copied here.
Thresholds and weights were set on one half of the jobs ("tune"), and are measured on the other ("test"): the half is a
hash of kind, strength, seed and world.

The table says for each kind how often its cause was named first, and among the first three; at which evaluation the
run was alarmed first, by the rules that are asked while it runs; and at which evaluation half of the damage was done.
Damage is what the hidden quality of held-out answers lacks beside the healthy run of the same world, seed and
algorithm. A reward model's run is alarmed when it ends, before a policy is trained with it.

Alarms of healthy runs are findings that are more than a note.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import importlib
import io
import json
import math
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

from prefloop.diagnose.records import RunRecord, Series  # noqa: E402 -- the path comes first

HEALTHY: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    # name, world, overrides: several algorithms and sizes, nothing planted
    ("ppo", "demo", ()),
    ("grpo", "demo", ("align.algorithm=grpo",)),
    ("rloo", "demo", ("align.algorithm=rloo",)),
    ("ppo, larger batch", "demo", ("align.rollout.prompts=24",)),
    ("ppo, more steps", "demo", ("align.steps=28",)),
    ("ppo, one update a step", "demo", ("align.rollout.minibatches=1",)),
    ("grpo", "stories", ()),
    ("rloo", "stories", ("align.algorithm=rloo",)),
    ("ppo", "stories", ("align.algorithm=ppo", "align.critic_lr=1e-3")),
    ("grpo, groups of 8", "stories", ("align.rollout.k=8", "align.rollout.prompts=8")),
    ("grpo, more and smaller steps", "stories", ("align.steps=28", "align.lr=1e-4")),
    ("grpo, answers of 48 tokens", "stories", ("align.max_tokens=48", "evaluate.max_tokens=48")),
)
EVERY = "align.evaluation.eval_every=4"  # alarms are raised at evaluations, and damage is seen there


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
    def text(self) -> str:
        return f"{self.label}/{self.world}/{self.strength:g}/{self.seed}"

    @property
    def hash(self) -> int:
        return int(hashlib.sha256(self.text.encode()).hexdigest(), 16)

    @property
    def half(self) -> str:
        return "tune" if self.hash % 2 else "test"

    @property
    def folder(self) -> str:
        return re.sub(r"[^a-z0-9.]+", "-", self.text.lower())


def jobs(asked: argparse.Namespace) -> list[Job]:
    from faults import FAULTS

    seeds = asked.seeds[:1] if asked.quick else asked.seeds
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
                some = seeds[:1] if asked.quick else asked.healthy_seeds
                found += [Job(None, f"healthy {name}", world, 0.0, seed, overrides) for seed in some]
    return sorted(found, key=lambda job: job.hash)  # in no order, so that what was stopped is a fair sample


# -- one job, in a process of its own ----------------------------------------------------------------------------------


def do(job: Job, base: Path, kept: Path) -> None:
    """Plant, run, and keep the folder of the run, without its checkpoints."""
    from faults import FAULTS

    from prefloop.diagnose.reading import run_folders
    from prefloop.project.project import Project
    from prefloop.stages.align import align
    from prefloop.stages.crowd import crowd
    from prefloop.stages.sample import sample
    from prefloop.stages.train_reward import reward

    fault = next((f for f in FAULTS if f.name == job.fault), None)
    settings = [EVERY, "project.threads=1", *job.overrides, *(fault.settings(job.strength) if fault else [])]
    stage = fault.stage if fault else "align"
    redo = fault.redo if fault else ()
    stopped = ""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "project"
        shutil.copytree(base, folder)
        if redo:
            _forget(folder, redo)
        if fault and fault.files:
            for name, text in fault.files.items():
                (folder / name).write_text(text, encoding="utf-8")
        with Project.open(folder, settings, quiet=True) as project, contextlib.ExitStack() as stack:
            if "sample" in redo:
                sample(project)
            if fault and fault.prepare:
                fault.prepare(project, job.strength)
            for name, make in (("crowd", crowd), ("reward", reward)):
                if name in redo and name != stage:
                    make(project)
            if fault and fault.patch:
                stack.enter_context(fault.patch(job.strength))
            try:
                reward(project) if stage == "reward" else align(project, 0)
            except Exception as error:  # noqa: BLE001 -- a run that a fault ends is still diagnosed
                stopped = f"{type(error).__name__}: {error}"
                traceback.print_exc()
        run = next(f for f in reversed(run_folders(folder)) if f.name.startswith(f"{stage}-"))
        part = kept.with_name(kept.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        shutil.copytree(run, part / "run", ignore=lambda at, names: [n for n in names if (Path(at) / n).is_dir()])
        (part / "job.json").write_text(json.dumps({**asdict(job), "stage": stage, "stopped": stopped}))
        part.rename(kept)


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
        if "sample" in stages:
            connection.execute(text("delete from completions"))
            connection.execute(text("delete from items"))
    engine.dispose()


# -- what the diagnosis says of it -------------------------------------------------------------------------------------


def row(job: Job, kept: Path) -> dict[str, Any]:
    """Return what the diagnosis says of a run, from its folder alone; the run has the name of its stage."""
    from prefloop.diagnose.diagnosis import diagnose
    from prefloop.diagnose.reading import read_run

    about = json.loads((kept / "job.json").read_text())
    run = replace(read_run(kept / "run"), name=f"{about['stage']}-001")
    found = diagnose(run)
    firsts = [cause.id for finding in found.findings for cause in finding.causes[:1]]
    judge = run.series("eval_judge")
    return {
        **asdict(job),
        "half": job.half,
        "stage": run.stage,
        "algorithm": str(run.align("algorithm")),
        "stopped": about["stopped"],
        "alarms": [f.title for f in found.alarms],
        "firsts": firsts or ["nothing"],
        "three": _three(found),
        "symptoms": [s.rule for f in found.findings for s in f.symptoms],
        "alarmed_at": alarmed_at(run),
        "steps": found.steps,
        "judge": dict(zip(judge.steps.tolist(), judge.values.tolist(), strict=True)) if judge else {},
        "judge_error": _error_of(run),
        "problems": list(found.problems),
        "findings": [f.to_json() for f in found.findings],
    }


def alarmed_at(run: RunRecord) -> int | None:
    """Return the first evaluation at which the rules that are asked while a run goes on raise an alarm."""
    from prefloop.diagnose.diagnosis import diagnose

    evaluated = run.series("eval_reward")
    for step in evaluated.steps.tolist() if evaluated else []:
        metrics = {name: Series(s.steps[s.steps <= step], s.values[s.steps <= step]) for name, s in run.metrics.items()}
        cut = replace(run, metrics=metrics, status="running", result={}, samples=())
        if diagnose(cut, live=True).alarms:
            return int(step)
    return None


def _error_of(run: RunRecord) -> float:
    """The standard error of the hidden quality at the last evaluation; 0 where there is none."""
    spread, n = run.series("eval_judge_std"), run.series("eval_sequences")
    return float(spread.values[-1]) / float(n.values[-1]) ** 0.5 if spread and n else 0.0


def damage(rows: list[dict[str, Any]]) -> None:
    """Add to each row the evaluation at which half of its damage was done; None where there was no damage to see."""
    healthy = {
        (r["world"], r["seed"], r["algorithm"]): r
        for r in rows
        if not r["fault"] and r["label"] == f"healthy {r['algorithm']}"
    }
    for r in rows:
        r["half_at"] = None
        well = healthy.get((r["world"], r["seed"], r["algorithm"]))
        if not r["fault"] or not well or not r["judge"]:
            continue
        lacks = {step: well["judge"][step] - value for step, value in r["judge"].items() if step in well["judge"]}
        total = list(lacks.values())[-1]
        if total > 2 * math.hypot(r["judge_error"], well["judge_error"]):
            r["half_at"] = next(step for step, lack in lacks.items() if lack >= total / 2)


def _three(diagnosis: Any) -> list[str]:
    """The first three causes: the first of each finding in turn, then the second of each, and so on."""
    named: list[str] = []
    for place in range(3):
        for finding in diagnosis.findings:
            if place < len(finding.causes) and finding.causes[place].id not in named:
                named.append(finding.causes[place].id)
    return named[:3]


# -- all of them -------------------------------------------------------------------------------------------------------


def main() -> None:
    asked = _arguments()
    todo = jobs(asked)
    home = Path(asked.folder or tempfile.mkdtemp(prefix="planted-"))
    missing = [job for job in todo if not (home / "jobs" / job.folder).is_dir()]
    began = time.time()
    if missing and not asked.diagnose:
        (home / "worlds").mkdir(parents=True, exist_ok=True)
        _load()
        with multiprocessing.get_context("fork").Pool(asked.workers, maxtasksperchild=1) as pool:
            worlds = sorted({(job.world, job.seed) for job in missing})
            pool.starmap(_make, [(home, *world) for world in worlds], chunksize=1)
            for said in pool.imap_unordered(functools.partial(_process, home), missing):
                print(said, file=sys.stderr, flush=True)
    rows = [row(job, home / "jobs" / job.folder) for job in todo if (home / "jobs" / job.folder).is_dir()]
    damage(rows)
    failed = [job.text for job in todo if not (home / "jobs" / job.folder).is_dir()]
    result = {"rows": rows, "missing": failed, "seconds": round(time.time() - began), **summary(rows)}
    if asked.json:
        Path(asked.json).write_text(json.dumps(result, indent=1), encoding="utf-8")
    for r in rows if asked.verbose else ():
        if asked.half in (None, r["half"]):
            print(_line(r))
    print("\n".join(table([r for r in rows if asked.half in (None, r["half"])])))
    for half in (asked.half,) if asked.half else ("tune", "test"):
        print(f"{half}: {json.dumps(result[half])}")
    if failed:
        print(f"{len(failed)} jobs have no run")


def _load() -> None:
    """Import what every job needs, once: a job is then a fork, which starts at once."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in ("faults", "worlds", "prefloop.stages.align", "prefloop.stages.crowd", "prefloop.stages.train_reward"):
        importlib.import_module(name)


def _make(home: Path, world: str, seed: int) -> None:
    from worlds import make_world

    print(f"world {world}, seed {seed}", file=sys.stderr, flush=True)
    with contextlib.redirect_stdout(sys.stderr):
        make_world(world, home / "worlds" / f"{world}-{seed}", seed)


def _process(home: Path, job: Job) -> str:
    """Do a job, and return the line that says how it went. What it prints is kept where it fails."""
    kept, said = home / "jobs" / job.folder, io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            do(job, home / "worlds" / f"{job.world}-{job.seed}", kept)
        return _line(row(job, kept))
    except Exception:  # noqa: BLE001 -- one job that cannot be made must not end the others
        return f"FAILED {job.text}: {said.getvalue()[-800:]}{traceback.format_exc()}"


def _line(row: dict[str, Any]) -> str:
    if row["fault"]:
        mark = "first" if right(row) else "three" if right(row, 3) else "WRONG"
    else:
        mark = "ALARM" if row["alarms"] else "healthy"
    named = row["firsts"] if row["fault"] else row["alarms"]
    return (
        f"{mark:8} {row['half']} {row['label']} x{row['strength']:g} seed {row['seed']} {row['world']}: "
        f"{', '.join(named)} | {', '.join(row['symptoms'])} | at {row['alarmed_at']}"
    )


def right(row: dict[str, Any], among: int = 1) -> bool:
    """Whether the planted cause is the first of all, or among the first three."""
    from faults import FAULTS

    causes = next(f.cause for f in FAULTS if f.name == row["fault"])
    return any(cause in row["three"][:among] for cause in causes)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    out = {}
    for half in ("tune", "test"):
        some = [row for row in rows if row["half"] == half]
        planted, healthy = [r for r in some if r["fault"]], [r for r in some if not r["fault"]]
        out[half] = {
            "planted": len(planted),
            "kinds": len({r["fault"] for r in planted}),
            "first": sum(right(r) for r in planted),
            "among_three": sum(right(r, 3) for r in planted),
            "damaged": sum(r["half_at"] is not None for r in planted),
            "alarmed_before_half": sum(early(r) for r in planted),
            "healthy": len(healthy),
            "alarmed": sum(bool(r["alarms"]) for r in healthy),
        }
    return out


def early(row: dict[str, Any]) -> bool:
    """Whether a run that did damage was alarmed before, or when, half of it was done."""
    return row["half_at"] is not None and row["alarmed_at"] is not None and row["alarmed_at"] <= row["half_at"]


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| fault | runs | first | among three | first alarm, at step | half of the damage, at step |"
    yield "|---|---|---|---|---|---|"
    for label in sorted({row["label"] for row in rows}, key=lambda name: (name.startswith("healthy"), name)):
        some = [row for row in rows if row["label"] == label]
        if some[0]["fault"]:
            first, three = sum(right(r) for r in some), sum(right(r, 3) for r in some)
            ends = some[0]["stage"] == "reward"
            late = "the run stops by itself" if all(r["stopped"] for r in some) else "after the run"
            alarm = "before `align`" if ends else _steps(some, "alarmed_at", late)
            half = "" if ends else _steps(some, "half_at", "no damage seen")
            yield f"| {label} | {len(some)} | {first} | {three} | {alarm} | {half} |"
        else:
            alarmed = sum(bool(r["alarms"]) for r in some)
            where = ", ".join(sorted({r["world"] for r in some}))
            yield f"| {label} ({where}) | {len(some)} | {alarmed} alarmed | | | |"


def _steps(rows: list[dict[str, Any]], name: str, without: str) -> str:
    """The steps of several runs, in order, each once; and what is said of runs without one."""
    steps = sorted({row[name] for row in rows if row[name] is not None})
    said = [str(step) for step in steps]
    return ", ".join(said + [without] * any(row[name] is None for row in rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one strength, one seed and one world of each fault")
    parser.add_argument("--only", help='faults whose name holds this text; "healthy" for the healthy runs')
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--healthy-seeds", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--worlds", nargs="+", default=["demo", "stories"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", help="where worlds and runs are kept, to be used again")
    parser.add_argument("--diagnose", action="store_true", help="make no run: diagnose those that are in --folder")
    parser.add_argument("--half", choices=["tune", "test"], help="show one half only")
    parser.add_argument("--verbose", action="store_true", help="a line for each run")
    parser.add_argument("--json", help="write every row there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
