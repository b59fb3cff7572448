"""Runs `prefloop sample`, which draws K completions of each prompt and stores them as one item to rank.

The policy gives them, or an endpoint that serves another model.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from prefloop.engine import make as make_engine
from prefloop.engine.base import Sampling
from prefloop.errors import NothingToDoError
from prefloop.models.policy import Policy
from prefloop.project.left_out import LeftOut, fitting
from prefloop.project.project import ModelRef, Project, derive, load_policy
from prefloop.record import Run
from prefloop.results import Sampled
from prefloop.store.split import bucket
from prefloop.training.endpoint_lists import Tally, draw_from_endpoint
from prefloop.training.sampled_lists import draw_lists, item_id, make_item, ratio
from prefloop.types import Prompt

CHUNK = 64  # So many prompts come between two writes to the store.


def sample(project: Project, round: int | None = None) -> Sampled:
    """Sample at the start of a round (by default: the first round not aligned yet): from the policy, or an endpoint."""
    settings, rollout = project.config.sample, project.config.rollout
    endpoint = rollout.backend == "openai"
    round = project.aligned_rounds() if round is None else project.existing_round(round, starts=True)
    ref = None if endpoint else project.policy(round).here()
    # Prompts are taken by hash, not by age: it is a sample of the prompts, and the same whenever it is drawn.
    prompts = sorted(project.store.prompts(), key=lambda p: (bucket(p), p.id))
    chosen = _spread(prompts, settings.prompts, round)
    if not chosen:
        raise NothingToDoError("there are no prompts yet: run prefloop import FILE")
    whose = {"policy": ref.weights} if ref else {"endpoint": {"model": rollout.model, "api": rollout.api}}
    inputs = {**whose, "round": round, "prompts": project.snapshot("prompts", [p.id for p in chosen])}
    fingerprint = project.fingerprint("sample", settings, inputs)
    if done := project.done(Sampled, fingerprint):
        return done
    starts = round > project.latest_round()
    with project.lock():
        run = project.begin("sample", fingerprint, inputs)
        if starts:
            by = f", with the policy that round {round - 1} made ({ref.version})" if ref else ""
            project.say(f"sample: this starts round {round}{by}")
        left_out = LeftOut(project)
        if ref:
            tally = _from_policy(project, ref, chosen, round, fingerprint, run, left_out)
        else:
            run.note("computed_by", {"sampling": "openai", "servers": list(rollout.servers), "model": rollout.model})
            tally = draw_from_endpoint(project, chosen, round, fingerprint, left_out)
        result = Sampled(
            run=run.name,
            round=round,
            starts_round=starts,
            policy=ref.version if ref else str(rollout.model),
            prompts=tally.lists,
            completions=tally.lists * settings.k,
            drawn_now=tally.drawn,
            near_duplicates=tally.near_duplicates,
            ended=ratio(tally.ended, tally.drawn),
            mean_tokens=None if tally.tokens is None else ratio(tally.tokens, tally.drawn),
            endpoints=rollout.servers if endpoint else None,
            left_out=left_out.counted(),
        )
        run.finish(result.figures())
        return result


def _from_policy(
    project: Project,
    ref: ModelRef,
    chosen: Sequence[Prompt],
    round: int,
    fingerprint: str,
    run: Run,
    left_out: LeftOut,
) -> Tally:
    """Draw and store the lists that are missing, by the project's own policy."""
    settings = project.config.sample
    model, tokenization = load_policy(project, ref)
    kept = fitting(project, tokenization, chosen, settings.max_tokens, left_out)
    known = {item.id for item in project.store.items(source="sample", round=round)}
    todo = [(p, ids) for p, ids in kept if item_id(p, ref.version, fingerprint) not in known]
    tally, tokens = Tally(lists=len(kept)), 0
    seed = derive(project.config.project.seed, "sample")
    engine = make_engine({"policy": Policy(model)}, tokenization, seed, project.placement)
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
            tally.near_duplicates += dups
            tally.drawn += sum(len(x) for x in lists)
            tally.ended += sum(s.ended for x in lists for s in x)
            tokens += sum(len(s.ids) for x in lists for s in x)
            bar.update(len(part))
    tally.tokens = tokens
    if tokenization.runs_on and tally.ended < tally.drawn / 2:
        project.say(f"warning: {tally.ended} of {tally.drawn} answers ended by themselves: {tokenization.runs_on}")
    return tally


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
