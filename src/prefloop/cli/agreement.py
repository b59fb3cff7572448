"""agreement: what the rankings say about the people who gave them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click

from prefloop.cli.common import Common, Verb, common, print_json
from prefloop.errors import ConfigError

if TYPE_CHECKING:
    from prefloop.labels.agreement import Agreement, Estimate
    from prefloop.labels.annotators import AnnotatorReport, PersonReport
    from prefloop.results import Agreed


@click.command("agreement", cls=Verb, sections=("annotate.criterion", "reward.annotators"))
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="FILE", help="A file of rankings instead of a project."
)
@click.option("--as", "format", metavar="FORMAT", help="What the file is, where it cannot be told from the records.")
@click.option("--criterion", metavar="NAME", help="One criterion only (default: each).")
@click.option("--people", type=click.IntRange(min=0), default=20, show_default=True, help="How many people to list.")
@click.option("--items", type=click.IntRange(min=0), default=10, show_default=True, help="How many hard items to list.")
@common
def agreement(
    asked: Common, data: Path | None, format: str | None, criterion: str | None, people: int, items: int
) -> None:
    """Show how far people agree, whose rankings to look at, and which items are hard.

    Reads the rankings and gold items of the store, or a file of rankings, and writes nothing. For each criterion it
    prints the agreement with its 95 % interval, Kendall's tau and Krippendorff's alpha; for each person the weight in
    the annotator model and shares that point to careless or biased rankings; the people under suspicion, with the
    evidence; and the items on which people differ most. docs/annotators.md explains each number. --json lists
    everybody.

    \b
    Example:  prefloop agreement
              prefloop agreement --data rankings.jsonl.gz --criterion quality
    Next:     prefloop reward --annotators weighted
    """
    from prefloop.api.project import Project
    from prefloop.stages.agreement import agreement_file

    if format and data is None:
        raise ConfigError("--as says what --data FILE is: name the file too")
    next_command = ""
    with redirect_stdout(sys.stderr):
        if data is not None:
            outcome = agreement_file(data, format, criterion, items)
        else:
            with Project.open(asked.root, asked.overrides, quiet=asked.quiet) as project:
                outcome = project.agreement(criterion, items)
                next_command = project.next_command(outcome)
    if asked.as_json:
        print_json(outcome.to_json())
    else:
        closing = [f"next: {next_command}"] if next_command else []
        click.echo("\n".join([*lines(outcome, people), *closing]))


def lines(result: Agreed, people: int) -> Iterator[str]:
    """The result for people to read."""
    if result.rejected and result.reasons:
        yield f"{result.rejected} rows could not be read; the first: {result.reasons[0]}"
    for name, report in result.criteria.items():
        yield from _criterion(name, report, people)


def _criterion(name: str, r: AnnotatorReport, people: int) -> Iterator[str]:
    a, tau, alpha = r.agreement, r.tau, r.alpha
    yield f'"{name}": {r.rankings} rankings of {r.items} items by {len(r.people)} people;'
    yield f"  {r.overlapping} items ranked by two or more"
    yield f"  two people agree on {_interval(a.share, a, '.1%')} of {a.pairs} untied pairs"
    yield f"  Kendall tau {_interval(tau.value, tau, '.3f')}"
    yield f"  Krippendorff alpha {_interval(alpha.value, alpha, '.3f')}"
    earlier = r.earlier_first.share
    shown_first = "the order shown is not known" if earlier is None else f"{_share(earlier)} the one shown earlier"
    yield f"  {_share(a.tie_share)} of all pairs are ties; of the others"
    yield f"  {_share(r.longer_first.share)} prefer the longer text, {shown_first}"
    if not r.enough:
        yield f"  too little overlap to know people: {r.reason}"
    listed = sorted(r.people, key=lambda p: (p.reliability.weight, p.annotator))[:people]
    if listed:
        yield ""
        yield from _table(listed)
        if len(listed) < len(r.people):
            yield f"  ... {len(r.people) - len(listed)} more, of higher weight (--people {len(r.people)})"
    yield ""
    yield f"  to look at: {len(r.suspected) or 'nobody'}"
    for person in r.suspected:
        yield f"    {person.annotator}"
        yield from (f"      {evidence.text}" for evidence in person.suspicions)
    if r.hardest:
        yield ""
        yield "  hardest items (doubt 0.50 is a toss-up)                     people  agree  doubt"
        for item in r.hardest:
            name = item.prompt or item.item
            name = name if len(name) <= 56 else name[:55] + "…"
            yield f"    {name:<56}{item.people:>8}{_share(item.agreement):>7}{item.doubt:>7.2f}"
    yield ""


_COLUMNS = (("lists", 6), ("weight", 16), ("agree", 7), ("gold", 6), ("ties", 6), ("earlier", 9), ("longer", 8))


def _table(people: list[PersonReport]) -> Iterator[str]:
    """Lowest weight first: the ones to look at."""
    yield f"  {'person':<26}" + "".join(f"{name:>{width}}" for name, width in _COLUMNS) + "  seconds"
    for p in people:
        model = p.reliability
        weight = f"{model.weight:.2f} ± {model.weight_se:.2f}{' ' if model.known else '?'}"
        seconds = "-" if p.seconds is None else f"{p.seconds:.0f}"
        agree, gold, earlier, longer = (
            _share(counted.share) for counted in (p.agreement, p.gold, p.earlier_first, p.longer_first)
        )
        yield (
            f"  {p.annotator:<26}{p.rankings:>6}{weight:>16}{agree:>7}{gold:>6}{_share(p.ties):>6}"
            f"{earlier:>9}{longer:>8}{seconds:>9}"
        )
    yield "  weight: the order follows what others see as a typical person's does (1), not at all (0), upside down (-1)"
    if not all(p.reliability.known for p in people):
        yield "  ? = too few shared comparisons to tell a coin-flipper from a careful person"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _interval(value: float | None, bounds: Agreement | Estimate, form: str) -> str:
    if value is None:
        return "-"
    if bounds.low is None:
        return format(value, form)
    return f"{value:{form}} ({bounds.low:{form}} to {bounds.high:{form}})"
