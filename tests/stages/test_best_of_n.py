"""`prefloop best-of` returns the best of n or the majority's answer, exactly, and names what it cannot use."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefloop import exchange
from prefloop.api.project import Project
from prefloop.cli.main import run
from prefloop.errors import ConfigError, DataError, NothingToDoError
from prefloop.ops.best_of import kl_bound, kl_exact
from prefloop.stages import best_of as stage
from prefloop.types import Demonstration, Item

QUIET = {"max_tokens": 12}
SETTINGS = ["evaluate.bootstrap=200"]
SCORERS = '''"""Scorers of the tests."""

def reds(prompt, text):
    return float(text.count("red") - text.count("blue"))

def fussy(prompt, text):
    if "hat" in prompt:
        raise ValueError("no hats")
    return float(len(text))

def colour(prompt, text):
    words = text.split()
    return words[-1] if words else None
'''


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_tiny: Callable[[Path], Path]) -> Path:
    """Return a project with an SFT policy that has learnt to name colours, and reward models."""
    root = make_tiny(tmp_path_factory.mktemp("best-of"))
    (root / "scorers.py").write_text(SCORERS)
    with Project.open(root, [*SETTINGS, "sft.epochs=12", "sft.lr=0.01"], quiet=True) as project:
        project.sft()
        project.sample(k=2)
        project.crowd("length")
        project.reward(epochs=1)
    return root


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def opened(root: Path, *more: str) -> Project:
    return Project.open(root, [*SETTINGS, *more], quiet=True)


def test_the_answer_with_the_highest_reward_is_returned_and_files_import(root: Path, tmp_path: Path) -> None:
    out, lists = tmp_path / "answers.jsonl", tmp_path / "lists.jsonl"
    with opened(root) as project:
        made = project.best_of(6, scorer="scorers.py:reds", out=out, lists=lists, **QUIET)
        held = project.store.prompts(split="heldout", heldout=0.25)
    assert (made.by, made.n, made.asked, made.prompts) == ("best", 6, len(held), len(held))
    shown = list(exchange.read(out))
    ranked = list(exchange.read(lists))
    assert len(shown) == len(ranked) == len(held)
    empty = [n for n, row in enumerate(rows(out)) if not row["completion"]]
    assert [n for n, row in enumerate(shown) if not isinstance(row, Demonstration)] == empty, "nobody learns those"
    for answer, item in zip(shown, ranked, strict=True):
        assert isinstance(item, Item)
        assert len(item.completions) == 6 and all(c.token_ids and c.logprobs for c in item.completions)
        rewards = [c.metadata["reward"] for c in item.completions]
        assert rewards == [c.text.count("red") - c.text.count("blue") for c in item.completions]
        if isinstance(answer, Demonstration):
            assert answer.metadata["selection"]["reward"] == max(rewards)
            assert answer.text.count("red") - answer.text.count("blue") == max(rewards)
        (ranking,) = item.rankings
        assert ranking.simulated and ranking.annotator == "best-of"
        assert item.completions[rewards.index(max(rewards))].id in ranking.tiers[0]
    with Project.create(tmp_path / "other", scratch=True, quiet=True) as other:
        assert other.import_file(out).files[0].demonstrations == len(held) - len(empty)
        assert other.import_file(lists).files[0].rankings == len(held)


def test_the_curve_is_of_subsets_of_the_same_samples_and_ties_make_the_kl_a_bound(root: Path, tmp_path: Path) -> None:
    with opened(root) as project:
        made = project.best_of(6, scorer="scorers.py:reds", **QUIET)
        assert made.skipped and [at.n for at in made.curve] == [1, 2, 4, 6]
        found = [[c["metadata"]["reward"] for c in row["completions"]] for row in rows(root / made.lists)]
        assert made.curve[0].reward.mean == pytest.approx(np.mean(found))
        assert made.curve[-1].reward.mean == pytest.approx(np.mean(np.max(found, axis=1)))
        assert made.bounded and made.tied and made.kl == kl_bound(6)
        assert made.kl_estimate is not None and made.kl_estimate < made.kl
        unique = project.best_of(6, scorer=lambda p, t: float(int(t.encode().hex() or "0", 16) % 9973), **QUIET)
        few = rows(root / unique.lists)
        assert unique.bounded == any(len({c["text"] for c in row["completions"]}) < 6 for row in few)
        judged = project.best_of(6, scorer="brevity", **QUIET)
    with opened(root, 'evaluate.scorer="length"') as project:
        beside = project.best_of(6, scorer="brevity", **QUIET)
    assert judged.curve[0].judge is None and beside.curve[-1].reward == judged.curve[-1].reward
    for at in beside.curve:
        assert at.judge and at.judge.mean == pytest.approx(-at.reward.mean), "the shortest answers are judged by length"


def test_the_same_command_goes_on_where_it_stopped_to_the_same_bytes(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "ROWS", 12)  # Three prompts make a part.
    ask = {"scorer": "scorers.py:reds", "temperature": 0.9, **QUIET}
    with opened(root) as project:
        whole = project.best_of(4, **ask)
        made = [(root / p).read_bytes() for p in (whole.answers, whole.lists)]
        folder = (root / whole.answers).parent
        with monkeypatch.context() as patch:
            count = iter(range(100))

            def stops(*args: Any, **more: Any) -> Any:
                if next(count) == 2:
                    raise KeyboardInterrupt
                return draw(*args, **more)

            draw = stage.draw
            patch.setattr(stage, "draw", stops)
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
            with pytest.raises(KeyboardInterrupt):
                project.best_of(4, **ask)
        parts = sorted((folder / "parts").iterdir())
        assert len(parts) == 2
        times = [p.stat().st_mtime_ns for p in parts]
        drawn: list[int] = []
        monkeypatch.setattr(stage, "draw", lambda *a, **k: drawn.append(len(a[2])) or draw(*a, **k))
        again = project.best_of(4, **ask)
    assert sum(drawn) == whole.prompts - 6, "two parts of three prompts were there"
    assert times and again.run == whole.run and again.curve == whole.curve
    assert [(root / p).read_bytes() for p in (again.answers, again.lists)] == made


def test_an_answer_depends_on_seed_and_prompt_and_not_on_n_or_the_other_prompts(root: Path, tmp_path: Path) -> None:
    one = tmp_path / "one.jsonl"
    with opened(root) as project:
        prompts = project.store.prompts(split="heldout", heldout=0.25)
        one.write_text(json.dumps({"prompt": prompts[3].text}))
        many = rows(root / project.best_of(6, scorer="scorers.py:reds", **QUIET).lists)
        few = rows(root / project.best_of(3, scorer="length", prompts=one, **QUIET).lists)
    with opened(root, "project.seed=8") as project:
        other = rows(root / project.best_of(3, scorer="length", prompts=one, **QUIET).lists)
    texts = [[c["text"] for c in row["completions"]] for row in (many[3], few[0], other[0])]
    assert texts[0][:3] == texts[1] != texts[2]


def test_majorities_are_plain_without_a_scorer_and_weighted_with_one(root: Path) -> None:
    pattern = r"is (\w+)"
    with opened(root) as project:
        plain = project.best_of(7, majority=pattern, **QUIET)
        heavy = project.best_of(7, majority=pattern, scorer="scorers.py:reds", vote_temperature=0.01, **QUIET)
        by_function = project.best_of(7, majority="scorers.py:colour", **QUIET)
    assert (plain.by, heavy.by, plain.scorer, plain.curve) == ("majority", "weighted", None, ())
    assert plain.bounded and plain.kl == pytest.approx(np.log(7)) and plain.share and plain.share < 1
    reds = 0
    for row, weighted in zip(rows(root / plain.lists), rows(root / heavy.lists), strict=True):
        found = [(re.findall(pattern, c["text"]) or [None])[-1] for c in row["completions"]]
        assert found == [c.get("metadata", {}).get("final") for c in row["completions"]]
        answers = [f for f in found if f is not None]
        chosen = row["metadata"]["selection"].get("chosen")
        if chosen:
            winner = found[int(chosen[1:])]
            assert answers.count(winner) == max(map(answers.count, answers))
            assert row["metadata"]["selection"]["share"] == pytest.approx(answers.count(winner) / len(answers))
            best = max(c["metadata"]["reward"] for c in weighted["completions"] if "final" in c["metadata"])
            picked = weighted["completions"][int(weighted["metadata"]["selection"]["chosen"][1:])]
            assert picked["metadata"]["reward"] == best, "at a small temperature the best answer decides"
            reds += picked["metadata"]["reward"] > 0
    assert reds and by_function.unmatched is not None and by_function.unmatched < plain.unmatched


def test_reward_models_choose_where_nothing_else_is_named_and_any_policy_answers(root: Path) -> None:
    with opened(root) as project:
        by_model = project.best_of(3, **QUIET)
        before = project.best_of(3, policy="base", **QUIET)
        judge = project.reward_model()
        row = rows(root / by_model.lists)[0]
        texts = [c["text"] for c in row["completions"]]
        scores = judge.score([row["prompt"]] * 3, texts)
    assert (by_model.scorer, by_model.policy, before.policy) == ("reward", "sft-001", "base")
    assert row["rankings"][0]["criterion"] == "quality"
    ended = [c["finish_reason"] == "stop" for c in row["completions"]]
    if all(ended):
        assert [c["metadata"]["reward"] for c in row["completions"]] == pytest.approx(list(scores), abs=1e-3)


def test_a_row_that_a_scorer_fails_on_is_named_and_the_others_are_answered(root: Path) -> None:
    with opened(root) as project:
        made = project.best_of(3, scorer="scorers.py:fussy", **QUIET)
        hats = [p for p in project.store.prompts(split="heldout", heldout=0.25) if "hat" in p.text]
        assert hats and len(made.unscored) == len(hats) == made.asked - made.prompts
        assert all("no hats" in row for row in made.unscored) and hats[0].text in made.unscored[0]
        assert "hat" not in (root / made.answers).read_text()
        calls: list[str] = []

        def broken(prompt: str, text: str) -> float:
            calls.append(prompt)
            raise ValueError("never works")

        with pytest.raises(DataError, match="never works"):
            project.best_of(3, scorer=broken, **QUIET)
        assert len(calls) == 4, "after all prompts together, only three are asked about one by one"


def test_bad_input_is_refused_with_what_to_do(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = tmp_path / "there.jsonl"
    there.write_text("mine")
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"prompt": "red " * 300}) + "\n" + json.dumps({"prompt": "Say red hat."}))
    with opened(root) as project:
        with pytest.raises(ConfigError, match="no majority of one"):
            project.best_of(1, majority="x")
        with pytest.raises(DataError, match="finds no final answer in any of"):
            project.best_of(2, majority="ANSWER: (.*)", **QUIET)
        with pytest.raises(ConfigError, match="no regular expression"):
            project.best_of(2, majority="(")
        with pytest.raises(DataError, match="--overwrite"):
            project.best_of(2, scorer="length", out=there, **QUIET)
        with pytest.raises(ConfigError, match="vote_temperature = 2.0 would have no effect"):
            project.best_of(2, scorer="length", vote_temperature=2.0)
        made = project.best_of(2, scorer="length", prompts=long, **QUIET)
        assert (made.asked, made.prompts) == (2, 1), "one prompt is longer than the model's context"
    assert there.read_text() == "mine"
    code = run(["best-of", "-C", str(root), "--n", "2", "--scorer", "length", "--prompts", str(long),
                "--set", "best_of.max_tokens=12", "--out", str(there), "--overwrite"])  # fmt: skip
    said = capsys.readouterr()
    assert code == 0 and "1 of 2 prompts answered" in said.out, said.err
    assert "do not fit the model's context" in said.err
    assert rows(there)[0]["prompt"] == "Say red hat."


def test_a_project_without_a_reward_says_so(tiny_project: Path) -> None:
    with opened(tiny_project) as project, pytest.raises(NothingToDoError, match="name a scorer with --scorer"):
        project.best_of(2)


def test_every_setting_has_an_effect(root: Path) -> None:
    usual: dict[str, Any] = {"majority": r"is (\w+)", "scorer": "length", **QUIET}
    changed: dict[str, Any] = {"n": 3, "scorer": "brevity", "majority": r"The (\w+)", "vote_temperature": 50.0,
                               "temperature": 0.3, "top_p": 0.3, "max_tokens": 3, "limit": 6}  # fmt: skip
    with opened(root) as project:
        plain = (root / project.best_of(4, **usual).lists).read_bytes()
        for name, value in changed.items():
            asked = {"n": 4, **usual, name: value}
            found = project.best_of(asked.pop("n"), **asked)
            assert not found.skipped and (root / found.lists).read_bytes() != plain, name
        assert project.best_of(4, batch=2, **usual).skipped, "it changes no result"


def test_best_of_n_of_a_known_policy_is_as_far_away_as_the_formula_says(root: Path) -> None:
    """Sample a real model many times: what best-of-4 returns has the KL from it that the exact formula gives."""
    with opened(root) as project:
        one = project.store.prompts(split="heldout", heldout=0.25)[0]
        file = root / "one.jsonl"
        file.write_text(json.dumps({"prompt": one.text}))
        made = project.best_of(1024, scorer="length", prompts=file, max_tokens=1)
    completions = rows(root / made.lists)[0]["completions"]
    known = {c["text"]: (float(np.exp(c["logprobs"][0])), c["metadata"]["reward"]) for c in completions}
    p, r = (np.array(column) for column in zip(*known.values(), strict=True))
    at = next(at for at in made.curve if at.n == 4)
    assert at.kl_estimate == pytest.approx(kl_exact(p / p.sum(), r, 4), abs=0.05)
