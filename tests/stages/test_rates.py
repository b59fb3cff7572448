"""A model that nobody has tuned gets a learning rate that fits its width."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefloop.project.project import Project, load_policy
from prefloop.training.learning_rates import AT_1024, MOST, learning_rate, rate


@pytest.mark.parametrize("kind", AT_1024)
def test_wide_models_get_small_rates(kind) -> None:  # type: ignore[no-untyped-def]
    rates = [learning_rate(kind, width) for width in (16, 64, 192, 1024, 4096)]
    assert rates == sorted(rates, reverse=True) and rates[0] == MOST[kind]
    assert rates[3] == AT_1024[kind]
    assert rates[4] == pytest.approx(AT_1024[kind] / 4**1.75, rel=0.05)


def test_one_that_is_asked_for_stays(tiny_project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Project.open(tiny_project) as project:
        model, _ = load_policy(project, project.base())
        assert rate(project, 1e-5, "sft", model) == 1e-5
        assert "learning rate" not in capsys.readouterr().err
        assert rate(project, None, "sft", model) == MOST["sft"]
        assert "learning rate of the sft: 0.002, for a model of width 16" in capsys.readouterr().err
