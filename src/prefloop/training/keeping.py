"""Which weights of a run that draws no samples are its result: the newest that have not collapsed.

Learning from rankings alone nothing is sampled, so that a policy may come to repeat itself, or go far from its
reference, while every figure of the rankings looks well. So at each evaluation it answers the validation prompts, as in
every other run of `align`, and what is seen of its answers is held against the reference's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefloop.diagnose.collapse import collapsed, signs
from prefloop.engine.base import Engine
from prefloop.errors import NothingToDoError
from prefloop.models.tokenization import Tokenization
from prefloop.project.left_out import LeftOut
from prefloop.project.project import Project
from prefloop.record import Run
from prefloop.training.policy_evaluation import Validation
from prefloop.types import Prompt


class Keeping:
    """Looks at the policy at each evaluation, and keeps it in the run's `model/` unless it has collapsed.

    carried: what has been seen and kept so far; it goes into every checkpoint.
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
        """measure: figures of the rankings, which do not choose.  from_reference: the policy starts as it."""
        self.project, self.run, self.engine, self.measure = project, run, engine, measure
        self.from_reference = from_reference
        self.carried: dict[str, Any] = {"best_step": 0, "weights": None, "evals": [], "before": []}
        self.validation: Validation | None = None
        try:
            self.validation = Validation(project, tokenization, None, trained_on, left_out, temperature=1.0)
        except NothingToDoError as error:  # rankings may be learnt from where no prompt leaves room for an answer
            project.say(f"warning: nobody looks at what the policy answers while it learns: {error}")

    def begin(self) -> None:
        """What the reference answers, and the policy where it starts from another one. Asked before the first step."""
        if self.validation is None:
            return
        looks = [self.validation.look_at_reference(self.engine)]
        if not self.from_reference:
            looks.append(self.validation.look(self.engine, f"{self.run.name}/0"))
        self.carried["before"] = [look.figures for look in looks]

    def evaluate(self, step: int) -> dict[str, float]:
        """For `fit`, with the weights that would be saved."""
        measured, gone = dict(self.measure()), list[str]()
        found: dict[str, float] = dict(measured)
        seen: dict[str, Any] = {"step": step, **measured}
        if self.validation is not None:
            self.engine.sync()
            looked = self.validation.look(self.engine, f"{self.run.name}/{step}")
            figures = looked.figures
            gone = collapsed(*(signs(figures, before) for before in self.carried["before"]))
            seen |= {name: figures[name] for name in ("kl", "length", "ended")} | {"collapsed": gone}
            said = f"held-out accuracy {found['heldout_accuracy']:.3f}, " if "heldout_accuracy" in found else ""
            text = self.validation.shown(looked, step)
            self.project.say(f"step {step}: {said}KL {figures['kl']:.2f} nats | {text}")
            found |= {f"eval_{name}": value for name, value in figures.items()}
        self.carried["evals"] = [e for e in self.carried["evals"] if e["step"] != step] + [seen]
        if gone:
            self.project.say(f"warning: step {step}: the policy has collapsed, and is not kept: {'; '.join(gone)}")
        else:
            self.engine.save("policy", self.run.path / "model")
            self.carried |= {"best_step": step, "weights": self.engine.weights_hash("policy")}
        return found

    def to_json(self) -> dict[str, Any]:
        """For the run's result: the step that was kept, what was seen of it, and the steps that had collapsed."""
        best, evals = self.carried["best_step"], self.carried["evals"]
        at_best: dict[str, Any] = next((e for e in evals if e["step"] == best), {})
        return {
            **dict.fromkeys(("kl", "length", "ended", "collapsed")),
            **{name: value for name, value in at_best.items() if name != "step"},
            "best_step": best,
            "collapses": [{"step": e["step"], "signs": e["collapsed"]} for e in evals if e.get("collapsed")],
            "stopped": "all steps done",
            "weights": self.carried["weights"],
            **({"validation": self.validation.to_json()} if self.validation else {}),
        }
