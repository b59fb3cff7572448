"""Compares samples with what the trainer says of them, or the server itself where the trainer has learnt since.

The canary shows what a server holds. This shows what it sampled with, and that answers are at their prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby

import torch
from torch import Tensor

from prefloop.engine.base import Engine, Sampled
from prefloop.engine.rollouts.canary import Canary
from prefloop.engine.rollouts.dialect import Dialect, Job, Ours
from prefloop.engine.rollouts.http import Address, Fault, Stale

COMPARED, COMPARED_TOKENS = 8, 2048  # So many samples of each server's part, with their prompts, at each call.
REDRAWN, AS_CLOSE = 8, 1e-5  # tokens that the trainer draws anew; where the server's canary was so close, in nats
BY_ROUNDING = 0.02  # So many of the tokens may be others than bfloat16 finds most likely, or in the nucleus.
CHANCE = 30.0  # nats; what is less likely than exp(-30) does not happen


@dataclass(frozen=True)
class Picked:
    """Holds some samples of a job. places: where they are in it"""

    job: Job
    made: Sequence[Sampled]
    places: Sequence[int]

    @classmethod
    def of(cls, job: Job, made: Sequence[Sampled]) -> Picked:
        """Pick samples all over the job. The keys say which is the first, so that all places have their turn."""
        apart = -(-len(made) // COMPARED)
        spread = range(sum(job.keys) % apart, len(made), apart)
        tokens = accumulate(len(job.prompts[n]) + len(made[n].ids) for n in spread)
        fit = (n for n, total in zip(spread, tokens, strict=True) if n == spread[0] or total <= COMPARED_TOKENS)
        return cls(job, made, list(fit))

    def given(self) -> Canary:
        """Return prompts and answers as texts whose log-probabilities can be asked for."""
        rows = [[*self.job.prompts[n], *self.made[n].ids] for n in self.places]
        return Canary(rows, [len(self.job.prompts[n]) for n in self.places])

    def said(self) -> Tensor:
        return torch.tensor([x for n in self.places for x in self.made[n].logprobs], dtype=torch.float64)

    def outside(self, low: Tensor, high: Tensor) -> float:
        """Return how far what was said of a token is outside of its bounds [M], on average, in nats."""
        said = self.said()
        off = (low.double() - said).clamp(min=0).add((said - high.double()).clamp(min=0))
        return float(off[low.isfinite()].mean()) if low.isfinite().any() else math.inf


def by_trainer(engine: Engine, dialect: Dialect, exact: bool, job: Job, made: Sequence[Sampled]) -> float:
    """Return how far the log-probabilities of some samples are from the trainer's, a token on average.

    exact: whether server and trainer differ by rounding of float32 alone

    Raises Fault where tokens may not be drawn at the job's temperature and top-p. By coarser rounding some may.
    """
    picked, how = Picked.of(job, made), job.sampling
    rows = picked.given().as_rows()
    if plain := how.temperature > 0 and how.top_p == 1:
        low = high = engine.forward("policy", rows, temperature=how.temperature)
    else:
        low, high = engine.drawable(rows, how)
    if not plain and how.temperature and not dialect.renormalises:
        # It may say the log-probability in the whole distribution, too.
        low = low.minimum(engine.forward("policy", rows, temperature=how.temperature)).masked_fill(
            low.isinf(), math.inf
        )
    low, high = low[rows.action], high[rows.action]
    wrong = int(low.isinf().sum())
    if wrong > (0 if exact else max(1, BY_ROUNDING * len(low))):
        raise Fault(
            f"temperature {how.temperature:g} and top_p {how.top_p:g} do not allow {wrong} of the {len(low)} tokens "
            "that the trainer looked at: it did not draw by them, or with other weights, or for other prompts"
        )
    return picked.outside(low, high)


def by_server(dialect: Dialect, server: Address, ours: Ours, bound: float, job: Job, made: Sequence[Sampled]) -> float:
    """Return how far the log-probabilities of some samples are from what the server says of them as given texts.

    The canary is among these texts: it shows that the server says so by the job's version, which the trainer has no
    longer.  bound: how far the canary may be off
    """
    picked, canary, wanted = Picked.of(job, made), job.canary, job.sampling.temperature or 1.0
    given, at = picked.given(), wanted if dialect.any_temperature else 1.0
    texts, fixed = canary, len(canary.rows)
    if at == 1:
        texts = Canary([*canary.rows, *given.rows], [*canary.prompts, *given.prompts])
    found = dialect.logprobs(server, texts, job.version)
    if (apart := canary.apart(found[:fixed])) > bound:
        raise Stale(
            f"it no longer holds version {job.version.name}: its log-probabilities of the canary's texts now differ "
            f"from the trainer's by {apart:.2g} nats a token on average"
        )
    scored = found[fixed:] if at == 1 else dialect.logprobs(server, given, job.version, at)
    if [len(row) for row in scored] != [len(r) - p for r, p in zip(given.rows, given.prompts, strict=True)]:
        raise Fault("it says the log-probabilities of other tokens than it was given")
    logp = torch.tensor([x for row in scored for x in row], dtype=torch.float64)
    if not logp.isfinite().all():
        raise Fault("some log-probabilities of texts that it was given are not finite")
    low, high = at_temperature(logp, wanted / at, ours.vocabulary)
    return picked.outside(low, high - math.log(job.sampling.top_p) if job.sampling.temperature else high)


def at_temperature(logp: Tensor, temperature: float, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Return between which numbers log-probabilities at temperature 1 are at another, whatever the other tokens' are.

    Of log sum p^(1/T) no more is known than that it lies between 0, which one certain token gives, and (1 - 1/T) log V,
    which equal ones give.
    """
    scaled, most = logp / temperature, (1 - 1 / temperature) * math.log(vocabulary)
    return scaled - max(0.0, most), (scaled - min(0.0, most)).clamp(max=0)


def check(found: float, bound: float) -> float:
    """Return how far samples are off, in nats a token. Raises Fault where it is further than the bound."""
    if not found <= bound:
        raise Fault(
            f"the log-probabilities of its samples differ from the trainer's by {found:.2g} nats a token on average, "
            f"more than {bound:.2g}, though those of the canary did not: they are of other weights, of another "
            "temperature, or of other prompts"
        )
    return found


def check_draws(engine: Engine, job: Job, made: Sequence[Sampled]) -> None:
    """Raise Fault where a server of our own drew with other keys: the trainer draws the first tokens of some anew.

    A token may come out otherwise by rounding, seldom.
    """
    picked = Picked.of(job, made)
    how = replace(job.sampling, max_tokens=min(REDRAWN, job.sampling.max_tokens))
    again = engine.generate([job.prompts[n] for n in picked.places], [job.keys[n] for n in picked.places], how)
    other = sum(a.ids != made[n].ids[: len(a.ids)] for a, n in zip(again, picked.places, strict=True))
    if other > max(1, len(again) // 4):
        raise Fault(f"{other} of {len(again)} samples are not what their keys give: it drew with other keys, or copied")


def check_copies(job: Job, made: Sequence[Sampled]) -> None:
    """Raise Fault where a server gave one sample as all answers to a prompt, again and again, and chance does not.

    k answers that are drawn on their own are all the same one with its probability to the power of k; copies of one
    are, with its probability. This is a bet on copies, of half of what there is at each prompt: it multiplies what is
    there by exp(30) with a chance of exp(-30), if nothing is copied.
    """
    if job.sampling.temperature == 0:
        return
    won = 0.0
    for _, group in groupby(range(len(made)), key=lambda n: tuple(job.prompts[n])):
        places = list(group)
        drawn, first = len({job.keys[n] for n in places}), made[places[0]]
        if drawn > 1:
            copied = all(made[n].ids == first.ids for n in places)
            odds = math.exp(min(700.0, (drawn - 1) * -sum(first.logprobs))) if copied else 0.0
            won += math.log((1 + odds) / 2)
    if won > CHANCE:
        raise Fault("it gave copies of one sample as all answers to a prompt")
