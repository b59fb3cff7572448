"""remove: rows out of a project again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from prefloop.cli.common import Common, Verb, common, in_project

if TYPE_CHECKING:
    from prefloop.results import Removed


@click.command("remove", cls=Verb)
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--import", "imports", multiple=True, metavar="NAME", help="All rows of this imported file.")
@click.option("--refused", is_flag=True, help="All rows that the model's chat template refuses.")
@click.option("--with-rankings", is_flag=True, help="Also remove rows that people have ranked, with their rankings.")
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
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
    """Remove rows, and name the models that learned from them.

    You name rows by the id of a prompt, a demonstration or an item, or by the file that they were imported from, or you
    remove all that the model's chat template refuses. A prompt goes with its answers, their rankings and what was
    sampled for it. A demonstration or an item goes with its prompt, if no other row uses the prompt. A row that another
    file holds too stays. Rankings that people gave in this project go only with --with-rankings.

    Everything is deleted in one transaction, and the audit log gets the counts. Models keep what they learned, and
    their history says how many rows are gone; train again to change that. Copies in runs, exports and backups stay.
    Importing the file again brings its rows back.

    \b
    Example:  prefloop remove --import pairs.jsonl --dry-run
              prefloop remove --refused --yes
    """
    if not ids and not imports and not refused:
        raise click.UsageError("say what to remove: ids, --import NAME, or --refused")
    if not dry_run and not yes and (asked.as_json or not sys.stdin.isatty()):
        raise click.UsageError("nobody can be asked here: say --yes to remove, or --dry-run to see what would go")

    from prefloop.cli.show import summary

    def agreed(planned: Removed) -> bool:
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
