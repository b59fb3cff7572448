"""The annotators whose rankings were learnt from."""

from __future__ import annotations

from prefloop.diagnose.finding import Expected, Severity
from prefloop.diagnose.records import Annotator, RunRecord
from prefloop.diagnose.registry import Seen, rule

REWARD = ("reward",)


def inverted(people: tuple[Annotator, ...] | list[Annotator]) -> list[Annotator]:
    """Those whose order is surely the opposite of the others'."""
    return [p for p in people if p.weight is not None and p.weight_se is not None and p.weight + 2 * p.weight_se < 0]


def coins(people: tuple[Annotator, ...] | list[Annotator]) -> list[Annotator]:
    """Those whose order surely carries less than half of what a typical person's does, and is not inverted."""
    return [
        p
        for p in people
        if p.weight is not None
        and p.weight_se is not None
        and p.weight + 2 * p.weight_se < 0.5
        and p.weight + 2 * p.weight_se >= 0
    ]


def named(people: list[Annotator]) -> str:
    shown = ", ".join(f"{p.name} ({p.rankings} rankings)" for p in people[:4])
    return shown + (f" and {len(people) - 4} more" if len(people) > 4 else "")


def share(people: list[Annotator], run: RunRecord) -> float:
    """The share of the rankings that these people gave."""
    return sum(p.rankings for p in people) / max(1, sum(p.rankings for p in run.people))


def weighed(run: RunRecord) -> bool:
    """Return whether the run has counted people by their reliability, so that careless ones do little harm."""
    told_apart = any(person.weight is not None for person in run.people)
    return told_apart and run.setting("reward", "annotators") == "weighted"


def _severity(run: RunRecord) -> Severity | None:
    return "note" if weighed(run) else None


@rule(
    "annotator-inverted",
    kind="data",
    stages=REWARD,
    expected=Expected(
        "over 0", "weight: 1 is typical", "reliability model, 2 standard errors", "a person", "docs/reliability.md"
    ),
    broke="Nobody ranks upside down.",
    meaning="Somebody who takes 1 for the worst teaches the opposite of what they mean.",
    cannot_tell="Somebody with the opposite taste looks the same; ask.",
)
def annotator_inverted(run: RunRecord) -> Seen | None:
    found = inverted(list(run.people))
    if not found:
        return None
    return Seen(
        f"the order of {named(found)} is the opposite of the others' ({share(found, run):.0%} of the rankings)",
        None,
        min(p.weight or 0 for p in found),
        signal="reliability",
        severity=_severity(run),
    )


@rule(
    "annotator-careless",
    kind="data",
    stages=REWARD,
    expected=Expected(
        "over 0.5", "weight: 1 is typical", "reliability model, 2 standard errors", "a person", "docs/reliability.md"
    ),
    broke="People's orders tell something about the answers.",
    meaning="An order without relation to the others' adds noise to every list.",
    cannot_tell="Somebody who knows more than all others looks the same until another one with that knowledge ranks.",
)
def annotator_careless(run: RunRecord) -> Seen | None:
    found = coins(list(run.people))
    if not found or share(found, run) < 0.05:
        return None
    return Seen(
        f"the order of {named(found)} hardly follows the others' ({share(found, run):.0%} of the rankings)",
        None,
        min(p.weight or 0 for p in found),
        signal="reliability",
        severity=_severity(run),
    )


@rule(
    "agreement-at-chance",
    kind="data",
    stages=REWARD,
    expected=Expected(
        "over 0.55",
        "share of pairs",
        "agreement of two people",
        "pairs that two have ranked",
        "InstructGPT (0.73), Bai (0.63)",
    ),
    broke="Two people who rank the same list agree more often than a coin.",
    meaning="What people do not agree on no reward model can learn.",
    cannot_tell="Whether the task is unclear or people are careless.",
)
def agreement_at_chance(run: RunRecord) -> Seen | None:
    known = [p for p in run.people if p.agreement is not None and p.pairs >= 10]
    pairs = sum(p.pairs for p in known)
    if pairs < 60:
        return None
    mean = sum((p.agreement or 0) * p.pairs for p in known) / pairs
    return (
        Seen(
            f"people agree on {mean:.0%} of {pairs // 2} pairs",
            None,
            mean,
            signal="agreement",
            severity=_severity(run),
        )
        if mean < 0.55
        else None
    )


@rule(
    "position-decides",
    kind="data",
    stages=REWARD,
    expected=Expected(
        "within 0.5 and two standard errors of 0",
        "logits a place",
        "reliability model",
        "a person",
        "docs/reliability.md",
    ),
    broke="The order in which answers are shown does not decide their rank.",
    meaning="Somebody leaves the answers as they were shown.",
    cannot_tell="On items with answers of one quality the order shown is a fair guess.",
)
def position_decides(run: RunRecord) -> Seen | None:
    found = [
        p
        for p in run.people
        if p.position is not None and p.position_se is not None and abs(p.position) - 2 * p.position_se > 0.5
    ]
    if not found or share(found, run) < 0.05:
        return None
    return Seen(
        f"{named(found)} rank by the order shown ({share(found, run):.0%} of the rankings)",
        None,
        max(abs(p.position or 0) for p in found),
        signal="position",
        severity=_severity(run),
    )
