"""Every page keeps WCAG 2.2 AA as far as a machine (axe) can tell, in light and in dark, wide and narrow."""

from __future__ import annotations

from typing import Any

import pytest
from browsing import an_item, press, submitted

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
pytestmark = pytest.mark.slow

RULES = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
}
PHONE = {"width": 390, "height": 780}


def violations(page: Any) -> list[str]:
    """Return what axe finds, with the elements.

    Its script comes in beside the page's policy, as an extension's would.
    """
    # The colours come to rest.
    page.evaluate("Promise.allSettled(document.getAnimations().map((one) => one.finished))")
    found = axe.Axe().run(page, options=RULES).response["violations"]
    return [
        f"{each['id']}: {node['html'][:150]} {node['failureSummary'][:300]}" for each in found for node in each["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 800}, PHONE], ids=["wide", "phone"])
def test_the_ranking_screen_has_no_violations(make_site: Any, scheme: str, viewport: dict[str, int]) -> None:
    items = [an_item("a", 4), an_item("b", 2), an_item("c", 9, chat=True)]
    site = make_site(items, attributes=("helpful", "harmless"))
    page = site.rank("Ada", color_scheme=scheme, viewport=viewport, bypass_csp=True)
    found = {}
    for _ in range(3):
        count = page.locator(".card").count()
        found[f"{count} cards"] = violations(page)
        press(page, "2", "1", "x", "q", "m")
        found[f"{count} cards, some placed"] = violations(page)
        press(page, "m")
        if count == 4:
            for keys, name in ((["f"], "flags"), (["s"], "skip"), (["v", "j", "v"], "diff")):
                press(page, *keys)
                page.wait_for_selector("dialog[open]")
                found[name] = violations(page)
                press(page, "Escape")
            page.click("[data-act=pause]")
            found["pause"] = violations(page)
            press(page, "Escape", "?")
            found["guide"] = violations(page)
            press(page, "?")
        submitted(page, "s", "1")
    page.wait_for_selector("#done")
    found["done"] = violations(page)
    assert {name: each for name, each in found.items() if each} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 800}, PHONE], ids=["wide", "phone"])
def test_every_other_page_has_no_violations(make_site: Any, scheme: str, viewport: dict[str, int]) -> None:
    site = make_site([an_item("a", 3)], overlap=2)
    for name in ("Ada", "Ben"):
        ranking = site.rank(name)
        submitted(ranking, "1", "2", "3")
        ranking.wait_for_selector("#done")
    page = site.page("Olga", color_scheme=scheme, viewport=viewport, bypass_csp=True)
    item = next(iter(site.server.store.items())).id
    paths = ["/history", "/guidelines", "/review", "/review?kind=gold", f"/review/items/{item}", "/agreement"]
    ada = site.server.people.by_login("Ada").person.id
    paths += ["/", "/people", f"/people/{ada}", "/audit", "/settings", "/settings/guidelines", "/settings/items"]
    paths += ["/account", "/nowhere"]
    found = {}
    for path in paths:
        page.goto(site.url + path)
        if path == "/agreement":
            page.wait_for_selector("text=Krippendorff", timeout=60_000)
        for summary in page.locator("summary").all():
            summary.click()
        found[path] = violations(page)
    out = site.page(color_scheme=scheme, bypass_csp=True)
    out.goto(f"{site.url}/login")
    found["/login"] = violations(out)
    assert {path: each for path, each in found.items() if each} == {}
