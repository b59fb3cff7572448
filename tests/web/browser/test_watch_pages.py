"""The pages that show runs, in a real browser: they follow a run, and everybody can read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_access import violations
from test_screens import PHONE, SMALL

from prefloop import record
from web.watched import align_run, reward_run, sample

pytestmark = pytest.mark.slow
SIDEWAYS = "() => document.documentElement.scrollWidth > innerWidth ? [document.title] : []"


def address(page: Any, site: Any, name: str) -> str:
    page.goto(f"{site.url}/runs")
    return str(page.locator(f"th a:text-is('{name}')").get_attribute("href"))


def test_a_page_follows_its_run_and_keeps_the_place_and_what_was_opened(make_watch: Any, tmp_path: Path) -> None:
    run = align_run(tmp_path, steps=4, done=False, clip=0.6)
    site = make_watch(tmp_path)
    page = site.page()
    page.goto(site.url + address(page, site, "align-001"))
    page.locator("#settings summary").click()
    page.locator("h1").click()  # The page is not renewed under somebody's hands.
    page.evaluate("scrollTo(0, 500)")
    before = page.evaluate("scrollY")
    run.metric(5, {"reward": 7.25, "clip_fraction": 0.6})
    page.wait_for_selector("#panel-reward .legend:has-text('7.25')", timeout=15_000)
    assert page.locator("#settings").get_attribute("open") is not None
    assert page.evaluate("scrollY") == before > 0
    run.finish({"steps": 5})
    page.wait_for_selector(".standing .state-done", timeout=15_000)


def test_without_scripts_the_page_still_follows_the_run(make_watch: Any, tmp_path: Path) -> None:
    run = align_run(tmp_path, steps=4, done=False)
    site = make_watch(tmp_path)
    page = site.page(java_script_enabled=False)
    page.goto(site.url + address(page, site, "align-001"))
    run.metric(5, {"reward": 7.25})
    page.wait_for_selector("#panel-reward .legend:has-text('7.25')", timeout=20_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", [{}, PHONE], ids=["wide", "phone"])
def test_everybody_can_read_the_pages(make_watch: Any, tmp_path: Path, scheme: str, device: Any, shot: Any) -> None:
    first = align_run(tmp_path, clip=0.6)
    align_run(tmp_path, steps=4, done=False, drift=0.5)
    reward_run(tmp_path, [{"name": "Ann", "rankings": 40, "weight": 1.1}])
    record.begin_run(tmp_path, "sample", "x", {}, inputs={}, seed=0).fail("the disk is full")
    site = make_watch(tmp_path)
    page = site.page(color_scheme=scheme, bypass_csp=True, **device)
    names = ("align-001", "align-002", "reward-001", "sample-001")
    links = {name: address(page, site, name) for name in names}
    texts = [sample(step, n, "Thank you for asking about it") for step in (0, 8) for n in range(3)]
    first.samples([*texts, sample(8, 0, "As it was", "train", advantage=[-3.0, 0.2, 1.0])])
    run = "&run=".join(links[name].removeprefix("/runs/") for name in ("align-001", "align-002"))
    links |= {"answers": f"{links['align-001']}/answers?sort=kl", "compare": f"/runs/compare?run={run}"}
    links["train"] = f"{links['align-001']}/answers?kind=train&colour=advantage"
    found = {}
    for name, path in {"runs": "/runs", "nothing": "/runs/x/y", **links}.items():
        page.goto(site.url + path)
        page.evaluate("document.querySelectorAll('details').forEach((node) => { node.open = true; })")
        found[name] = violations(page)
        if device:
            found[name] += page.evaluate(SMALL) + page.evaluate(SIDEWAYS)
        shot(page, f"watch-{name}-{scheme}-{'phone' if device else 'wide'}")
    assert {name: each for name, each in found.items() if each} == {}
