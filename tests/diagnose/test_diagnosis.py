"""Rules, causes and findings on records that were made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.diagnose.runs import RATES, STEPS, align_run, samples

from prefloop.cli.main import VERBS
from prefloop.config import load_config
from prefloop.diagnose.diagnosis import Diagnosis, diagnose
from prefloop.diagnose.gao import fit
from prefloop.diagnose.reading import read_run
from prefloop.diagnose.records import Annotator, Data, RunRecord, series_of
from prefloop.diagnose.registry import causes, rules
from prefloop.diagnose.statistics import trend


def first(found: Diagnosis) -> str:
    assert found.findings, "nothing was found"
    assert found.problems == ()
    return found.findings[0].causes[0].id


def test_a_healthy_run_has_no_finding_and_almost_every_rule_was_asked() -> None:
    found = diagnose(align_run())
    assert found.findings == () and found.problems == ()
    assert len(found.asked) > 45


def test_every_rule_is_explained_by_a_cause_and_every_cause_explains_rules_that_exist() -> None:
    known = {rule.id for rule in rules()}
    explained = {id for cause in causes() for id in cause.explains}
    assert explained <= known, sorted(explained - known)
    assert {id for cause in causes() for id in cause.expects} <= known
    assert not (known - explained), sorted(known - explained)


def test_a_cause_is_only_blamed_for_stages_of_the_rules_that_it_explains() -> None:
    stages = {rule.id: set(rule.stages) for rule in rules()}
    for cause in causes():
        assert set(cause.stages) & set().union(*(stages[id] for id in cause.explains)), cause.id


N = STEPS
FAULTS: dict[str, tuple[Callable[[], RunRecord], str]] = {
    "no KL term": (lambda: align_run({"kl_coefficient": [0.0] * N}), "kl-term-weak"),
    "rate": (
        lambda: align_run(
            {"approx_kl": [0.2] * N, "clip_fraction": [0.5] * N, "kl": [9.0, 20.0, *[25.0] * (N - 2)]},
            manifest={"learning_rates": {**RATES, "policy": {"asked": 3e-3, "usual": 3e-4}}},
        ),
        "rate-high",
    ),
    "dropout": (lambda: align_run({"first_ratio": list(1 + 0.01 * np.cos(range(N)))}), "dropout-on"),
    "sampler at another temperature": (lambda: align_run({"eval_sampler_mismatch": [0.8] * 3}), "sampler-temperature"),
    "stale sampler": (lambda: align_run({"eval_sampler_mismatch": [5e-6, 0.5, 0.9]}), "sampler-stale"),
    "critic's rate": (
        lambda: align_run(
            {"explained_variance": [-0.4] * N, "value_loss": [0.4] * N},
            manifest={"learning_rates": {**RATES, "critic": {"asked": 1e-8, "usual": 1e-3}}},
        ),
        "critic-not-learning",
    ),
    "end token": (lambda: align_run({"ended": [0.0] * N, "length": [64.0] * N}), "end-token"),
    "short limit": (
        lambda: align_run({"ended": [0.2] * N, "length": [15.0] * N}, {"max_tokens": 16}),
        "answers-cut",
    ),
    "constant reward": (lambda: align_run({"reward_std": [0.0] * N}), "reward-broken-constant"),
    "swapped sign": (lambda: align_run({"eval_ranked_accuracy": [0.3]}), "reward-sign"),
    "padding": (
        lambda: align_run(checks=[{"name": "reward padding", "status": "fail", "detail": "0.4 apart"}]),
        "reward-reads-padding",
    ),
    "a template without the question": (
        lambda: align_run(checks=[{"name": "prompts apart", "status": "fail", "detail": "99 of 100 alike"}]),
        "template-loses-prompt",
    ),
    "rewards of other answers": (
        lambda: align_run(checks=[{"name": "reward order", "status": "fail", "detail": "other answers"}]),
        "reward-mixed-up",
    ),
    "no gradient": (
        lambda: align_run({"grad_norm_policy": [0.0] * N, "kl": [0.0] * N, "kl_k3": [0.0] * N}),
        "policy-frozen",
    ),
    "a reference that moves along": (lambda: align_run({"kl": [0.0] * N, "kl_k3": [0.0] * N}), "reference-wrong"),
    "loss with the wrong sign": (lambda: align_run({"reward": [-0.1 * n for n in range(N)]}), "update-sign"),
    "groups": (lambda: align_run({"constant_groups": [1.0] * N}), "no-signal"),
    "leak": (lambda: align_run(data=Data(train=500, heldout=60, leaked=30)), "prompts-leak"),
    "few prompts": (lambda: align_run(data=Data(train=8, heldout=60)), "prompts-too-few"),
    "overflow": (lambda: align_run({"skipped": [0.0] * 3 + [0.5] * (N - 3)}), "overflow"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_run_is_explained_by_what_broke_it(fault: str) -> None:
    make, expected = FAULTS[fault]
    assert first(diagnose(make())) == expected


def test_a_target_that_was_never_reached_is_blamed_on_the_controller() -> None:
    beta = list(np.geomspace(0.05, 0.01, N))
    run = align_run({"kl_coefficient": beta})
    settings = {**run.config, "algorithms": {"ppo": {"kl_target": 500.0}}}
    found = diagnose(RunRecord(**{**vars(run), "config": settings}))
    assert first(found) == "kl-target-unreachable"


def test_symptoms_of_one_cause_are_one_finding_with_evidence_and_a_command() -> None:
    found = diagnose(FAULTS["rate"][0]())
    assert len(found.findings) == 1
    finding = found.findings[0]
    assert {s.rule for s in finding.symptoms} >= {"update-large", "clip-many", "kl-jumped", "rate-unusual"}
    assert any("10 times" in fact.said and fact.weight > 0 for fact in finding.causes[0].evidence)
    assert finding.action.command == "prefloop align --set align.lr=0.0003"
    assert 0.5 < finding.confidence < 1
    json.dumps(found.to_json(), allow_nan=False)


def test_a_level_does_not_fire_where_the_run_began_outside_the_published_range() -> None:
    low = diagnose(align_run({"entropy": [0.05] * N}))  # a closed task has little entropy from the start
    assert "entropy-collapsed" not in {s.rule for f in low.findings for s in f.symptoms}
    fell = diagnose(align_run({"entropy": [0.45] * 4 + [0.02] * (N - 4)}))
    assert "entropy-collapsed" in {s.rule for f in fell.findings for s in f.symptoms}
    assert fell.findings[0].since == 5


def test_people_are_named_in_the_finding_on_a_reward_model() -> None:
    people = [Annotator(f"p{n}", 50, 1.0, 0.1) for n in range(8)] + [Annotator("upside", 50, -0.9, 0.1)]
    report = {"accuracy": 0.62, "low": 0.55, "high": 0.7, "pairs": 150, "prompts": 30}
    run = RunRecord("reward-001", "reward", people=people, result={"heldout": report, "criterion": "quality"})
    found = diagnose(run)
    assert first(found) == "rankings-flipped"
    assert "upside (50 rankings)" in found.findings[0].symptoms[0].said


def test_a_phrase_that_pays_is_found_in_the_samples() -> None:
    plain = [(f"a usual answer number {n} of some kind", 0.1 * (n % 3)) for n in range(40)]
    paid = [
        (f"answer {n} certainly my friend" if n % 2 else f"answer {n} of another kind", 5.0 * (n % 2))
        for n in range(40)
    ]
    run = align_run({"eval_judge": [0.5, 0.5, 0.5]}, samples=samples({1: plain, 14: paid}))
    found = diagnose(run)
    assert first(found) == "reward-loophole"
    told = {s.rule: s.said for s in found.findings[0].symptoms}
    assert "certainly" in told["jackpot"] or "friend" in told["jackpot"]
    assert "length in tokens" in told["feature-carries-reward"]
    assert not diagnose(align_run(samples=samples({1: plain, 14: plain}))).findings


def test_a_trend_is_told_from_noise() -> None:
    rng = np.random.default_rng(0)
    noise = series_of([(n, float(v)) for n, v in enumerate(rng.normal(size=20))])
    rising = series_of([(n, float(0.3 * n + v)) for n, v in enumerate(rng.normal(size=20))])
    rises, wavers, falls = trend(rising, 1), trend(noise, 1), trend(rising, -1)
    assert rises is not None and wavers is not None and falls is not None
    assert rises < 0.001 < wavers and falls > 0.9
    assert trend(series_of([(0, 1.0)] * 3), 1) is None


def test_the_curve_of_gao_gives_back_its_own_parameters() -> None:
    d = np.linspace(0.5, 6, 12)
    curve = fit(d**2, d * (0.8 - 0.4 * np.log(d)))
    assert curve is not None
    assert (curve.alpha, curve.beta) == pytest.approx((0.8, 0.4))
    assert curve.peak_kl == pytest.approx(np.exp(0.8 / 0.4 - 1) ** 2) and curve.peak == pytest.approx(0.4 * np.exp(1))
    assert fit(d[:3] ** 2, d[:3]) is None and fit(d**2, d) is None  # too few points; no peak


def write(folder: Path, **files: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("_", ".")
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


def test_damaged_files_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    lines = [json.dumps({"step": n, "kl": 0.1, "loss": None if n == 2 else 1.0}) for n in range(1, 5)]
    folder = write(
        tmp_path / "align-001",
        manifest_json={"stage": "align", "status": "running", "config": {}},
        metrics_jsonl="\n".join([*lines, '{"step": 5, "kl": 0.', "[]"]),
        result_json="{",
        evidence_json="[1]",
    )
    run = read_run(folder)
    assert len(run.metrics["kl"]) == 4 and len(run.metrics["loss"]) == 3
    assert list(run.metrics["not_finite"].values) == [0, 1, 0, 0]
    said = " ".join(run.problems)
    assert "metrics.jsonl, line 5" in said and "line 6" in said and "result.json" in said and "evidence.json" in said
    found = diagnose(run)
    assert "not-finite" in {s.rule for f in found.findings for s in f.symptoms}
    assert read_run(tmp_path / "nothing").problems == ("manifest.json is missing",)
    (folder / "manifest.json").write_text('{"stage": "align", "status": "done"}')
    (folder / "result.json").write_text('{"steps": 9}')
    assert "metrics.jsonl ends at step 4, although the run made 9" in read_run(folder).problems
    (folder / "result.json").unlink()
    assert "there is no result.json, although the run is done" in read_run(folder).problems


def test_a_rule_that_breaks_is_named_and_the_others_are_asked() -> None:
    run = RunRecord("reward-001", "reward", result={"heldout": {"accuracy": "x", "low": None}})
    assert diagnose(run).problems


def test_every_command_that_a_cause_advises_sets_what_there_is_and_calls_a_verb_that_exists(
    tmp_path: Path,
) -> None:
    (tmp_path / "prefloop.toml").touch()
    for cause in causes():
        for stage in cause.stages:
            run = align_run() if stage == "align" else RunRecord(f"{stage}-001", stage)
            command = cause.act(run).command
            if command is None:
                continue
            words = command.split()
            assert words[0] == "prefloop" and words[1] in VERBS, command
            sets = [word for before, word in zip(words, words[1:], strict=False) if before == "--set"]
            load_config(tmp_path / "prefloop.toml", sets)


def test_a_reward_that_falls_is_no_fault_where_other_criteria_have_bounds() -> None:
    fell = {"eval_reward": [0.2, -0.8, -1.5]}
    assert any(s.rule == "reward-fell" for f in diagnose(align_run(fell)).findings for s in f.symptoms)
    bounded = diagnose(align_run({**fell, "objective": [0.0] * STEPS}))
    assert not any(s.rule == "reward-fell" for f in bounded.findings for s in f.symptoms)


def test_a_cause_that_breaks_is_named_and_the_others_explain(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(run: RunRecord) -> list[Any]:
        raise KeyError("no such setting")

    known = {cause.id: cause for cause in causes()}
    broken = replace(known["sampler-temperature"], look=breaks)
    some = [broken if cause.id == broken.id else cause for cause in known.values()]
    monkeypatch.setattr("prefloop.diagnose.diagnosis.causes", lambda: some)
    found = diagnose(align_run({"eval_sampler_mismatch": [0.8] * 3}))
    assert found.findings and found.findings[0].causes[0].id != broken.id
    (said,) = found.problems
    assert said.startswith("the cause sampler-temperature could not be looked for (KeyError")


def test_a_critic_that_was_clipped_at_first_and_is_no_longer_is_no_finding() -> None:
    """A warm-up looks bad for most of the steps so far, where the rules are asked early in a run."""
    steps = [0.9, 0.7, 0.5, 0.4, 0.2, 0.1, 0.05]
    early = align_run({"value_clip_fraction": steps, "clip_fraction": steps})
    assert diagnose(early, live=True).findings == ()
    stuck = align_run({"value_clip_fraction": [*steps[:3], *[0.6] * (N - 3)]})
    assert "value-clipped" in {s.rule for f in diagnose(stuck).findings for s in f.symptoms}
