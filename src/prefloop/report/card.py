"""The model card of an exported model: README.md with the hub's metadata, from what the store and the runs know.

People stay out of it: no names, no prompts, no paths of the machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import prefloop
from prefloop.results import Aligned, AlignedOffline, AlignedOnline, Evaluated, TrainedReward, Tuned

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Card:
    """Holds what is known of one model.

    ancestors:  (version, what it learnt from) from its own run down to the base model
    base:       the hub id of the base model; None where it was a folder
    made:       the result of the run that made it
    evaluation: that of this policy against the reference
    """

    version: str
    kind: str
    project: str
    method: str
    criterion: str | None
    base: str | None
    dtype: str
    ancestors: Sequence[tuple[str, str]]
    settings: Figures
    made: Tuned | TrainedReward | Aligned | None
    evaluation: Evaluated | None
    versions: Figures
    seed: int


def model_card(card: Card) -> str:
    """Return the text of README.md."""
    from huggingface_hub import ModelCardData

    reward = card.kind == "reward"
    data = ModelCardData(
        base_model=card.base,
        library_name="transformers",
        pipeline_tag="text-classification" if reward else "text-generation",
        tags=["prefloop", "reward-model" if reward else "rlhf", card.method],
        model_name=card.version,
    )
    return "\n".join(["---", data.to_yaml().strip(), "---", "", *_body(card)]) + "\n"


def _body(card: Card) -> Iterator[str]:
    reward = card.kind == "reward"
    what = f'a reward model for "{card.criterion}"' if reward else "a policy"
    yield f"# {card.version}"
    yield ""
    yield f"This is {what} of the project {card.project}, made with [prefloop](https://github.com/prefloop/prefloop)"
    yield f"{prefloop.__version__} by `{card.method}`. Weights are {card.dtype}."
    base = f"[{card.base}](https://huggingface.co/{card.base})" if card.base else "a local folder"
    yield f"The base model is {base}; its licence and its limits apply to this model, too."
    yield from ("", "## Use", "", "```python")
    yield from _USE_REWARD if reward else _USE_POLICY
    yield from ("```", "", "## How it was made", "", "| model | learnt from |", "|---|---|")
    yield from (f"| {version} | {learnt} |" for version, learnt in card.ancestors)
    if rows := list(_figures(card)):
        yield from ("", "## What was measured", "", "| figure | value | 95 % interval | on |", "|---|---|---|---|")
        yield from rows
        if card.evaluation and card.evaluation.sampled:
            yield from (
                "",
                "The win rate and the gain are by the reward models of the project, not by people.",
            )
    yield from ("", "## Settings", "", f"The seed is {card.seed}.", "", "| setting | value |", "|---|---|")
    yield from (f"| `{name}` | {_value(value)} |" for name, value in card.settings.items())
    packages = ", ".join(f"{name} {version}" for name, version in card.versions.items() if name != "platform")
    yield from ("", f"Versions: {packages}.")


_USE_POLICY = (
    "from transformers import AutoModelForCausalLM, AutoTokenizer",
    "",
    'model = AutoModelForCausalLM.from_pretrained("FOLDER_OR_HUB_ID")',
    'tokenizer = AutoTokenizer.from_pretrained("FOLDER_OR_HUB_ID")',
)
_USE_REWARD = (
    "import prefloop",
    "",
    'rewards = prefloop.load_reward_model("FOLDER_OR_HUB_ID")  # or AutoModelForSequenceClassification, for raw scores',
    'rewards.score(["a prompt"], ["an answer"])',
)


def _figures(card: Card) -> Iterator[str]:
    made = card.made
    heldout = made.heldout if isinstance(made, TrainedReward) else None
    if heldout and heldout.accuracy is not None:
        on = f"{heldout.pairs} held-out pairs of {heldout.prompts} prompts"
        yield _row("accuracy", heldout.accuracy, heldout.low, heldout.high, ".1%", on)
    if card.evaluation and (sampled := card.evaluation.sampled):
        on = f"{card.evaluation.prompts} held-out prompts"
        for name, mean, form in (("win rate", sampled.win_rate, ".1%"), ("reward gain", sampled.reward_gain, "+.3f")):
            yield _row(f"{name} against the reference", mean.mean, mean.low, mean.high, form, on)
        yield _row("KL from the reference, nats a sequence", sampled.policy["kl"], None, None, ".2f", on)
    elif isinstance(made, AlignedOnline | AlignedOffline) and made.kl is not None:
        yield _row("KL from the reference, nats a sequence", made.kl, None, None, ".2f", "validation prompts")
    if isinstance(made, Tuned) and made.heldout_loss is not None:
        yield _row("loss, nats a token", made.heldout_loss, None, None, ".3f", "held-out demonstrations")


def _value(value: Any) -> str:
    return "none" if value in (None, "", {}, [], ()) else f"`{str(value).replace('|', ' ')}`"


def _row(name: str, value: float, low: float | None, high: float | None, form: str, on: str) -> str:
    interval = "" if low is None or high is None else f"{low:{form}} to {high:{form}}"
    return f"| {name} | {value:{form}} | {interval} | {on} |"
