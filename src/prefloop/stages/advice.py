"""Finds the command that comes next, which the last line of every verb names. It loads no model."""

from __future__ import annotations

from prefloop import record
from prefloop.known_algorithms import has_reference, is_offline
from prefloop.project.project import Project
from prefloop.results import Aligned, AlignedOffline, AlignedOnline, Evaluated, Imported, Outcome
from prefloop.training.rankings import ranked_criteria

IMPORT = "prefloop import FILE"
RANK = "prefloop annotate: people rank them  (prefloop crowd: simulated people do)"
AGAIN = "prefloop sample  (the next round), or: prefloop export policy --to FOLDER"


def following(project: Project, outcome: Outcome) -> str:
    """Return the next command after a stage, or "" where none follows from it."""
    stage = outcome.stage
    if stage in ("import", "sft", "sample", "reward", "remove", "agreement", "status"):
        new = isinstance(outcome, Imported) and outcome.rankings > 0
        return _learn(project) if new and not _wants_sft(project) else _missing(project)
    if stage == "crowd":
        return _learn(project)
    if stage == "prioritise":
        return "prefloop annotate"
    if isinstance(outcome, AlignedOnline | AlignedOffline):
        return _after_align(project, outcome)
    if stage in ("evaluate", "frontier"):
        return "prefloop report"
    if stage == "report":
        round = project.aligned_rounds()
        return AGAIN if round and _evaluated(project, round - 1) else _missing(project)
    if stage == "run":
        return f"open {project.root / 'report.html'}" if (project.root / "report.html").is_file() else _missing(project)
    return ""


def _missing(project: Project) -> str:
    """Return the command for the first thing that the loop lacks in its current round."""
    counts, round = project.store.counts(), project.aligned_rounds()
    if not counts["prompts"] and not counts["items"]:
        return IMPORT
    if _wants_sft(project):
        return "prefloop sft"
    if round and project.latest_round() < round:  # The next round could begin, but nothing is sampled in it.
        if project.chosen(round - 1) is None:
            return _no_new_policy(project, round - 1, project.candidates(round - 1)[-1].result)
        return AGAIN if _evaluated(project, round - 1) else _judge(project, round - 1)
    if project.config.align.reward is None and not _ranked(project, round):
        return RANK if _to_rank(project, round) else "prefloop sample"
    if _wants_reward_model(project) and not _has_reward_model(project, round):
        return "prefloop reward"
    return "prefloop align"


def _wants_sft(project: Project) -> bool:
    """Return whether there are demonstrations, and neither a model nor a sample has been made yet."""
    begun = bool(project.store.models()) or next(project.store.items(source="sample"), None) is not None
    return not begun and bool(project.store.demonstrations(split="train", heldout=project.config.data.heldout))


def _ranked(project: Project, round: int) -> bool:
    """Return whether a round has rankings to learn from.

    They are of its samples, or of imported lists where nothing was sampled.
    """
    source = "sample" if next(project.store.items(source="sample", round=round), None) else None
    found = (
        next(project.store.items(criterion=c, ranked=True, source=source, round=round), None)
        for c in ranked_criteria(project)
    )
    return any(item is not None for item in found)


def _to_rank(project: Project, round: int) -> bool:
    return next(project.store.items(ranked=False, round=round), None) is not None


def _has_reward_model(project: Project, round: int) -> bool:
    return any(row.metrics.get("round") == round for row in project.store.models("reward"))


def _learn(project: Project) -> str:
    """Return the command that learns from new rankings."""
    return "prefloop reward" if _wants_reward_model(project) else "prefloop align"


def _wants_reward_model(project: Project) -> bool:
    """Return whether `align` optimises a reward model, not rankings directly or a scorer of the user's own."""
    return not is_offline(project.config.align.algorithm) and project.config.align.reward is None


def _judge(project: Project, round: int) -> str:
    """Return the command after a round was aligned: `evaluate`, or what must come before it."""
    heldout = project.config.data.heldout
    if not project.store.prompts(split="heldout", heldout=heldout):
        return f"{IMPORT}: to evaluate takes held-out prompts, and there are none"
    if not project.config.evaluate.scorer and not _has_reward_model(project, round):
        return "prefloop reward, for something to judge by, then prefloop evaluate  (or set [evaluate] scorer)"
    return "prefloop evaluate"


def _after_align(project: Project, outcome: Aligned) -> str:
    """Return the command after `align`, for a run that made a policy and for one that made none."""
    round, chosen = outcome.round, project.chosen(outcome.round)
    nothing = outcome.best_step == 0
    if nothing and chosen is None:
        return _no_new_policy(project, round, outcome)
    next_command = _judge(project, round)
    if nothing and chosen:
        return f"{next_command}  (this run made no new policy: the round's is that of {chosen.run})"
    if next_command == "prefloop evaluate" and chosen and outcome.run and chosen.run != outcome.run:
        return f"prefloop evaluate --run {outcome.run}  (the round's policy is that of {chosen.run})"
    return next_command


def _no_new_policy(project: Project, round: int, result: Aligned | None) -> str:
    """Return the command that may lead to a better step: more rankings, or an optimiser that goes less far."""
    algorithm = (result.algorithm if result else None) or project.config.align.algorithm
    if _to_rank(project, round):
        ranked = "prefloop annotate, for more rankings to learn from"
    else:
        ranked = f"{IMPORT} with more prompts and prefloop sample --round {round}, for more rankings to learn from"
    if isinstance(result, AlignedOnline) and any(not c.met for c in (result.constraints or {}).values()):
        return "prefloop align, with more steps or a lower bound  (no new policy was made: no step keeps every bound)"
    if result and result.warnings:  # They say that the reward models cannot tell better from worse.
        return f"{ranked}  (no new policy was made: the reward model cannot tell better from worse)"
    if result and (result.collapses or "budget" in str(result.stopped)):
        price = "beta" if is_offline(algorithm) else "kl"
        less = "a smaller [align] lr"
        if has_reference(algorithm):
            less = f"{less} or a larger [algorithms.{algorithm}] {price}"
        return f"prefloop align, with {less}  (no new policy was made: it went too far from its start)"
    other = "" if is_offline(algorithm) else "prefloop align, with a larger [align] lr or more steps; or: "
    return f"{other}{ranked}  (no new policy was made: no step was better than the start)"


def _evaluated(project: Project, round: int) -> bool:
    done = [run for run in record.runs(project.root) if run.manifest["stage"] == "evaluate" and run.status == "done"]
    return any(made.round == round for run in done if (made := Evaluated.read(run.result)))
