"""DPO learns from rankings directly, and asks the reference about each completion once, for all runs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from resumable import TOML, build

from prefloop.algorithms.registry import make
from prefloop.batch import RankingBatch
from prefloop.config import make_config
from prefloop.engine.local import LocalEngine
from prefloop.engine.scripted import ScriptedEngine
from prefloop.errors import ConfigError, NothingToDoError
from prefloop.models.load import weights_hash
from prefloop.project.project import Project, load_policy
from prefloop.record import Run
from prefloop.rewards.sequence import encode
from prefloop.stages.align import align, check_options
from prefloop.stages.train_offline import train_offline
from prefloop.training.offline_lists import OfflineLists
from prefloop.types import ACCEPTABLE, Item, Ranking, digest


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return of which models a forward pass over rankings was asked."""
    roles: list[str] = []
    forward = LocalEngine.forward

    def noted(self: LocalEngine, role: Any, batch: Any, as_learner: bool = False) -> torch.Tensor:
        if isinstance(batch, RankingBatch):
            roles.append(role)
        return forward(self, role, batch, as_learner)

    monkeypatch.setattr(LocalEngine, "forward", noted)
    return roles


def test_a_second_run_does_not_ask_the_reference_again(tmp_path: Path, asked: list[str]) -> None:
    root = tmp_path / "project"
    build(root, with_reward=False)
    for lr, expected in ((1e-3, True), (1e-4, False)):
        asked.clear()
        with Project.open(
            root, ["align.algorithm=dpo", "align.lists=4", "align.passes=2", f"align.lr={lr}"], quiet=True
        ) as project:
            train_offline(project, 0)
        assert ("reference" in asked) is expected and "policy" in asked


def test_what_is_kept_is_what_the_reference_says_of_the_completion_alone(tmp_path: Path) -> None:
    root = tmp_path / "project"
    build(root, with_reward=False)
    with Project.open(root, ["align.algorithm=dpo", "align.lists=4", "align.passes=1"], quiet=True) as project:
        train_offline(project, 0)
        reference = project.reference()
        model, tokenization = load_policy(project, reference)
        items = list(project.store.items(criterion="quality", ranked=True))
        known = project.store.logprobs(
            digest(reference.weights, tokenization.fingerprint), [c.id for item in items for c in item.completions]
        )
        assert len(known) > 60
        for prompt, completion in [(i.prompt, c) for i in items[:8] for c in i.completions if c.id in known]:
            ids, cut = encode(tokenization, prompt, completion)
            with torch.no_grad():
                logits: Any = model(input_ids=torch.tensor([ids])).logits[0, cut - 1 : -1]
            said = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[cut:])[:, None]).sum()
            assert known[completion.id] == pytest.approx(float(said), abs=1e-3)


def test_before_anything_is_learnt_half_of_the_pairs_are_in_order(tmp_path: Path) -> None:
    """Policy and reference are one, so that every implicit reward is 0: that is no order, and not the wrong one."""
    root = tmp_path / "project"
    build(root, with_reward=False)
    with Project.open(root, ["align.algorithm=dpo", "align.lists=4", "align.passes=1"], quiet=True) as project:
        outcome = train_offline(project, 0)
    first, *_, last = Run(root / "runs" / str(outcome.run)).metrics()
    assert first["accuracy"] == 0.5
    assert first["examples"] == 4 and last["examples"] == (outcome.lists % 4 or 4)


FEW = "align.evaluation.eval_prompts=2"
WILD = ["align.algorithm=dpo", "align.lists=4", "align.passes=2", "align.evaluation.eval_every=1",
        "align.clip_norm=1000.0", "align.average=0", "align.schedule=constant"]  # fmt: skip


def test_answers_say_which_weights_of_a_run_without_samples_are_kept(tmp_path: Path, capsys: Any) -> None:
    """The newest ones that have not collapsed are kept; where all have, the policy stays what it was."""
    root = tmp_path / "project"
    build(root, with_reward=False)
    with Project.open(root, [*WILD, "align.lr=0.2"]) as project:
        outcome = align(project, 0)
        result, said = outcome, capsys.readouterr().err
        gone = [at.step for at in result.collapses]
        assert gone[-1] == result.steps > result.best_step > 0 and result.best_step not in gone
        assert f"step {gone[-1]}: the policy has collapsed, and is not kept: it is far from the reference, KL" in said
        at_best = next(m for m in Run(root / "runs" / str(outcome.run)).metrics() if m["step"] == result.best_step)
        assert at_best["eval_kl"] == result.kl and at_best["heldout_accuracy"] == result.heldout_accuracy
        assert {"eval_distinct_2", "eval_ended", "eval_length"} <= at_best.keys() and "eval_reward" not in at_best
        kept, _ = load_policy(project, project.policy(1))
        assert weights_hash(kept) == result.weights and project.policy(1).version == outcome.run
    with Project.open(root, [*WILD, "align.lr=3.0", "run.choose=newest"], quiet=True) as project:
        lost = align(project, 0)
        assert lost.best_step == 0 and lost.policy == "base" and lost.model is None
        assert [row.version for row in project.store.models("policy")] == [outcome.run]
        assert project.policy(1).version == outcome.run


def test_rankings_are_learnt_from_where_no_prompt_leaves_room_for_an_answer(tmp_path: Path, capsys: Any) -> None:
    root = tmp_path / "project"
    build(root, with_reward=False)
    with Project.open(
        root, ["align.algorithm=dpo", "align.lists=4", "align.passes=1", "align.max_tokens=64"]
    ) as project:
        result = align(project, 0)
        assert "nobody looks at what the policy answers" in capsys.readouterr().err
        assert result.best_step == result.steps and result.kl is None
        assert project.policy(1).version == result.policy


def emptied(root: Path) -> list[Item]:
    """Make a project without rankings, and return those that it would have."""
    build(root, with_reward=False)
    with Project.open(root, quiet=True) as project:
        items = list(project.store.items(ranked=True))
    shutil.rmtree(root)
    root.mkdir()
    (root / "prefloop.toml").write_text(TOML)
    return items


def judged(root: Path, tiers: Any, **what: Any) -> None:
    """Make a project whose people say the same of every list."""
    items = emptied(root)
    with Project.open(root, quiet=True) as project:
        for item in items:
            a, b, c = (completion.id for completion in item.completions)
            said = Ranking(item.id, "w", tiers=tiers(a, b, c), **({"criterion": "quality"} | what))
            project.store.add([replace(item, rankings=(said,))])


@pytest.mark.parametrize("algorithm", ["dpo", "orpo"])
def test_a_method_that_needs_pairs_is_refused_at_the_start_where_all_answers_tie(
    tmp_path: Path, algorithm: str
) -> None:
    judged(tmp_path / "project", lambda a, b, c: ((a, b, c),))
    with Project.open(tmp_path / "project", [f"align.algorithm={algorithm}"], quiet=True) as project:
        with pytest.raises(NothingToDoError, match=f"{algorithm} finds no order to learn from: in all of 1. lists"):
            align(project, 0)
        assert not list((tmp_path / "project" / "runs").glob("align*"))


@pytest.mark.parametrize("algorithm", ["simpo", "orpo", "cpo"])
def test_a_method_without_a_reference_asks_none_about_its_lists(
    tmp_path: Path, asked: list[str], algorithm: str
) -> None:
    root = tmp_path / "project"
    build(root, with_reward=False)
    with Project.open(root, [f"align.algorithm={algorithm}", "align.lists=8", FEW], quiet=True) as project:
        outcome = train_offline(project, 0)
    assert set(asked) == {"policy"} and outcome.heldout_accuracy is not None
    *_, last = Run(root / "runs" / str(outcome.run)).metrics()
    assert ("nll" in last) == (algorithm != "simpo") and last["chosen_logp"] < 0


def labelled(root: Path, *overrides: str) -> Project:
    """Return a project with KTO's labels alone: single answers, of which a third is bad."""
    items = emptied(root)
    project = Project.open(root, ["align.algorithm=kto", *overrides], quiet=True)
    for n, item in enumerate(items):
        (answer, *_) = item.completions
        label = Ranking(item.id, "w", ACCEPTABLE, ((answer.id,),), unacceptable=(answer.id,) if n % 3 == 0 else ())
        project.store.add([replace(item, completions=(answer,), rankings=(label,))])
    return project


def test_kto_learns_from_labels_and_a_method_of_pairs_says_who_does(tmp_path: Path) -> None:
    root = tmp_path / "project"
    with labelled(root, "align.lists=5", "align.passes=2", FEW) as project:
        outcome = align(project, 0)
    lines = Run(root / "runs" / str(outcome.run)).metrics()
    assert lines[0]["reference_point"] == 0 < max(line["reference_point"] for line in lines)
    assert outcome.heldout_accuracy is not None and 0 <= outcome.heldout_accuracy <= 1
    assert 0.0 not in [line.get("chosen_logp") for line in lines], "a mean of nothing is left out"
    with Project.open(root, ["align.algorithm=dpo"], quiet=True) as project:
        with pytest.raises(NothingToDoError, match="prefloop align --algorithm kto learns from those"):
            align(project, 0)
        assert [run.name for run in (root / "runs").iterdir() if run.name.startswith("align")] == [outcome.run]
    with Project.open(root, ["align.algorithm=best_sft", "align.lists=8", FEW], quiet=True) as project:
        taught = align(project, 0)
        bad = sum(bool(item.rankings[0].unacceptable) for item in project.store.items(split="train", heldout=0.25))
    assert 0 < taught.lists == outcome.lists - bad


def test_kto_takes_the_outer_tiers_where_there_are_no_labels_and_is_refused_without_any(tmp_path: Path) -> None:
    root = tmp_path / "project"
    build(root, with_reward=False)
    few = ["align.algorithm=kto", "align.lists=8", "align.evaluation.eval_prompts=2"]
    with Project.open(root, few, quiet=True) as project:
        assert align(project, 0).heldout_accuracy is not None
    judged(tmp_path / "tied", lambda a, b, c: ((a, b, c),))
    tied = Project.open(tmp_path / "tied", few, quiet=True)
    with tied, pytest.raises(NothingToDoError, match="answers that people call good or bad, and there are none"):
        align(tied, 0)


def test_the_reference_point_of_kto_is_the_mean_log_ratio_on_answers_to_the_next_prompt(tmp_path: Path) -> None:
    """It is that of the whole batch, and never below 0."""

    def say(role: Any, ids: Any) -> list[float]:
        return [-0.01 * id if role == "policy" else -0.01 * id - gap * (place + 1) for place, id in enumerate(ids)]

    with labelled(tmp_path / "project") as project:
        items = list(project.store.items(ranked=True))[:5]
        _, tokenization = load_policy(project, project.reference())
        for gap in (0.01, -0.01):
            data = OfflineLists(project.store, f"r{gap}", ScriptedEngine(say=say), tokenization, items, make("kto"))
            batch = data.batch([1, 4])
            expected = []
            for n, m in ((1, 2), (4, 0)):
                asked, said = data.encoded[n][0], data.encoded[m][0]
                places = range(asked.prompt, asked.prompt + len(said.answer))
                expected.append(sum(gap * (place + 1) for place in places))
            assert batch.reference_point.tolist() == pytest.approx([max(0.0, sum(expected) / 2)] * 2, rel=1e-5)


def test_a_loss_for_wrong_labels_is_refused_where_no_label_is_said_to_be_wrong() -> None:
    robust = {"loss_type": "robust"}
    with pytest.raises(ConfigError, match="loss_type would have no effect: label_smoothing = 0"):
        check_options(make_config({"align": {"algorithm": "dpo"}, "algorithms": {"dpo": robust}}))
    check_options(
        make_config({"align": {"algorithm": "dpo"}, "algorithms": {"dpo": robust | {"label_smoothing": 0.1}}})
    )
