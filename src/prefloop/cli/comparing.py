"""compare: two policies, or a policy and a file of texts, head to head."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from prefloop.cli.common import Common, Verb, common, emit

if TYPE_CHECKING:
    from prefloop.api.project import Project


@click.command("compare", cls=Verb, sections=("evaluate", "behaviour"))
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--prompts", type=click.Path(path_type=Path), metavar="FILE", help="The prompts that both answer.")
@click.option(
    "--scorer",
    "scorers",
    multiple=True,
    metavar="NAME",
    help='A scorer by name, "file.py:function", or "reward" for the newest reward models; may be repeated.',
)
@click.option("--slice", "slices", multiple=True, metavar="FIELD", help="A metadata field of prompts; may be repeated.")
@common
def compare(
    asked: Common, a: str, b: str, prompts: Path | None, scorers: tuple[str, ...], slices: tuple[str, ...]
) -> None:
    """Compare two policies, or a policy and a file of texts, on the same prompts.

    A and B are a run or version (align-002), "policy", "reference" or "base", a folder with a model, a hub id, or a
    file of prompts with answers, whose prompts are taken where --prompts is left out. Each answers every prompt
    [evaluate] samples times. Prints win rate and gain of A over B by each scorer, with 95 % intervals over prompts and
    by slice, the checks of [behaviour], and samples. Without --scorer it takes [evaluate] scorer and the reward models.
    It writes nothing, and needs no project for folders, hub ids and files.

    \b
    Example:  prefloop compare align-002 align-001 --prompts prompts.jsonl --scorer positive
              prefloop compare policy written-by-people.jsonl --slice topic
    """
    with redirect_stdout(sys.stderr), _project(asked) as project:
        outcome = project.compare(a, b, prompts=prompts, scorers=scorers, slices=slices)
    emit(asked, outcome)


@contextmanager
def _project(asked: Common) -> Iterator[Project]:
    """The project of this folder; outside of any, one with the usual settings that is gone afterwards."""
    from prefloop.api.project import Project
    from prefloop.config import CONFIG_NAME

    if (asked.root / CONFIG_NAME).exists() or asked.root != Path("."):
        with Project.open(asked.root, asked.overrides, quiet=asked.quiet) as project:
            yield project
        return
    with TemporaryDirectory() as folder:
        (Path(folder) / CONFIG_NAME).write_text("", encoding="utf-8")
        with Project.open(folder, asked.overrides, quiet=asked.quiet) as project:
            yield project
