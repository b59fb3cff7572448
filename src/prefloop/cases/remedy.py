"""Reads a command that a finding prints, and does what typing it would do. Nothing is added to it."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from prefloop.cases.case import LOOP, Case
from prefloop.cases.world import run_stages
from prefloop.errors import ConfigError
from prefloop.project.project import Project


@dataclass(frozen=True)
class Typed:
    """A command of the loop as it was printed: its stage, and what it changes for this command only."""

    stage: str
    overrides: tuple[str, ...]
    round: int | None = None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def typed(command: str) -> Typed | None:
    """Return what a printed command asks for; None where it runs no stage of the loop, but shows something.

    Raises ConfigError for an option that a case does not know.
    """
    words = shlex.split(command)
    if len(words) < 2 or words[0] != "prefloop" or words[1] not in LOOP:
        return None
    parser = _Parser(add_help=False)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--annotators")
    parser.add_argument("--round", type=int)
    try:
        asked = parser.parse_args(words[2:])
    except ConfigError as error:
        raise ConfigError(f'a case cannot apply "{command}": {error}') from None
    weights = [f"reward.annotators={asked.annotators}"] if asked.annotators else []
    return Typed(words[1], (*weights, *asked.overrides), asked.round)


def apply(case: Case, root: Path, command: str | None, quiet: bool = False) -> tuple[str, ...]:
    """Apply a printed command, and run the later stages of the loop; return all commands.

    Where the rest is a person's work, the case plays the person. Raises ConfigError where nothing can be applied.
    """
    asked = typed(command) if command else None
    if case.person is None and asked is None:
        raise ConfigError(f"the finding prints {command or 'no command'}, which changes nothing by itself")
    done: list[str] = [command] if command else []
    follows: tuple[str, ...]
    if asked:
        run_stages(root, [asked.stage], asked.overrides, quiet, asked.round)
        follows = LOOP[LOOP.index(asked.stage) + 1 :]
    if case.person:
        with Project.open(root, quiet=quiet) as project:
            case.person.act(project)
        done.append(f"# {case.person.said}")
        follows = case.person.follows
    run_stages(root, follows, quiet=quiet)
    return (*done, *(f"prefloop {stage}" for stage in follows))
