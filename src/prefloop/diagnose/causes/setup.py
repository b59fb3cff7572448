"""Causes in the set-up: templates, end tokens, padding, limits, prompts, the machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from statistics import median

from prefloop.diagnose.features import followed
from prefloop.diagnose.finding import Action, Evidence
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import cause
from prefloop.diagnose.rules.kl import moved_unseen, starts_at_reference
from prefloop.diagnose.rules.reward_model import scorer_less_accurate

DOCTOR = Action("Try the invariants on the project's own models.", "prefloop doctor")


def _beside_ranked(run: RunRecord, longer: float, shorter: float) -> Iterator[Evidence]:
    """Yield whether the first answers are much longer or shorter than those that people ranked, by these weights."""
    ranked = max(
        (float(judge["answer_words"]) for judge in run.judges.values() if judge.get("answer_words")), default=0
    )
    first = min((sample.step for sample in run.samples), default=0)
    words = [len(sample.text.split()) for sample in run.samples if sample.step == first]
    if not ranked or len(words) < 8:
        return
    now = median(words)
    if now > 1.2 * ranked:
        yield Evidence(f"answers go on for {now:.0f} words, where those that people ranked have {ranked:.0f}", longer)
    elif now < 0.8 * ranked:
        yield Evidence(f"answers stop at {now:.0f} words, where those that people ranked have {ranked:.0f}", shorter)


@cause(
    "end-token",
    "The token that ends answers is the wrong one",
    broke="The model that a run starts from ends its answers.",
    remedy="prefloop doctor says which token training appends and at which sampling stops.",
    act=lambda run: DOCTOR,
    explains={"never-ends": 2.5, "cut-off": 1.0, "ends-lost": 0.3, "length-moved": 0.3},
)
def end_token(run: RunRecord) -> Iterator[Evidence]:
    ended = run.series("ended")
    if run.align("missing_eos") == "off":
        yield Evidence('[align.rollout] missing_eos is "off": answers need no end here', -2.0)
    if run.ends is False:
        yield Evidence("nobody has trained this model to end its answers, or has seen it do so", -3.0)
    elif run.ends:
        yield Evidence("this model was trained to end its answers, or has been seen to", 0.5)
    if ended is not None and ended.first < 0.02:
        yield Evidence("not one answer in fifty ends, from the first step on", 2.0)
    if ended is not None and ended.values.max() > 0.05 and ended.first < 0.5:
        surely = 3.0 if ended.values.max() > 0.15 else 1.5
        yield Evidence(f"{ended.values.max():.0%} of the answers of a later step end, so that they can", -surely)
    if ended is not None and ended.first > 0.5:
        yield Evidence(f"{ended.first:.0%} of the answers end in the first steps", -2.0)
    if ended is not None and ended.first < 0.5:
        yield from _beside_ranked(run, longer=2.0, shorter=-2.5)


@cause(
    "answers-cut",
    "max_tokens is too small for the answers",
    broke="The limit of an answer is longer than its answers.",
    remedy="Raise [align] max_tokens.",
    act=lambda run: Action(
        "Let answers be longer.", f"prefloop align --set align.max_tokens={2 * int(run.align('max_tokens', 128))}"
    ),
    explains={"cut-off": 2.5, "never-ends": 1.8, "reward-cut": 1.0, "ends-lost": 0.7},
    expects={"cut-off": 1.5},
)
def answers_cut(run: RunRecord) -> Iterator[Evidence]:
    ended, length, limit = run.series("ended"), run.series("length"), run.align("max_tokens")
    if ended is None or length is None or not limit:
        return
    if ended.first < 0.02 and ended.values.max() > 0.05:
        surely = 3.0 if ended.values.max() > 0.15 else 1.5
        yield Evidence(f"later {ended.values.max():.0%} of the answers end, so that they can", surely)
    if 0.02 <= ended.first < 0.9:
        yield Evidence(f"{ended.first:.0%} of the answers end before the limit, so that they can end", 1.5)
    if ended.first < 0.9 and limit <= 32:
        yield Evidence(f"the limit is {limit} tokens", 1.0)
    if ended.first >= 0.95:
        yield Evidence("nearly all answers ended at first: they have grown", -1.5)
    if ended.first < 0.9:
        yield from _beside_ranked(run, longer=-2.0, shorter=2.5)


@cause(
    "reward-template",
    "The reward model reads the text through another template than it was trained with",
    broke="Policy and reward model read a prompt through the same chat template.",
    remedy="Give the reward model's folder the chat template that it was trained with.",
    act=lambda run: DOCTOR,
    explains={
        "check-reward-template": 4.0,
        "scorer-less-accurate": 1.5,
        "scorer-at-chance": 1.2,
        "judge-down": 0.5,
        "reward-flat": 0.2,
    },
    expects={"check-reward-template": 1.5},
)
def reward_template(run: RunRecord) -> Iterator[Evidence]:
    yield from ()


@cause(
    "reward-reads-padding",
    "The reward is read at the padding",
    broke="A reward model gives a text one score, alone or in a batch.",
    remedy="Compare the reward model's padding side and pad token with what it was saved with.",
    act=lambda run: DOCTOR,
    explains={
        "check-reward-padding": 5.0,
        "scorer-less-accurate": 1.0,
        "scorer-at-chance": 1.0,
        "judge-down": 0.5,
        "reward-flat": 0.3,
    },
    expects={"check-reward-padding": 2.0},
)
def reward_reads_padding(run: RunRecord) -> Iterator[Evidence]:
    yield from ()


@cause(
    "reward-not-as-saved",
    "The reward model that is loaded is not the one that was measured",
    broke="A reward model scores as it did before it was saved.",
    remedy="Train it again; its head may have been made anew.",
    act=lambda run: Action("Train the reward model again.", "prefloop reward"),
    explains={"scorer-less-accurate": 2.5, "scorer-at-chance": 1.2, "judge-down": 0.4},
)
def reward_not_as_saved(run: RunRecord) -> Iterator[Evidence]:
    seen = scorer_less_accurate(run)
    if seen is not None and seen.baseline is not None and seen.baseline[0] - (seen.value or 0.0) > 0.1:
        yield Evidence("it is right on a tenth of the pairs less, or more than that", 1.0)
    if run.align("reward"):
        yield Evidence("a function gives the reward", -5.0)
    if paid := followed(run):
        yield Evidence(f"the reward follows {paid} so closely that it looks like a part that was added to it", -2.0)
    for name, judge in run.judges.items():
        low = (judge.get("heldout") or {}).get("low")
        if low is not None:
            known = "over chance" if low > 0.5 else "at chance already"
            yield Evidence(f"the reward model {name} was {known} when it was trained", 1.0 if low > 0.5 else -2.0)


@cause(
    "reference-wrong",
    "The reference is not the model that the policy starts from, or it is changed while the run goes on",
    broke="A policy that starts as the reference is at distance 0 from it.",
    remedy="Look at what loads the reference, and that nothing trains it.",
    act=lambda run: DOCTOR,
    explains={"kl-not-zero-at-start": 2.5, "kl-negative": 1.5, "nothing-moves": 0.5},
    expects={"kl-not-zero-at-start": 1.0},
)
def reference_wrong(run: RunRecord) -> Iterator[Evidence]:
    if moved_unseen(run):
        yield Evidence("updates move the policy, and its KL to the reference stays 0: the reference moves along", 5.0)
    gap = run.series("eval_sampler_mismatch")
    if starts_at_reference(run) and gap is not None and gap.values[0] < 1e-3:
        yield Evidence("sampler and learner agree, so that the policy is read rightly", 1.0)


@cause(
    "template-loses-prompt",
    "The template leaves the question out",
    broke="Different prompts are different tokens to the policy.",
    remedy="Look at the chat template in the policy's folder: it has to write the content of every message.",
    act=lambda run: DOCTOR,
    explains={
        "check-prompts-apart": 5.0,
        "variety-lost": 1.0,
        "judge-down": 0.5,
        "reward-flat": 0.7,
        "scorer-at-chance": 0.5,
        "groups-constant": 0.3,
        "length-moved": 0.3,
    },
    expects={"check-prompts-apart": 4.0},
)
def template_loses_prompt(run: RunRecord) -> Iterator[Evidence]:
    yield from ()


@cause(
    "prompts-leak",
    "Held-out prompts were trained on",
    broke="Held-out prompts were not trained on.",
    remedy="Remove them from one side.",
    act=lambda run: Action("Remove the prompts that are on both sides.", "prefloop remove --help"),
    explains={"prompts-leaked": 5.0, "prompts-near": 1.0},
    expects={"prompts-leaked": 3.0},
    stages=("align", "reward"),
)
def prompts_leak(run: RunRecord) -> Iterator[Evidence]:
    yield from ()


@cause(
    "prompts-duplicated",
    "Many prompts are there more than once",
    broke="Each prompt is there once.",
    remedy="Remove the repetitions before they are imported.",
    act=lambda run: Action("Remove the repeated prompts.", "prefloop remove --help"),
    explains={"prompts-repeated": 5.0, "prompts-leaked": 0.5},
    expects={"prompts-repeated": 3.0},
    stages=("align", "reward"),
)
def prompts_duplicated(run: RunRecord) -> Iterator[Evidence]:
    yield from ()


@cause(
    "prompts-too-few",
    "There are too few prompts",
    broke="A run sees enough different prompts.",
    remedy="Import more prompts; a few hundred are a beginning.",
    act=lambda run: Action("Import more prompts.", "prefloop import FILE"),
    explains={"prompts-few": 4.0, "reward-flat": 0.3, "variety-lost": 0.3},
    expects={"prompts-few": 3.0},
)
def prompts_too_few(run: RunRecord) -> Iterator[Evidence]:
    yield from ()


@cause(
    "machine-slow",
    "The machine became slower",
    broke="A step takes as long as the one before it.",
    remedy="Look at what else runs, and at memory.",
    act=lambda run: Action("Look at what else runs on this machine, and at its memory.", "prefloop doctor"),
    explains={"steps-slower": 3.0},
    stages=("align", "reward", "sft"),
)
def machine_slow(run: RunRecord) -> Iterator[Evidence]:
    yield from ()


@cause(
    "stopped-by-an-error",
    "The run was stopped by an error",
    broke="A run ends by itself.",
    remedy="Do what the error says; the same command goes on from the last checkpoint.",
    act=lambda run: Action("Do what the error says; the same command goes on.", _same_command(run)),
    explains={"run-failed": 2.0},
    stages=("align", "reward", "sft"),
)
def stopped_by_an_error(run: RunRecord) -> Iterator[Evidence]:
    yield from ()


@cause(
    "scorer-raised",
    "The scorer raised an error",
    broke="A scorer gives every answer a reward.",
    remedy="Mend the scorer; one that asks over a network has to try again by itself. The same command begins anew "
    "with a scorer that was changed, and goes on with one that was only out of reach.",
    act=lambda run: Action(
        "Mend the scorer; one that asks over a network has to try again by itself. Then give the same command.",
        _same_command(run),
    ),
    explains={"run-failed": 2.0},
)
def scorer_raised(run: RunRecord) -> Iterator[Evidence]:
    reason = str(run.manifest.get("reason") or "")
    if re.match(r"scorer .* failed:", reason):
        yield Evidence("the error came from the scorer", 3.0)
    else:
        yield Evidence("the error came from somewhere else", -4.0)


@cause(
    "stopped-from-outside",
    "The run was stopped before its end",
    broke="A run goes on until it is done.",
    remedy="The same command goes on from the last checkpoint. If nobody stopped it, look at the machine's memory.",
    act=lambda run: Action("The same command goes on from the last checkpoint.", _same_command(run)),
    explains={"run-stopped": 3.0},
    stages=("align", "reward", "sft", "evaluate"),
)
def stopped_from_outside(run: RunRecord) -> Iterator[Evidence]:
    yield from ()


def _same_command(run: RunRecord) -> str:
    """Return the command that began the run, without the folder of the program."""
    words = str(run.manifest.get("command") or f"prefloop {run.stage}").split(" ")
    return " ".join(["prefloop" if words[0].endswith("/prefloop") else words[0], *words[1:]])
