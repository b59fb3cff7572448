"""The help teaches, costs nothing to show, and is what the documents say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prefloop.cli.docs import PAGES, made_parts, with_parts
from prefloop.cli.main import VERBS
from prefloop.config import Config
from prefloop.config_problems import describe
from prefloop.errors import PrefloopError

DOCS = Path(__file__).resolve().parents[2] / "docs"
SECTIONS = {"sft": "sft", "sample": "sample", "crowd": "crowd", "reward": "reward", "align": "align", "run": "run"}


def test_the_top_help_loads_nothing_heavy(environment: dict[str, str]) -> None:
    program = (
        "import sys\nfrom prefloop.cli.main import run\ncode = run(['--help'])\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'sqlalchemy', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(f"  {verb} " in done.stdout for verb in VERBS)


def test_the_help_of_a_verb_does_not_load_torch(environment: dict[str, str]) -> None:
    program = (
        "import sys\nfrom prefloop.cli.main import VERBS, run\n"
        "codes = [run([verb, '--help']) for verb in VERBS]\n"
        "sys.exit(f'{codes}' if any(codes) or 'torch' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_import_and_export_do_not_load_torch(environment: dict[str, str], tiny_project: Path, tmp_path: Path) -> None:
    program = (
        "import sys\nfrom prefloop.cli.main import run\nroot, out = sys.argv[1:]\n"
        "codes = [run(['export', 'demonstrations', '-C', root, '--to', out]), run(['import', out, '-C', root])]\n"
        "sys.exit(f'{codes}' if any(codes) or 'torch' in sys.modules else 0)"
    )
    argv = [sys.executable, "-c", program, str(tiny_project), str(tmp_path / "shown.jsonl")]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# `rollout` alone does nothing.
CALLS = [*(verb for verb in VERBS if verb != "rollout"), "rollout serve", "rollout install"]


@pytest.mark.parametrize("verb", CALLS)
def test_every_verb_says_what_it_does_with_an_example(prefloop: Callable, verb: str) -> None:
    said = prefloop(*verb.split(), "--help")
    assert said.code == 0
    assert "Example:  prefloop" in said.out and "Example:  prefloop" in prefloop(verb.split()[0], "--help").out
    assert "--json" in said.out and "--quiet" in said.out and "--set" in said.out


@pytest.mark.parametrize("verb", SECTIONS)
def test_the_help_of_a_verb_lists_every_key_of_its_section(prefloop: Callable, verb: str) -> None:
    said = prefloop(verb, "--help")
    keys = [key.rpartition(".")[2] for key, *_ in describe(Config) if key.startswith(f"{SECTIONS[verb]}.")]
    assert keys and all(f"{key} = " in said.out for key in keys)


@pytest.mark.parametrize("page", PAGES)
def test_the_page_is_what_the_program_says(page: str) -> None:
    assert (DOCS / page).read_text(encoding="utf-8") == PAGES[page](), "run: python -m prefloop.cli.docs docs"


@pytest.mark.parametrize("page", made_parts())
def test_the_made_parts_of_a_page_are_what_the_program_says(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert text == with_parts(page, text), "run: python -m prefloop.cli.docs docs"


def test_every_setting_is_in_the_settings_page() -> None:
    text = (DOCS / "config.md").read_text(encoding="utf-8")
    for section in Config.model_fields:
        assert f"## [{section}" in text
    for key, *_ in describe(Config):
        assert f"| `{key.rpartition('.')[2]}` |" in text


def test_every_exit_code_of_an_error_is_in_the_commands_page() -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    for kind in PrefloopError.__subclasses__():
        assert f"| {kind.exit_code} | " in text


def test_a_misspelt_verb_is_corrected(prefloop: Callable) -> None:
    said = prefloop("sampel")
    assert said.code == 2
    assert 'Did you mean "sample"?' in said.err


def test_a_misspelt_option_is_corrected_in_json_too(prefloop: Callable) -> None:
    said = prefloop("sample", "--roun", "1", "--json")
    assert said.code == 2
    assert said.json["error"]["type"] == "UsageError"
    assert "--round" in said.json["error"]["message"]
