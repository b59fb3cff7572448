"""plan: what a run will hold and take, before anything starts."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Any

import click

from prefloop.cli.common import Common, Verb, common, emit

_STAGES = ("sft", "reward", "align")


@click.command("plan", cls=Verb, sections=("model",))
@click.argument("stages", nargs=-1, type=click.Choice(_STAGES), metavar="[STAGE]...")
@click.option(
    "--devices", type=click.IntRange(min=1), metavar="N", help="So many devices (default: what [project] ranks says)."
)
@click.option(
    "--memory",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GB",
    help="Plan for GPUs with so much memory each (default: for what this machine has).",
)
@click.option("--no-measure", is_flag=True, help="Memory only: do not measure the speed of this machine.")
@common
def plan(asked: Common, stages: tuple[str, ...], devices: int | None, memory: float | None, no_measure: bool) -> int:
    """Say what stages will need, before anything starts: memory, steps, tokens, hours.

    Reads the settings, the store and the model's config.json, and loads no weights: the folder may hold a config.json
    alone, or [model] path may be a hub id. Shows what each role holds in each phase (weights, gradients, optimiser,
    activations, caches), and how 1, 2, 8 and 16 such devices would hold it. Hours come from a few layers with random
    weights, which are computed for some seconds. What cannot fit is refused, with what would make it fit: the exit code
    is then 1. STAGE is sft, reward or align (default: all three); docs/scaling.md has an example.

    \b
    Example:  prefloop plan align --set model.path=Qwen/Qwen2.5-0.5B
              prefloop plan --devices 8 --memory 80
    """
    from prefloop.project.project import Project
    from prefloop.stages.plan import plan as forecast

    chosen: Any = stages or _STAGES
    with redirect_stdout(sys.stderr), Project.open(asked.root, asked.overrides, quiet=asked.quiet) as project:
        found = forecast(project, chosen, devices, memory and memory * 1e9, not no_measure)
    emit(asked, found)
    return int(not found.fits)
