"""Runs `prefloop sample`, which draws K completions of each prompt and stores them as one item to rank."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from prefloop.engine import make as make_engine
from prefloop.engine.base import Sampling
from prefloop.errors import NothingToDoError
from prefloop.models.policy import Policy
from prefloop.project.left_out import LeftOut, fitting
from prefloop.project.project import Project, derive, load_policy
from prefloop.results import Sampled
from prefloop.store.split import bucket
from prefloop.training.sampled_lists import draw_lists, item_id, make_item, ratio
from prefloop.types import Prompt

CHUNK = 64  # So many prompts come between two writes to the store.


def sample(project: Project, round: int | None = None) -> Sampled:
    """Sample from the policy at the start of a round (by default: the first round not aligned yet)."""
    settings, seed = project.config.sample, project.config.project.seed
    round = project.aligned_rounds() if round is None else project.existing_round(round, starts=True)
    ref = project.policy(round).here()
    # Prompts are taken by hash, not by age: it is a sample of the prompts, and the same whenever it is drawn.
    prompts = sorted(project.store.prompts(), key=lambda p: (bucket(p), p.id))
    chosen = _spread(prompts, settings.prompts, round)
    if not chosen:
        raise NothingToDoError("there are no prompts yet: run prefloop import FILE")
    inputs = {"policy": ref.weights, "round": round, "prompts": project.snapshot("prompts", [p.id for p in chosen])}
    fingerprint = project.fingerprint("sample", settings, inputs)
    if done := project.done(Sampled, fingerprint):
        return done
    starts = round > project.latest_round()
    with project.lock():
        run = project.begin("sample", fingerprint, inputs)
        if starts:
            project.say(
                f"sample: this starts round {round}, with the policy that round {round - 1} made ({ref.version})"
            )
        model, tokenization = load_policy(project, ref)
        left_out = LeftOut(project)
        kept = fitting(project, tokenization, chosen, settings.max_tokens, left_out)
        known = {item.id for item in project.store.items(source="sample", round=round)}
        todo = [(p, ids) for p, ids in kept if item_id(p, ref.version, fingerprint) not in known]
        drawn = duplicates = ended = tokens = 0
        engine = make_engine({"policy": Policy(model)}, tokenization, derive(seed, "sample"), project.placement)
        with closing(engine), project.progress(len(kept), "sample", len(kept) - len(todo)) as bar:
            run.note("computed_by", engine.computed_by())
            for start in range(0, len(todo), CHUNK):
                part = todo[start : start + CHUNK]
                lists, dups = draw_lists(
                    engine, tokenization, part, settings.k, _sampling(project), settings.avoid_duplicates
                )
                items = [
                    make_item(tokenization, prompt, texts, ref.version, fingerprint, round, project)
                    for (prompt, _), texts in zip(part, lists, strict=True)
                ]
                project.store.add(items)
                duplicates += dups
                drawn += sum(len(x) for x in lists)
                ended += sum(s.ended for x in lists for s in x)
                tokens += sum(len(s.ids) for x in lists for s in x)
                bar.update(len(part))
        if tokenization.runs_on and ended < drawn / 2:
            project.say(f"warning: {ended} of {drawn} answers ended by themselves: {tokenization.runs_on}")
        result = Sampled(
            run=run.name,
            round=round,
            starts_round=starts,
            policy=ref.version,
            prompts=len(kept),
            completions=len(kept) * settings.k,
            drawn_now=drawn,
            near_duplicates=duplicates,
            ended=ratio(ended, drawn),
            mean_tokens=ratio(tokens, drawn),
            left_out=left_out.counted(),
        )
        run.finish(result.figures())
        return result


def _spread(prompts: Sequence[Prompt], limit: int | None, round: int) -> list[Prompt]:
    """Choose `limit` prompts, as far as possible other ones each round. Held-out prompts keep their share.

    The prompts are sorted by bucket, so that held-out ones come first, and taking every n-th keeps their share.
    """
    if limit is None or limit >= len(prompts):
        return list(prompts)
    stride = len(prompts) / limit
    phase = round * 0.618 % 1.0  # By the golden ratio, successive rounds fall far from each other.
    return [prompts[int((i + phase) * stride)] for i in range(limit)]


def _sampling(project: Project) -> Sampling:
    s = project.config.sample
    return Sampling(s.max_tokens, s.temperature, s.top_p, s.batch)
