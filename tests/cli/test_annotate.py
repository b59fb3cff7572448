"""`prefloop annotate` runs as a real process: it is up soon, without torch, with one link for the owner and no
secret logged.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

pytest.importorskip("fastapi", reason="the server is not installed: pip install 'prefloop[web]'")

PREFLOOP = [sys.executable, "-m", "prefloop.cli.main", "annotate", "--port", "0", "-C"]
PASSWORD = "correct horse battery"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project with settings and a store of three items, but no model."""
    from prefloop.store import Store
    from prefloop.types import Completion, Item, Prompt

    (tmp_path / "prefloop.toml").write_text('[project]\nname = "rank me"\n')
    with Store.open("sqlite:///prefloop.db", tmp_path) as store:
        store.add(
            Item(f"i{n}", Prompt(f"Question {n}?"), tuple(Completion(f"i{n}:c{c}", f"Answer {c}.") for c in range(2)))
            for n in range(3)
        )
    return tmp_path


@dataclass
class Running:
    process: subprocess.Popen[str]
    said: dict[str, Any]
    cpu_s: float

    @property
    def address(self) -> str:
        return str(self.said["address"])

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Callable[..., Running]]:
    running: list[subprocess.Popen[str]] = []

    def go(root: Path, *more: str) -> Running:
        process = subprocess.Popen(
            [*PREFLOOP, str(root), "--json", *more],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
        )
        running.append(process)
        line = process.stdout.readline() if process.stdout else ""
        assert line, process.communicate(timeout=10)[1]
        cpu = psutil.Process(process.pid).cpu_times()  # Unlike the clock, it knows nothing of other programs.
        return Running(process, json.loads(line), cpu.user + cpu.system)

    yield go
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


def ask(url: str, form: dict[str, str] | None = None, cookie: str = "") -> tuple[int, str, Any]:
    """Return status, text and headers; redirects are not followed."""
    body = urllib.parse.urlencode(form).encode() if form is not None else None
    origin = "/".join(url.split("/")[:3])
    request = urllib.request.Request(url, body, {"Origin": origin, "Cookie": cookie, "Accept": "text/html"})
    opener = urllib.request.build_opener(_Stay, urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers


def test_a_newcomer_starts_it_becomes_the_owner_and_stops_it(start: Callable[..., Running], project: Path) -> None:
    server = start(project)
    assert server.cpu_s < 3, "it should be up in about a second"
    link = server.said["owner_link"]
    assert link.startswith(server.address + "/join/")
    assert ask(link)[0] == 200
    status, _, headers = ask(link, {"name": "Olga", "password": PASSWORD, "again": PASSWORD})
    cookie = headers["Set-Cookie"].split(";")[0]
    assert status == 303 and ask(f"{server.address}/people", cookie=cookie)[0] == 200
    deadline = time.monotonic() + 10
    while "3 items" not in ask(f"{server.address}/", cookie=cookie)[1]:
        assert time.monotonic() < deadline, "items do not get into the queue"
        time.sleep(0.05)
    assert ask(link)[0] == 404
    ask(f"{server.address}/login", {"name": "Olga", "password": "wrong password"})
    ask(f"{server.address}/no/such/page/{urllib.parse.quote(PASSWORD)}")
    code, out, err = server.stop()
    assert code == 0 and "Traceback" not in err
    token = link.rpartition("/")[2]
    for secret in (token, PASSWORD, urllib.parse.quote(PASSWORD), "wrong password", cookie.partition("=")[2]):
        assert secret not in out + err
    assert not list(project.rglob("*.log"))
    kept = b"".join(path.read_bytes() for path in project.rglob("*") if path.is_file())
    assert token.encode() not in kept and PASSWORD.encode() not in kept

    again = start(project)
    assert again.said["owner_link"] is None, "there is an owner now"
    assert ask(f"{again.address}/people", cookie=cookie)[0] == 200, "sessions outlive the server"
    assert again.stop(signal.SIGTERM)[0] == 0


def test_the_link_is_printed_once_for_people(environment: dict[str, str], project: Path) -> None:
    process = subprocess.Popen(
        [*PREFLOOP, str(project)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    assert process.stdout
    said = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    text = "".join(said) + out
    assert re.search(r"^People rank at http://127\.0\.0\.1:\d+$", text, re.MULTILINE)
    assert len(re.findall(r"/join/[\w-]{40,}", text + err)) == 1
    assert process.returncode == 0


def test_nothing_of_torch_is_loaded(environment: dict[str, str], project: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import prefloop.cli.annotate, prefloop.web.serve as serve\n"
        "from prefloop.config import load_config; from prefloop.store import Store\n"
        f"root = Path({str(project)!r}); config = load_config(root / 'prefloop.toml')\n"
        "with Store.open(config.project.store, root) as store:\n"
        "    serve.create_app(root, config, store)\n"
        "print({'torch', 'transformers', 'matplotlib', 'pyarrow'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.strip() == "set()", done.stdout + done.stderr[-2000:]


def test_several_workers_need_postgres(prefloop: Callable[..., Any], project: Path) -> None:
    said = prefloop("annotate", "-C", project, "--workers", 2)
    assert said.code == 2 and "Postgres" in said.err and "[project] store" in said.err


def test_a_second_server_on_one_sqlite_file_is_refused_and_the_first_goes_on(
    start: Callable[..., Running], prefloop: Callable[..., Any], project: Path
) -> None:
    server = start(project)
    (project / "elsewhere").mkdir()
    (project / "elsewhere" / "prefloop.toml").write_text('[project]\nstore = "sqlite:///../prefloop.db"\n')
    for root in (project, project / "elsewhere"):  # The file is the same by whatever way one comes to it.
        done = prefloop("annotate", "--port", "0", "-C", str(root))
        assert done.code != 0 and f"process {server.process.pid}" in done.err and "already serves" in done.err
    assert ask(f"{server.address}/login")[0] == 200
    assert prefloop("annotate", "--invite", "annotator", "-C", str(project)).code == 0, "other commands may write"
    assert server.stop()[0] == 0
    assert start(project).stop()[0] == 0


def test_a_port_that_is_taken_is_named(prefloop: Callable[..., Any], project: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = prefloop("annotate", "-C", project, "--port", port)
    assert said.code == 2 and f"127.0.0.1:{port}" in said.err and "--port" in said.err


def test_a_webhook_that_is_no_address_stops_it(prefloop: Callable[..., Any], project: Path) -> None:
    said = prefloop("annotate", "-C", project, "--set", 'annotate.webhooks=["file:///x"]')
    assert said.code == 2 and "webhooks" in said.err


def test_without_a_project_it_says_how_to_make_one(prefloop: Callable[..., Any], tmp_path: Path) -> None:
    said = prefloop("annotate", "-C", tmp_path)
    assert said.code == 2 and "prefloop init" in said.err


def test_an_invitation_from_the_command_line(prefloop: Callable[..., Any], project: Path) -> None:
    from prefloop.store import People, Store

    said = prefloop("annotate", "-C", project, "--invite", "owner", "--json")
    assert said.code == 0
    token = said.json["link"].rpartition("/")[2]
    with Store.open("sqlite:///prefloop.db", project) as store:
        invite = People(store).peek(token)
    assert invite is not None and invite.role == "owner"
