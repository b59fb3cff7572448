"""Results go to JSON and come back as they were, and the files of other versions are read as far as they go."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from prefloop import results
from prefloop.cli.show import summary
from prefloop.labels.preference_eval import pair_accuracy
from prefloop.results import (
    AlignedOffline,
    AlignedOnline,
    AnnotatorWeights,
    Answer,
    Collapse,
    Comparison,
    Cut,
    Evaluated,
    Interval,
    Normalisation,
    Outcome,
    Refused,
    SampledPair,
    TrainedReward,
    Tuned,
    ValidationPrompts,
    read_aligned,
)
from prefloop.types import Completion, Item, Prompt, Ranking

WIN = Interval(0.7, 0.6, 0.8, 80, None)
REFUSED = Refused(3, ("a.jsonl row 1: no system role",))
CUT = Cut(24, 9, 2, 1, 0)


def trained() -> TrainedReward:
    completions = (Completion("i:a", "short"), Completion("i:b", "a longer text"))
    item = Item("i", Prompt("Hm?"), completions, (Ranking("i", "ada", "quality", (("i:b",), ("i:a",))),))
    report = pair_accuracy({"i:a": 0.0, "i:b": 1.0}, [item], "quality")
    return TrainedReward(
        criterion="quality", round=1, lists=6, lists_trained_on=7, rankings=12, simulated=0,
        annotators=AnnotatorWeights("weighted", 1, True, None, {"ada": 1.0}), heldout_lists=2,
        normalisation=Normalisation(0.1, 0.9), heldout=report, train_accuracy=None, left_out=REFUSED, cut=CUT,
        model="m",
    )  # fmt: skip


def offline(**more: Any) -> AlignedOffline:
    return AlignedOffline(
        algorithm="dpo", round=0, lists=4, annotators={"quality": AnnotatorWeights("all", 0)}, steps=8, kl=1.5,
        length=9.0, ended=1.0, collapsed=(), best_step=8, collapses=(Collapse(4, ("it repeats itself",)),),
        stopped="all steps done", weights="abc", policy="align-001", model="runs/align-001/model", **more,
    )  # fmt: skip


def evaluated() -> Evaluated:
    made = Comparison(policy={"kl": 1.0, "reward_helpful": 2.0}, reference={"kl": 0.0}, win_rate=WIN, reward_gain=WIN)
    pair = SampledPair("Hm?", Answer("Yes.", 1.0), Answer("No.", 0.0))
    return Evaluated(
        round=0, policy="align-001", reference="base", independent=True, prompts=80, samples_per_prompt=8,
        sampled=made, samples=(pair,), greedy=dataclasses.replace(made, judge_win_rate=WIN), collapsed=(),
    )  # fmt: skip


@pytest.mark.parametrize(
    "made",
    [
        trained(),
        dataclasses.replace(trained(), heldout=None, left_out=None, cut=None),
        offline(),
        offline(heldout_accuracy=0.75, validation=ValidationPrompts(True, ("a", "b")), cut=CUT),
        evaluated(),
        Evaluated(round=0, policy="base", reference="base", unchanged=True),
        Tuned(steps=2, demonstrations=4, too_long=0, heldout_too_long=0, left_out=REFUSED, model="m"),
    ],
    ids=lambda made: type(made).__name__,
)
def test_a_result_comes_back_from_its_file_as_it_was(made: Outcome) -> None:
    found = json.loads(json.dumps(made.figures()))
    again = type(made).read(found, run="run-001", skipped=True)
    assert again == dataclasses.replace(made, run="run-001", skipped=True)
    written = json.loads(json.dumps(again.to_json()))
    assert written == {"stage": made.stage, "run": "run-001", "skipped": True, **found}


def test_what_is_none_is_written_or_left_out_as_its_field_says() -> None:
    found = Tuned(steps=2, demonstrations=4, too_long=0, heldout_too_long=0, model="m").figures()
    assert list(found) == ["steps", "demonstrations", "too_long", "heldout_too_long", "model"]
    assert "detectable" in evaluated().figures()["sampled"]["win_rate"], "a figure that is not finite is null"
    assert "judge_win_rate" not in evaluated().figures()["sampled"]
    weighted = trained().figures()
    assert weighted["annotators"] == {"mode": "weighted", "left_out": 1, "enough": True, "reason": None,
                                      "weights": {"ada": 1.0}}  # fmt: skip
    assert offline().figures()["annotators"] == {"quality": {"mode": "all", "left_out": 0}}
    assert weighted["refused"] == 3 and weighted["answers_cut"] == 2, "they stand beside the others"


def test_a_file_of_another_version_is_read_as_far_as_it_goes_and_can_be_shown(tmp_path: Any) -> None:
    old = {"steps": 8, "round": 0, "algorithm": "ppo", "reward_before": 0.1, "reward": 0.6, "kl": 5.0, "odd": {"x": 1}}
    made = read_aligned(old, "align-001")
    assert isinstance(made, AlignedOnline) and made.best_step is None and made.warnings is None
    assert made.validation is None and made.run == "align-001"
    shown = "\n".join(summary(made, tmp_path))
    assert "ppo, round 0: 8 steps" in shown and "held-out reward +0.100 -> +0.600" in shown
    assert "odd" not in made.figures()
    without = {"round": 0, "policy": "align-001", "reference": "base", "prompts": 9}
    mode = {"policy": {"kl": 1.0, "length": 9.0, "ended": 1.0}, "reference": {"length": 8.0},
            "win_rate": {"mean": 0.7, "low": 0.6, "high": 0.8, "n": 9},
            "reward_gain": {"mean": 0.7, "low": 0.6, "high": 0.8, "n": 9}}  # fmt: skip
    measured = Evaluated.read(without | {"sampled": mode, "greedy": mode})
    older = {"checks": [], "prompts": {"all": 9}, "problems": []}  # before bounds could be left unchecked
    behaved = Evaluated.read(without | {"sampled": mode, "greedy": mode, "behaviour": older})
    assert behaved and behaved.behaviour and behaved.behaviour.unchecked == ()
    assert measured and measured.win_rate and measured.win_rate.detectable is None and measured.collapsed is None
    assert "align-001 against base on 9 held-out prompts, 1 answers each" in "\n".join(summary(measured, tmp_path))


def test_rankings_without_samples_say_which_kind_of_run_it_was() -> None:
    assert isinstance(read_aligned(offline().figures()), AlignedOffline)
    assert read_aligned({}) is None and TrainedReward.read({}) is None


def test_a_result_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        results.Ran(rounds=1, stages=()).rounds = 2  # type: ignore[misc]
