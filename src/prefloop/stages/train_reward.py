"""Runs `prefloop reward`, which trains a reward model for each criterion from whole rankings, and measures it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

from prefloop.algorithms.registry import code_of, kind_of, make
from prefloop.effects import refuse_beside_adapters
from prefloop.engine import Training
from prefloop.engine import make as make_engine
from prefloop.engine.base import Engine, Term
from prefloop.errors import ConfigError, NothingToDoError
from prefloop.labels.preference_eval import PairReport, pair_accuracy
from prefloop.models.folder import file_hash
from prefloop.models.load import weights_hash
from prefloop.models.reward import (
    RewardModel,
    SharedReward,
    freeze_lowest,
    new_reward_model,
)
from prefloop.models.tokenization import Tokenization
from prefloop.project.evidence import both_sides, data_of, people_of, write_evidence
from prefloop.project.left_out import LeftOut
from prefloop.project.project import ModelRef, Project, derive
from prefloop.record import Run
from prefloop.results import Cut, Normalisation, Refused, Rewarded, TrainedReward
from prefloop.rewards.sequence import reads
from prefloop.training.annotator_weights import WeightedRankings, weigh_annotators
from prefloop.training.fit import Order, fit
from prefloop.training.learning_rates import beside_usual, rate
from prefloop.training.lengths import Lengths
from prefloop.training.loop import Schedule
from prefloop.training.ranked_lists import EachCriterion, Lists, gather
from prefloop.training.rankings import NO_RANKINGS, gold_of, rankable, ranked_criteria
from prefloop.training.reward_evaluation import heldout_figures
from prefloop.training.reward_scores import normalisation, score_items
from prefloop.types import Item, digest

TRAIN_EVAL = 200  # So many training lists are scored for the train/held-out comparison.


def reward(project: Project, round: int | None = None) -> Rewarded:
    """Train the reward models that `[reward]` asks for, on all rankings up to a round (by default the newest)."""
    settings = project.config.reward
    kind_of(settings.objective, "reward")
    refuse_beside_adapters(project.config, "reward")
    round = project.existing_round(round)
    available = ranked_criteria(project)
    criteria = list(settings.criteria) or available
    if not criteria:
        raise NothingToDoError(NO_RANKINGS)
    unknown = set(settings.contrast) - set(available)
    if unknown:
        raise ConfigError(
            f"[reward] contrast names {', '.join(sorted(unknown))}, but the store's criteria are {', '.join(available)}"
        )
    learnt = available if settings.auxiliary else criteria
    if idle := sorted(c for c in settings.contrast if c not in learnt):
        raise ConfigError(
            f"[reward] contrast of {', '.join(idle)} would have no effect: it is not among the criteria learnt"
        )
    if settings.auxiliary and len(available) == 1:
        raise ConfigError(f"[reward] auxiliary would have no effect: people ranked by {available[0]} only")
    models = {criterion: _train_one(project, criterion, round) for criterion in criteria}
    return Rewarded(
        run=",".join(str(model.run) for model in models.values()),
        skipped=all(model.skipped for model in models.values()),
        round=round,
        models=models,
    )


def start_of(project: Project) -> ModelRef:
    """Return what a reward model starts from: the reference policy, or the checkpoint `[reward] start` names."""
    start = project.config.reward.start
    if start == "policy":
        return project.reference()
    folder = project.root / start
    if folder.is_dir():
        return ModelRef(start, str(folder), file_hash(folder))
    return ModelRef(start, start, start)


def _others(project: Project, criterion: str, round: int) -> dict[str, list[Item]]:
    """Return what people said by the other criteria on training prompts, where `[reward] auxiliary` asks for it."""
    if not project.config.reward.auxiliary:
        return {}
    names = [c for c in ranked_criteria(project) if c != criterion]
    found = {name: rankable(project, name, round, "train") for name in names}
    return {name: items for name, items in found.items() if items}


def _train_one(project: Project, criterion: str, round: int) -> TrainedReward:
    settings, seed = project.config.reward, project.config.project.seed
    train = rankable(project, criterion, round, "train")
    if not train:
        raise NothingToDoError(
            f'no training prompt has a ranking of two or more completions for criterion "{criterion}". '
            f"Criteria in the store: {project.store.criteria() or 'none'}."
        )
    start, reference = start_of(project).here(), project.reference().here()
    asked = {criterion: train} | _others(project, criterion, round)
    snapshot = project.snapshot("rankings", [r.id for items in asked.values() for i in items for r in i.rankings])
    inputs = {
        "start": start.weights,
        "reference": reference.weights,
        "rankings": snapshot,
        "criterion": criterion,
        "round": round,
        **code_of(settings.objective),
    }
    weighted = settings.annotators == "weighted"
    gold = {c: gold_of(project, c) if weighted else {} for c in asked}
    if any(gold.values()):
        inputs["gold"] = digest({c: sorted(expected.items()) for c, expected in gold.items()})
    options = project.config.algorithms.get(settings.objective, {})
    # It is that of what the model is normalised on.
    sampling = (
        project.config.align.rollout.temperature,
        project.config.align.max_tokens,
    )
    fingerprint = project.fingerprint("reward", settings, inputs | {"options": options, "sampling": sampling})
    if done := project.done(TrainedReward, fingerprint):
        return done
    objective = make(settings.objective, options)
    weighed = {c: weigh_annotators(items, c, settings.annotators, gold[c]) for c, items in asked.items()}
    for warning in filter(None, (t.warning for t in weighed.values())):
        project.say(f"warning: {warning}")
    learnt = {c: t.items for c, t in weighed.items() if t.items}
    if criterion not in learnt:
        raise NothingToDoError(weighed[criterion].empty(criterion))
    weights = {id: weight for t in weighed.values() for id, weight in t.weights.items()}
    with project.lock():
        run = project.begin("reward", fingerprint, inputs)
        known = [*train, *rankable(project, criterion, round, "heldout")]
        write_evidence(run, data=data_of(*both_sides(project)), people=people_of(known, criterion, gold[criterion]))
        model, tokenization = new_reward_model(
            start.path, project.config.model, derive(seed, "reward-head", criterion), settings.dropout, project.trunks
        )
        model.criterion, model.max_tokens = criterion, reads(tokenization, settings.max_tokens)
        freeze_lowest(model.model, settings.freeze)
        left_out = LeftOut(project)
        learnt = {c: left_out.accepted([tokenization], items, "lists", c == criterion) for c, items in learnt.items()}
        train = [item for item in train if item.id not in left_out.reasons]
        refused = {r.id for items in asked.values() for i in items if i.id in left_out.reasons for r in i.rankings}
        snapshot = left_out.used(snapshot, refused)
        lengths = Lengths(project, tokenization, settings.max_tokens)
        learnt = {c: told for c, items in learnt.items() if (told := lengths.telling(items, c == criterion))}
        held = left_out.accepted(
            [tokenization], rankable(project, criterion, round, "heldout"), "held-out lists", some=False
        )
        held = Lengths(project, tokenization, settings.max_tokens).telling(held, False, "held-out lists")
        shown = gather(learnt)
        lists = Lists(tokenization, shown, list(learnt), settings, derive(seed, "lent", criterion), weights)
        order = Order(len(shown), settings.batch, settings.epochs, derive(seed, "reward", criterion))
        others = len(learnt) - 1
        trained = SharedReward(model, others, derive(seed, "reward-heads", criterion)) if others else model
        lr = rate(project, settings.lr, "reward", model.model)
        run.note("learning_rates", {"reward": beside_usual("reward", lr, model.model)})
        training = Training(settings, order.steps, {"reward": lr}, settings.average)
        schedule = Schedule(order.steps, settings.eval_every, settings.checkpoint_every)
        scores: dict[str, float] = {}  # These are of the held-out completions, by the model as it is.

        def evaluate(step: int) -> Mapping[str, float]:
            scores.update(score_items(model, tokenization, held, settings.scored_budget, project.device))
            return heldout_figures(pair_accuracy(scores, held, criterion, resamples=0)) if held else {}

        with closing(make_engine({"reward": trained}, tokenization, seed, project.placement, training)) as engine:
            fit(
                project,
                run,
                engine,
                lambda step: [Term(lists.batch(order.at(step), step), EachCriterion(objective))],
                schedule,
                evaluate=evaluate,
                label=f"reward {criterion}",
            )
            with engine.averaged_weights():
                report = pair_accuracy(scores, held, criterion) if held else None
                people = weighed[criterion]
                return _finish(
                    project,
                    run,
                    engine,
                    model,
                    tokenization,
                    train,
                    held,
                    report,
                    round,
                    snapshot,
                    start,
                    len(shown),
                    people,
                    left_out.counted(),
                    lengths.counted(),
                )


def _finish(
    project: Project,
    run: Run,
    engine: Engine,
    model: RewardModel,
    tokenization: Tokenization,
    train: list[Item],
    held: list[Item],
    report: PairReport | None,
    round: int,
    snapshot: str,
    start: ModelRef,
    lists: int,
    people: WeightedRankings,
    left_out: Refused | None,
    cut: Cut | None,
) -> TrainedReward:
    """Normalise the trained model, save it, measure it and register it."""
    criterion = model.criterion
    mean, std = normalisation(project, model, tokenization)
    model.set_normalisation(mean, std)
    engine.save("reward", run.path / "model")
    seen = train[:TRAIN_EVAL]
    scores = score_items(model, tokenization, seen, project.config.reward.scored_budget, project.device)
    on_train = pair_accuracy(scores, seen, criterion, resamples=0)
    result = TrainedReward(
        run=run.name,
        criterion=criterion,
        round=round,
        lists=len(train),
        lists_trained_on=lists,
        rankings=sum(len(i.rankings) for i in train),
        simulated=sum(r.simulated for i in train for r in i.rankings),
        annotators=people.counted(),
        heldout_lists=len(held),
        normalisation=Normalisation(mean, std),
        heldout=report,
        train_accuracy=on_train.accuracy,
        left_out=left_out,
        cut=cut,
        model=project.relative(run.path / "model"),
    )
    metrics = {"round": round, "accuracy": report.accuracy if report else None}
    project.register(run, "reward", start, weights_hash(model.model), snapshot, metrics, criterion)
    run.finish(result.figures())
    return result
