"""Reports on the people who ranked and on the items, one report for each criterion, with the evidence in words.

`reliability` estimates how much a person's order follows what others see. Everything else is counted: ties, speed,
agreement with others, gold answers met, and how often the text shown earlier or the longer text is preferred. Nobody is
called a spammer by one number alone: each suspicion has a sentence that says why, and a person should look into it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prefloop.labels.agreement import Agreement, Estimate, kendall_tau, pair_alpha, pairwise_agreement
from prefloop.labels.reliability import AnnotatorReliability, Reliability, fit_reliability
from prefloop.labels.suspicion import Evidence, Figures, suspect, typical
from prefloop.labels.tallies import Counted, Tallies
from prefloop.labels.votes import Tiers
from prefloop.types import Item

HARDEST = 20


@dataclass(frozen=True)
class PersonReport:
    """Describes one annotator on one criterion. Each share is a share of pairs of completions.

    rankings, items: how many of this person's rankings compare something, and of how many items
    pairs:           how many pairs these rankings order or tie
    ties:            the share of these pairs that are tied
    seconds:         the median time for an item; None where it was never measured
    seconds_per_word: the median time for a word of prompt and completions; None where it was never measured
    agreement:       with other people, among the pairs that both put in an order
    gold:            with the pairs that the expected answers order; a tie counts half
    earlier_first:   how often the completion shown earlier wins an untied pair; 0.5 means no bias
    longer_first:    how often the longer text wins an untied pair
    reliability:     the weight, standard error and more from the annotator model
    suspicions:      reasons to look at this person; empty for nearly everybody
    """

    annotator: str
    rankings: int
    items: int
    pairs: int
    ties: float | None
    seconds: float | None
    seconds_per_word: float | None
    agreement: Counted
    gold: Counted
    earlier_first: Counted
    longer_first: Counted
    reliability: AnnotatorReliability
    suspicions: tuple[Evidence, ...]


@dataclass(frozen=True)
class ItemReport:
    """Describes how much people disagree about one item.

    prompt:    its start, by which people recognise the item
    people:    how many people ranked it
    agreement: the share of pairs in the same order, among its pairs that two people ordered; None without any
    doubt:     the mean chance over its pairs that a typical person orders them the other way than most people do;
               a tie counts half, so 0.5 is a coin toss
    """

    item: str
    prompt: str
    people: int
    agreement: float | None
    doubt: float


@dataclass(frozen=True)
class AnnotatorReport:
    """Holds everything about one criterion.

    hardest: the items of which two people ordered a pair, beginning with the one of most doubt
    """

    criterion: str
    items: int
    overlapping: int
    rankings: int
    agreement: Agreement
    tau: Estimate
    alpha: Estimate
    earlier_first: Counted
    longer_first: Counted
    seconds: float | None
    enough: bool
    reason: str | None
    people: tuple[PersonReport, ...]
    hardest: tuple[ItemReport, ...]
    reliability: Reliability

    @property
    def suspected(self) -> tuple[PersonReport, ...]:
        return tuple(person for person in self.people if person.suspicions)

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and tables without the model's qualities and pairs, because these grow with the data."""
        plain = {k: v for k, v in self.__dict__.items() if k not in ("reliability", "people", "hardest")}
        out = {k: asdict(v) if hasattr(v, "__dataclass_fields__") else v for k, v in plain.items()}
        model = {"position": self.reliability.position, "tie": self.reliability.tie, "sigma": self.reliability.sigma}
        people = [asdict(person) for person in self.people]
        return out | {"model": model, "people": people, "hardest": [asdict(item) for item in self.hardest]}


def annotator_report(
    items: Sequence[Item], criterion: str, gold: Mapping[str, Tiers] | None = None, *, hardest: int = HARDEST
) -> AnnotatorReport:
    """Report on the current rankings of one criterion. It takes seconds for 10,000 rankings.

    gold: {item id: expected tiers of completion ids, best first}
    """
    model = fit_reliability(items, criterion, gold)
    tallies = Tallies(items, criterion, gold or {})
    figures = [_figures(tallies, k, person) for k, person in enumerate(model.annotators)]
    everybody = typical(figures)
    people = tuple(_person(tallies, k, person, figures[k], everybody) for k, person in enumerate(model.annotators))
    ranked = [item for item in items if any(r.criterion == criterion for r in item.rankings)]
    return AnnotatorReport(
        criterion=criterion,
        items=len(tallies.votes.items),
        overlapping=int((tallies.judges >= 2).sum()),
        rankings=len(tallies.votes.person),
        agreement=pairwise_agreement(ranked, criterion),
        tau=kendall_tau(ranked, criterion),
        alpha=pair_alpha(ranked, criterion),
        earlier_first=tallies.earlier.of(None),
        longer_first=tallies.longer.of(None),
        seconds=everybody.seconds,
        enough=model.enough,
        reason=model.reason,
        people=people,
        hardest=_hardest(ranked, tallies, model, hardest),
        reliability=model,
    )


def _figures(tallies: Tallies, k: int, person: AnnotatorReliability) -> Figures:
    seconds, per_word = tallies.speed(person.annotator)
    return Figures(
        reliability=person,
        ties=tallies.ties.of(k),
        seconds=seconds,
        seconds_per_word=per_word,
        agreement=tallies.agree.of(k),
        gold=tallies.gold.of(k),
        earlier_first=tallies.earlier.of(k),
        longer_first=tallies.longer.of(k),
    )


def _person(
    tallies: Tallies, k: int, person: AnnotatorReliability, figures: Figures, everybody: Figures
) -> PersonReport:
    return PersonReport(
        annotator=person.annotator,
        rankings=person.rankings,
        items=tallies.items_of(k),
        pairs=figures.ties.n,
        ties=figures.ties.share,
        seconds=figures.seconds,
        seconds_per_word=figures.seconds_per_word,
        agreement=figures.agreement,
        gold=figures.gold,
        earlier_first=figures.earlier_first,
        longer_first=figures.longer_first,
        reliability=person,
        suspicions=suspect(figures, everybody),
    )


def _hardest(ranked: Sequence[Item], tallies: Tallies, model: Reliability, most: int) -> tuple[ItemReport, ...]:
    agreement = tallies.agreement_by_item()
    starts = {item.id: item.prompt.start for item in ranked}
    found = []
    for n, name in enumerate(tallies.votes.items):
        pairs = model.soft_pairs(name)
        if agreement[n] is not None and pairs:
            doubt = sum(min(pair.p, 1 - pair.p) for pair in pairs) / len(pairs)
            found.append(ItemReport(name, starts[name], int(tallies.judges[n]), agreement[n], doubt))
    return tuple(sorted(found, key=lambda item: (-item.doubt, item.item))[:most])
