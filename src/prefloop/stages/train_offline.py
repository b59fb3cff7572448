"""Offline preference optimisation (DPO): the policy learns from rankings, without reward model or samples."""

from __future__ import annotations

from contextlib import closing

import torch

from prefloop.algorithms.base import Role
from prefloop.algorithms.registry import code_of, make
from prefloop.engine import Training
from prefloop.engine import make as make_engine
from prefloop.engine.base import terms_of
from prefloop.errors import ConfigError, NothingToDoError
from prefloop.models.policy import Policy
from prefloop.project.left_out import LeftOut
from prefloop.project.project import Project, derive, load_policy
from prefloop.results import AlignedOffline
from prefloop.training.annotator_weights import weigh_annotators
from prefloop.training.behaviour import bounds_of
from prefloop.training.fit import Order, fit
from prefloop.training.fit_together import check_policies
from prefloop.training.keeping import KeepNewest
from prefloop.training.learning_rates import beside_usual, rate
from prefloop.training.lengths import Lengths
from prefloop.training.loop import Schedule
from prefloop.training.offline_lists import OfflineLists
from prefloop.training.rankings import NOT_COMPARABLE, gold_of, learnable, learnt_criteria, refuse_useless
from prefloop.training.reference import Refresh, load_reference, refreshed
from prefloop.types import digest

EVAL_LISTS = 100


def train_offline(project: Project, round: int) -> AlignedOffline:
    """Optimise the policy on all rankings up to a round. Held-out lists measure it; its answers say what is kept."""
    settings, seed, store = project.config.align, project.config.project.seed, project.store
    options = project.config.algorithms.get(settings.algorithm, {})
    objective = make(settings.algorithm, options)
    shares = criteria_weights(project)
    asked = {c: learnable(project, settings.algorithm, c, round, "train") for c in shares}
    held = [item for c in shares for item in learnable(project, settings.algorithm, c, round, "heldout")][:EVAL_LISTS]
    refuse_useless(project, settings.algorithm, [item for items in asked.values() for item in items])
    start, reference = project.policy(round).here(), project.reference().here()
    snapshot = project.snapshot("rankings", [r.id for items in asked.values() for item in items for r in item.rankings])
    inputs = {"policy": start.weights, "reference": reference.weights, "rankings": snapshot, "round": round}
    inputs |= code_of(settings.algorithm) | bounds_of(project)
    mode = project.config.reward.annotators
    gold = {c: gold_of(project, c) if mode == "weighted" else {} for c in asked}
    if mode != "all":
        inputs["annotators"] = digest(mode, {c: sorted(expected.items()) for c, expected in gold.items()})
    fingerprint = project.fingerprint("align", settings, inputs | {"options": options})
    if done := project.done(AlignedOffline, fingerprint):
        return done
    check_policies(project, start, reference)
    if mode != "all" and any(c in NOT_COMPARABLE for c in asked):
        project.say(f'warning: [reward] annotators = "{mode}" weighs orders, and labels have none: each counts 1')
    weighed = {
        c: weigh_annotators(items, c, "all" if c in NOT_COMPARABLE else mode, gold[c])
        for c, items in asked.items()
        if items
    }
    for warning in filter(None, (t.warning for t in weighed.values())):
        project.say(f"warning: {warning}")
    train = [item for t in weighed.values() for item in t.items]
    if not train:
        raise NothingToDoError("; ".join(t.empty(c) for c, t in weighed.items()))
    counts = {
        r.id: shares[c] * t.weights.get(r.id, 1.0) for c, t in weighed.items() for i in t.items for r in i.rankings
    }
    with project.lock():
        run = project.begin("align", fingerprint, inputs)
        model, tokenization = load_policy(project, start, learns=True)
        left_out = LeftOut(project)
        train = left_out.accepted([tokenization], train, "lists", learns=True)
        refused = {r.id for items in asked.values() for i in items if i.id in left_out.reasons for r in i.rankings}
        snapshot = left_out.used(snapshot, refused)
        held = left_out.accepted([tokenization], held, "held-out lists", some=False, learns=True)
        lengths = Lengths(project, tokenization)
        train = lengths.telling(train)
        from_reference = start.path == reference.path
        frozen = load_reference(project, reference, model if from_reference else None)
        order = Order(len(train), settings.lists, settings.passes, derive(seed, "offline"))
        if settings.reference_refresh >= order.steps:
            project.say(
                f"warning: [align] reference_refresh = {settings.reference_refresh} moves no reference: the run has "
                f"{order.steps} steps, {order.steps_per_epoch} a pass"
            )
        policy = Policy(model)
        lr = rate(project, settings.lr, "policy", model)
        run.note("learning_rates", {"policy": beside_usual("policy", lr, model)})
        training = Training(settings, order.steps, {"policy": lr}, settings.average)
        models: dict[Role, torch.nn.Module] = {"policy": policy, "reference": Policy(frozen)}
        if settings.reference_refresh:
            models["refreshed"] = refreshed(models["reference"], policy)
        named = digest(reference.weights, tokenization.fingerprint)
        told = "reference" in getattr(objective, "needs", ("reference",))
        asking = [item.prompt for item in train]
        schedule = Schedule(order.steps, settings.evaluation.eval_every, settings.checkpoint_every)
        with closing(make_engine(models, tokenization, seed, project.placement, training)) as engine:
            refresh = Refresh.of(settings)
            data = OfflineLists(
                store, named if told else None, engine, tokenization, train, objective, counts, refresh.role
            )
            heldout = OfflineLists(store, named if told else None, engine, tokenization, held, objective)
            keep = KeepNewest(project, run, engine, tokenization, asking, left_out, heldout.accuracy, from_reference)
            fit(
                project,
                run,
                engine,
                lambda step: terms_of(data.batch(order.at(step)), objective),
                schedule,
                begin=keep.begin,
                after=lambda done: refresh.after(engine, done),
                evaluate=keep.evaluate,
                label=f"align {settings.algorithm}",
                carried=keep.carried,
            )
        best = keep.best()
        if best.step == 0 or keep.weights is None:  # No new policy: the one that the round started from stays.
            version, weights, folder = start.version, start.weights, None
        else:
            version, weights, folder = run.name, keep.weights, project.relative(run.path / "model")
            metrics = {"round": round, **({} if best.kl is None else {"kl": best.kl})}
            project.register(run, "policy", start, weights, snapshot, metrics)
        result = AlignedOffline(
            run=run.name,
            algorithm=settings.algorithm,
            round=round,
            lists=len(train),
            annotators={c: t.counted() for c, t in weighed.items()},
            steps=order.steps,
            left_out=left_out.counted(),
            cut=lengths.counted(),
            kl=best.kl,
            length=best.length,
            ended=best.ended,
            collapsed=best.collapsed,
            heldout_accuracy=best.heldout_accuracy,
            best_step=best.step,
            collapses=keep.collapses(),
            breaches=keep.breaches(),
            stopped="all steps done",
            weights=weights,
            validation=keep.validation.chose() if keep.validation else None,
            policy=version,
            model=folder,
        )
        run.finish(result.figures())
        return result


def criteria_weights(project: Project) -> dict[str, float]:
    """Return {criterion: how much a ranking by it counts}: `[reward] criteria`, weighted by `[align] reward_weights`.

    Raises ConfigError for weights that name other criteria, or cannot be followed.
    """
    chosen = project.config.reward.criteria or tuple(learnt_criteria(project, project.config.align.algorithm))
    weights = project.config.align.reward_weights
    if not weights:
        return dict.fromkeys(chosen, 1.0)
    said = f"[align] reward_weights = {weights}"
    if unknown := set(weights) - set(chosen):
        raise ConfigError(f"{said}: {', '.join(sorted(unknown))} is not among the criteria {', '.join(chosen)}")
    if min(weights.values()) < 0 or not any(weights.values()):
        raise ConfigError(f"{said}: learning from rankings needs weights of 0 or more, not all 0")
    if len(chosen) == 1:
        raise ConfigError(
            f"{said} would have no effect: weights tell criteria apart, and there is only {chosen[0]}. Take it out."
        )
    return {c: weights[c] for c in chosen if weights.get(c)}
