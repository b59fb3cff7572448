"""A run whose samples come from servers ends with the weights that it would have had, or says why it can not go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import served_kills
from prefloop.config_rollout import Rollouts
from prefloop.engine import make
from prefloop.engine.base import Sampling
from prefloop.engine.placement import Placement
from prefloop.engine.weights import read_manifest
from prefloop.errors import ConfigError, TrainingError
from prefloop.models.load import load_causal
from prefloop.models.policy import Policy
from prefloop.project.project import Project
from prefloop.stages.align import align
from prefloop.training import keeping
from served import Troubles, serving, troubled
from served_kills import TOML, came_to, prepare

PROGRAM = Path(served_kills.__file__)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server of the model that the projects start from."""
    torch.set_num_threads(1)
    root = project_in(tmp_path_factory.mktemp("first"), "http://127.0.0.1:1")
    prepare(root)
    model = Path((root / "start").read_text())
    with serving(model) as url:
        yield url, model


@pytest.fixture
def front(started: tuple[str, Path]) -> Iterator[tuple[str, Troubles]]:
    with troubled(started[0]) as found:
        yield found


def project_in(folder: Path, url: str) -> Path:
    folder.mkdir(exist_ok=True)
    settings = TOML.replace("steps = 6", "steps = 4").replace("http://127.0.0.1:PORT", url)
    (folder / "prefloop.toml").write_text(settings.replace("retries = 30", "retries = 2"))
    return folder


def run(root: Path, *settings: str) -> dict[str, Any]:
    if not (root / "start").exists():
        prepare(root)
    with Project.open(root, list(settings), quiet=True) as project:
        align(project)
    return came_to(root)


LOCAL = ("rollout.backend=local", "rollout.servers=[]", "rollout.retries=5", "rollout.backoff=0.5",
         "rollout.timeout=600")  # fmt: skip


def test_rollout_server_run_has_the_samples_and_the_final_weights_of_the_local_run(
    front: tuple[str, Troubles], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both take the learner's log-probabilities; a local run usually takes the sampler's, where the two agreed."""
    monkeypatch.setattr(keeping, "AGREES", 0.0)
    url, troubles = front
    here, there = project_in(tmp_path / "here", url), project_in(tmp_path / "there", url)
    mine, theirs = run(here, *LOCAL), run(there)
    assert mine["model"] == theirs["model"]
    ids = [sorted((c.id, c.token_ids) for c in completions(root)) for root in (here, there)]
    assert ids[0] == ids[1] and len(ids[0]) == 4 * 8
    weights = [c.sampling["weights"] for c in completions(there)]
    assert len(set(weights)) == 4 and not [c for c in completions(here) if "weights" in c.sampling]
    assert [body for path, body in troubles.asked if path == "/v1/release"], "the server is let go at the end"
    logged = theirs["metrics"][-1]
    assert logged["sampler_kl"] < 1e-8 and logged["sampler_prob_error"] == pytest.approx(1, abs=1e-4)
    assert logged["sampler_ess"] == pytest.approx(1, abs=1e-4) and "sampler_kl" not in mine["metrics"][-1]


def completions(root: Path) -> list[Any]:
    with Project.open(root, quiet=True) as project:
        return [c for _, c in project.store.rollouts("align-001")]


def test_rollout_server_run_that_must_end_names_the_server_and_goes_on_to_the_same_weights(
    front: tuple[str, Troubles], started: tuple[str, Path], tmp_path: Path
) -> None:
    url, troubles = front
    quiet = run(project_in(tmp_path / "quiet", started[0]))
    root = project_in(tmp_path / "ended", url)
    troubles.script = [None, None, None, None, "500", "die", "500"]
    with pytest.raises(TrainingError, match=f"3 attempts. {url}: HTTP 500"):
        run(root)
    state = json.loads(next((root / "runs").glob("align-*/manifest.json")).read_text())
    assert url in json.dumps(state), "the run's folder says it too"
    assert run(root)["model"] == quiet["model"]


def test_rollout_server_of_others_that_is_not_installed_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    root = project_in(tmp_path / "project", "http://127.0.0.1:1")
    prepare(root)
    for setting, said in ((), "rollout install vllm"), (('rollout.python="./none"',), "no program that can be run"):
        with pytest.raises(ConfigError, match=said):
            run(root, "rollout.backend=vllm", "rollout.servers=[]", "rollout.launch=1", *setting)
    assert not (root / "runs").exists() and not (root / "rollout").exists()


def test_rollout_server_samples_that_are_one_update_behind_are_weighed(
    started: tuple[str, Path], tmp_path: Path
) -> None:
    stale = ("align.rollout.staleness=1", "align.checkpoint_every=4", "align.evaluation.eval_every=4", "align.lr=0.01")
    asked = [(), (), ("align.rollout.importance_cap=0",), ("align.rollout.importance_cap=2",)]
    runs = [run(project_in(tmp_path / f"{n}", started[0]), *stale, *more) for n, more in enumerate(asked)]
    assert runs[0] == runs[1], "it is the same each time"
    usual, _, never, always = (r["metrics"] for r in runs)
    assert [line["staleness"] for line in usual[1:]] == [0, 1, 1, 1]
    assert all(line["first_ratio"] == pytest.approx(1, abs=1e-5) for line in usual[1:]), "of the learner's own"
    assert usual[1]["sampler_kl"] < 1e-8 < 1e-6 < usual[2]["sampler_kl"] and usual[2]["sampler_ess"] < 1
    assert runs[0]["model"] != runs[2]["model"], "stale samples have weights"
    assert usual[1] == never[1] != always[1], "fresh ones have none, unless they are asked for"


def test_rollout_server_that_is_honest_is_believed_however_far_the_policy_moves_meanwhile(
    front: tuple[str, Troubles], tmp_path: Path
) -> None:
    url, troubles = front
    root = project_in(tmp_path / "far", url)
    found = run(root, "align.rollout.staleness=1", "align.checkpoint_every=4", "align.evaluation.eval_every=4",
                "align.lr=0.3")  # fmt: skip
    moved = [line["sampler_kl"] for line in found["metrics"][2:]]
    lines = (next((root / "runs").glob("align-*")) / "metrics.jsonl").read_text().splitlines()
    apart = [json.loads(line).get("rollout_apart", 0.0) for line in lines]
    assert max(apart) < 1e-5 < 0.1 < max(moved), "what is compared is of the weights that sampled"
    assert len([path for path, _ in troubles.asked if path == "/v1/logprobs"]) > 4 and found["retries"] == 0


def test_rollout_server_that_hangs_with_another_keeps_no_command_from_its_interrupt(
    started: tuple[str, Path], tmp_path: Path
) -> None:
    """Samples are drawn ahead, by a thread that waits for two threads that wait for servers."""
    root = project_in(tmp_path / "root", "http://127.0.0.1:1")
    prepare(root)
    settings = ["align.rollout.staleness=1", "align.checkpoint_every=2", "align.evaluation.eval_every=4",
                "rollout.timeout=600"]  # fmt: skip
    with troubled(started[0]) as (one, of_one), troubled(started[0]) as (two, of_two):
        settings.append(f'rollout.servers=["{one}", "{two}"]')
        command = [sys.executable, "-m", "prefloop", "align", *(x for one in settings for x in ("--set", one))]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        trainer = subprocess.Popen(
            command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        drawn = [None] * 4  # for an evaluation and steps 0 to 2; the next is drawn ahead for step 3
        of_one.script, of_two.script = [*drawn, "hang"], [*drawn, "hang"]
        try:
            while not (of_one.hanging and of_two.hanging):
                assert trainer.poll() is None, trainer.communicate()
                time.sleep(0.02)
            trainer.send_signal(signal.SIGINT)
            _, said = trainer.communicate(timeout=120)  # A server may take 600 s for an answer.
        finally:
            trainer.kill()
        assert trainer.returncode == 130 and "interrupted; the same command goes on where it stopped" in said, said
        assert "Traceback" not in said
        assert next((root / "runs").glob("align-*/checkpoints/*")), "it had begun"
        gone_on = run(root, *settings)
    quiet = project_in(tmp_path / "quiet", "http://127.0.0.1:1")
    settings[-1] = f'rollout.servers=["{started[0]}"]'
    assert gone_on["model"] == run(quiet, *settings)["model"]


def test_rollout_server_and_trainer_killed_at_random_moments_come_to_the_weights_of_the_quiet_run(
    tmp_path: Path,
) -> None:
    command = [sys.executable, str(PROGRAM), "3", "7", str(tmp_path / "killed")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["same"] and sum(found["killed"].values()) == 3 and all(found["killed"].values())
    assert found["steps"] == list(range(7)) and found["quiet_retries"] == 0


def test_rollout_server_that_is_launched_is_started_again_after_a_kill_and_stopped_at_the_end(
    started: tuple[str, Path], tmp_path: Path
) -> None:
    model, tokenization = load_causal(started[1])
    where = Placement(rollout=Rollouts(backend="prefloop", launch=1, backoff=0.01), root=tmp_path)
    engine = make({"policy": Policy(model)}, tokenization, 1, where)
    mine = make({"policy": Policy(model)}, tokenization, 1)
    prompts, keys, how = [[5, 6], [7, 8, 9]], [3, 4], Sampling(6)
    wanted = [s.ids for s in mine.generate(prompts, keys, how)]
    try:
        assert [s.ids for s in engine.generate(prompts, keys, how)] == wanted
        first = children()
        assert len(first) == 2, "a keeper and its server"
        next(p for p in first if "serve" in p.cmdline() and "keeper" not in " ".join(p.cmdline()[:3])).kill()
        assert [s.ids for s in engine.generate(prompts, keys, how)] == wanted
        second = children()
        assert len(second) == 2 and not {p.pid for p in first} & {p.pid for p in second}
    finally:
        engine.close()
    assert not [p for p in second if p.is_running()]
    held = next((tmp_path / "rollout" / "weights").iterdir())
    assert read_manifest(held)["version"] == held.name


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if "rollout" in " ".join(p.cmdline())]


def test_rollout_server_does_not_outlive_a_trainer_that_was_killed(tmp_path: Path) -> None:
    """The server here is any program; its child shows that a whole group ends."""
    program = (
        "import os, sys, time; from pathlib import Path; from prefloop.engine.rollouts.launching import Launched\n"
        "shell = 'sleep 300 & echo $! > child; echo $$ > server; wait'\n"
        "one = Launched(lambda port, folder: ['sh', '-c', shell], Path('log'), {}); one.start(Path('.'))\n"
        "while not Path('server').exists() or not Path('server').read_text(): time.sleep(0.01)\n"
        "print('up', flush=True); time.sleep(300)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    trainer = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=env, stdout=subprocess.PIPE)
    assert trainer.stdout is not None and trainer.stdout.readline() == b"up\n"
    left = [int((tmp_path / name).read_text()) for name in ("server", "child")]
    assert all(psutil.pid_exists(pid) for pid in left)
    os.kill(trainer.pid, signal.SIGKILL)
    trainer.communicate()
    until = time.monotonic() + 20
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in left):
        assert time.monotonic() < until, "an orphan is left"
        time.sleep(0.05)
