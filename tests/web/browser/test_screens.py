"""The ranking screen is laid out well, wide, narrow, zoomed and on a phone; the right things open and lie on top."""

from __future__ import annotations

from typing import Any

import pytest
from browsing import SENTENCE, an_item, gone, lease, press, until

from prefloop.types import Completion, Item, Message, Prompt

pytestmark = pytest.mark.slow

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
ZOOMED = {"viewport": {"width": 640, "height": 400}, "device_scale_factor": 2}  # This is 1280 x 800 at 200 %.
READABLE = 340  # A card has at least so many pixels.
SMALL = """() => [...document.querySelectorAll("button, nav a, .who a, summary")].flatMap((node) => {
  const {width, height} = node.getBoundingClientRect();
  const small = node.checkVisibility() && width && Math.min(width, height) < 44;
  return small ? [`${node.outerHTML.slice(0, 90)} ${width}x${height}`] : [];
})"""
MIDDLES = "(all) => all.map((each) => each.getBoundingClientRect()).map((box) => Math.round(box.top + box.height / 2))"


def of(name: str, prompt: Any, count: int = 3, length: int = 6) -> Item:
    return Item(name, Prompt(prompt), tuple(Completion(f"{name}:c{n}", SENTENCE * (length + n)) for n in range(count)))


def test_the_guide_opens_once_and_is_closed_afterwards(make_site: Any) -> None:
    site = make_site([an_item("a", 3)])
    page = site.rank("Ada")
    assert page.locator("#help").is_visible()
    assert page.locator("#help .keys").is_visible() and not page.locator("#help .by-touch").is_visible()
    page.wait_for_timeout(1100)
    page.reload()
    page.wait_for_selector("#task")
    assert not page.locator("#help").is_visible()
    press(page, "?")
    assert page.evaluate("document.activeElement.id") == "help"
    press(page, "Escape")
    assert not page.locator("#help").is_visible() and page.locator("#card-0:focus").count() == 1
    page.reload()
    page.wait_for_selector("#task")
    assert not page.locator("#help").is_visible(), "opened by hand: closed next time all the same"


def test_cards_are_never_squeezed(make_site: Any) -> None:
    """Three stand beside each other only where each stays readable, beside an open guide too."""
    site = make_site([an_item("a", 3)])
    page = site.rank("Ada")
    for width, guide, columns in (
        (1600, False, 3),
        (1280, False, 3),
        (1280, True, 1),
        (1024, False, 1),
        (768, False, 1),
    ):
        page.set_viewport_size({"width": width, "height": 800})
        if page.locator("#help").is_visible() != guide:
            press(page, "?")
        boxes = [card.bounding_box() for card in page.locator(".card").all()]
        assert len({round(box["x"]) for box in boxes}) == columns, (width, guide)
        assert min(box["width"] for box in boxes) >= READABLE


@pytest.mark.parametrize("device", [{}, PHONE], ids=["wide", "phone"])
def test_a_long_prompt_starts_at_its_beginning_and_says_that_there_is_more(make_site: Any, device: Any) -> None:
    site = make_site([of("a", "FIRST words. " + "\n\n".join([SENTENCE * 5] * 12) + " LAST words.")])
    page = site.rank("Ada", **device)
    assert page.evaluate("document.querySelector('.turns').scrollTop") == 0
    assert page.locator(".more.below").is_visible() and not page.locator(".more.above").is_visible()
    for _ in range(40):
        if not page.locator(".more.below").is_visible():
            break
        page.locator(".more.below").tap() if device else page.locator(".more.below").click()
        page.wait_for_timeout(50)
    turns = page.evaluate(
        "(({scrollTop: a, clientHeight: b, scrollHeight: c}) => c - a - b)(document.querySelector('.turns'))"
    )
    assert turns < 5 and page.locator(".more.above").is_visible()


@pytest.mark.parametrize(
    ("last", "starts"), [(SENTENCE * 40, True), ("Why?", False)], ids=["a long last turn", "a short last turn"]
)
def test_a_chat_starts_at_its_last_turn(make_site: Any, last: str, starts: bool) -> None:
    turns = (Message("user", SENTENCE * 30), Message("assistant", SENTENCE * 30), Message("user", last))
    page = make_site([of("a", turns)]).rank("Ada")
    assert page.locator(".more.above").is_visible() and page.locator(".more.below").is_visible() == starts
    region, turn = page.locator(".turns").bounding_box(), page.locator(".turn").last.bounding_box()
    assert region["y"] <= turn["y"] < region["y"] + region["height"]
    pill = page.locator(".more.above").bounding_box()
    if starts:
        assert pill["y"] + pill["height"] <= turn["y"] + 8, "it does not cover the turn's first line"


def test_a_phone_has_room_for_fingers_and_speaks_of_taps(make_site: Any, said: Any) -> None:
    site = make_site([an_item("a", 9), an_item("b", 2)], attributes=("helpful", "harmless"))
    page = site.rank("Ada", **PHONE)
    for _ in range(2):
        assert page.locator(".more:visible").count() == 0, "the whole prompt is shown"
        assert not page.locator("#help").is_visible(), "it would lie over the task"
        assert page.evaluate(SMALL) == []
        assert page.locator("kbd:visible").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
        for name in ("skip", "flag"):
            page.locator(f"[data-act={name}]").first.tap()
            assert page.evaluate(SMALL) == []
            page.locator("dialog[open] [data-act=close]").tap()
        page.locator(".bar [data-act=help]").tap()
        assert "tap" in page.inner_text("#help") and page.locator("#help :is(kbd, table.keys):visible").count() == 0
        before = lease(page)
        page.go_back()
        page.wait_for_selector("#help", state="hidden")
        assert lease(page) == before, "Back closes the guide and leaves the page alone"
        page.locator(".bar [data-act=help]").tap()
        page.locator("#help [data-act=help]").tap()
        page.locator("[data-act=skip]").tap()
        page.locator("#skip [data-value=other]").tap()
        page.wait_for_function("old => document.querySelector('#task')?.dataset.lease !== old", arg=before)


def test_on_a_phone_the_ranking_speaks_of_the_card_that_is_read(make_site: Any, said: Any) -> None:
    site = make_site([of("a", "Q?", count=3, length=9)])
    page = site.rank("Ada", **PHONE)
    page.wait_for_timeout(750)
    page.evaluate("scrollTo(0, document.querySelector('#card-1').offsetTop)")
    page.wait_for_selector("#card-1.current")
    page.locator("#rail [data-act=slot][data-value='1']").tap()
    assert page.locator("#card-1 .place").inner_text() == "place 1"
    box = page.locator("#card-2").bounding_box()
    assert page.locator("#card-2.current").count() == 1 and 0 <= box["y"] < 300, "the next one is in view"
    page.locator("#rail [data-act=slot][data-value='2']").tap()
    assert page.locator("#card-0.current").count() == 1
    top = page.evaluate("scrollY")
    page.locator("[data-act=comment]").tap()
    page.keyboard.type("because")
    assert page.evaluate("scrollY") == top, "writing in the dock moves the page"
    page.locator("#rail [data-act=slot][data-value='3']").tap()
    gone(page, lease(page), page.locator("[data-act=submit]").tap)
    ranking = until(lambda: said(site))[-1]
    assert [[ranking.shown.index(id) for id in tier] for tier in ranking.tiers] == [[1], [2], [0]]


def test_an_answer_opened_again_can_be_left_without_a_keyboard(make_site: Any) -> None:
    site = make_site([an_item("a", 2), an_item("b", 2)])
    page = site.rank("Ada", **PHONE)
    first = lease(page)
    assert not page.locator("[data-act=escape]").is_visible()
    page.locator("[data-act=pair][data-value='0']").tap()
    gone(page, first, page.locator("[data-act=submit]").tap)
    second = lease(page)
    page.wait_for_load_state("networkidle")
    page.locator("[data-act=undo]").tap()
    page.wait_for_function("old => document.querySelector('#task').dataset.lease === old", arg=first)
    page.locator("[data-act=escape]").tap()
    page.wait_for_function("old => document.querySelector('#task').dataset.lease === old", arg=second)
    assert not page.locator("[data-act=escape]").is_visible()


def test_two_hundred_per_cent_leaves_room_to_read(make_site: Any) -> None:
    site = make_site([an_item("a", 4, length=4)], attributes=("helpful",))
    page = site.rank("Ada", **ZOOMED)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("#dock").bounding_box()["height"] <= 110, "of 400"
    assert page.locator(".card header kbd:visible").count(), "a keyboard is there"
    press(page, "1", "2", "3")
    box = page.locator("#card-3").bounding_box()
    dock = page.locator("#dock").bounding_box()
    assert page.locator("#card-3:focus").count() == 1 and box["y"] < dock["y"] - 40


def test_buttons_stand_in_line(make_site: Any) -> None:
    site = make_site([an_item("a", 4)], attributes=("helpful", "of great harm"))
    page = site.rank("Ada")
    for width in (1280, 1024, 768):
        page.set_viewport_size({"width": width, "height": 900})
        rows = page.locator(".dock .actions button:visible, #comment").evaluate_all(MIDDLES)
        assert max(rows) - min(rows) <= 2, (width, rows)
        heads = page.locator(".card header").evaluate_all("nodes => nodes.map((node) => node.offsetHeight)")
        assert len(set(heads)) == 1, (width, heads)
