"""remove: rows out of a project again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from prefloop.cli.common import Common, Verb, common, in_project

if TYPE_CHECKING:
    from prefloop.project.project import Outcome


@click.command("remove", cls=Verb)
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--import", "imports", multiple=True, metavar="NAME", help="All rows of this imported file.")
@click.option("--refused", is_flag=True, help="All rows that the model's chat template refuses.")
@click.option("--with-rankings", is_flag=True, help="Also where people have ranked what goes: their rankings go too.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
def remove(
    asked: Common,
    ids: tuple[str, ...],
    imports: tuple[str, ...],
    refused: bool,
    with_rankings: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Take rows out of the project again, and say which models learnt from them.

    Rows are named by the id of a prompt, a demonstration or an item, by the file they were imported from, or as all
    that the model's chat template refuses. With a prompt go its answers, their rankings and what was sampled for it;
    with a demonstration or an item goes its prompt, unless another row asks it too. A row that another file holds as
    well stays. Rankings that people gave here go only with --with-rankings. Everything is deleted in one transaction,
    and written to the audit log by number. Models keep what they learnt, and their history says how many rows are
    gone; train again to be rid of that. Runs, exports and backups hold copies that this does not touch. Importing the
    file again brings its rows back.

    \b
    Example:  prefloop remove --import pairs.jsonl --dry-run
              prefloop remove --refused --yes
    """
    if not ids and not imports and not refused:
        raise click.UsageError("say what to remove: ids, --import NAME, or --refused")
    if not dry_run and not yes and (asked.as_json or not sys.stdin.isatty()):
        raise click.UsageError("nobody can be asked here: say --yes to remove, or --dry-run to see what would go")

    from prefloop.cli.show import summary

    def agreed(planned: Outcome) -> bool:
        if yes:
            return True
        click.echo("\n".join(summary(planned, asked.root)), err=True)
        return click.confirm("Remove them?", err=True)

    in_project(
        asked,
        lambda project: project.remove(
            ids, imports, refused, with_rankings=with_rankings, dry_run=dry_run, agreed=agreed
        ),
    )
