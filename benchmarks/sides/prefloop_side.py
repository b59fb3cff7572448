"""Our side of vs_trl.py: the stages that the commands run, on a project made for the purpose.

python prefloop_side.py WORK_FOLDER        prints one line of JSON, as trl_side.py does
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import torch

from prefloop.models.folder import file_hash
from prefloop.project.project import Project
from prefloop.stages.importing import import_files
from prefloop.stages.sft import sft
from prefloop.stages.train_offline import train_offline
from prefloop.stages.train_policy import train_policy
from prefloop.stages.train_reward import reward
from prefloop.store import ModelRow

ONLINE = ("grpo", "rloo", "ppo")
FAR = 1_000_000  # no evaluation or checkpoint between first and last step: the other side has none


def settings(work: dict[str, Any]) -> str:
    kind, steps = work["kind"], work["steps"]
    lines = [
        f'[project]\nthreads = {work["threads"]}\nseed = 1\ndevice = "{work["device"]}"\n',
        f'[model]\npath = {json.dumps(work["policy"])}\ndtype = "{work["dtype"]}"\n',
        f"[data]\nheldout = {0 if kind in ONLINE else 0.02}\n",  # the other side learns from every prompt
    ]
    looking, saving = f"eval_every = {FAR}\n", f"checkpoint_every = {FAR}\n"
    often = looking + saving
    budget = f"token_budget = {work['token_budget']}\n" if work.get("token_budget") else ""
    if kind in ONLINE:
        lines.append(
            f'[align]\nalgorithm = "{kind}"\nsteps = {steps}\nmax_tokens = {work["max_tokens"]}\nlr = 3e-4\n'
            f"{saving}{budget}"
            f'[align.rollout]\nprompts = {work["prompts"]}\nk = {work["k"]}\nminibatches = 1\nmissing_eos = "off"\n'
            f"[align.evaluation]\nkl_budget = 1e9\neval_prompts = 2\n{looking}"
            f"[algorithms.{kind}]\nkl = 0.05\n"
        )
    if kind == "dpo":
        lines.append(f'[align]\nalgorithm = "dpo"\nlists = {work["batch"]}\nlr = 1e-4\n{saving}{budget}')
        lines.append(f"[align.evaluation]\n{looking}")
    if kind == "reward":
        lines.append(
            f"[reward]\nepochs = 1\nbatch = {work['batch']}\nlr = 1e-4\nmax_tokens = {work['max_length']}\n"
            f"normalise_prompts = 2\n{often}{budget}[align]\nmax_tokens = 8\n"
        )
    if kind == "sft":
        lines.append(
            f"[sft]\nepochs = 1\nbatch = {work['batch']}\nlr = 1e-4\nmax_tokens = {work['max_length']}\n{often}{budget}"
        )
    return "".join(lines)


def main() -> None:
    folder = Path(sys.argv[1])
    work = json.loads((folder / "work.json").read_text())
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "prefloop.toml").write_text(settings(work))
        with Project.open(root, quiet=True) as project:
            import_files(project, [folder / work["data"]])
            if work.get("reward"):
                shutil.copytree(work["reward"], root / "reward")
                given = {"weights_sha256": file_hash(root / "reward"), "criterion": "quality", "metrics": {"round": 0}}
                project.store.add_model(ModelRow("reward", "reward", "reward", **given))
            stage = {
                "sft": lambda: sft(project),
                "reward": lambda: reward(project),
                "dpo": lambda: train_offline(project, 0),
            }
            outcome = stage.get(work["kind"], lambda: train_policy(project, 0))()
            run = root / "runs" / f"{outcome.run}" if outcome.run else max((root / "runs").iterdir())
            lines = [json.loads(line) for line in (run / "timings.jsonl").read_text().splitlines()]
            metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seconds = [sum(v for name, v in line.items() if name != "step") for line in lines]
    names = {name for line in lines for name in line} - {"step"}  # a step waits or rolls out
    parts = {name: [line.get(name, 0.0) for line in lines] for name in sorted(names)}
    lengths = [line["length"] for line in metrics if "length" in line]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if work["device"] == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1e6
    print(json.dumps({"seconds": seconds, "parts": parts, "length": lengths, "peak_mb": peak}))


if __name__ == "__main__":
    main()
