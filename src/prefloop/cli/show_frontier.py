"""The result of `prefloop frontier` for people."""

from __future__ import annotations

from prefloop import results
from prefloop.cli.show_text import mean


def traded_lines(r: results.Traded) -> list[str]:
    """One line a point, then which of them keeps the stated bounds."""
    sign = ">=" if r.kind == "bounds" else "weighs"
    lines = [f"{r.first} against {r.second}, round {r.round}; means on held-out prompts with 95 % intervals"]
    if r.reference:
        first, second = (mean(r.reference[name], ".3f") for name in (r.first, r.second))
        lines.append(f"    reference: {r.first} {first}, {r.second} {second}")
    for p in r.points:
        mark = "*" if p.run == r.chosen else " "
        if p.first is None or p.second is None:
            lines.append(f"  {mark} {r.second} {sign} {p.value:g} ({p.run}): no new policy{p.why and ', ' + p.why}")
            continue
        unmet = ", bound NOT MET" if p.met is False else ""
        beaten = "" if p.front else ", another point is better by both"
        lines.append(
            f"  {mark} {r.second} {sign} {p.value:g} ({p.run}): {r.first} {mean(p.first, '.3f')}, "
            f"{r.second} {mean(p.second, '.3f')}{unmet}{beaten}"
        )
    if r.stated:
        stated = " and ".join(f"{name} >= {bound:g}" for name, bound in r.stated.items())
        lines.append(
            f'* {r.chosen} has the most {r.first} of those that keep {stated}. Take it: [run] choose = "{r.chosen}"'
            if r.chosen
            else f"NO POINT keeps {stated} by the lower end of its interval"
        )
    return [*lines, "files: frontier.svg, frontier.json"]
