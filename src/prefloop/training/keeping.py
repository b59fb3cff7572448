"""Decides which weights of a run of `align` are its result. A policy that has collapsed is never kept.

At each evaluation the policy answers the validation prompts, and what is seen of its answers is compared with the
reference's answers and with those from before the first step.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prefloop.diagnose.collapse import collapsed, signs
from prefloop.engine.base import Engine
from prefloop.engine.checkpoint import publish
from prefloop.engine.profiling import span
from prefloop.errors import NothingToDoError
from prefloop.models.folder import file_hash
from prefloop.models.tokenization import Tokenization
from prefloop.project.left_out import LeftOut
from prefloop.project.project import Project
from prefloop.record import Run
from prefloop.results import Breach, Collapse, Constraint
from prefloop.results.base import from_json, to_json
from prefloop.training.behaviour import Watch
from prefloop.training.criteria import constraints_of, out_of_reach, shown_constraints
from prefloop.training.frozen import round_reference
from prefloop.training.kl_calibration import lower_end
from prefloop.training.policy_evaluation import Looked, Validation, wins
from prefloop.training.progress import Progress
from prefloop.types import Prompt

AGREES = 1e-4  # in nats; float32 gives about 1e-5, bfloat16 about 1e-2


@dataclass(frozen=True)
class Kept:
    """The step whose weights were kept, with what was seen of them; None of what was not looked at."""

    step: int
    reward: float | None
    kl: float | None
    win_rate: float | None
    length: float | None
    ended: float | None
    collapsed: tuple[str, ...] | None
    broken: tuple[str, ...] | None
    heldout_accuracy: float | None
    constraints: Mapping[str, Constraint] | None = None


class KeepBest:
    """Keeps the weights with the highest held-out reward, of those within the KL budget. Over the budget it stops.

    Where criteria have bounds, a step counts only if all bounds are kept, by the lower ends of their intervals.

    It is for algorithms that learn from samples. What it remembers is in `progress`.
    """

    def __init__(
        self,
        project: Project,
        run: Run,
        engine: Engine,
        validation: Validation,
        progress: Progress,
        from_reference: bool,
    ):
        """Remember what is evaluated. from_reference: whether the policy starts as the reference."""
        self.project, self.run, self.engine, self.validation = project, run, engine, validation
        self.looked: Looked | None = None  # the last look
        self.gain: list[float] | None = None  # the judge's over the reference's answers then, where it calibrates
        self.settings, self.progress, self.from_reference = project.config.align, progress, from_reference
        self.watch = Watch(project, validation.tokenization, validation.sampling)

    def begin(self, fresh: bool) -> dict[str, float]:
        """Round the reference to `[align] frozen_dtype`.

        Where a run begins, measure what that alone adds to the KL.
        """
        if not self.settings.frozen_dtype:
            return {}
        rows = self.validation.answers(self.engine, f"{self.run.name}/0").batch if fresh else None
        shift, a_sequence = round_reference(self.engine, self.settings.frozen_dtype, rows)
        if fresh:
            self.progress.reference_shift = shift
        return {"kl_baseline": a_sequence}

    def evaluate(self, step: int) -> dict[str, float]:
        """Look at the policy, keep its weights if they are the best so far, and stop if the KL budget is spent."""
        state = self.progress
        looked = self.validation.look(self.engine, f"{self.run.name}/{step}", state.reference_shift)
        self.looked = looked
        self.run.samples(self.validation.sample_rows(step, looked))
        if not state.start:
            self._remember_start(looked)
        # What is optimised chooses the step, so that the EOS rule counts; or the judge, where it sets the KL target.
        reward, kl = float(np.mean(looked.rewards)), looked.figures["kl"]
        self.gain = self._gain(looked)
        score = reward if self.gain is None else lower_end(self.gain)
        state.sampler_agrees = looked.figures["sampler_mismatch"] < AGREES
        gone = collapsed(*(signs(looked.figures, at["figures"]) for at in (state.reference, state.start)))
        within = kl <= self.settings.evaluation.kl_budget
        constraints = self._constraints(looked)
        behaved = self.watch.look(step, self.engine, looked.rolls, looked.batch, state.reference.get("answers"))
        eligible = within and not gone and not behaved.broken and all(c.met for c in constraints.values())
        if step == 0 or (eligible and score > state.best_reward):
            state.best_step, state.best_reward = step, score if eligible else -math.inf
            with span("I/O"):
                self.engine.save("policy", self.run.path / "best")
        won = wins(looked.rewards, state.reference["rewards"])
        length, ended = looked.figures["length"], looked.figures["ended"]
        held = {"constraints": {name: to_json(c) for name, c in constraints.items()}} if constraints else {}
        broken = self._broken(constraints)
        state.evals.append({"step": step, "reward": reward, "kl": kl, "win_rate": won, "length": length,
                            "ended": ended, "collapsed": gone, "broken": behaved.broken, **held})  # fmt: skip
        if not within and self._spent(kl):
            state.stopped = f"KL {kl:.1f} nats a sequence is over the budget of {self.settings.evaluation.kl_budget:g}"
        state.stopped = state.stopped or broken
        text = self.validation.shown(looked, step)
        self.project.say(
            f"step {step}: held-out reward {reward:+.3f}, KL {kl:.2f} nats{shown_constraints(constraints)} | {text}"
        )
        _warn(self.project, step, gone)
        return {
            **{f"eval_{name}": value for name, value in looked.figures.items()},
            **{f"eval_constraint_{name}": c.mean for name, c in constraints.items()},
            **{f"eval_constraint_low_{name}": c.low for name, c in constraints.items()},
            **behaved.metrics,
            "eval_win_rate": won,
        }

    def _gain(self, looked: Looked) -> list[float] | None:
        """Return what the judge says of each answer more than of the reference's; None where it calibrates nothing."""
        if self.progress.calibration is None:
            return None
        assert looked.judged is not None
        return [ours - theirs for ours, theirs in zip(looked.judged, self.progress.reference["judged"], strict=True)]

    def _spent(self, kl: float) -> bool:
        """Return whether a KL over the budget ends the run: not where it is being brought back (`calibrate_kl`)."""
        last = self.progress.evals[-2]["kl"] if len(self.progress.evals) > 1 else 0.0
        return self.progress.calibration is None or kl >= last > self.settings.evaluation.kl_budget

    def _constraints(self, looked: Looked) -> dict[str, Constraint]:
        """Return how each criterion with a bound does on the validation prompts. What is aimed at follows from it."""
        balance = self.progress.balance
        if balance is None:
            return {}
        found = constraints_of(balance.goal, looked.rolls.scores.parts)
        self.progress.balance = balance.aims({name: c.mean - c.low for name, c in found.items()})
        return found

    def _broken(self, constraints: Mapping[str, Constraint]) -> str:
        """Return why a lexicographic run stops: a bound that an earlier step kept is surely not kept any more."""
        balance = self.progress.balance
        if balance is None or balance.goal.kind != "lexicographic":
            return ""
        kept = any(all(c["met"] for c in at["constraints"].values()) for at in self.progress.evals)
        lost = next((name for name, c in constraints.items() if c.high < c.bound), None)
        return f"{lost} was kept at an earlier step, and is below its bound now" if kept and lost else ""

    def unmet(self) -> list[str]:
        """Say it where no step keeps all bounds, with what came nearest."""
        looks = [e for e in self.progress.evals if e.get("constraints")]
        if not looks or any(all(c["met"] for c in e["constraints"].values()) for e in looks):
            return []
        nearest = max(looks, key=lambda e: min((c["low"] - c["bound"]) for c in e["constraints"].values()))
        before, held = (from_json(Kept, at).constraints or {} for at in (looks[0], nearest))
        said = [
            "no step keeps every bound by the lower end of its 95 % interval on validation prompts, so the policy "
            f"stays as it was. Step {nearest['step']} came nearest{shown_constraints(held)}; at step 0 it was "
            f"{', '.join(f'{name} {c.mean:.3g}' for name, c in before.items())}."
        ]
        said += [f"{why[0].upper()}{why[1:]}." for why in self.progress.start.get("out_of_reach", ())]
        for name, c in held.items():
            if c.met or len(said) > 1:
                continue
            if self._at_most(name):
                said.append(
                    f"The multiplier of {name} is at multiplier_max, so that hardly anything else was learnt: the "
                    "bound is out of reach of this policy, or of so few steps. Lower it, or give more steps."
                )
            elif nearest["step"] == 0 and len(held) > 1:
                said.append(
                    "No step came nearer to all bounds than the start: they are at odds with each other, or out of "
                    "reach. Lower one, or take one out."
                )
            elif c.mean >= c.bound:
                said.append(
                    f"The mean of {name} keeps its bound, and the interval is too wide to show it: measure on more "
                    "prompts ([align.evaluation] eval_prompts), or give more steps."
                )
            else:
                said.append("Give more steps, or lower the bound.")
        return [" ".join(said)]

    def _at_most(self, name: str) -> bool:
        balance = self.progress.balance
        return balance is not None and balance.logs.get(name, -math.inf) >= math.log(balance.most)

    def _remember_start(self, looked: Looked) -> None:
        """Remember the answers that later evaluations are compared with: the first evaluation's and the reference's."""
        state = self.progress
        state.start = {"figures": looked.figures, "rewards": looked.rewards}
        if state.balance and (far := out_of_reach(state.balance.goal, looked.rolls.scores.parts)):
            state.start["out_of_reach"] = far
            self.project.say(f"warning: no step can be kept: {'; '.join(far)}")
        shown, engine = looked, self.engine
        if not self.from_reference:
            engine = self.engine.with_policy("reference")
            shown = self.validation.look_at_reference(self.engine)
            self.run.samples(self.validation.sample_rows(0, shown, "reference"))
        answers = self.watch.remembered(engine, shown.rolls, shown.batch)
        state.reference = {"figures": shown.figures, "rewards": shown.rewards, "answers": answers}
        if state.calibration is not None:
            state.reference["judged"] = shown.judged
        runs_on = self.validation.tokenization.runs_on
        if runs_on and looked.figures["ended"] < 0.5:
            self.project.say(f"warning: {looked.figures['ended']:.0%} of the answers ended by themselves: {runs_on}")

    def best(self) -> Kept:
        """The step that was kept, and what was seen of it."""
        state = self.progress
        return from_json(Kept, next(e for e in state.evals if e["step"] == state.best_step))

    @property
    def reward_before(self) -> float:
        """The held-out reward before the first step."""
        return float(self.progress.evals[0]["reward"])

    def collapses(self) -> tuple[Collapse, ...]:
        """The steps at which the policy had collapsed."""
        return _collapses(self.progress.evals)

    def breaches(self) -> tuple[Breach, ...] | None:
        """The steps at which the policy broke a bound of behaviour."""
        return _breaches(self.progress.evals)

    @property
    def stopped(self) -> str:
        """Why the run ended."""
        return self.progress.stopped or "all steps done"

    def publish(self) -> str:
        """Make what was kept the run's model. Returns the hash of its weights."""
        model = self.run.path / "model"
        publish(model, lambda tmp: _copy(self.run.path / "best", tmp))
        return file_hash(model)


class KeepNewest:
    """Keeps the newest weights that have not collapsed, in the run's `model/`.

    It is for algorithms that learn from rankings alone. They sample nothing, so that a policy may come to repeat
    itself, or go far from its reference, while every figure of the rankings looks well.
    """

    def __init__(
        self,
        project: Project,
        run: Run,
        engine: Engine,
        tokenization: Tokenization,
        trained_on: Sequence[Prompt],
        left_out: LeftOut,
        measure: Callable[[], Mapping[str, float]],
        from_reference: bool,
    ):
        """Remember what is evaluated.

        measure: figures of the rankings, which do not choose
        from_reference: whether the policy starts as the reference
        """
        self.project, self.run, self.engine, self.measure = project, run, engine, measure
        self.from_reference = from_reference
        self.carried: dict[str, Any] = {"best_step": 0, "weights": None, "evals": [], "before": []}
        self.validation: Validation | None = None
        try:
            self.validation = Validation(project, tokenization, None, trained_on, left_out, temperature=1.0)
        except NothingToDoError as error:  # Rankings may be learnt from where no prompt leaves room for an answer.
            project.say(f"warning: nobody looks at what the policy answers while it learns: {error}")
        self.watch = Watch(project, tokenization, self.validation.sampling if self.validation else None)

    def begin(self) -> None:
        """Evaluate the reference's answers, and the policy's where it starts from another one.

        This is called before the first step.
        """
        if self.validation is None:
            return
        looks = [self.validation.look_at_reference(self.engine)]
        if not self.from_reference:
            looks.append(self.validation.look(self.engine, f"{self.run.name}/0"))
        self.carried["before"] = [look.figures for look in looks]
        reference = self.engine.with_policy("reference")
        self.carried["answers"] = self.watch.remembered(reference, looks[0].rolls, looks[0].batch)

    def evaluate(self, step: int) -> dict[str, float]:
        """Evaluate for `fit`, with the weights that would be saved."""
        measured, gone, broken = dict(self.measure()), list[str](), list[str]()
        found: dict[str, float] = dict(measured)
        seen: dict[str, Any] = {"step": step, **measured}
        if self.validation is not None:
            looked = self.validation.look(self.engine, f"{self.run.name}/{step}")
            figures = looked.figures
            gone = collapsed(*(signs(figures, before) for before in self.carried["before"]))
            seen |= {name: figures[name] for name in ("kl", "length", "ended")} | {"collapsed": gone}
            said = f"held-out accuracy {found['heldout_accuracy']:.3f}, " if "heldout_accuracy" in found else ""
            text = self.validation.shown(looked, step)
            self.project.say(f"step {step}: {said}KL {figures['kl']:.2f} nats | {text}")
            behaved = self.watch.look(step, self.engine, looked.rolls, looked.batch, self.carried.get("answers"))
            broken = behaved.broken
            seen["broken"] = broken
            found |= {f"eval_{name}": value for name, value in figures.items()} | behaved.metrics
        self.carried["evals"] = [e for e in self.carried["evals"] if e["step"] != step] + [seen]
        _warn(self.project, step, gone)
        if not gone and not broken:
            self.engine.save("policy", self.run.path / "model")
            self.carried |= {"best_step": step, "weights": self.engine.weights_hash("policy")}
        return found

    def best(self) -> Kept:
        """The step that was kept, and what was seen of it."""
        step = self.carried["best_step"]
        return from_json(Kept, next((e for e in self.carried["evals"] if e["step"] == step), {"step": step}))

    @property
    def weights(self) -> str | None:
        """The hash of what was kept; None where nothing was."""
        weights: str | None = self.carried["weights"]
        return weights

    def collapses(self) -> tuple[Collapse, ...]:
        """The steps at which the policy had collapsed."""
        return _collapses(self.carried["evals"])

    def breaches(self) -> tuple[Breach, ...] | None:
        """The steps at which the policy broke a bound of behaviour."""
        return _breaches(self.carried["evals"])


def _warn(project: Project, step: int, gone: Sequence[str]) -> None:
    if gone:
        project.say(f"warning: step {step}: the policy has collapsed, and is not kept: {'; '.join(gone)}")


def _collapses(evals: Sequence[Mapping[str, Any]]) -> tuple[Collapse, ...]:
    return tuple(Collapse(e["step"], tuple(e["collapsed"])) for e in evals if e.get("collapsed"))


def _breaches(evals: Sequence[Mapping[str, Any]]) -> tuple[Breach, ...] | None:
    return tuple(Breach(e["step"], tuple(e["broken"])) for e in evals if e.get("broken")) or None


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)
