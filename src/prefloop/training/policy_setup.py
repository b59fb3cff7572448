"""Loads what a run of online `align` works with: models, engine, prompts, demonstrations and validation prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from prefloop.algorithms.base import OnlineAlgorithm, Role
from prefloop.engine import Training
from prefloop.engine import make as make_engine
from prefloop.engine.base import Engine
from prefloop.errors import ConfigError
from prefloop.models.policy import Policy
from prefloop.models.reward import Critic, new_critic, new_reward_model
from prefloop.models.tokenization import Tokenization
from prefloop.models.value_head import ValueHead
from prefloop.project.left_out import LeftOut, fitting, refusal
from prefloop.project.project import ModelRef, Project, derive, load_policy
from prefloop.rewards.model import ModelScorer, reward_tokenizations
from prefloop.rewards.rules import RuleScorer
from prefloop.rewards.sequence import Joined
from prefloop.store import ModelRow
from prefloop.training.demonstrations import encode_demonstrations
from prefloop.training.first_checks import LISTS
from prefloop.training.fit_together import no_critic
from prefloop.training.learning_rates import beside_usual, rate
from prefloop.training.policy_evaluation import Validation
from prefloop.training.reference import load_reference, refreshed
from prefloop.training.rollout import Encoded
from prefloop.types import Item

OnlineScorer = ModelScorer | RuleScorer


@dataclass(frozen=True)
class PolicySetup:
    """Holds everything that a run of online `align` works with. Whoever asks for it closes the engine.

    demonstrations: those that are mixed in (`[align] ptx`)
    from_reference: whether the policy starts as the reference
    rates: {role: its learning rate beside the usual one}
    ranked: held-out lists that people have ranked, and that the scorer can read
    """

    engine: Engine
    tokenization: Tokenization
    scorer: OnlineScorer
    prompts: Sequence[Encoded]
    demonstrations: Sequence[Joined]
    validation: Validation
    left_out: LeftOut
    from_reference: bool
    rates: Mapping[str, Mapping[str, float]]
    ranked: Sequence[Item]


def set_up(
    project: Project,
    algorithm: OnlineAlgorithm,
    start: ModelRef,
    reference: ModelRef,
    scorer: OnlineScorer,
    judges: Sequence[ModelRow],
    seed: int,
) -> PolicySetup:
    """Load the models and encode the prompts. Raises ConfigError where settings and models do not fit each other.

    judges: the reward models that `scorer` was made of
    """
    settings = project.config.align
    from_reference = start.path == reference.path
    model, tokenization = load_policy(project, start, learns=True)
    frozen = load_reference(project, reference, model if from_reference else None)
    if settings.frozen_dtype and isinstance(scorer, ModelScorer):
        scorer.cast(settings.frozen_dtype)  # The reference follows once what that does is measured.
    policy = Policy(model, settings.rollout.temperature)
    learns: dict[Role, torch.nn.Module] = {"policy": policy}
    lr: dict[Role, float] = {}
    critic = _critic(project, algorithm, policy, start, tokenization, scorer, judges, seed)
    lr["policy"] = rate(project, settings.lr, "policy", model)
    rates = {"policy": beside_usual("policy", lr["policy"], model)}
    if critic is not None:
        learns["critic"] = critic
        lr["critic"] = rate(project, settings.critic_lr or settings.lr, "critic", critic.model)
        rates["critic"] = beside_usual("critic", lr["critic"], critic.model)
    left_out, theirs = LeftOut(project), reward_tokenizations(scorer)
    train = project.store.prompts(split="train", heldout=project.config.data.heldout)
    prompts = fitting(project, tokenization, train, settings.max_tokens, left_out, theirs)
    validation = Validation(project, tokenization, scorer, [p for p, _ in prompts], left_out)
    demonstrations = _demonstrations(project, tokenization, left_out)
    known = project.store.items(split="heldout", heldout=project.config.data.heldout, ranked=True)
    ranked = list(islice((item for item in known if not any(refusal(t, item) for t in theirs)), LISTS))
    # The engine comes last, so that nothing can fail before its owner has it.
    models = learns | {"reference": Policy(frozen, settings.rollout.temperature).requires_grad_(False)}
    if settings.reference_refresh:
        models["refreshed"] = refreshed(models["reference"], policy)
    per_step = settings.rollout.epochs * settings.rollout.minibatches
    training = Training(settings, settings.steps * per_step, lr, settings.average)
    ahead = settings.rollout.staleness > 0
    engine = make_engine(models, tokenization, seed, project.placement, training, own_sampler=ahead)
    return PolicySetup(
        engine, tokenization, scorer, prompts, demonstrations, validation, left_out, from_reference, rates, ranked
    )  # fmt: skip


def _critic(
    project: Project,
    algorithm: OnlineAlgorithm,
    policy: Policy,
    start: ModelRef,
    tokenization: Tokenization,
    scorer: OnlineScorer,
    judges: Sequence[ModelRow],
    seed: int,
) -> Critic | ValueHead | None:
    """Return the critic, where the algorithm needs one. It starts as the reward model that counts most.

    If a function gives the rewards, it starts as the policy with a new head. `[align] critic = "head"` is a new head on
    the policy itself.
    """
    if "value" not in algorithm.needs:
        return None
    if project.config.align.critic == "head":
        head = ValueHead(policy)
        project.say(head.saves())
        return head
    model = project.config.model
    if isinstance(scorer, ModelScorer) and scorer.reward_models:
        main = max(scorer.reward_models, key=lambda j: abs(j.weight))
        row = next(m for m in judges if (m.criterion or m.version) == main.name)
        critic, theirs = new_critic(project.ref(row).intact(), model, derive(seed, "critic"), project.trunks)
    else:
        fresh, theirs = new_reward_model(start.intact(), model, derive(seed, "critic"), trunks=project.trunks)
        critic = Critic(fresh.model, 0.0, 1.0)
    if theirs.fingerprint != tokenization.fingerprint:
        raise ConfigError(no_critic(algorithm))
    return critic


def _demonstrations(project: Project, tokenization: Tokenization, left_out: LeftOut) -> Sequence[Joined]:
    """Return the training demonstrations that are mixed into each step. There are none where `[align] ptx` is 0."""
    if not project.config.align.ptx:
        return []
    shown = project.store.demonstrations(split="train", heldout=project.config.data.heldout)
    shown = left_out.accepted([tokenization], shown, "demonstrations", learns=True)
    encoded, long = encode_demonstrations(tokenization, shown, tokenization.context)
    if long:
        project.say(f"warning: {long} demonstrations do not fit the model's context and are left out of ptx")
    if not encoded:
        raise ConfigError("[align] ptx mixes in demonstrations, but there are none: import some, or set ptx = 0")
    return encoded
