"""Quality against compliance on the built-in demo: what weights and bounds of [align.objective] come to.

    python benchmarks/objective.py OUT [--seeds 1]

The customers of the demo's desk rank what they like: an answer that names their problem, offers the right step, is
brief and polite, and promises them more than the desk may. Whether an answer keeps the desk's policy (it promises
nothing forbidden, and no refund against the rules) is a rule. The reward model of the customers is trained once a seed;
then `prefloop frontier` goes through bounds, and through weights. Printed are means over seeds on held-out prompts:
what the reward model of the customers says, in sds of the reference, and the share of answers that keep the policy; and
in how many seeds that share was at the bound, or surely so. OUT/SEED is a project.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from prefloop.demo.run import make_projects
from prefloop.project.project import Project
from prefloop.results import FrontPoint, Traded
from prefloop.stages.crowd import crowd
from prefloop.stages.frontier import frontier
from prefloop.stages.sample import sample
from prefloop.stages.train_reward import reward

DESK = '''"""What the demo's customers like, and the policy of its desk."""

from prefloop.demo.quality import quality
from prefloop.demo.reading import read_answer
from prefloop.types import Prompt


def customers(prompt, text):
    q = quality(Prompt(prompt), text)
    matter = 0.25 * q.acknowledge + 0.3 * q.step + (0.15 * q.brief + 0.15 * q.polite) * q.matter
    return q.readable * (matter + 0.3 * bool(read_answer(text).forbidden))


def policy(prompt, text):
    return float(quality(Prompt(prompt), text).safe)
'''
SETTINGS = [
    'crowd.scorer="desk.py:customers"',
    "crowd.criterion=customers",
    'align.objective.scorers={policy="desk.py:policy"}',
    "align.objective.kind=constrained",
    "align.objective.maximise=customers",
    "align.objective.subject_to={policy=0.9}",
    "align.steps=10",
    "align.evaluation.eval_prompts=100",
    "align.evaluation.eval_every=5",
    'evaluate.scorer="desk.py:customers"',
    "evaluate.samples=2",
]
SWEEPS = {"bounds": "[0.9]", "weights": "[0.0, 0.5]"}


def fronts(root: Path, seed: int) -> dict[str, Traded]:
    """Make or go on with the project of a seed."""
    make_projects(root, seed)
    (root / "desk.py").write_text(DESK)
    with Project.open(root, SETTINGS) as project:
        sample(project, 0)
        crowd(project)
        reward(project, 0)
    found = {}
    for name, values in SWEEPS.items():
        with Project.open(root, [*SETTINGS, f"frontier.{name}={values}"]) as project:
            found[name] = frontier(project, 0)
        (root / "frontier.svg").rename(root / f"frontier-{name}.svg")
    return found


def row(points: list[FrontPoint], bound: float | None) -> dict[str, float | int | None]:
    """Means over seeds of one weight or bound; a run without a new policy is counted, and in no mean."""
    made = [p for p in points if p.first and p.second]

    def mean(values: list[float]) -> float | None:
        return statistics.fmean(values) if values else None

    return {
        "value": points[0].value,
        "seeds": len(points),
        "new policy": len(made),
        "customers": mean([p.first.mean for p in made if p.first]),
        "policy": mean([p.second.mean for p in made if p.second]),
        "lowest policy": min((p.second.mean for p in made if p.second), default=None),
        "kl": mean([p.kl for p in made if p.kl is not None]),
        "kept": sum(p.second.mean >= bound for p in made if p.second) if bound is not None else None,
        "surely kept": sum(bool(p.met) for p in made) if bound is not None else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    found = [fronts(asked.out / str(seed), seed) for seed in range(asked.seeds)]
    table = {
        name: [
            row([f[name].points[n] for f in found], p.value if name == "bounds" else None) for n, p in enumerate(first)
        ]
        for name in SWEEPS
        for first in [found[0][name].points]
    }
    references = [f["weights"].reference for f in found]
    table["reference"] = [{c: r[c].mean for c in ("customers", "policy")} for r in references if r]
    print(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
