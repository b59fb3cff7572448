"""Refuses settings that have no effect, because somebody who sets one expects something of it.

This module finds what can be told from the settings alone, so that `run` reports it before it begins. It does not
import torch: what it has to know of an algorithm stands in `known_algorithms`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Any

from prefloop.errors import ConfigError
from prefloop.known_algorithms import has_advantage, has_critic, has_reference, is_offline

Config = Any  # This is prefloop.config.Config, which imports this module.

_OF_MULTIPLIERS = ("multiplier_start", "multiplier_lr", "multiplier_gain", "multiplier_max")
_OF_BOUNDS = ("window",)
_ONLINE_ONLY = {
    "steps": "it goes over the rankings [align] passes times",
    "ptx": "it mixes in no demonstrations",
    "frozen_dtype": "the reference is asked once, and the store keeps what it said for every run",
    "reward": "it learns from the rankings themselves",
    "rollout.prompts": "it learns from lists; [align] lists says how many a step takes",
    "rollout.k": "it draws no samples",
    "rollout.epochs": "[align] passes says how often it goes over the rankings",
    "rollout.minibatches": "each step is one update; [align] lists says how many lists it takes",
    "rollout.missing_eos": "it draws no samples",
    "rollout.missing_eos_penalty": "it draws no samples",
    "rollout.overlong": "it draws no samples",
    **dict.fromkeys((f"rollout.length_{key}" for key in ("penalty", "target", "normalised")), "it draws no samples"),
    "rollout.dynamic_sampling": "it draws no samples",
    "rollout.staleness": "it draws no samples",
    "rollout.importance_cap": "it draws no samples",
    **dict.fromkeys(
        (f"objective.{key}" for key in ("kind", "maximise", "subject_to", "scorers", *_OF_BOUNDS, *_OF_MULTIPLIERS)),
        "it learns from the rankings themselves; [align] reward_weights weighs those of several criteria",
    ),
    "on_alarm": "its rankings do not change while it learns; prefloop diagnose looks at the run afterwards",
    "stop_on": "its rankings do not change while it learns; prefloop diagnose looks at the run afterwards",
    "evaluation.calibrate_kl": "no price on the KL is steered; {held}",
    "evaluation.kl_budget": "no KL stops it; {held}",
}
# `reward` reads this too, for the samples that it normalises on, so that in the TOML it always has an effect.
_OF_SAMPLES = ("align.rollout.temperature",)
# `refuse_beside_adapters` is asked about these by the stage that they are for: no other one reads them.
_BESIDE_ADAPTERS = {
    "reward.freeze": "[model] adapter freezes all but the adapters",
    "align.frozen_dtype": "with adapters all models share one trunk; [model] dtype says how it is held",
    "align.frozen_offload": "with adapters all models share the trunk that the policy needs",
    "align.reference_ema": "an adapter cannot be moved part of the way: the reference becomes the policy",
}
# These settings of [model] apply only to a new model.
SCRATCH = (
    "text",
    "vocab_size",
    "hidden_size",
    "layers",
    "heads",
    "context",
)
_OF_LORA = ("lora.rank", "lora.alpha", "lora.targets", "lora.dora", "load_in_4bit")
_EACH_ROUND = {"sample", "annotate", "crowd", "reward", "align", "evaluate"}


def idle(config: Config) -> dict[str, str]:
    """Return the settings without effect as {"section.key": why nothing reads it}."""
    return dict(
        [
            *_model(config),
            *_sample_and_annotate(config),
            *_align(config),
            *_frontier(config),
            *_best_of(config),
            *_run(config),
            *_rollout_servers(config.rollout),
        ]
    )


def _model(config: Config) -> Iterator[tuple[str, str]]:
    if config.model.adapter == "none":
        yield from ((f"model.{key}", 'adapter = "none" trains all weights') for key in _OF_LORA)
    else:
        yield from _BESIDE_ADAPTERS.items()
    if config.model.init == "pretrained":
        yield from ((f"model.{key}", 'only init = "scratch" makes a model') for key in SCRATCH)
    else:
        yield from ((f"model.{key}", 'init = "scratch" makes a model of its own') for key in ("path", "revision"))


def _sample_and_annotate(config: Config) -> Iterator[tuple[str, str]]:
    if config.sample.temperature == 0:
        yield "sample.top_p", "at temperature 0 the likeliest token is always taken"
    people = config.annotate
    if people.overlap_share == 0:
        yield "annotate.overlap_many", "overlap_share = 0 leaves no item in the overlap sample"
    if people.overlap_many == people.overlap:
        yield "annotate.overlap_share", f"overlap_many = overlap = {people.overlap}: every item is ranked as often"
    if people.lease_hours * 60 < people.lease_minutes:
        yield "annotate.lease_hours", f"a lease lasts lease_minutes = {people.lease_minutes:g} in any case"


def _align(config: Config) -> Iterator[tuple[str, str]]:
    align, rollout = config.align, config.align.rollout
    name = align.algorithm
    if is_offline(name):
        for key, why in _ONLINE_ONLY.items():
            yield f"align.{key}", f"{name} does not use it: {why.format(held=_held(name))}"
    if not has_critic(name):
        yield from ((f"align.{key}", f"{name} has no critic") for key in ("critic", "critic_lr"))
    if not align.reference_refresh:
        yield "align.reference_ema", "reference_refresh = 0 never moves the reference"
    if is_offline(name):
        return
    yield "align.passes", f"{name} draws samples; [align] steps and [align.rollout] epochs say how long it learns"
    yield "align.lists", f"{name} draws samples; [align.rollout] prompts says how many prompts a step takes"
    if align.reward is not None and not align.objective.scorers:
        yield "align.reward_weights", f"[align] reward = {align.reward!r} takes the place of the reward models"
    yield from _objective(align.objective)
    if align.on_alarm == "warn":
        yield "align.stop_on", 'on_alarm = "warn" stops no run'
    yield from _rollout(rollout)
    if not has_advantage(name):
        yield "align.rollout.importance_cap", f"{name} multiplies no advantage"
    if 1 in (align.checkpoint_every, align.evaluation.eval_every):
        yield "align.rollout.staleness", "samples are fresh after each checkpoint and evaluation, which come every step"


def _rollout_servers(rollout: Any) -> Iterator[tuple[str, str]]:
    if rollout.backend == "local":
        yield from ((f"rollout.{key}", 'backend = "local" asks no server') for key in type(rollout).model_fields)
    elif rollout.backend == "openai":
        yield from ((f"rollout.{key}", "an endpoint gets no weights") for key in ("weights", "canary"))
    else:
        yield from ((f"rollout.{key}", 'only backend = "openai" reads it') for key in ("model", "api"))
    if rollout.backend == "prefloop":
        yield "rollout.python", "a prefloop server is started by the Python that runs prefloop"
    if not rollout.launch:
        yield from ((f"rollout.{key}", "launch = 0 starts no server") for key in ("devices", "options", "python"))


def _rollout(rollout: Any) -> Iterator[tuple[str, str]]:
    if not rollout.length_penalty:
        yield "align.rollout.length_target", "length_penalty = 0 puts no price on length"
    if rollout.missing_eos == "off":
        yield "align.rollout.missing_eos_penalty", 'missing_eos = "off"'
        yield "align.rollout.overlong", 'missing_eos = "off" punishes no length'
    if rollout.k == 1:
        yield "align.rollout.dynamic_sampling", "k = 1: a single answer is no group"
    if rollout.minibatches > rollout.prompts:
        yield "align.rollout.minibatches", f"the {rollout.prompts} prompts of a step cannot be cut into more parts"


def _held(name: str) -> str:
    """Say what keeps an offline algorithm from going too far."""
    return (
        f"[algorithms.{name}] beta holds it to the reference"
        if has_reference(name)
        else "[align] lr and passes say how far it goes"
    )


def _objective(objective: Any) -> Iterator[tuple[str, str]]:
    why = f'kind = "{objective.kind}" keeps no bounds'
    if not objective.bounded:
        yield from ((f"align.objective.{key}", why) for key in ("maximise", "subject_to", *_OF_BOUNDS))
    if objective.kind != "constrained":
        yield from ((f"align.objective.{key}", f"{why} by multipliers") for key in _OF_MULTIPLIERS)
    if objective.maximise is not None:
        yield "align.reward_weights", f"[align.objective] maximise = {objective.maximise!r} is the only one that counts"


def _frontier(config: Config) -> Iterator[tuple[str, str]]:
    if config.frontier.bounds:
        yield "frontier.weights", "[frontier] bounds takes the place of weights"


def _best_of(config: Config) -> Iterator[tuple[str, str]]:
    if config.best_of.majority is None:
        yield "best_of.vote_temperature", "without majority nothing is voted for: the best reward decides"
    elif config.best_of.scorer is None:
        yield "best_of.vote_temperature", "without a scorer every answer has one vote"


def _run(config: Config) -> Iterator[tuple[str, str]]:
    if not config.run.imports:
        yield "run.ignore", "[run] imports names no file"
    if not _EACH_ROUND & set(config.run.stages):
        yield "run.rounds", "none of its stages is done each round"


def unused(config: Config) -> dict[str, str]:
    """Return the part of `idle` that somebody set to something else than its default.

    The form is {"section.key": why nothing reads it}.
    """
    return {key: why for key, why in idle(config).items() if _is_set(config, key)}


def _is_set(config: Config, key: str) -> bool:
    section, field = _section(config, key)
    default = type(section).model_fields[field].get_default(call_default_factory=True)
    return field in section.model_fields_set and getattr(section, field) != default


def _section(config: Config, key: str) -> tuple[Any, str]:
    """Return the section that a dotted key lies in, and its name there."""
    *path, field = key.split(".")
    return reduce(getattr, path, config), field


def refuse_unused(config: Config, where: str, but: Iterable[str] = ()) -> None:
    """Raise ConfigError for settings without effect, except those named, and those that a stage is asked about."""
    allowed = {*but, *(_BESIDE_ADAPTERS if config.model.adapter != "none" else ())}
    _refuse(config, where, {key: why for key, why in unused(config).items() if key not in allowed})


def refuse_beside_adapters(config: Config, section: str) -> None:
    """Raise ConfigError for settings of a stage's section that have no effect where adapters learn."""
    if config.model.adapter != "none":
        found = {key: why for key, why in _BESIDE_ADAPTERS.items() if key.startswith(f"{section}.")}
        _refuse(config, f"[{section}]", {key: why for key, why in found.items() if _is_set(config, key)})


def _refuse(config: Config, where: str, found: dict[str, str]) -> None:
    if found:
        lines = [f"  {key} = {_shown(config, key)} would have no effect: {why}" for key, why in found.items()]
        raise ConfigError("\n".join([f"{where}:", *lines, "Take it out, or change what it depends on."]))


def _shown(config: Config, key: str) -> str:
    return repr(getattr(*_section(config, key)))


def refuse_for_align(config: Config, overrides: Iterable[str]) -> None:
    """Raise ConfigError for a setting of samples that is given to `prefloop align`, where its algorithm draws none."""
    if not is_offline(config.align.algorithm):
        return
    asked = {override.partition("=")[0].strip() for override in overrides}
    for key in _OF_SAMPLES:
        if key in asked and _is_set(config, key):
            raise ConfigError(f"--set {key} would have no effect: {config.align.algorithm} learns from no samples.")
