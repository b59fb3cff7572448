"""Options of commands that documents show exist, and so do the settings in their `--set`."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from prefloop.cli.main import VERBS, cli
from prefloop.config import Config
from prefloop.config_problems import describe

ROOT = Path(__file__).resolve().parents[2]
MADE = {ROOT / "docs" / "commands.md", ROOT / "docs" / "config.md"}  # they are made from the commands and settings
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/*.sh")} - MADE)
PAGES.remove(ROOT / "CHANGELOG.md")  # it names what is no longer there
KEYS = {key for key, *_ in describe(Config)}


def options_of(name: str) -> set[str]:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    inner = list(command.commands.values()) if isinstance(command, click.Group) else []
    return {o for c in (command, *inner) for p in c.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_and_settings_of_commands_in_a_document_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    wrong = []
    for name, rest in re.findall(r"\bprefloop ([a-z]+)((?: [^`\n#]*)?)", text):
        if name in VERBS:
            wrong += [f"{name} {o}" for o in re.findall(r"(?<!\S)(--[a-z-]+)", rest) if o not in options_of(name)]
    changed = re.findall(r"--set '?([a-z_.]+)=", text)
    wrong += [key for key in changed if key not in KEYS and not key.startswith("algorithms.")]
    assert wrong == []
