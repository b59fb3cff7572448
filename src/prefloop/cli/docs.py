"""Pages and parts of pages that are made from settings, commands and rules; a test keeps them current.

python -m prefloop.cli.docs docs
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import click

from prefloop.cli.main import INTRODUCTION, VERBS, cli
from prefloop.config import Config
from prefloop.config_problems import describe
from prefloop.project.toml import default_of, toml

WIDTH = 100
_MADE = "<!-- made by: python -m prefloop.cli.docs docs -->"


def config_page() -> str:
    """Every key of prefloop.toml, and every option of every algorithm."""
    lines = [
        "# Settings",
        "",
        _MADE,
        "",
        "The settings of a project are in its `prefloop.toml`. `--set section.key=value` changes one for a single",
        "command. An unknown key is an error that suggests the right one. Each run stores its settings in",
        "`manifest.json`. A stage runs again only if one of its settings or inputs has changed.",
    ]
    section = ""
    for key, kind, default, meaning in describe(Config):
        part, _, name = key.rpartition(".")
        if part != section:
            section = part
            lines += ["", f"## [{part}]", "", "| key | default | type | meaning |", "|---|---|---|---|"]
        shown = toml(default_of(default))
        lines.append(f"| `{name}` | {_code(shown)} | {_cell(kind)} | {_cell(meaning)} |")
    lines += [
        "",
        "## [algorithms.NAME]",
        "",
        "Each algorithm has a section with its own options. The pages in `docs/algorithms/` give their usual ranges.",
        "",
        "| algorithm | used by | options and defaults |",
        "|---|---|---|",
    ]
    return "\n".join([*lines, *_algorithms()]) + "\n"


def _algorithms() -> Iterator[str]:
    from prefloop.algorithms.registry import FIXED, class_of
    from prefloop.known_algorithms import ALGORITHMS

    users = {"supervised": "`sft`", "reward": "`[reward] objective`"}
    for name, known in ALGORITHMS.items():
        options = [f"`{f.name} = {toml(f.default)}`" for f in fields(class_of(name)) if f.name not in FIXED]
        yield f"| `{name}` | {users.get(known.kind, '`[align] algorithm`')} | {', '.join(options) or 'none'} |"


def _code(text: str) -> str:
    return f"`{text}`" if text != "(none)" else "none"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def commands_page() -> str:
    """The help of every command, as the terminal shows it."""
    lines = [
        "# Commands",
        "",
        _MADE,
        "",
        *INTRODUCTION.replace("\b\n", "```\n", 1).replace("\n\n`status`", "\n```\n\n`status`", 1).strip().splitlines(),
        "",
        'With `--json`, a command prints exactly one JSON object, also for an error: `{"error": {"type", "message"}}`.',
        "Progress and notes go to standard error.",
        "",
        "| exit code | meaning |",
        "|---|---|",
        *(f"| {code} | {meaning} |" for code, meaning in _CODES),
    ]
    for path, text in _help_pages():
        lines += ["", f"## {path}", "", "```", *text.splitlines(), "```"]
    return "\n".join(lines) + "\n"


_CODES = (
    (0, "the command did its work, or the work was done before"),
    (
        1,
        "the disk is full, memory ran out, or a permission is missing; `doctor`, `diagnose`: something is wrong; "
        "`plan`: a stage does not fit",
    ),
    (2, "a setting or an option is wrong"),
    (3, "a file or row can't be used"),
    (4, "a model can't be loaded"),
    (5, "the store is missing, damaged or newer"),
    (6, "another process is working on the project"),
    (7, "a training run can't continue; its last checkpoint is kept"),
    (8, "what the stage works on does not exist yet; the message names the command that makes it"),
    (9, "one of several ranks died or did not answer; the same command continues from the last checkpoint"),
    (70, "there is a bug in prefloop; please report it"),
    (130, "the command was interrupted; the same command continues"),
)


def _help_pages() -> Iterator[tuple[str, str]]:
    top = click.Context(cli, info_name="prefloop")
    for name in VERBS:
        command = cli.get_command(top, name)
        assert command is not None
        inner = click.Context(command, parent=top, info_name=name, terminal_width=WIDTH)
        yield f"prefloop {name}", command.get_help(inner)
        if isinstance(command, click.Group):
            for sub_name, sub in command.commands.items():
                context = click.Context(sub, parent=inner, info_name=sub_name, terminal_width=WIDTH)
                yield f"prefloop {name} {sub_name}", sub.get_help(context)


PAGES = {"config.md": config_page, "commands.md": commands_page}


def made_parts() -> dict[str, dict[str, Callable[[], str]]]:
    """Pages of which parts are made: {page: {name of the marks: what stands between them}}."""
    from prefloop.behaviour.page import checks_section
    from prefloop.diagnose.page import causes_section, rules_section

    return {
        "diagnosis.md": {"rules": rules_section, "causes": causes_section},
        "behaviour.md": {"checks": checks_section},
    }


def with_parts(page: str, text: str) -> str:
    """A page with its made parts, which stand between two marks each. Raises ValueError where a mark is missing."""
    for name, make in made_parts()[page].items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        before, mark, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not mark or not closed:
            raise ValueError(f"docs/{page} lacks the marks of {name}")
        text = f"{before}{begin}\n{make()}\n{end}{after}"
    return text


def main(folder: Path) -> None:
    for page, make in PAGES.items():
        (folder / page).write_text(make(), encoding="utf-8")
    for page in made_parts():
        path = folder / page
        path.write_text(with_parts(page, path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
