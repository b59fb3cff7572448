"""Lists which algorithms there are, and what settings have to know of each. Torch is not loaded: `config` reads this.

`algorithms.registry` makes algorithms of these lines; a test compares each line with its class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["supervised", "reward", "offline", "online"]


@dataclass(frozen=True)
class Known:
    """Describes an algorithm.

    where:       "module:class" of a built-in one, or the class that a program registered
    reference:   offline: whether its loss holds the policy to a reference
    learns_from: offline: what it cannot do without in the rankings
    dynamic_sampling, overlong: online: what [align.rollout] does where it does not say
    advantage:   online: whether its loss multiplies an advantage, which importance weights can correct
    """

    kind: Kind
    where: str | type
    critic: bool = False
    reference: bool = True
    learns_from: Literal["any", "pairs", "labels", "best"] = "any"
    dynamic_sampling: int = 0
    overlong: float = 0.0
    advantage: bool = True


ALGORITHMS: dict[str, Known] = {
    "sft": Known("supervised", "prefloop.algorithms.sft:Sft"),
    "bradley_terry": Known("reward", "prefloop.algorithms.bradley_terry:BradleyTerry"),
    "plackett_luce": Known("reward", "prefloop.algorithms.plackett_luce:PlackettLuce"),
    "dpo": Known("offline", "prefloop.algorithms.dpo:Dpo", learns_from="pairs"),
    "dpo_plackett_luce": Known("offline", "prefloop.algorithms.dpo_plackett_luce:DpoPlackettLuce", learns_from="pairs"),
    "dpo_ties": Known("offline", "prefloop.algorithms.dpo_ties:DpoTies", learns_from="pairs"),
    "ipo": Known("offline", "prefloop.algorithms.ipo:Ipo", learns_from="pairs"),
    "kto": Known("offline", "prefloop.algorithms.kto:Kto", learns_from="labels"),
    "simpo": Known("offline", "prefloop.algorithms.simpo:Simpo", reference=False, learns_from="pairs"),
    "orpo": Known("offline", "prefloop.algorithms.orpo:Orpo", reference=False, learns_from="pairs"),
    "cpo": Known("offline", "prefloop.algorithms.cpo:Cpo", reference=False, learns_from="pairs"),
    "best_sft": Known("offline", "prefloop.algorithms.best_sft:BestSft", reference=False, learns_from="best"),
    "ppo": Known("online", "prefloop.algorithms.ppo:Ppo", critic=True),
    "grpo": Known("online", "prefloop.algorithms.grpo:Grpo"),
    "dr_grpo": Known("online", "prefloop.algorithms.dr_grpo:DrGrpo"),
    "dapo": Known("online", "prefloop.algorithms.dapo:Dapo", dynamic_sampling=3, overlong=0.2),
    "gspo": Known("online", "prefloop.algorithms.gspo:Gspo"),
    "cispo": Known("online", "prefloop.algorithms.cispo:Cispo"),
    "rloo": Known("online", "prefloop.algorithms.rloo:Rloo"),
    "reinforce": Known("online", "prefloop.algorithms.reinforce:Reinforce"),
    "reinforce_plus_plus": Known("online", "prefloop.algorithms.reinforce_plus_plus:ReinforcePlusPlus"),
    "reinforce_plus_plus_baseline": Known(
        "online", "prefloop.algorithms.reinforce_plus_plus_baseline:ReinforcePlusPlusBaseline"
    ),
    "online_dpo": Known("online", "prefloop.algorithms.online_dpo:OnlineDpo", advantage=False),
    "raft": Known("online", "prefloop.algorithms.raft:Raft", advantage=False),
    "expert_iteration": Known("online", "prefloop.algorithms.expert_iteration:ExpertIteration", advantage=False),
}
# A program adds these by `prefloop.register`; they are known as long as the process lives.
registered: dict[str, Known] = {}


def names(*kinds: Kind) -> list[str]:
    """Those of some kinds, or all."""
    return [name for name, found in {**ALGORITHMS, **registered}.items() if not kinds or found.kind in kinds]


def known(name: str) -> Known | None:
    return registered.get(name) or ALGORITHMS.get(name)


def learns_from(name: str) -> str:
    """Return what an offline algorithm cannot do without: "pairs", "labels", "best" answers, or "any" list."""
    found = known(name)
    return "any" if found is None else found.learns_from


def names_that_learn_from(what: str) -> list[str]:
    return [name for name in names("offline") if learns_from(name) == what]


def has_advantage(name: str) -> bool:
    """Return whether its loss multiplies an advantage; True for one that is not known yet."""
    found = known(name)
    return found is None or found.advantage


def is_offline(name: str) -> bool:
    """Return whether it learns from rankings and draws no samples."""
    found = known(name)
    return found is not None and found.kind == "offline"


def has_reference(name: str) -> bool:
    """Return whether its loss holds the policy to a reference."""
    found = known(name)
    return found is not None and found.reference


def has_critic(name: str) -> bool:
    found = known(name)
    return found is not None and found.critic
