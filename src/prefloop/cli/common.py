"""What every verb shares: its options, its help page with the settings it reads, and how results are printed."""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from prefloop.api.project import Project
    from prefloop.results import Outcome


@dataclass(frozen=True)
class Common:
    """The options every verb takes."""

    root: Path
    overrides: tuple[str, ...]
    as_json: bool
    quiet: bool


class Verb(click.Command):
    """A command whose help ends with the settings it reads: those of `sections` in prefloop.toml, or single keys.

    names: more to look up, made when the help is asked for: {title: () -> {name: meaning}}.
    """

    def __init__(
        self,
        *args: Any,
        sections: tuple[str, ...] = (),
        names: Mapping[str, Callable[[], Mapping[str, str]]] | None = None,
        **extra: Any,
    ):
        super().__init__(*args, **extra)
        self.sections = sections
        self.names = names or {}
        self.context_settings.setdefault("max_content_width", 100)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, look_up in self.names.items():
            with formatter.section(title):
                formatter.write_dl(list(look_up().items()))
        for section, rows in settings(self.sections):
            with formatter.section(f"Settings: [{section}] in prefloop.toml, or --set {section}.KEY=VALUE"):
                formatter.write_dl(rows)
        super().format_epilog(ctx, formatter)


class VerbGroup(Verb, click.Group):
    """A verb that also has sub-verbs."""


def settings(sections: Iterable[str]) -> list[tuple[str, list[tuple[str, str]]]]:
    """[(section, [("key = default", type and meaning)])]. "data" is all of a section, "data.heldout" one key of it."""
    from prefloop.config import Config
    from prefloop.config_problems import describe
    from prefloop.project.toml import default_of, toml

    found: dict[str, list[tuple[str, str]]] = {}
    rows = describe(Config)
    for wanted in sections:
        for key, kind, default, meaning in rows:
            section, _, name = key.rpartition(".")
            if wanted in (section, section.split(".")[0], key):
                found.setdefault(section, []).append((f"{name} = {toml(default_of(default))}", meaning or kind))
    return list(found.items())


def common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add -C, --set, --json and -q; the function gets them as one `Common`."""

    @functools.wraps(function)
    def wrapper(root: Path, overrides: tuple[str, ...], as_json: bool, quiet: bool, **rest: Any) -> Any:
        return function(Common(root, overrides, as_json, quiet), **rest)

    for option in reversed(
        (
            click.option(
                "-C",
                "--project",
                "root",
                type=click.Path(path_type=Path),
                default=".",
                metavar="DIR",
                help="The project folder (default: the current one).",
            ),
            click.option(
                "--set",
                "overrides",
                multiple=True,
                metavar="SECTION.KEY=VALUE",
                help="Change a setting for this command only; may be repeated.",
            ),
            click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."),
            click.option("-q", "--quiet", is_flag=True, help="No progress, no notes; errors and the result only."),
        )
    ):
        wrapper = option(wrapper)
    return wrapper


profiled = click.option(
    "--profile", is_flag=True, help="Show where the time goes; profile.json and a trace go into the run's folder."
)


anew = click.option(
    "--new",
    is_flag=True,
    help="Begin another run, where one with other settings stopped half-way.",
)


def in_project(
    asked: Common,
    stage: Callable[[Project], Outcome],
    overrides: Iterable[str] = (),
    profile: bool = False,
    new: bool = False,
    computes: bool = False,
) -> None:
    """Open the project, run a stage, print what came out. computes: whether `[project] ranks` is for it"""
    from prefloop.api.project import Project
    from prefloop.cli.ranks import on_ranks

    # Standard output is for the result: what libraries and users' scorers print goes to standard error.
    with (
        on_ranks(asked.root, [*asked.overrides, *overrides]) if computes else nullcontext(),
        redirect_stdout(sys.stderr),
        Project.open(asked.root, [*asked.overrides, *overrides], quiet=asked.quiet, new=new) as project,
    ):
        outcome = _profile(project, stage) if profile else stage(project)
        next_command = project.next_command(outcome)
    emit(asked, outcome, next_command)


def _profile(project: Project, stage: Callable[[Project], Outcome]) -> Outcome:
    from prefloop.engine.profiling import profiling

    with profiling() as found:
        outcome = stage(project)
    if outcome.skipped or outcome.run is None:
        project.say("this was done before, so there is nothing to profile; another seed makes another run")
    else:
        folder = project.root / "runs" / outcome.run
        written = " and ".join(found.write(folder))
        project.say(f"{found.table()}\nin {folder}: {written}")
    return outcome


def emit(asked: Common, outcome: Outcome, following: str = "") -> None:
    """The result on standard output: one JSON object, or a few lines for people."""
    if asked.as_json:
        print_json(outcome.to_json())
    else:
        from prefloop.cli.show import summary

        click.echo("\n".join(summary(outcome, asked.root, following)))


def print_json(value: Mapping[str, Any]) -> None:
    click.echo(json.dumps(_finite(value), ensure_ascii=True, allow_nan=False))


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinities: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value if isinstance(value, str | int | None) else str(value)
