"""An annotator works for a day in a real browser: by keyboard alone, by mouse alone, by finger on a phone."""

from __future__ import annotations

from typing import Any

import pytest
from browsing import an_item, gone, lease, local, next_ready, press, submitted, tiers, until

pytestmark = pytest.mark.slow


def test_a_day_by_keyboard_alone(make_site: Any, said: Any, shot: Any) -> None:
    items = [an_item("a", 4), an_item("b", 4, chat=True), an_item("c", 4), an_item("d", 4)]
    site = make_site(items, attributes=("helpful", "harmless"))
    page = site.rank("Ada")
    shot(page, "keyboard-start")

    # B is best, A and C are tied, D is last: it is unacceptable, rated, flagged, with a reason.
    one = local(page)
    press(page, "2", "1", "=", "3", "x", "w", "Shift+T", "f", "2", "Escape", "c")
    page.keyboard.type("short and true, x 1 2 3")
    shot(page, "keyboard-all-said")
    submitted(page, "Escape")
    ranking = until(lambda: said(site))[-1]
    assert tiers(ranking) == [[one[1]], sorted([one[0], one[2]]), [one[3]]]
    marked = f"{ranking.item_id}:{one[3]}"
    assert ranking.unacceptable == (marked,)
    assert ranking.ratings == {marked: {"helpful": 2.0, "harmless": 5.0}}
    assert (ranking.flags, ranking.metadata["flags"]) == (("unsafe",), {marked: ["unsafe"]})
    assert ranking.comment == "short and true, x 1 2 3"
    assert ranking.shown == tuple(f"{ranking.item_id}:{c}" for c in one)
    assert ranking.duration_s > 0 and len(ranking.metadata["dwell_s"]) == 4

    # They move, undo, compare, and look at it in other ways.
    two = local(page)
    press(page, "1", "2", "3", "4", "[", "[", "]", "u", "u", "m", "p", "p", "p")
    assert page.locator("body.raw-text").count() == 1
    press(page, "m", "j", "v", "j", "v")
    page.wait_for_selector("dialog#diff[open] ins")
    shot(page, "keyboard-diff")
    press(page, "v", "?")
    assert page.locator("#help").is_visible() != page.locator("#help[hidden]").count()
    # From the card after the pinned one it goes back to the pinned one, into a tie with the tier above.
    press(page, "k", "Alt+ArrowUp")
    placed = page.locator(".place").all_inner_texts()
    submitted(page)
    ranking = until(lambda: said(site)[1:])[-1]
    assert sorted(sum(tiers(ranking), [])) == sorted(two) and len(ranking.tiers) == 3, placed

    # They skip with a reason; a flag set before is kept.
    skipped = lease(page)
    press(page, "f", "3", "Enter", "s")
    shot(page, "keyboard-skip")
    press(page, "3")
    page.wait_for_function("lease => document.querySelector('#task')?.dataset.lease !== lease", arg=skipped)

    assert list(until(site.server.queue.skip_flags).values()) == [("pii",)]

    # They do the last one, then undo: the answer comes back and is replaced.
    four = local(page)
    submitted(page, "1", "2", "3", "4")
    page.wait_for_selector("#done")
    shot(page, "keyboard-done")
    rankings = until(lambda: said(site)[2:] and said(site))
    assert tiers(rankings[-1]) == [[c] for c in four]
    page.goto(f"{site.url}/history")
    assert "too long" in page.inner_text("main") or "Too long" in page.inner_text("main")
    shot(page, "history")


def test_undo_reopens_the_last_answer_and_submit_replaces_it(make_site: Any, said: Any, shot: Any) -> None:
    site = make_site([an_item("a", 3), an_item("b", 3)])
    page = site.rank("Ada")
    one = local(page)
    submitted(page, "1", "2", "3")
    second = lease(page)
    next_ready(page)
    press(page, "1")  # Something is said on the second one, which must still be there afterwards.
    press(page, "u", "u")
    page.wait_for_function("lease => document.querySelector('#task').dataset.lease !== lease", arg=second)
    shot(page, "undo-reopened")
    assert local(page) == one
    assert page.locator(".place").all_inner_texts() == ["place 1", "place 2", "place 3"]
    press(page, "j", "j", "j")
    submitted(page, "3", "j", "1")
    assert lease(page) == second
    rankings = until(lambda: [r for r in said(site) if r.supersedes])
    assert [tiers(r) for r in rankings] != [[[c] for c in one]]
    assert site.server.people.by_login("Ada").person.done == 1


def test_a_day_by_mouse_alone(make_site: Any, said: Any, shot: Any) -> None:
    site = make_site([an_item("a", 4), an_item("b", 4), an_item("c", 4)], attributes=("helpful",))
    page = site.rank("Ada")

    def drag(card: int, target: str) -> None:
        page.locator(f"#card-{card}").scroll_into_view_if_needed()
        source = page.locator(f"#card-{card} .grip").bounding_box()
        box = page.locator(target).bounding_box()
        page.mouse.move(source["x"] + 10, source["y"] + 10)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)
        if card == 2:
            shot(page, "mouse-drag")
        page.mouse.up()

    def button(card: int, what: str) -> None:
        page.locator(f"#card-{card} [data-act={what}]").first.click()

    def click_submit() -> None:
        gone(page, lease(page), page.locator("[data-act=submit]").click)

    # They drag A to place 1, B to place 2, C to a place between them, and D onto A.
    one = local(page)
    drag(0, "#rail [data-slot='1']")
    drag(1, "#rail [data-slot='2']")
    drag(2, "#rail [data-gap='2']")
    drag(3, "#rail [data-slot='1']")
    click_submit()
    assert tiers(until(lambda: said(site))[-1]) == [sorted([one[0], one[3]]), [one[2]], [one[1]]]

    # They use buttons: numbers, up, down, tie, marks, ratings, flags, the reason.
    two = local(page)
    for card, place in enumerate("3214"):
        page.locator(f"#card-{card} [data-act=place][data-value='{place}']").click()
    button(3, "tie")  # It ties A with place 3.
    button(0, "worse")  # It goes out of the tie, below D.
    button(1, "bad")
    page.locator("#card-2 [data-act=rate][data-value='4']").click()
    button(2, "flag")
    page.locator("#flags [data-value=pii]").click()
    shot(page, "mouse-flags")
    page.locator("#flags [data-act=close]").click()
    click_submit()
    ranking = until(lambda: said(site)[1:])[-1]
    assert tiers(ranking) == [[two[2]], [two[1]], [two[3]], [two[0]]]
    assert [id[-2:] for id in ranking.unacceptable] == [two[1]]
    assert (ranking.flags, list(ranking.ratings.values())) == (("pii",), [{"helpful": 4.0}])

    # They say none is acceptable, and undo it; then come the guide, the pause, and a skip.
    page.locator("[data-act=none]").click()
    page.locator("[data-act=undo]").click()
    assert page.locator("[data-act=none]").get_attribute("aria-pressed") == "false"
    page.locator("[data-act=pause]").click()
    page.locator("#pause [data-act=close]").click()
    page.locator("[data-act=skip]").click()
    page.locator("#skip [data-value=other]").click()
    page.wait_for_selector("#done")


def test_a_phone_and_a_finger(make_site: Any, said: Any, shot: Any) -> None:
    site = make_site([an_item("a", 5), an_item("b", 2)])
    phone = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True}
    page = site.rank("Ada", **phone)
    shot(page, "phone-start")
    for _ in range(2):
        count = page.locator(".card").count()
        order = local(page)
        before = lease(page)
        if count == 2:
            shot(page, "phone-pair")
            page.locator("[data-act=pair][data-value='1']").tap()
        for card in range(count if count > 2 else 0):
            page.locator(f"#card-{card} [data-act=place][data-value='{min(card + 1, 4)}']").tap()
        if count > 2:
            shot(page, "phone-placed")
            finger_drag(page, "#rail [data-goto='0']", "#rail [data-slot='2'] .slot-number")
            assert "tied with B" in page.locator("#card-0 .place").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
        gone(page, before, page.locator("[data-act=submit]").tap)
        expected = [[order[1]], [order[0]]] if count == 2 else [sorted(order[:2]), [order[2]], sorted(order[3:])]
        until(lambda want=expected: any(tiers(ranking) == want for ranking in said(site)))


def finger_drag(page: Any, source: str, target: str) -> None:
    """Make a real touch, from the middle of one element to the middle of another."""
    boxes = [page.locator(each).bounding_box() for each in (source, target)]
    (x0, y0), (x1, y1) = [(b["x"] + b["width"] / 2, b["y"] + b["height"] / 2) for b in boxes]
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    touch("touchStart", (x0, y0))
    for step in range(1, 6):
        touch("touchMove", (x0 + (x1 - x0) * step / 5, y0 + (y1 - y0) * step / 5))
    page.wait_for_timeout(100)  # A finger rests before it lifts; else it is a fling, which swallows the tap after it.
    touch("touchEnd")


@pytest.mark.parametrize(
    ("key", "expected"),
    [("ArrowLeft", [[0], [1]]), ("ArrowRight", [[1], [0]]), ("ArrowDown", [[0, 1]]), ("ArrowUp", []), ("2", None)],
)
def test_two_answers_have_keys_of_their_own(make_site: Any, said: Any, shot: Any, key: str, expected: Any) -> None:
    site = make_site([an_item("a", 2)])
    page = site.rank("Ada")
    order = local(page)
    if expected is None:  # The digits work as with longer lists.
        press(page, "2", "1")
        expected = [[1], [0]]
    else:
        press(page, key)
    shot(page, f"pair-{key}")
    submitted(page)
    ranking = until(lambda: said(site))[-1]
    assert tiers(ranking) == [sorted(order[i] for i in tier) for tier in expected]
    assert ranking.none_acceptable == (key == "ArrowUp")
