"""The page opens in a real browser with a silent console and no request."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from chromium import CHROMIUM
from prefloop import record
from prefloop.project.project import Project
from prefloop.stages.report import report

HOSTILE = (
    '<img src="http://127.0.0.1:9/model.png"><script>console.log("ran")</script>'
    '<style>@import "http://127.0.0.1:9/s.css"</style>'
)


def visit(page: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Return (console messages, addresses that the page itself asked for).

    The browser's own requests have no origin.
    """
    log = folder / "net.json"
    # fmt: skip
    done = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--no-first-run",
            f"--user-data-dir={folder / 'profile'}",
            f"--log-net-log={log}",
            "--enable-logging=stderr",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and "</html>" in done.stdout, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if ":CONSOLE:" in line]
    events = [e["params"] for e in json.loads(log.read_text())["events"] if isinstance(e.get("params"), dict)]
    own = ("not an origin", None)
    asked = [
        p["url"] for p in events if "url" in p and p.get("initiator") not in own and not p["url"].startswith("data:")
    ]
    return console, asked


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: this test looks at the page in a real browser")
def test_the_page_asks_for_nothing_and_reports_no_error(make_project: Any, tmp_path: Path) -> None:
    root = make_project(answer=HOSTILE, rounds=2, judge=True)
    sample = {"prompt": HOSTILE, "rlhf": {"text": HOSTILE, "quality": 0.5}}
    record.write_json_atomic(root / "demo.json", {"title": HOSTILE, "quality": {"rlhf": 0.5}, "samples": [sample]})
    with Project.open(root, quiet=True) as project:
        report(project)
    assert visit(root / "report.html", tmp_path) == ([], [])


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: this test looks at a page in a real browser")
def test_the_visit_notices_requests_and_scripts(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(f"<!doctype html><html><body>{HOSTILE}</body></html>")
    console, asked = visit(page, tmp_path)
    assert any("ran" in line for line in console)
    assert {"http://127.0.0.1:9/model.png", "http://127.0.0.1:9/s.css"} <= set(asked)


@pytest.mark.slow
def test_on_a_phone_nothing_of_the_page_is_out_of_reach(make_project: Any, chromium: Any) -> None:
    """Only tables and the demo's chart scroll sideways, which keys can do too; captions and headings stay in sight."""
    root = make_project(rounds=2, judge=True)
    record.write_json_atomic(root / "demo.json", {"title": "Demo", "quality": {"rlhf": 0.5}, "samples": []})
    with Project.open(root, quiet=True) as project:
        report(project)
    page = chromium.new_page(viewport={"width": 390, "height": 844})
    page.goto((root / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    wider = "(nodes) => nodes.filter((node) => node.scrollWidth > node.clientWidth).map((node) => node.tabIndex)"
    found = page.locator(".scroll, figure").evaluate_all(wider)
    assert len(found) > 2 and set(found) == {0}
    ends = "(nodes) => nodes.map((node) => node.getBoundingClientRect().right)"
    assert max(page.locator("caption").evaluate_all(ends)) <= 390
    levels = page.locator("h1, h2, h3, h4").evaluate_all("(nodes) => nodes.map((node) => Number(node.tagName[1]))")
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    page.close()
