"""`[align] reward = "https://..."`: a reward service is asked in batches, and what goes wrong there is named."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import prefloop
from prefloop import results
from prefloop.api.functions import as_scorer
from prefloop.errors import ConfigError, DataError
from prefloop.rewards.rules import make_scorer
from prefloop.rewards.service import Service
from prefloop.types import Completion, Prompt

Reply = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    """Answers each request by the next reply of its server; the last reply stands for all that follow."""

    server: Server

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        replies = self.server.replies
        self.server.requests.append(asked)
        self.server.times.append(time.monotonic())
        (replies.pop(0) if len(replies) > 1 else replies[0])(self, asked)

    def do_GET(self) -> None:
        self.server.requests.append({"GET": self.path})
        self.send_error(405)

    def send(self, body: str, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body.encode()))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A reward service with the requests that it got, and when."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[Reply] = [lengths]
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/score"

    def handle_error(self, *args: object) -> None:
        """Say nothing about a client that has gone."""


def lengths(handler: Handler, asked: dict[str, Any]) -> None:
    handler.send(json.dumps([len(text) / 10 for text in asked["completions"]]))


def status(code: int, body: str = "", **headers: str) -> Reply:
    return lambda handler, asked: handler.send(body, code, **headers)


def hang(handler: Handler, asked: dict[str, Any]) -> None:
    handler.server.over.wait(20)


def drip(handler: Handler, asked: dict[str, Any]) -> None:
    """Send a byte now and then, so that no single read takes long."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        if not handler.server.over.wait(0.05):
            handler.wfile.write(b" ")


def cut(handler: Handler, asked: dict[str, Any]) -> None:
    handler.send("[1.0", Content_Length="100")


def drop(handler: Handler, asked: dict[str, Any]) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.over.set()
    made.shutdown()
    thread.join()
    made.server_close()


def quick(server: Server, **options: Any) -> Service:
    return Service(server.url, **({"pause": 0.01, "timeout": 5.0} | options))


def refused(service: Service, texts: list[str] | None = None) -> str:
    texts = ["a", "b"] if texts is None else texts
    with pytest.raises(DataError) as caught:
        service.score([Prompt("q")] * len(texts), texts)
    assert service.url in str(caught.value) and "run the same command again" in str(caught.value)
    return str(caught.value)


def test_texts_are_sent_in_batches_and_each_number_comes_back_to_its_text(server: Server) -> None:
    prompts = [Prompt(f"q{n}") for n in range(5)]
    texts = ["a", "bb", "ccc", "dédé", "e\n\ud800"]
    assert quick(server, batch=2).score(prompts, texts) == [0.1, 0.2, 0.3, 0.4, 0.3]
    assert [r["prompts"] for r in server.requests] == [["q0", "q1"], ["q2", "q3"], ["q4"]]
    assert [t for r in server.requests for t in r["completions"]] == texts


def test_nothing_is_sent_where_there_is_nothing_to_score(server: Server) -> None:
    scorer = make_scorer(server.url, Path())
    assert scorer.score([], []).total == []
    assert server.requests == []


@pytest.mark.parametrize("failure", [status(503), status(500), status(429), cut, drop], ids=lambda f: f.__qualname__)
def test_a_failure_that_may_pass_is_asked_again_with_the_same_texts(server: Server, failure: Reply) -> None:
    server.replies = [failure, failure, lengths]
    assert quick(server).score([Prompt("q")], ["abc"]) == [0.3]
    assert server.requests == [{"prompts": ["q"], "completions": ["abc"]}] * 3


def test_pauses_grow_and_a_service_may_ask_for_a_longer_one(server: Server) -> None:
    server.replies = [status(503), status(503), status(503, Retry_After="1"), lengths]
    quick(server, pause=0.1).score([Prompt("q")], ["abc"])
    first, second, third = (b - a for a, b in zip(server.times, server.times[1:], strict=False))
    assert first >= 0.1 and second >= 0.2 and third >= 1.0


def test_a_failure_that_does_not_pass_is_named_after_the_last_attempt(server: Server) -> None:
    server.replies = [status(503)]
    assert "503 Service Unavailable (attempt 3 of 3)" in refused(quick(server, attempts=3))
    assert len(server.requests) == 3


def test_an_unreachable_service_is_named(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = refused(Service(f"http://127.0.0.1:{port}/score", pause=0.01))
    assert "could not be reached" in said and "refused" in said and "Start it" in said


@pytest.mark.parametrize("slow", [hang, drip])
def test_a_service_that_takes_too_long_is_not_waited_for(server: Server, slow: Reply) -> None:
    server.replies = [slow]
    began = time.monotonic()
    assert "did not answer within 0.2 s" in refused(quick(server, timeout=0.2, attempts=2))
    assert time.monotonic() - began < 10 and len(server.requests) == 2


def test_a_status_that_will_not_change_is_not_asked_again_and_shows_what_the_service_said(server: Server) -> None:
    server.replies = [status(422, '{"detail": "no field text"}')]
    assert "status 422" in (said := refused(quick(server))) and "no field text" in said
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [301, 302, 307])
def test_a_redirect_is_not_followed_and_says_where_it_leads(server: Server, code: int) -> None:
    elsewhere = server.url.replace("/score", "/elsewhere")
    server.replies = [status(code, Location=elsewhere)]
    assert f"leads to {elsewhere}" in refused(quick(server))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("[1.0]", "1 numbers for 2 completions"),
        ("[1.0, 2.0, 3.0]", "3 numbers for 2 completions"),
        ("[1.0, NaN]", "gave nan for the completion 'b'"),
        ("[-Infinity, 1.0]", "gave -inf for the completion 'a'"),
        ("[1e999, 1.0]", "gave inf for the completion 'a'"),
        (f"[1{'0' * 400}, 1.0]", "for the completion 'a'"),
        ('["1.0", 1.0]', "gave 1.0 for the completion 'a'"),
        ("[true, 1.0]", "gave True for the completion 'a'"),
        ("[null, 1.0]", "gave None for the completion 'a'"),
        ('{"scores": [1.0, 2.0]}', "scores"),
        ("<html>", "<html>"),
        ("", "answered ''"),
        ("[" * 100_000, "answered '[["),
        (" " * (1 << 21), "more than 1048576 bytes"),
    ],
    ids=range(14),
)
def test_an_answer_that_is_not_one_finite_number_a_text_is_refused(server: Server, answer: str, shown: str) -> None:
    server.replies = [status(200, answer)]
    assert shown in refused(quick(server))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "url",
    ["http://", "https:///score", "http://host:x/", "http://host:70000/", "http://h/a b", "http://h/#a", "ftp://h/"],
)
def test_what_is_no_address_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ConfigError, match="is not the address of a reward service"):
        Service(url)


def test_an_address_with_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="password") as caught:
        make_scorer("https://ann:secret@host/score", Path())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"batch": 0}, {"attempts": 0}, {"pause": -1}])
def test_limits_that_cannot_be_kept_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="https://host/score"):
        Service("https://host/score", **options)


def test_a_service_with_other_limits_is_the_same_scorer_as_its_address() -> None:
    given, named = as_scorer(Service("https://host/score", batch=2)), make_scorer("https://host/score", Path())
    assert (given.name, given.identity) == (named.name, named.identity)


def test_an_error_of_the_service_reaches_the_user_as_it_is(server: Server) -> None:
    server.replies = [status(404)]
    with pytest.raises(DataError, match="^the reward service"):
        make_scorer(server.url, Path()).score([Prompt("q")], [Completion("c", "a")])


def test_align_learns_from_a_service_and_a_finished_run_asks_it_nothing(server: Server, tiny_project: Path) -> None:
    with prefloop.Project.open(tiny_project, quiet=True) as project:
        first = project.align("rloo", reward=server.url, steps=1)
        asked = len(server.requests)
        assert asked and all(r["prompts"][0].startswith("Say ") for r in server.requests)
        assert project.align("rloo", reward=Service(server.url, batch=3), steps=1).run == first.run
        assert len(server.requests) == asked
    manifest = json.loads((tiny_project / "runs" / str(first.run) / "manifest.json").read_text())
    assert manifest["inputs"]["rewards"] == {server.url: server.url}


def test_align_stopped_by_its_service_goes_on_from_its_checkpoint_to_the_same_weights(
    server: Server, tiny_project: Path, tmp_path: Path
) -> None:
    def aligned(root: Path) -> results.Aligned:
        with prefloop.Project.open(root, quiet=True) as project:
            return project.align("rloo", reward=server.url, steps=2, eval_every=1)

    copy = Path(shutil.copytree(tiny_project, tmp_path / "copy"))
    whole = aligned(copy)
    scored = len(server.requests)
    server.replies = [lengths] * (scored - 1) + [status(404), lengths]
    with pytest.raises(DataError, match="status 404"):
        aligned(tiny_project)
    again = aligned(tiny_project)
    assert whole.best_step, "some step was better than the start, so that weights were learnt"
    assert (again.run, again.weights) == (whole.run, whole.weights)
    assert len(server.requests) < 3 * scored, "what was learnt before the failure was not asked again"


def test_a_token_of_the_environment_goes_along_and_into_no_manifest(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str | None] = []

    def reply(handler: Handler, asked: dict[str, Any]) -> None:
        sent.append(handler.headers["Authorization"])
        lengths(handler, asked)

    server.replies = [reply]
    Service(server.url).score([Prompt("p")], ["t"])
    monkeypatch.setenv("PREFLOOP_REWARD_TOKEN", "secret")
    scorer = make_scorer(server.url, Path())
    scorer.score([Prompt("p")], [Completion("c", "t")])
    assert sent == [None, "Bearer secret"] and "secret" not in scorer.identity
