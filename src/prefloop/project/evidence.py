"""What a stage knows when it begins and that its metrics do not say: people, prompts, reward models.

It goes into `evidence.json` of the run folder, so that a diagnosis needs the folder alone, wherever it was copied to.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from statistics import median
from typing import Any

from prefloop.diagnose.records import Annotator, Data
from prefloop.labels.annotators import PersonReport, annotator_report
from prefloop.labels.votes import Tiers
from prefloop.project.project import ModelRef, Project
from prefloop.record import RUNS, Run, read_json, write_json_atomic
from prefloop.store import ModelRow
from prefloop.types import Item, Prompt

LOOKED_AT = 500  # held-out prompts that are compared with the training prompts
AMONG = 20_000  # training prompts that they are compared with
NEAR = 0.8  # share of word triples that two prompts have in common
EXAMPLES = 3
ENOUGH = 20  # answers of a policy that show whether it ends them
MOST_LISTS = 5_000  # lists that people are judged by, and that a reward model's origin is read from

_WORD = re.compile(r"\w+")


def write_evidence(run: Run, **parts: Any) -> None:
    """Add parts to the run's evidence.json; a part that is there already is replaced."""
    path = run.path / "evidence.json"
    known = read_json(path) if path.exists() else {}
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
    report = annotator_report(ranked, criterion, gold, hardest=0)
    return [asdict(_annotator(person, report.enough)) for person in report.people]


def _annotator(person: PersonReport, enough: bool) -> Annotator:
    """Return what a diagnosis reads of a person: weights only where the annotator model can tell people apart."""
    fitted = person.reliability
    told = enough and fitted.known
    return Annotator(
        name=person.annotator,
        rankings=person.rankings,
        weight=fitted.weight if told else None,
        weight_se=fitted.weight_se if told else None,
        position=fitted.position if told else None,
        position_se=fitted.position_se if told else None,
        agreement=person.agreement.share,
        longer=person.longer_first.share,
        pairs=person.agreement.n,
    )


def judges_of(project: Project, judges: Sequence[ModelRow], policy: str) -> dict[str, Any]:
    """Return {criterion: what its reward model was measured to be, how many words the answers have that it learnt from
    (median), and how many of them are another policy's}.

    policy: the version that the run starts from.
    """
    found = {}
    for judge in judges:
        path = project.root / RUNS / judge.version
        result = Run(path).result if path.is_dir() else {}
        facts: dict[str, Any] = {"version": judge.version, "heldout": result.get("heldout")}
        lists = list(islice(project.store.items(criterion=judge.criterion, ranked=True), MOST_LISTS))
        if lists:
            facts["answer_words"] = median(len(c.text.split()) for i in lists for c in i.completions)
        sampled = [names for i in lists if (names := {c.policy_version for c in i.completions if c.policy_version})]
        if sampled:
            facts["from_other_policies"] = sum(policy not in names for names in sampled) / len(sampled)
        found[judge.criterion or judge.version] = facts
    return found


def knows_an_end(project: Project, policy: ModelRef, chat: bool) -> bool:
    """Return whether a policy was trained to end its answers, or has been seen to in lists that it was sampled for.

    chat: whether it has a chat template, which models that were trained on whole answers have
    """
    lists = islice(project.store.items(), MOST_LISTS)
    known = [c.finish_reason for i in lists for c in i.completions if c.policy_version == policy.version]
    if len(known) >= ENOUGH:
        return 2 * known.count("stop") >= len(known)
    return policy.registered or chat


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
