"""Draws n answers of each prompt, scores them, and chooses one: the best by the reward, or the majority's.

An `Item` holds the prompt with all n answers. What was found is in the metadata: of each answer its `reward`, its
`judge` and its `final` answer, and of the item under `selection` what was chosen, or why its answers could not be
scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prefloop.config_best_of import BestOf
from prefloop.engine.base import Engine, Sampling
from prefloop.errors import PrefloopError
from prefloop.exchange.build import by_score
from prefloop.models.tokenization import Tokenization
from prefloop.ops.best_of import softmax, vote
from prefloop.project.project import derive
from prefloop.rewards.base import Scorer
from prefloop.training.final_answers import FinalAnswer
from prefloop.training.sampled_lists import item_id, to_completion
from prefloop.types import Completion, Item, Prompt, Ranking

KEY = "selection"  # It names no label, since importers refuse labels that nobody reads.
ANNOTATOR = "best-of"  # The rankings by the scorer are marked as simulated, and have this annotator.
IN_A_ROW = 3  # A scorer that fails on so many prompts one after the other fails on all of them.


@dataclass(frozen=True)
class Chooser:
    """What chooses among the answers of a prompt.

    name, scorer:  the reward that chooses, or weighs votes; None where every answer counts alike
    criterion:     what the ranking of all n answers by that reward is called
    judge:         an independent scorer that is only looked at
    final:         what finds the final answer in a text; None where the best reward decides
    """

    settings: BestOf
    name: str | None
    scorer: Scorer | None
    criterion: str
    judge: Scorer | None
    final: FinalAnswer | None

    @property
    def by(self) -> str:
        return "best" if self.final is None else "weighted" if self.scorer else "majority"


def draw(
    engine: Engine,
    tokenization: Tokenization,
    prompts: Sequence[tuple[Prompt, list[int]]],
    settings: BestOf,
    version: str,
    key: str,
) -> list[Item]:
    """Draw n answers of each prompt. Answer j of a prompt is the same for every n and whoever else is asked.

    version, key: of the policy and of the run, for the ids
    """
    n = settings.n
    sampling = Sampling(settings.max_tokens, settings.temperature, settings.top_p, settings.batch)
    keys = [derive(0, prompt.id, j) for prompt, _ in prompts for j in range(n)]
    drawn = engine.generate([ids for _, ids in prompts for _ in range(n)], keys, sampling)
    how = {"temperature": settings.temperature, "top_p": settings.top_p, "max_tokens": settings.max_tokens}
    items = []
    for place, (prompt, _) in enumerate(prompts):
        id = item_id(prompt, version, key)
        samples = enumerate(drawn[place * n : (place + 1) * n])
        answers = [to_completion(tokenization, prompt, f"{id}:c{j}", s, version, how) for j, s in samples]
        items.append(Item(id, prompt, tuple(answers)))
    return items


def choose_all(items: Sequence[Item], chooser: Chooser) -> list[Item]:
    """Return the items with scores and what was chosen; of those that could not be scored, with the reason.

    Raises what the scorer raises where it fails on every prompt.
    """
    found: list[dict[str, list[Any]] | str] = [{} for _ in items]
    for name, scorer in (("reward", chooser.scorer), ("judge", chooser.judge)):
        if scorer is not None:
            _add(found, name, _by_prompt(items, lambda some, scorer=scorer: _scored(scorer, some)))
    if (final := chooser.final) is not None:
        _add(found, "final", _by_prompt(items, lambda some: _finals(final, some)))
    return [_chosen(item, columns, chooser) for item, columns in zip(items, found, strict=True)]


def _add(found: list[dict[str, list[Any]] | str], name: str, columns: Sequence[list[Any] | str]) -> None:
    for place, column in enumerate(columns):
        here = found[place]
        if isinstance(column, str):
            found[place] = column
        elif not isinstance(here, str):
            here[name] = column


def _by_prompt(items: Sequence[Item], ask: Any) -> list[list[Any] | str]:
    """Return what `ask` gives for each item; why it failed, for those alone that it fails on."""
    try:
        return list(ask(items))
    except PrefloopError as error:
        whole = error
    found: list[list[Any] | str] = []
    for item in items:
        try:
            found += ask([item])
        except PrefloopError as error:
            found.append(str(error))
        if len(found) == min(IN_A_ROW, len(items)) and all(isinstance(one, str) for one in found):
            raise whole
    return found


def _scored(scorer: Scorer, items: Sequence[Item]) -> list[list[float]]:
    """Return the scores of each item's answers. Equal answers are asked about once, and have equal scores."""
    unique = [list({_same(c): c for c in item.completions}.values()) for item in items]
    asked = [(item.prompt, c) for item, some in zip(items, unique, strict=True) for c in some]
    values = scorer.score([prompt for prompt, _ in asked], [c for _, c in asked]).total
    known = {(prompt.id, _same(c)): float(value) for (prompt, c), value in zip(asked, values, strict=True)}
    return [[known[item.prompt.id, _same(c)] for c in item.completions] for item in items]


def _same(answer: Completion) -> tuple[str, str | None]:
    return answer.text, answer.finish_reason  # A reward model reads whether it ended.


def _finals(final: FinalAnswer, items: Sequence[Item]) -> list[list[str | None]]:
    return [[final.find(item.prompt, c.text) for c in item.completions] for item in items]


def _chosen(item: Item, columns: Mapping[str, list[Any]] | str, chooser: Chooser) -> Item:
    about: dict[str, Any] = {"by": chooser.by, "n": len(item.completions), "policy": item.completions[0].policy_version}
    if chooser.name:
        about["scorer"] = chooser.name
    if isinstance(columns, str):
        return replace(item, metadata={KEY: about | {"failed": columns}})
    answers = [
        replace(c, metadata={name: column[j] for name, column in columns.items() if column[j] is not None})
        for j, c in enumerate(item.completions)
    ]
    rewards = columns.get("reward")
    if chooser.final is None:
        assert rewards is not None
        about["chosen"] = answers[max(range(len(rewards)), key=rewards.__getitem__)].local_id
    elif any(answer is not None for answer in columns["final"]):
        weights = softmax(rewards, chooser.settings.vote_temperature) if rewards else [1.0] * len(answers)
        place, share = vote(columns["final"], weights)
        about |= {"chosen": answers[place].local_id, "share": share}
    ranked: tuple[Ranking, ...] = ()
    if rewards:
        tiers = by_score({c.id: reward for c, reward in zip(answers, rewards, strict=True)})
        ranked = (Ranking(item.id, ANNOTATOR, chooser.criterion, tiers, simulated=True),)
    return replace(item, completions=tuple(answers), rankings=ranked, metadata={KEY: about})
