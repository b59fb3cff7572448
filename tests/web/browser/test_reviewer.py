"""A reviewer works for a day in a real browser: look, adjudicate, give back, leave out, discard, make gold."""

from __future__ import annotations

from typing import Any

import pytest
from browsing import an_item, local, press, submitted, tiers, until

pytestmark = pytest.mark.slow


def two_opinions(site: Any) -> list[Any]:
    """Let Ada and Ben rank the only item in opposite orders; return their pages."""
    pages = [site.rank("Ada"), site.rank("Ben")]
    for page, keys in zip(pages, ("123", "321"), strict=True):
        order = local(page)
        places = dict(zip(sorted(order), keys, strict=True))
        submitted(page, *[places[id] for id in order])
        page.wait_for_selector("#done")
    until(lambda: len(next(iter(site.server.store.items())).rankings) == 2)
    return pages


def test_a_reviewers_day(make_site: Any, said: Any, shot: Any) -> None:
    site = make_site([an_item("a", 3)], overlap=2)
    ada, _ = two_opinions(site)
    page = site.page("Rita")
    page.goto(f"{site.url}/review?kind=disagreement")
    shot(page, "review-list")
    assert "3 of 3" in page.inner_text("tbody tr")
    page.click("tbody a")
    shot(page, "review-item")
    cells = page.locator(".rankings tbody td.letter").all_inner_texts()
    assert cells == ["1", "2", "3", "3", "2", "1"]

    # She adjudicates on the same screen, in the order of the item's page.
    page.click("text=Adjudicate")
    page.wait_for_selector("#task")
    shot(page, "review-adjudicate")
    assert local(page) == ["c0", "c1", "c2"]
    assert "secret" not in page.content()
    press(page, "2", "1", "3")
    page.wait_for_timeout(200)
    press(page, "Enter")
    page.wait_for_selector(".adjudication")
    ranking = until(lambda: [r for r in said(site) if r.metadata.get("adjudication")])[0]
    assert tiers(ranking) == [["c1"], ["c0"], ["c2"]]

    # She gives it back to Ada, with a note; Ada gets it first, with what she said.
    row = page.locator("tbody tr", has_text="Ada")
    row.locator("summary").click()
    row.locator("input[name=note]").fill("c0 is wrong, look again")
    row.locator("text=Give back").click()
    page.wait_for_selector("text=given back")
    ada.click("[data-act=again]")
    ada.wait_for_selector(".returned")
    shot(ada, "returned")
    assert "c0 is wrong, look again" in ada.inner_text(".returned")
    assert sorted(ada.locator(".place").all_inner_texts()) == ["place 1", "place 2", "place 3"]
    order = local(ada)
    ada.keyboard.press("j")
    for id, place in zip(order[1:] + order[:1], order[1:] + order[:1], strict=True):
        ada.keyboard.press({"c0": "3", "c1": "1", "c2": "2"}[place])
        if id != order[0]:
            ada.keyboard.press("j")
    submitted(ada)
    until(lambda: any(r.supersedes for r in said(site)))

    page.goto(f"{site.url}/agreement")
    page.wait_for_selector("text=Krippendorff", timeout=60_000)
    shot(page, "agreement")
    page.go_back()

    # She leaves Ben out, makes gold, discards, restores.
    page.reload()
    row = page.locator("tbody tr", has_text="Ben")
    row.locator("summary").click()
    shot(page, "review-actions")
    row.locator("input[name=reason]").fill("always the other way round")
    row.locator("text=Leave out").click()
    page.wait_for_selector("text=left out")
    row = page.locator("tbody tr", has_text="adjudication")
    row.locator("summary").click()
    row.locator("text=Use as gold").click()
    page.wait_for_selector("text=Expected: B, then A, then C")
    page.fill("form[action$=discard] input[name=reason]", "a bad question")
    page.click("text=Discard this item")
    page.wait_for_selector("text=a bad question")
    shot(page, "review-discarded")
    page.goto(f"{site.url}/review?kind=discarded")
    assert page.locator("tbody tr").count() == 1
    page.click("tbody a")
    page.click("text=Restore")
    page.wait_for_selector("form[action$=discard]")


def test_lists_filter_and_turn_pages(make_site: Any, shot: Any) -> None:
    site = make_site([an_item(f"n{i}", 2) for i in range(60)])
    ada = site.rank("Ada")
    submitted(ada, "1", "f", "1", "Escape", "2")
    press(ada, "s", "1")
    until(lambda: site.server.people.by_login("Ada").person.skipped == 1)
    page = site.page("Rita")

    def rows(kind: str) -> int:
        page.goto(f"{site.url}/review?kind={kind}")
        return int(page.locator("tbody tr").count())

    expected = {"all": 50, "answered": 1, "flagged": 1, "skipped": 1, "several": 0, "disagreement": 0, "gold": 0}
    assert {kind: rows(kind) for kind in expected} == expected
    rows("all")
    page.click("text=Next page")
    assert page.locator("tbody tr").count() == 10
    assert page.locator("text=Next page").count() == 0
    page.click("text=First page")
    assert page.locator("tbody tr").count() == 50
