"""Everybody starts on their role's own page, with numbers that are those of the store."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefloop.labels.answer import Answer
from prefloop.store import People, Queue, Store
from prefloop.store.overview import DAY_S, last_backup, note_backup, paces, size, total
from prefloop.web.templating import span
from prefloop.web.views import home as home_view
from prefloop.web.views.agreement import LatestFigures

from .conftest import an_item


@pytest.fixture
def site(make_server: Callable[..., Any]) -> Any:
    server = make_server(overlap=2, overlap_share=0.0, gold_share=0.0)
    server.store.add([an_item(f"i{n}") for n in range(4)])
    server.queue.fill()
    for role, name in (("owner", "Olga"), ("reviewer", "Rita"), ("annotator", "Ada"), ("annotator", "Ben")):
        server.join(role, name)
    return server


def rank(server: Any, name: str, number: int, *, flag: bool = False) -> None:
    me = server.people.by_login(name).person.id
    for n in range(number):
        given = server.queue.next(me)
        answer = Answer(((0,), (1,), (2,)), flags={0: ("wrong",)} if flag else {}, duration_s=60.0)
        server.queue.submit(me, given.lease, f"uuid-{me}-{given.position}-{n}", answer)


def words(page: Any) -> str:
    assert page.status_code == 200, page.text
    return " ".join(re.sub(r"<[^>]+>", " ", page.text.partition("<main")[2]).split())


def figures(browser: Any) -> str:
    """Return the home page once nothing on it is being counted."""
    end = time.monotonic() + 60
    while "being counted" in (found := words(browser.get("/"))).lower():
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def test_an_annotators_home_says_what_they_can_do_and_nothing_of_others(site: Any) -> None:
    rank(site, "Ben", 4)
    rank(site, "Ada", 1)
    found = words(site.browser("Ada").get("/"))
    assert "Rank: 3 open" in found and "You have ranked 1" in found
    assert not any(word in found for word in ("Ben", "Olga", "Agreement", "backup", "of 8", "Waiting"))


def test_the_owners_home_says_how_the_work_goes(site: Any) -> None:
    rank(site, "Ben", 4)
    rank(site, "Ada", 2, flag=True)
    site.queue.next(site.people.by_login("Ada").person.id)
    found = figures(site.browser("Olga"))
    assert "6 of 8 wanted, of 4 items" in found
    assert "Left 2 about 2 minutes of somebody's time" in found, "two rankings of a minute each"
    assert "Pace 6 in the last 24 hours, 6 in the last one" in found
    assert "Done in 8 hours" in found, "two more, at six in 24 hours"
    assert "Ranking now 1" in found
    assert "2 flagged items" in found
    row = re.search(r"Ben (?:ranked .*? ago )?(\d+) (\d+) (\S+) (\d+ % \d+ pairs)", found)
    assert row and row.group(1, 2) == ("4", "4"), found
    assert "There is no backup yet" in found and "Free on its disk" in found


def test_a_reviewers_home_leaves_out_what_only_owners_decide(site: Any) -> None:
    rank(site, "Ada", 1)
    found = figures(site.browser("Rita"))
    assert "1 of 8 wanted" in found and "Ada" in found
    assert not any(word in found for word in ("backup", "Settings", "Add items"))


def test_an_empty_project_says_what_to_do_first(make_server: Callable[..., Any]) -> None:
    server = make_server()
    server.join("owner", "Olga")
    found = words(server.browser("Olga").get("/"))
    assert "There is nothing to rank yet. Add a file of items" in found and "invite somebody" in found
    assert "Agreement is shown once there are rankings. Nobody else is here yet: " in found


def test_a_page_stays_whole_where_the_figures_cannot_be_counted(site: Any) -> None:
    rank(site, "Ada", 1)
    known = site.app.state.services
    site.app.state.services = replace(known, root=known.root / "elsewhere")
    try:
        found = home_view.look(site.app.state.services)
        end = time.monotonic() + 60
        while found.counting:
            assert time.monotonic() < end
            found = home_view.look(site.app.state.services)
        assert found == LatestFigures(None, False)
    finally:
        site.app.state.services = known


def test_paces_are_of_the_last_hour_day_and_fortnight(tmp_path: Path) -> None:
    now = [1_800_000_000.0]
    with Store.open("sqlite:///store.db", tmp_path) as store:
        people, queue = People(store), Queue(store, site_rules(), lambda: now[0])
        store.add([an_item(f"i{n}") for n in range(6)])
        queue.fill()
        ann = people.accept(people.owner_link() or "", "Ann", "hash").id
        end = now[0] + 20 * DAY_S
        for days_ago in (15.0, 13.5, 1.5, 0.5, 0.01):
            now[0] = end - days_ago * DAY_S
            given = queue.next(ann)
            assert given is not None
            queue.submit(ann, given.lease, f"uuid-{days_ago}".replace(".", "-"), Answer(((0,), (1,), (2,))))
        now[0] = end
        skipped = queue.next(ann)
        assert skipped is not None
        queue.skip(ann, skipped.lease, "uuid-skip", "unclear")
        (pace,) = paces(store, end).values()
        assert (pace.hour, pace.today, pace.days[0], sum(pace.days)) == (1, 2, 1, 4), "a skip is no ranking"
        assert total({"a": pace, "b": pace}).days[-2:] == (2, 4) and total({}).today == 0
        assert size(store) > 50_000
        assert last_backup(store) is None
        note_backup(store, end)
        assert last_backup(store) == end


def site_rules() -> Any:
    from prefloop.config import Annotate

    return Annotate(overlap_share=0.0, gold_share=0.0)


def test_spans_are_said_in_the_unit_that_fits() -> None:
    said = [span(seconds) for seconds in (20, 60, 5000, 7200, 9000, 40 * 3600, 30 * 86400, 100 * 86400)]
    assert said == ["1 minute", "1 minute", "83 minutes", "2 hours", "2.5 hours", "1.7 days", "30 days", "14 weeks"]
