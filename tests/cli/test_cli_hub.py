"""A model with its card goes up to the hub when asked, and a data set comes down; here the hub is a server of our
own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from prefloop.exchange import hub

ROWS = [{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(12)]


class Hub(ThreadingHTTPServer):
    """Answers as much of the hub as an upload needs.

    `files`: what a commit has brought; `private`: how repositories began.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.files: dict[str, int] = {}
        self.created: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            self.server.created.append(asked)
            self._say({"url": f"{self.server.url}/{asked.get('organization')}/{asked['name']}"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            told = [{"path": f["path"], "uploadMode": _mode(f["path"]), "shouldIgnore": False} for f in files]
            self._say({"files": told})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.server.url}/put/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            self._say({"objects": objects, "transfer": "basic"})
        elif "/commit/" in self.path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] != "header":
                    self.server.files[entry["value"]["path"]] = 1
            self._say({"commitUrl": f"{self.server.url}/me/model/commit/1", "commitOid": "1", "success": True})
        else:
            self._say({"errors": [], "warnings": []})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._say({})

    def do_GET(self) -> None:
        self._say({"id": "me/model", "sha": "0", "siblings": []})

    def _say(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


@pytest.fixture
def server() -> Iterator[Hub]:
    with Hub() as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_tiny: Callable[[Path], Path]) -> Path:
    from prefloop.cli.main import run

    root = make_tiny(tmp_path_factory.mktemp("hub"))
    assert run(["sft", "-C", str(root), "-q"]) == 0
    return root


def upload(trained: Path, to: Path, environment: dict[str, str], endpoint: str) -> subprocess.CompletedProcess[str]:
    """Upload in a process of its own, because the hub's address is read when its library is loaded."""
    command = ["export", "policy", "-C", str(trained), "--to", str(to), "--push", "me/model"]
    env = environment | {
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": "hf_secret",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(to) + "-hf",
    }
    return subprocess.run([sys.executable, "-m", "prefloop", *command], env=env, capture_output=True, text=True)


def test_a_model_is_uploaded_whole_with_its_card_and_private(
    server: Hub, trained: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    done = upload(trained, tmp_path / "out", environment, server.url)
    assert done.returncode == 0, done.stderr
    assert server.files.keys() == {path.name for path in (tmp_path / "out").iterdir()}
    assert {"README.md", "model.safetensors", "config.json", "tokenizer.json"} <= server.files.keys()
    assert server.created == [{"name": "model", "organization": "me", "visibility": "private"}]
    assert server.tokens == {"Bearer hf_secret"}
    assert f"uploaded to {server.url}/me/model" in done.stdout


def test_an_upload_that_fails_leaves_the_folder_and_says_how_to_go_on(
    trained: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    done = upload(trained, tmp_path / "out", environment, "http://127.0.0.1:9")
    assert done.returncode == 4
    assert "is written, and could not be uploaded to me/model" in done.stderr and "hf auth login" in done.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_nothing_is_uploaded_unasked_and_only_models_can_be(prefloop: Callable, trained: Path, tmp_path: Path) -> None:
    said = prefloop("export", "prompts", "-C", trained, "--to", tmp_path / "p.jsonl", "--push", "me/model")
    assert said.code == 3 and "--push does not apply to prompts" in said.err
    assert "pushed" not in prefloop("export", "policy", "-C", trained, "--to", tmp_path / "out", "--json").json


@pytest.mark.filterwarnings("ignore")
def test_a_split_of_a_data_set_is_imported_once(
    prefloop: Callable, tiny_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets", reason="datasets is not installed: pip install 'prefloop[hub]'")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        rows = ROWS if split == "train" else ROWS[:5]
        (tmp_path / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    address = f"hf://{tmp_path / 'data'}"
    said = prefloop("import", f"{address}:test", "-C", tiny_project, "--json")
    assert said.code == 0, said.err
    assert said.json["rankings"] == 5 and said.json["file"] == f"{address}:test"
    assert prefloop("import", address, "-C", tiny_project, "--json").json["rankings"] == 7  # 5 of 12 are there already.
    assert prefloop("import", address, "-C", tiny_project, "--json").json["skipped"]
    said = prefloop("import", f"{address}:validation", "-C", tiny_project)
    assert said.code == 3 and "could not be loaded" in said.err and "validation" in said.err


def test_a_data_set_without_the_extra_says_what_to_install(
    prefloop: Callable, tiny_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    said = prefloop("import", f"{hub.PREFIX}owner/name", "-C", tiny_project)
    assert said.code == 2 and "pip install 'prefloop[hub]'" in said.err
