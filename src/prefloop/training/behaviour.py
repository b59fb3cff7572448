"""Brings two policies' samples before the checks of `[behaviour]`: as pairs, cut into slices, on further prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefloop import exchange
from prefloop.batch import LogprobBatch
from prefloop.behaviour.chosen import Chosen, chosen
from prefloop.behaviour.comparing import ALL, Answers, compare, slices_of
from prefloop.behaviour.registry import Pair
from prefloop.config_align import Rollout
from prefloop.engine.base import Engine, Sampling
from prefloop.errors import ConfigError, DataError
from prefloop.exchange import RowError
from prefloop.models.tokenization import Tokenization
from prefloop.ops.masked import masked_sum
from prefloop.project.left_out import fitting
from prefloop.project.project import Project
from prefloop.results import CheckResult
from prefloop.rewards.base import ZeroScorer
from prefloop.training.rollout import Rollouts, add_logprobs, roll_out
from prefloop.types import Demonstration, Item, Prompt, digest

SHOWN = 3  # rows of a file that could not be used


def pairs_of(rolls: Rollouts, batch: LogprobBatch, k: int) -> list[list[Pair]]:
    """The answers as checks see them: [prompt][k]."""
    total = None if batch.ref_logp is None else masked_sum(batch.ref_logp, batch.action, 1)
    lengths = batch.action.sum(1).clamp(min=1)
    pairs = [
        Pair(
            prompt=prompt.text,
            answer=completion.text,
            id=prompt.id,
            ended=bool(batch.ended[n]),
            likelihood=None if total is None else float(total[n] / lengths[n]),
        )
        for n, (prompt, completion) in enumerate(zip(rolls.prompts, rolls.completions, strict=True))
    ]
    return [pairs[n : n + k] for n in range(0, len(pairs), k)]


def in_slices(
    project: Project, rolls: Mapping[str, Rollouts], batches: Mapping[str, LogprobBatch], k: int, name: str = ALL
) -> tuple[Answers, list[str]]:
    """The answers of "policy" and "reference", and what of `[behaviour] slices` could not be cut."""
    asked = rolls["policy"].prompts[::k]
    slices, problems = slices_of([prompt.metadata for prompt in asked], project.config.behaviour.slices)
    ours, theirs = (pairs_of(rolls[who], batches[who], k) for who in ("policy", "reference"))
    return Answers(ours, theirs, name, slices), problems


class Watch:
    """Looks at the behaviour of a policy at every evaluation of `align`, on the validation prompts."""

    def __init__(self, project: Project):
        self.project = project
        self.checks = chosen(project.config.behaviour, project.root)
        self._told = False

    @staticmethod
    def remembered(rolls: Rollouts, batch: LogprobBatch) -> list[dict[str, Any]]:
        """The reference's answers as JSON values, which later ones are compared with."""
        return [vars(pair) for (pair,) in pairs_of(rolls, batch, 1)]

    def look(
        self, step: int, rolls: Rollouts, batch: LogprobBatch, reference: Sequence[Mapping[str, Any]] | None
    ) -> Seen:
        """Compare one answer to each prompt with the reference's: None in a run that an older version began."""
        if reference is None:
            return Seen([], {})
        ours = pairs_of(rolls, batch, 1)
        theirs = [[Pair(**pair)] for pair in reference]
        slices, cut = slices_of([prompt.metadata for prompt in rolls.prompts], self.project.config.behaviour.slices)
        settings = self.project.config
        found = compare(
            self.checks, [Answers(ours, theirs, slices=slices)], settings.evaluate.bootstrap, settings.project.seed
        )
        if (problems := [*cut, *found.problems]) and not self._told:
            self._told = True
            self.project.say(f"warning: behaviour could not be checked fully: {'; '.join(problems)}")
        broken = [_broken(row) for row in found.broken]
        if broken:
            self.project.say(f"warning: step {step} breaks a bound of behaviour, and is not kept: {'; '.join(broken)}")
        figures = {f"eval_behaviour_{row.check}": row.policy for row in found.checks if row.slice == ALL}
        counts = {"regressed": len(found.said("regressed")), "broken": len(broken)}
        return Seen(broken, figures | {f"eval_behaviour_{name}": float(n) for name, n in counts.items()})


@dataclass(frozen=True)
class Seen:
    """What one look showed: the bounds that are broken, in words, and metrics."""

    broken: list[str]
    metrics: dict[str, float]


def _broken(row: CheckResult) -> str:
    where = "" if row.slice == ALL else f" on {row.slice}"
    return f"{row.check}{where} went from {row.reference:.3g} to {row.policy:.3g}, max_drop is {row.max_drop:g}"


def behaviour_inputs(
    project: Project, checks: Chosen, sets: Mapping[str, Sequence[Prompt]] | None = None
) -> dict[str, Any]:
    """What of `[behaviour]` decides a run. It is empty where nothing is set, so that older runs are the same runs."""
    slices = project.config.behaviour.slices
    found = {name: digest(*(p.id for p in prompts)) for name, prompts in (sets or {}).items()}
    decides = {"checks": checks.identity, "slices": list(slices), "sets": found}
    return {"behaviour": decides} if any(decides.values()) else {}


def bounds_of(project: Project) -> dict[str, Any]:
    """What of `[behaviour]` decides which step `align` keeps: the bounds, on what. Raises ConfigError for a wrong name.

    It is empty where there are none.
    """
    settings = project.config.behaviour
    found = chosen(settings, project.root)
    return {"behaviour": [found.identity, list(settings.slices)]} if found.bounds else {}


def read_prompt_sets(project: Project) -> dict[str, list[Prompt]]:
    """The prompts of `[behaviour] prompt_sets`. Raises ConfigError for a file that is not there."""
    sets: dict[str, list[Prompt]] = {}
    for name, file in project.config.behaviour.prompt_sets.items():
        path = project.root / file
        if not path.is_file():
            raise ConfigError(f"[behaviour] prompt_sets: {name} names {path}, which does not exist")
        if name == ALL:
            raise ConfigError(f'[behaviour] prompt_sets: "{ALL}" stands for the held-out prompts: take another name')
        prompts, rejected = [], []
        for row in exchange.read(path):
            if isinstance(row, RowError):
                rejected.append(f"row {row.line}: {row.reason}")
            else:
                prompts.append(row.prompt if isinstance(row, Demonstration | Item) else row)
        if rejected:
            project.say(f"warning: {len(rejected)} rows of {path} could not be used: {'; '.join(rejected[:SHOWN])}")
        if not prompts:
            raise DataError(f"{path} of [behaviour] prompt_sets holds no prompt")
        sets[name] = list({prompt.id: prompt for prompt in prompts}.values())
    return sets


def answered_sets(
    project: Project,
    engines: Mapping[str, Engine],
    tokenization: Tokenization,
    sets: Mapping[str, Sequence[Prompt]],
    sampling: Sampling,
    k: int,
) -> list[Answers]:
    """Both policies' answers to each set of prompts."""
    found = []
    for name, prompts in sets.items():
        fit = fitting(project, tokenization, prompts[: project.config.evaluate.prompts], sampling.max_tokens)
        rolls = {
            who: roll_out(engine, tokenization, ZeroScorer(), fit, k, sampling, Rollout(), f"behaviour/{name}", who)
            for who, engine in engines.items()
        }
        batches = {who: add_logprobs(rolls[who].batch, engine) for who, engine in engines.items()}
        ours, theirs = (pairs_of(rolls[who], batches[who], k) for who in ("policy", "reference"))
        found.append(Answers(ours, theirs, name))
    return found
