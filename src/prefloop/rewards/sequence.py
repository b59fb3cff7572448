"""Joins a prompt and an answer into one sequence of ids, and cuts it to the length that a model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefloop.models.tokenization import Tokenization
from prefloop.types import Completion, Prompt


@dataclass(frozen=True)
class Joined:
    """Holds a joined sequence.

    ids:       the ids of the prompt, then those of the answer
    prompt:    how many of them belong to the prompt
    lost:      how many ids of the answer were cut off
    shortened: how many ids of the prompt were cut off
    assistant: which ids of the answer the assistant itself wrote; () if it wrote all of them
    """

    ids: list[int]
    prompt: int
    lost: int = 0
    shortened: int = 0
    assistant: tuple[bool, ...] = ()

    @property
    def answer(self) -> list[int]:
        return self.ids[self.prompt :]


def join(
    tokenization: Tokenization,
    prompt_ids: Sequence[int],
    answer: Sequence[int],
    max_tokens: int | None = None,
    assistant: Sequence[bool] = (),
) -> Joined:
    """Return prompt and answer in at most `max_tokens` ids, and in at most the model's context.

    A sequence that is too long loses the *beginning of its prompt's text*, because the answer is what is scored. The
    ids before that text (BOS, the head of a chat's first turn) stay, since the model was trained with them. An answer
    that is too long by itself loses its end.

    assistant: which ids of the answer the assistant itself wrote; () if it wrote all of them
    """
    limit = reads(tokenization, max_tokens)
    room = max(1, limit - len(answer))
    kept = list(prompt_ids)
    if len(kept) > room:
        head = tokenization.head_of(kept)
        head = head if head < room else min(room, int(kept[0] == tokenization.tokenizer.bos_token_id))
        kept = kept[:head] + kept[len(kept) - (room - head) :]
    ids = [*kept, *answer][:limit]
    lost, shortened = len(kept) + len(answer) - len(ids), len(prompt_ids) - len(kept)
    return Joined(ids, len(kept), lost, shortened, tuple(assistant)[: len(ids) - len(kept)])


def join_completion(
    tokenization: Tokenization, prompt: Prompt, completion: Completion, max_tokens: int | None = None
) -> Joined:
    """Return the joined sequence of two texts. Sampled ids are used as they are if this tokenizer made them."""
    prompt_ids = tokenization.encode_prompt(prompt)
    return join(tokenization, prompt_ids, tokenization.completion_ids(prompt, prompt_ids, completion), max_tokens)


def join_learnt(tokenization: Tokenization, prompt: Prompt, completion: Completion) -> Joined:
    """Return the joined sequence of two texts, with which ids a policy learns from: those that the assistant wrote."""
    prompt_ids = tokenization.encode_prompt(prompt)
    answer = tokenization.completion_ids(prompt, prompt_ids, completion)
    mask = tokenization.assistant_mask(prompt, prompt_ids, completion, answer)
    return join(tokenization, prompt_ids, answer, assistant=mask)


def encode(
    tokenization: Tokenization, prompt: Prompt, completion: Completion, max_tokens: int | None = None
) -> tuple[list[int], int]:
    """Return the ids of prompt and completion, and how many of them belong to the prompt."""
    joined = join_completion(tokenization, prompt, completion, max_tokens)
    return joined.ids, joined.prompt


def reads(tokenization: Tokenization, max_tokens: int | None) -> int:
    """Return the length of the longest sequence in tokens: `max_tokens`, or the model's context if that is shorter."""
    return min(tokenization.context, max_tokens or tokenization.context)
