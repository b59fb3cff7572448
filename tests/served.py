"""Servers for tests: the package's own, in a thread, and one before it that makes the troubles of a script."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from prefloop.config import Model
from prefloop.engine.rollouts import server


@contextmanager
def serving(folder: Path, key: str = "", dtype: Literal["float32", "bfloat16"] = "float32") -> Iterator[str]:
    """Serve a model of a folder by HTTP; the address is given."""
    listening = server.listen("127.0.0.1", 0, key, "KEY")
    ready = threading.Event()
    run = threading.Thread(
        target=server.serve,
        args=(listening, str(folder), Model(dtype=dtype), "cpu", lambda _: ready.set()),
        daemon=True,
    )
    run.start()
    assert ready.wait(60)
    try:
        yield f"http://127.0.0.1:{listening.server_address[1]}"
    finally:
        listening.shutdown()
        run.join(10)


class Troubles:
    """What goes wrong with the next requests to a path, in order; None passes one on."""

    def __init__(self) -> None:
        self.script: list[str | None] = []
        self.path = "/v1/generate"
        self.about: dict[str, Any] = {}  # what /v1/about says in place of the truth
        self.asked: list[tuple[str, Any]] = []
        self.hanging = 0  # requests that got no answer
        self.release = threading.Event()


Change = Callable[[dict[str, Any]], Any]


LIES: dict[str, Change] = {
    "an old version": lambda said: said.update(version="0123456789abcdef"),
    "fewer samples": lambda said: said["samples"].pop(),
    "more samples": lambda said: said["samples"].append(said["samples"][0]),
    "another order": lambda said: said["samples"].reverse(),
    "two swapped": lambda said: said["samples"].insert(0, said["samples"].pop(2)),
    "an empty sample": lambda said: said["samples"][0].update(ids=[], logprobs=[]),
    "a sample that is too long": lambda said: said["samples"][0].update(ids=[5] * 7, logprobs=[-1.0] * 7),
    "a sample that is cut": lambda said: said["samples"][0].update(ids=[5], logprobs=[-1.0], ended=False),
    "an end without its token": lambda said: said["samples"][0].update(ids=[5], logprobs=[-1.0], ended=True),
    "a sample that goes on after its end": lambda said: said["samples"][0].update(ids=[5, 1] * 3, logprobs=[-1.0] * 6),
    "no logprobs": lambda said: [s.update(logprobs=None) for s in said["samples"]],
    "unknown tokens": lambda said: said["samples"][0]["ids"].__setitem__(0, 1_000_000),
    "tokens below 0": lambda said: said["samples"][0]["ids"].__setitem__(0, -1),
    "ids that are no integers": lambda said: said["samples"][0]["ids"].__setitem__(0, 5.5),
    "NaN": lambda said: said["samples"][0]["logprobs"].__setitem__(0, float("nan")),
    "a positive logprob": lambda said: said["samples"][0]["logprobs"].__setitem__(0, 0.5),
    "fewer logprobs": lambda said: said["samples"][0]["logprobs"].pop(),
    "shifted logprobs": lambda said: [s.update(logprobs=[x - 0.1 for x in s["logprobs"]]) for s in said["samples"]],
    "rounded logprobs": lambda said: [s.update(logprobs=[round(x, 2) for x in s["logprobs"]]) for s in said["samples"]],
    "one for all": lambda said: said.update(samples=[said["samples"][0]] * len(said["samples"])),
    "copies": lambda said: said.update(samples=[said["samples"][n // 2 * 2] for n in range(len(said["samples"]))]),
    "no end of its own": lambda said: [s.update(ended=False) for s in said["samples"]],
    "no samples at all": lambda said: said.pop("samples"),
    "another model's logprobs": lambda said: said.update(logprobs=[[x - 0.1 for x in r] for r in said["logprobs"]]),
    "NaN of the canary": lambda said: said["logprobs"][0].__setitem__(0, float("nan")),
    "NaN of the last": lambda said: said["logprobs"][-1].__setitem__(0, float("nan")),
    "infinity of the last": lambda said: said["logprobs"][-1].__setitem__(0, float("inf")),
    "fewer of the last": lambda said: said["logprobs"][-1].pop(),
    "fewer of the canary": lambda said: said["logprobs"].pop(),
}
# What a server makes of the request, before it answers that.
TAKEN: dict[str, Change] = {
    "another temperature": lambda body: body.update(temperature=0.5),
    "a higher temperature": lambda body: body.update(temperature=2.0),
    "no nucleus": lambda body: body.update(top_p=1.0),
    "other keys": lambda body: body.update(keys=[key + 1000 for key in body["keys"]]),
    "the most likely": lambda body: body.update(temperature=0.0),
}


class Front(BaseHTTPRequestHandler):
    """Passes requests on, unless the script has another word."""

    protocol_version = "HTTP/1.1"
    upstream: str
    troubles: Troubles

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.pass_on("GET", b"")

    def do_POST(self) -> None:
        self.pass_on("POST", self.rfile.read(int(self.headers["Content-Length"])))

    def pass_on(self, method: str, body: bytes) -> None:
        troubles = self.troubles
        troubles.asked.append((self.path, json.loads(body or b"{}")))
        trouble = troubles.script.pop(0) if self.path == troubles.path and troubles.script else None
        if trouble in ("hang", "die"):
            if trouble == "hang":
                troubles.hanging += 1
                troubles.release.wait(300)
            self.close_connection = True
        elif trouble == "500":
            self.say(500, b'{"error": "out of memory"}')
        elif trouble == "no JSON":
            self.say(200, b"<html>a proxy's page</html>")
        elif trouble == "a redirect":
            self.send_response(302)
            self.send_header("Location", "http://192.0.2.1/steals-keys")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif trouble in ("drops", "a terabyte", "no end"):
            self.pour(str(trouble))
        elif trouble in ("a head in drops", "heads without end"):
            self.drip(str(trouble))
        else:
            if trouble in TAKEN:
                asked = json.loads(body)
                TAKEN[trouble](asked)
                body = json.dumps(asked).encode()
            status, data = self.ask(method, body)
            said = json.loads(data)
            LIES.get(str(trouble), lambda _: None)(said)
            if self.path == "/v1/about":
                said |= troubles.about
            data = json.dumps(said).encode()
            self.say(status, data, len(data) // 2 if trouble == "half an answer" else len(data))

    def pour(self, how: str) -> None:
        """Begin an answer that is never whole."""
        self.close_connection = True
        self.send_response(200)
        if how != "no end":
            self.send_header("Content-Length", str(10**12 if how == "a terabyte" else 1000))
        self.end_headers()
        with suppress(OSError):
            while not self.troubles.release.wait(0.02 if how == "drops" else 0):
                self.wfile.write(b" " if how == "drops" else b" " * 65536)

    def drip(self, how: str) -> None:
        """Never come to an answer's body."""
        self.close_connection = True
        one = b"H" if how == "a head in drops" else b"HTTP/1.1 100 Continue\r\n\r\n"
        with suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-More: " if one == b"H" else b"")
            while not self.troubles.release.wait(0.02):
                self.wfile.write(one)

    def ask(self, method: str, body: bytes) -> tuple[int, bytes]:
        connection = HTTPConnection(urlsplit(self.upstream).netloc, timeout=30)
        headers = {**self.headers, "Content-Length": str(len(body))}
        connection.request(method, self.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, data

    def say(self, status: int, data: bytes, much: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:much])
        self.close_connection = much is not None and much < len(data)


@contextmanager
def troubled(upstream: str) -> Iterator[tuple[str, Troubles]]:
    """Stand before a server, and make trouble."""
    troubles = Troubles()
    front = ThreadingHTTPServer(("127.0.0.1", 0), type("Made", (Front,), {"upstream": upstream, "troubles": troubles}))
    front.daemon_threads = True
    threading.Thread(target=front.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{front.server_address[1]}", troubles
    finally:
        troubles.release.set()
        front.shutdown()
        front.server_close()
