"""Samples from a causal language model, in process.

Randomness is counter-based: the uniform number behind each token is a hash of (seed, key, position). A sample therefore
depends on its own key, never on who shares its batch (beyond rounding), and nothing has to be saved to resume.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from prefloop.engine.base import Sampled, Sampling
from prefloop.engine.decoding.room import rows_that_fit
from prefloop.engine.decoding.select import decoder_for
from prefloop.kernels import gpu, native

REFILL = 1 / 8  # Once this share of a batch is free, waiting prompts are read into it.

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seed: int, keys: np.ndarray, position: int | np.ndarray) -> np.ndarray:
    """Return numbers in (0, 1), one a key: SplitMix64 (Steele 2014) over seed, key and position. keys: [N] uint64."""
    with np.errstate(over="ignore"):
        x = _mix(np.uint64(seed) * _GOLDEN + keys)
        x = _mix(x + (np.asarray(position).astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return ((x >> np.uint64(11)).astype(np.float64) + 0.5) / float(1 << 53)


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def choose(logits: Tensor, u: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Draw tokens by inverse CDF, and return their log-probability under the processed distribution.

    logits: [N,V];  u: [N] in (0,1), float64;  temperature 0 takes the most likely token
    returns: token [N], logp [N] float32
    """
    if temperature == 0:
        logp = torch.log_softmax(logits.float(), dim=-1)
        token = logp.argmax(-1)
        return token, logp.gather(1, token[:, None]).squeeze(1)
    if top_p == 1.0 and native.fits(logits):
        return native.draw(logits, u, temperature)
    if top_p == 1.0 and gpu.fits(logits):
        return gpu.draw(logits, u, temperature)
    logits = logits.float() if temperature == 1 else logits.float() / temperature
    p = torch.softmax(logits, dim=-1)
    if top_p < 1.0:
        p = _nucleus(p, top_p)
    token = _draw(p, u)
    return token, p.gather(1, token[:, None]).squeeze(1).log()


def _draw(p: Tensor, u: Tensor) -> Tensor:
    """Return the token in whose share of the summed probabilities [N,V] the place u [N] lies.

    The block is found first, and then the token in it. Only the sums of blocks, and the tokens of one block, are added
    up in double precision.
    """
    rows, vocabulary = p.shape
    block = 1 << (vocabulary.bit_length() // 2)
    if vocabulary % block:
        p = F.pad(p, (0, block - vocabulary % block))
    blocks = p.view(rows, -1, block)
    ends = blocks.sum(-1).double().cumsum(-1)
    place = u * ends[:, -1]
    chosen = torch.searchsorted(ends, place[:, None]).clamp_(max=ends.shape[1] - 1)
    start = torch.where(chosen > 0, ends.gather(1, (chosen - 1).clamp(min=0)), 0.0)
    inner = blocks[torch.arange(rows, device=p.device), chosen.squeeze(1)].double().cumsum(-1)  # [N,block]
    # Rounding must not lead to a token of no probability, before the first or after the last that has some.
    rest = (place[:, None] - start).clamp(min=torch.finfo(torch.float64).tiny).minimum(inner[:, -1:])
    found = chosen.squeeze(1) * block + torch.searchsorted(inner, rest).squeeze(1)
    return found.clamp_(max=vocabulary - 1)  # If p is NaN, whoever reads the log-probability will see it.


def _nucleus(p: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of tokens whose probability reaches top_p (Holtzman 2019), renormalised."""
    ordered, index = p.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    kept = torch.zeros_like(p).scatter(1, index, ordered.masked_fill(before >= top_p, 0.0))
    return kept / kept.sum(-1, keepdim=True)


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    stop_ids: Sequence[int],
    prompts: Sequence[Sequence[int]],
    keys: Sequence[int],
    sampling: Sampling,
    seed: int,
) -> list[Sampled]:
    """Return one completion for each prompt (repeat a prompt, with other keys, for several).

    At most `sampling.batch` grow at a time, and fewer where memory is short. Where the decoder allows it, those that
    end make room for others at once.
    """
    longest = max(map(len, prompts), default=0) + sampling.max_tokens
    batch = rows_that_fit(model, min(sampling.batch, len(prompts)), longest)
    decoder = decoder_for(model, batch, sampling.max_tokens, longest)
    board = _Board(keys, sampling, seed, stop_ids, batch, model.device)
    grow = decoder.record(lambda: board.draw(decoder.step(board.last[: board.working], board.done[: board.working])))
    waiting = _by_prompt(prompts)
    while waiting or board.working:
        room = batch - board.working
        if waiting and (not board.working or (decoder.refills and room >= REFILL * batch)):
            texts, rows = _next(waiting, room, prompts)
            logits = decoder.add(texts, [len(r) for r in rows])
            board.draw(logits, board.join([row for some in rows for row in some]))
        else:
            for _ in range(decoder.patience):
                grow()
        left = board.left()
        enough = decoder.dense * board.working if not waiting else board.working - REFILL * batch
        if left <= max(0, enough):
            decoder.keep(board.leave(left))
    return board.results()


class _Board:
    """Holds what has been drawn so far, and for which rows the decoder is working."""

    def __init__(
        self,
        keys: Sequence[int],
        sampling: Sampling,
        seed: int,
        stop_ids: Sequence[int],
        batch: int,
        device: torch.device,
    ):
        self.sampling, self.seed, self.device = sampling, seed, device
        self.keys = np.array([k & 0xFFFFFFFFFFFFFFFF for k in keys], dtype=np.uint64)
        self.stops = torch.tensor(list(stop_ids) or [-1], device=device)
        self.wide = sampling.max_tokens + 1  # The last column is for what rows draw after their end.
        self.ids = torch.zeros(len(keys) * self.wide, dtype=torch.long, device=device)
        self.logp = torch.zeros(len(keys) * self.wide, device=device)
        self.length = torch.zeros(len(keys), dtype=torch.long, device=device)
        # These are of the rows at work, in the decoder's order [batch]; they stay where they are in memory, as `record`
        # needs it.
        self.working = 0
        self.at = torch.zeros(batch, dtype=torch.long, device=device)  # where its next token goes
        self.last = torch.zeros(batch, dtype=torch.long, device=device)  # its last token
        self.done = torch.zeros(batch, dtype=torch.bool, device=device)
        # the uniform numbers of all their tokens
        self.u = torch.zeros(batch, sampling.max_tokens, dtype=torch.float64, device=device)

    def draw(self, logits: Tensor, first: int = 0) -> None:
        """Draw one more token for every row from `first` on; logits [n,V]."""
        some = slice(first, self.working)
        at, done = self.at[some], self.done[some]
        time = at % self.wide
        u = self.u[some].gather(1, time[:, None].clamp(max=self.sampling.max_tokens - 1)).squeeze(1)
        token, logp = choose(logits, u, self.sampling.temperature, self.sampling.top_p)
        self.ids[at], self.logp[at] = token, logp  # Rows that have ended stay one place beyond their end.
        at += ~done
        stopped = token == self.stops if len(self.stops) == 1 else torch.isin(token, self.stops)
        done |= stopped
        done |= time >= self.sampling.max_tokens - 1
        self.last[some] = token

    def left(self) -> int:
        """Return how many rows have not ended."""
        return self.working - int(self.done[: self.working].sum())

    def join(self, rows: Sequence[int]) -> int:
        """Let these rows start; return the place of the first."""
        first, some = self.working, np.array(rows)
        self.working += len(rows)
        new = slice(first, self.working)
        u = uniforms(self.seed, self.keys[some][:, None], np.arange(self.sampling.max_tokens)[None])
        self.u[new] = torch.from_numpy(u).to(self.device)
        self.at[new] = torch.from_numpy(some * self.wide).to(self.device)
        self.done[new] = False
        return first

    def leave(self, left: int) -> Tensor:
        """Remove rows that have ended; the last ones take their places. Return who stands where now."""
        done = self.done[: self.working]
        gone = done.nonzero().squeeze(1)
        self._note(gone)
        index = torch.arange(left, device=self.device)
        free = gone[gone < left]
        index[free] = (~done[left:]).nonzero().squeeze(1) + left
        for column in (self.at, self.done, self.last, self.u):
            column[:left] = column[index]
        self.working = left
        return index

    def _note(self, rows: Tensor) -> None:
        """Note how many tokens these places have drawn."""
        row = (self.at[rows] - 1) // self.wide
        self.length[row] = self.at[rows] - row * self.wide

    def results(self) -> list[Sampled]:
        drawn, logp = self.ids.view(-1, self.wide), self.logp.view(-1, self.wide)
        last = drawn.gather(1, (self.length - 1).clamp(min=0)[:, None])[:, 0]
        ended = torch.isin(last, self.stops).tolist()
        rows = zip(drawn.tolist(), logp.tolist(), self.length.tolist(), ended, strict=True)
        return [Sampled(tuple(ids[:n]), tuple(logp[:n]), end) for ids, logp, n, end in rows]


def _by_prompt(prompts: Sequence[Sequence[int]]) -> deque[list[int]]:
    """Return the rows of each prompt together, with prompts of like length next to each other for less padding."""
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(tuple(prompt), []).append(row)
    return deque(sorted(rows.values(), key=lambda some: len(prompts[some[0]])))


def _next(
    waiting: deque[list[int]], room: int, prompts: Sequence[Sequence[int]]
) -> tuple[list[Sequence[int]], list[list[int]]]:
    """Return prompts, and the rows of each, that fit into the room."""
    rows: list[list[int]] = []
    while waiting and room:
        some = waiting.popleft()
        rows.append(some[:room])
        room -= len(rows[-1])
        if len(some) > len(rows[-1]):
            waiting.appendleft(some[len(rows[-1]) :])
    return [prompts[some[0]] for some in rows], rows
