"""What came out of a run, as a few figures with their intervals. A result of another version gives what it has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prefloop.diagnose.records import RunRecord
from prefloop.report.text import number, percent, signed


@dataclass(frozen=True)
class Fact:
    """A figure of a result. interval: "49 to 71 %", or ""."""

    label: str
    value: str
    interval: str = ""


def facts(run: RunRecord) -> list[Fact]:
    """Return the figures of a run's result; where it has none yet, those of its newest evaluation."""
    if not run.result:
        return [fact for fact in _so_far(run) if fact.value != "–"]
    made = {"align": _aligned, "reward": _reward, "evaluate": _evaluated, "sft": _tuned}.get(run.stage)
    if made is None:
        shown = ((k, v) for k, v in run.result.items() if isinstance(v, (int, float)) and not isinstance(v, bool))
        return [Fact(key.replace("_", " ").capitalize(), _number(value)) for key, value in shown][:8]
    return [fact for fact in made(run.result) if fact.value != "–"]


def _so_far(run: RunRecord) -> Iterator[Fact]:
    reward, accuracy = run.series("eval_reward"), run.series("heldout_accuracy")
    newest = reward if reward is not None else accuracy
    if newest is None:
        return
    yield Fact("Newest evaluation", f"step {newest.steps[-1]}")
    if reward is not None:
        before = float(reward.values[0]) if len(reward) > 1 else None
        yield Fact("Held-out reward", signed(float(reward.values[-1])), _before(before))
    yield Fact("KL to the reference", _with("nats", number(_last(run, "eval_kl"), 1)))
    yield Fact("Win rate", percent(_last(run, "eval_win_rate")), "on validation prompts")
    yield Fact("Length", _with("tokens", number(_last(run, "eval_length"), 1)))
    yield Fact("Held-out accuracy", percent(_last(run, "heldout_accuracy")))


def _last(run: RunRecord, name: str) -> float | None:
    series = run.series(name)
    return None if series is None else float(series.values[-1])


def _before(value: float | None) -> str:
    return "" if value is None else f"{signed(value)} before"


def _aligned(result: Mapping[str, Any]) -> Iterator[Fact]:
    if "best_step" in result:
        kept = result["best_step"]
        yield Fact("Kept step", str(kept) if kept else "0, the start")
    before = finite(result.get("reward_before"))
    yield Fact("Held-out reward", signed(finite(result.get("reward"))), _before(before))
    yield Fact("KL to the reference", _with("nats", number(finite(result.get("kl")), 1)))
    yield Fact("Win rate", percent(finite(result.get("win_rate"))), "on validation prompts")
    yield Fact("Length", _with("tokens", number(finite(result.get("length")), 1)))
    yield Fact("Held-out accuracy", percent(finite(result.get("heldout_accuracy"))))
    if isinstance(result.get("stopped"), str):
        yield Fact("Ended", result["stopped"])


def _reward(result: Mapping[str, Any]) -> Iterator[Fact]:
    heldout = _object(result.get("heldout"))
    pairs = finite(heldout.get("pairs"))
    between = _between(heldout, as_percent=True)
    yield Fact("Held-out accuracy", percent(finite(heldout.get("accuracy"))), between)
    yield Fact("On training lists", percent(finite(result.get("train_accuracy"))))
    yield Fact("Held-out pairs", number(pairs, 0) if pairs is not None else "–")
    yield Fact("Calibration error", number(finite(heldout.get("ece"))))
    yield Fact("Rankings", _number(result.get("rankings")))


def _evaluated(result: Mapping[str, Any]) -> Iterator[Fact]:
    sampled = _object(result.get("sampled"))
    yield _estimate("Win rate", sampled.get("win_rate"), as_percent=True)
    yield _estimate("Reward gained", sampled.get("reward_gain"))
    yield _estimate("Win rate by the judge", sampled.get("judge_win_rate"), as_percent=True)
    yield _estimate("Gain by the judge", sampled.get("judge_gain"))
    policy = _object(sampled.get("policy"))
    yield Fact("KL to the reference", _with("nats", number(finite(policy.get("kl")), 1)))
    yield Fact("Prompts", _number(result.get("prompts")))


def _tuned(result: Mapping[str, Any]) -> Iterator[Fact]:
    yield Fact("Held-out loss", _with("nats a token", number(finite(result.get("heldout_loss")), 3)))
    yield Fact("Demonstrations", _number(result.get("demonstrations")))
    yield Fact("Steps", _number(result.get("steps")))


def _estimate(label: str, found: object, as_percent: bool = False) -> Fact:
    value = _object(found)
    mean = finite(value.get("mean"))
    return Fact(label, percent(mean) if as_percent else signed(mean), _between(value, as_percent))


def _between(value: Mapping[str, Any], as_percent: bool) -> str:
    low, high = finite(value.get("low")), finite(value.get("high"))
    if low is None or high is None:
        return ""
    return f"{percent(low)[:-2]} to {percent(high)}" if as_percent else f"{signed(low)} to {signed(high)}"


def finite(value: object) -> float | None:
    """Return a number of a file; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> str:
    found = finite(value)
    return "–" if found is None else f"{found:,.0f}" if found == int(found) else f"{found:,.4g}"


def _with(unit: str, text: str) -> str:
    return text if text == "–" else f"{text} {unit}"
