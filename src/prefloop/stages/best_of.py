"""Runs `prefloop best-of`: one answer to each prompt, chosen among n of the policy. Nothing is trained.

A run keeps what it has drawn in parts of its folder, so the same command goes on after an interruption; the random
numbers of an answer come from the seed, its prompt and its place. `answers.jsonl` has the chosen answers as
demonstrations, and `lists.jsonl` all n as lists that the scorer ranked. `prefloop import` reads both.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from prefloop import exchange, record
from prefloop.engine import make as make_engine
from prefloop.errors import ConfigError, DataError, NothingToDoError
from prefloop.intervals import mean_interval
from prefloop.models.folder import file_hash
from prefloop.models.policy import Policy
from prefloop.ops.best_of import expected_best, kl_bound, kl_estimate, sizes
from prefloop.project.left_out import LeftOut, fitting
from prefloop.project.project import ModelRef, Project, derive, load_policy
from prefloop.record import Run
from prefloop.report.best_of import picture
from prefloop.results import BestAt, BestOf, Interval
from prefloop.results.base import from_json
from prefloop.rewards.base import Scorer
from prefloop.rewards.model import reward_tokenizations
from prefloop.store import ModelRow
from prefloop.training.best_of import KEY, Chooser, choose_all, draw
from prefloop.training.final_answers import final_answer
from prefloop.training.reward_scores import make_scorer
from prefloop.training.sides import policy_named, prompts_of, read_rows
from prefloop.types import Completion, Demonstration, Item, Prompt, digest

REWARD = "reward"  # This name of a scorer stands for the newest reward models.
ROWS = 1024  # About so many answers come between two writes.
NAMED = 10  # A result names so many prompts that could not be scored.
ANSWERS, LISTS, PICTURE = "answers.jsonl", "lists.jsonl", "best-of.svg"


def best_of(
    project: Project,
    policy: str = "policy",
    prompts: Path | None = None,
    out: Path | None = None,
    lists: Path | None = None,
    overwrite: bool = False,
) -> BestOf:
    """Answer prompts by the best of n, or by majority.

    policy: a version or run, "policy" (the newest), "reference", "base", a folder or a hub id
    prompts: a file; None = the held-out prompts of the project
    out, lists: files that get the chosen answers, and all n of each prompt, beside those in the run's folder
    """
    settings = project.config.best_of
    for path in (out, lists):
        if path is not None and path.exists() and not overwrite:
            raise DataError(f"{path} exists already. Choose another name, or say --overwrite.")
    if settings.majority is not None and settings.n < 2:
        raise ConfigError("there is no majority of one answer: take --n 3 or more, or leave --majority out")
    final = final_answer(settings.majority, project.root) if settings.majority is not None else None
    name, models = _scorer_named(project)
    judged = project.config.evaluate.scorer
    judged = judged if judged != name else None
    ref = policy_named(project, policy)
    asked = _prompts(project, prompts)[: settings.limit]
    inputs = {
        "policy": _weights(ref),
        "scorer": _identity(project, name, models),
        "judge": project.scorer(judged).identity if judged else "",
        "final answer": final.identity if final else "",
        "prompts": digest("prompts", [p.id for p in asked]),
        "bootstrap": project.config.evaluate.bootstrap,
    }
    fingerprint = project.fingerprint(BestOf.stage, settings, inputs)
    done = project.done(BestOf, fingerprint)
    if done and (project.root / done.answers).exists() and (project.root / done.lists).exists():
        _hand_out(project, done, out, lists)
        return done
    with project.lock():
        run = project.begin(BestOf.stage, fingerprint, inputs)
        left_out = LeftOut(project)
        scorer: Scorer | None = make_scorer(project, models) if models else project.scorer(name) if name else None
        judge = project.scorer(judged) if judged else None
        criterion = str(models[0].criterion or REWARD) if len(models) == 1 else name or ""
        chooser = Chooser(settings, name, scorer, criterion, judge, final)
        _fill(project, run, ref, chooser, asked, left_out, fingerprint)
        try:
            result = _result(project, run, ref, chooser, len(asked), left_out)
        except DataError as error:
            run.fail(str(error))
            raise
        if result.curve:
            record.write_atomic(run.path / PICTURE, picture(result).encode())
        run.finish(result.figures())
        shutil.rmtree(run.path / "parts")
    _hand_out(project, result, out, lists)
    return result


# -- what is asked -----------------------------------------------------------------------------------------------------


def _scorer_named(project: Project) -> tuple[str | None, list[ModelRow]]:
    """Return the name of the scorer, None for a plain majority, and the reward models where these are meant."""
    settings = project.config.best_of
    name = settings.scorer or (None if settings.majority is not None else project.config.align.reward or REWARD)
    if name != REWARD:
        return name, []
    rounds = [int(row.metrics.get("round") or 0) for row in project.store.models("reward")]
    if not rounds:
        raise NothingToDoError(
            "there is no reward model to choose by: run prefloop reward first, or name a scorer with --scorer: "
            'a name, "file.py:function" or the address of a service'
        )
    return name, project.reward_models(max(rounds))


def _identity(project: Project, name: str | None, models: Sequence[ModelRow]) -> Any:
    if models:
        weights = project.config.align.reward_weights
        return {"rewards": {m.criterion: m.weights_sha256 for m in models}, "weights": dict(weights)}
    return project.scorer(name).identity if name else ""


def _weights(ref: ModelRef) -> str:
    """Return what identifies the policy. A folder that no run made is read, since its files may change."""
    path = Path(ref.path)
    return file_hash(path) if not ref.registered and path.is_dir() else ref.weights


def _prompts(project: Project, path: Path | None) -> list[Prompt]:
    if path is not None:
        return prompts_of(read_rows(path, project))
    held = project.store.prompts(split="heldout", heldout=project.config.data.heldout)
    if not held:
        raise NothingToDoError("there are no held-out prompts: name a file with --prompts FILE, or import more prompts")
    return held


# -- what is drawn -----------------------------------------------------------------------------------------------------


def _fill(
    project: Project,
    run: Run,
    ref: ModelRef,
    chooser: Chooser,
    asked: Sequence[Prompt],
    left_out: LeftOut,
    key: str,
) -> None:
    """Draw, score and choose, part by part; parts that are there are kept. A part is written whole or not at all."""
    settings = chooser.settings
    model, tokenization = load_policy(project, ref)
    theirs = reward_tokenizations(chooser.scorer) if chooser.scorer else []
    kept = fitting(project, tokenization, asked, settings.max_tokens, left_out, theirs)
    parts = run.path / "parts"
    parts.mkdir(exist_ok=True)
    step = max(1, ROWS // settings.n)
    todo = [start for start in range(0, len(kept), step) if not _part(parts, start).exists()]
    there = len(kept) - sum(len(kept[start : start + step]) for start in todo)
    seed = derive(project.config.project.seed, BestOf.stage)
    engine = make_engine({"policy": Policy(model, settings.temperature)}, tokenization, seed, project.placement)
    with closing(engine), project.progress(len(kept), BestOf.stage, there) as bar:
        run.note("computed_by", engine.computed_by())
        for start in todo:
            some = kept[start : start + step]
            items = choose_all(draw(engine, tokenization, some, settings, ref.version, key), chooser)
            for item in items:
                if why := item.metadata[KEY].get("failed"):
                    project.say(f"warning: {_row(item.prompt)} is left out: {why}")
            exchange.write_rankings(items, _part(parts, start))
            bar.update(len(some))


def _part(folder: Path, start: int) -> Path:
    return folder / f"{start:09d}.jsonl"


def _row(prompt: Prompt) -> str:
    return f"{f'row {prompt.row}' if prompt.row is not None else f'prompt {prompt.id}'} ({prompt.start!r})"


# -- what is found -----------------------------------------------------------------------------------------------------


@dataclass
class _Seen:
    """Adds up what the items show. rewards, judged: [prompts][n], of the prompts that were scored."""

    unscored: list[str] = field(default_factory=list)
    rewards: list[list[float]] = field(default_factory=list)
    judged: list[list[float]] = field(default_factory=list)
    distinct: list[int] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    finals: int = 0
    samples: int = 0
    unanswered: int = 0

    def take(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yield the items that were scored."""
        for item in items:
            found = item.metadata[KEY]
            if "failed" in found:
                self.unscored.append(f"{_row(item.prompt)}: {found['failed']}")
                continue
            self.samples += len(item.completions)
            self.distinct.append(len({c.text for c in item.completions}))
            self.finals += sum("final" in c.metadata for c in item.completions)
            for name, column in (("reward", self.rewards), ("judge", self.judged)):
                if name in item.completions[0].metadata:
                    column.append([c.metadata[name] for c in item.completions])
            if "chosen" in found:
                self.ended.append(_choice(item).finish_reason == "stop")
                self.shares.append(found.get("share", 1.0))
            else:
                self.unanswered += 1
            yield item


def _items(run: Run) -> Iterator[Item]:
    for path in sorted((run.path / "parts").glob("*.jsonl")):
        yield from cast(Iterator[Item], exchange.read(path))


def _choice(item: Item) -> Completion:
    chosen = item.metadata[KEY]["chosen"]
    return next(c for c in item.completions if c.local_id == chosen)


def _answer(item: Item) -> Demonstration:
    """Return the chosen answer, with how it was chosen."""
    chosen = _choice(item)
    return Demonstration(
        item.prompt,
        chosen.text,
        {KEY: {**item.metadata[KEY], **chosen.metadata, "finish_reason": chosen.finish_reason}},
    )


def _result(project: Project, run: Run, ref: ModelRef, chooser: Chooser, asked: int, left_out: LeftOut) -> BestOf:
    seen, settings = _Seen(), chooser.settings
    written = exchange.write_rankings(seen.take(_items(run)), run.path / LISTS)
    if not written.rows:
        raise DataError(f"none of the answers could be scored. First: {seen.unscored[0]}")
    if not seen.shares:
        example = next(c.text for item in _items(run) for c in item.completions)
        raise DataError(
            f"majority = {settings.majority!r} finds no final answer in any of {seen.samples} answers, as in "
            f"{example[:200]!r}. Correct the pattern, or let the policy be asked for an answer in that form."
        )
    chosen = (item for item in _items(run) if "chosen" in item.metadata[KEY])
    answered = exchange.write_demonstrations(map(_answer, chosen), run.path / ANSWERS)
    tied = [len(set(row)) < len(row) for row in seen.rewards]
    vote = chooser.final is not None
    curve = _curve(project, seen, any(tied))
    return BestOf(
        run=run.name,
        policy=ref.version,
        by=cast(Any, chooser.by),
        scorer=chooser.name,
        n=settings.n,
        asked=asked,
        prompts=answered.rows,
        left_out=left_out.counted(),
        unscored=tuple(seen.unscored[:NAMED]),
        kl=float(np.log(settings.n)) if vote else kl_bound(settings.n),
        bounded=vote or any(tied),
        kl_estimate=None if vote else curve[-1].kl_estimate,
        tied=float(np.mean(tied)) if tied else None,
        distinct=float(np.mean(seen.distinct)),
        ended=float(np.mean(seen.ended)),
        share=float(np.mean(seen.shares)) if vote else None,
        unmatched=1 - seen.finals / seen.samples if vote else None,
        unanswered=seen.unanswered if vote else None,
        curve=curve,
        answers=Path(project.relative(run.path / ANSWERS)),
        lists=Path(project.relative(run.path / LISTS)),
    )


def _curve(project: Project, seen: _Seen, tied: bool) -> tuple[BestAt, ...]:
    """Return what the best of 1, 2, 4, ... answers by the reward scores, from the same samples."""

    def over_prompts(values: Sequence[float]) -> Interval:
        seed = derive(project.config.project.seed, BestOf.stage)
        return from_json(Interval, mean_interval(values, project.config.evaluate.bootstrap, seed))

    if not seen.rewards:
        return ()
    return tuple(
        BestAt(
            n=n,
            kl=kl_bound(n),
            kl_estimate=float(np.mean([kl_estimate(row, n) for row in seen.rewards])) if tied else None,
            reward=over_prompts([expected_best(row, n) for row in seen.rewards]),
            judge=over_prompts([expected_best(row, n, by) for row, by in zip(seen.rewards, seen.judged, strict=True)])
            if seen.judged
            else None,
        )
        for n in sizes(len(seen.rewards[0]))
    )


def _hand_out(project: Project, result: BestOf, out: Path | None, lists: Path | None) -> None:
    for made, path in ((result.answers, out), (result.lists, lists)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            record.write_atomic(path, (project.root / made).read_bytes())
