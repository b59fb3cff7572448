"""doctor: is this machine, project and model fit to train? status: where the project stands."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import asdict

import click

from prefloop.cli.common import Common, Verb, common, in_project, print_json

_MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL", "skipped": "-   "}


@click.command("doctor", cls=Verb)
@click.option("--model/--no-model", "with_model", default=True, help="Load and test the model (default), or do not.")
@common
def doctor(asked: Common, with_model: bool) -> int:
    """Check the machine, the project and the model.

    Reads everything and changes nothing. For the machine it checks versions, memory, disk and SQLite. For the project
    it checks settings, every row of the store and every run folder. For the model it checks that sampler and learner
    give equal log-probabilities, that the first update starts at ratio 1 and KL 0, that splitting a batch changes no
    gradient, that padding is never read, that a saved reward model scores the same, and that plain transformers agrees.
    The exit code is 1 if a check fails. Outside a project only the machine is checked.

    \b
    Example:  prefloop doctor
    """
    from prefloop.config import CONFIG_NAME
    from prefloop.stages.doctor.doctor import doctor as examine

    root = asked.root.absolute() if (asked.root / CONFIG_NAME).is_file() else None
    with redirect_stdout(sys.stderr):
        checks = examine(root, asked.overrides, with_model)
    failed = [check for check in checks if check.status == "fail"]
    if asked.as_json:
        print_json({"ok": not failed, "checks": [asdict(check) for check in checks]})
        return int(bool(failed))
    for check in checks:
        click.echo(f"{_MARKS[check.status]}  {check.name}: {check.detail}")
        if check.advice and check.status in ("warn", "fail"):
            click.echo(f"      -> {check.advice}")
    if root is None:
        click.echo(f"No {CONFIG_NAME} in {asked.root}: only the machine was checked.")
    warned = sum(check.status == "warn" for check in checks)
    click.echo(f"{len(checks)} checks: {len(failed)} failed, {warned} with a warning")
    return int(bool(failed))


@click.command("status", cls=Verb)
@common
def status(asked: Common) -> None:
    """Show where the project stands, what is running, and what comes next.

    Reads the store, the run folders and the locks. It writes nothing, waits for nothing and loads no model, so you can
    use it while a stage or the server is running. It lists the data, the rounds with their policies, what people have
    ranked, the process that holds the project, and runs that were interrupted. The last line is the next command.

    \b
    Example:  prefloop status
              prefloop status --json
    """
    in_project(asked, lambda project: project.status())
