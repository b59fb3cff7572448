"""Refuses to go on with a run that stopped half-way where settings were changed in the meantime.

Going on would mix two settings in one result, and beginning anew without a word would throw hours away. The error names
both values. Settings that change no result (`Section.neutral`, threads) do not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from prefloop import record
from prefloop.config import Config
from prefloop.config_problems import as_now, places
from prefloop.errors import ConfigError
from prefloop.known_algorithms import is_offline
from prefloop.record import Run

# A stage reads these beside its own section; only these stages keep what they did so far.
_ALSO: dict[str, tuple[str, ...]] = {
    "sft": (),
    "sample": ("rollout.model", "rollout.api"),
    "reward": ("align.rollout.temperature", "align.max_tokens"),  # Normalisation reads these settings of samples.
    "align": (),
}
_RANKINGS = ("reward.criteria", "reward.annotators")  # Algorithms that learn from rankings read these.
_ALWAYS = ("project.seed", "data.heldout", "model.dtype", "model.chat")


def refuse_other_settings(
    root: Path, config: Config, stage: str, fingerprint: str, inputs: Mapping[str, Any], verb: str
) -> None:
    """Raise ConfigError where the newest run of this piece of work stopped half-way and had other settings.

    verb: the command that begins another one
    """
    run = _newest(root, config, stage, inputs) if stage in _ALSO else None
    if run is None or run.status == "done" or run.manifest["fingerprint"] == fingerprint:
        return
    saved = sorted(path.name for path in (run.path / "checkpoints").glob("step-*"))
    if not saved and stage != "sample":  # It has no checkpoint, so nothing would be lost.
        return
    try:
        then = Config.model_validate(as_now(run.manifest["config"], Config))
    except ValidationError:  # The run is of another version.
        return
    changed = [*_changed(stage, then, config), *_changed_code(stage, config, run.manifest["inputs"], inputs)]
    if changed:
        where = f", after step {int(saved[-1].removeprefix('step-'))}" if saved else ""
        raise ConfigError(
            "\n".join(
                [
                    f"{run.path} stopped half-way{where}, and was begun with other settings:",
                    *(f"  {key}: {_shown(before)} then, {_shown(now)} now" for key, before, now in changed),
                    f"To go on with it, put them back. To begin another run with these: prefloop {verb} --new",
                ]
            )
        )


def _newest(root: Path, config: Config, stage: str, inputs: Mapping[str, Any]) -> Run | None:
    """Return the newest run of the same stage, round and criterion, and for align of the same algorithm."""
    for run in reversed(record.runs(root)):
        manifest = run.manifest
        same = manifest["stage"] == stage and all(
            manifest["inputs"].get(key) == inputs.get(key) for key in ("round", "criterion")
        )
        algorithm = manifest["config"].get("align", {}).get("algorithm")
        if same and (stage != "align" or algorithm == config.align.algorithm):
            return run
    return None


def _changed(stage: str, then: Config, now: Config) -> Iterator[tuple[str, Any, Any]]:
    before, after = getattr(then, stage).deciding(), getattr(now, stage).deciding()
    # A newer setting is left out where it has its default.
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    own = [places(Config, stage, name)[0] for name in changed]
    also = (*_ALSO[stage], *(_RANKINGS if stage == "align" and is_offline(now.align.algorithm) else ()), *_ALWAYS)
    for key in (*own, *also):
        old, new = (reduce(getattr, key.split("."), config) for config in (then, now))
        if old != new:
            yield key, old, new
    algorithm = {"align": now.align.algorithm, "reward": now.reward.objective}.get(stage, "")
    old_options, options = then.algorithms.get(algorithm, {}), now.algorithms.get(algorithm, {})
    for name in sorted({*old_options, *options}):
        if old_options.get(name) != options.get(name):
            yield f"algorithms.{algorithm}.{name}", old_options.get(name), options.get(name)


def _changed_code(
    stage: str, now: Config, then_inputs: Mapping[str, Any], inputs: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield what changed in the code of the caller's algorithm, rewards and checks, by the hashes in the manifest."""
    if then_inputs.get("algorithm") != inputs.get("algorithm"):
        yield "the code of the algorithm", then_inputs.get("algorithm"), inputs.get("algorithm")
    if stage == "align" and now.align.reward is not None and then_inputs.get("rewards") != inputs.get("rewards"):
        yield f"the code of {now.align.reward}", then_inputs.get("rewards"), inputs.get("rewards")
    before, after = (found.get("scorers") or {} for found in (then_inputs, inputs))
    for name in sorted(before.keys() & after.keys()):
        if before[name] != after[name]:
            yield f"the code of {now.align.objective.scorers[name]}", before[name], after[name]
    if then_inputs.get("behaviour") != inputs.get("behaviour"):
        yield "bounds, checks and prompts of [behaviour]", then_inputs.get("behaviour"), inputs.get("behaviour")


def _shown(value: Any) -> str:
    return "the default" if value is None else repr(value)
