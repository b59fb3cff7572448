"""What a model's body says about a batch, where it is asked: at the ends of rows, or before each completion token.

Lists of answers to one prompt: the prompt is read once, and its keys and values serve every answer. With prompts as
long as the answers, a list of four costs five eighths. Results are those of reading every row alone, up to rounding.
Four ways, the first that the model and the rows allow: `compiled` (frozen models), `lean` (no padding computed),
transformers in two parts (the prompts, then the answers), transformers on the rows as they are.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prefloop.batch import ListRows, Rows
from prefloop.kernels.logprobs import predicting
from prefloop.models import compiled
from prefloop.models import packed as lean
from prefloop.models.compiled import is_compilable
from prefloop.models.packed import Block, is_lean
from prefloop.ops.masked import last_index

WORTH = 256  # tokens, from which on copying the weights for compiled code pays


def last_states(model: PreTrainedModel, rows: Rows) -> Tensor:
    """The body's hidden state at the last real token of each row [N,H], wherever the padding is.

    An empty row (a place in a short list) gives a state that means nothing, but is finite.
    """
    cut = _shared_prompts(rows)
    if is_lean(model, rows.ids.shape[1]) and _right_padded(rows):
        return _packed(model, rows, cut, ends=True)
    if cut is not None and _allows(model):
        _, answers, mask = _read(model, rows, cut)
        return answers[torch.arange(len(answers), device=answers.device), (mask.sum(-1) - 1).clamp(min=0)]
    states = body_states(model, rows)
    return states[torch.arange(len(states), device=states.device), last_index(rows.mask).clamp(min=0)]


def predicting_states(model: PreTrainedModel, rows: Rows, as_learner: bool = False) -> Tensor:
    """The state before each action token, in row-major order [M,H].

    as_learner: read a frozen model as one that learns is read, so that equal weights give equal bits.
    """
    cut = _shared_prompts(rows)
    if is_lean(model, rows.ids.shape[1]) and _right_padded(rows):
        return _packed(model, rows, cut, ends=False, as_learner=as_learner)
    if cut is not None and _allows(model):
        prompt, answers, mask = _read(model, rows, cut)
        return torch.cat([prompt[:, None], answers[:, :-1]], dim=1)[mask]
    return body_states(model, rows)[predicting(rows.action)]


def body_states(model: PreTrainedModel, rows: Rows) -> Tensor:
    """The last hidden states [N,T,H]; padding is never read."""
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
    """Tokens of the prompt that the rows of each list share [R]; none unless every list shares all of its prompt."""
    if not isinstance(rows, ListRows) or rows.k < 2 or len(rows) % rows.k:
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


def _packed(model: PreTrainedModel, rows: Rows, cut: Tensor | None, ends: bool, as_learner: bool = False) -> Tensor:
    """States at the last token of each row [N,H], or before each action token [M,H], with no padding computed."""
    frozen = not as_learner and _is_frozen(model)
    read = compiled.read if frozen and rows.mask.sum() >= WORTH and is_compilable(model) else lean.read
    if cut is None:
        last = (rows.mask.sum(-1).cumsum(0) - 1).clamp(min=0)
        wanted = last if ends else predicting(rows.action)[rows.mask].nonzero().squeeze(1)
        return read(model, wanted, Block(rows.ids, rows.mask, rows.positions))
    assert isinstance(rows, ListRows)
    prompts, answers = _in_two(rows, cut)
    counts = answers.mask.sum(-1)
    prompt_ends = (cut.cumsum(0) - 1).repeat_interleave(rows.k)
    starts = cut.sum() + counts.cumsum(0) - counts  # of each row, after the tokens of all prompts
    some = counts > 0
    if ends:
        return read(model, torch.where(some, starts + counts - 1, prompt_ends), prompts, answers)
    before = torch.arange(int(counts.sum()), device=cut.device) + cut.sum() - 1
    before[(starts - cut.sum())[some]] = prompt_ends[some]
    return read(model, before, prompts, answers)


def _is_frozen(model: PreTrainedModel) -> bool:
    """A model that learns is read as it learns: what its samples are compared with is the learner's own numbers."""
    return not torch.is_grad_enabled() and not any(p.requires_grad for p in model.parameters())


def _in_two(rows: ListRows, cut: Tensor) -> tuple[Block, Block]:
    """The prompt of each list, and each row's answer."""
    width, device = rows.ids.shape[1], rows.ids.device
    at = torch.arange(int(cut.max()), device=device)[None].expand(len(cut), -1)
    prompts = Block(rows.ids[:: rows.k, : at.shape[1]], at < cut[:, None], at)
    start = cut.repeat_interleave(rows.k)[:, None]
    total = rows.mask.sum(-1, keepdim=True)
    place = start + torch.arange(max(1, int((total - start).max())), device=device)
    return prompts, Block(rows.ids.gather(1, place.clamp(max=width - 1)), place < total, place)


def _read(model: Any, rows: Rows, cut: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The state at the prompt's end for each row [N,H]; the answers' states [N,A,H] and which are real [N,A]."""
    assert isinstance(rows, ListRows)
    k, device = rows.k, rows.ids.device
    prompts, answers = _in_two(rows, cut)
    answer_mask, answer_ids = answers.mask, torch.where(answers.mask, answers.ids, 0)
    # prompts end in the last column, so that every answer starts in the next one
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
