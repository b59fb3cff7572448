"""backup: all that people said, in one folder; and back."""

from __future__ import annotations

from pathlib import Path

import click

from prefloop.cli.common import Common, Verb, common, emit, in_project


@click.command("backup", cls=Verb)
@click.argument("to", type=click.Path(path_type=Path), metavar="[TO]", required=False)
@click.option("--runs", is_flag=True, help="The trained models and run folders too; they may be large.")
@click.option(
    "--restore", "source", type=click.Path(path_type=Path), metavar="FROM", help="Make the project -C from a backup."
)
@click.option("--trust", is_flag=True, help="With --restore: keep settings that reach outside of the new folder.")
@common
def backup(asked: Common, to: Path | None, runs: bool, source: Path | None, trust: bool) -> None:
    """Back up the project while people work, or restore a backup.

    Writes the folder TO with the store as one file (from SQLite or Postgres), prefloop.toml, the guidelines, and the
    hash of each. The copy shows one moment, and is checked before the folder appears. --restore checks it again and
    makes a new project folder; nothing is overwritten. A backup of SQLite can be restored to Postgres, and the reverse:
    --set project.store=URL is written into the new prefloop.toml. Keep backups as safe as the store, because they hold
    secrets and password hashes.

    A backup by somebody else is restored into the new folder only. If its settings name a store, guidelines, webhooks
    or code elsewhere, the restore stops and names them. --trust keeps them, for backups of your own.

    \b
    Example:  prefloop backup ../backups/monday
              prefloop backup --restore ../backups/monday -C ./again
    """
    if (to is None) is (source is None):
        raise click.UsageError("say where to: prefloop backup TO; or what from: prefloop backup --restore FROM -C DIR")
    if source is not None:
        if runs:
            raise click.UsageError("--runs is for making a backup: a restore brings back all that is in it")
        if asked.root.absolute() == Path.cwd():
            raise click.UsageError("say which folder to make: prefloop backup --restore FROM -C DIR")
        from prefloop.stages.backup.backup import restore

        emit(asked, restore(source.absolute(), asked.root.absolute(), asked.overrides, trust))
        return
    if trust:
        raise click.UsageError("--trust belongs to --restore")
    assert to is not None
    folder = to
    in_project(asked, lambda project: project.backup(folder, runs))
