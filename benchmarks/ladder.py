"""Says where quality is lost in the demo, rung by rung, and how the demo comes out on several seeds.

    python benchmarks/ladder.py OUT [--seeds 0 1 2] [--only demo] [--set project.threads=1] [--json FILE]

OUT/SEED is the folder of `prefloop demo --seed SEED`; one that is there is taken as it is. The rungs:

    demo    what the demo reports, for each system: true quality, the share with the right step, readable, variety
    read    whether the last reward model prefers the better of two answers that differ in one component only, and
            whether the first model, asked for the code of two answers that differ in the step, can tell them apart
    sample  the share of the first model's answers with the right step, and the best of n answers of that model,
            chosen by the true quality (what it has in it) and by the reward model (what the reward model finds)
    oracle  the same steps of `prefloop align` with the true quality as the reward: what remains is the optimiser's

Each row is one figure, with a column for each seed and one for the worst.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from statistics import mean, pstdev
from typing import Any

import torch

from prefloop.demo import phrases
from prefloop.demo.measure import answers, tested
from prefloop.demo.phrases import ACTIONS, KINDS
from prefloop.demo.quality import quality
from prefloop.demo.run import ROUNDS, demo, make_projects
from prefloop.demo.scenario import COMPONENTS, Facts, prompts, read_facts
from prefloop.engine.base import Sampling
from prefloop.models.tokenization import Tokenization
from prefloop.project.project import Project, derive, load_policy
from prefloop.stages.align import align
from prefloop.training.reward_scores import make_scorer
from prefloop.types import Completion, Message, Prompt

RUNGS = ("demo", "read", "sample", "oracle")
PAIRS = 300  # of each component
BEST_OF = (8, 64)
SAMPLED = 60  # prompts with 64 answers each
TRUTH = '''"""The true quality, with mean 0 and standard deviation 1 over the first model's answers."""

from prefloop.demo.quality import quality
from prefloop.types import Prompt


def truth(prompt, text):
    return (quality(Prompt(prompt), text).score - {mean}) / {sd}
'''


def written(facts: Facts, good: Sequence[str], seed: int) -> str:
    """Return an answer in which the components in `good` are good. The seed decides the wording of each part."""

    def pick(part: str, options: Sequence[str]) -> str:
        return Random(f"{seed} {part}").choice(options)

    others = sorted(key for key in KINDS if key != facts.kind)
    kind = facts.kind if "acknowledge" in good else pick("other", others)
    problem = pick("opener", phrases.OPENERS) + KINDS[kind].clauses[Random(f"{seed} clause").randrange(2)]
    action = facts.step if "step" in good else facts.other_step
    offer = ACTIONS[action].offers[Random(f"{seed} offer").randrange(3)]
    parts = [problem, offer]
    parts += [] if "safe" in good else [pick("promise", phrases.PROMISES)]
    parts += [] if "brief" in good else Random(f"{seed} filler").sample(phrases.FILLERS, 2)
    parts += [pick("thanks", phrases.THANKS_LAST) if "polite" in good else pick("beg", phrases.BEGGING)]
    said = (part.format(name=facts.name, product=facts.product).rstrip(".") for part in parts)
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in said)


def pairs(component: str, n: int, seed: int) -> Iterator[tuple[Prompt, str, str]]:
    """Yield (prompt, better, worse): one component is good in the first only, and each other one in both or in none."""
    rng = Random(f"ladder {component} {seed}")
    for prompt in prompts(n, derive(seed, "ladder")):
        facts, wording = read_facts(prompt.text), rng.randrange(2**30)
        rest = [c for c in COMPONENTS if c != component and rng.random() < 0.5]
        better, worse = written(facts, [*rest, component], wording), written(facts, rest, wording)
        if quality(prompt, better).score > quality(prompt, worse).score:
            yield prompt, better, worse


def read(project: Project, seed: int) -> dict[str, float]:
    """Return the accuracy of the last reward model on pairs that differ in one component."""
    scorer = make_scorer(project, project.reward_models(ROUNDS - 1))
    figures = {}
    for component in COMPONENTS:
        asked, better, worse = zip(*pairs(component, PAIRS, seed), strict=True)
        high, low = (scorer.score(asked, [_completion(t) for t in texts]).total for texts in (better, worse))
        figures[f"reward model, pairs that differ in {component} only"] = mean(
            float(a > b) for a, b in zip(high, low, strict=True)
        )
    model, tokenization = load_policy(project, project.base())
    knows = [
        _policys_step(model, tokenization, prompt, better) > _policys_step(model, tokenization, prompt, worse)
        for prompt, better, worse in pairs("step", PAIRS, seed)
    ]
    return figures | {"first model, code of pairs that differ in step only": mean(knows)}


def _policys_step(model: Any, tokenization: Tokenization, prompt: Prompt, answer: str) -> float:
    """Return the log-odds of the code "A" (the step is the policy's) against "B" (it is the other one)."""
    chat = Prompt((Message("user", prompt.text), Message("assistant", answer)))
    ids = tokenization.encode_prompt(chat)
    same, other = (tokenization.encode_completion(chat, ids, code, ended=False)[0] for code in "AB")
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
    return float(logits[same] - logits[other])


def _completion(text: str) -> Completion:
    return Completion(f"ladder:{text}", text)


def sampled(project: Project, seed: int) -> dict[str, float]:
    """Return what the first model samples at temperature 1, and the best of n by true quality and by reward."""
    asked = tested(project)[:SAMPLED]
    model, tokenization = load_policy(project, project.base())
    sampling = Sampling(project.config.evaluate.max_tokens, 1.0)
    drawn = answers(project, model, tokenization, asked, max(BEST_OF), sampling, derive(seed, "ladder"))
    judged = [[quality(p, c.text) for c in row] for p, row in zip(asked, drawn, strict=True)]
    scorer = make_scorer(project, project.reward_models(ROUNDS - 1))
    flat = scorer.score([p for p in asked for _ in range(max(BEST_OF))], [c for row in drawn for c in row]).total
    figures = {
        "first model, right step": mean(q.step == 1 for row in judged for q in row),
        "first model, true quality": mean(q.score for row in judged for q in row),
    }
    for n in BEST_OF:
        truth, found = [], []
        for at, row in enumerate(judged):
            scores = list(flat[at * max(BEST_OF) :][:n])
            truth.append(max(row[:n], key=lambda q: q.score))
            found.append(row[scores.index(max(scores))])
        for by, chosen in (("true quality", truth), ("the reward model", found)):
            figures[f"best of {n} by {by}"] = mean(q.score for q in chosen)
            figures[f"best of {n} by {by}, right step"] = mean(q.step == 1 for q in chosen)
    return figures


def oracle(folder: Path, seed: int, overrides: Sequence[str]) -> dict[str, float]:
    """Return what as many steps reach where the reward is the true quality, scaled as a reward model is."""
    aside = folder.with_name(f"{folder.name}-oracle")
    if not aside.exists():
        shutil.copytree(folder, aside)
    own = [*overrides, 'align.reward="truth.py:truth"', 'run.choose="newest"']
    with Project.open(aside, own, quiet=True) as project:
        first = [quality(i.prompt, c.text).score for i in project.store.items(round=0) for c in i.completions]
        (aside / "truth.py").write_text(TRUTH.format(mean=mean(first), sd=pstdev(first)), encoding="utf-8")
        for turn in range(ROUNDS):
            align(project, turn)
        asked, sampling = tested(project), Sampling(project.config.evaluate.max_tokens, 0.7)
        model, tokenization = load_policy(project, project.policy(ROUNDS))
        drawn = answers(project, model, tokenization, asked, 1, sampling, derive(seed, "ladder"))
        judged = [quality(p, row[0].text) for p, row in zip(asked, drawn, strict=True)]
    return {
        "RLHF with the true quality as reward": mean(q.score for q in judged),
        "RLHF with the true quality as reward, right step": mean(q.step == 1 for q in judged),
    }


def shown(folder: Path) -> dict[str, float]:
    """Return the figures that the demo wrote."""
    found = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    figures = {"win rate of RLHF over imitation": found["win_rate"]["mean"]}
    for system in ("rlhf", "dpo", "best_of_n", "sft"):
        figures[f"{system}, true quality"] = found["quality"][system]
        figures[f"{system}, right step"] = found["right_step"][system]["mean"]
        figures[f"{system}, readable"] = found["quality_parts"][system]["readable"]
    figures |= {f"{system}, distinct-2 at temperature 1": v for system, v in found["distinct_2"].items()}
    return figures | {"KL of RLHF, nats": found["kl"], "reward model, held-out pairs": found["reward_accuracy"]}


def climb(folder: Path, seed: int, rungs: Sequence[str], overrides: Sequence[str], model: str) -> dict[str, float]:
    """Return every figure of one seed."""
    figures: dict[str, float] = {}
    make_projects(folder, seed, model)
    if not (folder / "demo.json").exists():
        figures["seconds"] = demo(folder, seed, True, overrides).seconds
    if "demo" in rungs:
        figures |= shown(folder)
    with Project.open(folder, overrides, quiet=True) as project:
        figures |= read(project, seed) if "read" in rungs else {}
        figures |= sampled(project, seed) if "sample" in rungs else {}
    return figures | (oracle(folder, seed, overrides) if "oracle" in rungs else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=RUNGS, default=RUNGS)
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", help="settings of the loop: align.steps=9"
    )
    parser.add_argument(
        "--model", default="prefloop.demo", help="the package of the model; prefloop.cases: an earlier one"
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file too")
    asked = parser.parse_args()
    found = {seed: climb(asked.out / str(seed), seed, asked.only, asked.overrides, asked.model) for seed in asked.seeds}
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("| |", " | ".join(f"seed {seed}" for seed in found), "| lowest | highest |")
    print("|---" * (len(found) + 3) + "|")
    for name in next(iter(found.values())):
        row = [figures[name] for figures in found.values()]
        print(f"| {name} |", " | ".join(f"{value:.3f}" for value in (*row, min(row), max(row))), "|")


if __name__ == "__main__":
    main()
