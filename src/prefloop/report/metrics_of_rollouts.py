"""The metrics of samples that another program, or an older version of the policy, drew."""

from __future__ import annotations

from prefloop.report.metrics_of_criteria import Metric

ROLLOUTS = (
    Metric(
        "sampler_prob_error",
        "Sampler's error",
        "-",
        "Mean of exp |difference| of a sampled token's log-probability between servers and learner ([rollout]), or "
        "where [align.rollout] importance_cap weighs samples.",
        "1.00 to 1.01; not over 1.02 and rising",
        "NeMo-RL documentation",
    ),
    Metric(
        "sampler_kl",
        "KL from sampler to learner",
        "nats a token",
        "How far what sampled is from what learns, by the k3 estimator, before the first update of the step.",
        "under 1e-3; no spikes",
        "community rule",
    ),
    Metric(
        "sampler_ratio",
        "Importance weight",
        "-",
        "Mean ratio of the learner's probability of a sampled token to the sampler's, before it is cut.",
        "about 1; not outside 0.5 to 2",
        "community rule",
    ),
    Metric(
        "sampler_ess",
        "Effective samples",
        "share of tokens",
        "What share of the tokens samples with these importance weights are worth.",
        "about 1",
        "Kong 1992",
    ),
    Metric(
        "rollout_retries",
        "Repeated requests",
        "requests",
        "How often rollout servers were asked again since the step before, after any failure.",
        "0",
        "-",
    ),
    Metric(
        "rollout_reissued",
        "Requests at an old version",
        "requests",
        "How many of these were refused because the server held another version of the weights.",
        "0",
        "-",
    ),
    Metric(
        "rollout_canary",
        "Canary",
        "nats, mean of a token",
        "How far a server's log-probabilities of fixed texts are from the trainer's, the worst server's.",
        "under 1e-4 in float32; under [rollout] canary in any case",
        "an invariant",
    ),
    Metric(
        "rollout_apart",
        "Samples compared",
        "nats, mean of a token",
        "How far the log-probabilities of compared samples are from what they must be, the worst answer's.",
        "under 1e-4 in float32; about 0.01 in bfloat16",
        "an invariant",
    ),
)
