"""Makes the demo's section of the report from demo.json: every system under one labelling budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefloop.report import figures
from prefloop.report.text import number, percent, span
from prefloop.results import Interval
from prefloop.results.base import from_json


def demo(extra: Mapping[str, Any]) -> dict[str, Any]:
    """demo.json's section: true quality of every system under one labelling budget."""
    quality = extra.get("quality", {})
    win = from_json(Interval, extra["win_rate"]) if extra.get("win_rate") else None
    keys = ("demonstration", "sft", "best_of_n", "dpo", "rlhf")
    shown = []
    for sample in extra.get("samples", ()):
        answers = []
        for key in [k for k in keys if k in sample] + [k for k in sample if k not in keys and k != "prompt"]:
            value = sample[key] if isinstance(sample[key], dict) else {"text": str(sample[key])}
            answers.append({"name": figures.system_name(key), "text": value["text"], "quality": value.get("quality")})
        best = max((a["quality"] for a in answers if a["quality"] is not None), default=None)
        marked = [a | {"higher": best is not None and a["quality"] == best} for a in answers]
        shown.append({"prompt": sample["prompt"], "answers": marked})
    said = (
        f"Preferences beat imitation on {percent(win.mean)} of {win.n} held-out prompts by true quality "
        f"(95 % interval {span(win)})."
        if win
        else ""
    )
    return {
        "title": extra.get("title", "The demo"),
        "text": extra.get("text", ""),
        "win": said,
        "figures": figures.demo_figures(extra),
        "head": ["System", "True quality", "95 % interval", "Right step", "95 % interval", "Readable", "Word pairs"],
        "rows": _systems(extra, keys),
        "why": why(quality),
        "samples": shown,
    }


def _systems(extra: Mapping[str, Any], keys: Sequence[str]) -> list[list[str]]:
    """Return a row of figures for each system of which the right step is known."""
    steps, variety = extra.get("right_step", {}), extra.get("distinct_2", {})
    rows = []
    for key in [k for k in keys if k in steps]:
        quality, step = from_json(Interval, extra["quality_interval"][key]), from_json(Interval, steps[key])
        rows.append(
            [
                figures.system_name(key),
                number(quality.mean),
                f"{number(quality.low)} to {number(quality.high)}",
                percent(step.mean),
                span(step),
                percent(extra["quality_parts"][key]["readable"], 1),
                percent(variety.get(key)),
            ]
        )
    return rows


def why(quality: Mapping[str, Any]) -> str:
    """Return what preferences buy over imitation under the same labelling budget, in the figures' own words."""
    said = (
        "Imitation learns to answer as the people who wrote demonstrations do, good and bad parts alike, so their mean "
        "is about what it can reach. Choosing is easier than writing: people can tell a better answer even where they "
        "would not have written it, and optimisation follows those choices past what most of them wrote."
    )
    values = [quality.get(k) for k in ("rlhf", "sft", "demonstrations", "demonstrations_p95")]
    if all(isinstance(v, (int, float)) for v in values):
        rlhf, imitation, mean, top = (float(v) for v in values if v is not None)
        past = "more than" if rlhf > top else "less than"
        said += (
            f" Here: demonstrations {number(mean)}, imitation {number(imitation)}, preferences {number(rlhf)}, "
            f"which is {past} the {number(top)} that 95 % of demonstrations stay below."
        )
    return said
