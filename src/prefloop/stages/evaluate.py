"""Runs `prefloop evaluate`, which compares the aligned policy with the reference on held-out prompts.

Nothing was chosen on these prompts. Both policies answer each prompt several times with the same random numbers, and
answer j of one is compared with answer j of the other. That removes noise which both share. Another evaluation would
have other prompts, so intervals are over prompts: each counts once, with the mean of its answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import numpy as np

from prefloop.batch import LogprobBatch
from prefloop.behaviour.chosen import Chosen, chosen
from prefloop.behaviour.comparing import Answers, compare
from prefloop.config_align import Rollout
from prefloop.diagnose.collapse import collapsed, signs, text_figures
from prefloop.engine import make as make_engine
from prefloop.engine.base import Engine, Sampling
from prefloop.errors import DataError, NothingToDoError, suggest
from prefloop.intervals import mean_interval, part_interval, win_rate
from prefloop.models.policy import Policy
from prefloop.project.left_out import LeftOut, fitting
from prefloop.project.project import ModelRef, Project, derive, load_policy
from prefloop.results import Answer, ComparedPart, Comparison, Constraint, Evaluated, Interval, SampledPair
from prefloop.results.base import from_json
from prefloop.rewards.base import Scorer
from prefloop.rewards.criteria import CriteriaScorer
from prefloop.rewards.model import reward_tokenizations
from prefloop.rewards.rules import RuleScorer
from prefloop.store import ModelRow
from prefloop.training.behaviour import answered_sets, behaviour_inputs, in_slices, read_prompt_sets
from prefloop.training.criteria import Criteria, constraints_of
from prefloop.training.policy_evaluation import validation_and_test
from prefloop.training.rollout import Encoded, Rollouts, add_logprobs, describe, roll_out
from prefloop.types import Prompt


def evaluate(project: Project, round: int | None = None, run: str | None = None) -> Evaluated:
    """Sample both policies on the same prompts; compare by the reward models and, where set, an independent scorer.

    run: a run of `align`, by default the one that `[run] choose` picks of its round.
    Without a reward model the scorer's figures stand for the reward's. Raises NothingToDoError where both are missing.
    """
    settings = project.config.evaluate
    round, policy = _policy(project, round, run)
    reference = project.reference().here()
    if policy.version == reference.version:
        project.say(f"evaluate: round {round} left the policy as it was: it is {policy.version}, the reference itself")
        return Evaluated(round=round, policy=policy.version, reference=reference.version, unchanged=True, skipped=True)
    judge = project.scorer(settings.scorer) if settings.scorer else None
    judges, criteria = _criteria(project, round, judge)
    test, independent = _test_prompts(project)
    checks = chosen(project.config.behaviour, project.root)
    sets = read_prompt_sets(project)
    inputs = {
        "policy": policy.weights,
        "reference": reference.weights,
        "rewards": {m.criterion: m.weights_sha256 for m in judges},
        "reward_weights": project.config.align.reward_weights,
        "scorer": judge.identity if judge else "",
        "prompts": project.snapshot("prompts", [p.id for p in test]),
        "round": round,
        "run": policy.version,
        "independent": independent,
        **_objective(project, criteria),
        **behaviour_inputs(project, checks, sets),
    }
    fingerprint = project.fingerprint("evaluate", settings, inputs)
    if done := project.done(Evaluated, fingerprint):
        return done
    if not independent:
        project.say(
            f"warning: the {len(test)} held-out prompts that could measure have also chosen the policy, so the result "
            "is not independent: it will look better than it is. Import more prompts, or raise [data] heldout."
        )
    with project.lock():
        began = project.begin("evaluate", fingerprint, inputs)
        known = Evaluated(
            run=began.name,
            round=round,
            policy=policy.version,
            reference=reference.version,
            independent=independent,
        )
        scorer = criteria.scorer() if criteria else judge
        assert scorer is not None
        result = _measure(project, known, policy, reference, scorer, judge, test, checks, sets)
        began.finish(result.figures())
        return result


def _policy(project: Project, round: int | None, run: str | None) -> tuple[int, ModelRef]:
    """Return the round and the policy that are asked for. A run that made no new policy stands for its start."""
    if run is not None:
        found = {c.run: c for c in project.candidates()}
        if run not in found:
            raise DataError(f'there is no finished run of align called "{run}".{suggest(run, list(found))}')
        chosen = found[run]
        if round not in (None, chosen.round):
            raise DataError(f"{run} is a run of round {chosen.round}, not of round {round}: leave out --round")
        return chosen.round, project.policy_of(chosen).here()
    round = max(0, project.aligned_rounds() - 1) if round is None else round
    if not project.candidates(round):
        raise NothingToDoError(f"round {round} has no aligned policy yet: run prefloop align first")
    return round, project.policy(round + 1).here()


def _test_prompts(project: Project) -> tuple[list[Prompt], bool]:
    """Return the held-out prompts that chose no run, and True.

    Where there are none: all held-out prompts, and False.
    """
    _, test = validation_and_test(project.store.prompts(split="heldout", heldout=project.config.data.heldout))
    if not test:
        raise NothingToDoError("there are no held-out prompts: import more prompts, or raise [data] heldout")
    chose = {id for c in project.candidates() if c.result and c.result.validation for id in c.result.validation.prompts}
    clean = [p for p in test if p.id not in chose]
    return (clean, True) if clean else (test, False)


def _criteria(project: Project, round: int, judge: RuleScorer | None) -> tuple[list[ModelRow], Criteria | None]:
    """Return the reward models of a round, and what they score by, with the functions of `[align.objective]`.

    There may be none after DPO, if an independent scorer is set.
    """
    spec = project.config.align.reward
    own = project.scorer(spec) if spec is not None else None
    if own is not None and not Criteria(project, [], own, {}).plain:
        return [], Criteria.of(project, [], own)
    try:
        judges = project.reward_models(round)
        return judges, Criteria.of(project, judges, None)
    except NothingToDoError as error:
        if judge is not None:
            return [], None
        raise NothingToDoError(f"{error}, or name a scorer of your own: [evaluate] scorer") from error


def _objective(project: Project, criteria: Criteria | None) -> dict[str, Any]:
    """Return what decides beside the reward models; {} where there is nothing, as in earlier versions."""
    if criteria is None or criteria.plain:
        return {}
    objective = project.config.align.objective
    kept = {key: getattr(objective, key) for key in ("kind", "maximise", "subject_to")}
    return {"objective": kept, "own": criteria.own.identity if criteria.own else "", **criteria.inputs()}


def _measure(
    project: Project,
    known: Evaluated,
    policy: ModelRef,
    reference: ModelRef,
    scorer: Scorer,
    judge: RuleScorer | None,
    test: Sequence[Prompt],
    checks: Chosen,
    sets: Mapping[str, Sequence[Prompt]],
) -> Evaluated:
    """Compare both policies' answers, sampled and greedy.

    Look for signs of collapse in the sampled ones, and for behaviour that got worse.
    """
    settings = project.config.evaluate
    model, tokenization = load_policy(project, policy)
    frozen, _ = load_policy(project, reference)
    left_out, theirs = LeftOut(project), reward_tokenizations(scorer)
    prompts = fitting(project, tokenization, test[: settings.prompts], settings.max_tokens, left_out, theirs)
    seed = derive(project.config.project.seed, "evaluate")
    before, after = Policy(frozen, settings.temperature), Policy(model, settings.temperature)
    compared: dict[str, Comparison] = {}
    shown: tuple[SampledPair, ...] = ()
    checked: list[Answers] = []
    cut: list[str] = []
    with ExitStack() as opened:

        def opens(policy: Policy, reference: Policy) -> Engine:
            made = make_engine({"policy": policy, "reference": reference}, tokenization, seed, project.placement)
            return opened.enter_context(closing(made))

        engines = {"policy": opens(after, before), "reference": opens(before, before)}
        # A low temperature widens every distance, so how far the policy itself is from its reference is read at 1.
        at_1 = opens(Policy(model), Policy(frozen))
        for mode, temperature, k in (("sampled", settings.temperature, settings.samples), ("greedy", 0.0, 1)):
            sampling = Sampling(settings.max_tokens, temperature)
            with project.progress(2, f"evaluate ({mode})") as bar:
                rolls = {}
                for name, engine in engines.items():
                    rolls[name] = roll_out(engine, tokenization, scorer, prompts, k, sampling, Rollout(), mode, name)
                    bar.update()
            judged = {n: judge.score(r.prompts, r.completions).total for n, r in rolls.items()} if judge else {}
            batches = {name: add_logprobs(rolls[name].batch, engine) for name, engine in engines.items()}
            made = _compare(rolls, batches, judged, k, settings.bootstrap, seed)
            made = replace(made, parts=_parts(scorer, rolls, k, settings.bootstrap, seed))
            if settings.temperature != 1:
                found = describe(rolls["policy"], add_logprobs(rolls["policy"].batch, at_1))
                made = replace(made, policy={**made.policy, "kl_at_1": found["kl"]})
            compared[mode] = made
            if mode == "sampled":
                shown = _shown(prompts, rolls, judged, k, settings.show)
                own, cut = in_slices(project, rolls, batches, k)
                checked = [own, *answered_sets(project, engines, tokenization, sets, sampling, k)]
    sampled = compared["sampled"]
    behaviour = compare(checks, checked, settings.bootstrap, seed)
    return replace(
        known,
        prompts=len(prompts),
        samples_per_prompt=settings.samples,
        left_out=left_out.counted(),
        sampled=sampled,
        samples=shown,
        greedy=compared["greedy"],
        collapsed=tuple(collapsed(signs(sampled.policy, sampled.reference))),
        behaviour=replace(behaviour, problems=(*cut, *behaviour.problems)),
    )


def _compare(
    rolls: dict[str, Rollouts],
    batches: dict[str, LogprobBatch],
    judged: dict[str, Sequence[float]],
    k: int,
    resamples: int,
    seed: int,
) -> Comparison:
    """Return the figures of each policy, and how often one beats the other.

    k: how many answers a prompt has; they are neighbours
    """
    figures_of: dict[str, dict[str, float]] = {}
    for name, r in rolls.items():
        texts = [c.text for c in r.completions]
        figures = describe(r, batches[name])
        figures |= text_figures([texts[draw::k] for draw in range(k)])
        figures["length_reward_correlation"] = _correlation([len(t) for t in texts], r.scores.total)
        for part, values in r.scores.parts.items():
            figures[f"reward_{part}"] = float(np.mean(values))
        if judged:
            figures["judge"] = float(np.mean(judged[name]))
        figures_of[name] = figures

    def versus(scores: Mapping[str, Sequence[float]]) -> tuple[Interval, Interval]:
        a, b = (np.asarray(scores[name], dtype=float).reshape(-1, k) for name in ("policy", "reference"))
        gain = mean_interval((a - b).mean(1), resamples, seed)
        return from_json(Interval, win_rate(a, b, resamples, seed)), from_json(Interval, gain)

    won, gain = versus({name: r.scores.total for name, r in rolls.items()})
    judge_won, judge_gain = versus(judged) if judged else (None, None)
    return Comparison(
        policy=figures_of["policy"],
        reference=figures_of["reference"],
        win_rate=won,
        reward_gain=gain,
        judge_win_rate=judge_won,
        judge_gain=judge_gain,
    )


def _parts(
    scorer: Scorer, rolls: Mapping[str, Rollouts], k: int, resamples: int, seed: int
) -> dict[str, ComparedPart] | None:
    """Return what each criterion says of both policies; None where there is one criterion."""
    parts = {name: r.scores.parts for name, r in rolls.items()}
    if len(parts["policy"]) < 2:
        return None
    bounds: dict[str, Constraint] = {}
    if isinstance(scorer, CriteriaScorer):
        bounds = constraints_of(scorer.goal, parts["policy"], k, resamples, seed)
    found = {}
    for name in parts["policy"]:
        ours, theirs = (np.asarray(parts[who][name], dtype=float).reshape(-1, k) for who in ("policy", "reference"))
        found[name] = ComparedPart(
            policy=from_json(Interval, part_interval(ours, resamples, seed)),
            reference=from_json(Interval, part_interval(theirs, resamples, seed)),
            gain=from_json(Interval, mean_interval((ours - theirs).mean(1), resamples, seed)),
            constraint=bounds.get(name),
        )
    return found


def _correlation(a: Sequence[float], b: Sequence[float]) -> float:
    if len(a) < 2 or np.std(a) == 0 or np.std(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _shown(
    prompts: Sequence[Encoded], rolls: dict[str, Rollouts], judged: dict[str, Sequence[float]], k: int, show: int
) -> tuple[SampledPair, ...]:
    """Return the first answers of both policies side by side, for prompts that are evenly spread over all."""
    stride = max(1, len(prompts) // max(1, show))

    def answer(name: str, n: int) -> Answer:
        roll = rolls[name]
        judge = float(judged[name][n * k]) if judged else None
        return Answer(roll.completions[n * k].text, float(roll.scores.total[n * k]), judge)

    return tuple(
        SampledPair(prompts[n][0].text, answer("policy", n), answer("reference", n))
        for n in list(range(0, len(prompts), stride))[:show]
    )
