"""A list whose prompt is read once scores, and learns, as if every answer were read with the prompt alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers

from prefloop.batch import ListRows, RolloutBatch, Rows, collate
from prefloop.kernels import native
from prefloop.models import compiled, packed, packed_forward
from prefloop.models.packed import Segment, supports_packed
from prefloop.models.packed_forward import _shared_prompts, _splits_exactly, last_hidden, predicting_hidden
from prefloop.models.policy import Policy
from prefloop.models.reward import Critic, RewardModel
from prefloop.models.tokenization import Tokenization
from prefloop.rewards.model import raw_scores
from prefloop.types import Completion, Prompt
from tiny_models import causal, tokenizer, uneven

PROMPTS = [[5, 6, 7, 8, 9], [11, 12], [5, 6, 7]]
ANSWERS = [[[20, 21, 1], [22, 1], [23, 24, 25, 26, 1]], [[20, 1], [30, 31, 32, 1], [33, 1]], [[9, 1], [8, 9, 1], [1]]]


def list_rows(prompts: Sequence[Sequence[int]] = PROMPTS) -> ListRows:
    sequences = [([*p, *a], len(p)) for p, answers in zip(prompts, ANSWERS, strict=True) for a in answers]
    flat = collate([s for s, _ in sequences], [n for _, n in sequences])
    return ListRows(flat.ids, flat.mask, flat.action, k=3)


def one_by_one(model: Any, rows: Rows) -> torch.Tensor:
    ids = [rows.ids[n][rows.mask[n]][None] for n in range(len(rows))]
    return torch.cat([model.base_model(input_ids=i, use_cache=False).last_hidden_state[:, -1] for i in ids])


LEAN = ["Llama", "Qwen2", "Qwen3", "GPTNeoX", "GPT2", "Gemma3"]
WAYS = [*((kind, True) for kind in LEAN), ("Llama", False), ("GPT2", False), ("Gemma2", False)]


@pytest.fixture
def transformers_only(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda: monkeypatch.setattr(packed_forward, "supports_packed", lambda *given: False)


@pytest.mark.parametrize("together", [True, False])  # Matrices that share an input may be one.
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("kind", "without_padding"), WAYS)
def test_states_and_gradients_are_those_of_reading_each_row_alone(
    kind: str,
    without_padding: bool,
    shared: bool,
    together: bool,
    transformers_only: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not together:
        monkeypatch.setattr(packed, "FUSE_UP_TO", 0)
    model, rows = uneven(causal(kind, sharp=3.0)), list_rows()
    assert supports_packed(model) == (kind in LEAN)
    if not without_padding:
        transformers_only()
    if not shared:
        rows = Rows(rows.ids, rows.mask, rows.action)  # type: ignore[assignment]
    weight = torch.randn(9, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    found = []
    for read in (last_hidden, one_by_one):
        model.zero_grad()
        states = read(model, rows)
        assert states is not None
        (states * weight).sum().backward()
        found.append((states.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    (ours, our_grads), (theirs, their_grads) = found
    assert theirs.std() > 1e-2 and torch.allclose(ours, theirs, atol=1e-5)
    assert our_grads.keys() == their_grads.keys()
    for name, gradient in their_grads.items():
        assert torch.allclose(our_grads[name], gradient, atol=1e-4 * max(1.0, float(gradient.abs().max()))), name


def test_gradients_of_lists_are_the_same_bits_every_time() -> None:
    """A prompt's end is wanted by all of its answers: what comes back to it must be added up in one order."""
    model, draw = causal("Llama"), torch.Generator().manual_seed(0)
    ids = torch.randint(3, 40, (128, 60), generator=draw)
    ids[:, :12] = ids[:1, :12]
    rows = ListRows(ids, torch.ones_like(ids, dtype=torch.bool), (torch.arange(60) >= 12).expand(128, -1), k=128)
    weight = torch.randn(128 * 48, model.config.hidden_size, generator=draw)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(2, threads))
    try:
        found = []
        for _ in range(12):
            model.zero_grad()
            (predicting_hidden(model, rows) * weight).sum().backward()
            found.append([p.grad.clone() for p in model.base_model.parameters() if p.grad is not None])
    finally:
        torch.set_num_threads(threads)
    assert found[0] and all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("without_padding", [True, False])
def test_an_empty_place_in_a_list_changes_nothing(without_padding: bool, transformers_only: Any) -> None:
    if not without_padding:
        transformers_only()
    model, rows = causal(sharp=3.0), list_rows()
    mask, action = rows.mask.clone(), rows.action.clone()
    mask[4], action[4] = False, False
    states, whole = last_hidden(model, ListRows(rows.ids, mask, action, k=3)), last_hidden(model, rows)
    assert bool(torch.isfinite(states).all())
    kept = torch.arange(9) != 4
    assert torch.allclose(states[kept], whole[kept], atol=1e-6)


@pytest.mark.parametrize("without_padding", [True, False])
def test_garbage_in_the_padding_is_not_read(without_padding: bool, transformers_only: Any) -> None:
    if not without_padding:
        transformers_only()
    model, rows = causal(sharp=3.0), list_rows()
    garbage = ListRows(torch.where(rows.mask, rows.ids, 39), rows.mask, rows.action, k=3)
    assert torch.equal(last_hidden(model, garbage), last_hidden(model, rows))
    assert torch.equal(predicting_hidden(model, garbage), predicting_hidden(model, rows))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["Mistral", "Gemma3"])
def test_texts_longer_than_a_window_are_read_through_it(kind: str) -> None:
    """A token that reads only the 23 before it: in longer texts everything else would be read as well."""
    model, draw = uneven(causal(kind, sharp=3.0, sliding_window=24)), torch.Generator().manual_seed(0)
    for length, wide in ((24, True), (40, False)):
        ids = torch.randint(3, 40, (2, length), generator=draw)
        rows = Rows(ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(length).expand(2, -1) >= 3)
        assert torch.allclose(last_hidden(model, rows), one_by_one(model, rows), atol=1e-5)
        whole = packed.forward_packed(
            model, torch.tensor([length - 1]), Segment(ids[:1], rows.mask[:1], rows.positions[:1])
        )
        assert torch.allclose(whole, one_by_one(model, rows)[:1], atol=1e-4) == wide


@pytest.mark.skipif(not native.AVAILABLE, reason="native.c was not compiled here: is there a C compiler?")
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kind", LEAN)
def test_frozen_models_are_read_by_compiled_code_and_say_the_same(
    kind: str, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = uneven(causal(kind, sharp=3.0)), list_rows()
    mask, action = rows.mask.clone(), rows.action.clone()
    mask[4], action[4] = False, False  # This is an empty place in a list.
    rows = ListRows(rows.ids, mask, action, k=3) if shared else Rows(rows.ids, rows.mask, rows.action)  # type: ignore[assignment]
    used: list[int] = []
    read = compiled.forward_compiled
    monkeypatch.setattr(
        packed_forward,
        "forward_compiled",
        lambda model, wanted, *blocks: used.append(1) or read(model, wanted, *blocks),
    )
    monkeypatch.setattr(packed_forward, "COMPILED_FROM", 20)
    for look in (last_hidden, predicting_hidden):
        with torch.no_grad():
            learning = look(model, rows)
            assert not used, "a model that learns is read as it learns"
            frozen = look(model.requires_grad_(False), rows)
        look(model, rows)  # Somebody wants a gradient, if only of something else.
        assert used == [1] and learning.std() > 1e-2 and torch.isfinite(frozen).all()
        there = rows.mask.any(-1) if look is last_hidden else torch.ones(len(frozen), dtype=torch.bool)
        assert torch.allclose(frozen[there], learning[there], atol=1e-5)
        model.requires_grad_(True)
        used.clear()


def test_rows_padded_on_the_left_are_read_by_transformers() -> None:
    model, rows = causal(sharp=3.0), list_rows()
    turned = Rows(
        *(
            torch.stack([torch.roll(row, n, 0) for row, n in zip(x, (~rows.mask).sum(1), strict=True)])
            for x in (rows.ids, rows.mask, rows.action)
        )
    )
    assert torch.allclose(last_hidden(model, turned), last_hidden(model, rows), atol=1e-5)
    assert torch.allclose(predicting_hidden(model, turned), predicting_hidden(model, rows), atol=1e-5)


def test_rows_that_share_no_prompt_are_left_to_the_caller() -> None:
    rows = list_rows()
    assert _shared_prompts(Rows(rows.ids, rows.mask, rows.action)) is None
    other_token = rows.ids.clone()
    other_token[1, 0] = 30
    assert _shared_prompts(ListRows(other_token, rows.mask, rows.action, k=3)) is None
    other_length = rows.action.clone()
    other_length[1, 4] = True
    assert _shared_prompts(ListRows(rows.ids, rows.mask, other_length, k=3)) is None
    assert _shared_prompts(ListRows(rows.ids[:8], rows.mask[:8], rows.action[:8], k=3)) is None
    assert _shared_prompts(list_rows([[], [11], [5]])) is None, "no prompt, nothing to share"
    left = [torch.roll(x, 2, dims=1) for x in (rows.ids, rows.mask, rows.action)]
    assert _shared_prompts(ListRows(*left, k=3)) is None, "padded on the left"


def test_a_model_that_looks_ahead_shares_nothing() -> None:
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    model = transformers.BertForSequenceClassification(config)
    assert not supports_packed(model) and not _splits_exactly(model)


@pytest.mark.parametrize("kind", ["Llama", "GPT2"])
def test_a_policy_and_a_critic_say_of_lists_what_they_say_of_rows(kind: str) -> None:
    model, rows = uneven(causal(kind, sharp=3.0)), list_rows()
    plain = Rows(rows.ids, rows.mask, rows.action)
    policy = Policy(model, temperature=0.7)
    ours, theirs = policy(rows), policy(plain)
    assert theirs.logp.abs().max() > 1 and torch.allclose(ours.logp, theirs.logp, atol=1e-5)
    config = type(model.config)(**{**model.config.to_dict(), "num_labels": 1})
    torch.manual_seed(0)
    scorer = transformers.AutoModelForSequenceClassification.from_config(config)
    critic = Critic(scorer, mean=0.3, std=2.0)
    assert torch.allclose(critic(rows), critic(plain), atol=1e-5) and critic(plain).std() > 1e-3


def test_rollouts_are_lists_where_each_prompts_completions_stand_together() -> None:
    rows = list_rows()
    rest = {name: torch.zeros(9) for name in ("sampler_logp", "reward")} | {"ended": torch.ones(9, dtype=torch.bool)}

    def batch(group: list[int]) -> Rows:
        return RolloutBatch(rows.ids, rows.mask, rows.action, group=torch.tensor(group), **rest).rows()

    together = batch([0, 0, 0, 1, 1, 1, 2, 2, 2])
    assert isinstance(together, ListRows) and together.k == 3
    for group in ([0, 1, 2, 0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 1, 2, 2, 2, 2], list(range(9))):
        assert not isinstance(batch(group), ListRows)


def test_rows_that_fit_into_one_part_keep_their_order() -> None:
    rows = list_rows()
    (index,) = rows.split_index(9 * rows.ids.shape[1])
    assert index.tolist() == list(range(9))
    assert len(rows.split_index(9 * rows.ids.shape[1] - 1)) == 2


def test_scores_of_lists_are_those_of_single_answers() -> None:
    """Prompts are shared where they stand together, whatever the token budget."""
    tokenization, model = Tokenization(tokenizer(), (1,), 1, False, 64), causal(vocab=400, sharp=3.0)
    config = type(model.config)(**{**model.config.to_dict(), "num_labels": 1})
    torch.manual_seed(0)
    scorer = RewardModel(transformers.AutoModelForSequenceClassification.from_config(config).eval())
    asked = [Prompt(text) for text in ("the cat", "the dog ran") for _ in range(3)]
    said = [Completion(str(n), " ".join(["and", "the", "cat"][: n % 3 + 1])) for n in range(6)]
    alone = torch.cat([raw_scores(scorer, tokenization, [p], [c]) for p, c in zip(asked, said, strict=True)])
    assert alone.std() > 1e-3
    for budget in (8, 40, 10_000):
        assert torch.allclose(raw_scores(scorer, tokenization, asked, said, budget), alone, atol=1e-5)
