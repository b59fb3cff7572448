"""annotate: the place where people rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from prefloop.cli.common import Common, Verb, common, print_json
from prefloop.errors import ConfigError

if TYPE_CHECKING:
    from prefloop.store import Role


@click.command("annotate", cls=Verb, sections=("annotate",))
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 = all.")
@click.option("--port", type=click.IntRange(0, 65535), default=8300, show_default=True, help="0 = any free one.")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Server processes; more need Postgres."
)
@click.option(
    "--invite",
    type=click.Choice(["annotator", "reviewer", "owner"]),
    help="Do not serve: make a one-time link for a new person, and print it. For owners who are locked out, too.",
)
@common
def annotate(asked: Common, host: str, port: int, workers: int, invite: Role | None) -> None:
    """Start the server on which people rank in their browsers.

    It shows items that were sampled or imported, and writes each ranking into the store, where reward finds it. On the
    first start it prints a link that makes you the owner; owners invite the others. Ctrl-C stops it, and nothing is
    lost. The settings below say what people are asked; docs/annotate.md explains them.

    \b
    Example:  prefloop annotate
              prefloop annotate --host 0.0.0.0 --port 80
    Next:     prefloop agreement, prefloop reward
    """
    try:
        from prefloop.web import serve
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == "prefloop":
            raise
        raise ConfigError(f"the server needs {error.name}. Run: pip install 'prefloop[web]'") from None

    root = asked.root.absolute()
    if invite is not None:
        link = serve.invitation(root, asked.overrides, invite, host, port)
        if asked.as_json:
            print_json({"link": link})
        else:
            click.echo(link)
        return

    def ready(address: serve.Address) -> None:
        for warning in address.warnings:
            click.echo(f"warning: {warning}", err=True)
        if asked.as_json:
            print_json({"stage": "annotate", "address": address.url, "owner_link": address.owner_link})
        else:
            click.echo(f"People rank at {address.url}")
            if address.owner_link:
                click.echo(f"You become the owner here, once: {address.owner_link}")
            if not asked.quiet:
                click.echo("Ctrl-C stops the server.")

    serve.serve(root, asked.overrides, host, port, workers, ready)
