"""The parts of docs/diagnosis.md that are made from the rules and the causes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from prefloop.diagnose.registry import CauseRule, Rule, causes, rules


def rules_section() -> str:
    """Return a section a rule, by family: what is seen, why it matters, what to do, where the threshold is from."""
    explained = {rule.id: [c for c in causes() if rule.id in c.explains] for rule in rules()}
    lines: list[str] = []
    for family, some in groupby(rules(), key=lambda rule: rule.family):
        lines += [f"### {family.replace('_', ' ').capitalize()}", ""]
        for rule in some:
            lines += [*_rule(rule, explained[rule.id]), ""]
    return "\n".join(lines).rstrip() + "\n"


def _rule(rule: Rule, found: list[CauseRule]) -> Iterator[str]:
    expected = rule.expected
    yield f"#### {rule.id}"
    yield ""
    yield f"**{rule.broke}** {rule.meaning}"
    yield ""
    yield f"- Expected: {expected.range} ({expected.unit}; {expected.estimator}; {expected.aggregation})."
    yield f"- Source: {expected.source}."
    yield f"- Kind: {rule.kind}; severity: {rule.severity}; runs of {', '.join(rule.stages)}; reads {_reads(rule)}."
    if found:
        likely = sorted(found, key=lambda cause: -cause.explains[rule.id])[:3]
        yield f"- What to do: {' '.join(f'*{cause.title}*: {cause.remedy}' for cause in likely)}"
    yield f"- What it cannot tell: {rule.cannot_tell}"


def _reads(rule: Rule) -> str:
    return ", ".join(f"`{name}`" for name in rule.reads) if rule.reads else "the records of the run"


def causes_section() -> str:
    """Return a row a cause: what it is called, and what to do."""
    lines = ["| cause | runs of | what to do |", "|---|---|---|"]
    for cause in causes():
        lines.append(f"| **{cause.title}** (`{cause.id}`) | {', '.join(cause.stages)} | {cause.remedy} |")
    return "\n".join(lines) + "\n"
