"""Lists of several criteria go in one pass, and other prompts lend answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prefloop.algorithms.base import Objective
from prefloop.algorithms.bradley_terry import BradleyTerry
from prefloop.algorithms.plackett_luce import PlackettLuce
from prefloop.batch import RewardOutput, collate_rankings
from prefloop.config import CONFIG_NAME, Reward
from prefloop.errors import ConfigError
from prefloop.models.tokenization import Tokenization
from prefloop.project.project import Project, load_policy
from prefloop.stages import train_reward
from prefloop.stages.train_reward import reward
from prefloop.training.ranked_lists import LENT, EachCriterion, Lists, Shown, gather
from prefloop.types import Completion, Demonstration, Item, Prompt, Ranking
from tiny_models import TINY_MODEL

SETTINGS = """
[data]
heldout = 0.2
[reward]
criteria = ["quality"]
batch = 4
epochs = 3
dropout = 0.1
average = 0.5
auxiliary = true
contrast = { quality = 0.3, naturalness = 0.1 }
eval_every = 5
checkpoint_every = 5
normalise_prompts = 8
[align]
max_tokens = 8
"""
WORDS = ("red", "blue", "green", "cheap", "near", "the", "river")


def make_item(id: str, prompt: Prompt, texts: Sequence[str], criterion: str, order: Sequence[int]) -> Item:
    completions = tuple(Completion(f"{id}:c{k}", text) for k, text in enumerate(texts))
    tiers = tuple((completions[k].id,) for k in order)
    return Item(id, prompt, completions, (Ranking(id, "w", criterion, tiers),))


def make_items() -> list[Item]:
    """Return twelve prompts of three texts each, the same lists by two criteria, shuffled differently."""
    rng = np.random.default_rng(0)
    items = []
    for n in range(12):
        prompt = Prompt(f"say {WORDS[n % 7]} {WORDS[n % 5]} number {n}")
        texts = [" ".join(rng.choice(WORDS, size=3)) + f" {k}" for k in range(3)]
        items.append(make_item(f"q{n}", prompt, texts, "quality", [0, 1, 2]))
        items.append(make_item(f"n{n}", prompt, texts[::-1], "naturalness", [0, 2, 1]))
    return items


def split_by_criterion(items: Sequence[Item]) -> dict[str, list[Item]]:
    names = ("quality", "naturalness")
    return {name: [i for i in items if i.rankings[0].criterion == name] for name in names}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "project")


def make_project(root: Path) -> Project:
    root.mkdir()
    (root / CONFIG_NAME).write_text(TINY_MODEL + SETTINGS)
    project = Project.open(root, quiet=True)
    items = make_items()
    project.store.add([*items, *(Demonstration(i.prompt, i.completions[0].text) for i in items)])
    return project


@pytest.fixture
def tokenization(project: Project) -> Tokenization:
    return load_policy(project, project.base())[1]


def lists_of(tokenization: Tokenization, contrast: float = 0.0, seed: int = 1) -> Lists:
    shown = gather(split_by_criterion(make_items()))
    settings = Reward(contrast={"quality": contrast}, max_tokens=64)
    return Lists(tokenization, shown, ("quality", "naturalness"), settings, seed)


def test_records_that_show_the_same_texts_become_one_list() -> None:
    shown = gather(split_by_criterion(make_items()))
    assert len(shown) == 12
    first = shown[0]
    text = {c.id: c.text for c in first.completions}
    naturalness = make_items()[1]
    theirs = {c.id: c.text for c in naturalness.completions}
    assert [text[t[0]] for t in first.rankings["naturalness"][0].tiers] == [
        theirs[t[0]] for t in naturalness.rankings[0].tiers
    ]


def test_a_ranking_counts_as_much_as_its_weight(tokenization: Tokenization) -> None:
    shown = gather(split_by_criterion(make_items()))
    said = shown[0].rankings["quality"][0]
    plain = Lists(tokenization, shown, ("quality", "naturalness"), Reward(max_tokens=64), 1)
    weighted = Lists(tokenization, shown, ("quality", "naturalness"), Reward(max_tokens=64), 1, {said.id: 2.5})
    one, other = plain.batch([0, 1], 0), weighted.batch([0, 1], 0)
    assert other.weight.tolist() == [[2.5, 1.0], [1.0, 1.0]]
    assert torch.allclose(other.wins[0, 0], 2.5 * one.wins[0, 0]) and torch.equal(other.wins[1], one.wins[1])


def test_the_same_texts_under_another_prompt_are_another_list() -> None:
    a = make_item("a", Prompt("one"), ["x", "y"], "quality", [0, 1])
    b = make_item("b", Prompt("two"), ["x", "y"], "quality", [1, 0])
    assert len(gather({"quality": [a, b]})) == 2


def test_equal_texts_of_one_list_keep_their_places_apart() -> None:
    a = make_item("a", Prompt("one"), ["x", "x", "y"], "quality", [0, 1, 2])
    b = make_item("b", Prompt("one"), ["y", "x", "x"], "naturalness", [1, 2, 0])
    (shown,) = gather({"quality": [a], "naturalness": [b]})
    (ranking,) = shown.rankings["naturalness"]
    assert sorted(c for tier in ranking.tiers for c in tier) == ["a:c0", "a:c1", "a:c2"]
    assert ranking.tiers[-1] == ("a:c2",)


@pytest.mark.parametrize("objective", [PlackettLuce(), BradleyTerry()])
def test_the_loss_over_criteria_is_the_sum_of_each_ones_own(tokenization: Tokenization, objective: Objective) -> None:
    lists = lists_of(tokenization)
    at = [0, 3, 5]
    batch = lists.batch(at, step=0)
    score = torch.randn(3 * 3, 2, generator=torch.Generator().manual_seed(0))
    together = EachCriterion(objective)
    apart = []
    for c, name in enumerate(lists.criteria):
        shown = [lists.lists[n] for n in at]
        one = collate_rankings(
            [lists.encoded[n] for n in at],
            [[x.id for x in s.completions] for s in shown],
            [s.rankings[name] for s in shown],
        )
        apart.append((objective.loss(RewardOutput(score[:, c]), one).total, objective.weight(one)))
    assert torch.allclose(together.loss(RewardOutput(score), batch).total, sum(total for total, _ in apart))
    assert together.weight(batch) == sum(weight for _, weight in apart)


def test_splitting_a_batch_changes_no_loss(tokenization: Tokenization) -> None:
    batch = lists_of(tokenization, contrast=0.5).batch([0, 3, 5, 7], step=2)
    score = torch.randn(4, 4, 2, generator=torch.Generator().manual_seed(0))
    each = EachCriterion(PlackettLuce())
    whole = each.loss(RewardOutput(score.flatten(0, 1)), batch).total
    halves = [[0, 2], [1, 3]]
    parts = [
        each.loss(RewardOutput(score[h].flatten(0, 1)), batch.select(torch.tensor(h))).total.item() for h in halves
    ]
    assert sum(parts) == pytest.approx(whole.item(), rel=1e-6)


def test_a_list_that_one_criterion_never_judged_counts_nothing_for_it(tokenization: Tokenization) -> None:
    shown = gather(split_by_criterion(make_items()))
    shown[0] = replace(shown[0], rankings={"quality": shown[0].rankings["quality"]})
    lists = Lists(
        tokenization, shown, ("quality", "naturalness"), Reward(contrast={"quality": 0.5, "naturalness": 0.5}), 1
    )
    batch = lists.batch([0, 1], step=0)
    assert batch.weight[0, 1] == 0 and batch.wins[0, 1].sum() == 0 and batch.choice_weight[0, 1].sum() == 0
    assert batch.weight[1, 1] > 0


def test_a_lent_answer_comes_from_another_prompt_and_ranks_below_every_own_one(tokenization: Tokenization) -> None:
    lists = lists_of(tokenization, contrast=0.3)
    own = {tuple(ids[cut:]) for ids, cut in lists.encoded[4]}
    for step in range(20):
        batch = lists.batch([4], step)
        lent = tuple(batch.ids[0, 3][batch.action[0, 3]].tolist())
        assert lent not in own
        assert any(lent == tuple(ids[cut:]) for n, row in enumerate(lists.encoded) if n != 4 for ids, cut in row)
        prompt = batch.ids[0, 3][batch.mask[0, 3] & ~batch.action[0, 3]].tolist()
        assert prompt == lists.encoded[4][0][0][: lists.encoded[4][0][1]]
        assert (batch.wins[0, 0, :3, 3] > 0).all() and (batch.wins[0, 0, 3] == 0).all()
        assert float(batch.wins[0, 0, :3, 3].sum()) == pytest.approx(0.3)


def test_a_criterion_without_contrast_never_hears_of_lent_answers(tokenization: Tokenization) -> None:
    batch = lists_of(tokenization, contrast=0.3).batch([4, 5], 0)
    assert (batch.wins[:, 1, :, 3] == 0).all() and not batch.choice_mask[:, 1, :, 3].any()


def test_contrast_for_a_criterion_that_does_not_exist_is_an_error_that_names_it(project: Project) -> None:
    with (
        Project.open(project.root, ["reward.contrast={ qualty = 0.3 }"], quiet=True) as misspelt,
        pytest.raises(ConfigError, match="qualty"),
    ):
        reward(misspelt)


def test_the_lender_is_the_most_similar_prompt_drawn(tokenization: Tokenization) -> None:
    texts = ["a b c d", "a b c e", "x y z"]
    shown = [
        Shown(Prompt(t), (Completion(f"{n}a", f"one {t}"), Completion(f"{n}b", f"two {t}")), {})
        for n, t in enumerate(texts)
    ]
    shown = [
        replace(s, rankings={"quality": (Ranking(str(n), "w", "quality", ((f"{n}a",), (f"{n}b",))),)})
        for n, s in enumerate(shown)
    ]
    lists = Lists(tokenization, shown, ("quality",), Reward(contrast={"quality": 1.0}, max_tokens=64), 0)
    likely = {tuple(ids[cut:]) for ids, cut in lists.encoded[1]}
    for step in range(20):
        batch = lists.batch([0], step)
        assert tuple(batch.ids[0, 2][batch.action[0, 2]].tolist()) in likely


def test_a_batch_is_a_pure_function_of_seed_and_step(tokenization: Tokenization) -> None:
    first, again = lists_of(tokenization, 0.3).batch([1, 2], 7), lists_of(tokenization, 0.3).batch([1, 2], 7)
    assert torch.equal(first.ids, again.ids) and torch.equal(first.wins, again.wins)
    others = [lists_of(tokenization, 0.3).batch([1, 2], step).ids for step in range(8, 16)]
    assert any(o.shape != first.ids.shape or not torch.equal(o, first.ids) for o in others)


def test_lone_prompts_borrow_nothing(tokenization: Tokenization) -> None:
    item = make_items()[0]
    lists = Lists(tokenization, gather({"quality": [item]}), ("quality",), Reward(contrast={"quality": 1.0}), 0)
    assert lists.batch([0], 0).present.shape == (1, 3)
    assert LENT not in [c.id for c in item.completions]


def test_resuming_with_auxiliary_criteria_and_contrast_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_project(tmp_path / "a") as project:
        straight = reward(project).models["quality"]
        row = project.store.models("reward")[0]
    with make_project(tmp_path / "b") as project:
        real, seen = train_reward.score_items, []

        def score_items(*args: object, **kwargs: object) -> object:
            seen.append(1)
            if len(seen) == 2:  # In the second evaluation one checkpoint is written, and the steps after it are lost.
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(train_reward, "score_items", score_items)
            reward(project)
        resumed = reward(project).models["quality"]
        assert project.store.models("reward")[0].weights_sha256 == row.weights_sha256
    assert resumed.heldout == straight.heldout


def test_auxiliary_heads_are_not_part_of_the_saved_model(project: Project) -> None:
    from safetensors.torch import load_file

    path = project.root / reward(project).models["quality"].model
    weights = load_file(path / "model.safetensors")
    assert weights["score.weight"].shape == (1, 16)
    assert not [name for name in weights if "others" in name]
