"""An owner works for a day in a real browser: look how it goes, change what is asked, add a file; pages keep shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from browsing import an_item, submitted, until

from prefloop.web.views import agreement as agreement_view

pytestmark = pytest.mark.slow

PATHS = ("/", "/review", "/agreement", "/people", "/audit", "/settings", "/settings/guidelines", "/settings/items")
# It says how far a line of controls is from having one bottom edge, for each `.row` and each line of an `.actions`.
RAGGED = """() => [...document.querySelectorAll(".row, .actions")].flatMap((line) => {
    const boxes = [...line.querySelectorAll("button, .button, input, select")]
        .filter((one) => one.offsetParent && one.type !== "hidden").map((one) => one.getBoundingClientRect());
    return boxes.slice(1).map((box, n) => [boxes[n], box]).filter(([one, other]) => other.left >= one.right)
        .map(([one, other]) => Math.abs(one.bottom - other.bottom)).filter((off) => off > 1);
})"""


def test_an_owner_adds_a_file_and_changes_the_guidelines_while_people_rank(
    make_site: Any, tmp_path: Path, shot: Any
) -> None:
    site = make_site([an_item("a", 3)], overlap=2)
    ada = site.rank("Ada")
    page = site.page("Olga")
    page.goto(f"{site.url}/settings/items")
    file = tmp_path / "more.jsonl"
    pair = [{"id": "a", "text": "Because."}, {"id": "b", "text": "Why not?"}]
    file.write_text(json.dumps({"id": "n", "prompt": "Why?", "completions": pair}) + "\n{oops\n")
    page.set_input_files("input[type=file]", file)
    page.click("button.main")
    page.wait_for_selector("text=1 record read as rankings")
    assert "row 2" in page.inner_text(".warn")
    shot(page, "items")
    page.goto(f"{site.url}/settings/guidelines")
    page.fill("textarea", "# Rank by kindness\n")
    page.click("text=Preview")
    assert page.inner_text(".card h1") == "Rank by kindness"
    page.click("text=Save for everybody")
    page.wait_for_selector("text=Everybody is told once")
    ada.goto(f"{site.url}/rank")
    ada.wait_for_selector(".news-bar")
    ada.click("text=See what changed")
    ada.click("text=I have read them")
    ada.wait_for_selector("#task")
    assert ada.locator(".news-bar").count() == 0
    page.goto(f"{site.url}/settings")
    page.fill("input[name=overlap]", "1")
    page.click("text=Save")
    page.wait_for_selector("text=Changed: overlap.")
    shot(page, "settings")
    page.goto(f"{site.url}/")
    assert "0 of 2 wanted, of 2 items" in " ".join(page.inner_text(".figures").split())
    shot(page, "home")


def test_what_is_on_the_screen_is_answered_as_it_was_asked_and_the_next_item_by_the_new_rules(
    make_site: Any, said: Any
) -> None:
    site = make_site([an_item(f"n{i}", 2) for i in range(4)], attributes=("clear",))
    ada = site.rank("Ada")
    ada.wait_for_timeout(3100)  # A page this young is not loaded again.
    olga = site.server.people.by_login("Olga").person.id
    site.server.queue.rules.change(olga, {"attributes": ["kind"], "rationale": "required"})
    submitted(ada, "1", "q", "2")
    submitted(ada, "1", "2")  # This is the one that was fetched ahead.
    ada.wait_for_selector("text=kind")
    assert "needed" in ada.get_attribute("#comment", "placeholder")
    rated = until(lambda: [ranking.ratings for ranking in said(site)] if len(said(site)) == 2 else None, ada)
    assert [{name for given in one.values() for name in given} for one in rated] == [{"clear"}, set()]


def test_a_file_that_is_too_large_is_refused_before_it_travels(make_site: Any) -> None:
    site = make_site([an_item("a", 3)])
    page = site.page("Olga")
    page.goto(f"{site.url}/settings/items")
    page.set_input_files("input[type=file]", {"name": "x.jsonl", "mimeType": "text/plain", "buffer": b" " * 8_000_001})
    assert page.evaluate("document.querySelector('input[type=file]').validationMessage") == (
        "This file is larger than 8 MB."
    )
    page.set_input_files("input[type=file]", {"name": "x.jsonl", "mimeType": "text/plain", "buffer": b"{}"})
    assert page.evaluate("document.querySelector('input[type=file]').validationMessage") == ""


def test_agreement_is_counted_again_while_one_looks(make_site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement_view, "FRESH_S", 0.0)
    monkeypatch.setattr(agreement_view, "SHARE", 0)
    site = make_site([an_item("a", 3)], overlap=2)
    submitted(site.rank("Ada"), "1", "2", "3")
    page = site.page("Rita")
    page.goto(f"{site.url}/agreement")
    page.wait_for_selector("text=1 rankings of 1 items", timeout=60_000)
    loads: list[str] = []
    page.on("framenavigated", lambda frame: loads.append(frame.url))
    submitted(site.rank("Ben"), "1", "2", "3")
    page.wait_for_selector("text=2 rankings of 1 items", timeout=60_000)
    assert until(lambda: page.inner_text("#status"), page) == "The figures have been counted again."
    assert loads == [], "without a reload"


@pytest.mark.parametrize("width", [1280, 640, 390, 320])
def test_no_page_scrolls_sideways_and_controls_stand_in_line(make_site: Any, width: int) -> None:
    """640 is a window of 1280 at 200 %, 320 the narrowest that WCAG 1.4.10 asks for."""
    site = make_site([an_item("a" * 90, 3), an_item("b", 2, chat=True)], overlap=2)
    submitted(site.rank("Ada"), "1", "2", "3")
    site.server.people.set_groups(None, site.server.people.by_login("Ben").person.id, ["a group with a long name"] * 2)
    site.server.queue.rules.change(None, {"limit": 5})
    page = site.page("Olga", viewport={"width": width, "height": 700})
    item = next(iter(site.server.store.items())).id
    ada = site.server.people.by_login("Ada").person.id
    found = {}
    for path in (*PATHS, f"/review/items/{item}", f"/people/{ada}", "/history", "/guidelines", "/account"):
        page.goto(site.url + path)
        beyond = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        found[path] = (beyond, page.evaluate(RAGGED))
    assert {path: wrong for path, wrong in found.items() if wrong != (0, [])} == {}
