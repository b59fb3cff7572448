"""Encodes demonstrations as rows of tokens, takes them from rankings, and computes the loss on those held out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from prefloop.batch import Rows, collate
from prefloop.engine.base import Engine
from prefloop.labels.ranking import mean_rank
from prefloop.models.tokenization import Tokenization
from prefloop.ops.masked import masked_sum
from prefloop.rewards.sequence import Joined, join
from prefloop.types import Demonstration, Item


def encode_demonstrations(
    tokenization: Tokenization, shown: list[Demonstration], max_tokens: int
) -> tuple[list[Joined], int]:
    """Encode demonstrations. Returns those that fit, and how many did not."""
    limit = min(max_tokens, tokenization.context)
    encoded = []
    for demonstration in shown:
        prompt = tokenization.encode_prompt(demonstration.prompt)
        answer = tokenization.answer_ids(demonstration.prompt, prompt, demonstration)
        if len(prompt) + len(answer) <= limit:
            mask = tokenization.assistant_mask(demonstration.prompt, prompt, demonstration, answer)
            encoded.append(join(tokenization, prompt, answer, assistant=mask))
    return encoded, len(shown) - len(encoded)


def rows_of(encoded: Sequence[Joined]) -> Rows:
    return collate([e.ids for e in encoded], [e.prompt for e in encoded], [e.assistant for e in encoded])


def preferred(items: Iterable[Item]) -> list[Demonstration]:
    """Return the completions with the best mean rank of each item, and all of them where they tie.

    A text comes once a prompt.

    An item whose completions all tie gives none, since nobody preferred one of them. Rankings of people who found no
    completion acceptable do not count.
    """
    best: dict[str, Demonstration] = {}
    for item in items:
        ranks = mean_rank([r for r in item.rankings if not r.none_acceptable])
        top = min(ranks.values(), default=0.0)
        if len(ranks) > 1 and top == max(ranks.values()):
            continue
        for completion in item.completions:
            if ranks.get(completion.id) == top and completion.text.strip():
                chosen = Demonstration(item.prompt, completion.text, messages=completion.messages)
                best.setdefault(chosen.id, chosen)
    return list(best.values())


def heldout_loss(engine: Engine, held: Sequence[Joined]) -> dict[str, float]:
    """Return the cross-entropy of held-out demonstrations in nats a token. The result is {} where there are none."""
    if not held:
        return {}
    rows = rows_of(held)
    logp = engine.forward("policy", rows)
    loss = float(-masked_sum(logp, rows.action) / rows.action.sum())
    return {"heldout_loss": loss, "heldout_perplexity": math.exp(min(loss, 50.0))}
