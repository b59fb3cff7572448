"""Is a fixed, an adaptive or a calibrated price on the KL right, where true quality turns over with distance?

    python benchmarks/kl_control.py --json benchmarks/results/kl-control.json --plot docs/images/kl-control.svg

The world is planted. An answer is 12 tokens of a vocabulary of 12, to one of 8 kinds of prompts, and the policy is a
table of probabilities. Each token is worth something to the customer, and the reward model knows that worth with an
error. One token is a courtesy: the reward model likes each one as much as the first, while the customer has had enough
after a few. So the reward rises for ever, and true quality rises and turns over. RLOO, the learner, the calibration and
the controller are the package's own. The judge is the true quality of sampled answers to 128 prompts with noise of the
size of the reference's own spread (sd 1 each answer), as from one person; it is never learnt from.

Every run has 200 steps of 16 prompts with 4 answers, and 40 evaluations. True quality is computed exactly from the
table, as the gain over the reference; so is what the best fixed coefficient of a grid reaches, by hindsight, at its
last step (final) and at the step that the judge would keep (kept).

    fixed       kl stays
    adaptive    Ziegler's controller with a target of 6 nats and a horizon of 10,000 sequences, and one of 640
    calibrated  the target follows from the judge; the judge keeps the step
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prefloop.algorithms.registry import make
from prefloop.batch import LogprobBatch, PolicyOutput, Rows
from prefloop.config_section import Optimiser
from prefloop.engine.base import Term
from prefloop.engine.learner import Learner
from prefloop.training.kl_calibration import KlCalibration, lower_end

KINDS, TOKENS, LENGTH = 8, 12, 12
COURTESY = TOKENS - 1
STARTS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
GRID = (0.001, 0.003, 0.01, 0.03, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 1.0)
STEPS, EVERY, PROMPTS, K, JUDGED = 200, 5, 16, 4, 128
BUDGET = 25.0  # nats, the default of [align.evaluation] kl_budget
Array = NDArray[np.float64]


class Table(nn.Module):
    """A policy that draws each token of an answer from the probabilities of the prompt's kind."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, rows: Rows) -> PolicyOutput:
        logp = torch.log_softmax(self.logits, -1)
        return PolicyOutput(torch.where(rows.action, logp[rows.ids[:, :1], rows.ids], 0.0))


class World:
    """What tokens are worth to the customer and to the reward model, in sds of the reference's answers."""

    def __init__(self, seed: int):
        rng = np.random.default_rng([seed, 77])
        logits = 0.3 * rng.normal(size=(KINDS, TOKENS))
        logits[:, COURTESY] = 0.0
        self.reference = torch.tensor(logits, dtype=torch.float32)
        self.before = _softmax(logits)
        worth, error = rng.normal(size=(2, KINDS, TOKENS))
        worth[:, COURTESY] = error[:, COURTESY] = 0.0
        self.worth, self.liked = self._normal(worth), self._normal(worth + 0.3 * error)
        self.worth[:, COURTESY] = self.liked[:, COURTESY] = 0.6
        self.too_many = 0.6 / (0.5 * LENGTH)  # a courtesy's worth is spent at a quarter of the tokens

    def _normal(self, x: Array) -> Array:
        x = x - (self.before * x).sum(1, keepdims=True)
        found: Array = x / math.sqrt((self.before * x * x).sum(1).mean() * LENGTH)
        return found

    def quality(self, policy: Table) -> tuple[float, float]:
        """Return the exact mean gain in true quality, and the exact KL in nats an answer."""
        p = _softmax(policy.logits.detach().double().numpy())
        gain = LENGTH * ((p - self.before) * self.worth).sum(1) - self.too_many * (_squares(p) - _squares(self.before))
        kl = LENGTH * (p * np.log(np.maximum(p, 1e-300) / self.before)).sum(1)
        return float(gain.mean()), float(kl.mean())

    def sample(self, policy: Table, kinds: Tensor, generator: torch.Generator) -> Rows:
        p = torch.softmax(policy.logits.detach(), -1)[kinds]
        ids = torch.cat([kinds[:, None], torch.multinomial(p, LENGTH, True, generator=generator)], 1)
        action = torch.ones_like(ids, dtype=torch.bool)
        action[:, 0] = False
        return Rows(ids, torch.ones_like(action), action)

    def rollout(self, policy: Table, reference: Table, generator: torch.Generator) -> LogprobBatch:
        kinds = torch.randint(0, KINDS, (PROMPTS,), generator=generator).repeat_interleave(K)
        rows = self.sample(policy, kinds, generator)
        with torch.no_grad():
            logp, ref = policy(rows).logp, reference(rows).logp
        reward = torch.tensor(self.liked, dtype=torch.float32)[kinds[:, None], rows.ids[:, 1:]].sum(1)
        ended, group = torch.ones(len(kinds), dtype=torch.bool), torch.arange(PROMPTS).repeat_interleave(K)
        said = {"sampler_logp": logp, "old_logp": logp, "ref_logp": ref, "value": None}
        return LogprobBatch(**vars(rows), reward=reward, group=group, ended=ended, **said)

    def judge(self, policy: Table, reference: Table, generator: torch.Generator) -> tuple[Array, Array]:
        """Return each answer's KL by k1, and what the judge says of it, with noise."""
        kinds = torch.arange(JUDGED) % KINDS
        rows = self.sample(policy, kinds, generator)
        with torch.no_grad():
            kl = (policy(rows).logp - reference(rows).logp).sum(1)
        tokens = rows.ids[:, 1:].numpy()
        many = (tokens == COURTESY).sum(1)
        said = self.worth[kinds.numpy()[:, None], tokens].sum(1) - self.too_many * many * many
        return kl.double().numpy(), said + torch.randn(JUDGED, generator=generator).double().numpy()


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(1, keepdims=True))
    found: Array = e / e.sum(1, keepdims=True)
    return found


def _squares(p: Array) -> Array:
    """Return the mean squared number of courtesies."""
    one = p[:, COURTESY]
    found: Array = LENGTH * one * (1 - one) + (LENGTH * one) ** 2
    return found


@dataclass(frozen=True)
class Went:
    """A run: true gain and KL at each evaluation, its coefficients, and which evaluation the judge keeps."""

    gain: list[float]
    kl: list[float]
    coefficient: list[float]
    kept: int

    def figures(self) -> dict[str, float]:
        return {
            "final": self.gain[-1],
            "kept": self.gain[self.kept],
            "kept kl": self.kl[self.kept],
            "final kl": self.kl[-1],
            "coefficient": self.coefficient[-1],
        }


def run(seed: int, options: dict[str, float], calibrated: bool = False) -> Went:
    world, algorithm = World(seed), make("rloo", options)
    policy, reference = Table(world.reference), Table(world.reference)
    settings = Optimiser(lr=0.05, warmup=0.0, schedule="constant", clip_norm=1.0, token_budget=10**6)
    learner = Learner({"policy": policy}, settings, 2 * STEPS, {"policy": 0.05})
    drawn, judging = (torch.Generator().manual_seed(1000 * seed + n) for n in (1, 2))
    calibration = KlCalibration.starting(algorithm.kl, BUDGET, 1e-4, 10.0)
    _, before = world.judge(policy, reference, judging)
    gains, kls, coefficients, lows = [0.0], [0.0], [algorithm.kl], [0.0]
    for step in range(1, STEPS + 1):
        batch = world.rollout(policy, reference, drawn)
        credited, _ = algorithm.credit(batch)
        for part in torch.randperm(PROMPTS, generator=drawn).chunk(2):
            index = (part[:, None] * K + torch.arange(K)).flatten()
            learner.step(Term(credited.select(index), algorithm))
        kl = float((batch.old_logp - batch.ref_logp).sum() / len(batch))
        if calibrated:
            calibration = calibration.steer(kl)
            algorithm = replace(algorithm, kl=calibration.coefficient)
        else:
            algorithm = algorithm.adapt({"kl": kl, "sequences": float(len(batch))})
        if step % EVERY == 0:
            away, said = world.judge(policy, reference, judging)
            if calibrated:
                calibration = calibration.look(step, away.tolist(), (said - before).tolist(), seed)
            gain, exact = world.quality(policy)
            gains.append(gain)
            kls.append(exact)
            coefficients.append(algorithm.kl)
            lows.append(lower_end((said - before).tolist()))
    return Went(gains, kls, coefficients, int(np.argmax(lows)))


METHODS: dict[str, tuple[dict[str, float], bool]] = {  # options beside kl, and whether the judge steers
    "adaptive, horizon 10000": ({"kl_target": 6.0}, False),
    "adaptive, horizon 640": ({"kl_target": 6.0, "kl_horizon": 640.0}, False),
    "calibrated": ({}, True),
}


def measured(seed: int) -> dict[str, Any]:
    """Return the figures of every run of a seed: {"fixed": {coefficient: figures}, method: {start: figures}}."""
    found: dict[str, Any] = {"fixed": {str(kl): run(seed, {"kl": kl}).figures() for kl in GRID}}
    for name, (options, calibrated) in METHODS.items():
        found[name] = {str(kl): run(seed, {"kl": kl, **options}, calibrated).figures() for kl in STARTS}
    return found


def shares(seeds: dict[str, Any], name: str, what: str, best: str) -> Array:
    """Return [seeds, starts]: a figure of a method over the best that a fixed coefficient has by hindsight."""
    found = []
    for one in seeds.values():
        hindsight = max(figures[best] for figures in one["fixed"].values())
        starts = one[name] if name != "fixed" else {str(kl): one["fixed"][str(kl)] for kl in STARTS}
        found.append([figures[what] / hindsight for figures in starts.values()])
    return np.array(found)


def table(seeds: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name in ("fixed", *METHODS):
        for what, best in (("final", "final"), ("kept", "final"), ("kept", "kept")):
            part = shares(seeds, name, what, best)
            row = {"method": name, "quality": what, "of the best": best, "mean": float(part.mean())}
            rows.append({**row, "worst": float(part.min()), "by start": [float(x) for x in part.min(0)]})
    return rows


def draw(seeds: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4), layout="constrained")
    place: Any = figure.subplots()
    hindsight = {s: max(f["final"] for f in one["fixed"].values()) for s, one in seeds.items()}
    for what, style in (("final", "-"), ("kept", ":")):
        mean = [np.mean([one["fixed"][str(kl)][what] / hindsight[s] for s, one in seeds.items()]) for kl in GRID]
        place.plot(GRID, mean, style, color="#c0392b", label=f"fixed, {what} policy")
    for name, colour in (("adaptive, horizon 640", "#888888"), ("calibrated", "#3b6ea5")):
        part = shares(seeds, name, "kept", "final")
        place.plot(STARTS, part.mean(0), "-", color=colour, label=f"{name}, kept policy (band: least to most)")
        place.fill_between(STARTS, part.min(0), part.max(0), color=colour, alpha=0.2, linewidth=0)
    place.axhline(0.95, color="black", linewidth=0.8, linestyle="--")
    place.set_xscale("log")
    place.set_ylim(-0.5, 1.4)
    place.set_xlabel("KL coefficient at the start of the run")
    place.set_ylabel("true gain, as a share of the best fixed")
    place.legend(fontsize=8, frameon=False)
    for side in ("top", "right"):
        place.spines[side].set_visible(False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    seeds: dict[str, Any] = {}
    for seed in range(asked.first, asked.first + asked.seeds):
        began = time.perf_counter()
        seeds[str(seed)] = measured(seed)
        print(f"seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
        if asked.json:
            asked.json.write_text(json.dumps({"seeds": seeds, "table": table(seeds)}, indent=1) + "\n")
    print(f"{'':26}{'quality':>8}{'of the best':>13}{'mean':>7}{'worst':>7}   worst by start {STARTS}")
    for row in table(seeds):
        starts = " ".join(f"{x:6.2f}" for x in row["by start"])
        named = f"{row['method']:26}{row['quality']:>8}{row['of the best']:>13}"
        print(f"{named}{row['mean']:7.2f}{row['worst']:7.2f}   {starts}")
    if asked.plot:
        draw(seeds, asked.plot)


if __name__ == "__main__":
    main()
