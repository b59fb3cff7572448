"""Runs `prefloop export`, which writes models and data to where they are needed, whole or not at all.

It loads no model.

Data streams: however large the store, a few hundred items are in memory at a time. Only `probability="model"` reads all
rankings of a criterion at once, because the annotator model is one fit.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Literal

from prefloop import exchange, record
from prefloop.config import Config
from prefloop.config_problems import as_now, settings_of
from prefloop.errors import DataError, ModelError, NothingToDoError, suggest
from prefloop.exchange import Soft, Written
from prefloop.project.project import Project
from prefloop.report.card import Card, model_card
from prefloop.results import Aligned, Evaluated, Exported, ExportedModel, TrainedReward, Tuned, read_aligned
from prefloop.store import ModelRow, Store
from prefloop.store.stream import every_demonstration, every_item, every_prompt
from prefloop.types import Item

WHAT = ("policy", "reward", "rankings", "pairs", "kto", "demonstrations", "prompts")
MODELS = ("policy", "reward")


def export(
    project: Project,
    what: str,
    to: Path,
    criterion: str | None = None,
    round: int | None = None,
    overwrite: bool = False,
    *,
    pairing: str = "all",
    probability: Literal["votes", "model"] = "votes",
    run: str | None = None,
    push: str | None = None,
) -> Exported:
    """Write one of WHAT to `to`. Raises NothingToDoError where there is none, DataError where `to` exists.

    run: of policies only, the run of `align` or `sft` whose policy it is; else what `[run] choose` picks of the round.
    pairing, probability: of pairs only; see `exchange.write_pairs`. "model": the annotator model's posterior, which
    weighs people by how reliable they are.
    push: of one model, the "owner/name" on the Hugging Face hub that gets the folder, too; ModelError where it fails.
    Of data, the result says rows, bytes, sha256, format, layout (`schema`) and how many rows had to be mended.
    """
    if what not in WHAT:
        raise DataError(f'cannot export "{what}".{suggest(what, WHAT)}')
    if what in ("policy", "demonstrations", "prompts") and criterion is not None:
        raise DataError(f"--criterion does not apply to {what}: it chooses among reward models and rankings")
    if what not in MODELS and round is not None:
        raise DataError(f"--round does not apply to {what}: it chooses among models")
    if (to.is_file() or to.is_symlink() or (to.is_dir() and any(to.iterdir()))) and not overwrite:
        raise DataError(f"{to} exists already. Choose another name, or say --overwrite.")
    if what != "pairs" and (pairing, probability) != ("all", "votes"):
        raise DataError(f"--pairing and --probability do not apply to {what}: they say what rows of pairs are")
    if run is not None and what != "policy":
        raise DataError(f"--run does not apply to {what}: it chooses among policies")
    if push is not None and what not in MODELS:
        raise DataError(f"--push does not apply to {what}: it uploads a model")
    if what in MODELS:
        rows = [_policy(project, round, run)] if what == "policy" else _rewards(project, criterion, round)
        if push is not None and len(rows) > 1:
            raise DataError(f"--push uploads one model: choose among {len(rows)} with --criterion")
        models = _export_models(project, rows, to)
        return Exported(what=what, to=to, models=models, pushed=None if push is None else _push(to, push))
    to.parent.mkdir(parents=True, exist_ok=True)
    written = _export_data(project, what, to, criterion, pairing, probability)
    return Exported(what=what, to=to, **asdict(written))


def _policy(project: Project, round: int | None, run: str | None) -> ModelRow:
    """Return the policy of a run, the aligned policy of a round, or the newest policy there is."""
    rows = {row.version: row for row in project.store.models("policy")}
    if run is not None:
        found = {c.run: c for c in project.candidates()}
        if run not in found and run not in rows:
            raise DataError(f'no run called "{run}" has made a policy.{suggest(run, [*rows, *found])}')
        made = rows.get(run)
        if made is None or (run in found and found[run].unchanged):
            raise NothingToDoError(
                f"{run} made no policy: none of its steps was better than its start, "
                f"{project.policy_of(found[run]).version}"
            )
        if round is not None and (run not in found or found[run].round != round):
            raise DataError(f"{run} is no run of round {round}: leave out --round")
        return made
    if round is None:
        newest = project.store.latest_model("policy")
        if newest is None:
            raise NothingToDoError("no policy has been trained yet: run prefloop sft or prefloop align first")
        if not newest.version.startswith("align-"):
            return newest
        round = int(newest.metrics.get("round") or 0)
    if not project.candidates(round):
        raise NothingToDoError(f"round {round} has no aligned policy yet: run prefloop align first")
    after = project.policy(round + 1).version  # Where no step was better, it is the one that the round started from.
    if after not in rows:
        raise NothingToDoError(f"round {round} left the policy as it was: it is the model that you brought")
    return rows[after]


def _rewards(project: Project, criterion: str | None, round: int | None) -> list[ModelRow]:
    """Return the newest reward model of each criterion, or of one."""
    newest = {
        row.criterion or "": row
        for row in project.store.models("reward")
        if round is None or row.metrics.get("round") == round
    }
    if not newest:
        where = "" if round is None else f" in round {round}"
        raise NothingToDoError(f"there is no reward model{where} yet: run prefloop reward first")
    if criterion is None:
        return list(newest.values())
    if criterion not in newest:
        raise DataError(f'there is no reward model for "{criterion}".{suggest(criterion, list(newest))}')
    return [newest[criterion]]


def _export_models(project: Project, rows: list[ModelRow], to: Path) -> tuple[ExportedModel, ...]:
    """Export one model to the folder `to`, or several models to a folder each inside `to`."""
    from prefloop.engine.checkpoint import publish

    folders = {row.version: to if len(rows) == 1 else to / _folder_name(row.criterion or row.version) for row in rows}
    for row in rows:
        source = Path(project.ref(row).intact())

        def write(tmp: Path, source: Path = source, row: ModelRow = row) -> None:
            shutil.copytree(source, tmp, dirs_exist_ok=True)
            (tmp / "README.md").write_text(model_card(_card(project, row)), encoding="utf-8")

        publish(folders[row.version], write)
    return tuple(
        ExportedModel(row.version, row.criterion, row.metrics.get("round"), str(folders[row.version])) for row in rows
    )


def _card(project: Project, row: ModelRow) -> Card:
    """Return what the store and the run of a model know."""
    run = record.Run(project.root / record.RUNS / (row.run_id or row.version))
    manifest = run.manifest if (run.path / "manifest.json").is_file() else {}
    config, stage = as_now(manifest.get("config", {}), Config), manifest.get("stage", "")
    section = config.get(stage, {})
    method = {"sft": "sft", "reward": section.get("objective")}.get(stage) or section.get("algorithm") or row.kind
    options = {f"algorithms.{method}.{k}": v for k, v in config.get("algorithms", {}).get(method, {}).items()}
    shape = json.loads((project.root / row.path / "config.json").read_text(encoding="utf-8"))
    path = project.config.model.path or ""
    return Card(
        version=row.version,
        kind=row.kind,
        project=project.config.project.name,
        method=method,
        criterion=row.criterion,
        base=path if re.fullmatch(r"[\w.-]+/[\w.-]+", path) and not (project.root / path).exists() else None,
        dtype=shape.get("dtype") or shape.get("torch_dtype") or "float32",
        ancestors=list(_ancestors(project, row)),
        settings=settings_of({stage: section}, Config) | options,
        made=_made(row, run),
        evaluation=_evaluation(project, row),
        versions=manifest.get("versions", {}),
        seed=manifest.get("seed", project.config.project.seed),
    )


def _ancestors(project: Project, row: ModelRow) -> Iterator[tuple[str, str]]:
    """Yield (version, what it learnt from) of a model and of those that it started from, back to the base model."""
    known = {model.version: model for model in project.store.models()}
    by_weights = {model.weights_sha256: model.version for model in known.values()}
    while True:
        learnt = ""
        if row.snapshot_hash:
            snapshot = project.store.snapshot(row.snapshot_hash)
            learnt = f"{len(snapshot.ids)} {snapshot.kind}"
            run = record.Run(project.root / record.RUNS / (row.run_id or row.version))
            made = _made(row, run)
            if isinstance(made, TrainedReward) and made.simulated:
                learnt += f", {made.simulated} of them simulated"
            rewards = run.manifest["inputs"].get("rewards", {}) if run.path.is_dir() else {}
            if rewards:
                learnt += f", judged by {', '.join(by_weights.get(known_by, c) for c, known_by in rewards.items())}"
        yield row.version, learnt
        if row.parent not in known:
            break
        row = known[row.parent]
    yield row.parent or "base", "the base model"


def _made(row: ModelRow, run: record.Run) -> Tuned | TrainedReward | Aligned | None:
    """What the run of a model found; None where its folder is gone."""
    if row.kind == "reward":
        return TrainedReward.read(run.result)
    return read_aligned(run.result) if row.version.startswith("align-") else Tuned.read(run.result)


def _evaluation(project: Project, row: ModelRow) -> Evaluated | None:
    """The newest finished evaluation of a policy; None where there is none."""
    runs = [run for run in record.runs(project.root) if run.manifest["stage"] == "evaluate" and run.status == "done"]
    made = (Evaluated.read(run.result) for run in reversed(runs))
    return next((found for found in made if found and found.policy == row.version), None)


def _push(folder: Path, repository: str) -> str:
    """Upload an exported folder; return its address. The folder stays where an upload fails."""
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        made = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message="Upload by prefloop export")
        return str(made)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"{folder} is written, and could not be uploaded to {repository}: {lines[0][:300]} Log in with: hf auth "
            f"login (or set HF_TOKEN). Then: hf upload {repository} {folder}"
        ) from error


def _folder_name(criterion: str) -> str:
    """Return a folder's name, because a criterion may be called anything and a folder may not."""
    return re.sub(r"[^\w.-]+", "_", criterion).strip(".") or "reward"


def _export_data(
    project: Project, what: str, to: Path, criterion: str | None, pairing: str, probability: str
) -> Written:
    store = project.store
    if what == "prompts":
        if next(every_prompt(store), None) is None:
            raise NothingToDoError("there are no prompts yet: run prefloop import FILE")
        return exchange.write_prompts(every_prompt(store), to)
    if what == "demonstrations":
        if next(every_demonstration(store), None) is None:
            raise NothingToDoError("there are no demonstrations yet: import a file with prompt and completion")
        return exchange.write_demonstrations(every_demonstration(store), to)
    known = store.criteria()
    if criterion is not None and criterion not in known:
        raise DataError(f'nobody has ranked by "{criterion}".{suggest(criterion, list(known))}')
    if what == "rankings":
        return _export_rankings(store, to, criterion)
    if not known:
        raise NothingToDoError(
            "there are no rankings yet: import a file of rankings or pairs, or run prefloop annotate or prefloop crowd"
        )
    if next(store.items(criterion=criterion, ranked=True), None) is None:
        raise NothingToDoError("every ranking is by an excluded person or of a discarded item: nothing is left")
    items = store.items(criterion=criterion, ranked=True)
    if what == "kto":
        return exchange.write_kto(items, to)
    soft = _modelled(store) if probability == "model" else None
    return exchange.write_pairs(items, to, pairing=pairing, soft=soft)


def _export_rankings(store: Store, to: Path, criterion: str | None) -> Written:
    """Write every event, edits beside what they edit.

    Without a criterion it also writes what nobody has ranked yet, so that people elsewhere can rank it.
    """

    def items() -> Iterator[Item]:
        return every_item(store, criterion=criterion, ranked=None if criterion is None else True)

    if next(items(), None) is None:
        raise NothingToDoError("there is nothing ranked or sampled yet: run prefloop sample, or import rankings")
    return exchange.write_rankings(items(), to)


def _modelled(store: Store) -> Soft:
    """Return soft labels from the annotator model, fitted to a criterion when its first item comes by."""
    from prefloop.labels.reliability import fit_reliability

    @cache
    def fitted(criterion: str) -> Mapping[str, Mapping[tuple[str, str], float]]:
        items = list(store.items(criterion=criterion, ranked=True))
        model = fit_reliability(items, criterion)
        return {item.id: {(p.better, p.worse): p.p for p in model.soft_pairs(item.id)} for item in items}

    return lambda item, criterion: fitted(criterion).get(item.id, {})
