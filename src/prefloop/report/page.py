"""Makes the page from facts: one HTML document that loads nothing and runs nothing, with every text escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from prefloop.report import demo_section, runs, sections
from prefloop.report.behaviour import behaviour
from prefloop.report.collect import last
from prefloop.report.hacking import evidence_of
from prefloop.report.text import compact, number, signed, visible
from prefloop.report.words import headline, next_step, simulated

TITLES = {
    "demo": "The demo",
    "loop": "The loop",
    "diagnosis": "What went wrong",
    "samples": "Before and after",
    "policy": "Policy optimisation",
    "reward": "Reward model",
    "sft": "Imitation",
    "evaluation": "Evaluation",
    "behaviour": "Behaviour",
    "hacking": "Is the reward gamed?",
    "made": "How it was made",
}


def render(facts: Mapping[str, Any]) -> str:
    """Return report.html of what `collect` gathered.

    The same facts give the same text; it can always be written as UTF-8.
    """
    evaluated, aligned = last(facts, "evaluate"), facts["stages"].get("align", ())
    parts: dict[str, Any] = {
        "demo": demo_section.demo(facts["demo"]) if facts["demo"] else None,
        "loop_steps": sections.loop_steps(facts),
        "samples": sections.samples(evaluated) if evaluated else [],
        "runs": runs.table(facts["runs_of_align"]),
        "diagnosis": sections.diagnosed(facts),
        "policies": [sections.policy(run, facts["diagnosis"].get(run["run"])) for run in aligned],
        "rewards": sections.rewards(facts),
        "sft": sections.sft(facts["stages"]["sft"][-1]) if facts["stages"].get("sft") else None,
        "evaluation": sections.evaluation(facts, evaluated) if evaluated else None,
        "behaviour": behaviour(evaluated),
        "hacking": evidence_of(facts),
        "provenance": sections.provenance(facts) if facts["runs"] or facts["store"]["imports"] else None,
    }
    named = {"loop": "loop_steps", "policy": "policies", "reward": "rewards", "made": "provenance"}
    listed = [(id, title) for id, title in TITLES.items() if parts[named.get(id, id)]]
    return (
        environment()
        .from_string(_text("page.html"))
        .render(
            **parts,
            name=facts["project"]["name"],
            simulated=simulated(facts),
            headline=headline(facts),
            next=next_step(facts),
            loop_note=sections.loop_note(facts),
            round_head=sections.ROUND_HEAD,
            runs_head=runs.HEAD,
            rounds=sections.rounds(facts),
            sections=listed,
        )
    )


def as_json(facts: Mapping[str, Any]) -> str:
    """Return the text of report.json, with finite numbers and the keys in the order in which they were gathered."""
    return json.dumps(facts, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def _text(name: str) -> str:
    return (files("prefloop.report") / name).read_text(encoding="utf-8")


def environment() -> jinja2.Environment:
    """Return what makes pages in the report's style: everything is escaped, and what could hide text is shown."""
    made = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    made.filters |= {"number": number, "compact": compact, "signed": signed}
    made.globals["css"] = Markup(_text("page.css"))
    return made
