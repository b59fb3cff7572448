"""The pages that show runs: what they say of good, damaged, foreign and unfinished runs, and who may see them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from prefloop import record
from prefloop.diagnose.registry import rules
from prefloop.report.metrics import explain
from prefloop.web.watch.app import create_app
from prefloop.web.watch.curves import HEALTHY, RELATIVE
from prefloop.web.watch.pages import Watching
from prefloop.web.watch.plot import Line, plot, thinned, ticks

from .watched import align_run

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\u202e \"'&{{ 7*7 }}"


def open_pages(*roots: Path) -> TestClient:
    app = create_app(Watching.at(list(roots)))
    return TestClient(app, base_url="http://localhost", follow_redirects=False, headers={"accept": "text/html"})


def address(client: TestClient, name: str) -> str:
    """The address of a run that the list links to."""
    found = re.findall(r'<a href="(/runs/[^"]+)"', client.get("/runs").text)
    return next(link for link in found if link.endswith(f"/{name}"))


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


# -- the list ----------------------------------------------------------------------------------------------------------


def test_the_list_says_of_each_run_its_state_its_progress_and_its_findings(tmp_path: Path) -> None:
    align_run(tmp_path / "one", clip=0.6)
    align_run(tmp_path / "two", steps=5, done=False)
    failed = align_run(tmp_path / "three", steps=3, done=False)
    failed.fail("out of memory")
    said = words(open_pages(tmp_path).get("/runs").text)
    assert re.search(r"done 8 of 20 8 of 20 steps – \d finding", said)
    assert re.search(r"running 5 of 20 5 of 20 steps about [\d.]+ s", said)
    assert "failed 3 of 20" in said


def test_a_run_whose_process_was_killed_has_stopped_at_once_on_its_own_machine(tmp_path: Path) -> None:
    begin = "import sys; from pathlib import Path; from tests.web.watched import align_run; "
    command = [
        sys.executable,
        "-c",
        begin + "align_run(Path(sys.argv[1]), done=False); print('begun', flush=True); input()",
    ]
    client = open_pages(tmp_path)
    with subprocess.Popen(
        [*command, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None and worker.stdout.readline() == "begun\n"
        assert "running" in words(client.get("/runs").text)
        worker.send_signal(signal.SIGKILL)
    said = words(client.get(address(client, "align-001")).text)
    assert "It stopped half-way , after step 8, and no process goes on with it" in said
    assert re.search(r"last written \d+ seconds ago", said)
    assert "The same command goes on from the last checkpoint" in said  # by the diagnosis, with a button to copy it
    manifest = json.loads((tmp_path / "runs/align-001/manifest.json").read_text())
    elsewhere = {**manifest, "process": {**manifest["process"], "machine": "another"}}
    (tmp_path / "runs/align-001/manifest.json").write_text(json.dumps(elsewhere))
    assert "stopped half-way" not in client.get("/runs").text  # Nobody here sees the other machine's processes.


def test_a_run_whose_process_has_gone_stopped_half_way_and_its_page_says_how_to_go_on(tmp_path: Path) -> None:
    run = align_run(tmp_path, done=False)
    long_ago = run.path.stat().st_mtime - 4000
    for path in run.path.iterdir():
        os.utime(path, (long_ago, long_ago))
    client = open_pages(tmp_path)
    assert "stopped half-way" in client.get("/runs").text
    said = words(client.get(address(client, "align-001")).text)
    assert "after step 8" in said and "The same command resumes it" in said and "left" not in said
    note = record.note_of_lock(tmp_path / record.LOCK_NAME)
    note.write_text(json.dumps({"pid": os.getpid(), "command": "prefloop align"}))  # A long step writes nothing.
    assert "stopped half-way" not in client.get("/runs").text


def test_of_two_runs_that_say_they_go_on_the_lock_means_the_newer_one(tmp_path: Path) -> None:
    older, newer = align_run(tmp_path, done=False), align_run(tmp_path, done=False, drift=1.0)
    for run, at in ((older, "2026-01-01T00:00:00+00:00"), (newer, "2026-01-02T00:00:00+00:00")):
        run.note("started_at", at)
        for path in run.path.iterdir():
            os.utime(path, (1.8e9 - 1e6,) * 2 if path.stat().st_mtime > 1.8e9 else (1.7e9, 1.7e9))
    note = record.note_of_lock(tmp_path / record.LOCK_NAME)
    note.write_text(json.dumps({"pid": os.getpid(), "command": "prefloop align"}))
    rows = re.findall(r"<tr>.*?</tr>", open_pages(tmp_path).get("/runs").text, re.DOTALL)
    by_name = {name: words(row) for row in rows for name in ("align-001", "align-002") if name in row}
    assert "stopped half-way" in by_name["align-001"] and "running" in by_name["align-002"]


def test_a_project_a_run_and_a_folder_of_copied_runs_are_all_found(tmp_path: Path) -> None:
    run = align_run(tmp_path / "project")
    (tmp_path / "project" / "prefloop.toml").write_text('[project]\nname = "Chatty"')
    (tmp_path / "copies").mkdir()
    run.path.rename(tmp_path / "copies" / "from-the-cluster")
    align_run(tmp_path / "project")
    assert "Chatty" in open_pages(tmp_path / "project").get("/runs").text
    assert "from-the-cluster" in open_pages(tmp_path / "copies").get("/runs").text
    alone = open_pages(tmp_path / "copies" / "from-the-cluster")
    assert alone.get(address(alone, "from-the-cluster")).status_code == 200
    assert "no run yet" in open_pages(tmp_path / "copies" / "from-the-cluster" / "nothing").get("/runs").text


@pytest.mark.parametrize("path", ["/runs/0/align-001", "/runs/%2e%2e/%2e%2e", "/runs/x/..%2f..%2fetc", "/nothing"])
def test_an_address_that_names_no_run_leads_to_no_folder(tmp_path: Path, path: str) -> None:
    align_run(tmp_path)
    assert open_pages(tmp_path).get(path).status_code == 404


# -- a run -------------------------------------------------------------------------------------------------------------


def test_a_runs_page_draws_what_was_logged_and_marks_a_finding_where_it_begins(tmp_path: Path) -> None:
    align_run(tmp_path, clip=0.6)
    client = open_pages(tmp_path)
    page = client.get(address(client, "align-001")).text
    for title in ("Reward", "Reward against KL", "Independent judge", "Entropy", "Critic loss", "Speed"):
        assert re.search(rf"<h3>{title}\b", page), title
    panel = re.search(r'<figure class="panel" id="panel-clip_fraction">.*?</figure>', page, re.DOTALL)
    assert panel and 'class="band"' in panel[0] and 'class="mark' in panel[0]
    number = re.search(r'href="#finding-(\d)"', panel[0])
    assert number and f'id="finding-{number[1]}"' in page and "Next:" in page
    assert "secret" not in page.replace('class="secret"', "")  # The store's password is in the settings.


def test_criteria_and_constraints_share_a_figure_with_a_line_each(tmp_path: Path) -> None:
    run = align_run(tmp_path, done=False)
    both = {"reward_polite": 1.0, "reward_true": 2.0, "reward_std": 0.5, "multiplier_polite": 0.1}
    run.metric(9, both | {"eval_reward_polite": 3.0, "never_heard_of": 4.0})
    client = open_pages(tmp_path)
    page = client.get(address(client, "align-001")).text
    legend = words(re.findall(r'id="panel-reward_-">.*?</figure>', page, re.DOTALL)[0])
    assert "polite 1 true 2 polite, held-out 3" in legend
    assert "Multiplier" in words(page) and "Reward spread" in words(page) and "Never heard of" in words(page)


def test_a_run_that_goes_on_is_looked_at_again_and_a_finished_one_is_not(tmp_path: Path) -> None:
    run = align_run(tmp_path, steps=4, done=False)
    client = open_pages(tmp_path)
    link = address(client, "align-001")
    assert 'data-live="5"' in client.get(link).text and '<meta http-equiv="refresh"' in client.get(link).text
    run.metric(5, {"reward": 7.25})
    assert "7.25" in client.get(link).text
    run.finish({"steps": 5})
    assert 'data-live="0"' in client.get(link).text and "http-equiv" not in client.get(link).text


def test_damaged_files_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    run, other, broken = (align_run(tmp_path, drift=drift) for drift in (0.0, 1.0, 2.0))
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "reward": NaN, "kl": 1e999}\nnot JSON\n[1]\n{"step": 10, "rew')
    (run.path / "result.json").write_text('{"reward": ')
    (run.path / "evidence.json").write_text("[1, 2]")
    (run.path / "samples.jsonl").write_bytes(b"\xff\xfe\n{}\n")
    (other.path / "manifest.json").write_text('{"stage": "align", "status": 3, "config": [1], "versions": "x"}')
    (broken.path / "manifest.json").write_text("{")
    client = open_pages(tmp_path)
    page = words(client.get(address(client, "align-001")).text)
    assert "metrics.jsonl, line 11" in page and "result.json cannot be read" in page and "Reward against KL" in page
    assert client.get(address(client, "align-002")).status_code == 200
    page = words(client.get(address(client, "align-003")).text)
    assert "manifest.json cannot be read" in page and "Entropy" in page


def test_a_figure_that_is_no_number_any_more_has_the_step_at_which_it_ended(tmp_path: Path) -> None:
    run = align_run(tmp_path)
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    rows = [row | {"kl": None, "entropy": "x"} if row["step"] > 4 else row for row in rows]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    client = open_pages(tmp_path)
    said = words(client.get(address(client, run.name)).text)
    assert "training 2 at step 4, none since" in said and "training 0.8 held-out" in said
    assert "the first, at step 5: entropy, kl" in said


def test_a_run_with_one_step_and_a_run_with_none_have_a_page(tmp_path: Path) -> None:
    align_run(tmp_path, steps=1)
    empty = record.begin_run(tmp_path, "align", "x", {}, inputs={}, seed=0)
    old = record.begin_run(tmp_path, "reward", "x", {"reward": {"k": 4}}, inputs={}, seed=0)
    old.finish({"heldout_accuracy": 0.6, "heldout": {"accuracy": "high"}})
    client = open_pages(tmp_path)
    for name in ("align-001", empty.name, old.name):
        assert client.get(address(client, name)).status_code == 200, name
    assert "logged no step yet" in client.get(address(client, empty.name)).text


def test_what_a_manifest_holds_is_never_markup(tmp_path: Path) -> None:
    run = align_run(tmp_path / HOSTILE.replace("/", ""), done=False, config={"note": HOSTILE})
    run.metric(9, {HOSTILE: 1.0, f"grad_norm_{HOSTILE}": 2.0})
    run.note("command", HOSTILE)
    run.fail(HOSTILE)
    client = open_pages(tmp_path)
    for page in (client.get("/runs").text, client.get(address(client, "align-001")).text):
        assert "<script>alert" not in page and "<img" not in page and "\u202e" not in page and ">49" not in page


# -- who may look ------------------------------------------------------------------------------------------------------


def test_the_watch_server_keeps_the_headers_and_refuses_foreign_hosts_and_posts(tmp_path: Path) -> None:
    client = open_pages(tmp_path)
    answer = client.get("/runs")
    assert (
        "style-src 'self'" in answer.headers["content-security-policy"]
        and answer.headers["cache-control"] == "no-store"
    )
    assert not re.search(r"<[^>]* style=", answer.text)
    refused = client.get("/runs", headers={"host": "evil.example"})
    assert refused.status_code == 421 and "--name evil.example" in refused.text
    assert client.post("/theme", data={"theme": "dark"}, headers={"origin": "http://evil.example"}).status_code == 403
    ours = {"sec-fetch-site": "same-origin"}
    set_to = client.post("/theme", data={"theme": "dark", "back": "//evil.example"}, headers=ours)
    assert set_to.headers["location"] == "/" and "prefloop_theme=dark" in set_to.headers["set-cookie"]
    assert 'data-theme="dark"' in client.get("/runs").text


def test_the_watch_server_needs_neither_torch_nor_sql() -> None:
    code = (
        "import sys, prefloop.cli.watch, prefloop.web.watch.app\n"
        "assert not {'torch', 'transformers', 'sqlalchemy', 'matplotlib'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-1000:]


def test_in_the_annotation_server_owners_see_the_runs_and_nobody_else(
    make_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = make_server()
    align_run(tmp_path)
    for role, name in (("owner", "Olga"), ("reviewer", "Rita")):
        server.join(role, name)
    owner, reviewer = server.browser("Olga"), server.browser("Rita")
    link = address(owner, "align-001")
    assert owner.get(link).status_code == 200 and 'href="/runs" aria-current' in owner.get(link).text
    assert {reviewer.get(path).status_code for path in ("/runs", link)} == {403}
    assert 'href="/runs"' not in reviewer.get("/").text
    assert server.browser().get(link).status_code == 303


# -- the drawing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({**HEALTHY, **RELATIVE}))
def test_the_shaded_range_is_one_that_a_rule_or_the_table_of_metrics_says(name: str) -> None:
    """0 and 1 are the ends of a share, and nobody has to say them."""
    metric = explain(name) or explain(f"heldout_{name}")
    reads = {name, f"eval_{name}", f"heldout_{name}"}
    said = " ".join([metric.healthy if metric else "", *(r.expected.range for r in rules() if reads & set(r.reads))])
    numbers = {float(text) for text in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", said)} | {0.5 * ("half" in said)}
    bounds = [bound for bound in {**HEALTHY, **RELATIVE}[name] if bound not in (None, 0.0, 1.0)]
    assert all(bound in numbers or round(abs(bound - 1), 9) in numbers for bound in bounds), (bounds, said)


def test_no_spike_is_lost_where_a_curve_has_many_points() -> None:
    x, y = list(map(float, range(5000))), [0.0] * 5000
    y[3217], y[4001] = 9.0, -9.0
    a, b = thinned(x, y)
    assert len(a) <= 402 and a == sorted(a) and {(3217.0, 9.0), (4001.0, -9.0)} <= set(zip(a, b, strict=True))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.004, 0.011), (1e-7, 3e-7), (-2e6, 5e6), (3.0, 3.0)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high, 4)
    assert 1 <= len(found) <= 6
    assert all(low - 1e-12 <= value <= high + 1e-12 for value in found)


@pytest.mark.parametrize("y", [[0.0], [3.0, 3.0], [-1e300, 1e300], [0.0, 5e-324]])
def test_a_picture_of_odd_figures_stays_inside_its_frame(y: list[float]) -> None:
    drawn = plot([Line("a", list(range(len(y))), y)], "alt", band=(None, 0.5), share=True)
    assert "nan" not in drawn and "inf" not in drawn
    heights = [float(v) for v in re.findall(r'cy="([-\d.]+)"', drawn)]
    assert heights and all(0 <= value <= 200 for value in heights)
