"""Where there is little room, all fits and can be tapped, and people who do not see the screen are told."""

from __future__ import annotations

from typing import Any

import pytest
from browsing import SENTENCE, an_item, lease, press
from test_screens import PHONE, SMALL, ZOOMED

from prefloop.types import Completion, Item, Prompt

pytestmark = pytest.mark.slow

TABLE = f"| approach | pros | notes |\n|---|---|---|\n| processes | parallel | {'needs-an-event-loop' * 9} |"
ARABIC = "| المكوّن | الكمية |\n|---|---|\n| أرز | 200 غرام |\n\nثم اطبخ لمدة 15 دقيقة."
SIDEWAYS = """() => [document.documentElement, ...document.querySelectorAll(".scroll")]
    .filter((node) => node.scrollWidth > node.clientWidth).map((node) => node.outerHTML.slice(0, 90))"""
# It measures from the right edge of a text to the right edge of what holds it.
RIGHT = """(selector) => {
  const node = document.querySelector(selector);
  return node.parentElement.getBoundingClientRect().right - node.getBoundingClientRect().right;
}"""


@pytest.mark.parametrize("device", [PHONE, ZOOMED], ids=["phone", "200 per cent"])
def test_what_stands_above_the_task_is_one_row_and_leads_home(make_site: Any, device: Any) -> None:
    site = make_site([an_item("a", 3)])
    page = site.rank("Olga", **device)
    assert page.locator(".top").bounding_box()["height"] <= 52
    assert {"Raw", "Pause", "Guide"} <= {
        words.split()[0] for words in page.locator(".top button:visible").all_inner_texts()
    }
    page.locator(".top .brand").click()
    page.wait_for_url(f"{site.url}/")


def test_on_a_phone_every_page_has_room_for_fingers_and_none_scrolls_sideways(make_site: Any) -> None:
    site = make_site([an_item("a", 3)])
    (site.server.app.state.services.root / "more.jsonl").write_text(
        '{"prompt": "Why?", "completions": [{"id": "a", "text": "So."}, {"id": "b", "text": "Thus."}]}\n'
    )
    page = site.page("Olga", **PHONE)
    page.goto(f"{site.url}/settings/items")
    page.set_input_files("#file", site.server.app.state.services.root / "more.jsonl")
    page.locator("main button").tap()
    page.wait_for_selector("text=Files read lately")
    page.wait_for_load_state()  # The style sheet may come after the words.
    found = {"after a file": page.evaluate(SMALL) + page.evaluate(SIDEWAYS)}
    page.goto(f"{site.url}/people")
    page.locator("text=Make a link").tap()
    page.wait_for_selector("#link")
    item = next(iter(site.server.store.items())).id
    for path in (
        "/",
        "/people",
        "/review",
        f"/review/items/{item}",
        "/settings",
        "/account",
        "/audit",
        "/history",
        "/x",
    ):
        page.goto(site.url + path)
        found[path] = page.evaluate(SMALL) + page.evaluate(SIDEWAYS)
    out = site.page(**PHONE)
    out.goto(f"{site.url}/login")
    found["/login"] = out.evaluate(SMALL) + out.evaluate(SIDEWAYS)
    assert {path: each for path, each in found.items() if each} == {}


def test_a_table_keeps_its_words_whole_and_can_be_scrolled_with_keys(make_site: Any) -> None:
    answers = (Completion("t:c0", TABLE), Completion("t:c1", ARABIC), Completion("t:c2", "Short."))
    page = make_site([Item("t", Prompt("مرحبا بالعالم"), answers)]).rank("Ada", viewport={"width": 1280, "height": 800})
    press(page, "?")
    lines = "(cells) => cells.map((cell) => Math.round(cell.getBoundingClientRect().height))"
    assert max(page.locator("th", has_text="approach").evaluate_all(lines)) < 40, "one line"
    wide = page.locator(".rendered:has(table):not(:has(:dir(rtl)))")
    if wide.evaluate("(node) => node.scrollWidth > node.clientWidth"):
        assert wide.get_attribute("tabindex") == "0"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(RIGHT, ".rendered > table:dir(rtl)") < 2, "an Arabic table begins at the right"
    assert page.evaluate(RIGHT, ".turn") < 20, "and so does an Arabic prompt"


def test_what_is_said_beside_the_ranking_is_never_squeezed(make_site: Any) -> None:
    page = make_site([an_item("a", 3)]).rank("Ada", **PHONE)
    page.locator("[data-act=compare]").first.tap()
    page.evaluate("dispatchEvent(new Event('offline'))")
    assert "kept here" in page.inner_text("#net") and "side by side" in page.inner_text("#said")
    for name in ("#said", "#net"):
        box = page.locator(name).bounding_box()
        assert box["width"] >= 140 and box["height"] < 100, name
    assert page.locator("#net").bounding_box()["y"] > page.locator("#progress").bounding_box()["y"]


def test_each_ranking_starts_at_its_first_place(make_site: Any) -> None:
    page = make_site([an_item("a", 9), an_item("b", 9)]).rank("Ada", **PHONE)
    before = lease(page)
    page.evaluate("document.querySelector('#rail').scrollLeft = 900")
    page.locator("[data-act=skip]").tap()
    page.locator("#skip [data-value=other]").tap()
    page.wait_for_function("old => document.querySelector('#task').dataset.lease !== old", arg=before)
    assert page.evaluate("document.querySelector('#rail').scrollLeft") == 0


def test_buttons_are_called_what_they_do_and_say_their_state(make_site: Any) -> None:
    page = make_site([an_item("a", 3)]).rank("Ada", **ZOOMED)
    press(page, "f", "1", "Enter")
    shown = page.locator("#card-0").aria_snapshot() + page.locator("#dock").aria_snapshot()
    for name in ("A is unacceptable", "flag A wrong", "compare A with another", "None acceptable", "Skip", "Undo"):
        assert f'button "{name}"' in shown, (name, shown)


@pytest.mark.parametrize("lost", ["another's item", "the session"])
def test_where_no_item_comes_the_page_says_why_and_how_to_go_on(make_site: Any, lost: str) -> None:
    site = make_site([an_item("a", 3, length=len(SENTENCE) // 40), an_item("b", 3)])
    if lost == "the session":
        page = site.rank("Ada")
        page.context.clear_cookies()
        press(page, "s", "1")
        press(page, "s", "1")
        to = "/login?next=/rank"
    else:
        page = site.page("Ada")
        page.goto(f"{site.url}/rank?again=nobodys")
        to = "/rank"
    page.wait_for_selector("#work .finished a")
    assert page.locator("#work .finished a").get_attribute("href") == to
    assert not page.locator("#dock").is_visible() and page.get_attribute("#work", "aria-busy") == "false"
    page.locator("#work .finished a").click()
    page.wait_for_url(site.url + to)
