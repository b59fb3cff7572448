"""Compares loss and gradient of each algorithm with TRL's own trainer: same weights, same tokens, float32.

    python benchmarks/parity_trl.py                       # every case
    python benchmarks/parity_trl.py --only dpo            # cases whose name begins so
    python benchmarks/parity_trl.py --json benchmarks/results/parity.json --docs docs/correctness.md    # both anew

A tiny random Llama, a reference and the policy that sampled (each with other weights), and a reward model, are saved as
Hugging Face folders. TRL computes each case from these in an environment of its own (made under --peers the first time:
minutes, 1.5 GB), by its data collator and its trainer's `compute_loss`; online, TRL also makes the advantages. Ours
goes through `Learner`, in micro-batches. A case has a `why` where the difference is meant and the paper's equation
decides. A difference that has no `why` is over 1e-5, or a case whose `why` explains nothing: the script ends with 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
import torch
from safetensors.torch import load_file
from vs_trl import GENERAL, HERE, peer, random_models

from prefloop.algorithms.base import Role
from prefloop.algorithms.registry import kind_of, make
from prefloop.batch import AnchoredBatch, LogprobBatch, ReferencedBatch, Rows, collate, collate_rankings
from prefloop.config_section import Optimiser
from prefloop.engine.base import terms_of
from prefloop.engine.learner import Learner
from prefloop.known_algorithms import ALGORITHMS
from prefloop.models.load import load_causal
from prefloop.models.policy import Policy
from prefloop.models.reward import load_reward_model
from prefloop.models.save import save_pretrained
from prefloop.ops.masked import masked_sum
from prefloop.types import Ranking

BOUND = 1e-5  # of the relative difference, in float32
BUDGET = 64  # padded tokens of a micro-batch, so that every batch is split
Data = list[dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """Names one comparison.

    options: ours;  trainer, config: TRL's
    data: "pairs", "one" (pair), "short" (prompts of one token), "lists" (of three), "rollouts", "shown" or "labelled"
    temperature: at which samples were drawn
    why: what explains a difference that is meant;  times: what TRL's loss and gradient are multiplied by to be ours
    """

    name: str
    ours: str
    trainer: str
    data: str
    options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    why: str = ""
    times: float = 1.0


GRPO: dict[str, Any] = {"loss_type": "grpo", "beta": 0.0, "epsilon": 0.02}  # Some tokens are clipped, most are not.
DAPO = GRPO | {"loss_type": "dapo", "epsilon_high": 0.03}
DROPPED = (
    "groups of one reward are dropped, and their tokens not counted; TRL counts them. Under dynamic sampling of the "
    "paper there are none"
)
SIMPO: dict[str, Any] = {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0}
IPO = (
    "TRL divides log-ratios by lengths, which eq. 17 does not: the gap is that of whole completions, as in DPO. "
    "`length_normalised` gives TRL's"
)
ORPO = (
    "TRL's cross-entropy covers the prompt too; in eq. 6 it is that of the answer. With prompts of one token, of which "
    "nothing is predicted, both are the same"
)
CASES = (
    Case("sft", "sft", "sft", "shown"),
    Case("reward: pairs", "bradley_terry", "reward", "pairs"),
    Case("reward: all pairs of lists of three", "bradley_terry", "reward", "lists"),
    Case("reward: Plackett-Luce of two", "plackett_luce", "reward", "pairs"),
    Case("dpo: sigmoid", "dpo", "dpo", "pairs", {"beta": 0.3}, {"beta": 0.3}),
    Case("dpo: all pairs of lists of three", "dpo", "dpo", "lists"),
    Case(
        "dpo: smoothed labels (cDPO)",
        "dpo",
        "dpo",
        "one",
        {"label_smoothing": 0.2},
        {"loss_type": "aot", "label_smoothing": 0.2},  # Of TRL's losses this one smooths; of one pair it is cDPO.
    ),
    Case(
        "dpo: robust",
        "dpo",
        "dpo",
        "pairs",
        {"loss_type": "robust", "label_smoothing": 0.2},
        {"loss_type": "robust", "label_smoothing": 0.2},
    ),
    Case(
        "dpo: length-normalised",
        "dpo",
        "dpo",
        "pairs",
        {"length_normalised": True, "beta": 2.0},
        {"loss_type": "sigmoid_norm", "beta": 2.0},
    ),
    Case(
        "dpo: with cross-entropy (RPO)",
        "dpo",
        "dpo",
        "pairs",
        {"sft": 0.5},
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
    ),
    Case("dpo_plackett_luce: of two", "dpo_plackett_luce", "dpo", "pairs"),
    Case("ipo: length-normalised", "ipo", "dpo", "pairs", {"length_normalised": True}, {"loss_type": "ipo"}),
    Case("ipo", "ipo", "dpo", "pairs", {}, {"loss_type": "ipo"}, why=IPO),
    Case("cpo", "cpo", "cpo", "pairs", {"sft": 0.5}, {"cpo_alpha": 0.5}),
    Case("cpo: all pairs of lists of three", "cpo", "cpo", "lists", {"sft": 0.0}, {"cpo_alpha": 0.0}),
    Case("simpo", "simpo", "cpo", "pairs", {}, SIMPO),
    Case("simpo: with cross-entropy", "simpo", "cpo", "pairs", {"sft": 0.5}, SIMPO | {"cpo_alpha": 0.5}),
    Case("kto", "kto", "kto", "labelled"),
    Case(
        "kto: bad answers count less",
        "kto",
        "kto",
        "labelled",
        {"beta": 0.3, "undesirable_weight": 0.5},
        {"beta": 0.3, "undesirable_weight": 0.5},
    ),
    Case("orpo: prompts of one token", "orpo", "orpo", "short"),
    Case("orpo", "orpo", "orpo", "pairs", why=ORPO),
    Case("grpo", "grpo", "grpo", "rollouts", {"kl": 0.0, "clip": 0.02}, GRPO),
    Case(
        "grpo: T = 0.7",
        "grpo",
        "grpo",
        "rollouts",
        {"kl": 0.0, "clip": 0.02},
        GRPO | {"temperature": 0.7},
        temperature=0.7,
    ),
    Case(
        "grpo: k3 in the loss",
        "grpo",
        "grpo",
        "rollouts",
        {"kl": 0.1, "kl_in": "loss", "clip": 0.02},
        GRPO | {"beta": 0.1},
    ),
    Case(
        "grpo: k3 in the loss, as in the paper",
        "grpo",
        "grpo",
        "rollouts",
        {"kl": 0.1, "kl_in": "loss", "kl_unbiased": False, "clip": 0.02},
        GRPO | {"beta": 0.1, "use_bias_correction_kl": False},
    ),
    Case(
        "grpo: clip-higher and dual clip",
        "grpo",
        "grpo",
        "rollouts",
        {"kl": 0.0, "clip": 0.01, "clip_high": 0.02, "dual_clip": 1.03},
        GRPO | {"epsilon": 0.01, "epsilon_high": 0.02, "delta": 1.03},
    ),
    Case(
        "dr_grpo",
        "dr_grpo",
        "grpo",
        "rollouts",
        {"kl": 0.0, "clip": 0.02, "length": 16},
        GRPO | {"loss_type": "dr_grpo", "scale_rewards": "none", "max_completion_length": 16},
    ),
    Case(
        "dapo: all groups kept",
        "dapo",
        "grpo",
        "rollouts",
        {"drop_constant": False, "clip": 0.02, "clip_high": 0.03},
        DAPO,
    ),
    Case("dapo", "dapo", "grpo", "rollouts", {"clip": 0.02, "clip_high": 0.03}, DAPO, why=DROPPED),
    Case(
        "dapo: all groups kept, as TRL's bnpo of one batch",
        "dapo",
        "grpo",
        "rollouts",
        {"drop_constant": False, "clip": 0.02, "clip_high": 0.03},
        DAPO | {"loss_type": "bnpo"},
    ),
    Case(
        "gspo",
        "gspo",
        "grpo",
        "rollouts",
        {"kl": 0.0, "clip": 3e-3, "clip_high": 4e-3},
        GRPO | {"importance_sampling_level": "sequence", "epsilon": 3e-3, "epsilon_high": 4e-3},
    ),
    Case(
        "cispo", "cispo", "grpo", "rollouts", {"clip_high": 0.02}, GRPO | {"loss_type": "cispo", "epsilon_high": 1.02}
    ),
    Case("rloo", "rloo", "rloo", "rollouts", {"kl": 0.05}, {"beta": 0.05, "epsilon": 0.2}),
    Case(
        "rloo: T = 0.7",
        "rloo",
        "rloo",
        "rollouts",
        {"kl": 0.05},
        {"beta": 0.05, "temperature": 0.7},
        temperature=0.7,
    ),
)
NOT_THERE = {
    "best_sft": "it is sft on the best answers of lists",
    "dpo_ties": "TRL knows no ties",
    "ppo": "TRL has no PPO since 1.13",
    "reinforce": "TRL has no running baseline",
    "reinforce_plus_plus": "TRL has none",
    "reinforce_plus_plus_baseline": 'TRL has none; its scale_rewards = "batch" divides by the spread of the rewards',
    "online_dpo": "TRL's trainer samples inside of its step; the loss is that of dpo",
    "raft": "TRL has none; the loss is that of sft",
    "expert_iteration": "TRL has none; the loss is that of sft",
}


# -- what both sides are given -----------------------------------------------------------------------------------------


def tokens(rng: np.random.Generator, least: int, most: int, end: int | None = None) -> list[int]:
    """Return random ids; with `end`, the token that ends an answer comes last."""
    ids: list[int] = rng.integers(3, 400, int(rng.integers(least, most + 1))).tolist()
    return ids if end is None else [*ids, end]


def make_data(end: int) -> dict[str, Data]:
    """Return small batches with ragged lengths; some samples are cut off, and one group has one reward."""
    rng = np.random.default_rng(0)
    lists = [{"prompt": tokens(rng, 3, 9), "ranked": [tokens(rng, 2, 12, end) for _ in range(3)]} for _ in range(5)]
    rollouts = []
    for group in range(4):
        prompt = tokens(rng, 3, 9)
        for _ in range(4):
            answer = tokens(rng, 2, 12, end if rng.random() < 0.8 else None)
            reward = 1.0 if group == 3 else float(np.float32(rng.normal()))
            rollouts.append({"prompt": prompt, "answer": answer, "reward": reward, "group": group})
    two = [d | {"ranked": d["ranked"][:2]} for d in lists]
    shown = [{"prompt": d["prompt"], "answer": answer} for d in two for answer in d["ranked"]]
    return {
        "pairs": two,
        "lists": lists,
        "one": two[:1],
        "short": [d | {"prompt": d["prompt"][:1]} for d in two],
        "rollouts": rollouts,
        "shown": shown,
        # Each prompt also has the answer of another one, by which the reference point of KTO is measured.
        "labelled": [d | {"label": n % 3 > 0, "other": shown[n - 2]["answer"]} for n, d in enumerate(shown)],
    }


def make_models(folder: Path) -> int:
    """Save a policy, a reference, the policy that sampled and a reward model; return the token that ends an answer."""
    random_models(folder, 512, width=64, layers=2, heads=4)
    draw = torch.Generator().manual_seed(3)
    for name, size in (("policy", 0.05), ("reference", 0.01), ("old", 0.003)):
        # The reference is some way off; who sampled is an update away, so that some ratios are clipped, and others not.
        model, tokenization = load_causal(folder / "policy")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(size * torch.randn(parameter.shape, generator=draw))
        save_pretrained(model, tokenization, folder / name)
    return int(tokenization.tokenizer.eos_token_id)


# -- our side ----------------------------------------------------------------------------------------------------------


def sums(folder: Path, rows: Rows) -> torch.Tensor:
    """Return the log-probability of each completion by the reference [N]."""
    return masked_sum(logprobs(folder / "reference", rows), rows.action, dim=1)


@torch.no_grad()
def logprobs(folder: Path, rows: Rows, temperature: float = 1.0) -> torch.Tensor:
    model, _ = load_causal(folder)
    logp: torch.Tensor = Policy(model, temperature)(rows).logp
    return logp


def make_batch(case: Case, data: dict[str, Data], folder: Path) -> Any:
    """Return the batch as our stages make it, before an online algorithm gives credit."""
    if kind_of(case.ours) == "online":
        given = data["rollouts"]
        rows = collate([d["prompt"] + d["answer"] for d in given], [len(d["prompt"]) for d in given])
        old = logprobs(folder / "old", rows, case.temperature)
        values: dict[str, Any] = {f.name: None for f in dataclasses.fields(LogprobBatch)} | vars(rows)
        values |= {
            "sampler_logp": old,
            "reward": torch.tensor([d["reward"] for d in given]),
            "group": torch.tensor([d["group"] for d in given]),
            "ended": torch.ones(len(given), dtype=torch.bool),
            "old_logp": old,
        }
        if "reference" in make(case.ours, case.options).needs:
            values["ref_logp"] = logprobs(folder / "reference", rows, case.temperature)
        return LogprobBatch(**values)
    if kind_of(case.ours) == "supervised":
        given = data[case.data]
        return collate([d["prompt"] + d["answer"] for d in given], [len(d["prompt"]) for d in given])
    if case.data == "labelled":
        return labelled(data[case.data], folder)
    encoded = [[(d["prompt"] + answer, len(d["prompt"])) for answer in d["ranked"]] for d in data[case.data]]
    names = [[f"c{n}" for n in range(len(row))] for row in encoded]
    said = [[Ranking("i", "w", "quality", tuple((name,) for name in row))] for row in names]
    batch = collate_rankings(encoded, names, said)
    return ReferencedBatch(**vars(batch), ref_total=batch.lists(sums(folder, batch.rows())))


def labelled(given: Data, folder: Path) -> AnchoredBatch:
    """Return lists of one answer each, good or bad, and how far the policy moved on answers to other prompts."""
    said = [Ranking("i", "w", "acceptable", (("c",),), unacceptable=() if d["label"] else ("c",)) for d in given]
    encoded = [[(d["prompt"] + d["answer"], len(d["prompt"]))] for d in given]
    batch = collate_rankings(encoded, [["c"]] * len(given), [[one] for one in said])
    other = collate([d["prompt"] + d["other"] for d in given], [len(d["prompt"]) for d in given])
    moved = masked_sum(logprobs(folder / "policy", other) - logprobs(folder / "reference", other), other.action)
    assert float(moved) > 0, "a reference point of 0 shows nothing"
    point = torch.full((len(given),), float(moved) / len(given))
    return AnchoredBatch(**vars(batch), ref_total=batch.lists(sums(folder, batch.rows())), reference_point=point)


def ours(case: Case, data: dict[str, Data], folder: Path) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Return our loss with what else a step reports, and its gradient by parameter as TRL names it."""
    algorithm = make(case.ours, case.options)
    batch = make_batch(case, data, folder)
    scale = 0.0
    if hasattr(algorithm, "credit"):
        batch = algorithm.credit(batch)[0].learnt()
        scale = float(batch.advantage[batch.action].abs().mean())
    role: Role = "reward" if "reward" in algorithm.trains else "policy"
    model = load_reward_model(folder / "reward")[0] if role == "reward" else None
    module = model or Policy(load_causal(folder / "policy")[0], case.temperature)
    settings = Optimiser(lr=1e-4, clip_norm=1e12, token_budget=BUDGET)
    learner = Learner({role: module}, settings, 1, {role: 1e-4})
    terms = terms_of(batch, algorithm)
    assert len(list(batch.split(BUDGET))) > 1 or case.data == "one"
    metrics, gradient = learner.gradients(*terms)
    loss = 0.0
    for term in terms:
        with torch.no_grad():
            out = module(term.batch.rows())
            total = term.objective.loss(out, term.batch).total / term.objective.weight(term.batch)
        loss += term.scale * float(total)
    said = {"loss": loss, "scale": max(abs(loss), scale), "clip_fraction": metrics.get("clip_fraction", 0.0)}
    return said, {name.removeprefix(f"{role}.model."): value for name, value in gradient.items()}


# -- comparing ---------------------------------------------------------------------------------------------------------


def compare(case: Case, data: dict[str, Data], folder: Path, loss: float, told: dict[str, Any]) -> dict[str, Any]:
    own, gradient = ours(case, data, folder)
    theirs = {name.removeprefix(f"{case.name}/"): t for name, t in told.items() if name.startswith(f"{case.name}/")}
    assert gradient.keys() == theirs.keys(), sorted(gradient.keys() ^ theirs.keys())
    a = torch.cat([gradient[name].flatten().double() for name in sorted(gradient)])
    b = torch.cat([theirs[name].flatten().double() for name in sorted(gradient)]) * case.times
    row: dict[str, Any] = {"case": case.name, "algorithm": case.ours, "options": case.options}
    row |= {"trl": case.config | {"trainer": case.trainer}, "loss": own["loss"], "loss_trl": loss}
    row["clip_fraction"] = own["clip_fraction"]
    # Advantages sum to 0, so an online loss is a difference of large numbers; it is compared with the size of these.
    row["loss_difference"] = abs(own["loss"] - loss * case.times) / own["scale"]
    row["gradient_difference"] = float((a - b).norm() / b.norm())
    row["cosine"] = float(a @ b / (a.norm() * b.norm()))
    row["agrees"] = max(row["loss_difference"], row["gradient_difference"]) <= BOUND
    row["why"] = case.why
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as the table of docs/correctness.md."""
    lines = ["| case | algorithm | loss | gradient | |", "|---|---|---|---|---|"]
    for row in rows:
        figures = f"{row['loss_difference']:.1e} | {row['gradient_difference']:.1e}"
        lines.append(f"| {row['case']} | `{row['algorithm']}` | {figures} | {row['why']} |")
    lines += ["", "Not compared:", "", *(f"- `{name}`: {why}" for name, why in NOT_THERE.items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name begins with this")
    parser.add_argument("--peers", type=Path, default=HERE / ".peers", help="where TRL's environment is, or is made")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--docs", type=Path, help="put the table into the end of this page")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cases = [case for case in CASES if case.name.startswith(asked.only)]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = make_data(make_models(folder))
        told = [{"name": c.name, "trainer": c.trainer, "data": c.data, "config": c.config} for c in cases]
        (folder / "work.json").write_text(json.dumps({"cases": told, "data": data}))
        done = subprocess.run(
            [peer(asked.peers, GENERAL), HERE / "sides" / "trl_parity.py", folder], capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"trl_parity.py failed:\n{done.stderr[-3000:]}")
        losses, gradients = json.loads((folder / "peer.json").read_text()), load_file(folder / "peer.safetensors")
        print(f"{'case':42} {'loss':>11} {'TRL ' + GENERAL:>11} {'difference':>11} {'gradient':>11}")
        for case in cases:
            row = compare(case, data, folder, losses[case.name], gradients)
            rows.append(row)
            said = "" if row["agrees"] else f"  {row['why'] or 'DIFFERS'}"
            figures = f"{row['loss']:11.6f} {row['loss_trl']:11.6f} {row['loss_difference']:11.1e}"
            print(f"{case.name:42} {figures} {row['gradient_difference']:11.1e}{said}", flush=True)
    for name in ALGORITHMS:
        if not any(case.ours == name for case in CASES):
            print(f"{name}: not compared; {NOT_THERE.get(name, 'no case yet')}")
    if asked.json:
        asked.json.write_text(
            json.dumps({"command": sys.argv, "peer": f"TRL {GENERAL}", "rows": rows}, indent=1) + "\n"
        )
    if asked.docs:
        kept = asked.docs.read_text().partition("| case | algorithm |")[0]
        asked.docs.write_text(kept + table(rows))
    sys.exit(any(not row["agrees"] and not row["why"] for row in rows))


if __name__ == "__main__":
    main()
