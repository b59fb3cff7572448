"""samples.jsonl of a run: answers with their rewards, and what each token is worth, for people and for `diagnose`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from prefloop.batch import LogprobBatch
from prefloop.models.tokenization import Tokenization
from prefloop.training.rollout import Rollouts

MOST = 64  # answers of a kind at a step, so that the file stays small beside a checkpoint
DIGITS = 4

Kind = Literal["eval", "train", "reference"]


def sample_rows(
    step: int,
    kind: Kind,
    rolls: Rollouts,
    batch: LogprobBatch,
    tokenization: Tokenization,
    advantage: Tensor | None = None,
    judge: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """Return one JSON-able row an answer: text, reward and its parts, KL, and token by token its KL and advantage.

    batch: of the same rows as `rolls`.  advantage: [N, T] as credited; none where nothing was learnt from the answers.
    judge: what an independent scorer says of each answer.
    """
    rows = []
    for n, (prompt, completion) in enumerate(zip(rolls.prompts[:MOST], rolls.completions[:MOST], strict=True)):
        action = batch.action[n]
        first = int(action.int().argmax())
        row: dict[str, Any] = {
            "step": step,
            "kind": kind,
            "id": prompt.id,
            "prompt": prompt.text,
            "text": completion.text,
            "reward": _short(rolls.scores.total[n]),
            "parts": {name: _short(values[n]) for name, values in rolls.scores.parts.items()},
            "length": int(action.sum()),
            "ended": bool(batch.ended[n]),
            "tokens": tokenization.pieces(batch.ids[n][action].tolist(), batch.ids[n][:first].tolist()),
        }
        if batch.ref_logp is not None:
            each = (batch.old_logp[n] - batch.ref_logp[n])[action]
            row |= {"kl": _short(float(each.sum())), "token_kl": [_short(v) for v in each.tolist()]}
        if advantage is not None:
            row["advantage"] = [_short(v) for v in advantage[n][action].tolist()]
        if judge is not None:
            row["judge"] = _short(judge[n])
        rows.append(row)
    return rows


def _short(value: float) -> float:
    return round(float(value), DIGITS)
