"""Several server processes over one Postgres have one address and one team, and keep every ranking once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server is not installed: pip install 'prefloop[web]'")

SOURCE = Path(__file__).resolve().parents[2] / "src"


def fetch(url: str, token: str) -> dict[str, object]:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: dict[str, object] = json.load(answer)
        return found


@pytest.mark.slow
def test_two_workers_serve_one_project_and_end_together(fresh_postgres: str, tmp_path: Path) -> None:
    from prefloop.store import People, Store

    (tmp_path / "prefloop.toml").write_text(f'[project]\nstore = "{fresh_postgres}"\n')
    with Store.open(fresh_postgres, tmp_path) as store:
        people = People(store)
        owner = people.accept(str(people.owner_link()), "Olga", "no hash: nobody signs in")
        token = people.create_token(owner.id, "test", "read")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "prefloop.cli.main", "annotate", "--json", "--workers", "2"]
    server = subprocess.Popen(
        [*command, "--port", str(port), "-C", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert server.stdout
        assert json.loads(server.stdout.readline())["address"] == f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while True:
            try:
                assert fetch(f"http://127.0.0.1:{port}/api/progress", token)["done"] == 0
                break
            except urllib.error.URLError:
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
        if children.exists():
            assert len(children.read_text().split()) >= 2
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=60)
        assert server.returncode == 0 and "Traceback" not in err, err[-2000:]
        assert token not in out + err and not out
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.communicate()
