"""Optimises the policy against the reward model, by any online algorithm."""

from __future__ import annotations

from contextlib import closing

from prefloop.algorithms.base import OnlineAlgorithm
from prefloop.algorithms.registry import class_of, code_of, make, names
from prefloop.errors import ConfigError, NothingToDoError
from prefloop.project.chance import chance_warnings
from prefloop.project.evidence import both_sides, data_of, judges_of, knows_an_end, write_evidence
from prefloop.project.project import Project, derive
from prefloop.results import AlignedOnline
from prefloop.training.behaviour import bounds_of
from prefloop.training.criteria import Criteria
from prefloop.training.fit_together import check_judges, check_policies, judges_of_round
from prefloop.training.kl_control import judge_of
from prefloop.training.loop import Schedule, train
from prefloop.training.policy_setup import set_up
from prefloop.training.policy_training import PolicyTraining

SHOWN = ("reward", "kl", "length")  # The progress bar shows these metrics.


def train_policy(project: Project, round: int) -> AlignedOnline:
    """Optimise the policy of a round. Stops at the KL budget; the best checkpoint by held-out reward is the result."""
    settings, seed = project.config.align, project.config.project.seed
    options = project.config.algorithms.get(settings.algorithm, {})
    algorithm: OnlineAlgorithm = make(settings.algorithm, options)
    if hasattr(algorithm, "sized"):
        algorithm = algorithm.sized(settings.max_tokens)
    if settings.rollout.k < algorithm.min_k:
        others = " or ".join(f'"{n}"' for n in names("online") if class_of(n).min_k <= settings.rollout.k)
        raise ConfigError(
            f"{settings.algorithm} needs at least {algorithm.min_k} completions a prompt to form a baseline; "
            f"[align.rollout] k = {settings.rollout.k}. Set k = 4 or more{others and f', or use algorithm = {others}'}."
        )
    start, reference = project.policy(round).here(), project.reference().here()
    own = project.scorer(settings.reward) if settings.reward is not None else None
    judges = [] if own else judges_of_round(project, round)
    criteria = Criteria.of(project, judges, own)
    prompts, held_out = both_sides(project)
    if not prompts:
        raise NothingToDoError("there are no training prompts yet: run prefloop import FILE")
    snapshot = project.snapshot("prompts", [p.id for p in prompts])
    inputs = {
        "policy": start.weights,
        "reference": reference.weights,
        "rewards": {own.name: own.identity} if own else {m.criterion: m.weights_sha256 for m in judges},
        **criteria.inputs(),
        "prompts": snapshot,
        "round": round,
        **code_of(settings.algorithm),
        **bounds_of(project),
        **judge_of(project),
    }
    fingerprint = project.fingerprint("align", settings, inputs | {"options": options})
    if done := project.done(AlignedOnline, fingerprint):
        return done
    check_policies(project, start, reference)
    check_judges(project, algorithm, start, judges, prompts)
    with project.lock():
        run = project.begin("align", fingerprint, inputs)
        write_evidence(run, data=data_of(prompts, held_out), judges=judges_of(project, judges, start.version))
        warnings = chance_warnings(project, judges)
        for warning in warnings:
            project.say(f"warning: {warning}")
        seed = derive(seed, "align", round)
        setup = set_up(project, algorithm, start, reference, criteria.scorer(run), judges, seed)
        write_evidence(run, ends=knows_an_end(project, start, setup.tokenization.chat))
        run.note("learning_rates", setup.rates)
        eval_every = settings.evaluation.eval_every
        schedule = Schedule(settings.steps, eval_every, settings.checkpoint_every, evaluates_first=True)
        with closing(setup.engine), closing(PolicyTraining(project, run, algorithm, setup, seed)) as task:
            steps = train(project, run, setup.engine, task, schedule, f"align ({algorithm.name})", SHOWN)
        best = task.keep.best()
        if best.step == 0:  # no new policy: the one that the round started from stays what it is
            version, weights, folder = start.version, start.weights, None
        else:
            version, weights, folder = run.name, task.keep.publish(), project.relative(run.path / "model")
            metrics = {"round": round, "reward": best.reward, "kl": best.kl}
            project.register(run, "policy", start, weights, setup.left_out.used(snapshot), metrics)
        result = AlignedOnline(
            run=run.name,
            steps=steps,
            best_step=best.step,
            reward=best.reward,
            kl=best.kl,
            win_rate=best.win_rate,
            length=best.length,
            ended=best.ended,
            collapsed=best.collapsed,
            constraints=best.constraints,
            reward_before=task.keep.reward_before,
            collapses=task.keep.collapses(),
            breaches=task.keep.breaches(),
            validation=setup.validation.chose(),
            stopped=task.keep.stopped,
            left_out=setup.left_out.counted(),
            weights=weights,
            round=round,
            algorithm=settings.algorithm,
            warnings=(*warnings, *task.keep.unmet()),
            policy=version,
            model=folder,
        )
        run.finish(result.figures())
        return result
