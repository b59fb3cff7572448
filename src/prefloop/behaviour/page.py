"""The part of docs/behaviour.md that is made from the built-in checks."""

from __future__ import annotations

from prefloop.behaviour.registry import MARGINS, built_in


def checks_section() -> str:
    """A row a check: what it counts, its unit, which way is worse, and what is too small to matter."""
    lines = ["| check | what it is | unit | worse | counts as held within |", "|---|---|---|---|---|"]
    for name, check in built_in().items():
        margin = MARGINS[check.unit]
        within = f"{100 * margin:g} points" if check.unit == "share" else f"{margin:g} {check.unit}"
        within = f"{100 * margin:g} % of the reference's" if check.relative else within
        lines.append(f"| `{name}` | {check.meaning} | {check.unit} | {check.worse} | {within} |")
    return "\n".join(lines) + "\n"
