"""Runs `prefloop compare`: two policies, or a policy and the texts of a file, head to head on the same prompts.

It writes nothing. Both sides draw with the same random numbers, and a prompt counts once, with the mean of its answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prefloop.behaviour.chosen import chosen
from prefloop.behaviour.comparing import ALL, FEWEST, Answers, compare, slices_of
from prefloop.errors import DataError, NothingToDoError, PrefloopError
from prefloop.intervals import mean_interval, win_rate
from prefloop.project.left_out import LeftOut
from prefloop.project.project import Project, derive
from prefloop.results import Compared, ComparedAnswers, HeadToHead, Interval
from prefloop.results.base import from_json
from prefloop.rewards.base import Scorer
from prefloop.training.reward_scores import make_scorer
from prefloop.training.sides import Side, ask, policy_named, prompts_of, read_rows, texts_of
from prefloop.types import Prompt

REWARD = "reward"  # This name of a scorer stands for the newest reward models.


def compare_sides(
    project: Project,
    a: str,
    b: str,
    prompts: Path | None = None,
    scorers: Sequence[str] = (),
    slices: Sequence[str] = (),
) -> Compared:
    """Compare A with B by scorers and by the checks of behaviour.

    a, b: a version or run, "policy", "reference", "base", a folder, a hub id, or a file of texts
    prompts: a file; None where a side is a file, whose prompts are taken
    scorers: names, "file.py:function", or "reward" for the newest reward models; by default `[evaluate] scorer` and
    the reward models, where there are any
    slices: metadata fields, beside those of `[behaviour]`
    """
    settings = project.config.evaluate
    checks = chosen(project.config.behaviour, project.root)
    judges = _scorers(project, scorers)
    left_out = LeftOut(project)
    texts = {spec: texts_of(path, project) for spec in (a, b) if (path := _file(project, spec))}
    refs = {spec: policy_named(project, spec) for spec in (a, b) if spec not in texts}
    asked = _prompts(project, prompts, [found for _, found in texts.values()])
    sides = {spec: side for spec, (side, _) in texts.items()}
    for spec, ref in refs.items():
        left = [p for p in asked if all(p.id in side.answers for side in sides.values())][: settings.prompts]
        if not left:
            raise DataError(f"none of the {len(asked)} prompts has an answer in the file of texts: are they the same?")
        with project.progress(None, f"compare ({spec})"):
            sides[spec] = replace(ask(project, ref, left, left_out), name=spec)
    ours, theirs = sides[a], sides[b]
    both = [p for p in asked if p.id in ours.answers and p.id in theirs.answers][: settings.prompts]
    if len(both) < FEWEST:
        raise DataError(f"only {len(both)} of {len(asked)} prompts have answers of both sides: at least {FEWEST} do")
    cut, problems = slices_of([p.metadata for p in both], [*project.config.behaviour.slices, *slices])
    behaviour = compare(
        checks, [Answers(ours.pairs(both), theirs.pairs(both), slices=cut)], settings.bootstrap, _seed(project)
    )
    scored = {name: (_scores(judge, ours, both), _scores(judge, theirs, both)) for name, judge in judges.items()}
    return Compared(
        a=a,
        b=b,
        prompts=len(both),
        answers_a=len(ours.answers[both[0].id]),
        answers_b=len(theirs.answers[both[0].id]),
        left_out=left_out.counted(),
        scores=tuple(_rows(project, scored, {ALL: range(len(both)), **cut})),
        behaviour=replace(behaviour, problems=(*problems, *behaviour.problems)),
        samples=tuple(_samples(both, ours, theirs, scored, settings.show)),
    )


def _seed(project: Project) -> int:
    return derive(project.config.project.seed, "compare")


def _file(project: Project, spec: str) -> Path | None:
    return next((path for path in (project.root / spec, Path(spec)) if path.is_file()), None)


def _prompts(project: Project, path: Path | None, texts: Sequence[Sequence[Prompt]]) -> list[Prompt]:
    if path is not None:
        return prompts_of(read_rows(path, project))
    if not texts:
        raise NothingToDoError("compare needs prompts for two policies: give a file with --prompts FILE")
    return list(texts[0])


def _scorers(project: Project, names: Sequence[str]) -> dict[str, Scorer]:
    """Return the scorers by name. Raises ConfigError for an unknown one, NothingToDoError without reward models."""
    found: dict[str, Scorer] = {}
    asked = list(names)
    if not asked:
        asked = [name for name in (project.config.evaluate.scorer,) if name]
        try:
            project.reward_models(project.latest_round())
            asked.append(REWARD)
        except PrefloopError:
            pass  # There are none, which is no error where nobody asked for them.
    for name in asked:
        if name == REWARD:
            found[name] = make_scorer(project, project.reward_models(project.latest_round()))
        else:
            found[name] = project.scorer(name)
    return found


def _scores(judge: Scorer, side: Side, prompts: Sequence[Prompt]) -> NDArray[np.float64]:
    """The scores of a side, [prompt, answer]."""
    rows = [(p, c) for p in prompts for c in side.answers[p.id]]
    values = judge.score([p for p, _ in rows], [c for _, c in rows]).total
    return np.asarray(list(values), dtype=float).reshape(len(prompts), -1)


def _rows(
    project: Project,
    scored: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    slices: Mapping[str, Sequence[int]],
) -> list[HeadToHead]:
    rows, resamples, seed = [], project.config.evaluate.bootstrap, _seed(project)
    for scorer, (a, b) in scored.items():
        for name, places in slices.items():
            ours, theirs = a[list(places)], b[list(places)]
            if len(ours) < FEWEST:
                continue
            k = min(ours.shape[1], theirs.shape[1])
            won = win_rate(ours[:, :k], theirs[:, :k], resamples, seed)
            gain = mean_interval(ours.mean(1) - theirs.mean(1), resamples, seed)
            rows.append(
                HeadToHead(
                    scorer=scorer,
                    slice=name,
                    a=float(ours.mean()),
                    b=float(theirs.mean()),
                    win_rate=from_json(Interval, won),
                    gain=from_json(Interval, gain),
                )
            )
    return rows


def _samples(
    prompts: Sequence[Prompt],
    ours: Side,
    theirs: Side,
    scored: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    show: int,
) -> list[ComparedAnswers]:
    """The first answers of both, for prompts that are evenly spread over all."""
    stride = max(1, len(prompts) // max(1, show))
    return [
        ComparedAnswers(
            prompts[n].text,
            ours.answers[prompts[n].id][0].text,
            theirs.answers[prompts[n].id][0].text,
            {name: float(a[n, 0]) for name, (a, _) in scored.items()},
            {name: float(b[n, 0]) for name, (_, b) in scored.items()},
        )
        for n in list(range(0, len(prompts), stride))[:show]
    ]
