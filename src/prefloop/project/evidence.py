"""What a stage knows when it begins and that its metrics do not say: people, prompts, reward models.

It goes into `evidence.json` of the run folder, so that a diagnosis needs the folder alone, wherever it was copied to.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from prefloop.diagnose.records import Annotator, Data
from prefloop.labels.ranking import independent, mid_ranks
from prefloop.labels.reliability import fit_reliability
from prefloop.labels.votes import Tiers
from prefloop.project.project import Project
from prefloop.record import RUNS, Run, write_json_atomic
from prefloop.store import ModelRow
from prefloop.types import Item, Prompt

LOOKED_AT = 500  # held-out prompts that are compared with the training prompts
AMONG = 20_000  # training prompts that they are compared with
NEAR = 0.8  # share of word triples that two prompts have in common
EXAMPLES = 3
MOST_LISTS = 5_000  # lists that people are judged by, and that a reward model's origin is read from

_WORD = re.compile(r"\w+")


def write_evidence(run: Run, **parts: Any) -> None:
    """Add parts to the run's evidence.json; a part that is there already is replaced."""
    path = run.path / "evidence.json"
    known = run.evidence if path.exists() else {}
    write_json_atomic(path, {**known, **parts})


def data_of(train: Sequence[Prompt], heldout: Sequence[Prompt]) -> dict[str, Any]:
    """Return how many held-out prompts are training prompts too, or nearly, and how many training prompts repeat."""
    texts = Counter(_plain(p.text) for p in train)
    leaked = [p for p in heldout if _plain(p.text) in texts]
    among = _Near([p.text for p in train[:AMONG]])
    looked = [p for p in heldout if _plain(p.text) not in texts][:LOOKED_AT]
    near = [p for p in looked if among.has(p.text)]
    rest = len(heldout) - len(leaked)
    return asdict(
        Data(
            train=len(train),
            heldout=len(heldout),
            leaked=len(leaked),
            near=round(len(near) * rest / len(looked)) if looked else 0,
            duplicates=sum(n - 1 for n in texts.values()),
            examples=tuple(p.text[:200] for p in (*leaked, *near)[:EXAMPLES]),
        )
    )


def people_of(items: Sequence[Item], criterion: str, gold: Mapping[str, Tiers]) -> list[dict[str, Any]]:
    """Return each annotator with their reliability; [] where nobody has ranked by the criterion."""
    ranked = [item for item in items if any(r.criterion == criterion for r in item.rankings)][:MOST_LISTS]
    if not ranked:
        return []
    counts: Counter[str] = Counter()
    same: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    longer: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for item in ranked:
        lengths = {c.id: len(c.text) for c in item.completions}
        places = [(r.annotator, mid_ranks(r.tiers)) for r in independent(item.rankings) if r.criterion == criterion]
        for who, place in places:
            counts[who] += 1
            _count_longer(longer[who], place, lengths)
        for n, (who, one) in enumerate(places):
            for other_who, other in places[n + 1 :]:
                if who != other_who:
                    _count_same(same[who], same[other_who], one, other)
    fitted = fit_reliability(ranked, criterion, gold)
    told = {a.annotator: a for a in fitted.annotators} if fitted.enough else {}
    people = []
    for who in sorted(counts):
        a, (agree, pairs), (long, of) = told.get(who), same[who], longer[who]
        known = a is not None and a.known
        people.append(
            asdict(
                Annotator(
                    name=who,
                    rankings=counts[who],
                    weight=a.weight if a and known else None,
                    weight_se=a.weight_se if a and known else None,
                    position=a.position if a and known else None,
                    position_se=a.position_se if a and known else None,
                    agreement=agree / pairs if pairs else None,
                    longer=long / of if of else None,
                    pairs=pairs,
                )
            )
        )
    return people


def judges_of(project: Project, judges: Sequence[ModelRow], policy: str) -> dict[str, Any]:
    """Return {criterion: what its reward model was measured to be, and how much of what it learnt from is foreign}.

    policy: the version that the run starts from.
    """
    found = {}
    for judge in judges:
        path = project.root / RUNS / judge.version
        result = Run(path).result if path.is_dir() else {}
        facts: dict[str, Any] = {"version": judge.version, "heldout": result.get("heldout")}
        lists = islice(project.store.items(criterion=judge.criterion, ranked=True), MOST_LISTS)
        sampled = [names for i in lists if (names := {c.policy_version for c in i.completions if c.policy_version})]
        if sampled:
            facts["from_other_policies"] = sum(policy not in names for names in sampled) / len(sampled)
        found[judge.criterion or judge.version] = facts
    return found


def both_sides(project: Project) -> tuple[list[Prompt], list[Prompt]]:
    """Return (training prompts, held-out prompts) of the store."""
    share = project.config.data.heldout
    return project.store.prompts(split="train", heldout=share), project.store.prompts(split="heldout", heldout=share)


def _plain(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold()))


class _Near:
    """Finds a text of which nearly all word triples are in another one (Jaccard), by an index of triples."""

    def __init__(self, texts: Iterable[str]):
        self.sizes: list[int] = []
        self.index: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, text in enumerate(texts):
            triples = _triples(text)
            self.sizes.append(len(triples))
            for triple in triples:
                self.index[triple].append(number)

    def has(self, text: str) -> bool:
        triples = _triples(text)
        if not triples:
            return False
        shared: Counter[int] = Counter()
        for triple in triples:
            shared.update(self.index.get(triple, ()))
        return any(n / (len(triples) + self.sizes[number] - n) >= NEAR for number, n in shared.most_common(5))


def _triples(text: str) -> set[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    return {tuple(words[n : n + 3]) for n in range(max(1, len(words) - 2))} if words else set()


def _count_longer(into: list[int], place: Mapping[str, float], lengths: Mapping[str, int]) -> None:
    ids = list(place)
    for n, a in enumerate(ids):
        for b in ids[n + 1 :]:
            gap, length = place[b] - place[a], lengths.get(a, 0) - lengths.get(b, 0)  # rank 1 is the best
            if gap and length:
                into[0] += (gap > 0) == (length > 0)
                into[1] += 1


def _count_same(one: list[int], other: list[int], a: Mapping[str, float], b: Mapping[str, float]) -> None:
    ids = [id for id in a if id in b]
    for n, x in enumerate(ids):
        for y in ids[n + 1 :]:
            product = (a[x] - a[y]) * (b[x] - b[y])
            if product:
                for into in (one, other):
                    into[0] += product > 0
                    into[1] += 1
