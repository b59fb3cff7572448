"""Every metric a stage logs: what it means, its unit, its healthy range, where that range comes from, and a check.

A check sees the finite values in order of step and says in one sentence what is unusual, or None. It is a reason to
look, not a verdict: the published ranges come from other models and data.
"""

from __future__ import annotations

from collections.abc import Sequence

from prefloop.report.checks import (
    above,
    below,
    fallen,
    moved,
    not_positive,
    off_one,
    peak,
    ratio_off,
    spike,
)
from prefloop.report.metrics_of_criteria import BEHAVIOUR, CRITERIA, Metric

OURS = "our rule"
METRICS = (
    Metric(
        "reward",
        "Reward",
        "sd of the reference's reward",
        "Mean score of the completions by the reward models, weighted; 0 is the reference policy, 1 its spread.",
        "rises, then flattens; held-out follows training",
        "Ziegler 2019",
    ),
    Metric(
        "reward_std",
        "Reward spread",
        "sd of the reference's reward",
        "Standard deviation of the reward over the completions of a step.",
        "above 0",
        "no spread, no gradient",
        below(1e-3, "all completions score alike"),
    ),
    Metric(
        "reward_max",
        "Highest reward",
        "sd of the reference's reward",
        "The highest reward of a step: a few answers far above all others are a bug or a loophole.",
        "within 6 spreads of the mean",
        "our rule",
    ),
    Metric(
        "judge",
        "Independent judge",
        "the scorer's own",
        "What [evaluate] scorer says of the answers at an evaluation, on average. It chooses nothing.",
        "rises with the reward",
        "Gao 2023",
    ),
    Metric("judge_std", "Judge's spread", "the scorer's own", "Its standard deviation.", "-", "-"),
    Metric(
        "ranked_accuracy",
        "Accuracy on held-out lists",
        "share of pairs",
        "How often the reward of this run, before its first update, orders held-out ranked answers as people did.",
        "above 0.5",
        "an invariant",
    ),
    Metric("ranked_pairs", "Held-out pairs", "pairs", "How many pairs that accuracy is of.", "30 or more", "our rule"),
    Metric(
        "kl",
        "KL to the reference",
        "nats a sequence",
        "How far the policy has moved: mean log-probability of its own completions, less the reference's.",
        "rises, then flat; under the budget; low tens at most",
        "Ziegler 2019 (target 6); N+ 2024 (50 and 85 were over-optimised)",
        peak(50, "over-optimised runs were seen from 50 nats"),
    ),
    Metric(
        "kl_k3",
        "KL, low-variance",
        "nats a sequence",
        "The same by the k3 estimator, which is never negative.",
        "close to KL",
        "Schulman 2020",
    ),
    Metric(
        "kl_baseline",
        "KL of rounding the reference",
        "nats a sequence",
        "What [align] frozen_dtype alone adds to the KL, measured before the first update and taken out of every KL.",
        "small beside the KL itself",
        "our rule",
    ),
    Metric(
        "entropy",
        "Entropy",
        "nats a token",
        "Mean negative log-probability of the sampled tokens: how undecided the policy is.",
        "declines mildly; not under 0.1",
        "community rule",
        below(0.1, "the policy has collapsed to few answers"),
    ),
    Metric(
        "length",
        "Length",
        "tokens",
        "Mean length of the completions, their end token included.",
        "stable, unless length was asked for",
        f"{OURS}: half as long again",
        moved(0.5, "length has moved"),
    ),
    Metric(
        "ended",
        "Finished answers",
        "share",
        "Completions that end by themselves instead of being cut off at max_tokens.",
        "above 0.95",
        "PPO practice (Huang 2024)",
        below(0.95, "many answers are cut off; raise max_tokens, or look at the end token"),
    ),
    Metric(
        "reward_cut",
        "Answers cut for scoring",
        "share",
        "Completions longer than a reward model reads, which it scored without their end; there where it is not 0.",
        "0",
        "-",
        peak(0.05, "the reward model does not see how many answers end; raise [reward] max_tokens"),
    ),
    Metric(
        "distinct_2",
        "Different word pairs",
        "share",
        "Different pairs of neighbouring words among all of them, in one answer a prompt: low where answers are alike.",
        "about the reference's; collapsed under 0.15 of it",
        f"{OURS}: 0.75 of the first",
        fallen(0.75, "answers repeat each other or themselves more"),
    ),
    Metric(
        "repetition",
        "Repetition",
        "share",
        "Word pairs of an answer that it had said before, mean over the answers.",
        "about the reference's; collapsed 0.5 over it",
        f"seq-rep-2, Welleck 2019; {OURS}",
    ),
    Metric("commonest", "Same answer", "share", "Answers that are the most frequent text.", "low", OURS),
    Metric(
        "win_rate",
        "Win rate",
        "share",
        "Validation prompts on which the reward is higher than of the reference's answer, a draw counting half.",
        "rises over 0.5",
        "-",
    ),
    Metric(
        "sampler_mismatch",
        "Sampler mismatch",
        "nats, largest of a step",
        "Largest difference of a token's log-probability between the sampler and the learner, where the learner's are "
        "computed: in every evaluation, and in every step after one that showed 1e-4 or more.",
        "under 1e-4 in float32; about 1e-2 in bfloat16",
        "an invariant",
        peak(0.05, "sampler and learner disagree (temperature, padding, template)"),
    ),
    Metric(
        "sampler_gap",
        "Sampler's lean",
        "nats, mean of a token",
        "How much more sure of its tokens the sampler is than the learner, on average.",
        "0",
        "an invariant",
    ),
    Metric(
        "sequences",
        "Sequences",
        "completions",
        "How many completions a step learned from, or an evaluation looked at.",
        "constant",
        "-",
    ),
    Metric(
        "first_ratio",
        "First ratio",
        "-",
        "Probability ratio of new to old policy on the first inner update, before anything was learned.",
        "1 (within 1e-5 in float32)",
        "an invariant",
        off_one(1e-3),
    ),
    Metric(
        "staleness",
        "Staleness",
        "updates",
        "How many updates the policy that sampled is behind the one that learns ([align.rollout] staleness).",
        "0 or 1",
        "-",
    ),
    Metric(
        "stale_kl",
        "KL of staleness",
        "nats a token",
        "How far apart those two policies are, before the update (k3 estimator).",
        "about 0.001; not over 0.02",
        "common early-stop value",
        above(0.02, "samples are too old for what is learned from them; lower the learning rate, or staleness = 0"),
    ),
    Metric(
        "ratio",
        "Ratio",
        "-",
        "Mean probability ratio of new to old policy over all inner updates.",
        "about 1; not outside 0.5 to 2",
        "TRL documentation",
        ratio_off,
    ),
    Metric(
        "clip_fraction",
        "Clip fraction",
        "share of tokens",
        "Where the ratio was clipped, so that the token gave no gradient. For RLOO: share of sequences.",
        "under 0.05, up to 0.2; not lastingly over 0.3",
        "Ahmadian 2024; community rule",
        above(0.3, "most updates are cut; lower the learning rate or the epochs"),
    ),
    Metric(
        "approx_kl",
        "Update KL",
        "nats a token",
        "How far the updates of one step move the policy from the one that sampled (k3 estimator).",
        "about 0.001; not over 0.02",
        "common early-stop value",
        above(0.02, "the steps are large; lower the learning rate or the epochs"),
    ),
    Metric(
        "kl_coefficient",
        "KL coefficient",
        "reward a nat",
        "What a nat of KL costs; moves where [algorithms.ppo] kl_target is set.",
        "steady, or settling",
        "Ziegler 2019",
    ),
    Metric(
        "policy_loss", "Policy loss", "-", "The surrogate that was minimised.", "near 0; its level says little", "-"
    ),
    Metric(
        "value_loss",
        "Critic loss",
        "squared reward",
        "Half the squared error of the critic's value against the returns.",
        "falls",
        "-",
    ),
    Metric("value_mean", "Critic mean", "reward", "Mean value the critic predicts.", "follows the returns", "-"),
    Metric(
        "value_clip_fraction",
        "Critic clip fraction",
        "share of tokens",
        "Where the critic's change was clipped.",
        "falls to 0",
        f"{OURS}: not over 0.2",
        above(0.2, "the critic is held back"),
    ),
    Metric(
        "explained_variance",
        "Explained variance",
        "share",
        "How much of the returns' variance the critic predicted before the update; 0 is a constant, 1 perfect.",
        "becomes positive, over 0.5 late",
        "community rule",
        not_positive,
    ),
    Metric(
        "constant_groups",
        "Groups without spread",
        "share of prompts",
        "Prompts whose completions all got the same reward, and so give no gradient (GRPO, RLOO).",
        "low",
        f"{OURS}: not over 0.5",
        above(0.5, "half the prompts teach nothing"),
    ),
    Metric(
        "grad_norm_*",
        "Gradient norm",
        "-",
        "Length of a model's gradient before it is cut to clip_norm.",
        "no spikes",
        f"{OURS}: 20 times the median",
        spike,
    ),
    Metric(
        "skipped",
        "Skipped updates",
        "share",
        "Updates left out because the gradient was not finite.",
        "0",
        "an invariant",
        peak(0, "gradients were not finite"),
    ),
    Metric(
        "reward_*",
        "Reward by criterion",
        "sd of the reference's reward",
        "Mean score by one criterion's reward model, where there are several.",
        "rises, or holds",
        "-",
    ),
    *CRITERIA,
    *BEHAVIOUR,
    Metric(
        "examples",
        "Examples",
        "a step",
        "How many demonstrations (SFT) or lists (preferences) a step learned from; an epoch's last may have few.",
        "constant, but for those",
        "-",
    ),
    Metric("loss", "Loss", "nats", "What was minimised, a token (SFT), a list or a pair (preferences).", "falls", "-"),
    Metric(
        "heldout_loss",
        "Held-out loss",
        "nats a token",
        "Cross-entropy on demonstrations of held-out prompts.",
        "falls; rising again is overfitting",
        "-",
    ),
    Metric(
        "heldout_perplexity",
        "Held-out perplexity",
        "tokens",
        "exp(held-out loss).",
        "falls",
        "-",
    ),
    Metric(
        "heldout_accuracy",
        "Held-out accuracy",
        "share of pairs",
        "Pairs of held-out prompts that are put in the order people put them; 0.5 is chance.",
        "above 0.5, and above preferring the longer text",
        "-",
        below(0.5, "no better than chance"),
    ),
    Metric(
        "heldout_log_loss",
        "Held-out log loss",
        "nats a vote",
        "How surprised the reward model is by single judgements; log 2 = 0.693 is chance.",
        "under 0.693",
        "-",
        above(0.6932, "surer than it should be"),
    ),
    Metric("accuracy", "Accuracy", "share of pairs", "DPO: training pairs ordered as people do.", "rises", "-"),
    Metric(
        "implicit_reward",
        "Implicit reward",
        "nats",
        "DPO: beta times the log-probability gained over the reference, mean over completions.",
        "may fall slowly; not steeply",
        "Rafailov 2023",
    ),
)
_EXACT = {metric.name: metric for metric in METRICS}
_PREFIXES = tuple(metric for metric in METRICS if metric.name.endswith("*"))


def explain(name: str) -> Metric | None:
    """Return the metric of a logged name; "eval_" is the same figure on held-out prompts. None: unknown."""
    bare = name.removeprefix("eval_")
    if bare in _EXACT:
        return _EXACT[bare]
    return next((m for m in _PREFIXES if bare.startswith(m.name[:-1])), None)


def flag(name: str, values: Sequence[float], examples: Sequence[float | None] = ()) -> str | None:
    """Return what is unusual about a metric's finite values, in order of step; None where nothing is known to be.

    examples: how many each step learned from, where that is known. An epoch's last step may have a handful, and a
    gradient as noisy: it is compared with no others.
    """
    metric = explain(name)
    if name.startswith("grad_norm_") and len(examples) == len(values):
        usual = max((n for n in examples if n is not None), default=0.0)
        values = [value for value, n in zip(values, examples, strict=True) if n is None or n > usual / 2]
    return metric.check(values) if metric and metric.check and values else None
