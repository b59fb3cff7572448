"""An engine that says what functions tell it to, for tests of stages, which then need no language model.

    engine = ScriptedEngine(answer=lambda prompt, key: Sampled((7, 1), (-0.5, -0.1), True))
    rolls = roll_out(engine, ...)
    assert engine.calls == ["generate"]

It keeps every promise of `base.Engine`. What can be learnt is one number a model, which is added to all that it says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from prefloop.algorithms.base import Role
from prefloop.batch import PolicyOutput, RewardOutput, Rows
from prefloop.engine.base import Sampled, Sampling, Training
from prefloop.engine.checkpoint import publish
from prefloop.engine.learner import Learner
from prefloop.engine.local import LocalEngine
from prefloop.models.load import weights_hash

Answer = Callable[[Sequence[int], int], Sampled]  # It gets a prompt's ids and a key.
# It gets a role and a row's ids, and gives one number for each token.
Say = Callable[[Role, Sequence[int]], Sequence[float]]


def echo(prompt: Sequence[int], key: int) -> Sampled:
    """Return the prompt's last token, then one that the key decides; it ends by itself where the key is even."""
    return Sampled((prompt[-1], 2 + key % 7), (-0.5, -1.0), key % 2 == 0)


def by_token(role: Role, ids: Sequence[int]) -> Sequence[float]:
    """Return a log-probability that falls with the token's id; a reward model reads the last of them."""
    return [-0.1 - 0.01 * id for id in ids]


class ScriptedEngine(LocalEngine):
    """Keeps in `calls` what it was asked for, in order: "generate", "forward reference", "step" and so on."""

    def __init__(self, answer: Answer = echo, say: Say = by_token, training: Training | None = None):
        models: dict[Role, nn.Module] = {role: _Scripted(role, say) for role in get_args(Role)}
        learner = None
        if training is not None:
            learns = {role: models[role] for role in training.lr}
            learner = Learner(learns, training.settings, training.steps, training.lr, training.average)
        nobody: Any = None  # Only saving real models needs a tokenization.
        super().__init__(models, nobody, 0, learner=learner)
        self.answer = answer
        self.calls: list[str] = []

    def generate(self, prompts: Sequence[Sequence[int]], keys: Sequence[int], sampling: Sampling) -> list[Sampled]:
        self.calls.append("generate")
        return [self.answer(prompt, key) for prompt, key in zip(prompts, keys, strict=True)]

    def forward(self, role: Role, batch: Rows, as_learner: bool = False, temperature: float | None = None) -> Tensor:
        self.calls.append(f"forward {role}")
        return super().forward(role, batch, as_learner, temperature)

    def step(self, *terms: Any) -> Any:
        self.calls.append("step")
        return super().step(*terms)

    def sync(self) -> None:
        self.calls.append("sync")

    def close(self) -> None:
        self.calls.append("close")
        super().close()

    def computed_by(self) -> Mapping[str, Any]:
        return {"scoring": dict.fromkeys(self.models, "scripted")}

    def weights_hash(self, role: Role) -> str:
        return weights_hash(self.models[role])

    def save(self, role: Role, folder: Path, adapter_alone: bool = False) -> None:
        self.calls.append(f"save {role}")
        publish(folder, lambda tmp: self._write(role, tmp))

    def _write(self, role: Role, folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps({"model_type": "scripted", "role": role}))
        save_file(self.models[role].state_dict(), folder / "model.safetensors")


class _Scripted(nn.Module):
    def __init__(self, role: Role, say: Say):
        super().__init__()
        self.role, self.say = role, say
        self.added = nn.Parameter(torch.zeros(1))

    def forward(self, rows: Rows, temperature: float = 1.0, as_learner: bool = False) -> Any:
        said = torch.zeros(rows.ids.shape)
        for row, (ids, mask) in enumerate(zip(rows.ids, rows.mask, strict=True)):
            said[row, mask] = torch.tensor(list(self.say(self.role, ids[mask].tolist())), dtype=torch.float32)
        if self.role == "reward":
            last = (rows.mask.sum(1) - 1).clamp(min=0)
            return RewardOutput(said[torch.arange(len(rows)), last] + self.added)
        per_token = torch.where(rows.action, said + self.added, torch.zeros_like(said))
        return per_token if self.role == "critic" else PolicyOutput(per_token)
