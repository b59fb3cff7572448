"""`run` waits while people rank, says so once, goes on by itself, and can be stopped and taken up again."""

from __future__ import annotations

import socket
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prefloop.errors import BusyError, ConfigError, NothingToDoError, StoreError
from prefloop.labels.answer import Answer
from prefloop.project.project import Project
from prefloop.stages import annotate_wait
from prefloop.stages.annotate_wait import PATIENCE_S, STALLED_S, Clock, annotate
from prefloop.stages.run import run
from prefloop.store import People, Queue, listens
from prefloop.types import Completion, Item, Prompt, Ranking


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    root = tmp_path / "p"
    root.mkdir()
    (root / "prefloop.toml").write_text('[run]\nstages = ["annotate"]\n[annotate]\noverlap_share = 0\n')
    with Project.open(root) as opened:
        yield opened


def item(n: int, round: int = 0, rankings: tuple[Ranking, ...] = ()) -> Item:
    made = tuple(Completion(f"i{n}:c{j}", f"answer {j} to {n}") for j in range(3))
    return Item(f"i{n}", Prompt(f"question {n}"), made, rankings, round=round, source="sample")


class Somebody:
    """One annotator who ranks the next item whenever asked."""

    def __init__(self, project: Project) -> None:
        people = People(project.store)
        token = people.owner_link() or people.invite(None, "annotator")
        self.id = people.accept(token, f"somebody {uuid.uuid4().hex[:6]}", "hash").id
        self.queue = Queue(project.store, project.config.annotate, seed=project.config.project.seed)

    def rank(self) -> None:
        shown = self.queue.next(self.id)
        assert shown is not None
        self.queue.submit(self.id, shown.lease, str(uuid.uuid4()), Answer(tiers=((1,), (0, 2))))


class Days:
    """Time in which something happens: each sleep takes as long as it says, then calls `during`."""

    def __init__(self, during: Callable[[], object]) -> None:
        self.time = 0.0
        self.slept: list[float] = []
        self.during = during
        self.clock = Clock(now=lambda: self.time, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.time += seconds
        self.slept.append(seconds)
        self.during()


def test_it_goes_on_when_people_have_ranked_everything(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.store.add([item(n) for n in range(4)])
    somebody = Somebody(project)
    days = Days(somebody.rank)
    outcome = annotate(project, 0, days.clock)
    assert not outcome.skipped and len(days.slept) == 4
    assert outcome.rankings == outcome.wanted == 4 and outcome.simulated is False
    assert all(r.annotator == somebody.id for i in project.store.items() for r in i.rankings)
    said = capsys.readouterr().err
    assert "waits for people: 0 of 4 rankings" in said and f"prefloop annotate -C {project.root}" in said
    assert [line for line in said.splitlines() if " of 4 rankings" in line][1:] == [
        f"annotate: {n} of 4 rankings" for n in (1, 2, 3, 4)
    ]
    again = annotate(project, 0, Days(somebody.rank).clock)
    assert again.skipped and again.rankings == 4


def test_a_quota_ends_the_wait_before_everything_is_ranked(tmp_path: Path, project: Project) -> None:
    project.store.add([item(n) for n in range(5)])
    with Project.open(project.root, ["annotate.quota=2"], quiet=True) as small:
        result = annotate(small, 0, Days(Somebody(small).rank).clock)
    assert (result.rankings, result.wanted, result.left_open) == (2, 2, 3)


def test_only_the_round_asked_for_is_waited_for(project: Project) -> None:
    project.store.add([item(0, round=0), item(1, round=1)])
    result = annotate(project, 1, Days(Somebody(project).rank).clock)
    assert (result.items, result.rankings) == (1, 1)


def test_ctrl_c_stops_the_wait_and_a_later_one_goes_on(project: Project) -> None:
    project.store.add([item(n) for n in range(3)])
    somebody = Somebody(project)

    def once_then_stop() -> None:
        if days.time > 3:
            raise KeyboardInterrupt
        somebody.rank()

    days = Days(once_then_stop)
    with pytest.raises(KeyboardInterrupt):
        annotate(project, 0, days.clock)
    days = Days(somebody.rank)
    assert annotate(project, 0, days.clock).rankings == 3
    assert len(days.slept) == 2


def test_what_people_ranked_elsewhere_is_not_asked_for_again(project: Project) -> None:
    said = Ranking("i0", "ann", "quality", (("i0:c1",), ("i0:c0", "i0:c2")))
    project.store.add([item(0, rankings=(said,))])
    assert annotate(project, 0, Days(lambda: pytest.fail("it waited")).clock).skipped


def test_what_a_simulated_crowd_ranked_is_still_asked_of_people(project: Project) -> None:
    said = Ranking("i0", "sim", "quality", (("i0:c1",), ("i0:c0", "i0:c2")), simulated=True)
    project.store.add([item(0, rankings=(said,))])
    assert not annotate(project, 0, Days(Somebody(project).rank).clock).skipped


def test_nothing_to_rank_says_what_to_do(project: Project) -> None:
    with pytest.raises(NothingToDoError, match="prefloop sample"):
        annotate(project, 0)
    alone = item(0)
    project.store.add([Item(alone.id, alone.prompt, alone.completions[:1], source="sample")])
    with pytest.raises(NothingToDoError, match="fewer than 2"):
        annotate(project, 0)


def test_items_that_come_while_it_waits_are_waited_for(project: Project) -> None:
    project.store.add([item(0)])
    somebody = Somebody(project)

    def more() -> None:
        if days.time < 3:
            project.store.add([item(1)])
            somebody.queue.fill()  # The server does so too.
        somebody.rank()

    days = Days(more)
    assert annotate(project, 0, days.clock).rankings == 2


def test_a_stalled_queue_is_said_once_an_hour_of_silence(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.store.add([item(0)])
    somebody = Somebody(project)
    days = Days(lambda: somebody.rank() if days.time > 3 * STALLED_S else None)
    annotate(project, 0, days.clock)
    said = capsys.readouterr().err
    assert said.count("nothing new for an hour, 1 rankings are open") == 1
    assert "--invite annotator" in said


def test_a_ranking_now_and_then_is_no_silence(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.store.add([item(n) for n in range(3)])
    somebody, given = Somebody(project), [0.0]

    def every_50_minutes() -> None:
        if days.time - given[-1] > 3000:
            given.append(days.time)
            somebody.rank()

    days = Days(every_50_minutes)
    annotate(project, 0, days.clock)
    assert len(given) == 4 and "nothing new" not in capsys.readouterr().err


def test_a_database_that_comes_back_is_no_end_and_one_that_stays_away_is(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.store.add([item(0)])
    somebody = Somebody(project)
    real, down = Queue.quota, {"until": 100.0}

    def quota(self: Queue, round: int | None = None) -> object:
        if 2 <= days.time < down["until"]:
            raise (BusyError if days.time < 10 else StoreError)("the server restarts.")
        return real(self, round)

    monkeypatch.setattr(Queue, "quota", quota)
    days = Days(lambda: somebody.rank() if days.time >= 100 else None)
    assert annotate(project, 0, days.clock).rankings == 1
    assert max(days.slept) <= 60
    project.store.add([item(1)])
    down["until"] = 1e9
    days = Days(lambda: None)
    with pytest.raises(StoreError, match="restarts"):
        annotate(project, 0, days.clock)
    assert PATIENCE_S < days.time < 2 * PATIENCE_S


def test_looking_takes_a_small_share_of_the_time(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.store.add([item(n) for n in range(3)])
    real = Queue.quota

    def slow(self: Queue, round: int | None = None) -> object:
        days.time += 1.0
        return real(self, round)

    monkeypatch.setattr(Queue, "quota", slow)
    days = Days(Somebody(project).rank)
    annotate(project, 0, days.clock)
    assert days.slept == [annotate_wait.POLL_S, 20.0, 20.0]


def test_a_bar_on_a_terminal_shows_rankings_against_the_quota(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.store.add([item(n) for n in range(4)])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    annotate(project, 0, Days(Somebody(project).rank).clock)
    said = capsys.readouterr().err
    assert "rankings:  50%" in said and "2/4" in said
    assert "annotate: 2 of 4 rankings" not in said


def test_run_takes_people_or_a_crowd_but_not_both(project: Project) -> None:
    with (
        Project.open(project.root, ['run.stages=["annotate", "crowd"]'], quiet=True) as both,
        pytest.raises(ConfigError, match="Drop one"),
    ):
        run(both)


def test_run_reports_the_stage(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.store.add([item(0)])
    monkeypatch.setattr(annotate_wait, "Clock", lambda: Days(Somebody(project).rank).clock)
    result = run(project)
    assert [stage.stage for stage in result.stages] == ["annotate"]
    assert result.stages[0].rankings == 1 and result.stages[0].skipped is False
    assert run(project).skipped


@pytest.mark.parametrize(
    ("address", "port"),
    [("https://rank.example.org", 443), ("http://rank.example.org", 80), ("http://host:8300", 8300)],
)
def test_a_server_is_looked_for_at_the_port_of_its_address(
    monkeypatch: pytest.MonkeyPatch, address: str, port: int
) -> None:
    """Nothing is asked of the network here: the addresses are another machine's."""
    tried: list[int] = []

    def refuse(place: tuple[str, int], timeout: float) -> None:
        tried.append(place[1])
        raise OSError

    monkeypatch.setattr(socket, "create_connection", refuse)
    assert not listens(address) and tried == [port]
