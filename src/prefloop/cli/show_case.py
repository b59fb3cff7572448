"""A case of the casebook for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from prefloop.results import CaseFigures, Interval


def case_lines(r: CaseFigures) -> Iterator[str]:
    """What was planted, what the diagnosis says, what was applied, and what came back."""
    finding = r.finding
    since = f", since step {finding.since}" if finding.since is not None else ""
    yield f"case {r.name}, seed {r.seed}: {r.title}" + (" (already done, nothing to do)" if r.skipped else "")
    yield f"  planted:    {r.planted}"
    for setting in r.settings:
        yield f"              {setting}"
    yield f"  diagnosis:  {finding.title} ({finding.run}, {finding.severity}{since}, {finding.confidence:.0%} sure)"
    yield f"              broke: {finding.broke}"
    for seen in finding.seen[:3]:
        yield f"              seen:  {seen}"
    if len(finding.seen) > 3:
        yield f"              and {len(finding.seen) - 3} more"
    if not finding.named:
        yield "              This is not the cause that was planted."
    yield f"  next:       {finding.said}"
    for number, command in enumerate(r.applied):
        yield f"  {'applied:  ' if number == 0 else '          '}  {command}"
    yield f"  quality of held-out answers ({r.truth}):"
    yield f"    the reference     {_interval(r.reference)}"
    yield f"    before the fault  {_interval(r.healthy)}"
    yield f"    with the fault    {_interval(r.fault)}"
    yield f"    after the remedy  {_interval(r.after)}"
    if r.restored is None:
        yield "  brought back: the fault has cost nothing"
    else:
        back = r.restored
        yield f"  brought back: {back.mean:.0%} of what was lost [{back.low:.0%}, {back.high:.0%}]; {r.seconds:.0f} s"
    yield f"  files: {r.page}"


def _interval(of: Interval) -> str:
    return f"{of.mean:.3f} [{of.low:.3f}, {of.high:.3f}]"
