"""case: failures that one can run, with their diagnosis and the remedy at work."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path

import click

from prefloop.cli.common import Common, Verb, common, print_json
from prefloop.cli.show_case import case_lines


def _cases() -> dict[str, str]:
    from prefloop.cases.case import cases

    return {case.name: case.title for case in cases().values()}


@click.command("case", cls=Verb, names={"Cases": _cases})
@click.argument("name", required=False)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed, another run.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The project folder to make (default: prefloop-case-NAME).",
)
@common
def case(asked: Common, name: str | None, seed: int, out: Path | None) -> None:
    """See a failure happen, its diagnosis, and the remedy at work. Without NAME: the list of cases.

    Makes a small project on the demo's scenario in which something goes wrong, asks prefloop diagnose what it is,
    applies the command that it prints, and measures the policy's answers to held-out prompts before the fault, with it,
    and after the remedy, by a hidden quality. Writes case.html with all of it. It takes a minute on two cores. Started
    again, it continues where it stopped; a folder that holds something else is refused.

    \b
    Example:  prefloop case instability --out /tmp/instability
    Next:     open the page it names; docs/cases has a page for each, for when it happens to you
    """
    from prefloop.cases.running import run_case

    if name is None:
        if asked.as_json:
            print_json({"cases": _cases()})
        else:
            width = max(map(len, _cases()))
            click.echo("\n".join(f"{known.ljust(width)}  {title}" for known, title in _cases().items()))
        return
    if asked.overrides:
        raise click.UsageError("a case says itself what is set: --set would make it another one")
    with redirect_stdout(sys.stderr):
        result = run_case(name, (asked.root / (out or f"prefloop-case-{name}")).absolute(), seed, asked.quiet)
    if asked.as_json:
        print_json(result.to_json())
    else:
        click.echo("\n".join(case_lines(result)))
