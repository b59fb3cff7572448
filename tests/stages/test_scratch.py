"""A model made from scratch learns its tokenizer from the right texts, and settings that come too late are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefloop.config import CONFIG_NAME
from prefloop.errors import ConfigError
from prefloop.project.project import Project
from prefloop.types import Completion, Demonstration, Item, Prompt
from tiny_models import TINY_MODEL

HELD = Prompt("zanzibar zanzibar zanzibar", split="heldout")
SEEN = Prompt("mombasa mombasa mombasa", split="train")


def words(root: Path, records: list[Prompt] | list[Demonstration] | list[Item]) -> str:
    """Return the tokens of the tokenizer that a project with these records makes."""
    root.mkdir()
    (root / CONFIG_NAME).write_text(TINY_MODEL + "[data]\nheldout = 0.3\n")
    with Project.open(root, quiet=True) as project:
        project.store.add(records)
        project.base()
    return (root / "model" / "tokenizer.json").read_text(encoding="utf-8")


def test_a_tokenizer_learns_from_no_text_that_is_held_out(tmp_path: Path) -> None:
    for kind, made in {
        "prompts": [SEEN, HELD],
        "demonstrations": [Demonstration(SEEN, "mombasa"), Demonstration(HELD, "zanzibar")],
        "items": [Item(p.text, p, (Completion(p.text, p.text),)) for p in (SEEN, HELD)],
    }.items():
        found = words(tmp_path / kind, made)  # type: ignore[arg-type]
        assert "mombasa" in found and "zan" not in found, kind


def test_another_size_than_the_model_was_made_with_is_refused(tmp_path: Path) -> None:
    words(tmp_path / "p", [SEEN])
    for override in ("model.layers=3", "model.hidden_size=48", "model.context=100"):
        with Project.open(tmp_path / "p", [override], quiet=True) as project, pytest.raises(ConfigError) as error:
            project.base()
        assert override.split("=")[0].split(".")[1] in str(error.value) and "was made with" in str(error.value)


def test_a_revision_of_a_folder_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / CONFIG_NAME).write_text(f'[model]\npath = "{tiny_model}"\nrevision = "abc"\n')
    with (
        Project.open(tmp_path, quiet=True) as project,
        pytest.raises(ConfigError, match="revision would have no effect"),
    ):
        project.base()
