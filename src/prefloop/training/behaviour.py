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
from prefloop.results import BehaviourReport, CheckResult
from prefloop.rewards.base import ZeroScorer
from prefloop.training.rollout import Encoded, Rollouts, add_logprobs, roll_out
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


Said = dict[str, list[dict[str, Any]]]  # {set of prompts: the answers to it, as JSON values}


class Watch:
    """Looks at the behaviour of a policy at every evaluation of `align`: on the validation prompts and on prompt sets.

    An answer is drawn for each prompt of a set, as for the validation prompts.
    """

    def __init__(self, project: Project, tokenization: Tokenization, sampling: Sampling | None):
        """Read the checks and the sets. sampling: None where no prompt leaves room for an answer, and none is asked."""
        self.project, self.tokenization, self.sampling = project, tokenization, sampling
        settings = project.config.behaviour
        self.checks = chosen(settings, project.root)
        self.sets: dict[str, list[Encoded]] = {}
        if sampling and settings.set_prompts:
            for name, prompts in read_prompt_sets(project).items():
                self.sets[name] = fitting(project, tokenization, prompts[: settings.set_prompts], sampling.max_tokens)
        self._told = False

    def remembered(self, engine: Engine, rolls: Rollouts, batch: LogprobBatch) -> Said:
        """Return the reference's answers, which later ones are compared with.

        engine: that of the reference, for the sets.  rolls: its answers to the validation prompts

        Raises ConfigError where a bound cannot be checked even on these, before anything is learnt: no step would keep
        it.
        """
        said = {ALL: pairs_of(rolls, batch, 1)} | self._asked(engine, "reference")
        if unchecked := self._compared(said, said, rolls)[0].unchecked:
            raise ConfigError(
                f"[behaviour] max_drop: {'; '.join(unchecked)}. A bound that cannot be checked is not held, so no step "
                "would be kept. Mend the check, or take the bound out."
            )
        return {name: [vars(pair) for (pair,) in pairs] for name, pairs in said.items()}

    def look(self, step: int, engine: Engine, rolls: Rollouts, batch: LogprobBatch, reference: Said | None) -> Seen:
        """Compare one answer to each prompt with the reference's."""
        if not isinstance(reference, Mapping):  # An older version began the run, and remembered less.
            reference = {ALL: reference} if reference else {}
        theirs = {name: [[Pair(**pair)] for pair in pairs] for name, pairs in reference.items()}
        if ALL not in theirs:
            return Seen([], {})
        ours = {ALL: pairs_of(rolls, batch, 1)} | self._asked(engine, f"{step}")
        found, cut = self._compared(ours, theirs, rolls)
        if (problems := [*cut, *found.problems]) and not self._told:
            self._told = True
            self.project.say(f"warning: behaviour could not be checked fully: {'; '.join(problems)}")
        broken = [*(_broken(row) for row in found.broken), *found.unchecked]
        if broken:
            self.project.say(
                f"warning: step {step} does not keep the bounds of behaviour, and is not kept: {'; '.join(broken)}"
            )
        figures = {f"eval_behaviour_{row.check}": row.policy for row in found.checks if row.slice == ALL}
        figures |= {
            f"eval_behaviour_{row.check}_on_{row.slice}": row.policy
            for row in found.checks
            if row.slice in self.sets and row.max_drop is not None
        }
        counts = {"regressed": len(found.said("regressed")), "broken": len(broken)}
        return Seen(broken, figures | {f"eval_behaviour_{name}": float(n) for name, n in counts.items()})

    def _asked(self, engine: Engine, version: str) -> dict[str, list[list[Pair]]]:
        """Return one answer of the engine's policy to each prompt of the sets."""
        found = {}
        for name, prompts in self.sets.items():
            assert self.sampling is not None
            how = self.tokenization, ZeroScorer(), prompts, 1, self.sampling, Rollout()
            rolls = roll_out(engine, *how, f"behaviour/{name}", version)
            found[name] = pairs_of(rolls, add_logprobs(rolls.batch, engine), 1)
        return found

    def _compared(
        self, ours: Mapping[str, list[list[Pair]]], theirs: Mapping[str, list[list[Pair]]], rolls: Rollouts
    ) -> tuple[BehaviourReport, list[str]]:
        """Return what became of the checks, and what could not be cut."""
        settings = self.project.config
        slices, cut = slices_of([prompt.metadata for prompt in rolls.prompts], settings.behaviour.slices)
        both = [Answers(ours[ALL], theirs[ALL], slices=slices)]
        for name in self.sets:
            # The set's file may have changed since the run began: the prompts count that both have answered.
            known = {pair.id: [pair] for (pair,) in theirs.get(name, [])}
            kept = [answer for answer in ours[name] if answer[0].id in known]
            if kept:
                both.append(Answers(kept, [known[answer[0].id] for answer in kept], name))
        return compare(self.checks, both, settings.evaluate.bootstrap, settings.project.seed), cut


@dataclass(frozen=True)
class Seen:
    """What one look showed: the bounds that are broken or could not be checked, in words, and metrics."""

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
    sets = read_prompt_sets(project, quiet=True) if settings.set_prompts else {}
    if not found.bounds:
        return {}
    asked = {name: digest(*(p.id for p in prompts[: settings.set_prompts])) for name, prompts in sets.items()}
    return {"behaviour": [found.identity, list(settings.slices), *([asked] if asked else [])]}


def read_prompt_sets(project: Project, quiet: bool = False) -> dict[str, list[Prompt]]:
    """The prompts of `[behaviour] prompt_sets`. Raises ConfigError for a file that is not there.

    quiet: another call says which rows could not be used
    """
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
        if rejected and not quiet:
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
