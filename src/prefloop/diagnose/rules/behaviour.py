"""Bounds of behaviour: what must stay true while the reward rises."""

from __future__ import annotations

from prefloop.diagnose.finding import Expected
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import Seen, rule


@rule(
    "behaviour-broken",
    kind="level",
    reads=("eval_behaviour_broken",),
    expected=Expected("0", "bounds", "count, each beyond chance", "validation prompts", "[behaviour] max_drop"),
    broke="A policy keeps every bound of behaviour.",
    meaning="What must stay true no longer does; such a step is not kept, however high its reward.",
    cannot_tell="Which bound it is: the report's table of behaviour and prefloop evaluate name it.",
)
def behaviour_broken(run: RunRecord) -> Seen | None:
    count = run.series("eval_behaviour_broken")
    if count is None or count.values[-1] <= 0:
        return None
    broken = int(count.values[-1])
    named = "1 bound of behaviour is" if broken == 1 else f"{broken} bounds of behaviour are"
    return Seen(
        f"{named} broken at the last evaluation",
        count.since(count.values > 0),
        float(count.values[-1]),
    )
