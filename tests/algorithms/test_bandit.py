"""Every way of optimising a policy ends at the same place: pi* = pi_ref exp(r / beta) / Z on a bandit of four arms.

The tests run real algorithm objects through the real learner. An episode is one token; a batch holds each arm in the
share that the policy gives it (systematic sampling), so that a batch is the expectation and only the optimiser is left
to be wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prefloop.algorithms.registry import make
from prefloop.batch import CreditedBatch, LogprobBatch, PolicyOutput, Rows
from prefloop.config_section import Optimiser
from prefloop.engine.base import Term
from prefloop.engine.learner import Learner
from prefloop.kernels.logprobs import scatter
from prefloop.models.value_head import ValueHead

REWARD = torch.tensor([1.0, 0.5, 0.0, -1.0])
BETA = 0.5
OPTIMUM = [0.657233, 0.241783, 0.088947, 0.012038]
N, STEPS = 256, 150


class Arms(nn.Module):
    """A policy without context, which is a softmax over four tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(4))

    def forward(self, rows: Rows) -> PolicyOutput:
        logp = torch.log_softmax(self.logits, 0)
        token = torch.where(rows.action, logp[rows.ids], 0.0)
        return PolicyOutput(token)

    def probabilities(self) -> Tensor:
        return torch.softmax(self.logits.detach(), 0)


class Baseline(nn.Module):
    """A critic without context, which is one number."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))

    def forward(self, rows: Rows) -> Tensor:
        return torch.where(rows.action, self.value, 0.0)


class HeadedArms(Arms):
    """The same policy, with a state (which is 1) that a value head can read in the same pass."""

    model: Any = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(hidden_size=1)))
    head = None

    def forward(self, rows: Rows, value_head: Callable[[Tensor], Tensor] | None = None) -> PolicyOutput:
        out = super().forward(rows)
        if value_head is None:
            return out
        return PolicyOutput(out.logp, scatter(value_head(torch.ones(int(rows.action.sum()), 1)), rows.action))


def rows_of(arms: Tensor) -> dict[str, Tensor]:
    """Return episodes of a prompt token and an arm."""
    ids = torch.stack([torch.zeros_like(arms), arms], -1)
    action = torch.tensor([False, True]).expand_as(ids).clone()
    return {"ids": ids, "mask": torch.ones_like(action), "action": action}


def learner_of(trains: tuple[Any, ...], lr: float, steps: int, headed: bool = False) -> Learner:
    makers: dict[str, Callable[[], nn.Module]] = {"policy": Arms, "critic": Baseline}
    if headed:
        policy: Any = HeadedArms()
        makers = {"policy": lambda: policy, "critic": lambda: ValueHead(policy)}
    settings = Optimiser(lr=lr, warmup=0.0, schedule="linear", clip_norm=1e9, token_budget=10**6)
    return Learner({role: makers[role]() for role in trains}, settings, steps, dict.fromkeys(trains, lr))


def rollout(policy: Arms, value: Tensor) -> LogprobBatch:
    cdf = policy.probabilities().double().cumsum(0)
    arms = torch.searchsorted(cdf, (torch.arange(N, dtype=torch.float64) + 0.5) / N).clamp(max=3)
    rows = rows_of(arms)
    blank = torch.zeros(N, 2)
    with torch.no_grad():
        logp = policy(Rows(**rows)).logp
    return LogprobBatch(
        **rows,
        sampler_logp=logp,
        reward=REWARD[arms],
        group=torch.zeros(N, dtype=torch.long),
        ended=torch.ones(N, dtype=torch.bool),
        old_logp=logp,
        ref_logp=torch.where(rows["action"], -math.log(4), blank),
        value=torch.where(rows["action"], value, blank),
        baseline=torch.full((N,), float((policy.probabilities() * REWARD).sum())),
    )


def online(name: str, options: dict[str, Any], updates: int = 2, headed: bool = False) -> Tensor:
    algorithm = make(name, options)
    learner = learner_of(algorithm.trains, 0.1, STEPS * updates, headed)
    policy: Any = learner.models["policy"]
    for _ in range(STEPS):
        critic: Any = learner.models.get("critic")
        value = torch.zeros(())
        if critic is not None:
            value = critic.read(torch.ones(1, 1)).detach() if headed else critic.value.detach()
        batch, _ = algorithm.credit(rollout(policy, value))
        batch = batch.learnt() if isinstance(batch, CreditedBatch) else batch
        for _ in range(updates):
            learner.step(Term(batch, algorithm))
    found: Tensor = policy.probabilities()
    return found


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ppo", {"kl": BETA, "value_coef": 0.5}),
        ("ppo", {"kl": BETA, "whiten_advantages": False, "whiten_rewards": False, "lam": 1.0}),
        ("grpo", {"kl": BETA}),
        ("rloo", {"kl": BETA}),
        ("rloo", {"kl": BETA, "whiten_advantages": True}),
        ("dr_grpo", {"kl": BETA, "length": 1}),
        ("dapo", {"kl": BETA}),
        ("gspo", {"kl": BETA, "clip": 0.2, "clip_high": 0.3}),
        ("cispo", {"kl": BETA}),
        ("reinforce", {"kl": BETA}),
        ("reinforce", {"kl": BETA, "baseline": "batch", "whiten_advantages": True, "dual_clip": 3.0}),
        ("reinforce_plus_plus", {"kl": BETA}),
        ("reinforce_plus_plus_baseline", {"kl": BETA, "kl_in": "reward"}),
        ("online_dpo", {"beta": BETA, "labels": "soft"}),
    ],
    ids=str,
)
def test_an_online_algorithm_converges_to_the_regularised_optimum(name: str, options: dict[str, Any]) -> None:
    assert online(name, options).tolist() == pytest.approx(OPTIMUM, abs=0.02)


def test_ppo_with_a_head_on_the_policy_for_a_critic_converges_to_it_too() -> None:
    assert online("ppo", {"kl": BETA, "value_coef": 0.5}, headed=True).tolist() == pytest.approx(OPTIMUM, abs=0.02)


@pytest.mark.parametrize(("name", "options"), [("rloo", {"kl": 0.0}), ("raft", {}), ("online_dpo", {"beta": BETA})])
def test_without_a_price_on_kl_or_by_order_alone_the_policy_goes_to_the_best_arm(
    name: str, options: dict[str, Any]
) -> None:
    """Online DPO has a price, but each "better" of the sharp order counts as certain, whatever the gap."""
    assert online(name, options)[0] > 0.95


def test_expert_iteration_keeps_the_proportions_of_all_answers_that_are_good_enough() -> None:
    """It ends at the policy that it started from, given that an answer is good: at 1/2 and 1/2 here."""
    found = online("expert_iteration", {"threshold": 0.25, "per_prompt": N})
    assert found.tolist() == pytest.approx([0.5, 0.5, 0.0, 0.0], abs=0.03)


def test_where_advantages_are_scaled_a_kl_in_the_loss_is_relative_to_their_spread() -> None:
    """REINFORCE++ baseline ends at pi ~ pi_ref exp(r / (kl * sd)), with the sd of the rewards under that policy."""
    found = online("reinforce_plus_plus_baseline", {"kl": BETA}).double()
    mean = float((found * REWARD).sum())
    sd = math.sqrt(float((found * (REWARD - mean) ** 2).sum()))
    assert found.tolist() == pytest.approx(torch.softmax(REWARD.double() / (BETA * sd), 0).tolist(), abs=0.02)


def test_the_optimum_is_the_one_the_formula_gives_and_its_value_is_beta_log_z() -> None:
    """The other tests compare with these numbers, so they are checked here, by the formula and by nearby policies."""
    pi = torch.softmax(REWARD.double() / BETA - math.log(4), 0)
    assert pi.tolist() == pytest.approx(OPTIMUM, abs=1e-6)

    def objective(p: Tensor) -> float:
        return float((p * (REWARD - BETA * (p.log() + math.log(4)))).sum())

    assert objective(pi) == pytest.approx(0.5167111426, abs=1e-9)
    assert float((pi * (pi.log() + math.log(4))).sum()) == pytest.approx(0.4987509922, abs=1e-9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        nearby = torch.softmax(pi.log() + 0.1 * torch.randn(4, generator=generator, dtype=torch.float64), 0)
        assert objective(nearby) < objective(pi)
