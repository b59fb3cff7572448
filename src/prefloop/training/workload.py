"""Says what each stage will compute, from settings and store: steps, and the tokens of each. No model is loaded."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from prefloop.config_section import SCORED
from prefloop.engine.base import Sampling
from prefloop.engine.forecast import Cast, Load
from prefloop.errors import ModelError, NothingToDoError
from prefloop.known_algorithms import has_critic, has_reference, is_offline
from prefloop.models.adapter_folder import INSIDE, is_adapter
from prefloop.models.load import DTYPES
from prefloop.project.project import Project
from prefloop.training.fit import Order

LOOKED_AT = 200  # So many texts of the store say how long the others are.
CHARACTERS = 4.0  # Without a tokenizer a token is taken for so many.
AT_ONCE = Sampling.batch  # rows that grow at a time

Count = Callable[[str], float]


@dataclass(frozen=True)
class Work:
    """Is what one stage does. tokens: that are learnt from, in all steps;  scored, sampled: those of other passes

    learnings: how many models learn from each token
    """

    name: str
    method: str
    steps: int
    tokens: float
    scored: float
    sampled: float
    length: float
    learnings: int
    cast: Cast
    load: Load
    normalising: tuple[Cast, Load] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Texts:
    """Says how many texts there are, and how many tokens they have: on average, and the longest of those looked at."""

    count: int
    mean: float
    longest: float
    answers: float = 0.0  # mean tokens of an answer alone
    k: float = 1.0  # answers of a list

    @property
    def of_a_list(self) -> float:
        """Return the tokens of a list whose prompt is read once."""
        return self.mean + (self.k - 1) * self.answers


def work_of(project: Project, stage: str, budget: int, count: Count, ranks: int = 1) -> Work:
    """Return what "sft", "reward" or "align" will do, and the load of the rank that has most.

    budget: padded tokens of one pass;  ranks: processes that texts are dealt to
    """
    if stage == "sft":
        return _sft(project, budget, count, ranks)
    if stage == "reward":
        return _reward(project, budget, count, ranks)
    if is_offline(project.config.align.algorithm):
        return _offline(project, budget, count, ranks)
    return _online(project, budget, count, ranks)


def _sft(project: Project, budget: int, count: Count, ranks: int) -> Work:
    settings = project.config.sft
    shown = project.store.demonstrations(split="train", heldout=project.config.data.heldout)[: settings.limit]
    whole = [min(count(d.prompt.text) + count(d.text), settings.max_tokens) for d in shown[:LOOKED_AT]]
    notes = () if shown else (_assumed("demonstrations", "64 of the longest that [sft] max_tokens allows"),)
    texts = Texts(len(shown) or 64, *_mean_and_longest(whole, settings.max_tokens))
    answers = statistics.fmean(count(d.text) for d in shown[:LOOKED_AT]) if shown else texts.mean
    order = Order(texts.count, settings.batch, settings.epochs, 0)
    most = texts.longest / texts.mean
    mine = -(-min(settings.batch, texts.count) // ranks)
    passes, learned = _passes(mine, texts.mean, most, texts.longest, budget)
    held = len(project.store.demonstrations(split="heldout", heldout=project.config.data.heldout)[:LOOKED_AT])
    _, checked = _passes(-(-held // ranks), texts.mean, most, texts.longest, SCORED * budget)
    predicted = learned * answers / texts.mean
    load = Load(
        learned,
        passes,
        checked=checked,
        predicted=predicted,
        width=texts.longest,
        checkpointing=settings.gradient_checkpointing,
    )
    tokens = texts.mean * texts.count * settings.epochs
    return Work(
        "sft",
        "sft",
        order.steps,
        tokens,
        0.0,
        0.0,
        texts.mean,
        1,
        Cast(("policy",), optim=settings.optim),
        load,
        notes=notes,
    )


def _reward(project: Project, budget: int, count: Count, ranks: int) -> Work:
    settings, align = project.config.reward, project.config.align
    texts, notes = _lists(project, count, settings.max_tokens)
    order = Order(texts.count, settings.batch, settings.epochs, 0)
    load = _load_of_lists(texts, settings.batch, budget, settings.gradient_checkpointing, False, ranks)
    looked = min(LOOKED_AT, texts.count)  # lists that rank 0 scores, to compare them with the held-out ones
    more = _load_of_lists(texts, looked, SCORED * budget, False, False).learned
    load = replace(load, checked=more)
    models = max(1, len(settings.criteria or project.store.criteria()))
    tokens = models * settings.epochs * texts.count * texts.of_a_list
    drawn = 2 * settings.normalise_prompts
    other = Load(0.0, rows=min(AT_ONCE, -(-drawn // ranks)), length=int(align.max_tokens + texts.mean))
    cast = Cast(("reward",), average=settings.average > 0, optim=settings.optim)
    normalising = replace(cast, frozen=("reference",), samples=True), other
    sampled = float(models * drawn * align.max_tokens)
    return Work(
        "reward",
        settings.objective,
        models * order.steps,
        tokens,
        0.0,
        sampled,
        texts.mean,
        1,
        cast,
        load,
        normalising,
        notes,
    )


def _offline(project: Project, budget: int, count: Count, ranks: int) -> Work:
    settings = project.config.align
    texts, notes = _lists(project, count, None)
    order = Order(texts.count, settings.lists, settings.passes, 0)
    looks = -(-settings.evaluation.eval_prompts // ranks)
    load = _load_of_lists(texts, settings.lists, budget, settings.gradient_checkpointing, True, ranks)
    more = _load_of_lists(texts, settings.lists, SCORED * budget, False, True, ranks).learned
    grown = int(settings.max_tokens + texts.mean - texts.answers)
    more = max(more, min(looks * texts.mean, float(SCORED * budget)))
    load = replace(load, checked=more, rows=min(AT_ONCE, looks), length=grown)
    frozen = ("reference",) if not settings.reference_refresh else ("reference", "refreshed")
    cast = Cast(
        ("policy",),
        frozen,
        samples=True,
        average=settings.average > 0,
        optim=settings.optim,
        offload=settings.frozen_offload,
    )
    once = texts.count * texts.of_a_list
    asked = once if has_reference(settings.algorithm) else 0.0
    evaluations = order.steps // settings.evaluation.eval_every + 1
    sampled = float(evaluations * settings.evaluation.eval_prompts * settings.max_tokens)
    return Work(
        "align",
        settings.algorithm,
        order.steps,
        settings.passes * once,
        asked,
        sampled,
        texts.mean,
        1,
        cast,
        load,
        notes=notes,
    )


def _online(project: Project, budget: int, count: Count, ranks: int) -> Work:
    settings, rollout = project.config.align, project.config.align.rollout
    asked = project.store.prompts(split="train", heldout=project.config.data.heldout, limit=LOOKED_AT)
    mean, longest = _mean_and_longest([count(prompt.text) for prompt in asked], 64)
    notes = [] if asked else [_assumed("prompts", "64 tokens each")]
    rows, answer = rollout.prompts * rollout.k, float(settings.max_tokens)
    minibatch, whole = -(-rollout.prompts // rollout.minibatches // ranks), mean + rollout.k * answer
    most, row = (longest + answer) / (mean + answer), longest + answer
    # Where not even the answers to one prompt fit into a pass, they are parted.
    together = rollout.k if row * rollout.k <= budget else 1
    lists, each = (minibatch, whole) if together > 1 else (minibatch * rollout.k, mean + answer)
    passes, learned = _passes(lists, each, most, row * together, budget)
    dealt, looks = -(-rollout.prompts // ranks), settings.evaluation.eval_prompts
    growing = min(AT_ONCE, max(dealt * rollout.k, -(-looks // ranks)))
    critic = has_critic(settings.algorithm)
    _, checked = _passes(dealt, whole, most, row * rollout.k, SCORED * budget)
    checked = max(min(looks / ranks * (mean + answer), float(SCORED * budget)), checked if critic else 0.0)
    judges = (
        ()
        if settings.reward is not None
        else tuple(
            f"reward {name}" for name in (project.config.reward.criteria or project.store.criteria() or ("quality",))
        )
    )
    asked_alone = rollout.prompts if judges else dealt  # Reward models are on one rank, and score all texts.
    _, scored = _passes(asked_alone, whole, most, row * rollout.k, SCORED * budget)
    load = Load(
        learned,
        passes,
        scored,
        checked,
        learned * together * answer / each,
        growing,
        int(answer + mean),
        row,
        settings.gradient_checkpointing,
    )
    cast = Cast(
        ("policy", "critic") if critic else ("policy",),
        ("reference", "refreshed") if settings.reference_refresh else ("reference",),
        judges,
        whole=_whole(project, judges, critic and settings.critic == "separate"),
        value_head=settings.critic == "head",
        own_sampler=rollout.staleness > 0,
        samples=True,
        average=settings.average > 0,
        optim=settings.optim,
        frozen_dtype=DTYPES[settings.frozen_dtype] if settings.frozen_dtype else None,
        offload=settings.frozen_offload,
    )
    step = rows * answer + rollout.prompts * mean
    evaluations = settings.steps // settings.evaluation.eval_every + 1
    passes = 1 + len(judges) + critic  # the reference, reward models, the critic before it learns
    notes.append("every answer is counted with [align] max_tokens; those that end sooner take less")
    separate = critic and settings.critic == "separate"
    return Work(
        "align",
        settings.algorithm,
        settings.steps,
        settings.steps * rollout.epochs * step,
        settings.steps * passes * step + evaluations * looks * (answer + mean) * (2 + len(judges)),
        (settings.steps * rows + evaluations * looks) * answer,
        mean + answer,
        2 if separate else 1,
        cast,
        load,
        notes=tuple(notes),
    )


def _whole(project: Project, judges: Sequence[str], critic: bool) -> tuple[str, ...]:
    """Return which models stand on no trunk: reward models that are there and have no adapter, and a critic of them."""
    try:
        rows = project.reward_models(project.latest_round())
    except (NothingToDoError, ModelError):
        return ()
    own = {f"reward {row.criterion}" for row in rows if not is_adapter(Path(project.ref(row).path) / INSIDE)}
    whole = tuple(role for role in judges if role in own)
    return (*whole, "critic") if critic and whole else whole


def _lists(project: Project, count: Count, most: int | None) -> tuple[Texts, tuple[str, ...]]:
    heldout = project.config.data.heldout
    items = list(islice(project.store.items(split="train", heldout=heldout, ranked=True), LOOKED_AT))
    if not items:
        k = float(project.config.sample.k)
        notes = (_assumed("ranked lists", f"64 lists of {k:.0f} answers of [sample] max_tokens"),)
        answer = float(project.config.sample.max_tokens)
        return Texts(64, 64 + answer, 64 + answer, answer, k), notes
    counts = project.store.counts()
    share = len(items) / LOOKED_AT
    total = len(items) if share < 1 else int(counts["items"] * (1 - heldout))
    answers = [min(count(c.text), most or math.inf) for item in items for c in item.completions]
    prompts = [count(item.prompt.text) for item in items]
    whole = statistics.fmean(prompts) + statistics.fmean(answers)
    k = statistics.fmean(len(item.completions) for item in items)
    longest, context = max(prompts) + max(answers), most or math.inf
    return Texts(total, min(whole, context), min(longest, context), statistics.fmean(answers), k), ()


def _load_of_lists(texts: Texts, lists: int, budget: int, checkpointing: bool, predicts: bool, ranks: int = 1) -> Load:
    """Return the load of a step on lists whose prompts are read once. predicts: whether words need probabilities"""
    mean, row = texts.of_a_list, texts.longest * texts.k
    mine = -(-min(lists, texts.count) // ranks)
    passes, learned = _passes(mine, mean, texts.longest / texts.mean, row, budget)
    predicted = learned * texts.k * texts.answers / mean if predicts else 0.0
    return Load(learned, passes, predicted=predicted, width=texts.longest, checkpointing=checkpointing)


def _passes(lists: int, mean: float, most: float, padded: float, budget: int) -> tuple[int, float]:
    """Return how many passes a batch takes, and the tokens of the largest. A list is never parted.

    mean: tokens of a list;  most: how much longer than that the longest is;  padded: what the longest takes
    """
    at_once = max(1, int(budget // max(1.0, padded)))
    if at_once >= lists:
        return 1, lists * mean
    return math.ceil(lists / at_once), min(lists, at_once * most) * mean  # Lists of like length go together.


def _mean_and_longest(lengths: Sequence[float], otherwise: float) -> tuple[float, float]:
    return (statistics.fmean(lengths), max(lengths)) if lengths else (float(otherwise), float(otherwise))


def _assumed(what: str, instead: str) -> str:
    return f"the store has no {what} yet: counted with {instead}"
