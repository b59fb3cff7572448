"""diagnose: what went wrong in a run, what caused it, and what to do next."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import click

from prefloop.cli.common import Common, Verb, common, print_json
from prefloop.diagnose.diagnosis import Diagnosis
from prefloop.diagnose.finding import Finding

_WIDTH = 100


@click.command("diagnose", cls=Verb)
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--stage", metavar="STAGE", help="Only runs of this stage: sft, reward, align or evaluate.")
@common
def diagnose(asked: Common, runs: Sequence[str], stage: str | None) -> int:
    """Say what went wrong in a run, what caused it, and what to do next.

    Reads run folders and nothing else: metrics, settings, samples, and what the stage noted of people and prompts. RUN
    is the name of a run or a folder; without one, the newest run of each stage and round is read. Each finding says
    what was seen and since which step, which expectation broke, the causes in order of likelihood with the evidence for
    (+) and against (-) each, and the next command. Exit code 1 if there is a finding that is more than a note.

    \b
    Example:  prefloop diagnose
              prefloop diagnose align-002 --json
    Next:     docs/diagnosis.md has a section on each rule
    """
    from prefloop.stages.diagnosing import diagnose_runs

    found = diagnose_runs(asked.root.absolute(), runs, stage)
    if asked.as_json:
        print_json({"ok": not any(d.alarms for d in found), "runs": [d.to_json() for d in found]})
    else:
        click.echo("\n".join(line for d in found for line in lines(d)))
    return int(any(d.alarms for d in found))


def lines(diagnosis: Diagnosis) -> Iterator[str]:
    """A diagnosis for the terminal."""
    alarms, notes = len(diagnosis.alarms), len(diagnosis.findings) - len(diagnosis.alarms)
    state = "" if diagnosis.status == "done" else f", {diagnosis.status}"
    steps = f", {_count(diagnosis.steps, 'step')}" if diagnosis.steps else ""
    head = f"{diagnosis.run} ({diagnosis.stage}{steps}{state})"
    if not diagnosis.findings:
        yield f"{head}: nothing unusual by the {len(diagnosis.asked)} rules that could be asked"
    else:
        counted = [_count(n, what) for n, what in ((alarms, "finding"), (notes, "note")) if n]
        yield f"{head}: {', '.join(counted)}"
    for number, finding in enumerate(diagnosis.findings, 1):
        yield ""
        yield from _finding(number, finding)
    for problem in diagnosis.problems:
        yield f"  not read: {problem}"
    yield ""


def _finding(number: int, finding: Finding) -> Iterator[str]:
    since = f", since step {finding.since}" if finding.since is not None else ""
    sure = f", {finding.confidence:.0%} sure" if finding.causes else ""
    yield f"  {number}. {finding.title} ({finding.severity}{since}{sure})"
    yield from _wrapped(f"broke: {finding.broke}")
    for symptom in finding.symptoms:
        expected = symptom.expected
        how = ", ".join(part for part in (expected.unit, expected.estimator, expected.aggregation) if part != "-")
        yield from _wrapped(
            f"seen:  {symptom.said}. Expected: {expected.range} ({how}; {expected.source}) [{symptom.rule}]"
        )
    said = {symptom.said for symptom in finding.symptoms}
    for place, cause in enumerate(finding.causes, 1):
        yield from _wrapped(f"{'cause' if place == 1 else 'or'}:  {cause.title} ({cause.confidence:.0%})")
        if place == 1:
            for fact in (fact for fact in cause.evidence if fact.said not in said):
                yield from _wrapped(f"{'+' if fact.weight > 0 else '-'} {fact.said}", 9)
    action = finding.action
    yield from _wrapped(f"next:  {action.said}" + (f"  {action.command}" if action.command else ""))


def _wrapped(text: str, indent: int = 5) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + 7),
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
