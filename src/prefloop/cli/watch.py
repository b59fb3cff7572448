"""watch: pages in the browser on which one follows runs."""

from __future__ import annotations

from pathlib import Path

import click

from prefloop.cli.common import Common, Verb, common, print_json
from prefloop.errors import ConfigError


@click.command("watch", cls=Verb)
@click.argument("folders", nargs=-1, metavar="[DIR]...", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 = all.")
@click.option("--port", type=click.IntRange(0, 65535), default=8301, show_default=True, help="0 = any free one.")
@click.option("--name", "names", multiple=True, metavar="HOST", help="A further host name to answer to.")
@common
def watch(asked: Common, folders: tuple[Path, ...], host: str, port: int, names: tuple[str, ...]) -> None:
    """Start a server with pages on which you follow runs in your browser.

    DIR is a project, a folder of projects, a run, or a folder of runs copied from elsewhere; there may be several, and
    without one it is the current project. The pages show every run with its state and the time left, its curves with
    the healthy range shaded, what the diagnosis found, and the answers at each evaluation. They only read, and need
    neither the store nor a model. Ctrl-C stops the server; the runs go on.

    \b
    Example:  prefloop watch
              prefloop watch ~/projects ~/copied-runs
    Next:     docs/watch.md says what is to be seen
    """
    try:
        from prefloop.web.watch import app
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == "prefloop":
            raise
        raise ConfigError(f"the server needs {error.name}. Run: pip install 'prefloop[web]'") from None

    def ready(url: str, warnings: list[str]) -> None:
        for warning in warnings:
            click.echo(f"warning: {warning}", err=True)
        if asked.as_json:
            print_json({"stage": "watch", "address": url})
        else:
            click.echo(f"Watch the runs at {url}")
            if not asked.quiet:
                click.echo("Ctrl-C stops the server; the runs go on.")

    roots = [asked.root / folder for folder in folders] or [asked.root]
    app.watch([root.absolute() for root in roots], host, port, names, ready)
