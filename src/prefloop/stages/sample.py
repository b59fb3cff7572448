"""Sample K completions a prompt, to be ranked: one item each, with token ids, logprobs and policy version kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from prefloop.engine.base import Sampled, Sampling
from prefloop.engine.local import LocalEngine
from prefloop.errors import NothingToDoError
from prefloop.models.policy import Policy
from prefloop.models.text import Codec
from prefloop.stages.left_out import LeftOut
from prefloop.stages.project import Outcome, Project, derive, fitting, load_policy
from prefloop.store.split import bucket
from prefloop.types import Completion, Item, Prompt, digest

ATTEMPTS = 3  # fresh draws for a completion nearly equal to another of its list
NEAR = 0.92  # SequenceMatcher ratio from which two texts count as nearly equal
CHUNK = 64  # prompts between two writes to the store


def sample(project: Project, round: int | None = None) -> Outcome:
    """Sample from the policy at the start of a round (by default: the first round not aligned yet)."""
    settings, seed = project.config.sample, project.config.project.seed
    round = project.aligned_rounds() if round is None else project.existing_round(round, starts=True)
    ref = project.policy(round).here()
    # by hash, not by age: a sample of the prompts, the same whenever it is drawn
    prompts = sorted(project.store.prompts(), key=lambda p: (bucket(p), p.id))
    chosen = _spread(prompts, settings.prompts, round)
    if not chosen:
        raise NothingToDoError("there are no prompts yet: run prefloop import FILE")
    inputs = {"policy": ref.weights, "round": round, "prompts": project.snapshot("prompts", [p.id for p in chosen])}
    fingerprint = project.fingerprint("sample", settings, inputs)
    if done := project.done("sample", fingerprint):
        return done
    starts = round > project.latest_round()
    with project.lock():
        run = project.begin("sample", fingerprint, inputs)
        if starts:
            project.say(
                f"sample: this starts round {round}, with the policy that round {round - 1} made ({ref.version})"
            )
        model, codec = load_policy(project, ref)
        engine = LocalEngine({"policy": Policy(model)}, codec, derive(seed, "sample"), device=project.device)
        left_out = LeftOut(project)
        kept = fitting(project, codec, chosen, settings.max_tokens, left_out)
        known = {item.id for item in project.store.items(source="sample", round=round)}
        todo = [(p, ids) for p, ids in kept if item_id(p, ref.version, fingerprint) not in known]
        drawn = duplicates = ended = tokens = 0
        with project.progress(len(kept), "sample", len(kept) - len(todo)) as bar:
            for start in range(0, len(todo), CHUNK):
                part = todo[start : start + CHUNK]
                lists, dups = draw_lists(engine, codec, part, settings.k, _sampling(project), settings.avoid_duplicates)
                items = [
                    make_item(codec, prompt, texts, ref.version, fingerprint, round, project)
                    for (prompt, _), texts in zip(part, lists, strict=True)
                ]
                project.store.add(items)
                duplicates += dups
                drawn += sum(len(x) for x in lists)
                ended += sum(s.ended for x in lists for s in x)
                tokens += sum(len(s.ids) for x in lists for s in x)
                bar.update(len(part))
        if codec.runs_on and ended < drawn / 2:
            project.say(f"warning: {ended} of {drawn} answers ended by themselves: {codec.runs_on}")
        result = {
            "round": round,
            "starts_round": starts,
            "policy": ref.version,
            "prompts": len(kept),
            "completions": len(kept) * settings.k,
            "drawn_now": drawn,
            "near_duplicates": duplicates,
            "ended": ratio(ended, drawn),
            "mean_tokens": ratio(tokens, drawn),
            **left_out.to_json(),
        }
        run.finish(result)
        return Outcome("sample", run.name, result)


def _spread(prompts: Sequence[Prompt], limit: int | None, round: int) -> list[Prompt]:
    """`limit` prompts, others each round as far as there are others, held-out ones in their usual share.

    Sorted by bucket, held-out prompts come first; taking every n-th keeps their share.
    """
    if limit is None or limit >= len(prompts):
        return list(prompts)
    stride = len(prompts) / limit
    phase = round * 0.618 % 1.0  # golden ratio: successive rounds fall far from each other
    return [prompts[int((i + phase) * stride)] for i in range(limit)]


def _sampling(project: Project) -> Sampling:
    s = project.config.sample
    return Sampling(s.max_tokens, s.temperature, s.top_p, s.batch)


def item_id(prompt: Prompt, version: str, fingerprint: str) -> str:
    """Known before sampling, so that an interrupted run sees what it already has."""
    return digest("sampled", prompt.id, version, fingerprint)


def draw_lists(
    engine: LocalEngine,
    codec: Codec,
    prompts: Sequence[tuple[Prompt, list[int]]],
    k: int,
    sampling: Sampling,
    avoid_duplicates: bool,
) -> tuple[list[list[Sampled]], int]:
    """K samples for each prompt; one nearly equal to an earlier of its list is drawn again, a few times.

    Returns the lists, and how many near-duplicates had to stay.
    """
    slots = [(n, j) for n in range(len(prompts)) for j in range(k)]
    lists: list[list[Sampled | None]] = [[None] * k for _ in prompts]
    left = 0
    for attempt in range(ATTEMPTS + 1):
        keys = [derive(0, prompts[n][0].id, j, attempt) for n, j in slots]
        for (n, j), got in zip(slots, engine.generate([prompts[n][1] for n, _ in slots], keys, sampling), strict=True):
            lists[n][j] = got
        if not avoid_duplicates:
            break
        slots = [(n, j) for n, j in slots if _repeats(codec, lists[n], j)]
        left = len(slots)
        if not slots:
            break
    return [[s for s in row if s is not None] for row in lists], left


def _repeats(codec: Codec, row: Sequence[Sampled | None], place: int) -> bool:
    """Whether a sample is nearly the same text as an earlier one of its list."""
    mine = _fold(codec, row[place])
    return any(_near(mine, _fold(codec, other)) for other in row[:place])


def _fold(codec: Codec, sample: Sampled | None) -> str:
    return " ".join(codec.decode(sample.ids).casefold().split()) if sample else ""


def _near(a: str, b: str) -> bool:
    if a == b:
        return True
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    return matcher.real_quick_ratio() > NEAR and matcher.quick_ratio() > NEAR and matcher.ratio() > NEAR


def make_item(
    codec: Codec, prompt: Prompt, samples: Sequence[Sampled], version: str, key: str, round: int, project: Project
) -> Item:
    """An item of sampled completions, everything about their making kept."""
    id = item_id(prompt, version, key)
    completions = tuple(
        to_completion(codec, prompt, f"{id}:c{j}", s, version, project.config.sample.model_dump())
        for j, s in enumerate(samples)
    )
    return Item(id, prompt, completions, round=round, source="sample")


def to_completion(
    codec: Codec, prompt: Prompt, id: str, sample: Sampled, version: str, sampling: Mapping[str, object]
) -> Completion:
    return Completion(
        id=id,
        text=codec.decode(sample.ids, prompt),
        model=version,
        policy_version=version,
        token_ids=sample.ids,
        logprobs=sample.logprobs,
        finish_reason="stop" if sample.ended else "length",
        sampling=sampling,
        tokenizer=codec.fingerprint,
    )


def ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
