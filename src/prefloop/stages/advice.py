"""The command that comes next, as the project stands: what every verb's last line says. Loads no model."""

from __future__ import annotations

from prefloop import record
from prefloop.effects import OFFLINE
from prefloop.stages.agreement import NOT_COMPARABLE
from prefloop.stages.project import Outcome, Project

IMPORT = "prefloop import FILE"
RANK = "prefloop annotate: people rank them  (prefloop crowd: simulated people do)"
AGAIN = "prefloop sample  (the next round), or: prefloop export policy --to FOLDER"


def following(project: Project, outcome: Outcome) -> str:
    """The next command after a stage; "" where none follows from it."""
    stage, result = outcome.stage, outcome.result
    if stage in ("import", "sft", "sample", "reward", "remove", "agreement"):
        new = (result.get("files") or [result]) if stage == "import" else []
        if any(file.get("rankings") for file in new) and not _wants_sft(project):
            return _learn(project)
        return _missing(project)
    if stage == "crowd":
        return _learn(project)
    if stage == "prioritise":
        return "prefloop annotate"
    if stage == "align":
        if result.get("best_step") == 0:
            return "prefloop align, with other settings or a better reward model: this run made no new policy"
        return _judge(project, int(result["round"]))
    if stage == "evaluate":
        return "prefloop report"
    if stage == "report":
        round = project.aligned_rounds()
        return AGAIN if round and _evaluated(project, round - 1) else _missing(project)
    if stage == "run":
        return f"open {project.root / 'report.html'}" if (project.root / "report.html").is_file() else _missing(project)
    return ""


def _missing(project: Project) -> str:
    """What the loop lacks first, in the round that it is in."""
    counts, round = project.store.counts(), project.aligned_rounds()
    if not counts["prompts"] and not counts["items"]:
        return IMPORT
    if _wants_sft(project):
        return "prefloop sft"
    if round and project.latest_round() < round:  # nothing is sampled in the round that could begin
        return AGAIN if _evaluated(project, round - 1) else _judge(project, round - 1)
    if not _ranked(project, round):
        return RANK if _to_rank(project, round) else "prefloop sample"
    if project.config.align.algorithm not in OFFLINE and not _has_reward_model(project, round):
        return "prefloop reward"
    return "prefloop align"


def _wants_sft(project: Project) -> bool:
    """Demonstrations are there, and nothing was made of them or after them."""
    begun = bool(project.store.models()) or next(project.store.items(source="sample"), None) is not None
    return not begun and bool(project.store.demonstrations(split="train", heldout=project.config.data.heldout))


def _ranked(project: Project, round: int) -> bool:
    """Whether there is anything to learn from in a round: rankings of its samples, or of imported lists before any."""
    asked = [c for c in project.store.criteria() if c not in NOT_COMPARABLE]
    source = "sample" if next(project.store.items(source="sample", round=round), None) else None
    found = (next(project.store.items(criterion=c, ranked=True, source=source, round=round), None) for c in asked)
    return any(item is not None for item in found)


def _to_rank(project: Project, round: int) -> bool:
    return next(project.store.items(ranked=False, round=round), None) is not None


def _has_reward_model(project: Project, round: int) -> bool:
    return any(row.metrics.get("round") == round for row in project.store.models("reward"))


def _learn(project: Project) -> str:
    """After new rankings."""
    return "prefloop align" if project.config.align.algorithm in OFFLINE else "prefloop reward"


def _judge(project: Project, round: int) -> str:
    """After a round was aligned: `evaluate`, where it can be done."""
    heldout = project.config.data.heldout
    if not project.store.prompts(split="heldout", heldout=heldout):
        return f"{IMPORT}: to evaluate takes held-out prompts, and there are none"
    if not project.config.evaluate.scorer and not _has_reward_model(project, round):
        return "prefloop reward, for something to judge by, then prefloop evaluate  (or set [evaluate] scorer)"
    return "prefloop evaluate"


def _evaluated(project: Project, round: int) -> bool:
    done = [run for run in record.runs(project.root) if run.manifest["stage"] == "evaluate" and run.status == "done"]
    return any(run.result.get("round") == round for run in done)
