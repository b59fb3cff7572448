"""Computes the hidden states of a batch where they are needed: at the ends of rows, or before each completion token.

Several answers to one prompt read the prompt once, and share its keys and values. Results are those of reading every
row alone, up to rounding. There are four ways, and the first that the model and the rows allow is taken: compiled code
(`compiled`, for models that are not in training); packed tokens in torch (`packed`); transformers in two parts (the
prompts, then the answers), except with gradient checkpointing, which keeps no cache; and transformers on the padded
rows.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prefloop.batch import ListRows, Rows
from prefloop.kernels.logprobs import predicting
from prefloop.models.checkpointing import is_checkpointed
from prefloop.models.compiled import forward_compiled, is_compilable
from prefloop.models.packed import Segment, forward_packed, supports_packed, was_adapted
from prefloop.ops.masked import last_index

COMPILED_FROM = 256  # From so many tokens of a batch on, copying the weights for compiled code pays.


def last_hidden(model: PreTrainedModel, rows: Rows) -> Tensor:
    """Return the hidden state at the last real token of each row [N,H]; rows may be padded left or right.

    An empty row (an unused place of a short list) gets a finite state without meaning.
    """
    cut = _shared_prompts(rows)
    if supports_packed(model, rows.ids.shape[1]) and _right_padded(rows):
        return _without_padding(model, rows, cut, ends=True)
    if cut is not None and not is_checkpointed(model) and _splits_exactly(model):
        _, answers, mask = _forward_in_two_parts(model, rows, cut)
        return answers[torch.arange(len(answers), device=answers.device), (mask.sum(-1) - 1).clamp(min=0)]
    states = hidden_states(model, rows)
    return states[torch.arange(len(states), device=states.device), last_index(rows.mask).clamp(min=0)]


def predicting_hidden(model: PreTrainedModel, rows: Rows, as_learner: bool = False) -> Tensor:
    """Return the hidden state before each action token [M,H], in row-major order.

    as_learner: compute a frozen model as one in training is computed, so that equal weights give equal bits
    """
    cut = _shared_prompts(rows)
    if supports_packed(model, rows.ids.shape[1]) and _right_padded(rows):
        return _without_padding(model, rows, cut, ends=False, as_learner=as_learner)
    if cut is not None and not is_checkpointed(model) and _splits_exactly(model):
        prompt, answers, mask = _forward_in_two_parts(model, rows, cut)
        return torch.cat([prompt[:, None], answers[:, :-1]], dim=1)[mask]
    return hidden_states(model, rows)[predicting(rows.action)]


def hidden_states(model: PreTrainedModel, rows: Rows) -> Tensor:
    """Return the last hidden states of all tokens [N,T,H], by transformers.

    Padding is masked; its ids are replaced by 0.
    """
    states: Tensor = model.base_model(
        input_ids=torch.where(rows.mask, rows.ids, torch.zeros_like(rows.ids)),
        attention_mask=rows.mask.long(),
        position_ids=rows.positions,
        use_cache=False,
    ).last_hidden_state
    return states


def _right_padded(rows: Rows) -> bool:
    return bool((rows.mask[:, :-1] >= rows.mask[:, 1:]).all())


def _shared_prompts(rows: Rows) -> Tensor | None:
    """Return the length of each list's prompt [R], or None if the rows of some list do not share their whole prompt."""
    if not isinstance(rows, ListRows) or rows.k < 2 or len(rows) % rows.k:
        return None
    shape = (-1, rows.k, rows.ids.shape[1])
    prompt, ids = (rows.mask & ~rows.action).view(shape), rows.ids.view(shape)
    lengths, present = prompt.sum(-1), rows.mask.view(shape).any(-1)
    first = lengths[:, :1]
    same_length = (lengths == first) | ~present
    same_ids = ((ids == ids[:, :1]) | ~prompt).all(-1)
    after = torch.arange(shape[2], device=ids.device) >= first[..., None]
    prompt_first = (rows.action.view(shape) == (rows.mask.view(shape) & after)).all()
    if int(first.min()) < 1 or not bool(prompt_first & rows.mask[:: rows.k, 0].all() & (same_length & same_ids).all()):
        return None
    return first[:, 0]


def computed_by(model: PreTrainedModel, learns: bool = False) -> str:
    """Return what computes a model's forward pass, as far as its rows allow: "compiled", "packed" or "transformers".

    learns: with gradients, which compiled code does not give
    """
    if not supports_packed(model):
        return "transformers"
    return "compiled" if not learns and is_compilable(model) else "packed"


def _without_padding(
    model: PreTrainedModel, rows: Rows, cut: Tensor | None, ends: bool, as_learner: bool = False
) -> Tensor:
    """Return hidden states at the last token of each row [N,H] (`ends`), or before each action token [M,H].

    cut: the length of each list's prompt where the rows of a list share it, else None
    """
    frozen = not as_learner and _is_frozen(model)
    use_compiled = frozen and rows.mask.sum() >= COMPILED_FROM and is_compilable(model)
    forward = forward_compiled if use_compiled else forward_packed
    if cut is None:
        last = (rows.mask.sum(-1).cumsum(0) - 1).clamp(min=0)
        wanted = last if ends else predicting(rows.action)[rows.mask].nonzero().squeeze(1)
        return forward(model, wanted, Segment(rows.ids, rows.mask, rows.positions))
    assert isinstance(rows, ListRows)
    prompts, answers = _split(rows, cut)
    counts = answers.mask.sum(-1)
    prompt_ends = (cut.cumsum(0) - 1).repeat_interleave(rows.k)
    starts = cut.sum() + counts.cumsum(0) - counts  # Each answer starts here, after the tokens of all prompts.
    not_empty = counts > 0
    if ends:
        return forward(model, torch.where(not_empty, starts + counts - 1, prompt_ends), prompts, answers)
    before = torch.arange(int(counts.sum()), device=cut.device) + cut.sum() - 1
    before[(starts - cut.sum())[not_empty]] = prompt_ends[not_empty]
    return forward(model, before, prompts, answers)


def _is_frozen(model: PreTrainedModel) -> bool:
    """Return whether the model is not in training.

    A policy in training is always computed by the code that trains it, so that the log-probabilities of its samples are
    compared with the learner's own numbers.
    """
    return not torch.is_grad_enabled() and not any(p.requires_grad for p in model.parameters())


def _split(rows: ListRows, cut: Tensor) -> tuple[Segment, Segment]:
    """Return the prompts of all lists, one row each, and the answers of all rows."""
    width, device = rows.ids.shape[1], rows.ids.device
    at = torch.arange(int(cut.max()), device=device)[None].expand(len(cut), -1)
    prompts = Segment(rows.ids[:: rows.k, : at.shape[1]], at < cut[:, None], at)
    start = cut.repeat_interleave(rows.k)[:, None]
    total = rows.mask.sum(-1, keepdim=True)
    place = start + torch.arange(max(1, int((total - start).max())), device=device)
    return prompts, Segment(rows.ids.gather(1, place.clamp(max=width - 1)), place < total, place)


def _forward_in_two_parts(model: Any, rows: Rows, cut: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute hidden states by transformers, in two parts.

    returns: the state at the prompt's end for each row [N,H], those of the answers [N,A,H], and which tokens of the
    answers are real [N,A]
    """
    assert isinstance(rows, ListRows)
    k, device = rows.k, rows.ids.device
    prompts, answers = _split(rows, cut)
    answer_mask, answer_ids = answers.mask, torch.where(answers.mask, answers.ids, 0)
    # Prompts end in the last column, so that every answer starts in the next one.
    longest = int(cut.max())
    at = torch.arange(longest, device=device)[None] - (longest - cut)[:, None]
    prompt_mask = at >= 0
    prompt_ids = torch.where(prompt_mask, prompts.ids.gather(1, at.clamp(min=0)), 0)

    out = model.base_model(
        input_ids=prompt_ids,
        attention_mask=prompt_mask.long(),
        position_ids=(prompt_mask.cumsum(-1) - 1).clamp(min=0),
        use_cache=True,
    )
    cache = out.past_key_values
    cache.batch_repeat_interleave(k)
    mask = torch.cat([prompt_mask.repeat_interleave(k, 0), answer_mask], dim=1)
    states: Tensor = model.base_model(
        input_ids=answer_ids,
        attention_mask=mask.long(),
        position_ids=(mask.cumsum(-1) - 1)[:, longest:].clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return out.last_hidden_state[:, -1].repeat_interleave(k, 0), states, answer_mask


_exact: WeakKeyDictionary[PreTrainedModel, tuple[bool, bool]] = WeakKeyDictionary()


def _splits_exactly(model: PreTrainedModel) -> bool:
    """Return whether two parts with a cache give the same states as one pass. It is tried out once for each model."""
    now = was_adapted(model)
    tried, found = _exact.get(model, (None, False))
    if tried != now:
        found = _try_split(model)
        _exact[model] = now, found
    return found


def decide_split(model: PreTrainedModel, exact: bool) -> None:
    """Say whether two parts with a cache may be taken for a model, so that it is not tried out."""
    _exact[model] = was_adapted(model), exact


@torch.no_grad()
def _try_split(model: Any) -> bool:
    training = model.training
    model.eval()
    try:
        ids = torch.arange(12, device=model.device).view(2, 6) % model.get_input_embeddings().weight.shape[0]
        ids[1, :3] = ids[0, :3]
        mask = torch.ones_like(ids, dtype=torch.bool)
        rows = ListRows(ids, mask, torch.arange(6, device=ids.device)[None].expand(2, 6) >= 3, k=2)
        whole = model.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state[:, -1]
        _, parts, _ = _forward_in_two_parts(model, rows, torch.tensor([3], device=ids.device))
        return torch.allclose(parts[:, -1].float(), whole.float(), rtol=1e-3, atol=1e-4)
    except (TypeError, AttributeError, RuntimeError, ValueError):
        return False
    finally:
        model.train(training)
