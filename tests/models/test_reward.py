"""Reward models and critics: one score a sequence whatever its padding, the same one plain transformers gives."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from prefloop.batch import Rows, collate
from prefloop.config import Model
from prefloop.errors import ConfigError, ModelError
from prefloop.models.load import load_causal
from prefloop.models.packed_forward import hidden_states
from prefloop.models.reward import (
    RewardModel,
    freeze_lowest,
    load_reward_model,
    new_critic,
    new_reward_model,
    score_head,
)
from prefloop.models.save import save_pretrained
from prefloop.models.tokenization import EXTRA_PAD, Tokenization
from tiny_models import folder, left_padded, random_rows

SHAPES = [("Llama", True), ("Llama", False), ("GPT2", True), ("GPT2", False)]
every_shape = pytest.mark.parametrize(
    ("kind", "pad"), SHAPES, ids=["llama", "llama-pad-is-eos", "gpt2", "gpt2-pad-is-eos"]
)


def made(tmp_path: Path, kind: str = "Llama", pad: bool = True) -> tuple[RewardModel, Tokenization]:
    model, tokenization = new_reward_model(folder(tmp_path / "base", kind, pad=pad), Model(), seed=1)
    return model, tokenization


def ended_rows(tokenization: Tokenization, n: int = 6) -> Rows:
    """Return sequences that end with the end token, as answers do: neither it nor padding may be taken for the
    other.
    """
    rows = random_rows(n, vocab=200)
    full = [[*rows.ids[i][rows.mask[i]].tolist(), tokenization.end_id] for i in range(n)]
    return collate(full, [1] * n)


def scores(model: RewardModel, rows: Rows) -> torch.Tensor:
    with torch.no_grad():
        return model(rows).score


@every_shape
def test_a_score_is_the_same_alone_in_a_batch_and_padded_on_either_side(tmp_path: Path, kind: str, pad: bool) -> None:
    model, tokenization = made(tmp_path, kind, pad)
    rows = ended_rows(tokenization)
    whole = scores(model, rows)
    assert whole.std() > 1e-3, "scores all alike show nothing"
    assert torch.allclose(scores(model, left_padded(rows)), whole, atol=1e-5)
    for n in range(len(rows)):
        assert torch.allclose(scores(model, rows.select(torch.tensor([n]))), whole[n], atol=1e-5)
    garbage = Rows(torch.where(rows.mask, rows.ids, torch.tensor(-1)), rows.mask, rows.action)
    assert torch.equal(scores(model, garbage), whole)


@every_shape
@pytest.mark.parametrize("side", ["left", "right"])
def test_plain_transformers_gives_the_same_score_from_the_saved_folder(
    tmp_path: Path, kind: str, pad: bool, side: str
) -> None:
    model, tokenization = made(tmp_path, kind, pad)
    rows = ended_rows(tokenization)
    model.set_normalisation(1.5, 2.5)
    (tmp_path / "rm").mkdir()
    save_pretrained(model.model, tokenization, tmp_path / "rm")
    plain: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "rm")
    sequences = [{"input_ids": rows.ids[n][rows.mask[n]].tolist()} for n in range(len(rows))]
    batch = tokenizer.pad(sequences, return_tensors="pt", padding_side=side)
    # GPT-2 counts positions from the left edge unless told; a Llama's scores do not depend on where it starts
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        theirs = plain(**batch, position_ids=positions).logits.squeeze(-1)
    assert torch.allclose(theirs, scores(model, rows), atol=1e-5)


@every_shape
def test_the_pad_token_of_a_reward_model_never_ends_an_answer(tmp_path: Path, kind: str, pad: bool) -> None:
    model, tokenization = made(tmp_path, kind, pad)
    padding = tokenization.tokenizer.pad_token_id
    assert padding == model.model.config.pad_token_id and padding not in tokenization.stop_ids
    assert (tokenization.tokenizer.pad_token == EXTRA_PAD) is not pad
    _, policy_tokenization = load_causal(tmp_path / "base")
    assert tokenization.fingerprint == policy_tokenization.fingerprint  # The added token changes no id.


def test_normalisation_is_saved_with_the_model_and_survives(tmp_path: Path) -> None:
    model, tokenization = made(tmp_path)
    model.criterion = "helpful"
    model.set_normalisation(-0.25, 4.0)
    (tmp_path / "rm").mkdir()
    save_pretrained(model.model, tokenization, tmp_path / "rm")
    again, _ = load_reward_model(tmp_path / "rm")
    assert (again.mean, again.std, again.criterion) == (-0.25, 4.0, "helpful")
    assert again.normalise(torch.tensor([3.75, -0.25])).tolist() == [1.0, 0.0]
    rows = ended_rows(tokenization)
    assert torch.equal(scores(model, rows), scores(again, rows))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.0), (0.0, 1e-9), (math.nan, 1.0), (0.0, math.inf)])
def test_a_reward_model_that_says_the_same_of_everything_is_refused(tmp_path: Path, mean: float, std: float) -> None:
    model, _ = made(tmp_path)
    with pytest.raises(ModelError, match="learnt nothing"):
        model.set_normalisation(mean, std)


def test_the_head_starts_small_without_bias_and_from_its_seed(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", hidden_size=256, num_attention_heads=4)
    state = torch.get_rng_state()
    a, b, c = (new_reward_model(base, Model(), seed=s)[0].model.score.weight for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), state)  # The randomness of everybody else does not move.
    assert float(a.detach().std()) == pytest.approx(1 / math.sqrt(257), rel=0.15)


def test_dropout_works_in_training_only_where_it_was_asked_for(tmp_path: Path) -> None:
    base, rows = folder(tmp_path / "base", attention_dropout=0.4), random_rows()
    calm = new_reward_model(base, Model(), seed=1)[0]
    noisy = new_reward_model(base, Model(), seed=1, dropout=0.5)[0]
    assert torch.equal(scores(calm.train(), rows), scores(calm.eval(), rows))
    assert not torch.equal(scores(noisy.train(), rows), scores(noisy.eval(), rows))
    assert torch.equal(scores(noisy.eval(), rows), scores(calm.eval(), rows))


def test_lists_of_different_lengths_leave_gradients_finite(tmp_path: Path) -> None:
    """The absent completions of a short list are rows without a single real token."""
    model, _ = made(tmp_path)
    rows = random_rows(4)
    empty = Rows(rows.ids, rows.mask & (torch.arange(4) != 2)[:, None], rows.action)
    model(empty).score[[0, 1, 3]].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_model_with_several_labels_is_no_reward_model(tmp_path: Path) -> None:
    base = folder(tmp_path / "base")
    AutoModelForSequenceClassification.from_pretrained(base, num_labels=3).save_pretrained(tmp_path / "three")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "three")
    with pytest.raises(ModelError, match="3 labels"):
        load_reward_model(tmp_path / "three")


def test_a_reward_model_from_elsewhere_is_used_as_it_is(tmp_path: Path) -> None:
    base = folder(tmp_path / "base")
    AutoModelForSequenceClassification.from_pretrained(base, num_labels=1).save_pretrained(tmp_path / "one")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "one")
    model, _ = load_reward_model(tmp_path / "one")
    assert (model.mean, model.std) == (0.0, 1.0)


# -- critic ----------------------------------------------------------------------------------------------------------


def test_a_critic_starts_with_the_normalised_reward_of_what_it_has_seen(tmp_path: Path) -> None:
    """Its value before token t is the reward model's score of everything before t, in normalised units."""
    model, tokenization = made(tmp_path)
    model.set_normalisation(0.7, 3.0)
    (tmp_path / "rm").mkdir()
    save_pretrained(model.model, tokenization, tmp_path / "rm")
    critic, critic_tokenization = new_critic(tmp_path / "rm", Model())
    assert critic_tokenization.fingerprint == tokenization.fingerprint
    rows = random_rows(5, vocab=200)
    with torch.no_grad():
        value = critic(rows)
        everywhere = (
            score_head(critic.model)(hidden_states(critic.model, rows)).squeeze(-1) - critic.mean
        ) / critic.std
    assert torch.equal(value[~rows.action], torch.zeros_like(value[~rows.action]))
    for n, t in rows.action.nonzero().tolist():
        seen = Rows(rows.ids[n : n + 1, :t], rows.mask[n : n + 1, :t], rows.action[n : n + 1, :t])
        assert float(value[n, t]) == pytest.approx(float(model.normalise(scores(model, seen))), abs=1e-5)
    last = rows.mask.sum(1) - 1
    assert torch.allclose(everywhere[torch.arange(5), last], model.normalise(scores(model, rows)), atol=1e-5)


def test_a_critic_does_not_see_the_token_it_judges_or_any_later_one(tmp_path: Path) -> None:
    model, tokenization = made(tmp_path)
    (tmp_path / "rm").mkdir()
    model.set_normalisation(0.0, 1.0)
    save_pretrained(model.model, tokenization, tmp_path / "rm")
    critic, _ = new_critic(tmp_path / "rm", Model())
    rows = random_rows(1, vocab=200, longest=14)
    t = int(rows.action[0].nonzero()[0])
    changed = rows.ids.clone()
    changed[:, t:] = 9
    with torch.no_grad():
        assert torch.allclose(critic(rows)[0, t], critic(Rows(changed, rows.mask, rows.action))[0, t], atol=1e-6)


@pytest.mark.parametrize("kind", ["Llama", "GPT2"])
def test_frozen_layers_and_the_embedding_learn_nothing_the_rest_does(tmp_path: Path, kind: str) -> None:
    model, tokenization = made(tmp_path, kind)
    freeze_lowest(model.model, 1)
    model(ended_rows(tokenization)).score.square().sum().backward()
    moved = {name for name, p in model.model.named_parameters() if p.grad is not None}
    layers = ("layers.0", "layers.1") if kind == "Llama" else ("h.0", "h.1")
    assert not any(layers[0] in name or "embed" in name or "wte" in name for name in moved)
    assert any(layers[1] in name for name in moved) and any("score" in name for name in moved)
    with pytest.raises(ConfigError, match="has 2 layers"):
        freeze_lowest(model.model, 2)
