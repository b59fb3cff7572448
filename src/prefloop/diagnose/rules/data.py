"""Prompts: enough of them, each once, and none on both sides."""

from __future__ import annotations

from prefloop.diagnose.finding import Expected
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import Seen, rule
from prefloop.known_algorithms import is_offline

LEARNS = ("align", "reward")


@rule(
    "prompts-leaked",
    kind="data",
    stages=LEARNS,
    expected=Expected(
        "0", "share of held-out prompts", "same text, case and white space aside", "the store", "our invariant"
    ),
    broke="Held-out prompts were not trained on.",
    meaning="What is measured on them is memory.",
    cannot_tell="The same task in other words.",
)
def prompts_leaked(run: RunRecord) -> Seen | None:
    if run.data is None or not run.data.heldout or run.data.leaked / run.data.heldout <= 0.02:
        return None
    share = run.data.leaked / run.data.heldout
    example = f", for example {run.data.examples[0][:60]!r}" if run.data.examples else ""
    return Seen(
        f"{run.data.leaked} of {run.data.heldout} held-out prompts are training prompts too{example}",
        None,
        share,
        signal="prompts",
    )


@rule(
    "prompts-near",
    kind="data",
    stages=LEARNS,
    expected=Expected(
        "under 0.1", "share of held-out prompts", "Jaccard of word triples over 0.8", "the store", "our level"
    ),
    broke="Held-out prompts are not training prompts with a word changed.",
    meaning="Near-duplicates make every held-out figure too good.",
    cannot_tell="Prompts from a template are near each other by nature.",
    severity="note",
)
def prompts_near(run: RunRecord) -> Seen | None:
    if run.data is None or not run.data.heldout or run.data.near / run.data.heldout <= 0.1:
        return None
    return Seen(
        f"{run.data.near} of {run.data.heldout} held-out prompts are nearly a training prompt",
        None,
        run.data.near / run.data.heldout,
        signal="prompts",
    )


@rule(
    "prompts-repeated",
    kind="data",
    stages=LEARNS,
    expected=Expected(
        "under 0.1", "share of training prompts", "same text, case and white space aside", "the store", "our level"
    ),
    broke="Each prompt is there once.",
    meaning="A prompt that is there many times counts many times.",
    cannot_tell="Whether the repetition was meant as a weight.",
)
def prompts_repeated(run: RunRecord) -> Seen | None:
    if run.data is None or not run.data.train or run.data.duplicates / run.data.train <= 0.1:
        return None
    return Seen(
        f"{run.data.duplicates} of {run.data.train} training prompts repeat another one",
        None,
        run.data.duplicates / run.data.train,
        signal="prompts",
    )


@rule(
    "prompts-few",
    kind="data",
    expected=Expected(
        "at most 8 passes over the prompts, or 64 prompts",
        "passes",
        "steps x prompts a step / prompts",
        "a run",
        "our level",
    ),
    broke="A run sees enough different prompts.",
    meaning="Answers to a handful of prompts are learnt by heart, and held-out prompts get nothing of it.",
    cannot_tell="Whether the few prompts stand for all.",
)
def prompts_few(run: RunRecord) -> Seen | None:
    if run.data is None or not run.data.train or is_offline(run.align("algorithm", "ppo")):
        return None
    passes = run.align("steps", 0) * run.align("prompts", 0) / run.data.train
    if run.data.train >= 64 or passes <= 4:
        return None
    return Seen(
        f"there are {run.data.train} training prompts, which the run sees {passes:.0f} times each",
        None,
        passes,
        signal="prompts",
    )
