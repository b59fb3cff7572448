"""Makes the model of `[model] init = "scratch"` from the project's training data, and never from what is held out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prefloop.config import Config
from prefloop.errors import ConfigError
from prefloop.store import Store


def make_scratch_model(folder: Path, root: Path, config: Config, store: Store) -> None:
    """Write a small new Llama with a tokenizer of its own. Raises ConfigError where a file of texts is missing."""
    from prefloop.engine.checkpoint import publish  # torch takes seconds to load.
    from prefloop.models.scratch import make_scratch

    publish(folder, lambda tmp: make_scratch(tmp, config.model, _texts(root, config, store), config.project.seed))


def _texts(root: Path, config: Config, store: Store) -> Iterator[str]:
    """Yield what the tokenizer learns from."""
    for name in config.model.text:
        path = root / name
        if not path.is_file():
            raise ConfigError(f"[model] text: {path} does not exist")
        yield from path.read_text(encoding="utf-8").splitlines()
    # What is held out is never learnt from, not even here.
    answered, kept_out = False, config.data.heldout
    for shown in store.demonstrations(split="train", heldout=kept_out):
        answered = True
        yield shown.prompt.text
        yield shown.text
    for item in store.items(split="train", heldout=kept_out):
        answered = True
        yield item.prompt.text
        yield from (c.text for c in item.completions)
    if not answered:
        yield from (prompt.text for prompt in store.prompts(split="train", heldout=kept_out))
