"""A crowd of whom more than half do not rank by quality."""

from __future__ import annotations

from prefloop.cases.case import Case

CASE = Case(
    name="bad-annotators",
    title="Part of the crowd ranks upside down, by a coin, or by the order shown",
    story=(
        "Three people rank each list. Seven of the twenty took 1 for the worst answer, two flip a coin, and two "
        "leave the answers as they were shown. The reward model learns from all of them alike. Its held-out "
        "accuracy says little, since the same people ranked the held-out lists. The reward rises while aligning as in "
        "any run, but the answers gain much less than they could."
    ),
    planted="35 % of the people rank upside down, 10 % by a coin, and 10 % keep the order shown",
    cause="rankings-flipped",
    task=("crowd.overlap=3",),
    fault=(
        "crowd.careful=0.45",
        "crowd.weak=0",
        "crowd.coin=0.1",
        "crowd.display_order=0.1",
        "crowd.inverted=0.35",
    ),
    starts="sampled",
    stages=("crowd", "reward", "align"),
    curves=("reward", "eval_judge", "kl", "length"),
    modest=(
        "People are told apart because several of them ranked the same lists. With one person a list, nothing in "
        "the rankings says who is careless; gold lists do."
    ),
)
