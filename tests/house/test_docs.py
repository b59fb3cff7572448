"""Documents are true: what they point at exists, what they show loads, what is documented is all there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from prefloop.algorithms.registry import make, names, options_of
from prefloop.config import Config, load_config, make_config
from prefloop.config_problems import describe

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
EXAMPLES = sorted((ROOT / "examples").rglob("*.toml"))
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
POINTER = re.compile(r"`((?:src|docs|tests|examples)/[\w./-]+)`")
PYTHON_NAME = re.compile(r"`(prefloop(?:\.\w+)+)`(?<!\.toml`)(?<!\.db`)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCS, ids=name_of)
def test_links_and_pointers_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = [x for x in LINK.findall(BLOCK.sub("", text)) if "://" not in x and not x.startswith("mailto:")]
    dead = [x for x in links if not (path.parent / x).exists()]
    dead += [x for x in POINTER.findall(text) if not (ROOT / x).exists()]
    assert not dead


TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_the_tests_that_documents_name_exist() -> None:
    named = {found for path in DOCS for found in TEST.findall(path.read_text(encoding="utf-8"))}
    texts = {file: (ROOT / file).read_text(encoding="utf-8") for file, _ in named if (ROOT / file).is_file()}
    missing = [f"{file}::{test}" for file, test in sorted(named) if f"def {test}(" not in texts.get(file, "")]
    assert not missing and len(named) > 40


def test_every_algorithm_is_compared_with_trl_or_a_reason_says_why_not() -> None:
    page = (ROOT / "docs" / "correctness.md").read_text(encoding="utf-8").partition("## The same numbers as TRL")[2]
    assert [name for name in names() if f"| `{name}` |" not in page and f"- `{name}`: " not in page] == []


@pytest.mark.parametrize("path", DOCS, ids=name_of)
def test_python_names_in_documents_exist(path: Path) -> None:
    missing = [n for n in PYTHON_NAME.findall(path.read_text(encoding="utf-8")) if not _exists(n)]
    assert not missing


def _exists(dotted: str) -> bool:
    """Return whether it is a module, or a name that the text of its module defines."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        place = ROOT / "src" / Path(*parts[:cut])
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                rest, text = parts[cut:], file.read_text(encoding="utf-8")
                return all(re.search(rf"\b{re.escape(part)}\b", text) for part in rest)
    return False


NAME_IN_FILE = re.compile(r"`([\w.]+)`\s+(?:in|of)\s+`(src/[\w/]+\.py)`")


FILE_AND_NAME = re.compile(r"`(\w+/[\w/]+\.py)` `([\w.]+)`")


@pytest.mark.parametrize("path", DOCS, ids=name_of)
def test_a_name_that_a_document_places_in_a_file_is_in_that_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    placed = NAME_IN_FILE.findall(text) + [(name, f"src/prefloop/{file}") for file, name in FILE_AND_NAME.findall(text)]
    wrong = [(name, file) for name, file in placed if not _defines((ROOT / file).read_text(encoding="utf-8"), name)]
    assert not wrong


def _defines(text: str, dotted: str) -> bool:
    return all(
        re.search(rf"^ *(?:class|def) {part}\b|^ *{part}\b[^\n]*=", text, re.MULTILINE) for part in dotted.split(".")
    )


def test_there_are_examples() -> None:
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_an_example_is_a_configuration_that_loads(path: Path) -> None:
    config = load_config(path)
    for name, options in config.algorithms.items():
        make(name, options)


@pytest.mark.parametrize("path", DOCS, ids=name_of)
def test_toml_shown_in_documents_is_a_configuration(path: Path) -> None:
    for language, body in BLOCK.findall(path.read_text(encoding="utf-8")):
        if language == "toml":
            for name, options in make_config(tomllib.loads(body), where=name_of(path)).algorithms.items():
                make(name, options)


@pytest.mark.parametrize("name", names())
def test_an_algorithm_has_a_page_that_names_its_options(name: str) -> None:
    page = ROOT / "docs" / "algorithms" / f"{name}.md"
    assert page.is_file(), f"write docs/algorithms/{name}.md"
    text = page.read_text(encoding="utf-8")
    if "(../kl-control.md)" in text:  # It explains what all methods have in common.
        text += (ROOT / "docs" / "kl-control.md").read_text(encoding="utf-8")
    assert [option for option in options_of(make(name)) if f"`{option}`" not in text] == []


def test_no_page_describes_an_algorithm_that_is_not_there() -> None:
    pages = {p.stem for p in (ROOT / "docs" / "algorithms").glob("*.md")} - {"README", "index"}
    assert pages <= set(names())


def test_every_setting_is_described() -> None:
    silent = [key for key, _, _, meaning in describe(Config) if not meaning]
    assert not silent, "these keys have no description, which --help and docs/config.md show"


CITED = re.compile(r"\[(\w+(?:\.\w+)?)\] `?(\w+)|--set ['\"]?([\w.]+)\.(\w+)=")
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def test_a_setting_that_a_message_cites_is_in_that_section() -> None:
    assert [(name_of(path), found) for path in SOURCES if (found := misplaced(path.read_text(encoding="utf-8")))] == []


def misplaced(text: str) -> list[str]:
    """Settings that are cited with a section that they are not in."""
    keys = {key for key, *_ in describe(Config)}
    names = {key.rpartition(".")[2] for key in keys}
    cited = {(a or c, b or d) for a, b, c, d in CITED.findall(text)}
    sections = {key.split(".")[0] for key in keys}
    return [
        f"{s}.{n}" for s, n in sorted(cited) if s.split(".")[0] in sections and n in names and f"{s}.{n}" not in keys
    ]


TEST_POINTER = re.compile(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`")


def test_every_fault_in_the_table_of_reliability_has_a_test_that_exists() -> None:
    rows = [
        line.strip("| ").split(" | ")
        for line in (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and not line.startswith("| fault |")
    ]
    assert len(rows) > 20
    wrong = [cells[0] for cells in rows if len(cells) != 3 or not TEST_POINTER.findall(cells[2])]
    for cells in rows:
        for file, name in TEST_POINTER.findall(cells[-1]):
            path = ROOT / file
            if not path.is_file() or (name and f"def {name}(" not in path.read_text(encoding="utf-8")):
                wrong.append(f"{file}::{name}")
    assert wrong == []
