"""Runs `prefloop init`, which makes a project folder with a commented prefloop.toml. It loads no model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit

from prefloop.config import CONFIG_NAME, Config, apply_override, make_config
from prefloop.config_problems import describe, settings_of
from prefloop.errors import ConfigError, DataError, ModelError
from prefloop.models.folder import check_folder
from prefloop.project.toml import default_of, item, toml
from prefloop.record import write_atomic
from prefloop.results import Created

# These are the settings that most people change; docs/config.md has them all.
_SHOWN: dict[str, tuple[str, ...]] = {
    "project": ("seed", "threads", "device"),
    "model": ("init", "path", "dtype", "text", "vocab_size", "hidden_size", "layers", "heads", "context"),
    "data": ("heldout",),
    "sft": ("epochs", "batch", "lr", "max_tokens"),
    "sample": ("k", "temperature", "max_tokens"),
    "crowd": ("scorer", "criterion", "annotators", "overlap"),
    "annotate": (
        "criterion",
        "attributes",
        "guidelines",
        "overlap",
        "overlap_many",
        "overlap_share",
        "gold_share",
        "partial",
    ),
    "reward": ("objective", "epochs", "batch", "lr", "max_tokens"),
    "align": ("algorithm", "steps", "lr", "max_tokens"),
    "align.rollout": ("prompts", "k", "temperature"),
    "align.evaluation": ("eval_every", "eval_prompts", "kl_budget"),
    "align.objective": ("kind",),
    "evaluate": ("prompts", "max_tokens", "scorer"),
    "behaviour": ("functions", "max_drop", "slices"),
    "run": ("rounds", "stages", "imports"),
}
_ONLY_SCRATCH = ("text", "vocab_size", "hidden_size", "layers", "heads", "context")
_ABOUT = {
    "model": "the model everything starts from",
    "data": "which prompts are kept out of all training",
    "sft": "supervised fine-tuning on demonstrations",
    "sample": "completions to be ranked",
    "crowd": "simulated annotators; leave scorer out where people rank",
    "annotate": "what people are asked (prefloop annotate)",
    "reward": "reward models",
    "align": "optimising the policy",
    "align.rollout": "what an online algorithm samples in each step",
    "align.evaluation": "looks at the policy while it learns",
    "align.objective": "what several criteria are optimised for together",
    "evaluate": "the aligned policy against the reference",
    "behaviour": "what must stay true of the answers",
    "run": "what `prefloop run` does",
}


def init(
    root: Path, model: str | None, scratch: bool, texts: Sequence[Path] = (), overrides: Sequence[str] = ()
) -> Created:
    """Write `root`/prefloop.toml. Raises ConfigError where there is one already, ModelError for an unusable model."""
    target = root / CONFIG_NAME
    if target.exists():
        raise ConfigError(f"{target} exists already. Change it by hand, or choose another folder.")
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{root} is a file. Give the name of a folder.")
    if (model is None) != scratch:
        raise ConfigError("say which model: --model PATH_OR_HUB_ID, or --scratch for a small new one (not both)")
    if texts and not scratch:
        raise ConfigError("--text is what a new tokenizer learns from: it goes with --scratch only")
    # A folder's name may hold bytes that are no text; a setting may not.
    name = root.absolute().name.encode("utf-8", "replace").decode()
    values: dict[str, Any] = {"project": {"name": name}}
    if model is None:
        values["model"] = {"init": "scratch"}
        if texts:
            values["model"]["text"] = [_text_path(path, root) for path in texts]
    else:
        values["model"] = {"init": "pretrained", "path": model_path(model, root)}
    for override in overrides:
        apply_override(values, override)
    config = make_config(values, where="--set")
    root.mkdir(parents=True, exist_ok=True)
    write_atomic(target, render(values, scratch).encode())
    return Created(
        project=str(root),
        config=str(target),
        model=config.model.path or "scratch",
        hub=config.model.path is not None and not (root / config.model.path).is_dir(),
    )


def model_path(model: str, root: Path) -> str:
    """Return the setting for a model: a hub id, or a path, which is relative where it lies inside the project."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if model.count("/") > 1:
            raise ModelError(f"{model} is not a folder. Give a Hugging Face model folder or a hub id (owner/name).")
        return check_folder(model)
    check_folder(folder)
    return _place(folder, root)


def _text_path(path: Path, root: Path) -> str:
    if not path.expanduser().is_file():
        raise DataError(f"{path} is not a file. Give text files for the tokenizer to learn from.")
    return _place(path.expanduser(), root)


def _place(path: Path, root: Path) -> str:
    path, root = path.resolve(), root.resolve()
    return os.path.relpath(path, root) if path.is_relative_to(root) else str(path)


def render(values: Mapping[str, Any], scratch: bool) -> str:
    """Return the text of prefloop.toml.

    Beside what is given it shows other settings as comments with their defaults.
    """
    known: dict[str, dict[str, tuple[str, str]]] = {}
    for key, _, default, meaning in describe(Config):
        section, _, name = key.rpartition(".")
        known.setdefault(section, {})[name] = (default, meaning)
    document = tomlkit.document()
    document.add(tomlkit.comment("A prefloop project. Lines with # show the default; take the # away to change one."))
    document.add(tomlkit.comment("Every setting: docs/config.md, or prefloop COMMAND --help."))
    told = settings_of(values, Config)
    for section, rows in known.items():
        given = {name: told[f"{section}.{name}"] for name in rows if f"{section}.{name}" in told}
        if not given and section not in _SHOWN:
            continue
        table = tomlkit.table()
        if section in _ABOUT:
            table.comment(_ABOUT[section])
        for name, value in given.items():
            table.add(name, item(value))
            if meaning := rows[name][1]:
                table[name].comment(meaning)
        for name in _SHOWN.get(section, ()):
            default, meaning = rows[name]
            if name not in given and (scratch or name not in _ONLY_SCRATCH) and default != "None":
                table.add(tomlkit.comment(f"{name} = {toml(default_of(default))}  # {meaning}"))
        above, _, part = section.rpartition(".")
        inside: Any = document[above] if above else document
        inside.add(tomlkit.nl())
        inside.add(part, table)
    document.add(tomlkit.nl())
    document.add(tomlkit.comment("[algorithms.ppo]  # options of one algorithm, by its name"))
    document.add(tomlkit.comment("kl = 0.05"))
    if options := values.get("algorithms"):
        document.add(tomlkit.nl())
        document.add("algorithms", tomlkit.item(options))
    return tomlkit.dumps(document)
