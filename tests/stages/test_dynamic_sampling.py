"""Groups whose answers all got the same reward are replaced before a step learns, and long answers cost something."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop import record
from prefloop.config_align import Align, Rollout
from prefloop.engine import checkpoint as checkpoints
from prefloop.engine.base import Sampled, Sampling
from prefloop.engine.scripted import ScriptedEngine
from prefloop.models.tokenization import Tokenization, make_tokenization
from prefloop.ops.group import constant_rows
from prefloop.project.project import Project
from prefloop.rewards.base import Scores
from prefloop.stages.align import align
from prefloop.training import loop
from prefloop.training.dynamic_sampling import without_constant_groups
from prefloop.training.rollout import Encoded, Rollouts, length_rules, roll_out
from prefloop.types import Completion, Prompt
from tiny_models import causal, tokenizer

K = 3
WORDS = ["the", "cat", "a", "dog", "ran", "mat", "sat", "on", "big", "red"]


class Sometimes:
    """Scores answers to the prompts named with the number of their tokens, and all others with 0."""

    def __init__(self, tell: set[str]):
        self.tell = tell

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scores:
        told = [p.text in self.tell for p in prompts]
        values = [float(len(c.token_ids)) if t else 0.0 for c, t in zip(completions, told, strict=True)]
        return Scores(values, {"length": values}, cut=1)


@pytest.fixture(scope="module")
def tokenization() -> Tokenization:
    made = tokenizer()
    return make_tokenization(made, causal("Llama", len(made)))


def drawn(tokenization: Tokenization, tell: set[str], attempts: int, seed: int = 5) -> tuple[Rollouts, list[list[str]]]:
    """Return rollouts to the first three prompts with dynamic sampling, and the prompts that were asked each time."""
    pool: list[Encoded] = [(p, tokenization.encode_prompt(p)) for p in map(Prompt, WORDS)]
    turns: dict[int, int] = {}

    def answer(prompt: Sequence[int], key: int) -> Sampled:  # The answers to a prompt have 1, 2, 3 tokens.
        count = turns[hash(tuple(prompt))] = turns.get(hash(tuple(prompt)), 0) % K + 1
        return Sampled((7,) * count, (-0.5,) * count, True)

    engine, asked = ScriptedEngine(answer), []

    def draw(prompts: Sequence[Encoded], attempt: int) -> Rollouts:
        asked.append([p.text for p, _ in prompts])
        how = K, Sampling(8), Rollout(), f"run/0.{attempt}", "v1"
        return roll_out(engine, tokenization, Sometimes(tell), prompts, *how)

    return without_constant_groups(draw(pool[:3], 0), pool, draw, attempts, [seed, 2, 0]), asked


def test_a_constant_group_is_replaced_by_a_prompt_that_was_not_asked_and_others_stay(
    tokenization: Tokenization,
) -> None:
    rolls, asked = drawn(tokenization, set(WORDS) - {"cat"}, attempts=4)
    assert asked[0] == WORDS[:3] and len(asked) == 2 and len(asked[1]) == 1 and asked[1][0] not in WORDS[:3]
    assert [p.text for p in rolls.prompts] == [t for t in ("the", asked[1][0], "a") for _ in range(K)]
    assert rolls.replaced == 1 and rolls.batch.group.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert rolls.batch.reward.tolist() == list(rolls.scores.total) == [1.0, 2.0, 3.0] * 3
    assert rolls.scores.parts["length"] == rolls.scores.total and rolls.scores.cut == 2
    for n, completion in enumerate(rolls.completions):
        prompt = tokenization.encode_prompt(rolls.prompts[n])
        assert rolls.batch.ids[n][rolls.batch.mask[n]].tolist() == [*prompt, *completion.token_ids]
        assert rolls.batch.ids[n][rolls.batch.action[n]].tolist() == list(completion.token_ids)
        assert rolls.batch.sampler_logp[n][rolls.batch.action[n]].tolist() == [-0.5] * len(completion.token_ids)
    assert len({c.id for c in rolls.completions}) == 9


def test_it_ends_after_so_many_attempts_or_when_every_prompt_was_asked(tokenization: Tokenization) -> None:
    rolls, asked = drawn(tokenization, set(), attempts=2)
    assert [len(prompts) for prompts in asked] == [3, 3, 3] and rolls.replaced == 6
    rolls, asked = drawn(tokenization, set(), attempts=9)
    assert [len(prompts) for prompts in asked] == [3, 3, 3, 1] and rolls.replaced == 7
    assert sorted(text for prompts in asked for text in prompts) == sorted(WORDS)
    assert constant_rows(rolls.batch.reward, rolls.batch.group).all() and len(rolls.prompts) == 9


def test_what_is_drawn_is_a_function_of_seed_step_and_attempt(tokenization: Tokenization) -> None:
    first, again, other = (drawn(tokenization, set(), 2, seed)[1] for seed in (5, 5, 6))
    assert first == again != other and first[1] != first[2]


def test_a_price_on_long_answers_rises_over_the_last_share_to_that_of_a_cut_off_one() -> None:
    lengths, ended = [2, 6, 8, 9, 10, 10], torch.tensor([True, True, True, True, True, False])
    action = torch.arange(10)[None, :] < torch.tensor(lengths)[:, None]

    def price(**settings: Any) -> list[float]:
        return (1.0 - length_rules([1.0] * 6, action, ended, Rollout(**settings), 10)).tolist()

    assert price(overlong=0.4, missing_eos_penalty=2.0) == pytest.approx([0, 0, 1.0, 1.5, 2.0, 2.0])
    assert price() == price(overlong=0.0) == [0, 0, 0, 0, 0, 1.0]
    assert price(overlong=0.4, missing_eos="off") == [0] * 6
    assert price(overlong=0.4, missing_eos="replace") == pytest.approx([0, 0, 0.5, 0.75, 1.0, 2.0])


def test_dapo_has_both_unless_it_is_told_otherwise_and_no_other_method_has() -> None:
    assert (Align(algorithm="dapo").sampled.dynamic_sampling, Align(algorithm="dapo").sampled.overlong) == (3, 0.2)
    assert (Align(algorithm="grpo").sampled.dynamic_sampling, Align(algorithm="grpo").sampled.overlong) == (0, 0.0)
    told = Align(algorithm="dapo", rollout=Rollout(dynamic_sampling=0, overlong=0.5)).sampled
    assert (told.dynamic_sampling, told.overlong) == (0, 0.5)


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_run_with_replaced_groups_is_taken_up_exactly(
    tiny_with_reward: Path, tmp_path: Path, staleness: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # fmt: off
    settings = ["align.algorithm=dapo", "align.steps=4", "align.max_tokens=4", "align.checkpoint_every=2",
                "align.evaluation.eval_every=2", "align.evaluation.eval_prompts=2", "align.rollout.prompts=3",
                "align.rollout.k=2", "align.reward=parity.py:parity", f"align.rollout.staleness={staleness}"]
    # fmt: on

    def went(name: str) -> list[dict[str, Any]]:
        root = tmp_path / name
        if not root.exists():
            shutil.copytree(tiny_with_reward, root)
            (root / "parity.py").write_text("def parity(prompt, answer):\n    return float(len(answer) % 2)\n")
        with Project.open(root, settings, quiet=True) as project:
            align(project, 0)
        (run,) = [run for run in record.runs(root) if run.manifest["stage"] == "align"]
        return run.metrics()

    torch.set_num_threads(1)
    straight = went("straight")
    assert sum(line["groups_replaced"] for line in straight if line["step"]) > 2
    real = checkpoints.save_checkpoint

    def stop(root: Path, done: int, *rest: Any) -> None:
        real(root, done, *rest)
        if done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop, "save_checkpoint", stop)
        went("stopped")
    assert went("stopped") == straight
