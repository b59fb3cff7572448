"""The report page is safe with hostile text, whole at every point of the loop, and the same bytes for the same
project.
"""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from prefloop import record
from prefloop.errors import DataError
from prefloop.project.project import Project
from prefloop.report.text import visible
from prefloop.stages.report import report

STAGES = ("sft", "sample", "crowd", "reward", "align", "evaluate")
HOSTILE = (
    '</p></style><script>alert(1)</script><img src="https://evil.example/x.png" onerror=alert(2)> '
    "\u202egnp.exe\u202c zero\u200bwidth {{ 7*7 }} $x^2$ \x1b[31m \ufffe \u3164 & <b>bold</b> \"'"
)
# fmt: skip
DEMO: dict[str, Any] = {
    "title": "A desk <script>",
    "text": "Both started alike.",
    "quality": {
        "demonstrations": 0.5,
        "demonstrations_p95": 0.8,
        "demonstrations_best": 0.9,
        "sft": 0.5,
        "best_of_n": 0.7,
        "rlhf": 0.85,
    },
    "quality_interval": {"rlhf": {"mean": 0.85, "low": 0.8, "high": 0.9, "n": 9}},
    "quality_parts": {"sft": {"step": 0.4, "brief": 0.9}, "rlhf": {"step": 0.8, "brief": 0.9, "readable": 0.996}},
    "right_step": {"rlhf": {"mean": 0.94, "low": 0.8, "high": 0.98, "n": 9}},
    "distinct_2": {"rlhf": 0.24},
    "per_prompt": {"sft": [0.4, 0.5, 0.6], "rlhf": [0.8, 0.9, 0.85], "demonstration": [0.5, 0.5, 0.5]},
    "win_rate": {"mean": 0.9, "low": 0.8, "high": 0.95, "n": 9},
    "samples": [{"prompt": "Hello", **{k: {"text": HOSTILE, "quality": 0.5} for k in ("sft", "rlhf")}}],
}


class Page(HTMLParser):
    """Holds tags with their attributes, ids, and the text that a reader sees."""

    VOID = ("meta", "link", "br", "path", "use")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def draw(root: Path) -> str:
    with Project.open(root, quiet=True) as project:
        report(project)
    return (root / "report.html").read_text(encoding="utf-8")


def test_hostile_text_is_shown_and_never_becomes_markup(make_project: Any) -> None:
    root = make_project(answer=HOSTILE, criterion='q" onload="alert(3)<script>', name='"<i>$\\frac{1}{0}$</i>"')
    quality = {"$\\frac{1}{<b>$\u202e": 0.4, **DEMO["quality"]}  # In a chart it is no formula and no markup.
    record.write_json_atomic(root / "demo.json", DEMO | {"quality": quality})
    html = draw(root)
    page = Page(html)
    assert "$\\frac{1}{<b>$⟨U+202E⟩" in page.text
    assert {tag for tag, _ in page.tags} & {"script", "img", "iframe", "object", "embed", "base", "i"} == set()
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text  # As text, it is all there.
    assert "{{ 7*7 }}" in page.text
    assert "⟨U+202E⟩gnp.exe⟨U+202C⟩ zero⟨U+200B⟩width" in page.text
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b-\u200f\x1b]", html)


def test_nothing_is_loaded_from_anywhere(make_project: Any) -> None:
    root = make_project(answer=HOSTILE)
    record.write_json_atomic(root / "demo.json", DEMO)
    html = draw(root)
    page = Page(html)
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            target = attributes.get(name)
            assert target is None or target.startswith(("#", "data:")), (tag, attributes)
    css = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in css and "@import" not in css
    assert all("url(" not in (a.get("style") or "").replace("url(#", "") for _, a in page.tags)
    policy = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'")


def test_no_id_is_used_twice_and_every_link_has_its_target(make_project: Any) -> None:
    root = make_project(rounds=2)
    record.write_json_atomic(root / "demo.json", DEMO)
    page = Page(draw(root))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {(a.get("href") or "#")[1:] for t, a in page.tags if t in ("a", "use") and a.get("href") != "data:,"} <= set(
        ids
    )


def test_every_picture_says_what_it_shows_and_every_table_has_headers(make_project: Any) -> None:
    root = make_project()
    record.write_json_atomic(root / "demo.json", DEMO)
    page = Page(draw(root))
    pictures = [a for t, a in page.tags if t == "svg"]
    assert len(pictures) > 10
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 30 for a in pictures)
    assert sum(t == "table" for t, _ in page.tags) == sum(t == "thead" for t, _ in page.tags) > 3
    assert all(a.get("scope") in ("row", "col") for t, a in page.tags if t == "th")


def test_an_empty_project_only_says_what_to_do(make_project: Any) -> None:
    page = Page(draw(make_project(stages=())))
    assert "prefloop import FILE" in page.text
    assert not [t for t, _ in page.tags if t in ("section", "svg", "table")]


@pytest.mark.parametrize("missing", STAGES)
def test_a_stage_that_has_not_run_is_absent(make_project: Any, missing: str) -> None:
    page = Page(draw(make_project(stages=[s for s in STAGES if s != missing])))
    shown = {a["id"] for t, a in page.tags if t == "section"}
    gone = {"sft": {"sft"}, "reward": {"reward"}, "align": {"policy"}, "evaluate": {"samples", "evaluation", "hacking"}}
    assert shown == {
        "loop",
        "diagnosis",
        "samples",
        "policy",
        "reward",
        "sft",
        "evaluation",
        "hacking",
        "made",
    } - gone.get(missing, set())


@pytest.mark.parametrize("last", range(len(STAGES)))
def test_at_every_point_of_the_loop_the_page_names_the_next_command(make_project: Any, last: int) -> None:
    page = Page(draw(make_project(stages=STAGES[: last + 1])))
    commands = ["sample", "annotate", "reward", "align", "evaluate", None]
    named = re.search(r"Next: prefloop ([a-z]+)", page.text)
    assert (named[1] if named else None) == commands[last]


def test_several_rounds_are_a_table_and_curves_of_each(make_project: Any) -> None:
    page = Page(draw(make_project(rounds=3)))
    assert "Round by round" in page.text
    labels = [a["aria-label"] or "" for t, a in page.tags if t == "svg"]
    assert sum(label.startswith("Reward by step.") for label in labels) == 3


def test_simulated_rankings_are_said_to_be_simulated(make_project: Any) -> None:
    page = Page(draw(make_project()))
    assert "SIMULATED annotators. All 12 rankings come from simulated annotators" in page.text
    assert "SIMULATED" not in Page(draw(make_project(stages=["sft", "sample"]))).text


def test_the_json_is_finite_and_holds_every_metric(make_project: Any) -> None:
    root = make_project()
    draw(root)

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    facts = json.loads((root / "report.json").read_text(), parse_constant=refuse)
    metrics = facts["stages"]["align"][0]["metrics"]
    assert metrics["step"] == list(range(9))
    assert metrics["value_loss"][3] is None and metrics["value_loss"][4] == 0.2
    assert metrics["eval_kl"][:3] == [0.0, None, pytest.approx(1.6)]
    assert all(len(column) == 9 for column in metrics.values())


def test_the_same_project_gives_the_same_bytes_and_says_so(make_project: Any) -> None:
    root = make_project(judge=True)
    record.write_json_atomic(root / "demo.json", DEMO)
    first = draw(root)
    with Project.open(root, quiet=True) as project:
        assert report(project).skipped
        (root / "report.html").write_text("old")
        assert not report(project).skipped
    assert (root / "report.html").read_text(encoding="utf-8") == first


def test_the_newest_finished_run_of_a_round_is_shown(make_project: Any) -> None:
    root = make_project()
    with Project.open(root, quiet=True) as project:
        old = record.find_run(root, "align")
        assert old is not None
        again = record.begin_run(root, "align", "other", project.config.model_dump(), inputs={"round": 0}, seed=0)
        again.metric(0, {"reward": 9.0})
    draw(root)
    assert _aligned(root) == ["align-001"]  # The unfinished run does not hide it.
    again.finish(old.result)
    html = draw(root)
    assert _aligned(root) == ["align-002"]
    assert "align-002 is newer than the policy evaluated here" in html


def test_an_unfinished_run_is_shown_where_there_is_no_other(make_project: Any) -> None:
    root = make_project(stages=["sft", "sample", "crowd", "reward"])
    with Project.open(root, quiet=True) as project:
        run = record.begin_run(root, "align", "x", project.config.model_dump(), inputs={"round": 0}, seed=0)
        for step in range(3):
            run.metric(step, {"reward": float(step), "kl": math.nan})
        run.fail("somebody pulled the plug")
    page = Page(draw(root))
    assert "This run is failed: somebody pulled the plug" in page.text
    assert any((a["aria-label"] or "").startswith("Reward by step.") for t, a in page.tags if t == "svg")


def _aligned(root: Path) -> list[str]:
    return [run["run"] for run in json.loads((root / "report.json").read_text())["stages"]["align"]]


def test_the_password_of_the_store_is_in_neither_file(make_project: Any) -> None:
    root = make_project(stages=["sft"])
    run = record.runs(root)[0]
    manifest = run.manifest
    manifest["config"]["project"]["store"] = "postgresql+pg8000://me:hunter2@db/prefs"
    record.write_json_atomic(run.path / "manifest.json", manifest)
    html = draw(root)
    assert "hunter2" not in html and "hunter2" not in (root / "report.json").read_text()
    assert "postgresql+pg8000://…@db/prefs" in html


def test_a_broken_demo_file_is_an_error_that_names_it(make_project: Any) -> None:
    root = make_project(stages=())
    for text in ("{", "[1]"):
        (root / "demo.json").write_text(text)
        with pytest.raises(DataError, match=r"demo\.json"):
            draw(root)


def test_a_demo_figure_that_is_not_a_number_is_left_out(make_project: Any) -> None:
    root = make_project(stages=())
    (root / "demo.json").write_text('{"quality": {"rlhf": NaN, "sft": 0.5}, "per_prompt": {"rlhf": [NaN, 0.5]}}')
    draw(root)
    demo = json.loads((root / "report.json").read_text())["demo"]
    assert demo == {"quality": {"rlhf": None, "sft": 0.5}, "per_prompt": {"rlhf": [None, 0.5]}}


def test_the_demo_section_compares_the_systems(make_project: Any) -> None:
    root = make_project()
    record.write_json_atomic(root / "demo.json", DEMO)
    page = Page(draw(root))
    first = next(a["id"] for t, a in page.tags if t == "section")
    assert first == "demo"
    assert "Preferences beat imitation on 90 % of 9 held-out prompts" in page.text
    row = next(part for part in page.text.split("Word pairs") if "0.80 to 0.90" in part)
    assert re.search(r"preferences \(RLHF\)\s*0.85\s*0.80 to 0.90\s*94 %\s*80 to 98 %\s*99.6 %\s*24 %", row)
    assert "preferences 0.85, which is more than the 0.80 that 95 % of demonstrations stay below" in page.text


def test_visible_leaves_ordinary_text_alone_and_can_always_be_encoded() -> None:
    plain = "Grüße, 日本語, \u05e9\u05dc\u05d5\u05dd, 🙂\tand\nlines"
    assert visible(plain) == plain
    everything = "".join(map(chr, [*range(0x3000), *range(0xD7F0, 0xE010), 0xFEFF, 0x10FFFF]))
    shown = visible(everything, longest=len(everything))
    shown.encode("utf-8")
    assert not set(shown) & set("\u202e\u200b\ufeff\u2028\x00\x9b\xad")
    assert visible("x" * 5000) == "x" * 4000 + " … (1000 more characters)"


def test_text_and_lines_stand_out_from_every_ground_in_light_and_dark() -> None:
    """WCAG 2 AA asks for 4.5:1 for text, and 3:1 for the lines and bars of charts."""
    css = (files("prefloop.report") / "page.css").read_text(encoding="utf-8")
    for block in (css.split("@media")[0], css.split("@media")[1]):
        colour = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for text in ("ink", "muted", "c1", "c2"):
            for ground in ("ground", "card") + (("note",) if text in ("ink", "muted") else ()):
                assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
        for line in ("c3", "c4", "c5"):
            assert contrast(colour[line], colour["card"]) >= 3, line


def contrast(one: str, other: str) -> float:
    """Return the ratio of relative luminances, 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
