"""Stages on a model whose chat template ends answers with another token than the tokenizer's eos, as Gemma's does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import GenerationConfig

from chat_templates import FAMILIES, HOME_MADE, Family
from prefloop.config import CONFIG_NAME
from prefloop.models.load import load_causal
from prefloop.rewards.model import encode
from prefloop.stages import invariants
from prefloop.stages.project import ModelRef, Project
from prefloop.stages.sft import encode_demonstrations, sft
from prefloop.types import Completion, Demonstration, Prompt
from tiny_models import causal

SETTINGS = """
[project]
threads = 1
device = "cpu"
[model]
path = "model"
[data]
heldout = 0.2
[sft]
epochs = 1
batch = 8
"""


def make_model(folder: Path, family: Family) -> Path:
    made = family.tokenizer()
    model = causal("Llama", len(made), eos=made.eos_token_id, max_position_embeddings=128)
    if family.stops:
        model.generation_config.eos_token_id = [made.convert_tokens_to_ids(token) for token in family.stops]
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("gemma") / "model", FAMILIES["Gemma"])


def make_project(root: Path, model: Path) -> Project:
    (root / CONFIG_NAME).write_text(SETTINGS.replace('path = "model"', f"path = {json.dumps(str(model))}"))
    return Project.open(root, quiet=True)


# -- how an answer ends ------------------------------------------------------------------------------------------------


def test_demonstrations_and_ranked_answers_end_as_the_template_ends_them(gemma: Path) -> None:
    _, codec = load_causal(gemma)
    end, prompt = codec.tokenizer.convert_tokens_to_ids("<end_of_turn>"), Prompt("Say hello.")
    [(shown, _)], _ = encode_demonstrations(codec, [Demonstration(prompt, "Hello!")], 100)
    judged, _ = encode(codec, prompt, Completion("c", "Hello!"))
    assert shown == judged and shown[-1] == end != codec.tokenizer.eos_token_id
    sampled = Completion("d", "Hello!", token_ids=(*shown[-8:-1], codec.tokenizer.eos_token_id), finish_reason="stop",
                         tokenizer=codec.fingerprint)  # fmt: skip
    assert encode(codec, prompt, sampled)[0][-1] == codec.tokenizer.eos_token_id, "what was sampled stays as it was"


def test_a_trained_policy_stops_where_its_template_ends_an_answer(tmp_path: Path) -> None:
    family = FAMILIES["ChatML on a base model's tokenizer"]
    with make_project(tmp_path, make_model(tmp_path / "model", family)) as project:
        project.store.add(Demonstration(Prompt(f"Say hello {n}."), f"Hello, cat {n}!") for n in range(12))
        outcome = sft(project)
        stops = GenerationConfig.from_pretrained(tmp_path / outcome.result["model"]).eos_token_id
    _, codec = load_causal(tmp_path / outcome.result["model"])
    assert set(stops) == set(codec.stop_ids) and codec.end_id in stops
    assert codec.tokenizer.convert_ids_to_tokens(codec.end_id) == "<|im_end|>"


@pytest.mark.parametrize(
    ("family", "status", "said"),
    [
        (FAMILIES["Gemma"], "ok", ["<end_of_turn> (token", "the chat template writes", "the tokenizer names <eos>"]),
        (FAMILIES["Zephyr"], "ok", ["generation config and tokenizer name </s>"]),
        (FAMILIES["ChatML on a base model's tokenizer"], "warn", ["<|im_end|>", "name <|endoftext|>"]),
        (FAMILIES["Falcon"], "ok", ["the tokenizer's eos_token, since the chat template writes nothing"]),
        (HOME_MADE["an end that is text"], "warn", ["'### End'", "no single token"]),
    ],
)
def test_the_doctor_says_what_ends_an_answer_and_who_says_otherwise(
    tmp_path: Path, family: Family, status: str, said: list[str]
) -> None:
    folder = make_model(tmp_path / "model", family)
    with make_project(tmp_path, folder) as project:
        subject = invariants._Subject(project, ModelRef("base", str(folder), ""))
        check = invariants._ending(subject, "end of answers")
    assert check.status == status and bool(check.advice) == (status == "warn")
    for words in said:
        assert words in check.detail
