"""The peer's side of vs_trl.py, in an environment of its own, where prefloop is not installed.

    python trl_side.py WORK_FOLDER        prints one line of JSON: seconds a step, mean lengths, peak memory

What TRL needs to do the same work: the same weights, prompts already in the chat template, one update a batch, the same
KL coefficient and learning rate, float32, and no gradient checkpointing (on by default, which would cost it time).
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch
import transformers
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

WORK: dict[str, Any] = json.loads((Path(sys.argv[1]) / "work.json").read_text())
LOADED = {"dtype": getattr(torch, WORK["dtype"])}
CAUSAL = partial(AutoModelForCausalLM.from_pretrained, **LOADED)
SCORER = partial(AutoModelForSequenceClassification.from_pretrained, **LOADED)


class Clock(transformers.TrainerCallback):
    def __init__(self) -> None:
        self.ends: list[float] = []
        self.lengths: list[float] = []

    def on_train_begin(self, *args: Any, **more: Any) -> None:
        self.ends.append(time.perf_counter())

    def on_step_end(self, *args: Any, **more: Any) -> None:
        self.ends.append(time.perf_counter())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        if "completions/mean_length" in (logs or {}):
            self.lengths.append(logs["completions/mean_length"])


def common(out: str, batch: int) -> dict[str, Any]:
    return {
        "output_dir": out,
        "use_cpu": WORK["device"] == "cpu",
        "bf16": False,
        "fp16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": 1,
        "learning_rate": 3e-4,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 1,
    }


def online(work: dict[str, Any], texts: list[str], clock: Clock, out: str) -> None:
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    config, trainer = {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer)}[work["kind"]]
    trainer(
        model=CAUSAL(work["policy"]),
        reward_funcs=SCORER(work["reward"]),
        args=config(
            **common(out, work["prompts"] * work["k"]),
            num_generations=work["k"],
            max_completion_length=work["max_tokens"],
            beta=0.05,
            temperature=1.0,
            max_steps=work["steps"],
            logging_steps=1,
        ),
        train_dataset=Dataset.from_dict({"prompt": texts}),
        processing_class=AutoTokenizer.from_pretrained(work["policy"]),
        reward_processing_classes=AutoTokenizer.from_pretrained(work["reward"]),
        callbacks=[clock],
    ).train()


def ppo(work: dict[str, Any], texts: list[str], clock: Clock, out: str) -> None:
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    tokenizer = AutoTokenizer.from_pretrained(work["policy"], padding_side="left")
    generated = ppo_trainer.batch_generation

    def counted(*args: Any, **more: Any) -> Any:
        """Run it as it is; note the mean length, which this trainer does not say."""
        answers, logits = generated(*args, **more)
        done = (answers[:, args[1].shape[1] :] == tokenizer.eos_token_id).long().cumsum(1)
        clock.lengths.append(float(((done == 0).sum(1) + (done[:, -1] > 0)).float().mean()))
        return answers, logits

    ppo_trainer.batch_generation = counted
    ids = [{"input_ids": tokenizer(text)["input_ids"]} for text in texts for _ in range(work["k"])]
    batch = work["prompts"] * work["k"]
    data = Dataset.from_list((ids * (batch * work["steps"] // len(ids) + 1))[: batch * work["steps"]])
    model = CAUSAL(work["policy"])
    PPOTrainer(
        args=PPOConfig(
            **common(out, batch),
            total_episodes=batch * work["steps"],
            num_ppo_epochs=1,
            num_mini_batches=1,
            local_rollout_forward_batch_size=batch,
            num_sample_generations=0,
            response_length=work["max_tokens"],
            stop_token="eos",
            kl_coef=0.05,
            temperature=1.0,
            logging_strategy="no",
        ),
        processing_class=tokenizer,
        model=model,
        ref_model=CAUSAL(work["policy"]),
        reward_model=SCORER(work["reward"]),
        value_model=SCORER(work["reward"]),
        train_dataset=data,
        eval_dataset=data.select(range(1)),
        callbacks=[clock],
    ).train()


def offline(work: dict[str, Any], rows: list[dict[str, str]], clock: Clock, out: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(work["policy"])
    kind, data = work["kind"], Dataset.from_list(rows)
    shared = common(out, work["peer_batch"]) | {"max_length": work["max_length"], "max_steps": work["steps"]}
    how = {"train_dataset": data, "processing_class": tokenizer, "callbacks": [clock]}
    if kind == "reward":
        from trl import RewardConfig, RewardTrainer

        model = SCORER(work["policy"], num_labels=1)
        RewardTrainer(model=model, args=RewardConfig(**shared), **how).train()
    elif kind == "dpo":
        from trl import DPOConfig, DPOTrainer

        DPOTrainer(model=CAUSAL(work["policy"]), args=DPOConfig(**shared), **how).train()
    else:
        from trl import SFTConfig, SFTTrainer

        SFTTrainer(model=CAUSAL(work["policy"]), args=SFTConfig(**shared), **how).train()


def main() -> None:
    folder, work = Path(sys.argv[1]), WORK
    torch.set_num_threads(work["threads"])
    given = json.loads((folder / "peer.json").read_text())
    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        {"grpo": online, "rloo": online, "ppo": ppo}.get(work["kind"], offline)(work, given, clock, out)
    seconds = [b - a for a, b in zip(clock.ends, clock.ends[1:], strict=False)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if work["device"] == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1e6
    print("\n" + json.dumps({"seconds": seconds, "length": clock.lengths, "peak_mb": peak}))


if __name__ == "__main__":
    main()
