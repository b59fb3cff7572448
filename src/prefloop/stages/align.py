"""Runs `prefloop align`, which starts the loop that the kind of the algorithm needs, online or offline."""

from __future__ import annotations

from dataclasses import replace

from prefloop.algorithms.registry import kind_of, make
from prefloop.config import CONFIG_NAME, Config
from prefloop.effects import refuse_beside_adapters, unused
from prefloop.errors import ConfigError
from prefloop.known_algorithms import is_offline
from prefloop.project.project import Project
from prefloop.results import Aligned, AlignRun, RoundStanding
from prefloop.stages.train_offline import train_offline
from prefloop.stages.train_policy import train_policy
from prefloop.training.kl_control import check_calibration


def align(project: Project, round: int | None = None) -> Aligned:
    """Optimise the policy of a round (by default the newest that was sampled). Raises ConfigError, NothingToDoError."""
    settings = project.config.align
    kind = kind_of(settings.algorithm, "online", "offline")
    check_options(project.config)
    refuse_beside_adapters(project.config, "align")
    if left := [key for key in unused(project.config) if key.startswith("align.")]:
        project.say(f"{settings.algorithm} does not use what {CONFIG_NAME} says of {', '.join(left)}")
    if settings.frozen_offload and project.device == "cpu":
        project.say("[align] frozen_offload has nothing to do on a CPU, where all models are in its memory anyway")
    round = project.existing_round(round)
    outcome: Aligned = train_policy(project, round) if kind == "online" else train_offline(project, round)
    return replace(outcome, standing=standing(project, round))


def check_options(config: Config) -> None:
    """Raise ConfigError for an option of any algorithm that is misspelt, or of this one that would have no effect."""
    for name, options in config.algorithms.items():
        make(name, options)
    settings = config.align
    options, usual = config.algorithms.get(settings.algorithm, {}), make(settings.algorithm)
    changed = {option for option, value in options.items() if value != getattr(usual, option)}
    idle = {}
    if settings.evaluation.calibrate_kl:
        idle["kl_horizon"] = "calibrate_kl has a controller of its own"
    elif not options.get("kl_target"):
        why = "kl_target = 0 keeps the coefficient of the KL fixed"
        idle |= dict.fromkeys(("kl_horizon", "kl_min", "kl_max"), why)
    if options.get("kl_in") != "loss":
        idle |= dict.fromkeys(("kl_estimator", "kl_unbiased"), 'kl_in = "reward" always takes k1')
    if not options.get("label_smoothing"):
        idle["loss_type"] = "label_smoothing = 0 says that every label is right"
    rollout = settings.rollout
    if rollout.epochs * rollout.minibatches == 1 and not rollout.staleness:
        why = "each sample is learnt from once ([align.rollout] epochs and minibatches are 1): there is nothing to clip"
        idle |= dict.fromkeys(("clip", "clip_high", "dual_clip", "value_clip"), why)
    check_calibration(config, make(settings.algorithm, options))
    if settings.reference_refresh and "reference" not in getattr(make(settings.algorithm, options), "needs", ()):
        raise ConfigError(
            f"[align] reference_refresh would have no effect: {settings.algorithm} measures nothing from a reference. "
            f"Leave it out{'' if is_offline(settings.algorithm) else ', or set a price on the KL'}."
        )
    for option in sorted(changed & idle.keys()):
        raise ConfigError(f"[algorithms.{settings.algorithm}] {option} would have no effect: {idle[option]}.")


def standing(project: Project, round: int) -> RoundStanding:
    """Return how a round's runs compare on validation prompts, and which is its policy. No run keeps this."""
    chosen = project.chosen(round)
    # fmt: skip
    runs = [
        AlignRun(
            run=c.run,
            chosen=chosen is not None and c.run == chosen.run,
            unchanged=c.unchanged,
            collapsed=tuple(c.collapsed),
            algorithm=c.result.algorithm if c.result else None,
            win_rate=c.figure("win_rate"),
            reward=c.figure("reward"),
            kl=c.result.kl if c.result else None,
        )
        for c in project.candidates(round)
    ]
    return RoundStanding(chosen.run if chosen else None, project.config.run.choose, tuple(runs))
