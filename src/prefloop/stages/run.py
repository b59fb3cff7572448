"""Runs every stage of prefloop.toml for `prefloop run`, and skips what is done for the same inputs."""

from __future__ import annotations

from collections.abc import Callable

from prefloop.behaviour.chosen import chosen
from prefloop.config import Run as Settings
from prefloop.config_rollout import refuse_endpoint
from prefloop.effects import refuse_beside_adapters
from prefloop.errors import ConfigError, suggest
from prefloop.project.project import Project
from prefloop.results import Outcome, Ran
from prefloop.stages.align import align
from prefloop.stages.annotate_wait import annotate
from prefloop.stages.crowd import crowd
from prefloop.stages.evaluate import evaluate
from prefloop.stages.importing import import_file
from prefloop.stages.prioritise import judges, prioritise
from prefloop.stages.report import report
from prefloop.stages.sample import sample
from prefloop.stages.sft import sft
from prefloop.stages.train_reward import reward


def _ask_people(project: Project, round: int) -> Outcome:
    """Wait while people rank. They get first what the reward models of earlier rounds are unsure of."""
    if judges(project):
        project.queue.fill()
        if not project.queue.quota(round).met:
            prioritise(project)
    return annotate(project, round)


ONCE: dict[str, Callable[[Project], Outcome]] = {"sft": sft}
EACH_ROUND: dict[str, Callable[[Project, int], Outcome]] = {
    "sample": sample,
    "annotate": _ask_people,
    "crowd": lambda project, round: crowd(project),
    "reward": reward,
    "align": align,
    "evaluate": evaluate,
}
OF_THE_POLICY = {"sft", "reward", "align", "evaluate"}
AT_THE_END: dict[str, Callable[[Project], Outcome]] = {"report": report}


def run(project: Project) -> Ran:
    """Go through the loop. Stages run in the order the loop needs, whatever the order they are listed in."""
    settings = project.config.run
    _check(settings)
    if own := [name for name in settings.stages if name in OF_THE_POLICY]:
        refuse_endpoint(project.config.rollout, f"prefloop run with the stage {own[0]}")
    for stage in settings.stages:
        refuse_beside_adapters(project.config, stage)
    chosen(project.config.behaviour, project.root)  # A wrong name is an error before anything is trained.
    done: list[Outcome] = []

    def take(outcome: Outcome) -> None:
        done.append(outcome)
        where = f" ({outcome.run})" if outcome.run else ""
        project.say(f"{outcome.stage}: {'already done' if outcome.skipped else 'done'}{where}")

    for name in settings.imports:
        take(import_file(project, project.root / name, ignore=settings.ignore.get(name, ())))
    for name in [n for n in ONCE if n in settings.stages]:
        if name == "sft" and not project.store.counts()["demonstrations"]:
            project.say("sft: left out, there are no demonstrations")
            continue
        take(ONCE[name](project))
    for round in range(settings.rounds):
        project.begun = round
        for name in [n for n in EACH_ROUND if n in settings.stages]:
            take(EACH_ROUND[name](project, round))
    for name in [n for n in AT_THE_END if n in settings.stages]:
        take(AT_THE_END[name](project))
    return Ran(rounds=settings.rounds, stages=tuple(done), skipped=all(o.skipped for o in done))


def _check(settings: Settings) -> None:
    """Raise ConfigError for names that mean nothing, and for stages that exclude each other."""
    for name in settings.ignore:
        if name not in settings.imports:
            raise ConfigError(f'[run] ignore names "{name}", no file of imports.{suggest(name, settings.imports)}')
    if {"annotate", "crowd"} <= set(settings.stages):
        raise ConfigError('[run] stages names "annotate" and "crowd": either people rank, or simulated ones. Drop one.')
