"""Reports on the people who ranked and on the items, one for each criterion, with the evidence in words.

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
    """One annotator, one criterion. Shares are of pairs of completions.

    rankings, items: how many compare something.   pairs: that they order or tie.   ties: share of these tied.
    seconds, seconds_per_word: medians of an item (words of prompt and completions); None where never measured.
    agreement:       with others, of the pairs both put in an order.
    gold:            of the pairs that the expected answers order; a tie is half right.
    earlier_first:   untied pairs in which the one shown earlier is preferred; 0.5 is no bias.
    longer_first:    untied pairs in which the longer text is preferred.
    reliability:     weight, standard error and more of the annotator model.
    suspicions:      empty for nearly everybody.
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
    """One item. `agreement`: of its pairs that two people put in an order.   doubt: the mean chance, over its pairs,

    that a typical person would order them the other way than most (a tie counts half): 0.5 is a toss-up.
    prompt: its start, which is what people know the item by."""

    item: str
    prompt: str
    people: int
    agreement: float | None
    doubt: float


@dataclass(frozen=True)
class AnnotatorReport:
    """Everything about one criterion. hardest: items that two people put in an order, those with most doubt first."""

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
        """Plain lists and tables; the model's qualities and pairs, which grow with the data, are left out."""
        plain = {k: v for k, v in self.__dict__.items() if k not in ("reliability", "people", "hardest")}
        out = {k: asdict(v) if hasattr(v, "__dataclass_fields__") else v for k, v in plain.items()}
        model = {"position": self.reliability.position, "tie": self.reliability.tie, "sigma": self.reliability.sigma}
        people = [asdict(person) for person in self.people]
        return out | {"model": model, "people": people, "hardest": [asdict(item) for item in self.hardest]}


def annotator_report(
    items: Sequence[Item], criterion: str, gold: Mapping[str, Tiers] | None = None, *, hardest: int = HARDEST
) -> AnnotatorReport:
    """Report on the current rankings of one criterion. 10,000 rankings take seconds.

    gold: {item id: expected tiers of completion ids, best first}.
    """
    model = fit_reliability(items, criterion, gold)
    tallies = Tallies(items, criterion, gold or {})
    figures = [_figures(tallies, k, reader) for k, reader in enumerate(model.readers)]
    everybody = typical(figures)
    people = tuple(_person(tallies, k, reader, figures[k], everybody) for k, reader in enumerate(model.readers))
    asked = [item for item in items if any(r.criterion == criterion for r in item.rankings)]
    return AnnotatorReport(
        criterion=criterion,
        items=len(tallies.votes.items),
        overlapping=int((tallies.judges >= 2).sum()),
        rankings=len(tallies.votes.person),
        agreement=pairwise_agreement(asked, criterion),
        tau=kendall_tau(asked, criterion),
        alpha=pair_alpha(asked, criterion),
        earlier_first=tallies.earlier.of(None),
        longer_first=tallies.longer.of(None),
        seconds=everybody.seconds,
        enough=model.enough,
        reason=model.reason,
        people=people,
        hardest=_hardest(asked, tallies, model, hardest),
        reliability=model,
    )


def _figures(tallies: Tallies, k: int, reader: AnnotatorReliability) -> Figures:
    seconds, per_word = tallies.speed(reader.annotator)
    return Figures(
        reader=reader,
        ties=tallies.ties.of(k),
        seconds=seconds,
        seconds_per_word=per_word,
        agreement=tallies.agree.of(k),
        gold=tallies.gold.of(k),
        earlier_first=tallies.earlier.of(k),
        longer_first=tallies.longer.of(k),
    )


def _person(
    tallies: Tallies, k: int, reader: AnnotatorReliability, figures: Figures, everybody: Figures
) -> PersonReport:
    return PersonReport(
        annotator=reader.annotator,
        rankings=reader.rankings,
        items=tallies.items_of(k),
        pairs=figures.ties.n,
        ties=figures.ties.share,
        seconds=figures.seconds,
        seconds_per_word=figures.seconds_per_word,
        agreement=figures.agreement,
        gold=figures.gold,
        earlier_first=figures.earlier_first,
        longer_first=figures.longer_first,
        reliability=reader,
        suspicions=suspect(figures, everybody),
    )


def _hardest(asked: Sequence[Item], tallies: Tallies, model: Reliability, most: int) -> tuple[ItemReport, ...]:
    agreement = tallies.agreement_by_item()
    starts = {item.id: item.prompt.start for item in asked}
    found = []
    for n, name in enumerate(tallies.votes.items):
        pairs = model.soft_pairs(name)
        if agreement[n] is not None and pairs:
            doubt = sum(min(pair.p, 1 - pair.p) for pair in pairs) / len(pairs)
            found.append(ItemReport(name, starts[name], int(tallies.judges[n]), agreement[n], doubt))
    return tuple(sorted(found, key=lambda item: (-item.doubt, item.item))[:most])
