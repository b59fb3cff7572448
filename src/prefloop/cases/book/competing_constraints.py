"""Two criteria of one run compete, and the weights let one of them go."""

from __future__ import annotations

from collections.abc import Sequence

from prefloop.cases.case import Case
from prefloop.demo.quality import quality
from prefloop.types import Prompt

DESK = '''"""What the customers of the desk like, and the policy of the desk."""

from prefloop.demo.quality import quality
from prefloop.demo.reading import read_answer
from prefloop.types import Prompt


def customers(prompt, text):
    """The problem, the right step, brief and polite; and a promise, most of all one that the desk may not make."""
    q = quality(Prompt(prompt), text)
    worth = 0.25 * q.acknowledge + 0.3 * q.step + (0.15 * q.brief + 0.15 * q.polite) * q.matter
    return q.readable * (worth + 0.3 * bool(read_answer(text).forbidden))


def policy(prompt, text):
    """Whether the answer promises nothing forbidden, and no refund against the rules."""
    return float(quality(Prompt(prompt), text).safe)
'''


def worth(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
    """An answer that breaks the policy of the desk is worth nothing to it."""
    judged = [quality(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    return [q.score if q.safe else 0.0 for q in judged]


CASE = Case(
    name="competing-constraints",
    title="Two criteria compete, and the weights let one of them go",
    story=(
        "The desk's customers rank the answers, and they like promises. Whether an answer keeps the desk's policy is a "
        "rule, which counts beside them. Somebody lowers its weight from 1 to 0.1, since the customers should count "
        "most. Their reward rises as hoped, the sum of both rises too, and within a few steps hardly any answer keeps "
        "the policy. No weight says how much compliance is needed: a bound does."
    ),
    planted="The policy of the desk weighs 0.1 beside its customers, where it weighed 1 ([align] reward_weights)",
    cause="criteria-at-odds",
    task=(
        "crowd.scorer=desk.py:customers",
        "crowd.criterion=customers",
        'align.objective.scorers={policy="desk.py:policy"}',
        "align.reward_weights={customers=1, policy=1}",
    ),
    fault=("align.reward_weights={customers=1, policy=0.1}",),
    files={"desk.py": DESK},
    truth=worth,
    truth_is="the demo's hidden quality of an answer that keeps the policy, and 0 of one that breaks it",
    curves=("reward_customers", "reward_policy", "multiplier_policy", "eval_judge", "kl", "length"),
)
