"""The aligned policy against the reference on held-out prompts that nothing was chosen on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from prefloop.config import Align
from prefloop.engine.base import Sampling
from prefloop.engine.local import LocalEngine
from prefloop.errors import NothingToDoError
from prefloop.models.policy import Policy
from prefloop.rewards.model import judge_codecs
from prefloop.rewards.rules import RuleScorer
from prefloop.rewards.rules import make_scorer as make_rule
from prefloop.stages.left_out import LeftOut
from prefloop.stages.project import Outcome, Project, derive, fitting, load_policy
from prefloop.stages.rollout import Encoded, Rollouts, annotate, describe, distinct, roll_out
from prefloop.stages.train_policy import make_scorer, validation_and_test
from prefloop.store import ModelRow


def evaluate(project: Project, round: int | None = None) -> Outcome:
    """Sample both policies on the same prompts; compare by the reward models and, where set, an independent scorer.

    Without a reward model the scorer's figures stand for the reward's. Raises NothingToDoError where both are missing.
    """
    settings = project.config.evaluate
    round = max(0, project.aligned_rounds() - 1) if round is None else round
    row = project.aligned(round)
    if row is None:
        raise NothingToDoError(f"round {round} has no aligned policy yet: run prefloop align first")
    policy, reference = project.ref(row), project.reference()
    judge = make_rule(settings.scorer, project.root) if settings.scorer else None
    judges = _judges(project, round, judge)
    heldout = project.store.prompts(split="heldout", heldout=project.config.data.heldout)
    _, test = validation_and_test(heldout)
    if not test:
        raise NothingToDoError("there are no held-out prompts: import more prompts, or raise [data] heldout")
    inputs = {
        "policy": policy.weights,
        "reference": reference.weights,
        "rewards": {m.criterion: m.weights_sha256 for m in judges},
        "reward_weights": project.config.align.reward_weights,
        "scorer": judge.identity if judge else "",
        "prompts": project.snapshot("prompts", [p.id for p in test]),
        "round": round,
    }
    fingerprint = project.fingerprint("evaluate", settings, inputs)
    if done := project.done("evaluate", fingerprint):
        return done
    with project.lock():
        run = project.begin("evaluate", fingerprint, inputs)
        scorer = make_scorer(project, judges) if judges else judge
        assert scorer is not None
        model, codec = load_policy(project, policy)
        frozen, _ = load_policy(project, reference)
        left_out, theirs = LeftOut(project), judge_codecs(scorer)
        prompts = fitting(project, codec, test[: settings.prompts], settings.max_tokens, left_out, theirs)
        seed = derive(project.config.project.seed, "evaluate")
        before, after = Policy(frozen, settings.temperature), Policy(model, settings.temperature)
        engines = {
            "policy": LocalEngine({"policy": after, "reference": before}, codec, seed, device=project.device),
            "reference": LocalEngine({"policy": before, "reference": before}, codec, seed, device=project.device),
        }
        result: dict[str, Any] = {"round": round, "policy": policy.version, "reference": reference.version}
        result |= {"prompts": len(prompts), **left_out.to_json()}
        for mode, temperature in (("sampled", settings.temperature), ("greedy", 0.0)):
            sampling = Sampling(settings.max_tokens, temperature)
            with project.progress(2, f"evaluate ({mode})") as bar:
                rolls = {}
                for name, engine in engines.items():
                    rolls[name] = roll_out(engine, codec, scorer, prompts, 1, sampling, Align(), f"{mode}", name)
                    bar.update()
            result[mode] = _compare(engines, rolls, judge, settings.bootstrap, seed)
            if mode == "sampled":
                result["samples"] = _samples(prompts, rolls, judge, settings.show)
        run.finish(result)
        return Outcome("evaluate", run.name, result)


def _judges(project: Project, round: int, judge: RuleScorer | None) -> list[ModelRow]:
    """The reward models of a round; none after an algorithm that needs none (DPO), if an independent scorer is set."""
    try:
        return project.reward_models(round)
    except NothingToDoError as error:
        if judge is not None:
            return []
        raise NothingToDoError(f"{error}, or name a scorer of your own: [evaluate] scorer") from error


def _compare(
    engines: dict[str, LocalEngine], rolls: dict[str, Rollouts], judge: RuleScorer | None, resamples: int, seed: int
) -> dict[str, Any]:
    """Figures of each policy, and the wins of one over the other."""
    out: dict[str, Any] = {}
    for name, engine in engines.items():
        r = rolls[name]
        texts = [c.text for c in r.completions]
        figures = describe(r, annotate(r.batch, engine, frozenset()))
        figures |= {f"distinct_{n}": distinct(texts, n) for n in (1, 2, 3)}
        figures["length_reward_correlation"] = _correlation([len(t) for t in texts], r.scores.total)
        for part, values in r.scores.parts.items():
            figures[f"reward_{part}"] = float(np.mean(values))
        if judge is not None:
            figures["judge"] = float(np.mean(judge.score(r.prompts, r.completions).total))
        out[name] = figures
    a, b = (rolls[n].scores.total for n in ("policy", "reference"))
    out["win_rate"] = win_rate(a, b, resamples, seed)
    out["reward_gain"] = mean_interval(np.array(a) - np.array(b), resamples, seed)
    if judge is not None:
        a, b = (judge.score(rolls[n].prompts, rolls[n].completions).total for n in ("policy", "reference"))
        out["judge_win_rate"] = win_rate(a, b, resamples, seed)
        out["judge_gain"] = mean_interval(np.array(a) - np.array(b), resamples, seed)
    return out


def win_rate(ours: Sequence[float], theirs: Sequence[float], resamples: int, seed: int) -> dict[str, float]:
    """Share of prompts on which ours scores higher, a draw counting half, with its 95 % interval over prompts."""
    gap = np.asarray(ours) - np.asarray(theirs)
    return mean_interval((gap > 0) + 0.5 * (gap == 0), resamples, seed)


def mean_interval(values: Any, resamples: int, seed: int) -> dict[str, float]:
    """A mean and its 95 % percentile bootstrap interval."""
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < 2 or float(values.std()) == 0.0:
        return {"mean": mean, "low": mean, "high": mean, "n": len(values)}
    interval = bootstrap(
        (values,), np.mean, n_resamples=resamples, method="percentile", rng=np.random.default_rng(seed), vectorized=True
    ).confidence_interval
    return {"mean": mean, "low": float(interval.low), "high": float(interval.high), "n": len(values)}


def _correlation(a: Sequence[float], b: Sequence[float]) -> float:
    if len(a) < 2 or np.std(a) == 0 or np.std(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _samples(
    prompts: Sequence[Encoded], rolls: dict[str, Rollouts], judge: RuleScorer | None, show: int
) -> list[dict[str, Any]]:
    """Before and after, side by side: evenly spread over the prompts, not picked."""
    stride = max(1, len(prompts) // max(1, show))
    shown = []
    for n in list(range(0, len(prompts), stride))[:show]:
        entry: dict[str, Any] = {"prompt": prompts[n][0].text}
        for name, r in rolls.items():
            entry[name] = {"text": r.completions[n].text, "reward": float(r.scores.total[n])}
            if judge is not None:
                entry[name]["judge"] = float(judge.score([r.prompts[n]], [r.completions[n]]).total[0])
        shown.append(entry)
    return shown
