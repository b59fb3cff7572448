"""The whole loop goes by hand and by `run`, on a model that takes seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from prefloop.config import load_config

LOOP = ("sft", "sample", "crowd", "reward", "align", "evaluate")


def test_every_verb_prints_one_json_object_and_the_next_step_works(prefloop: Callable, tiny_project: Path) -> None:
    for verb in LOOP:
        said = prefloop(verb, "-C", tiny_project, "--json")
        assert said.code == 0, said.err
        assert said.json["stage"] == verb and said.json["skipped"] is False
        assert (tiny_project / "runs" / f"{verb}-001" / "result.json").is_file()
    for verb in LOOP:  # Once aligned, the next sample would be of round 1.
        again = prefloop(verb, "-C", tiny_project, "--json", *(("--round", "0") if verb == "sample" else ()))
        assert again.json["skipped"] is True, f"{verb} was done twice"


def test_people_are_told_the_figures_the_files_and_the_next_command(prefloop: Callable, tiny_project: Path) -> None:
    expected = {
        "sft": ("held-out loss", "runs/sft-001/model", "next: prefloop sample"),
        "sample": ("120 completions of 40 prompts", "next: prefloop annotate"),
        "crowd": ("40 simulated rankings", "next: prefloop reward"),
        "reward": ("accuracy", "longer wins", "next: prefloop align"),
        "align": ("held-out reward", "runs/align-001/model", "next: prefloop evaluate"),
        "evaluate": ("win rate", "next: prefloop report"),
    }
    for verb, parts in expected.items():
        said = prefloop(verb, "-C", tiny_project, "-q")
        assert said.code == 0, said.err
        assert not said.err, "quiet was asked for"
        for part in parts:
            assert part in said.out
    assert "already done" in prefloop("evaluate", "-C", tiny_project).out


def test_a_second_round_starts_from_the_first_rounds_policy(prefloop: Callable, tiny_project: Path) -> None:
    for verb in LOOP[:-1]:
        assert prefloop(verb, "-C", tiny_project).code == 0
    early = prefloop("reward", "-C", tiny_project, "--round", "1")
    assert early.code == 8 and "there is no round 1: the newest is round 0" in early.err
    said = prefloop("sample", "-C", tiny_project, "--set", "sample.prompts=4")
    assert "round 1, which starts here, policy align-001" in said.out
    assert "this starts round 1, with the policy that round 0 made (align-001)" in said.err
    more = prefloop("sample", "-C", tiny_project, "--round", "1", "--json").json
    assert (more["round"], more["policy"], more["starts_round"]) == (1, "align-001", False)
    # Nothing works on a round that is not there.
    for verb in ("sample", "reward", "align", "evaluate"):
        refused = prefloop(verb, "-C", tiny_project, "--round", "3")
        assert refused.code == 8 and "round 3" in refused.err and "prefloop align" in refused.err
    for what in ("policy", "reward"):
        refused = prefloop("export", what, "-C", tiny_project, "--round", "3", "--to", tiny_project / "out")
        assert refused.code == 8 and "round 3" in refused.err
    refused = prefloop("export", "pairs", "-C", tiny_project, "--round", "0", "--to", tiny_project / "out")
    assert refused.code == 3 and "--round does not apply to pairs" in refused.err


def test_align_takes_another_algorithm_for_once(prefloop: Callable, tiny_project: Path) -> None:
    for verb in LOOP[:3]:
        assert prefloop(verb, "-C", tiny_project).code == 0
    said = prefloop("align", "-C", tiny_project, "--algorithm", "dpo", "--json")
    assert said.json["algorithm"] == "dpo"
    assert load_config(tiny_project / "prefloop.toml").align.algorithm == "ppo"
    # No reward model was made, so evaluation needs a scorer of the user's own, and says so.
    alone = prefloop("evaluate", "-C", tiny_project, "--set", "evaluate.scorer=none")
    assert alone.code != 0 and "reward model" in alone.err and "[evaluate] scorer" in alone.err
    judged = prefloop("evaluate", "-C", tiny_project, "--set", "evaluate.scorer=length", "--json").json
    assert judged["sampled"]["win_rate"] == judged["sampled"]["judge_win_rate"]


def test_a_reward_model_is_measured_on_a_file_without_any_project(
    prefloop: Callable, tiny_project: Path, tmp_path: Path
) -> None:
    for verb in LOOP[:4]:
        assert prefloop(verb, "-C", tiny_project).code == 0
    model, file = tmp_path / "reward", tmp_path / "rankings.jsonl"
    assert prefloop("export", "reward", "-C", tiny_project, "--to", model).code == 0
    assert prefloop("export", "rankings", "-C", tiny_project, "--to", file).code == 0
    said = prefloop("evaluate", "reward", "--model", model, "--data", file)
    assert said.code == 0
    for part in ("accuracy", "95 % interval", "margin", "ties", "longer wins"):
        assert part in said.out
    report = prefloop("evaluate", "reward", "--model", model, "--data", file, "--json").json
    assert report["criteria"]["quality"]["pairs"] > 50 and report["rejected"] == 0


@pytest.mark.slow
def test_a_new_project_with_prompts_only_goes_round_the_loop(
    prefloop: Callable, tiny_model: Path, tmp_path: Path, tiny_project: Path
) -> None:
    """Without demonstrations sft is left out, and everything else runs; the second time nothing is left to do."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {n} things."}) + "\n" for n in range(30)))
    small = (
        "align.steps=2",
        "align.rollout.prompts=4",
        "align.max_tokens=6",
        "sample.max_tokens=6",
        "evaluate.max_tokens=6",
    )
    settings = [part for s in (*small, "crowd.scorer=length", "project.threads=1") for part in ("--set", s)]
    root = tmp_path / "new"
    assert prefloop("init", root, "--model", tiny_model, *settings).code == 0
    assert prefloop("import", prompts, "-C", root).code == 0
    first = prefloop("run", "-C", root, "--json")
    assert first.code == 0, first.err
    stages = [stage["stage"] for stage in first.json["stages"]]
    assert stages == ["sample", "crowd", "reward", "align", "evaluate", "report"]
    assert prefloop("run", "-C", root, "--json").json["skipped"] is True


def test_what_a_scorer_prints_does_not_reach_standard_output(prefloop: Callable, tiny_project: Path) -> None:
    (tiny_project / "quality.py").write_text("def score(prompt, text):\n    print('chatter')\n    return len(text)\n")
    for verb in ("sft", "sample"):
        prefloop(verb, "-C", tiny_project)
    said = prefloop("crowd", "-C", tiny_project, "--set", "crowd.scorer=quality.py:score", "--json")
    assert said.json["rankings"] == 40
    assert "chatter" in said.err


def test_settings_for_once_leave_the_file_alone(prefloop: Callable, tiny_project: Path) -> None:
    before = (tiny_project / "prefloop.toml").read_bytes()
    said = prefloop("sft", "-C", tiny_project, "--set", "sft.epochs=1", "--json")
    assert said.json["steps"] == 4
    assert (tiny_project / "prefloop.toml").read_bytes() == before
