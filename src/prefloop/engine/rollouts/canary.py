"""Gates every version of the weights: fixed texts, of which server and trainer must say the same.

A server may have loaded half of an update, another adapter, or kept what it had cached. What it samples then looks like
any other text, so that nobody would see it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from prefloop.batch import Rows, collate
from prefloop.models.tokenization import Tokenization

TEXTS = (
    "The cat sat on the mat and looked at the dog in the garden.",
    "Water boils at one hundred degrees when it is heated at sea level.",
    "She asked him whether the train to the north had already left.",
    "def add(a, b):\n    return a + b\n\nprint(add(2, 3))",
    "Once upon a time there was a little girl who lived near a forest.",
    "1, 2, 3, 5, 8, 13, 21 and so on: each number is the sum of two others.",
    "Thank you for your letter. I am sorry to hear that you were not well.",
    '{"name": "Ada", "born": 1815, "works": ["notes", "letters"]}',
)
LEAST, MOST = 8, 32  # tokens of a text


@dataclass(frozen=True)
class Canary:
    """Holds token ids, how many of each row are prompt, and what the trainer says of the rest [rows][tokens]."""

    rows: Sequence[Sequence[int]]
    prompts: Sequence[int]
    expected: Sequence[Sequence[float]] = ()

    @classmethod
    def of(cls, tokenization: Tokenization, vocabulary: int) -> Canary:
        """Return the fixed texts as ids. A text that gives few is made longer by ids all over the vocabulary."""
        rows = []
        for n, text in enumerate(TEXTS):
            ids = [i for i in tokenization.tokenizer(text, add_special_tokens=False)["input_ids"] if i < vocabulary]
            ids += [(7919 * (n + 1) * (place + 1)) % vocabulary for place in range(LEAST - len(ids))]
            rows.append(ids[: min(MOST, tokenization.context)])
        return cls(rows, [max(1, len(ids) // 4) for ids in rows])

    def as_rows(self) -> Rows:
        return collate(self.rows, self.prompts)

    def expecting(self, logp: torch.Tensor) -> Canary:
        """Return it with what the trainer says: logp [rows,T]."""
        action = self.as_rows().action
        return Canary(self.rows, self.prompts, [x[a].tolist() for x, a in zip(logp, action, strict=True)])

    def apart(self, said: Sequence[Sequence[float]]) -> float:
        """Return the mean difference of a token's log-probability; infinite where the answer has another shape."""
        if [len(row) for row in said] != [len(row) for row in self.expected]:
            return math.inf
        pairs = [
            (a, b) for mine, theirs in zip(self.expected, said, strict=True) for a, b in zip(mine, theirs, strict=True)
        ]
        found = sum(abs(a - b) for a, b in pairs) / len(pairs)
        return found if math.isfinite(found) else math.inf
