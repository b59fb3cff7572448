"""The cheap rules of `diagnose`, asked at every evaluation of a run that goes on. They warn, or they stop the run."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from prefloop.diagnose.diagnosis import diagnose
from prefloop.diagnose.finding import Finding
from prefloop.diagnose.reading import read_run
from prefloop.diagnose.registry import rules
from prefloop.errors import ConfigError, suggest
from prefloop.project.project import Project
from prefloop.record import Run


class Alarms:
    """Says each finding once in a process. It keeps nothing else: a resumed run is looked at from its metrics again.

    What was said is said again only with another cause that explains more than was seen before.

    on_alarm: "stop" ends the run at a finding with one of the rules named in `stop_on`; where none is named, at a
    finding that is an error.
    """

    def __init__(self, project: Project, run: Run, on_alarm: Literal["warn", "stop"], stop_on: Collection[str]):
        """Raises ConfigError for a rule that there is not."""
        known = [rule.id for rule in rules()]
        for name in stop_on:
            if name not in known:
                raise ConfigError(f'[align] stop_on: there is no rule "{name}".{suggest(name, known)}')
        self.project, self.run, self.on_alarm, self.stop_on = project, run, on_alarm, frozenset(stop_on)
        self._said: set[str] = set()

    def look(self, step: int) -> str:
        """Ask the rules about all steps so far. Returns why the run has to stop; an empty text where it need not."""
        found = diagnose(read_run(self.run.path, samples=0), live=True).alarms
        for finding in found:
            seen = {symptom.rule for symptom in finding.symptoms}
            cause = finding.causes[0].id if finding.causes else finding.symptoms[0].rule
            if cause not in self._said and not seen <= self._said:
                self.project.say(f"alarm: step {step}: {line(finding)}")
            self._said |= seen | {cause}
        stops = next((finding for finding in found if self._stops(finding)), None)
        return f"alarm: {line(stops)}" if stops else ""

    def _stops(self, finding: Finding) -> bool:
        if self.on_alarm != "stop":
            return False
        if self.stop_on:
            return any(symptom.rule in self.stop_on for symptom in finding.symptoms)
        return finding.severity == "error"


def line(finding: Finding) -> str:
    """Return a finding in a line: what, by what it was seen, and what to do."""
    do = finding.action
    return f"{finding.title} ({finding.symptoms[0].said}). {do.said}" + (f" {do.command}" if do.command else "")
