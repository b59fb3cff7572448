"""demo: the whole loop on the built-in scenario."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path

import click

from prefloop.cli.common import Common, Verb, common, emit


@click.command("demo", cls=Verb)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed, another run.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("prefloop-demo"),
    show_default=True,
    metavar="DIR",
    help="The project folder to make.",
)
@common
def demo(asked: Common, seed: int, out: Path) -> None:
    """See the whole loop work on a built-in scenario, on one CPU, without network.

    The scenario is a support desk with imperfect demonstrations, and simulated people rank. It writes an ordinary
    project folder, on which every other command works. Started again, it continues where it stopped.

    \b
    Example:  prefloop demo --seed 1 --out /tmp/demo
    Next:     open the report it names, or prefloop doctor -C DIR
    """
    from prefloop.demo.run import demo as stage

    with redirect_stdout(sys.stderr):
        result = stage((asked.root / out).absolute(), seed, asked.quiet, asked.overrides)
    emit(asked, result)
