"""After kill -9 of the server, or of Postgres, while people submit, every acknowledged ranking is there, exactly once.

PREFLOOP_KILLS says how often; a hundred takes a few minutes.
"""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server is not installed: pip install 'prefloop[web]'")

from sqlalchemy import select

from postgres_server import binaries, fresh_database, postgres_server, restartable_postgres
from prefloop.config import Annotate
from prefloop.store import People, Queue, Store
from prefloop.store.schema import leases
from prefloop.types import Completion, Item, Prompt
from prefloop.web.security.access import session_cookie
from ranking_client import AnnotateServer, Away, Gone, RankingClient

KILLS = int(os.environ.get("PREFLOOP_KILLS", "5"))
PEOPLE = 4
ITEMS = 60 * KILLS


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the URL of an empty store whose commits reach the disk."""
    if request.param == "sqlite":
        yield "sqlite:///prefloop.db"
        return
    pytest.importorskip("pg8000", reason="pg8000 is not installed: pip install 'prefloop[postgres]'")
    if binaries() is None:
        pytest.skip("no Postgres server here: apt-get install postgresql")
    with postgres_server(durable=True) as server:
        yield fresh_database(server)


class Worker(threading.Thread):
    """Ranks until told to stop, and sends again what was not acknowledged, as the screen's outbox does."""

    def __init__(self, port: int, cookie: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.client = RankingClient(port, cookie)
        self.draw = random.Random(seed)
        self.acknowledged: dict[str, tuple[tuple[int, ...], ...]] = {}
        self.stopping = threading.Event()
        self.failure: BaseException | None = None
        self.repeated = 0

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                task = self._until_answered(lambda: self.client.next())
                if task is None:
                    return
                order = self.draw.sample(range(task.cards), task.cards)
                tiers, name = tuple((n,) for n in order), str(uuid.UUID(int=self.draw.getrandbits(128), version=4))
                self._until_answered(lambda lease=task.lease, t=tiers, n=name: self.client.submit(lease, n, t))  # type: ignore[misc]
                self.acknowledged[task.lease] = tiers
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.failure = error
        finally:
            self.client.close()

    def _until_answered(self, call):  # type: ignore[no-untyped-def]
        end = time.monotonic() + 60
        while True:
            try:
                return call()
            except Gone as error:
                assert time.monotonic() < end, "the server stayed away"
                self.repeated += 1
                time.sleep(0.1 if isinstance(error, Away) else 0.01)


def _busy(workers: list[Worker], more: int) -> None:
    """Wait until the server that was just started has acknowledged so many more, so that it dies in the middle of
    work.
    """
    goal, end = sum(len(w.acknowledged) for w in workers) + more, time.monotonic() + 60
    while sum(len(w.acknowledged) for w in workers) < goal:
        assert time.monotonic() < end and not any(w.failure for w in workers), "nobody gets anywhere"
        time.sleep(0.002)


def _prepare(url: str, folder: Path) -> list[str]:
    """Make a project with items to rank. Return the cookies of those who will rank them."""
    (folder / "prefloop.toml").write_text(f'[project]\nstore = "{url}"\n[annotate]\noverlap_share = 0.3\n')
    with Store.open(url, folder) as store:
        answers = [f"Answer {c}." for c in range(3)]
        store.add(
            Item(f"i{n}", Prompt(f"Question {n}?"), tuple(Completion(f"i{n}:c{c}", t) for c, t in enumerate(answers)))
            for n in range(ITEMS)
        )
        people = People(store)
        Queue(store, Annotate(overlap_share=0.3)).fill()
        ids = [people.accept(people.invite(None, "annotator"), f"Person {n}", "no hash").id for n in range(PEOPLE)]
        return [f"{session_cookie(folder, tls=False)}={people.open_session(id)}" for id in ids]


def _finish(workers: list[Worker]) -> None:
    for worker in workers:
        worker.stopping.set()
    for worker in workers:
        worker.join(60)


def _check(url: str, folder: Path, workers: list[Worker]) -> None:
    """Check that every acknowledged ranking is there as it was given, once, and no other."""
    assert [worker.failure for worker in workers] == [None] * PEOPLE
    acknowledged = {lease: tiers for worker in workers for lease, tiers in worker.acknowledged.items()}
    assert len(acknowledged) >= 3 * KILLS and sum(worker.repeated for worker in workers) >= KILLS

    with Store.open(url, folder, create=False) as store:
        said = {r.id: r for item in store.items() for r in item.rankings}
        assert len(said) == len({(r.item_id, r.annotator) for r in said.values()}), "a ranking is there twice"
        with store.database.read() as connection:
            rows = connection.execute(select(leases).where(leases.c.state == "done")).mappings().all()
        assert {row["ranking_id"] for row in rows} == said.keys(), "leases and rankings disagree"
        given = {row["id"]: row for row in rows}
        for lease, tiers in acknowledged.items():
            ranking = said[given[lease]["ranking_id"]]
            assert ranking.tiers == tuple(tuple(ranking.shown[n] for n in tier) for tier in tiers)
        assert given.keys() == acknowledged.keys(), "an answer that nobody was told of"
        quota = Queue(store, Annotate(overlap_share=0.3)).quota()
        assert quota.done == len(said)
        most = Counter(r.item_id for r in said.values())
        assert max(most.values()) <= 3
        assert store.check() == []


@pytest.mark.slow
@pytest.mark.timeout(120 + 20 * KILLS)
def test_acknowledged_rankings_survive_kills_of_the_server(url: str, tmp_path: Path) -> None:
    cookies = _prepare(url, tmp_path)
    server, draw = AnnotateServer(tmp_path), random.Random(7)
    server.start()
    workers = [Worker(server.port, cookie, n) for n, cookie in enumerate(cookies)]
    try:
        for worker in workers:
            worker.start()
        for _ in range(KILLS):
            _busy(workers, draw.randint(3, 15))
            time.sleep(draw.uniform(0, 0.05))
            server.kill()
            server.start()
        _finish(workers)
    finally:
        server.kill()
    _check(url, tmp_path, workers)


@pytest.mark.slow
@pytest.mark.timeout(120 + 20 * KILLS)
def test_acknowledged_rankings_survive_restarts_of_postgres_and_the_server_connects_again(tmp_path: Path) -> None:
    """Crashes and orderly stops take turns. Meanwhile people read 503, and pages without the store are there."""
    pytest.importorskip("pg8000", reason="pg8000 is not installed: pip install 'prefloop[postgres]'")
    if binaries() is None:
        pytest.skip("no Postgres server here: apt-get install postgresql")
    with restartable_postgres(durable=True) as postgres:
        url = fresh_database(postgres.url)
        cookies = _prepare(url, tmp_path)
        server, draw = AnnotateServer(tmp_path), random.Random(8)
        server.start()
        workers = [Worker(server.port, cookie, n) for n, cookie in enumerate(cookies)]
        try:
            for worker in workers:
                worker.start()
            for number in range(KILLS):
                _busy(workers, draw.randint(3, 15))
                postgres.stop("fast" if number % 2 else "immediate")
                with closing(RankingClient(server.port, cookies[0])) as somebody:
                    with pytest.raises(Away, match="cannot reach its database"):
                        somebody.call("GET", "/history")
                    assert "font-family" in somebody.call("GET", "/static/app.css")
                with closing(RankingClient(server.port, "theme=dark")) as nobody:
                    assert "password" in nobody.call("GET", "/login")
                postgres.start()
            _busy(workers, 10)
            _finish(workers)
        finally:
            server.kill()
        _check(url, tmp_path, workers)
