"""Draws lists of texts from an endpoint, which serves another model than the project's: for people, and for what learns
from rankings.

Each list is stored as soon as it is whole, so that a kill loses only requests that are under way. Its completions have
no `policy_version`, token ids or log-probabilities, like imported ones, so that nothing takes them for the policy's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from prefloop.engine.base import Sampling
from prefloop.engine.rollouts.http import Refused
from prefloop.engine.rollouts.openai import Answer, Endpoints, NoAnswer, RowRefused
from prefloop.engine.rollouts.side_by_side import side_by_side
from prefloop.errors import ConfigError, DataError, TrainingError
from prefloop.project.left_out import LeftOut
from prefloop.project.project import Project, derive
from prefloop.training.sampled_lists import ATTEMPTS, item_id, repeats
from prefloop.types import Completion, Item, Prompt

GIVES_UP = 3  # So many prompts without an answer, one after the other, end a run.


@dataclass
class Tally:
    """Counts what a run of `sample` drew. lists: those that are there now; tokens: None where nobody counts them"""

    lists: int = 0
    drawn: int = 0
    near_duplicates: int = 0
    ended: int = 0
    tokens: float | None = 0.0


@dataclass(frozen=True)
class _Lists:
    """Draws the list of one prompt; several threads do so at once."""

    endpoints: Endpoints
    seed: int
    k: int
    avoid_duplicates: bool

    def __call__(self, prompt: Prompt) -> tuple[list[Answer], int]:
        """Return the answers to a prompt, and how many near-duplicates are left after a few attempts."""
        answers = self._draw(prompt, self.k, 0)
        for attempt in range(1, ATTEMPTS + 1):
            if not (slots := self._repeated(answers)) or not self.endpoints.sampling.temperature:
                break
            for slot, answer in zip(slots, self._draw(prompt, len(slots), attempt), strict=True):
                answers[slot] = answer
        return answers, len(self._repeated(answers))

    def _draw(self, prompt: Prompt, k: int, attempt: int) -> list[Answer]:
        return self.endpoints.draw(prompt, k, lambda there: derive(self.seed, prompt.id, attempt, there))

    def _repeated(self, answers: Sequence[Answer]) -> list[int]:
        texts = [answer.completion.text for answer in answers]
        return [place for place in range(len(texts)) if self.avoid_duplicates and repeats(texts, place)]


def draw_from_endpoint(
    project: Project, prompts: Sequence[Prompt], round: int, fingerprint: str, left_out: LeftOut
) -> Tally:
    """Draw and store the lists that are missing.

    left_out: gets the prompts that the endpoint refuses

    Raises ConfigError where it refuses everything, TrainingError where some prompts got no answer: what was drawn is
    stored, and the same command asks for the rest.
    """
    settings, model = project.config.sample, str(project.config.rollout.model)
    known = {item.id for item in project.store.items(source="sample", round=round)}
    todo = [p for p in prompts if item_id(p, model, fingerprint) not in known]
    tally = Tally(lists=len(prompts) - len(todo))
    endpoints = Endpoints(
        project.config.rollout, Sampling(settings.max_tokens, settings.temperature, settings.top_p, settings.batch)
    )
    draw = _Lists(endpoints, derive(project.config.project.seed, "sample"), settings.k, settings.avoid_duplicates)
    failed: dict[str, str] = {}
    in_turn = 0
    with (
        closing(endpoints),
        closing(side_by_side(draw, todo, settings.batch)) as answered,
        project.progress(len(prompts), "sample", tally.lists) as bar,
    ):
        for prompt, got in answered:
            bar.update()
            if isinstance(got, Refused):
                raise ConfigError(f"{got} What was drawn is stored.")
            if isinstance(got, RowRefused):
                left_out.add(prompt, str(got))
                if not tally.lists and len(left_out.reasons) >= GIVES_UP:
                    raise ConfigError(f"nothing but refusals from [rollout] servers. First: {_first(left_out)}.")
            elif isinstance(got, NoAnswer):
                failed[prompt.id], in_turn = str(got), in_turn + 1
                if in_turn >= GIVES_UP:
                    break
            elif isinstance(got, Exception):
                raise got
            else:
                answers, near = got
                project.store.add([_item(project, prompt, answers, item_id(prompt, model, fingerprint), round)])
                _count(tally, answers, near)
                in_turn = 0
    if failed:
        id, cause = next(iter(failed.items()))
        raise TrainingError(
            f"{len(failed)} prompts got no answer in {project.config.rollout.retries + 1} attempts, and {tally.lists} "
            f"lists are stored. First: prompt {id}: {cause}. The same command asks for the rest. "
            "If the endpoint limits how often it is asked, lower [sample] batch."
        )
    if prompts and not tally.lists:
        raise DataError(f"the endpoint refuses every prompt. First: {_first(left_out)}.")
    return tally


def _first(left_out: LeftOut) -> str:
    return next(iter(left_out.reasons.values()))


def _count(tally: Tally, answers: Sequence[Answer], near: int) -> None:
    tally.lists += 1
    tally.drawn += len(answers)
    tally.near_duplicates += near
    tally.ended += sum(a.completion.finish_reason == "stop" for a in answers)
    for answer in answers:
        tally.tokens = None if tally.tokens is None or answer.tokens is None else tally.tokens + answer.tokens


def _item(project: Project, prompt: Prompt, answers: Iterable[Answer], id: str, round: int) -> Item:
    settings, model = project.config.sample.model_dump(), project.config.rollout.model
    completions: list[Completion] = [
        replace(a.completion, id=f"{id}:c{n}", model=model, sampling={**settings, **a.how})
        for n, a in enumerate(answers)
    ]
    return Item(id, prompt, tuple(completions), round=round, source="sample")
