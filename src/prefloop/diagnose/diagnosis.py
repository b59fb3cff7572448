"""From rules that fired to findings: each symptom is explained once, by the likeliest cause that explains it.

A cause's score is a sum of log odds: its prior, what each symptom adds, what the absence of an expected symptom takes,
and its own evidence. So every number in a finding can be read off the rules, and no model was fitted that nobody can
follow. The weights were set on planted faults; docs/diagnosis.md says how, and how often they are right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from prefloop.diagnose.finding import Action, Cause, Evidence, Finding, Symptom
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import CauseRule, Rule, causes, rules
from prefloop.diagnose.statistics import corrected

CHANCE = 0.01  # a trend counts where chance would give it less often, corrected for all trends that were asked for
SHOWN = 4  # causes of a finding


@dataclass(frozen=True)
class Diagnosis:
    """Holds what is known of one run. asked: rules that could be asked.  problems: what could not be read, or asked."""

    run: str
    stage: str
    status: str
    steps: int
    findings: tuple[Finding, ...]
    asked: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """Return the findings that are more than a note."""
        return tuple(finding for finding in self.findings if finding.severity != "note")

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "stage": self.stage,
            "status": self.status,
            "steps": self.steps,
            "findings": [finding.to_json() for finding in self.findings],
            "asked": len(self.asked),
            "problems": list(self.problems),
        }


def diagnose(run: RunRecord, live: bool = False) -> Diagnosis:
    """Return what is wrong with a run, the most serious first. What breaks is named, and the others are asked.

    live: ask only the rules that are cheap enough for every evaluation of a run that goes on.
    """
    asked = [rule for rule in rules() if (rule.live or not live) and rule.readable(run)]
    symptoms, problems = symptoms_of(run, asked)
    readable = tuple(rule.id for rule in asked)
    findings, broken = explain(run, symptoms, set(readable))
    problems = [*run.problems, *problems, *broken]
    return Diagnosis(run.name, run.stage, run.status, run.steps, tuple(findings), readable, tuple(problems))


class Scored(NamedTuple):
    odds: float
    evidence: tuple[Evidence, ...]
    action: Action


def symptoms_of(run: RunRecord, asked: Iterable[Rule]) -> tuple[list[Symptom], list[str]]:
    """Return (what the rules see, rules that broke). A trend is kept where it stands out among all that were asked."""
    found, problems = [], []
    for rule in asked:
        try:
            symptom = rule.ask(run)
        except Exception as error:  # noqa: BLE001 -- records of other versions and damaged files must not hide the rest
            problems.append(f"the rule {rule.id} could not be asked ({type(error).__name__}: {error})")
            continue
        if symptom is not None:
            found.append(symptom)
    trends = [s for s in found if s.p is not None]
    chance = dict(zip((s.rule for s in trends), corrected([s.p or 0.0 for s in trends]), strict=True))
    return [s for s in found if s.p is None or chance[s.rule] < CHANCE], problems


def explain(run: RunRecord, symptoms: Sequence[Symptom], readable: set[str]) -> tuple[list[Finding], list[str]]:
    """Return (findings that cover all symptoms, causes that broke). A cause with a higher score explains first."""
    known, problems = [], []
    scored: dict[str, Scored] = {}
    seen = {symptom.rule for symptom in symptoms}
    for cause in causes():
        if run.stage not in cause.stages or not seen & set(cause.explains):
            continue
        try:
            scored[cause.id] = _score(cause, run, symptoms, readable)
        except Exception as error:  # noqa: BLE001 -- as for rules: one that cannot read a record must not hide the rest
            problems.append(f"the cause {cause.id} could not be looked for ({type(error).__name__}: {error})")
            continue
        known.append(cause)
    left = list(symptoms)
    findings = []
    while left:
        able = [cause for cause in known if any(s.rule in cause.explains for s in left)]
        able.sort(key=lambda cause: (-scored[cause.id].odds, cause.id))
        if not able:
            findings += [Finding(run.name, run.stage, (symptom,), ()) for symptom in left]
            break
        weight = able[0].explains
        taken = tuple(sorted((s for s in left if s.rule in weight), key=lambda s: -weight[s.rule]))
        rivals = [cause for cause in able if any(s.rule in cause.explains for s in taken)]
        findings.append(Finding(run.name, run.stage, taken, _causes(rivals, scored)))
        left = [s for s in left if s not in taken]
    order = ("error", "warning", "note")
    return sorted(findings, key=lambda f: (order.index(f.severity), -f.confidence)), problems


def _score(cause: CauseRule, run: RunRecord, symptoms: Sequence[Symptom], readable: set[str]) -> Scored:
    """Return the cause's log odds, its evidence with the weightiest first, and what to do."""
    seen = {symptom.rule: symptom for symptom in symptoms}
    evidence = [Evidence(seen[id].said, weight) for id, weight in cause.explains.items() if id in seen]
    missing = {id: weight for id, weight in cause.expects.items() if id in readable and id not in seen}
    evidence += [Evidence(f"{id} saw nothing unusual", -weight) for id, weight in missing.items()]
    evidence += cause.look(run)
    evidence.sort(key=lambda fact: -abs(fact.weight))
    return Scored(cause.prior + sum(fact.weight for fact in evidence), tuple(evidence), cause.act(run))


def _causes(rivals: Sequence[CauseRule], scored: Mapping[str, Scored]) -> tuple[Cause, ...]:
    """Return the causes of one finding with their shares of belief; something else than all of them has log odds 0."""
    top = max(0.0, *(scored[cause.id].odds for cause in rivals))
    belief = {cause.id: math.exp(scored[cause.id].odds - top) for cause in rivals}
    whole = sum(belief.values()) + math.exp(-top)
    found = []
    for cause in rivals[:SHOWN]:
        of = scored[cause.id]
        found.append(Cause(cause.id, cause.title, cause.broke, belief[cause.id] / whole, of.evidence, of.action))
    return tuple(found)
