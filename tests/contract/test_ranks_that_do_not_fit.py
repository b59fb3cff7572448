"""Ranks that can not compute together are refused by name, and one that hangs ends the group."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from prefloop.engine import processes
from prefloop.engine.processes import join, leave, refuse_unless_shared
from prefloop.engine.spmd import dismiss
from prefloop.errors import ConfigError, RankError
from two_ranks import free_port, two_ranks

# What the other rank does first: it meets this one as another version, and then with another folder.
DIFFERS = """
import os
from pathlib import Path
import prefloop
from prefloop.engine.processes import refuse_unless_shared
from prefloop.errors import ConfigError
right, prefloop.__version__ = prefloop.__version__, "0.0.1"
try:
    join("cpu", 60)
except ConfigError:
    leave()
prefloop.__version__ = right
os.environ["MASTER_PORT"] = "{second}"
ranks = join("cpu", 60)
for folder in ("{shared}", "{own}"):
    try:
        refuse_unless_shared(ranks, Path(folder))
    except ConfigError:
        leave()
os.environ["MASTER_PORT"] = "{third}"
"""


def test_ranks_of_another_version_or_with_another_folder_are_refused_and_one_whose_rank_0_hangs_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own := tmp_path / "own").mkdir()
    second, third = str(free_port()), str(free_port())

    def meet() -> None:
        with pytest.raises(ConfigError, match="rank 1 has prefloop 0.0.1, and rank 0 has .* the same environment"):
            join("cpu", 60)
        leave()
        monkeypatch.setenv("MASTER_PORT", second)
        ranks = join("cpu", 60)
        refuse_unless_shared(ranks, tmp_path)
        with pytest.raises(ConfigError, match=f"{own} of rank 1 on .* is not the folder .* all nodes see the same"):
            refuse_unless_shared(ranks, tmp_path)
        leave()
        monkeypatch.setenv("MASTER_PORT", third)
        monkeypatch.setattr(processes, "PULSE_S", 1e6)  # The other rank now gets no sign of this one.

    with two_ranks(6.0, DIFFERS.format(second=second, third=third, shared=tmp_path, own=own), meet) as (_, other):
        assert other.wait(120) == 1
        assert os.listdir(tmp_path) == ["own"], "no mark is left"


def test_a_rank_that_hangs_is_an_error_after_the_time_limit_also_where_it_has_no_order_yet() -> None:
    with two_ranks(6.0) as (ranks, other):
        other.send_signal(signal.SIGSTOP)
        with pytest.raises(RankError, match="rank_timeout .*imed out.* the same command goes on .* Raise rank_timeout"):
            ranks.main.tell("an order")
        with pytest.raises(RankError):
            dismiss(ranks)
        other.kill()
