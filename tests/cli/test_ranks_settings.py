"""How many ranks a setting means, what is refused before anything starts, and how a rank's end is told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import prefloop
from prefloop.cli.main import run
from prefloop.cli.ranks import refuse_pieces
from prefloop.config import load_config
from prefloop.engine import torchrun
from prefloop.engine.processes import dealt
from prefloop.engine.rollouts.launching import Launched
from prefloop.errors import ConfigError, RankError
from tiny_models import TINY_MODEL

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize(("name", "ranks"), [("eight_gpu", "auto"), ("two_nodes", 16)])
def test_the_recipes_for_ranks_are_settings_of_this_version(name: str, ranks: object) -> None:
    settings = load_config(EXAMPLES / f"{name}.toml")
    assert settings.project.ranks == ranks and settings.align.gradient_checkpointing


def test_auto_means_a_rank_on_each_gpu_and_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert torchrun.wanted("auto", "auto") == 4 and torchrun.wanted("auto", "cpu") == 1
    assert torchrun.wanted(3, "cpu") == 3 and torchrun.wanted(2, "cuda") == 2 and torchrun.wanted(1, "cuda:1") == 1
    with pytest.raises(ConfigError, match="this machine has 4 GPUs.*slurm.sh"):
        torchrun.wanted(8, "auto")
    with pytest.raises(ConfigError, match='write "cuda"'):
        torchrun.wanted(2, "cuda:1")


def test_another_number_of_ranks_than_torchrun_started_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prefloop.toml").write_text(TINY_MODEL)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert run(["align", "-C", str(tmp_path), "--set", "project.ranks=2"]) == 2
    assert "ranks = 2, but torchrun has started 4" in capsys.readouterr().err
    for rank, answers in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert run(["align", "-C", str(tmp_path), "--set", "project.ranks=2", "--json"]) == 2
        assert capsys.readouterr().out.count("ConfigError") == answers, "one object is the result of the command"


@pytest.mark.parametrize("started", ["by prefloop", "by torchrun"])
def test_moments_in_8_bits_of_models_in_pieces_are_refused_before_a_command_begins(
    started: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prefloop.toml").write_text(TINY_MODEL)
    if started == "by torchrun":
        monkeypatch.setenv("WORLD_SIZE", "2")
    asked = ["-C", str(tmp_path), "--set", "project.ranks=2", "--set", "align.optim=adamw_8bit"]
    for command in ("align", "run"):
        assert run([command, *asked]) == 2
        assert '[align] optim = "adamw_8bit" needs whole tensors' in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    only_sft = load_config(tmp_path / "prefloop.toml", ["align.optim=adamw_8bit", 'run.stages=["sft"]'])
    refuse_pieces(only_sft, "run")  # No stage of it has the setting.


def test_an_error_that_would_come_again_keeps_the_group_from_starting_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert torchrun.exit_code(2) == 2 and not torchrun.restarts()
    monkeypatch.setenv(torchrun.ENDED, str(tmp_path / "code"))
    monkeypatch.setenv("RANK", "1")
    assert torchrun.exit_code(2) == 2 and not torchrun.has_ended(), "only rank 0 has the stage"
    monkeypatch.setenv("RANK", "0")
    assert torchrun.exit_code(RankError.exit_code) == RankError.exit_code and not torchrun.has_ended()
    assert torchrun.exit_code(2) == 0 and torchrun.has_ended() and (tmp_path / "code").read_text() == "2"


def test_a_server_that_rank_0_starts_is_no_rank_and_its_end_is_not_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_torchrun = {"RANK": "0", "GROUP_WORLD_SIZE": "1", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "x"}
    for name, value in {**of_torchrun, torchrun.ENDED: str(tmp_path / "code"), "LOCAL_NAME": "mine"}.items():
        monkeypatch.setenv(name, value)
    log = tmp_path / "log"
    server = Launched(lambda port, folder: [sys.executable, "-m", "prefloop", "--version"], log, {"CHOSEN": "1"})
    server.start(tmp_path)
    assert server._process is not None and server._process.wait(60) == 0 and prefloop.__version__ in log.read_text()
    server.stop()
    assert not (tmp_path / "code").exists(), "torchrun would take it for the end of the command"
    assert not torchrun.alone().keys() & of_torchrun.keys() and torchrun.alone()["LOCAL_NAME"] == "mine"


def test_lists_are_dealt_as_a_whole_the_longest_first_and_ranks_differ_by_at_most_one() -> None:
    shares = dealt([3, 9, 1, 7, 5], 2)
    assert shares == [[1, 2, 4], [0, 3]] and dealt([4], 3) == [[0], [], []]
