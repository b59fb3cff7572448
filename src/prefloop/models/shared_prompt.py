"""Lists of answers to one prompt: the prompt is read once, and its keys and values serve every answer.

With prompts as long as the answers, a list of four costs five eighths. Results are those of reading every row alone, up
to rounding; rows that share nothing, and models that don't allow it, are left to the caller.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prefloop.batch import ListRows, Rows


def last_answer_states(model: PreTrainedModel, rows: Rows) -> Tensor | None:
    """The body's hidden state at the last token of each row [N,H]; none where the prompts can't be shared.

    A row without any answer token (a place in a short list) gives a state that means nothing, but is finite.
    """
    read = _shared(model, rows)
    if read is None:
        return None
    _, states, mask = read
    return states[torch.arange(len(states), device=states.device), (mask.sum(-1) - 1).clamp(min=0)]


def predicting_states(model: PreTrainedModel, rows: Rows) -> Tensor | None:
    """The state before each action token, in row-major order [M,H]; none where the prompts can't be shared."""
    read = _shared(model, rows)
    if read is None:
        return None
    prompt, states, mask = read
    return torch.cat([prompt[:, None], states[:, :-1]], dim=1)[mask]


def _shared(model: PreTrainedModel, rows: Rows) -> tuple[Tensor, Tensor, Tensor] | None:
    if not isinstance(rows, ListRows) or not _allows(model):
        return None
    cut = _prompt_lengths(rows)
    return None if cut is None else _read(model, rows, cut)


def _prompt_lengths(rows: ListRows) -> Tensor | None:
    """Tokens of the prompt that the rows of each list share [R]; none unless every list shares all of its prompt."""
    if rows.k < 2 or len(rows) % rows.k:
        return None
    shape = (-1, rows.k, rows.ids.shape[1])
    prompt, ids = (rows.mask & ~rows.action).view(shape), rows.ids.view(shape)
    lengths, present = prompt.sum(-1), rows.mask.view(shape).any(-1)
    first = lengths[:, :1]
    same_length = (lengths == first) | ~present
    same_ids = ((ids == ids[:, :1]) | ~prompt).all(-1)
    after = torch.arange(shape[2], device=ids.device) >= first[..., None]
    in_two = (rows.action.view(shape) == (rows.mask.view(shape) & after)).all()  # first the prompt, then the answer
    if int(first.min()) < 1 or not bool(in_two & rows.mask[:: rows.k, 0].all() & (same_length & same_ids).all()):
        return None
    return first[:, 0]


def _read(model: Any, rows: ListRows, cut: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The state at the prompt's end for each row [N,H]; the answers' states [N,A,H] and which are real [N,A]."""
    k, width = rows.k, rows.ids.shape[1]
    device = rows.ids.device
    ids, total = rows.ids.view(-1, k, width), rows.mask.view(-1, k, width).sum(-1)
    # prompts end in the last column, so that every answer starts in the next one
    longest = int(cut.max())
    at = torch.arange(longest, device=device)[None] - (longest - cut)[:, None]
    prompt_mask = at >= 0
    prompt_ids = torch.where(prompt_mask, ids[:, 0].gather(1, at.clamp(min=0)), 0)
    answers = max(1, int((total - cut[:, None]).max()))
    place = cut[:, None, None] + torch.arange(answers, device=device)
    answer_mask = (place < total[..., None]).flatten(0, 1)
    answer_ids = torch.where(answer_mask, ids.gather(2, place.clamp(max=width - 1).expand(-1, k, -1)).flatten(0, 1), 0)

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


_allowed: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def _allows(model: PreTrainedModel) -> bool:
    """Whether reading in two parts gives what reading in one does. Tried out once a model, not looked up."""
    if model not in _allowed:
        _allowed[model] = _try(model)
    return _allowed[model]


@torch.no_grad()
def _try(model: Any) -> bool:
    training = model.training
    model.eval()
    try:
        ids = torch.arange(12, device=model.device).view(2, 6) % model.get_input_embeddings().weight.shape[0]
        ids[1, :3] = ids[0, :3]
        mask = torch.ones_like(ids, dtype=torch.bool)
        rows = ListRows(ids, mask, torch.arange(6, device=ids.device)[None].expand(2, 6) >= 3, k=2)
        whole = model.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state[:, -1]
        _, parts, _ = _read(model, rows, torch.tensor([3], device=ids.device))
        return torch.allclose(parts[:, -1].float(), whole.float(), rtol=1e-3, atol=1e-4)
    except (TypeError, AttributeError, RuntimeError, ValueError):
        return False
    finally:
        model.train(training)
