"""Loads the annotation server: a crowd in a process of its own works against one server, over SQLite and over Postgres.

    python benchmarks/annotate_load.py                       # 50 people, 10,000 rankings, both databases
    python benchmarks/annotate_load.py --items 100000 --completions 10 --rankings 2000 --pages

Each person does what the screen's script does: fetches the next item ahead, thinks, keeps a draft, submits; one answer
in fifty is sent twice. `--think` is the mean of the (exponential) seconds between showing and submitting; 0 asks how
much the server takes. Afterwards the store is read: it must hold every acknowledged ranking once, and no item with more
than it wanted.

Times are the client's, in milliseconds, on the machine that also runs all clients, so the crowd is one process that
speaks HTTP over plain sockets and parses next to nothing. What the machine's noise touches less is printed too: the
processor time that the server's processes took for one whole ranking (next, draft, submit), and the crowd's beside it.
The server's is taken, with the rate, while everybody works: from the first tenth of the rankings to the last. It prints
a table; `--json FILE` writes the figures too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("src", "tests")]

from sqlalchemy import func, select  # noqa: E402

from postgres_server import fresh_database, postgres_server  # noqa: E402
from prefloop.config import Annotate  # noqa: E402
from prefloop.store import People, Queue, Store  # noqa: E402
from prefloop.store.schema import leases, tasks  # noqa: E402
from prefloop.types import Completion, Item, Prompt  # noqa: E402
from prefloop.web.security.access import session_cookie  # noqa: E402
from ranking_client import IDLE_S, TASK, AnnotateServer, RankingClient, Task  # noqa: E402

# 30 % of the items are ranked by exactly 3, the rest by 1.
SETTINGS = {"overlap_many": 3, "overlap_share": 0.3, "gold_share": 0.0}
SENT_TWICE = 0.02
LISTS = ("all", "answered", "several", "disagreement", "flagged", "skipped", "gold", "discarded")
PAGES = (
    *("/rank", "/guidelines", "/history", "/account", "/people", "/settings", "/audit", "/agreement"),
    *(f"/review?kind={kind}" for kind in LISTS),
)
KINDS = ("next", "draft", "submit")
T = TypeVar("T")


@dataclass
class Times:
    """Holds milliseconds of one person's requests, and what the server acknowledged: (lease, tiers)."""

    ms: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    acknowledged: list[tuple[str, list[list[int]]]] = field(default_factory=list)


class Caller:
    """Holds one person's connection. Requests are written by hand; of the answers only status and length are parsed."""

    def __init__(self, port: int, cookie: str) -> None:
        self._port = port
        self._same = f"Host: 127.0.0.1:{port}\r\nCookie: {cookie}\r\nSec-Fetch-Site: same-origin\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._used = 0.0

    async def post(self, path: str, body: object, accept: str = "application/json") -> bytes:
        if self._streams is not None and time.monotonic() - self._used > IDLE_S:
            self._streams[1].close()
            self._streams = None
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        sent = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\n{self._same}Accept: {accept}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        content = await reader.readexactly(length)
        self._used = time.monotonic()
        assert answer.startswith(b"HTTP/1.1 200"), (path, answer[:200], content[:300])
        return content

    async def next(self, after: str | None = None) -> Task | None:
        found = TASK.search((await self.post("/rank/next", {"after": after}, "text/html")).decode())
        return Task(found[1], int(found[2])) if found else None


async def rank_for_a_while(caller: Caller, seed: int, think: float, left: list[int], done: Any) -> Times:
    """Rank as one person until nothing is left to do, or all have given `left` rankings. Count them in `done`."""
    draw, times = random.Random(seed), Times()

    async def timed(kind: str, call: Awaitable[T]) -> T:
        before = time.perf_counter()
        found = await call
        times.ms[kind].append(1000 * (time.perf_counter() - before))
        return found

    await asyncio.sleep(think * draw.random())
    task = await timed("next", caller.next())
    while task is not None and left[0] > 0:
        left[0] -= 1
        ahead = await timed("next", caller.next(task.lease))
        await asyncio.sleep(draw.expovariate(1 / think) if think else 0)
        order = draw.sample(range(task.cards), task.cards)
        tiers = [[n] for n in order]
        if draw.random() < 0.2:
            tiers[:2] = [sorted(order[:2])]
        await timed("draft", caller.post(f"/rank/{task.lease}/draft", {"state": {"slots": order}}))
        name = str(uuid.UUID(int=draw.getrandbits(128), version=4))
        answer = {"uuid": name, "answer": {"tiers": tiers, "duration_s": 5.0}}
        for _ in range(2 if draw.random() < SENT_TWICE else 1):
            await timed("submit", caller.post(f"/rank/{task.lease}/submit", answer))
        times.acknowledged.append((task.lease, tiers))
        done.value += 1
        task = ahead if ahead is not None else await timed("next", caller.next())
    return times


def crowd(port: int, cookies: Sequence[str], think: float, rankings: int, done: Any, out: Any) -> None:
    """Run all people in this process."""

    async def all_of_them() -> list[Times]:
        left = [rankings]
        people = [rank_for_a_while(Caller(port, cookie), n, think, left, done) for n, cookie in enumerate(cookies)]
        return await asyncio.gather(*people)

    out.put((asyncio.run(all_of_them()), time.process_time()))


def items(count: int, completions: int) -> Iterator[Item]:
    draw = random.Random(0)
    words = [f"word{n}" for n in range(500)]
    for n in range(count):
        texts = [" ".join(draw.choices(words, k=40)) for _ in range(completions)]
        answers = tuple(Completion(f"i{n}:c{c}", text) for c, text in enumerate(texts))
        yield Item(f"i{n}", Prompt(f"Question {n}: {' '.join(draw.choices(words, k=20))}?"), answers)


def one_run(url: str, root: Path, asked: argparse.Namespace, workers: int) -> dict[str, Any]:
    settings = Annotate.model_validate(SETTINGS)
    lines = [f"{key} = {value}" for key, value in SETTINGS.items()]
    (root / "prefloop.toml").write_text("\n".join([f'[project]\nstore = "{url}"\n[annotate]', *lines]) + "\n")
    with Store.open(url, root) as store:
        store.add(items(asked.items, asked.completions))
        Queue(store, settings).fill()
        people = People(store)
        tokens = [people.owner_link() or "", *(people.invite(None, "annotator") for _ in range(asked.people))]
        ids = [people.accept(token, f"Person {n}", "no hash").id for n, token in enumerate(tokens)]
        cookies = [f"{session_cookie(root, tls=False)}={people.open_session(id)}" for id in ids]

    server = AnnotateServer(root, workers)
    server.start()
    fork = multiprocessing.get_context("fork")
    out = fork.SimpleQueue()
    done = fork.Value("i", 0, lock=False)
    seen: list[tuple[int, float, float]] = []  # rankings given, seconds, the server's processor seconds
    started = time.perf_counter()
    process = fork.Process(target=crowd, args=(server.port, cookies[1:], asked.think, asked.rankings, done, out))
    process.start()
    try:
        while out.empty():
            if process.exitcode not in (None, 0):
                sys.exit("the crowd failed: see above")
            seen.append((done.value, time.perf_counter(), _processor_s(server.pid)))
            time.sleep(0.2)
        found, crowd_s = out.get()
        seconds = time.perf_counter() - started
        process.join()
        pages = _pages(server.port, cookies[0]) if asked.pages else {}
    finally:
        code = server.stop()
    assert code == 0, f"the server ended with {code}"
    told = [one for times in found for one in times.acknowledged]
    with Store.open(url, root, create=False) as store:
        checked = verify(store, settings, told, asked)
    ms = {kind: [value for times in found for value in times.ms[kind]] for kind in KINDS}
    busy = [one for one in seen if 0.1 * len(told) <= one[0] <= 0.9 * len(told)]
    given, took, server_s = (last - first for first, last in zip(busy[0], busy[-1], strict=True))
    return {
        "workers": workers,
        "rankings": len(told),
        "seconds": round(seconds, 1),
        "rankings_per_second": round(given / took, 1),
        "server_processor_ms_per_ranking": round(1000 * server_s / given, 2),
        "crowd_processor_ms_per_ranking": round(1000 * crowd_s / len(told), 2),
        "ms": {kind: _summary(values) for kind, values in ms.items()},
        "pages_ms": pages,
        "checked": checked,
    }


def _processor_s(pid: int) -> float:
    """Return the seconds of processor time of a process and its children until now, in the kernel too."""
    process = psutil.Process(pid)
    return sum(sum(p.cpu_times()[:2]) for p in (process, *process.children(recursive=True)))


def _summary(values: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"n": len(values), "p50": round(cuts[49], 1), "p99": round(cuts[98], 1), "max": round(max(values), 1)}


def _pages(port: int, cookie: str, repeats: int = 5) -> dict[str, float]:
    """Return the slowest of some calls of every page, as the owner; the first counts like the others."""
    client, found = RankingClient(port, cookie), {}
    for path in PAGES:
        times = []
        for _ in range(repeats):
            before = time.perf_counter()
            client.call("GET", path, accept="text/html")
            times.append(1000 * (time.perf_counter() - before))
        found[path] = round(max(times), 1)
    return found


def verify(
    store: Store, settings: Annotate, told: Sequence[tuple[str, list[list[int]]]], asked: argparse.Namespace
) -> str:
    """Compare what the store holds with what people were told. Raises AssertionError; returns the result in words."""
    said = {r.id: r for item in store.items(ranked=True) for r in item.rankings}
    assert len(said) == len(told) == len({lease for lease, _ in told}), f"{len(said)} kept, {len(told)} acknowledged"
    assert len({(r.item_id, r.annotator) for r in said.values()}) == len(said), "somebody got an item twice"
    with store.database.read() as connection:
        given = {lease: ranking for lease, ranking in connection.execute(select(leases.c.id, leases.c.ranking_id))}
        surplus = connection.scalar(select(func.count()).where(leases.c.surplus))
        wanted = {item: want for item, want in connection.execute(select(tasks.c.item_id, tasks.c.wanted))}
    for lease, tiers in told:
        ranking = said[str(given[lease])]
        assert ranking.tiers == tuple(tuple(ranking.shown[n] for n in tier) for tier in tiers), "another answer"
    had = Counter(r.item_id for r in said.values())
    assert all(n <= wanted[item] for item, n in had.items()), "an item was ranked by more people than wanted"
    quota = Queue(store, settings).quota()
    assert quota.done == len(said) and surplus == 0
    complete = sum(n == wanted[item] for item, n in had.items())
    assert len(told) == asked.rankings or quota.open == 0, "people stopped although there was work"
    partial = len(had) - complete
    alone = asked.people < settings.overlap_many
    assert alone or partial <= 2 * asked.people or quota.open == 0, "half-done items were not finished first"
    many = sum(n == settings.overlap_many for n in wanted.values()) / len(wanted)
    return (
        f"{len(said)} rankings once each; {complete} items complete, {partial} begun; of all, {many:.1%} want "
        f"{settings.overlap_many}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument(
        "--items", type=int, default=6250, help="the default wants 10,000 rankings and ends when all are in"
    )
    parser.add_argument("--completions", type=int, default=4)
    parser.add_argument("--rankings", type=int, default=1_000_000, help="stop after so many")
    parser.add_argument("--think", type=float, default=2.0, help="mean seconds between showing and submitting")
    parser.add_argument("--store", choices=["sqlite", "postgres", "both"], default="both")
    parser.add_argument("--workers", type=int, default=1, help="server processes, with Postgres")
    parser.add_argument("--pages", action="store_true", help="time every page afterwards")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    result: dict[str, Any] = {key: value for key, value in vars(asked).items() if key not in ("json", "store")}
    result["stores"] = {}
    for kind in ("sqlite", "postgres") if asked.store == "both" else (asked.store,):
        with ExitStack() as stack:
            root = Path(tempfile.mkdtemp(prefix="prefloop-load-"))
            stack.callback(shutil.rmtree, root)
            url = "sqlite:///prefloop.db"
            if kind == "postgres":
                url = fresh_database(stack.enter_context(postgres_server(durable=True)))
            run = result["stores"][kind] = one_run(url, root, asked, asked.workers if kind == "postgres" else 1)
        print(
            f"{kind}, {run['workers']} server process(es): {run['rankings']} rankings in {run['seconds']} s, "
            f"{run['rankings_per_second']} a second while everybody works"
        )
        print(
            f"processor time a ranking: server {run['server_processor_ms_per_ranking']} ms, "
            f"crowd {run['crowd_processor_ms_per_ranking']} ms"
        )
        print(f"{'':8}{'n':>8}{'p50 ms':>10}{'p99 ms':>10}{'max ms':>10}")
        for name, row in run["ms"].items():
            print(f"{name:8}{row['n']:>8}{row['p50']:>10}{row['p99']:>10}{row['max']:>10}")
        for path, ms in run["pages_ms"].items():
            print(f"page {path:12} {ms} ms at most")
        print(run["checked"], flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
