"""The reward rises while answers lose what nobody ranked by: the courtesy that the house asks for."""

from __future__ import annotations

from prefloop.cases.case import Case

HOUSE = '''"""What the people of the house look at when they rank, and what the house asks of every answer."""

from prefloop.demo.quality import quality
from prefloop.demo.reading import read_answer
from prefloop.types import Prompt


def matter(prompt, text):
    """The problem, the right step, brief and safe; a courtesy is one sentence more to read."""
    q = quality(Prompt(prompt), text)
    worth = 0.25 * q.acknowledge + 0.3 * q.step + (0.15 * q.brief + 0.15 * q.safe) * q.matter
    return q.readable * (worth - 0.15 * bool(read_answer(text).courtesies))


def courtesy(prompt, text):
    """One courtesy, and not two."""
    return read_answer(text).courtesies == 1


courtesy.unit = "share"
courtesy.worse = "lower"
'''

CASE = Case(
    name="behaviour-regresses",
    title="The reward improves while a behaviour regresses",
    story=(
        "The people who rank look at the matter: the problem, the right step, and few words. The house asks for one "
        "courtesy in every answer, which they skip and so rank down. The reward model learns what they do, the reward "
        "rises at every step, and the courtesy goes. A bound of [behaviour] sees it: no step that breaks the bound is "
        "kept, so that the run ends where it began and its gain is lost."
    ),
    planted="The people who rank do not care for the courtesy that the house asks for ([crowd] scorer)",
    cause="behaviour-regresses",
    fault=(
        "crowd.scorer=house.py:matter",
        'behaviour.functions=["house.py:courtesy"]',
        'behaviour.checks=["ended", "length"]',
        "behaviour.max_drop={courtesy=0.05}",
    ),
    files={"house.py": HOUSE},
    starts="sampled",
    stages=("crowd", "reward", "align"),
    curves=("reward", "eval_reward", "eval_judge", "eval_behaviour_courtesy", "eval_behaviour_broken", "kl"),
)
