"""The metrics of the distance from the reference, of its price, and of what steers the price."""

from __future__ import annotations

from prefloop.report.metrics_of_criteria import Metric

KL = (
    Metric(
        "kl",
        "KL to the reference",
        "nats a sequence",
        "How far the policy has moved: mean log-probability of its own completions, less the reference's.",
        "rises, then flat; under the budget; low tens at most",
        "Ziegler 2019 (target 6); N+ 2024 (50 and 85 were over-optimised)",
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
        "kl_refreshed",
        "KL to the reference that follows",
        "nats a sequence",
        "How far the policy is from the reference that moves with it ([align] reference_refresh), from which the KL is "
        "priced. `kl` is from the one that stays.",
        "falls to 0 at each refresh",
        "Gorbatovski 2024",
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
        "kl_coefficient",
        "KL coefficient",
        "reward a nat",
        "What a nat of KL costs, in every algorithm with a KL term; moves where kl_target or calibrate_kl steers it.",
        "steady, or settling",
        "Ziegler 2019",
    ),
    Metric(
        "kl_target",
        "KL target",
        "nats a sequence",
        "What the coefficient steers the KL to: kl_target, or what the judge's curve says (calibrate_kl).",
        "steady, or settling",
        "Ziegler 2019",
    ),
    Metric(
        "judge_gain",
        "Judge's gain",
        "the scorer's own",
        "How much better [evaluate] scorer finds the answers than the reference's to the same prompts (calibrate_kl).",
        "rises, then flat",
        "Gao 2023",
    ),
    Metric(
        "kl_turn",
        "Turning point",
        "nats a sequence",
        "The KL at which the judge's gain turns over, where most resamples of the prompts see it (calibrate_kl).",
        "over the KL of the policy",
        "Gao 2023",
    ),
    Metric(
        "kl_turn_certain",
        "Resamples that see a turning point",
        "share",
        "In how many resamples of the prompts the judge's gain turns over within the distances that were reached.",
        "under 0.5 while the policy improves",
        "our rule",
    ),
    Metric(
        "kl_past_turn",
        "Past the turning point",
        "share",
        "In how many resamples of the prompts the policy is further away than where the judge's gain turns over.",
        "under 0.5",
        "our rule",
    ),
)
