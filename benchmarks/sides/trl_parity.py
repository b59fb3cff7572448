"""The peer's side of parity_trl.py, in an environment of its own, where prefloop is not installed.

    python trl_parity.py FOLDER        writes peer.safetensors (gradients) and peer.json (losses) into FOLDER

Each case is computed by TRL's own trainer: its data collator (or, online, its code that turns sampled tokens into
advantages), and its `compute_loss`. Only the sampler is replaced, by the tokens that both sides are given.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

FOLDER = Path(sys.argv[1])
Loss = tuple[Any, dict[str, Any]]


def causal(name: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(FOLDER / name, dtype=torch.float32)


def common(out: str, config: dict[str, Any], rows: int) -> dict[str, Any]:
    return {
        "output_dir": out,
        "use_cpu": True,
        "bf16": False,
        "fp16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        **config,
    }


def told(trainer: Any, inputs: dict[str, Any]) -> Loss:
    """Return the trainer's own loss of a batch, and its gradient by parameter."""
    trainer.current_gradient_accumulation_steps = 1
    model = trainer.model.train()
    model.zero_grad(set_to_none=True)
    loss = trainer.compute_loss(model, inputs)
    loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), grads


def shown(case: dict[str, Any], data: list[dict[str, Any]], tokenizer: Any, out: str) -> Loss:
    from trl import SFTConfig, SFTTrainer

    trainer = SFTTrainer(
        model=causal("policy"),
        args=SFTConfig(**common(out, case["config"], len(data))),
        train_dataset=Dataset.from_list([{"prompt": "a", "completion": "b"}]),
        processing_class=tokenizer,
    )
    rows = [{"input_ids": d["prompt"] + d["answer"], "labels": [-100] * len(d["prompt"]) + d["answer"]} for d in data]
    return told(trainer, trainer.data_collator(rows))


def ranked(case: dict[str, Any], lists: list[dict[str, Any]], tokenizer: Any, out: str) -> Loss:
    """DPO, CPO, ORPO, reward models: each reads all pairs of the lists, and names its fields in its own way."""
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    kind, rows = case["trainer"], []
    data = [{"prompt": d["prompt"], "chosen": a, "rejected": b} for d in lists for a, b in combinations(d["ranked"], 2)]
    dataset = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    more: dict[str, Any] = {"train_dataset": dataset, "processing_class": tokenizer}
    args = common(out, case["config"], len(data))
    if kind == "dpo":
        more |= {"ref_model": causal("reference")}
        trainer = DPOTrainer(model=causal("policy"), args=DPOConfig(**args), **more)
        rows = [{"prompt_ids": d["prompt"], "chosen_ids": d["chosen"], "rejected_ids": d["rejected"]} for d in data]
    elif kind == "reward":
        model = AutoModelForSequenceClassification.from_pretrained(FOLDER / "reward", dtype=torch.float32)
        more["train_dataset"] = dataset.remove_columns("prompt")
        trainer = RewardTrainer(model=model, args=RewardConfig(**args), **more)
        rows = [{f"{side}_ids": d["prompt"] + d[side] for side in ("chosen", "rejected")} for d in data]
    else:
        config, cls = {"cpo": (CPOConfig, CPOTrainer), "orpo": (ORPOConfig, ORPOTrainer)}[kind]
        trainer = cls(model=causal("policy"), args=config(**args), **more)
        for d in data:
            row = {"prompt_input_ids": d["prompt"], "prompt_attention_mask": [1] * len(d["prompt"])}
            for side in ("chosen", "rejected"):
                ids = d["prompt"] + d[side]
                row |= {f"{side}_input_ids": ids, f"{side}_attention_mask": [1] * len(ids)}
                row[f"{side}_labels"] = [-100] * len(d["prompt"]) + d[side]
            rows.append(row)
    return told(trainer, trainer.data_collator(rows))


def labelled(case: dict[str, Any], data: list[dict[str, Any]], tokenizer: Any, out: str) -> Loss:
    from trl import KTOConfig, KTOTrainer

    trainer = KTOTrainer(
        model=causal("policy"),
        ref_model=causal("reference"),
        args=KTOConfig(**common(out, case["config"], len(data))),
        train_dataset=Dataset.from_list([{"prompt": p, "completion": "b", "label": p == "a"} for p in "ac"]),
        processing_class=tokenizer,
    )
    rows = [
        {
            "prompt_ids": d["prompt"],
            "completion_ids": d["answer"],
            "KL_completion_ids": d["other"],
            "label": d["label"],
        }
        for d in data
    ]
    return told(trainer, trainer.data_collator(rows))


def rollouts(case: dict[str, Any], data: list[dict[str, Any]], tokenizer: Any, out: str) -> Loss:
    """GRPO and RLOO. The model holds the weights that sampled while TRL makes advantages, and then the policy's."""
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    config, cls = {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer)}[case["trainer"]]
    k = sum(d["group"] == data[0]["group"] for d in data)
    rewards = [d["reward"] for d in data]
    trainer = cls(
        model=causal("old"),
        reward_funcs=lambda completions, **_: rewards,
        args=config(**common(out, {"num_generations": k, "num_iterations": 2, **case["config"]}, len(data))),
        train_dataset=Dataset.from_list([{"prompt": "a"}]),
        processing_class=tokenizer,
    )
    if trainer.beta:
        trainer.ref_model.load_state_dict(causal("reference").state_dict())
    answers = [d["answer"] for d in data]
    trainer._tokenize_prompts = lambda prompts: ([d["prompt"] for d in data], None, {})
    trainer._generate_single_turn = lambda *_: answers if case["trainer"] == "rloo" else (answers, None)
    trainer.model.train()
    inputs = trainer._generate_and_score_completions([{"prompt": "a"} for _ in data])
    trainer.model.load_state_dict(causal("policy").state_dict())
    return told(trainer, inputs)


def main() -> None:
    torch.set_num_threads(1)
    given = json.loads((FOLDER / "work.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "policy")
    gradients: dict[str, Any] = {}
    losses: dict[str, Any] = {}
    compute = {"shown": shown, "labelled": labelled, "rollouts": rollouts}
    for case in given["cases"]:
        with tempfile.TemporaryDirectory() as out:
            data = given["data"][case["data"]]
            loss, grads = compute.get(case["data"], ranked)(case, data, tokenizer, out)
        losses[case["name"]] = float(loss)
        gradients |= {f"{case['name']}/{name}": grad for name, grad in grads.items()}
    save_file(gradients, FOLDER / "peer.safetensors")
    (FOLDER / "peer.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main()
