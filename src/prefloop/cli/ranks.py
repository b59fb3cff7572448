"""Runs a command by several ranks, where `[project] ranks` says so or torchrun has started it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from prefloop.config import CONFIG_NAME, Config, load_config
from prefloop.config import Project as Settings
from prefloop.errors import ConfigError, RankError

if TYPE_CHECKING:
    from prefloop.engine.processes import Ranks

# The sections by which commands train.
_TRAINS = {"sft": "sft", "reward": "reward", "align": "align", "frontier": "align"}


@contextmanager
def on_ranks(root: Path, overrides: Iterable[str]) -> Iterator[None]:
    """Run the block on rank 0, while the other ranks serve it. A single process runs it as ever.

    Ends the command where this process is another rank, or where others have run the block.
    """
    config = load_config(root / CONFIG_NAME, list(overrides))
    settings = config.project
    several = int(os.environ.get("WORLD_SIZE", "1"))
    if several > 1:
        refuse_pieces(config, click.get_current_context().info_name or "")
        with _group(root, settings, several):
            yield
        return
    if settings.ranks != 1 and config.rollout.backend != "openai":  # Ranks have nothing to do for an endpoint.
        from prefloop.engine import torchrun

        count = torchrun.wanted(settings.ranks, settings.device)
        if count > 1:
            refuse_pieces(config, click.get_current_context().info_name or "")
            argv = click.get_current_context().find_root().obj
            raise click.exceptions.Exit(torchrun.run(count, argv, settings.threads))
    yield


def refuse_pieces(config: Config, command: str) -> None:
    """Raise ConfigError where a command would train a model in pieces, and its settings cannot, before it begins."""
    if config.model.adapter == "none":
        for stage in config.run.stages if command == "run" else (command,):
            if section := _TRAINS.get(stage):
                getattr(config, section).refuse_pieces(section)


@contextmanager
def _group(root: Path, settings: Settings, several: int) -> Iterator[None]:
    from prefloop.engine.process import pick_device, set_up
    from prefloop.engine.processes import join, leave, refuse_unless_shared
    from prefloop.engine.spmd import serve

    if settings.ranks not in (1, "auto", several):
        raise ConfigError(
            f"[project] ranks = {settings.ranks}, but torchrun has started {several}. Make them equal, or take the "
            "setting out."
        )
    device = pick_device(settings.device)
    set_up(settings.threads, device)
    ranks = join(device, settings.rank_timeout)
    try:
        refuse_unless_shared(ranks, root)
        if ranks.rank:
            serve(ranks)
            raise click.exceptions.Exit(0)
        with _dismissing(ranks):
            yield
    except KeyboardInterrupt:
        raise  # The others may wait for this rank in the middle of a verb. torchrun, interrupted too, ends them all.
    except BaseException:
        leave()
        raise
    leave()


@contextmanager
def _dismissing(ranks: Ranks) -> Iterator[None]:
    """Tell the other ranks at the end of the block, however it ends, that the work is done."""
    from prefloop.engine.spmd import dismiss

    try:
        yield
    except (KeyboardInterrupt, RankError):
        raise
    except BaseException as error:
        try:
            dismiss(ranks)
        except RankError as lost:  # A rank that hangs would keep the group for ever, if torchrun did not start it anew.
            raise RankError(f"{error} And: {lost}") from error
        raise
    dismiss(ranks)
