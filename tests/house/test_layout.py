"""The code base keeps its shape: who imports whom, how long files are, and that each says what it is."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "prefloop"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ALEMBIC = PACKAGE / "store" / "migrations" / "env.py"  # This is a script: alembic runs it by importing it.
LONGEST = 400


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_imports_point_down_and_the_other_contracts_hold() -> None:
    """pyproject.toml has the contracts: layers, data side without torch, no algorithm knows another, blind engine."""
    pytest.importorskip("importlinter", reason="import-linter is not installed: pip install 'prefloop[lint]'")
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"]
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "IMPORT_LINTER_CACHE_DIR": ""}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_the_contracts_name_every_algorithm() -> None:
    """A new algorithm that no contract names would be free to import another."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    known = {
        f"prefloop.algorithms.{p.stem}"
        for p in (PACKAGE / "algorithms").glob("*.py")
        if p.stem
        not in ("__init__", "base", "clipping", "grouped", "imitation", "penalty", "ranked", "registry", "rejection")
    }
    independent = next(c for c in contracts if c["type"] == "independence")
    assert set(independent["modules"]) == known
    blind = next(c for c in contracts if c["name"] == "the engine is blind to the algorithm")
    assert set(blind["forbidden_modules"]) == known | {"prefloop.algorithms.registry"}


def test_every_package_has_its_place_in_the_layers() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(c for c in contracts if c["type"] == "layers")["layers"]
    placed = {name.strip() for layer in layers for name in layer.split("|")}
    packages = {f"prefloop.{p.parent.name}" for p in PACKAGE.glob("*/__init__.py")}
    modules = {f"prefloop.{p.stem}" for p in PACKAGE.glob("*.py") if p.stem != "__init__"}
    assert packages | modules == placed


def test_the_data_side_starts_without_torch() -> None:
    """Import contracts see imports; this sees what really gets loaded."""
    code = (
        "import sys, prefloop.store, prefloop.config, prefloop.record, prefloop.exchange, prefloop.labels.crowd, "
        "prefloop.labels.agreement, prefloop.labels.preference_eval\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-1000:]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_source_file_is_short_and_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "no docstring on the first line"
        assert text.lstrip().startswith(('"""', 'r"""'))


@pytest.mark.parametrize("path", [p for p in SOURCES if p != ALEMBIC], ids=name_of)
def test_no_work_is_done_and_no_randomness_drawn_on_import(path: Path) -> None:
    """Style rule 4 wants constants, definitions and imports at module level, and nothing that runs."""
    allowed = (
        ast.Import,
        ast.ImportFrom,
        ast.FunctionDef,
        ast.AsyncFunctionDef,
        ast.ClassDef,
        ast.Assign,
        ast.AnnAssign,
    )
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.If):  # These are TYPE_CHECKING and __main__.
            continue
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert docstring or isinstance(node, allowed), f"line {node.lineno}"


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    if listed.returncode:
        pytest.skip("not a git checkout: there is no list of files to look through")
    places = ["/" + "work/", "/" + "tmp/venv", "/" + "home/", "/" + "Users/"]
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".html", ".txt", ".sh", ".cfg", "") and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not [place for place in places if place in text], name
