"""How time and memory grow, and whether anything grows faster than the work does.

    python benchmarks/scaling.py                             # every axis: about half an hour on two cores
    python benchmarks/scaling.py length vocabulary --json scaling.json --plot scaling.svg

Axes: k, length (of completions), batch (prompts), vocabulary, parameters (1 M to 150 M, random weights): for each point
a process of its own samples, then takes a training step on the samples; seconds are medians, memory is the peak above
what the loaded libraries take. rankings: a store of 10^3 to 10^6. startup: `prefloop --help`, and a tiny model's first
step.

Slopes are exponents of the axis: 1 is in proportion. `slope` is fitted to all points (least squares of logarithms),
`last` is between the two largest, where a term that grows too fast shows; `work` is that of the operations between the
same two: 2 a parameter and token forward, 6 with the backward pass, attention included; for memory, that of the bytes
that must be there: weights, gradients and both moments, and every token's activations. `traffic`, for sampling, is that
of the bytes that its steps must read: the weights once a step, the keys and values of every row.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from prefloop.engine.base import Sampling
from prefloop.store import Store
from prefloop.store.feed import latest, rankings_since
from prefloop.types import Completion, Item, Prompt, Ranking

PROMPT = 24  # tokens
SHAPE: dict[str, int] = {"k": 8, "length": 64, "batch": 8, "vocabulary": 4096, "width": 256, "layers": 4}
AXES: dict[str, Sequence[Mapping[str, int]]] = {
    "k": [{"k": k} for k in (2, 4, 8, 16, 32, 64)],
    "length": [{"length": n} for n in (16, 32, 64, 128, 256, 512)],
    "batch": [{"batch": n} for n in (2, 4, 8, 16, 32, 64)],
    "vocabulary": [{"vocabulary": n, "length": 32} for n in (2_000, 8_000, 32_000, 64_000, 128_000)],
    "parameters": [
        {"width": width, "layers": layers, "batch": 2, "length": 32}
        for width, layers in ((128, 5), (256, 4), (384, 8), (512, 12), (768, 10), (1024, 12))
    ],
}
RANKINGS = (1_000, 10_000, 100_000, 1_000_000)
EACH = 4  # completions and rankings of an item


# -- one point ---------------------------------------------------------------------------------------------------------


def point(shape: Mapping[str, int], rounds: int, threads: int) -> dict[str, Any]:
    """Measure sampling, and a training step on what was sampled, in this process."""
    import torch
    from sampling import random_llama

    from prefloop.algorithms.sft import Sft
    from prefloop.batch import as_lists, collate
    from prefloop.config_section import Optimiser
    from prefloop.engine.base import Sampling, Term
    from prefloop.engine.decoding import sampler
    from prefloop.engine.learner import Learner
    from prefloop.engine.process import set_up
    from prefloop.models.policy import Policy

    set_up(threads, "cpu")
    libraries = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = random_llama(shape["vocabulary"], width=shape["width"], layers=shape["layers"])
    draw = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, shape["vocabulary"], (PROMPT,), generator=draw).tolist() for _ in range(shape["batch"])]
    rows = [prompt for prompt in prompts for _ in range(shape["k"])]
    learner = Learner({"policy": Policy(model)}, Optimiser(), 1000, {"policy": 1e-6})
    group = torch.arange(shape["batch"]).repeat_interleave(shape["k"])
    seconds: dict[str, list[float]] = {"sampling": [], "training": []}
    for turn in range(rounds + 1):
        before = time.perf_counter()
        drawn = sampler.generate(model, (), rows, range(len(rows)), Sampling(shape["length"]), turn)
        between = time.perf_counter()
        flat = collate([[*p, *s.ids] for p, s in zip(rows, drawn, strict=True)], [PROMPT] * len(rows))
        learner.step(Term(as_lists(flat, group), Sft()))
        if turn:  # The first turn warms up.
            seconds["sampling"].append(between - before)
            seconds["training"].append(time.perf_counter() - between)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {**{k: statistics.median(v) for k, v in seconds.items()}, "memory": (peak - libraries) / 1024}


def matrices(shape: Mapping[str, int]) -> tuple[int, int]:
    """Return the parameters of the layers, and of one embedding."""
    width = shape["width"]
    return shape["layers"] * (4 * width**2 + 3 * width * (width * 43 // 16)), shape["vocabulary"] * width


def work(shape: Mapping[str, int]) -> dict[str, float]:
    """Return operations of sampling and training, bytes of memory, and bytes that sampling must read."""
    layers, embedding = matrices(shape)
    n, length = shape["batch"] * shape["k"], shape["length"]
    tokens = n * length + shape["batch"] * PROMPT
    read = n * length * (PROMPT + length / 2) + shape["batch"] * PROMPT**2 / 2  # pairs of query and key
    forward = 2 * layers * tokens + 2 * embedding * n * length + 4 * shape["layers"] * shape["width"] * read
    a_layer = 4 * shape["width"] + 2 * (shape["width"] * 43 // 16)  # numbers kept for a token's gradient, at least
    part = min(tokens, 8192)  # the token budget
    steps = length * -(-n // Sampling(length).batch)
    kept = 2 * shape["layers"] * shape["width"]  # numbers of a token's keys and values; rows share their prompt's
    return {
        "traffic": 4 * (steps * (layers + embedding) + kept * length * (n * length / 2 + shape["batch"] * PROMPT)),
        "sampling": forward,
        "training": 3 * forward,
        "memory": 16 * (layers + 2 * embedding) + 4 * part * shape["layers"] * a_layer,
    }


# -- the store ---------------------------------------------------------------------------------------------------------


def listed(number: int) -> Item:
    texts = [f"Answer {n} to question {number}, of a usual length: twelve words or so." for n in range(EACH)]
    completions = tuple(Completion(f"c{number}.{n}", text) for n, text in enumerate(texts))
    order = [(completions[(n + number) % EACH].id,) for n in range(EACH)]
    rankings = tuple(Ranking(f"i{number}", f"person {n}", "quality", tuple(order)) for n in range(EACH))
    return Item(f"i{number}", Prompt(f"Question {number}?"), completions, rankings)


def stored(counts: Sequence[int]) -> list[dict[str, Any]]:
    """Return the seconds of what a project asks of its store, as it grows."""
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, Store.open("sqlite:///grow.db", Path(folder)) as store:
        have, adding = 0, 0.0
        for count in counts:
            goal, more = count // EACH, 10**9 + count
            adding += timed(store.add, map(listed, range(have, goal)))
            row: dict[str, Any] = {"rankings": count, "add all": adding}
            row["read all"] = timed(sum, (len(i.rankings) for i in store.items(criterion="quality", ranked=True)))
            row["add 100"] = timed(store.add, map(listed, range(more, more + 100 // EACH)))
            newest = latest(store) - 100
            row["the newest 100"] = min(timed(rankings_since, store, newest, 100) for _ in range(5))
            have = goal
            found.append(row)
            say(f"  {count:>9,} rankings  " + "  ".join(f"{k} {v:.3f} s" for k, v in row.items() if k != "rankings"))
    return found


# -- starting ----------------------------------------------------------------------------------------------------------


def startup(rounds: int) -> dict[str, float]:
    """Return the seconds of `prefloop --help`, and from the command to the end of a tiny model's first training
    step.
    """
    prefloop = [sys.executable, "-m", "prefloop"]
    env_src = str(Path(__file__).resolve().parents[1] / "src")
    run: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL, "env": {"PYTHONPATH": env_src, "PATH": ""}}
    shown, stepped = [], []
    for _ in range(rounds):
        shown.append(timed(lambda: subprocess.run([*prefloop, "--help"], **run)))
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data.jsonl"
            data.write_text(
                "".join(json.dumps({"prompt": f"Say {n}.", "completion": f"{n}!"}) + "\n" for n in range(64))
            )
            tiny = ("layers=1", "hidden_size=32", "heads=2", "vocab_size=300")
            small = [word for setting in tiny for word in ("--set", f"model.{setting}")]
            subprocess.run([*prefloop, "init", folder, "--scratch", *small, "-q"], **run)
            subprocess.run([*prefloop, "import", "-C", folder, str(data), "-q"], **run)
            before = time.perf_counter()
            training = subprocess.Popen([*prefloop, "sft", "-C", folder, "-q"], stdout=run["stdout"], env=run["env"])
            while not list(Path(folder).glob("runs/*/timings.jsonl")):
                if training.poll():
                    sys.exit("prefloop sft failed")
                time.sleep(0.02)
            stepped.append(time.perf_counter() - before)
            training.wait()
    return {"prefloop --help": statistics.median(shown), "first training step": statistics.median(stepped)}


# -- slopes ------------------------------------------------------------------------------------------------------------


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the slope by least squares of the logarithms."""
    logs = [(math.log(a), math.log(b)) for a, b in zip(x, y, strict=True)]
    mean_x, mean_y = (statistics.fmean(values) for values in zip(*logs, strict=True))
    return sum((a - mean_x) * (b - mean_y) for a, b in logs) / sum((a - mean_x) ** 2 for a, _ in logs)


def slopes(axis: Sequence[float], found: Sequence[float], needed: Sequence[float]) -> dict[str, float]:
    last = [slope(axis[-2:], values[-2:]) for values in (found, needed)]
    return {"slope": slope(axis, found), "last": last[0], "work": last[1]}


def report(
    name: str,
    axis: Sequence[float],
    found: Sequence[float],
    needed: Sequence[float],
    unit: str,
    traffic: Sequence[float] = (),
) -> dict[str, Any]:
    row = {"what": name, "axis": list(axis), "values": list(found), "unit": unit, **slopes(axis, found, needed)}
    if traffic:
        row["traffic"] = slope(axis[-2:], traffic[-2:])
    said = f"   traffic {row['traffic']:5.2f}" if traffic else ""
    say(
        f"  {name:16} {found[0]:>9.3f} to {found[-1]:>9.3f} {unit:3} slope {row['slope']:5.2f}"
        f"   last {row['last']:5.2f}   work {row['work']:5.2f}{said}"
    )
    return row


def measure(axis: str, asked: argparse.Namespace) -> list[dict[str, Any]]:
    say(axis)
    if axis == "startup":
        return [{"what": k, "values": [v], "unit": "s"} for k, v in startup(asked.rounds).items()]
    if axis == "rankings":
        rows = stored([n for n in RANKINGS if n <= asked.most_rankings])
        counts = [row["rankings"] for row in rows]
        same = [1.0] * len(counts)
        grows = {"add all": counts, "read all": counts, "add 100": same, "the newest 100": same}
        return [report(k, counts, [row[k] for row in rows], needed, "s") for k, needed in grows.items()]
    shapes = [SHAPE | change for change in AXES[axis]]
    points = []
    for shape in shapes:
        command = [sys.executable, __file__, "--point", json.dumps(shape), "--rounds", str(asked.rounds)]
        done = subprocess.run([*command, "--threads", str(asked.threads)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{shape} failed:\n{done.stderr[-3000:]}")
        points.append(json.loads(done.stdout.strip().splitlines()[-1]))
    values = [float(sum(matrices(s)) + matrices(s)[1]) if axis == "parameters" else float(s[axis]) for s in shapes]
    needed = {what: [work(s)[what] for s in shapes] for what in work(shapes[0])}
    return [
        report(what, values, [p[what] for p in points], needed[what], unit, traffic)
        for what, unit, traffic in (
            ("sampling", "s", needed["traffic"]),
            ("training", "s", ()),
            ("memory", "MB", ()),
        )
    ]


def draw(found: Mapping[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw a panel for each axis, both scales logarithmic, with the slope of the work beside the last points."""
    from matplotlib.figure import Figure

    axes = {axis: rows for axis, rows in found.items() if "axis" in rows[0]}
    figure = Figure(figsize=(4 * len(axes), 3.4), layout="constrained")
    for place, (axis, rows) in zip(figure.subplots(1, len(axes), squeeze=False)[0], axes.items(), strict=True):
        for row in (row for row in rows if row["unit"] == "s"):
            (line,) = place.loglog(row["axis"], row["values"], "o-", label=f"{row['what']}: {row['last']:.2f}")
            start, end = row["axis"][-2:]
            ideal = [row["values"][-2], row["values"][-2] * (end / start) ** row["work"]]
            place.loglog([start, end], ideal, ":", color=line.get_color())
        place.set(title=axis, ylabel="seconds")
        place.legend(fontsize=8)
    figure.suptitle("time against size; dotted: as fast as the work grows from the last point but one")
    figure.savefig(path)


def timed(do: Callable[..., Any], *args: Any) -> float:
    before = time.perf_counter()
    do(*args)
    return time.perf_counter() - before


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    from prefloop.engine.process import cores

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("axes", nargs="*", choices=[*AXES, "rankings", "startup", []], metavar="AXIS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--most-rankings", type=int, default=RANKINGS[-1])
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="draw them here (.svg, .png)")
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.point:
        print(json.dumps(point(asked.point, asked.rounds, asked.threads)))
        return
    found = {axis: measure(axis, asked) for axis in asked.axes or (*AXES, "rankings", "startup")}
    for row in found.get("startup", []):
        say(f"  {row['what']:20} {row['values'][0]:.2f} s")
    if asked.json:
        asked.json.write_text(json.dumps({"threads": asked.threads, "found": found}, indent=1) + "\n")
    if asked.plot:
        draw(found, asked.plot)


if __name__ == "__main__":
    main()
