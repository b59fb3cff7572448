"""`optim = "adamw_8bit"` learns as AdamW in float32 does, by moments of 8 bits that survive a restart to the bit."""

from __future__ import annotations

import copy
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_learner import Broken, flat_state, same, weights

from prefloop.config_section import Optimiser
from prefloop.engine import adamw_8bit
from prefloop.engine.adamw_8bit import AdamW8bit
from prefloop.engine.base import Term
from prefloop.engine.checkpoint import load_checkpoint, save_checkpoint
from prefloop.engine.learner import Learner
from prefloop.errors import ConfigError, TrainingError
from prefloop.models.policy import Policy
from prefloop.models.without_hub import needs_bitsandbytes, without_hub_kernels
from tiny_models import causal, random_rows

STEPS, LR = 40, 3e-3
WIDE: dict[str, Any] = {
    "vocab": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_key_value_heads": 2,
}  # Small tensors have no 8 bits.


def learner_of(optim: Any = "adamw_8bit", average: float = 0.0, dtype: torch.dtype = torch.float32) -> Learner:
    settings = Optimiser(lr=LR, warmup=0.1, weight_decay=0.01, optim=optim)
    return Learner({"policy": Policy(causal(sharp=1.0, **WIDE).to(dtype))}, settings, STEPS, {"policy": LR}, average)


def run(learner: Learner, first: int, last: int, bad: int | None = None) -> float:
    """Take some steps, of which one may have a gradient that is not finite. Return the last loss."""
    for step in range(first, last):
        factor = math.nan if step == bad else 1.0
        loss = learner.step(Term(random_rows(16, seed=step % 3), Broken(factor=factor)))["loss"]
    return loss


# -- the steps ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_float32() -> float:
    return run(learner_of("adamw"), 0, STEPS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_comes_within_two_percent_of_the_loss_of_float32_moments(
    in_float32: float, dtype: torch.dtype
) -> None:
    learner = learner_of(dtype=dtype)
    assert run(learner, 0, 1) > 2 * in_float32
    assert run(learner, 1, STEPS) == pytest.approx(in_float32, rel=0.02)
    kept = [x for name, x in flat_state(learner).items() if name.endswith((".exp_avg", ".exp_avg_sq"))]
    assert sum(x.numel() for x in kept if x.dtype == torch.uint8) > 0.99 * sum(x.numel() for x in kept)


@pytest.mark.parametrize("fault", ["no signs", "another place"])
def test_with_a_broken_quantiser_it_does_not(in_float32: float, fault: str) -> None:
    """This is the negative control of the test above."""
    learner = learner_of()
    optimiser: Any = learner.optimisers["policy"]
    maps = optimiser.qmaps
    broken = {"no signs": {"exp_avg": maps["exp_avg_sq"]}, "another place": {n: x.roll(3) for n, x in maps.items()}}
    optimiser.qmaps = maps | broken[fault]
    assert run(learner, 0, STEPS) > 1.3 * in_float32


def test_the_steps_are_the_bits_of_the_librarys_own_optimiser_however_tensors_are_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def moved(make: Any, **how: Any) -> list[torch.Tensor]:
        draw = torch.Generator().manual_seed(0)
        tensors = [
            torch.randn(shape, generator=draw).requires_grad_() for shape in ((99, 77), (70, 70), (64, 64), (17,))
        ]
        optimiser = make(tensors, lr=1e-2, eps=1e-5, weight_decay=0.1, **how)
        for step in range(4):
            for n, tensor in enumerate(tensors):
                tensor.grad = None if n == step == 1 else 0.1**n * torch.randn(tensor.shape, generator=draw)
            optimiser.param_groups[0]["lr"] = 1e-2 / (step + 1)
            optimiser.step()
        return [tensor.detach() for tensor in tensors]

    expected = moved(needs_bitsandbytes("this test").optim.AdamW8bit)
    for piece in (1 << 20, 512):
        monkeypatch.setattr(adamw_8bit, "PIECE", piece)
        assert all(torch.equal(a, b) for a, b in zip(moved(AdamW8bit), expected, strict=True))


# -- its state ---------------------------------------------------------------------------------------------------------


def test_a_gradient_that_is_not_finite_leaves_moments_and_scales_as_they_were() -> None:
    learner = learner_of(average=0.9)
    run(learner, 0, 2)
    before = flat_state(learner)
    run(learner, 2, 3, bad=2)
    assert same(before, flat_state(learner))
    run(learner, 3, 4)
    assert not same(before, flat_state(learner))


def stopped_after_4(root: Path, dtype: torch.dtype) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return the checkpoint of a run that stopped after step 4, and the state of one that made 7."""
    learner = learner_of(average=0.9, dtype=dtype)
    run(learner, 0, 4, bad=2)
    state = learner.state()
    save_checkpoint(root, 4, state.tensors, state.values)
    run(learner, 4, 7)
    return load_checkpoint(root), flat_state(learner)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return stopped_after_4(tmp_path_factory.mktemp("stopped"), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_goes_on_from_its_checkpoint_to_the_same_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    found, straight = stopped_after_4(tmp_path, dtype)
    again = learner_of(average=0.9, dtype=dtype)
    run(again, 5, 6)  # Whatever it did before is gone.
    again.restore(found.files, found.state)
    assert same(weights(again), {n: x.to(dtype) for n, x in found.files["policy"].items()})
    run(again, 4, 7)
    assert same(flat_state(again), straight)


SLOTS = [f"exp_avg{moment}{part}" for moment in ("", "_sq") for part in ("", "_absmax", "_qmap")]


@pytest.mark.parametrize("slot", ["step", *SLOTS])
def test_each_tensor_of_its_state_is_needed(stopped: Any, slot: str) -> None:
    """This is the negative control of the test above."""
    found, straight = stopped
    files = {name: dict(tensors) for name, tensors in found.files.items()}
    names = [name for name in files["policy.adam"] if name.endswith(f".{slot}")]
    assert names
    files["policy.adam"] |= {name: files["policy.adam"][name] // 2 for name in names}
    again = learner_of(average=0.9)
    again.restore(files, found.state)
    run(again, 4, 7)
    assert not same(flat_state(again), straight)


def test_a_checkpoint_of_the_other_optimiser_is_refused_and_changes_nothing(stopped: Any) -> None:
    found, _ = stopped
    plain = learner_of("adamw", 0.9)
    run(plain, 0, 1)
    before = flat_state(plain)
    with pytest.raises(TrainingError, match=r'moments of optim = "adamw_8bit".* has optim = "adamw"\. .*--new'):
        plain.restore(found.files, found.state)
    assert same(before, flat_state(plain))
    files, values = copy.deepcopy(plain.state())
    with pytest.raises(TrainingError, match='moments of optim = "adamw", .* has optim = "adamw_8bit"'):
        learner_of(average=0.9).restore(files, values)
    del values["optim"]  # A version that knew of one optimiser wrote it.
    learner_of("adamw", 0.9).restore(files, values)


def test_runs_of_before_there_was_the_setting_are_still_the_same_runs() -> None:
    plain, other = (Optimiser(optim=name).deciding() for name in ("adamw", "adamw_8bit"))
    assert "optim" not in plain and other == plain | {"optim": "adamw_8bit"}


# -- the library -------------------------------------------------------------------------------------------------------


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r'adamw_8bit" needs .*pip install "prefloop\[bitsandbytes\]"'):
        learner_of()
    learner_of("adamw")


def test_what_fetches_kernels_from_the_hub_is_not_at_hand_while_the_library_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kernels.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with without_hub_kernels(), pytest.raises(ImportError):
        __import__("kernels")
    held = __import__("kernels")
    with without_hub_kernels(), pytest.raises(ImportError):
        __import__("kernels")
    assert sys.modules.pop("kernels") is held
