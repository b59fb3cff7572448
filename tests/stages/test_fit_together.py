"""What does not fit together is refused before a run begins: no run folder is left, and the error says what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefloop.config import Model
from prefloop.errors import ConfigError, DataError, NothingToDoError
from prefloop.models.reward import new_reward_model
from prefloop.models.save import save_pretrained
from prefloop.project.project import ModelRef, Project
from prefloop.stages.align import align
from prefloop.training.fit_together import check_policies
from tiny_models import folder


@pytest.fixture
def copied(tiny_with_reward: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_with_reward, tmp_path / "copy"))


def refused(root: Path, *overrides: str) -> str:
    """Return what `align` says against it, and see that nothing was begun."""
    errors = (ConfigError, DataError, NothingToDoError)
    with Project.open(root, overrides, quiet=True) as project, pytest.raises(errors) as said:
        align(project, 0)
    assert not list((root / "runs").glob("align-*")), "a run was begun"
    return str(said.value)


def give_reward_model(root: Path, source: Path, edit: Callable[[Any], None] = lambda tokenizer: None) -> None:
    """Register a new reward model that starts from a folder, with the tokenizer as `edit` leaves it."""
    model, tokenization = new_reward_model(source, Model(), seed=0)
    model.criterion = "quality"
    model.set_normalisation(0.0, 1.0)
    edit(tokenization.tokenizer)
    save_pretrained(model.model, tokenization, root / "other")
    with Project.open(root, quiet=True) as project:
        old = project.reward_models(0)[0]
        project.store.add_model(
            replace(old, version="other", path="other", run_id=None, weights_sha256=None, files=None)
        )


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_a_group_of_one_is_refused_by_a_method_that_needs_a_group(tiny_with_reward: Path, algorithm: str) -> None:
    said = refused(tiny_with_reward, f"align.algorithm={algorithm}", "align.rollout.k=1")
    assert "at least 2 completions" in said and "Set k = 4 or more" in said and '"ppo"' in said


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_a_method_that_learns_from_a_reward_is_refused_without_one(tiny_project: Path, algorithm: str) -> None:
    said = refused(tiny_project, f"align.algorithm={algorithm}")
    assert said.startswith(f"{algorithm} learns from a reward") and "prefloop reward" in said
    assert "[align] reward" in said and "dpo" in said


def test_a_method_that_learns_from_rankings_is_refused_without_any(tiny_project: Path) -> None:
    assert "no rankings yet" in refused(tiny_project, "align.algorithm=dpo")


def test_a_critic_of_another_tokenizer_is_refused(copied: Path, tmp_path: Path) -> None:
    give_reward_model(copied, folder(tmp_path / "foreign"))
    said = refused(copied, "align.algorithm=ppo")
    assert "another tokenizer than the policy" in said and 'start = "policy"' in said and "grpo" in said
    assert '[align] critic = "head"' in said
    settings = ["align.critic=head", "align.steps=1", "align.max_tokens=6", "align.rollout.prompts=2"]
    with Project.open(copied, settings, quiet=True) as project:  # The policy's own states have its own tokens.
        assert align(project, 0).run


def test_a_reward_model_with_another_template_than_the_policys_is_refused(copied: Path) -> None:
    def shout(tokenizer: Any) -> None:
        tokenizer.chat_template = tokenizer.chat_template.replace("user", "USER") + "{# other #}"

    give_reward_model(copied, copied / "model", shout)
    with Project.open(copied, quiet=True) as project:
        assert project.reward_models(0)[0].version == "other"
    said = refused(copied, "align.algorithm=grpo")
    assert "another chat template than the policy" in said and 'start = "policy"' in said


def test_a_reward_model_trained_with_the_template_is_refused_without_it(tiny_with_reward: Path) -> None:
    said = refused(tiny_with_reward, "align.algorithm=grpo", "model.chat=none")
    assert 'trained with [model] chat = "auto"' in said and "Put the setting back" in said


def test_a_reference_of_another_vocabulary_is_refused(tiny_with_reward: Path, tmp_path: Path) -> None:
    other = folder(tmp_path / "foreign")
    with Project.open(tiny_with_reward, quiet=True) as project:
        own = project.base()
        check_policies(project, own, own)
        with pytest.raises(ConfigError, match=r"different vocabularies, .* Put \[model\] path back"):
            check_policies(project, own, ModelRef("sft-009", str(other), ""))
