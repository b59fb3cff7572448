"""The settings of `[align]`: what every algorithm has, and its parts (`[align.rollout]`, `[align.evaluation]` ...).

A name is used once in the section and its parts, so that a call in Python needs none of them: `project.align(k=4)`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from prefloop.config_section import Optimiser, Section
from prefloop.known_algorithms import known

LENGTH = ("length_penalty", "length_target", "length_normalised")
BY_ALGORITHM = ("dynamic_sampling", "overlong")  # Where [align.rollout] does not say, `known_algorithms` does.
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Rollout(Section):
    """What an online algorithm samples in each step, and how it learns from that batch."""

    prompts: int = Field(32, ge=1, description="prompts per step")
    k: int = Field(2, ge=1, description="completions per prompt (num_generations in TRL)")
    temperature: float = Field(1.0, gt=0, description="temperature of sampling, and of the logprobs that are optimised")
    missing_eos: Literal["subtract", "replace", "off"] = Field(
        "subtract",
        description="how a cut-off answer is punished",
    )
    missing_eos_penalty: float = Field(1.0, ge=0, description="penalty, in units of the normalised reward")
    overlong: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of max_tokens, its last part, over which a price on long answers rises to "
        "missing_eos_penalty; none = by the algorithm (dapo: 0.2, others: 0)",
    )
    length_penalty: float = Field(
        0.0, ge=0, description="what each token over length_target costs, in units of the normalised reward"
    )
    length_target: int = Field(0, ge=0, description="tokens of an answer that length_penalty leaves free")
    length_normalised: bool = Field(
        False, description="take out of the rewards of a step what a straight line in the answers' lengths explains"
    )
    dynamic_sampling: int | None = Field(
        None,
        ge=0,
        description="how often prompts whose answers all got the same reward are replaced by others, before a step "
        "learns; none = by the algorithm (dapo: 3, others: 0)",
    )
    epochs: int = Field(1, ge=1, description="passes over one rollout batch")
    minibatches: int = Field(2, ge=1, description="optimiser steps per pass")
    staleness: int = Field(
        0, ge=0, le=1, description="1 = sample the next step's completions while learning, one update behind"
    )
    importance_cap: float | None = Field(
        None,
        ge=0,
        description="largest importance weight of a token, by which its advantage is multiplied where another "
        "distribution sampled it; 0 = no weights; none = 2 for samples of a server that are one update behind, else 0",
    )


class AlignEvaluation(Section):
    """How `align` looks at its policy on validation prompts: the looks choose the checkpoint and may end the run."""

    eval_every: int = Field(10, ge=1, description="steps between held-out evaluations")
    eval_prompts: int = Field(64, ge=1, description="held-out prompts of each evaluation")
    kl_budget: float = Field(
        25.0,
        gt=0,
        description="online: the run stops when the KL on held-out prompts exceeds this, in nats per sequence",
    )
    calibrate_kl: bool = Field(
        False,
        description="online: [evaluate] scorer sets the KL that is aimed at, below the distance at which its mean "
        "turns over, and chooses the step that is kept: docs/kl-control.md",
    )


class Objective(Section):
    """What several criteria are optimised for together: docs/choosing-an-objective.md."""

    kind: Literal["sum", "constrained", "worst", "lexicographic"] = Field(
        "sum",
        description='"sum": the weighted sum of all criteria. "constrained": the most of one criterion while others '
        'keep their bounds, by a learnt multiplier. "worst": the least of all criteria. "lexicographic": first the '
        "bounds, one after the other, then the criterion",
    )
    maximise: str | None = Field(
        None, description="the criterion to maximise; none = the weighted sum of those without a bound"
    )
    subject_to: dict[str, Finite] = Field(
        default_factory=dict,
        description="criterion = the least mean that it must have, in sds of the reference's reward; one of "
        "`scorers` has its own unit",
    )
    scorers: dict[str, str] = Field(
        default_factory=dict,
        description='criterion = the name of a scorer or "file.py:function" that measures it, beside reward models',
    )
    multiplier_start: float = Field(1.0, gt=0, description="constrained: the multiplier of each bound at step 0")
    multiplier_lr: float = Field(
        0.1,
        gt=0,
        description="constrained: the log of a multiplier moves by this a step where a violation is told from noise, "
        "and by less where it is not",
    )
    multiplier_gain: float = Field(
        1.0,
        ge=0,
        description="constrained: the log of a multiplier is more by this times the violation, in sds, while it lasts",
    )
    multiplier_max: float = Field(
        50.0, gt=1, description="constrained: a multiplier stays below this, and above one over it"
    )
    window: int = Field(4, ge=1, description="steps over which the mean of a criterion with a bound is taken")

    @property
    def bounded(self) -> bool:
        """Whether criteria have bounds."""
        return self.kind in ("constrained", "lexicographic")

    @model_validator(mode="after")
    def _says_enough(self) -> Self:
        if self.bounded and not self.subject_to:
            raise ValueError(f'kind = "{self.kind}" needs a bound: subject_to = {{CRITERION = 0.5}}')
        if self.maximise is not None and self.maximise in self.subject_to:
            raise ValueError(f"maximise and subject_to both name {self.maximise}: a criterion is one of the two")
        return self


class Align(Optimiser):
    """What every algorithm has in common; its parts say how an online one samples, and how the policy is evaluated."""

    neutral = (*Optimiser.neutral, "frozen_offload")
    # Offline algorithms have these names instead.
    offline: ClassVar[dict[str, str]] = {"epochs": "passes", "prompts": "lists"}

    algorithm: str = Field("ppo", description="the algorithm; prefloop align --help lists them")
    steps: int = Field(60, ge=1, description="online: steps, each with a rollout batch of its own")
    passes: float = Field(1, gt=0, description="offline: passes over the rankings")
    lists: int = Field(32, ge=1, description="offline: lists per step")
    lr: float | None = Field(None, gt=0, description="peak learning rate of the policy; none = by the model's width")
    critic_lr: float | None = Field(
        None, gt=0, description="peak rate of the critic; none = lr, or by the model's width"
    )
    critic: Literal["separate", "head"] = Field(
        "separate",
        description='where the algorithm has a critic: "separate" is a network of its own, "head" a linear head on the '
        "policy, which the critic's loss trains too",
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "linear", description='after the warm-up: "cosine", "linear" or "constant"'
    )
    warmup: float = Field(0.0, ge=0, le=1, description="share of steps with a rising learning rate")
    max_tokens: int = Field(128, ge=1, description="longest completion, sampled to learn from or to evaluate")
    ptx: float = Field(
        0.0, ge=0, description="online: weight of the supervised loss on demonstrations that is added to each step"
    )
    average: float = Field(0.0, ge=0, lt=1, description="decay of the weight average that is evaluated and saved")
    checkpoint_every: int = Field(10, ge=1, description="steps between checkpoints; changes no result")
    frozen_dtype: Literal["float32", "bfloat16"] | None = Field(
        None,
        description="type of the weights of reference and reward models; none = as they are. "
        "What rounding adds to the KL is measured and subtracted: kl_baseline in docs/metrics.md",
    )
    frozen_offload: bool = Field(
        False,
        description="GPUs: keep reference and reward models in the CPU's memory while they are not asked; changes no "
        "result",
    )
    reference_refresh: int = Field(
        0,
        ge=0,
        description="steps after which the reference that the KL is priced from (offline: that the loss is of) follows "
        "the policy; 0 = it stays. Evaluations go on measuring from where the round began (ref_model_sync_steps in "
        "TRL)",
    )
    reference_ema: float = Field(
        0.0, ge=0, lt=1, description="share that the reference keeps of itself at a refresh; 0 = it becomes the policy"
    )
    reward: str | None = Field(
        None,
        description='the reward: the name of a scorer, "file.py:function" or "https://..." (a service); '
        "none = the round's reward models",
    )
    reward_weights: dict[str, Finite] = Field(default_factory=dict, description="criterion = weight; none = all equal")
    on_alarm: Literal["warn", "stop"] = Field(
        "warn", description='what a finding of prefloop diagnose does while the run goes on: "warn" or "stop"'
    )
    stop_on: tuple[str, ...] = Field(
        (), description="rules (docs/diagnosis.md) whose findings stop the run; none = those whose findings are errors"
    )
    objective: Objective = Field(Objective(), description="what several criteria are optimised for together")
    rollout: Rollout = Field(Rollout(), description="samples of an online algorithm")
    evaluation: AlignEvaluation = Field(AlignEvaluation(), description="looks at the policy while it learns")

    @model_validator(mode="after")
    def _weighs_something(self) -> Self:
        if self.reward_weights and not any(self.reward_weights.values()):
            raise ValueError(
                f"reward_weights are all 0 ({', '.join(self.reward_weights)}): nothing would be learnt. Give one of "
                "them another weight, or leave the setting out"
            )
        return self

    @model_validator(mode="after")
    def _moves_what_can_move(self) -> Self:
        if self.reference_refresh and self.frozen_dtype:
            raise ValueError(
                "frozen_dtype holds a reference that stays, and reference_refresh moves it: leave out one of them"
            )
        return self

    @property
    def sampled(self) -> Rollout:
        """Return [align.rollout], with what the algorithm does where a setting is none."""
        usual = known(self.algorithm)
        wanted = {name: getattr(usual, name, 0) for name in BY_ALGORITHM if getattr(self.rollout, name) is None}
        return self.rollout.model_copy(update=wanted)

    def deciding(self) -> dict[str, Any]:
        """Return the settings that decide.

        With staleness the checkpoints count too, as no sample is made ahead across one.
        """
        found = super().deciding()
        if self.rollout.staleness:
            found["checkpoint_every"] = self.checkpoint_every
        for new in (
            "reward",
            "passes",
            "lists",
            "critic",
            "on_alarm",
            "stop_on",
            "reference_refresh",
            "reference_ema",
            "frozen_offload",
        ):  # Runs of versions without these settings are still the same runs.
            if found[new] == type(self).model_fields[new].default:
                del found[new]
        for part, news in ((AlignEvaluation, ("calibrate_kl",)), (Rollout, (*LENGTH, "importance_cap"))):
            for new in news:
                if found[new] == part.model_fields[new].default:
                    del found[new]
        for name in BY_ALGORITHM:
            if found[name] is None:
                del found[name]
        for name, usual in Objective().deciding().items():
            if found[name] == usual:
                del found[name]
        return found
