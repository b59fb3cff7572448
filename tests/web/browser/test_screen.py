"""The ranking screen works when things are not smooth: speed, bad networks, two tabs, long texts, ended leases."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from browsing import an_item, lease, local, next_ready, press, submitted, tiers, until

pytestmark = pytest.mark.slow

FRAME_MS = 50
# It measures from the key going down to the end of the frame that shows what it did.
FRAME = """() => {
  window.shown = new Promise((resolve) => addEventListener("keydown", (event) =>
    requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - event.timeStamp))), {once: true}));
}"""


def test_a_key_is_answered_within_50_ms(make_site: Any, capsys: Any) -> None:
    site = make_site([an_item("a", 9, length=30)])
    page = site.rank("Ada")

    def milliseconds(key: str) -> float:
        page.evaluate(FRAME)
        press(page, key)
        return float(page.evaluate("window.shown"))

    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def worked() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return float(1000 * next(m["value"] for m in metrics if m["name"] == "TaskDuration"))

    keys = ["3", "1", "=", "5", "[", "]", "x", "k", "2", "u", "m", "m", "j", "7", "Backspace", "9"]
    ninth = int(0.9 * len(keys))
    for _ in range(10):  # What is slow in each run is ours, not the machine's.
        pairs, work = [], 0.0
        # A key that does nothing takes turns with each, and gives the machine's own share at that moment.
        for key in keys:
            before = worked()
            spent = milliseconds(key)
            work += (worked() - before) / len(keys)
            pairs.append((spent, milliseconds("y")))
        shown, idle = (sorted(times) for times in zip(*pairs, strict=True))
        if shown[ninth] < FRAME_MS:
            break
    with capsys.disabled():
        print(
            f"\n9 long answers, from key to frame, {len(keys)} keys: "
            f"median {statistics.median(shown):.0f} ms, nine in ten {shown[ninth]:.0f} ms; "
            f"keys that do nothing, by turns with them: {statistics.median(idle):.0f} and {idle[ninth]:.0f} ms; "
            f"processor time of the page's thread {work:.1f} ms a key"
        )
    assert work < FRAME_MS  # This holds whatever else the machine does.
    if idle[ninth] > FRAME_MS / 2:
        pytest.skip(f"this machine is too busy to time a frame: a key that does nothing takes {idle[ninth]:.0f} ms")
    assert shown[ninth] < FRAME_MS


def test_the_next_item_is_there_before_it_is_asked_for(make_site: Any, capsys: Any) -> None:
    site = make_site([an_item(name, 3) for name in "abc"])
    page = site.rank("Ada")
    next_ready(page)
    page.context.set_offline(True)
    submitted(page, "1", "2", "3")  # There is no network: only what is here already can be shown.
    assert page.locator("#task").count() == 1
    assert "waiting" in page.inner_text("#net") or "Offline" in page.inner_text("#net")
    page.context.set_offline(False)
    page.wait_for_function("() => document.querySelector('#net').textContent === ''")


def test_a_next_item_that_comes_too_late_is_not_shown_again_once_answered(make_site: Any, said: Any) -> None:
    """A quick annotator and a slow server: she has submitted before the item fetched ahead is there."""
    site = make_site([an_item(name, 3) for name in "abcd"])
    page = site.rank("Ada")
    next_ready(page)
    held: list[Any] = []
    page.route("**/next", lambda route: held.append(route) if len(held) < 2 else route.continue_())
    submitted(page, "1", "2", "3")
    until(lambda: len(held) == 1, page)  # This is what comes after b.
    press(page, "1", "2", "3", "Enter")
    until(lambda: len(held) == 2, page)  # This is what comes now.
    for route in held:
        route.continue_()
        page.wait_for_timeout(300)
    for _ in "cd":
        submitted(page, "1", "2", "3")
        next_ready(page)
    page.wait_for_selector("#done")
    assert len(until(lambda: said(site))) == 4


def test_an_answer_survives_a_dead_server_and_a_reload_and_is_there_once(make_site: Any, said: Any) -> None:
    site = make_site([an_item(name, 3) for name in "abcd"])
    page = site.rank("Ada")
    next_ready(page)
    order = local(page)
    sent: list[str] = []
    page.route("**/submit", lambda route: (sent.append(route.request.post_data_json["uuid"]), route.abort()))
    submitted(page, "1", "2", "3")
    until(lambda: len(sent) >= 2, page)
    assert said(site) == []
    page.unroute("**/submit")

    def lose_the_receipt(route: Any) -> None:  # The answer arrives, but its receipt doesn't.
        sent.append(route.request.post_data_json["uuid"])
        route.fetch()
        route.abort()

    page.route("**/submit", lose_the_receipt, times=1)
    site.leaving = True
    page.reload()
    page.wait_for_selector("#task")
    next_ready(page)
    until(lambda: page.evaluate("Object.values(localStorage).filter(v => v.includes('/submit')).length") == 0, page)
    assert len(set(sent)) == 1
    assert [tiers(r) for r in said(site)] == [[[c] for c in order]]


def test_an_answer_is_sent_again_when_the_store_is_back(make_site: Any, said: Any, shot: Any) -> None:
    site = make_site([an_item(name, 3) for name in "abcd"])
    page = site.rank("Ada")
    next_ready(page)
    order = local(page)
    file = Path(site.server.store.database.label)
    statuses: list[int] = []
    page.on("response", lambda answer: answer.url.endswith("/submit") and statuses.append(answer.status))
    file.rename(file.with_name("elsewhere"))
    submitted(page, "1", "2", "3")
    until(lambda: statuses, page)
    other = site.page()
    other.goto(f"{site.url}/join/x")
    assert other.inner_text("h1") == "Not available now" and "Try again" in other.inner_text("main")
    shot(other, "away")
    file.with_name("elsewhere").rename(file)
    until(lambda: statuses[-1] == 200, page)  # The browser hears of it a moment after the store has it.
    assert statuses[0] == 503
    assert [tiers(r) for r in said(site)] == [[[c] for c in order]]


def test_a_draft_is_there_again_after_a_reload_and_in_another_browser(make_site: Any) -> None:
    site = make_site([an_item("a", 4)])
    page = site.rank("Ada")
    press(page, "2", "1", "c")
    page.keyboard.type("half a thought")
    press(page, "Escape", "Control+s")
    page.wait_for_function("() => document.querySelector('#said').textContent === 'Saved'")
    page.reload()
    for again in (page, site.rank("Ada")):
        again.wait_for_selector("#task")
        assert again.locator(".place").all_inner_texts() == ["place 2", "place 1", "unplaced", "unplaced"]
        assert again.input_value("#comment") == "half a thought"


def test_two_tabs_never_answer_the_same_item(make_site: Any, said: Any) -> None:
    site = make_site([an_item("a", 3), an_item("b", 3), an_item("c", 3)])
    one = site.rank("Ada")
    site.trouble.clear()
    two = one.context.new_page()
    two.goto(f"{site.url}/rank")
    two.wait_for_selector("#task")
    assert lease(one) == lease(two)
    first = lease(one)
    submitted(one, "1", "2", "3")
    two.wait_for_function("old => document.querySelector('#task').dataset.lease !== old", arg=first)
    assert "another tab" in two.inner_text("#said")
    assert len(until(lambda: said(site))) == 1
    site.trouble.clear()  # The second tab is a new window, which pages themselves may not open.


def test_an_item_answered_elsewhere_is_said_and_the_first_answer_stands(make_site: Any, said: Any) -> None:
    site = make_site([an_item("a", 3), an_item("b", 3)])
    one, two = site.rank("Ada"), site.rank("Ada")  # They have two browsers, which can't tell each other.
    assert lease(one) == lease(two)
    order = local(one)
    next_ready(two)
    submitted(one, "1", "2", "3")
    until(lambda: said(site))
    submitted(two, "3", "2", "1")
    two.wait_for_selector("#warning:not([hidden])")
    assert "another window" in two.inner_text("#warning")
    assert [tiers(r) for r in said(site)] == [[[c] for c in order]]


def test_two_people_never_hold_the_last_place_of_an_item(make_site: Any, said: Any) -> None:
    site = make_site([an_item("a", 3)])
    ada, ben = site.rank("Ada"), site.rank("Ben")
    assert ada.locator("#task").count() == 1
    assert "Nothing for you at this moment" in ben.inner_text("#done")
    press(ada, "s", "1")
    ada.wait_for_selector("#done")
    ben.click("[data-act=again]")
    ben.wait_for_selector("#task")
    submitted(ben, "1", "2", "3")
    ben.wait_for_selector("#done")
    assert len(until(lambda: said(site))) == 1
    assert "All done" in ben.inner_text("#done")


def test_a_lease_that_runs_out_is_said_and_the_answer_kept(make_site: Any, said: Any) -> None:
    site = make_site([an_item("a", 3)], lease_minutes=0.03)
    page = site.rank("Ada")
    press(page, "1", "2", "3")
    page.wait_for_selector("#warning:not([hidden])")
    assert "your answer is kept" in page.inner_text("#warning")
    submitted(page)
    assert len(until(lambda: said(site))) == 1


def test_nothing_is_sent_before_every_answer_was_seen_to_its_end(make_site: Any, said: Any) -> None:
    site = make_site([an_item("a", 3, length=200)])
    page = site.rank("Ada")
    press(page, "1", "2", "3", "Enter")
    assert "not seen all of" in page.inner_text("#said")
    assert said(site) == []
    for _ in range(6):  # Each Enter shows what was missed.
        press(page, "Enter")
        page.wait_for_timeout(150)
    page.wait_for_selector("#done")
    assert len(until(lambda: said(site))) == 1


def test_nothing_is_sent_before_every_answer_has_a_place(make_site: Any, said: Any) -> None:
    site = make_site([an_item("a", 3)], rationale="required")
    page = site.rank("Ada")
    press(page, "Enter")
    assert "still without a place" in page.inner_text("#said")
    press(page, "1", "1", "1")
    page.wait_for_timeout(200)
    press(page, "Enter")
    assert page.evaluate("document.activeElement.id") == "comment", "a reason is asked for"
    page.keyboard.type("because")
    press(page, "Control+Enter")
    ranking = until(lambda: said(site))[-1]
    assert (len(ranking.tiers), ranking.comment) == (1, "because")


def test_partial_rankings_only_where_the_project_allows_them(make_site: Any, said: Any) -> None:
    site = make_site([an_item("a", 4)], partial=True)
    page = site.rank("Ada")
    order = local(page)
    submitted(page, "1", "2")
    assert tiers(until(lambda: said(site))[-1]) == [[order[0]], [order[1]]]


def test_single_keys_can_be_switched_off_and_then_tab_reaches_every_button(make_site: Any, said: Any) -> None:
    site = make_site([an_item("a", 3)])
    page = site.rank("Ada")
    assert page.locator("#card-0 [data-act=place]").first.get_attribute("tabindex") == "-1"
    page.click("[data-act=keys]")
    page.locator("#card-0").focus()
    press(page, "1", "s", "x")
    assert page.locator(".place").all_inner_texts() == ["unplaced"] * 3
    assert not page.locator("dialog[open]").count()
    for card in range(3):  # This is done by Tab and Enter alone.
        page.locator(f"#card-{card}").focus()
        for _ in range(40):
            press(page, "Tab")
            act = page.evaluate("[document.activeElement.dataset.act, document.activeElement.dataset.value].join()")
            if act == f"place,{card + 1}":
                break
        press(page, "Enter")
    assert page.locator(".place").all_inner_texts() == ["place 1", "place 2", "place 3"]
    page.wait_for_timeout(200)
    page.locator("#card-2").focus()
    press(page, "Enter")
    until(lambda: said(site))


def test_a_text_field_takes_every_letter(make_site: Any) -> None:
    site = make_site([an_item("a", 3)])
    page = site.rank("Ada")
    press(page, "c")
    page.keyboard.type("suxfvmp 1230 =[]?")
    assert page.input_value("#comment") == "suxfvmp 1230 =[]?"
    assert page.locator(".place").all_inner_texts() == ["unplaced"] * 3


def test_a_pause_stops_the_clock(make_site: Any, said: Any) -> None:
    site = make_site([an_item("a", 3)])
    page = site.rank("Ada")
    page.click("[data-act=pause]")
    page.wait_for_timeout(3000)
    page.click("#pause [data-act=close]")
    submitted(page, "1", "2", "3")
    assert until(lambda: said(site))[-1].duration_s < 2.5


def test_the_screen_says_what_happened(make_site: Any) -> None:
    site = make_site([an_item("a", 4)])
    page = site.rank("Ada")
    assert page.locator("#said").get_attribute("aria-live") == "polite"
    press(page, "2", "2")
    assert re.search(r"B: place 2, tied with A", page.inner_text("#said"))
    assert page.locator("#card-1").get_attribute("aria-labelledby") == "card-1-name card-1-place"
