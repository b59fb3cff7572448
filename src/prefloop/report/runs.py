"""Compares the runs of `align` in each round: which settings differ, what came out, and which run counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefloop.config import Config
from prefloop.config_problems import settings_of
from prefloop.report.text import beyond, compact, number, percent, signed, span
from prefloop.results import Evaluated, Interval, read_aligned
from prefloop.results.base import from_json, to_json

Row = dict[str, Any]
HEAD = (
    "Round",
    "Run",
    "Method",
    "Settings that differ",
    "Reward",
    "KL",
    "Length",
    "Validation",
    "Test",
    "95 % interval",
    "Verdict",
)


def align_runs(gathered: Sequence[Mapping[str, Any]], chosen: Mapping[int, str | None]) -> list[Row]:
    """Return one row for each run, by round and age.

    chosen: the run that is the round's policy; None where it left it unchanged
    """
    aligned = sorted((g for g in gathered if g["stage"] == "align"), key=lambda g: g["round"])
    made = [Evaluated.read(g["result"]) for g in gathered if g["stage"] == "evaluate"]
    evaluated = {found.policy: (found, found.sampled) for found in made if found and found.sampled}
    rows = []
    for run in aligned:
        result, settings = read_aligned(run["result"]), _settings(run)
        others = [_settings(other) for other in aligned if other["round"] == run["round"]]
        keys = sorted({key for other in others for key in other})
        unlike = [key for key in keys if any(other.get(key) != others[0].get(key) for other in others)]
        row: Row = {
            "run": run["run"],
            "round": run["round"],
            "status": run["status"],
            "algorithm": (result.algorithm if result else None) or run["config"].get("align", {}).get("algorithm"),
            "chosen": chosen.get(run["round"]) == run["run"],
            "unchanged": result is not None and result.best_step == 0,
            "differs": {key: settings[key] for key in unlike if key in settings},
            **{name: getattr(result, name, None) for name in ("reward", "kl", "length", "win_rate")},
            "collapsed": list(result.collapsed or ()) if result else [],
            "evaluation": None,
        }
        if run["run"] in evaluated and not row["unchanged"]:
            found, sampled = evaluated[run["run"]]
            row["evaluation"] = {
                "win_rate": to_json(sampled.judge_win_rate or sampled.win_rate),
                "judge": sampled.judge_win_rate is not None,
                "independent": found.independent is not False,
            }
            row["collapsed"] = list(found.collapsed or row["collapsed"])
            for name in ("reward", "kl", "length"):  # An algorithm that draws no samples does not know these.
                row[name] = sampled.policy[name] if row[name] is None else row[name]
        rows.append(row)
    return rows


def _settings(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides a run as one flat mapping:

    [align], the options of its algorithm, the seed, its reward models.
    """
    config = run["config"]
    flat = settings_of({"align": config.get("align", {})}, Config)
    name = flat.pop("align.algorithm", "")
    flat |= {f"algorithms.{name}.{key}": value for key, value in config.get("algorithms", {}).get(name, {}).items()}
    flat["project.seed"] = run["seed"]
    rewards = run["inputs"].get("rewards")
    return flat | ({"reward models": ", ".join(str(v)[:8] for v in rewards.values())} if rewards else {})


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Return the rows of rounds that have several runs, as text; [] where every round has one."""
    crowded = {row["round"] for row in rows if sum(other["round"] == row["round"] for other in rows) > 1}
    return [_text(row) for row in rows if row["round"] in crowded]


def _text(row: Row) -> list[str]:
    win = from_json(Interval, row["evaluation"]["win_rate"]) if row["evaluation"] else None
    return [
        str(row["round"]),
        row["run"],
        str(row["algorithm"] or "–").upper(),
        ", ".join(f"{key} = {_value(value)}" for key, value in row["differs"].items()) or "–",
        signed(row["reward"]),
        number(row["kl"], 1),
        number(row["length"], 1),
        percent(row["win_rate"]),
        percent(win.mean) if win else "–",
        span(win) if win else "–",
        ("the round's policy; " if row["chosen"] else "") + _verdict(row),
    ]


def _value(value: Any) -> str:
    return compact(value) if isinstance(value, float) else "none" if value is None else str(value)


def _verdict(row: Row) -> str:
    if row["status"] != "done":
        return str(row["status"])
    if row["unchanged"]:
        return "no new policy: its best step was the start"
    if row["collapsed"]:
        return f"collapsed: {'; '.join(row['collapsed'])}"
    if not row["evaluation"]:
        return f"not evaluated: prefloop evaluate --run {row['run']}"
    if not row["evaluation"]["independent"]:
        return "not independent: the same prompts chose it"
    win = from_json(Interval, row["evaluation"]["win_rate"])
    said = {1: "better than the reference", -1: "worse than the reference", 0: "no clear difference"}
    sure = beyond(win, 0.5)
    return "too few prompts to tell" if sure is None else said[sure]
