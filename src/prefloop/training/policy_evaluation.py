"""Splits held-out prompts: on one half `align` chooses, on the other `evaluate` measures.

It also evaluates a policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefloop.batch import LogprobBatch
from prefloop.diagnose.collapse import text_figures
from prefloop.engine.base import Engine, Sampling
from prefloop.models.tokenization import Tokenization
from prefloop.project.left_out import LeftOut, fitting
from prefloop.project.project import Project
from prefloop.results import ValidationPrompts
from prefloop.rewards.base import Scorer, ZeroScorer
from prefloop.rewards.model import reward_tokenizations
from prefloop.training.answers_log import Kind, sample_rows
from prefloop.training.rollout import Encoded, Rollouts, add_logprobs, describe, roll_out
from prefloop.types import Prompt, digest

ENOUGH = 64  # So many training prompts stand in where none is held out.


def validation_and_test(prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[Prompt]]:
    """Return two halves by hash: `align` chooses on the first, `evaluate` measures on the second.

    Where all have fallen into one half, the first half of the order by hash goes over. A single prompt is in both:
    there `evaluate` says that what it measures is not independent.
    """
    order = sorted(prompts, key=lambda p: digest("half", p.id))
    first = [p for p in prompts if int(digest("half", p.id), 16) % 2 == 0]
    second = [p for p in prompts if int(digest("half", p.id), 16) % 2 == 1]
    if len(prompts) > 1 and not (first and second):
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
    return (first or second), (second or first)


@dataclass(frozen=True)
class Looked:
    """Holds what one look at a policy showed.

    rewards: one a prompt, of what is optimised (the EOS rule counts). Where nothing judges there are none, nor figures
    of them.
    judged: one a prompt, by the independent judge; None where there is none
    """

    rolls: Rollouts
    batch: LogprobBatch
    figures: dict[str, float]
    rewards: list[float]
    judged: list[float] | None = None


class Validation:
    """Holds the prompts that choose, which are always answered with the same random numbers."""

    def __init__(
        self,
        project: Project,
        tokenization: Tokenization,
        scorer: Scorer | None,
        trained_on: Sequence[Prompt],
        left_out: LeftOut | None = None,
        temperature: float | None = None,
    ):
        """Choose the prompts.

        temperature: that of the policy's log-probabilities and of the answers; None is that of the rollouts
        """
        settings = project.config.align
        self.settings, self.rollout = settings.evaluation, settings.sampled
        self.tokenization, self.scorer = tokenization, scorer
        judges = reward_tokenizations(scorer) if scorer else []
        held, _ = validation_and_test(project.store.prompts(split="heldout", heldout=project.config.data.heldout))
        self.held_out = bool(held)
        if not held:
            project.say("warning: no held-out prompts; checkpoints are chosen on training prompts")
            held = list(trained_on[:: max(1, len(trained_on) // ENOUGH)])
        fit = fitting(project, tokenization, held, settings.max_tokens, left_out, judges)
        self.prompts: list[Encoded] = fit[: self.settings.eval_prompts]
        self.judge = _independent(project)
        self.sampling = Sampling(settings.max_tokens, temperature or self.rollout.temperature)

    def answers(self, engine: Engine, version: str) -> Rollouts:
        """Return one answer to each prompt by the engine's policy, judged."""
        scorer = self.scorer or ZeroScorer()
        return roll_out(
            engine, self.tokenization, scorer, self.prompts, 1, self.sampling, self.rollout, "eval", version
        )

    def look(self, engine: Engine, version: str, reference_shift: float = 0.0) -> Looked:
        """Return the answers, what they look like, and how far they are from the engine's reference."""
        rolls = self.answers(engine, version)
        batch = add_logprobs(rolls.batch, engine, reference_shift=reference_shift)
        texts = text_figures([[c.text for c in rolls.completions]])
        figures = describe(rolls, batch) | {n: texts[n] for n in ("distinct_2", "repetition", "commonest")}
        judged = list(self.judge.score(rolls.prompts, rolls.completions).total) if self.judge else None
        if judged:
            figures |= {"judge": float(np.mean(judged)), "judge_std": float(np.std(judged))}
        if self.scorer is None:
            figures = {n: v for n, v in figures.items() if not n.startswith("reward")}
            return Looked(rolls, batch, figures, [], judged)
        return Looked(rolls, batch, figures, rolls.batch.reward.tolist(), judged)

    def sample_rows(self, step: int, looked: Looked, kind: Kind = "eval") -> list[dict[str, Any]]:
        """The answers for the run's samples.jsonl."""
        return sample_rows(step, kind, looked.rolls, looked.batch, self.tokenization, judge=looked.judged)

    def look_at_reference(self, engine: Engine) -> Looked:
        """Return the frozen reference's own answers to the same prompts, by the same random numbers."""
        return self.look(engine.with_policy("reference"), "reference")

    def shown(self, looked: Looked, step: int) -> str:
        """Return one of the answers, another one at each evaluation, in a line."""
        place = (step // max(1, self.settings.eval_every)) % len(looked.rolls.completions)
        return " ".join(looked.rolls.completions[place].text.split())[:160]

    def chose(self) -> ValidationPrompts:
        """For the run's result: the prompts that chose. `evaluate` leaves them out of what it measures on."""
        return ValidationPrompts(self.held_out, tuple(prompt.id for prompt, _ in self.prompts))


def _independent(project: Project) -> Scorer | None:
    """`[evaluate] scorer`, where it is another than the one that is optimised. It chooses nothing here."""
    spec = project.config.evaluate.scorer
    return project.scorer(spec) if spec and spec != project.config.align.reward else None


def wins(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the share of the answers that score higher than the other's; a draw counts half."""
    gap = np.asarray(ours) - np.asarray(theirs)
    return float(np.mean((gap > 0) + 0.5 * (gap == 0)))
