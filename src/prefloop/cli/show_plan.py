"""The result of `plan` for people: tables of memory by phase and role, and what to change where it does not fit."""

from __future__ import annotations

from collections.abc import Iterator

from prefloop import results


def plan_lines(r: results.Planned) -> list[str]:
    """Lines below the head."""
    adapter = "" if r.adapter == "none" else f", {r.adapter} adapters"
    lines = [
        f"{r.model}: {r.parameters / 1e6:,.1f} M parameters ({r.layers} layers of width {r.hidden:,}, "
        f"{r.vocabulary:,} words), {r.dtype}{adapter}; computed by {r.computed_by}",
        f"{r.devices} x {r.device} with {_gb(r.memory)} each",
    ]
    for stage in r.stages:
        lines += ["", *_stage(stage)]
    return [*lines, "", *_placements(r)]


def _stage(stage: results.StagePlan) -> Iterator[str]:
    hours = "" if stage.hours is None else f", about {_time(stage.hours)}"
    drawn = f", {stage.sampled:,} drawn" if stage.sampled else ""
    yield (
        f"{stage.name} ({stage.method}): {stage.steps:,} steps, {stage.tokens:,} tokens learnt from{drawn}{hours}; "
        f"{stage.trained / 1e6:,.1f} M weights learn"
    )
    names = list(dict.fromkeys((part.role, part.what) for phase in stage.phases for part in phase.parts))
    wide = max(len(f"{role}: {what}") for role, what in names) + 2
    yield "  " + " " * wide + "".join(f"{phase.phase:>13}" for phase in stage.phases)
    for role, what in names:
        held = [sum(p.bytes for p in phase.parts if (p.role, p.what) == (role, what)) for phase in stage.phases]
        if max(held) >= 5e6:
            yield f"  {f'{role}: {what}':<{wide}}" + "".join(f"{_gb(n) if n else '':>13}" for n in held)
    yield f"  {'in all':<{wide}}" + "".join(f"{_gb(phase.total):>13}" for phase in stage.phases)
    yield (
        f"  peak {_gb(stage.peak)}: {'it fits' if stage.fits else 'IT DOES NOT FIT'}; {stage.budget:,} padded tokens "
        f"a pass; checkpoints take {_gb(stage.checkpoints)} on the disk"
    )
    yield from (f"  note: {note}" for note in stage.notes)
    if stage.advice:
        yield "  what would need less:"
        yield from (f"    {line}" for line in stage.advice)


def _placements(r: results.Planned) -> Iterator[str]:
    heaviest = max(r.stages, key=lambda stage: stage.peak)
    yield f"where {heaviest.name} ({heaviest.method}) fits, by devices with {_gb(r.memory)} each:"
    yield f"  {'devices':>7}  {'all weights':>14}  {'LoRA':>14}  {'time':>9}  how"
    for placed in r.placements:
        cells = (f"{_gb(n)} {'yes' if fits else 'no':>3}" for n, fits in _both(placed))
        full, lora = cells
        hours = "" if placed.hours is None else _time(placed.hours)
        yield f"  {placed.devices:>7}  {full:>14}  {lora:>14}  {hours:>9}  {placed.how}"
    if r.speed is None:
        yield "  no speed was measured here, so that there are no hours"
    else:
        yield (
            f"  measured here in {r.speed.seconds:.0f} s: learning {r.speed.learning / 1e9:,.0f}, scoring "
            f"{r.speed.scoring / 1e9:,.0f}, sampling {r.speed.sampling / 1e9:,.0f} billion operations a second; on "
            "several devices the time is at best so much"
        )


def _both(placed: results.Placed) -> tuple[tuple[float, bool], tuple[float, bool]]:
    return (placed.full, placed.full_fits), (placed.lora, placed.lora_fits)


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size < 1e10 else f"{size / 1e9:,.1f} GB"


def _time(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:,.1f} h"
