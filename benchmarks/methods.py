r"""Every method under an equal budget: true quality, or held-out reward, against the KL it costs.

    python benchmarks/methods.py FOLDER [--world demo] [--seeds 0 1 2 3 4] [--methods ppo grpo ...] [--quick]
    python benchmarks/methods.py FOLDER --world e2e --seeds 7 --data ../shared/data
    python benchmarks/methods.py FOLDER --show --json benchmarks/results/methods-demo.json --svg docs/methods-demo.svg \
        --page docs/methods.md

Methods are all online and offline algorithms of the registry at their default options, RLOO with two completions of a
prompt beside its four, and best-of-n by the same reward model. A seed is a world of its own: one project whose
policy, ranked lists and reward model all methods share. Each method is then a run of `prefloop align` and one of
`prefloop evaluate` in it. Online methods draw equally many completions, and offline ones go equally often over the
ranked lists. What is compared is measured on held-out prompts that chose nothing, at temperature 1:

    demo   the built-in scenario (`prefloop demo`) with its settings, in one round with the lists of all. Its true
           quality is known, and nothing learns from it.
    e2e    restaurant descriptions with rankings by real people (examples/e2e.toml). The figure is the held-out reward,
           with the rules of examples/e2e_checker.py beside it. It needs the data, and is skipped where they are absent.

FOLDER keeps the projects and a file for each method and seed; what is there is not made again. CPU time and peak memory
are those of `prefloop align` with its evaluations, and without the loading of libraries. One thread is used.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from methods_shown import BEST_OF, VARIANTS, commits, draw, rows, summarise, tables, write_page

from prefloop import exchange, record
from prefloop.algorithms.registry import class_of
from prefloop.config import CONFIG_NAME
from prefloop.demo.run import BUDGET, DPO, SETTINGS, make_projects
from prefloop.known_algorithms import is_offline, names
from prefloop.project.project import Project
from prefloop.record import Run
from prefloop.stages.align import align
from prefloop.stages.best_of import best_of
from prefloop.stages.crowd import crowd
from prefloop.stages.evaluate import evaluate
from prefloop.stages.importing import import_files
from prefloop.stages.sample import sample
from prefloop.stages.sft import sft
from prefloop.stages.train_reward import reward
from prefloop.training.policy_evaluation import validation_and_test

ROOT = Path(__file__).resolve().parents[1]
K = 4  # completions of a prompt, unless a variant says otherwise
CURVE = ("kl", "reward", "judge", "length", "distinct_2")


@dataclass(frozen=True)
class World:
    """A task. figure: what is compared, a key of the evaluation. completions: of a step.

    lr: of all methods.  passes, lists: of offline methods.  best_n: the largest n of best-of-n.  settings: of stages
    """

    figure: str
    steps: int
    completions: int
    passes: float
    lists: int
    lr: float
    best_n: int
    settings: tuple[str, ...]


def world(name: str, quick: bool) -> World:
    if name == "demo":
        loop, offline = (tomllib.loads(t.format(seed=0, lists=BUDGET, rounds=1))["align"] for t in (SETTINGS, DPO))
        lists, every = (60, 1) if quick else (BUDGET, loop["evaluation"]["eval_every"])
        settings = (f"sample.prompts={lists}", f"align.evaluation.eval_every={every}", "best_of.max_tokens=64")
        return World(
            "judge",
            steps=2 if quick else loop["steps"],
            completions=loop["rollout"]["prompts"] * loop["rollout"]["k"],
            passes=1 if quick else offline["passes"],
            lists=offline["lists"],
            lr=loop["lr"],
            best_n=8 if quick else 64,
            settings=settings,
        )
    steps, every = (2, 1) if quick else (20, 5)
    settings = (
        'reward.criteria=["quality"]', "reward.auxiliary=false", f"align.evaluation.eval_every={every}",
        f"sft.epochs={0.05 if quick else 2}", f"reward.epochs={0.1 if quick else 2}", "best_of.max_tokens=80",
        "align.reward_weights={}", "align.ptx=0.0",
    )  # fmt: skip
    return World(
        "reward",
        steps=steps,
        completions=128,
        passes=0.1 if quick else 1,
        lists=32,
        lr=3e-4,
        best_n=8 if quick else 64,
        settings=settings,
    )


def overrides(here: World, seed: int, quick: bool) -> list[str]:
    """What every stage of a world has in common."""
    samples = 1 if quick else 4
    return ["project.threads=1", f"project.seed={seed}", "evaluate.temperature=1.0", f"evaluate.samples={samples}",
            *here.settings]  # fmt: skip


# -- worlds ------------------------------------------------------------------------------------------------------------


def make_world(name: str, root: Path, here: World, common: Sequence[str], seed: int, data: Path) -> None:
    """Make the project that the methods of a seed share, as far as the reward model; what is done is skipped."""
    if name == "demo":
        make_projects(root, seed)
    elif not (root / CONFIG_NAME).exists():
        root.mkdir(parents=True)
        shutil.copy(ROOT / "examples" / "e2e_checker.py", root)
        record.write_atomic(root / CONFIG_NAME, (ROOT / "examples" / "e2e.toml").read_bytes())
    with Project.open(root, common, quiet=True) as project:
        if name == "demo":
            sample(project, 0)
            crowd(project)
        else:
            import_files(project, [data / "e2e_nlg" / f"{n}.jsonl.gz" for n in ("demonstrations", "rankings_train")])
            sft(project)
        reward(project, 0)


# -- methods -----------------------------------------------------------------------------------------------------------


def methods() -> list[str]:
    return [BEST_OF, *names("online"), *VARIANTS, *names("offline")]


def ask(method: str, here: World) -> tuple[str, list[str], int]:
    """Return the algorithm of a method, the settings of its budget, and how many completions or lists it sees."""
    algorithm, k = VARIANTS.get(method, (method, K))
    if is_offline(algorithm):
        budget = [f"align.passes={here.passes}", f"align.lists={here.lists}", f"align.lr={here.lr}"]
        return algorithm, budget, 0
    k = max(k, class_of(algorithm).min_k)
    prompts = here.completions // k
    budget = [
        f"align.steps={here.steps}",
        f"align.rollout.prompts={prompts}",
        f"align.rollout.k={k}",
        f"align.lr={here.lr}",
    ]
    return algorithm, budget, here.steps * prompts * k


def apart(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Do work in a copy of this process, which has loaded the libraries; return what came out, its time and memory."""
    began = time.perf_counter()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            found = {"made": work()}
        except Exception as error:  # noqa: BLE001 -- the parent reports it
            found = {"error": f"{type(error).__name__}: {error}"}
        with os.fdopen(write, "w") as pipe:
            json.dump(found, pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    _, status, used = os.wait4(child, 0)
    result = json.loads(said) if said else {"error": f"the process ended with status {status}"}
    if "error" in result:
        raise RuntimeError(result["error"])
    measured = {"cpu_s": used.ru_utime + used.ru_stime, "peak_mib": used.ru_maxrss / 1024}
    return result["made"], {"wall_s": time.perf_counter() - began, **measured}


def aligned(root: Path, algorithm: str, settings: Sequence[str]) -> str:
    """Return the name of the run."""
    with Project.open(root, [f"align.algorithm={algorithm}", *settings], quiet=True, new=True) as project:
        return str(align(project, 0).run)


def tried(root: Path, method: str, here: World, common: Sequence[str]) -> dict[str, Any]:
    """Align by a method and evaluate it."""
    algorithm, budget, completions = ask(method, here)
    before = {run.name for run in (root / "runs").iterdir()}
    name, measured = apart(lambda: aligned(root, algorithm, [*common, *budget]))
    run = Run(root / "runs" / name)
    steps = run.metrics()
    row: dict[str, Any] = {
        **measured,
        "completions": completions,
        "kept_step": run.result.get("best_step"),
        "resumed": name in before,  # Its time is only that of the rest.
        "seconds": _seconds(run),
        "drawn": sum(s.get("sequences", 0) for s in steps),
        "curve": [{n: s[f"eval_{n}"] for n in CURVE if f"eval_{n}" in s} | {"step": s["step"]}
                  for s in steps if "eval_kl" in s],
    }  # fmt: skip
    return row | apart(lambda: evaluated(root, name, common))[0]


def evaluated(root: Path, run: str, common: Sequence[str]) -> dict[str, Any]:
    with Project.open(root, common, quiet=True) as project:
        found = evaluate(project, 0, run)
    if found.sampled is None:
        return {"unchanged": True}
    policy, reference = found.sampled.policy, found.sampled.reference
    kept = ("reward", "judge", "kl", "length", "ended", "distinct_2")
    won = found.sampled.judge_win_rate or found.sampled.win_rate
    return {
        "policy": {n: policy[n] for n in kept},
        "reference": {n: reference[n] for n in kept},
        "win_rate": [won.mean, won.low, won.high],
        "prompts": found.prompts,
        "collapsed": found.collapsed,
    }


def _seconds(run: Run) -> dict[str, float]:
    """Return the wall-clock seconds of a run by what they were for."""
    path, total = run.path / "timings.jsonl", dict[str, float]()
    for line in path.read_text().splitlines() if path.exists() else ():
        for name, seconds in json.loads(line).items():
            total[name] = total.get(name, 0.0) + seconds
    return {name: round(seconds, 2) for name, seconds in total.items() if name != "step"}


def tried_best_of(root: Path, here: World, common: Sequence[str]) -> dict[str, Any]:
    """Draw n answers of the reference to the prompts that `evaluate` measures on."""
    with Project.open(root, [*common, f"best_of.n={here.best_n}"], quiet=True) as project:
        _, test = validation_and_test(project.store.prompts(split="heldout", heldout=project.config.data.heldout))
        exchange.write_prompts(test[: project.config.evaluate.prompts], root / "test.jsonl")
        found = best_of(project, "reference", root / "test.jsonl")
    curve = [
        {"n": at.n, "kl": at.kl if at.kl_estimate is None else at.kl_estimate, "reward": at.reward.mean,
         "judge": at.judge.mean if at.judge else None} for at in found.curve
    ]  # fmt: skip
    return {"completions": here.best_n * found.prompts, "curve": curve,
            "bounded": found.bounded, "prompts": found.prompts}  # fmt: skip


def measure(asked: argparse.Namespace) -> None:
    here = world(asked.world, asked.quick)
    for seed in asked.seeds:
        root, common = asked.folder / f"{asked.world}-{seed}", overrides(here, seed, asked.quick)
        apart(partial(make_world, asked.world, root, here, common, seed, asked.data))
        for method in asked.methods:
            path = root / "methods" / f"{method}.json"
            if path.exists():
                continue
            try:
                if method == BEST_OF:
                    row, measured = apart(partial(tried_best_of, root, here, common))
                    row |= measured
                else:
                    row = tried(root, method, here, common)
            except RuntimeError as error:
                print(f"{method}, seed {seed}: {error}", file=sys.stderr)
                continue
            row = {"world": asked.world, "seed": seed, "method": method, "commit": record.git_commit(ROOT), **row}
            path.parent.mkdir(exist_ok=True)
            record.write_json_atomic(path, row)
            print(_line(row, here), flush=True)


def _line(row: dict[str, Any], here: World) -> str:
    head = f"{row['world']} seed {row['seed']}  {row['method']:22}"
    if "policy" not in row:
        return f"{head} {'no new policy' if row.get('unchanged') else row['curve'][-1]}  {row['cpu_s']:.0f} CPU s"
    figures = f"{here.figure} {row['policy'][here.figure]:.3f}  KL {row['policy']['kl']:.2f}  step {row['kept_step']}"
    return f"{head} {figures}  {row['cpu_s']:.0f} CPU s  {row['peak_mib']:.0f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--world", choices=("demo", "e2e"), default="demo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="+", choices=methods(), default=methods())
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it works")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="of e2e")
    parser.add_argument("--show", action="store_true", help="make nothing, show what is there")
    parser.add_argument("--json", type=Path, help="write rows and summary")
    parser.add_argument("--page", type=Path, help="write the tables into this page, between its marks")
    parser.add_argument("--svg", type=Path, help="draw the picture")
    asked = parser.parse_args()
    if asked.world == "e2e" and not (asked.data / "e2e_nlg").is_dir():
        print(f"skipped: {asked.data / 'e2e_nlg'} is not here; docs/e2e.md says what the data are")
        return
    if not asked.show:
        measure(asked)
    found, figure = rows(asked.folder, asked.world), world(asked.world, asked.quick).figure
    if not any(row["method"] != BEST_OF for row in found):
        print("nothing has been measured yet")
        return
    summary = summarise(found, figure)
    text = f"Made of {commits(found)}.\n\n{tables(summary, figure)}"
    print(text)
    if asked.json:
        record.write_json_atomic(asked.json, {"world": asked.world, **summary, "rows": found})
    if asked.page:
        write_page(asked.page, asked.world, text)
    if asked.svg:
        record.write_atomic(asked.svg, draw(summary, figure, asked.world).encode())


if __name__ == "__main__":
    main()
