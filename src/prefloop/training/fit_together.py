"""Refuses models that do not fit each other, before a run begins. It reads tokenizers and settings, and no weights."""

from __future__ import annotations

from collections.abc import Sequence

from prefloop.algorithms.base import OnlineAlgorithm
from prefloop.errors import ConfigError, NothingToDoError
from prefloop.known_algorithms import has_critic, names
from prefloop.models.load import load_tokenizer
from prefloop.models.tokenization import Tokenization
from prefloop.project.left_out import refusal
from prefloop.project.project import ModelRef, Project
from prefloop.record import runs
from prefloop.store import ModelRow
from prefloop.types import Prompt

TRIED = 6  # prompts that policy and reward model are compared on


def judges_of_round(project: Project, round: int) -> list[ModelRow]:
    """Return the reward models of a round. Raises NothingToDoError where there is none, with what there is to do."""
    algorithm = project.config.align.algorithm
    try:
        return project.reward_models(round)
    except NothingToDoError as error:
        raise NothingToDoError(
            f"{algorithm} learns from a reward: {error}. Or name a function that gives the reward ([align] reward), or "
            f"take an algorithm that learns from rankings ({', '.join(names('offline'))})."
        ) from error


def check_policies(project: Project, start: ModelRef, reference: ModelRef) -> None:
    """Raise ConfigError where policy and reference count their tokens in different ways: there is no KL of these."""
    if start.path == reference.path:
        return
    ours, theirs = (_reading(project, ref.path).tokenizer.get_vocab() for ref in (start, reference))
    if ours != theirs:
        raise ConfigError(
            f"the policy that is trained ({start.version}, {len(ours)} tokens) and its reference ({reference.version}, "
            f"{len(theirs)} tokens) have different vocabularies, so there is no KL of one to the other. Put [model] "
            "path back to the model that the policy comes from, or begin again from the other model in a new project."
        )


def check_judges(
    project: Project,
    algorithm: OnlineAlgorithm,
    start: ModelRef,
    judges: Sequence[ModelRow],
    prompts: Sequence[Prompt],
) -> None:
    """Raise ConfigError where a reward model reads text in another way than it learnt to, or than the policy writes it.

    A reward model of another family has a vocabulary and a template of its own, and may have them.
    """
    if not judges:
        return
    policy = _reading(project, start.path)
    readers = {row.version: _reading(project, str(project.root / row.path)) for row in judges}
    for row in judges:
        _check_template(project, row, readers[row.version], policy, prompts)
    # Which of several a critic starts from is known once they are loaded; `policy_setup` checks that one.
    separate = "value" in algorithm.needs and project.config.align.critic == "separate"
    if separate and all(one.fingerprint != policy.fingerprint for one in readers.values()):
        raise ConfigError(no_critic(algorithm))


def no_critic(algorithm: OnlineAlgorithm) -> str:
    """Return what is said where the critic would count its tokens in another way than the policy."""
    without = ", ".join(name for name in names("online") if not has_critic(name))
    return (
        f"{algorithm.name} starts its critic from the reward model, which has another tokenizer than the policy. "
        f'Use [align] critic = "head", [reward] start = "policy", or an algorithm without a critic ({without}).'
    )


def _check_template(
    project: Project, row: ModelRow, judge: Tokenization, policy: Tokenization, prompts: Sequence[Prompt]
) -> None:
    run = next((run for run in runs(project.root) if run.name == row.run_id), None)
    then = run.manifest["config"].get("model", {}).get("chat") if run else None
    now = project.config.model.chat
    if then is not None and then != now and judge.tokenizer.chat_template:
        raise ConfigError(
            f'the reward model {row.version} was trained with [model] chat = "{then}", and would now read text with '
            f'"{now}": its scores would mean something else. Put the setting back, or train it again: prefloop reward.'
        )
    theirs = judge.tokenizer.get_vocab()
    if any(theirs.get(piece) != id for piece, id in policy.tokenizer.get_vocab().items()):
        return
    for prompt in [p for p in prompts[:TRIED] if not refusal(policy, p) and not refusal(judge, p)]:
        if judge.encode_prompt(prompt) != policy.encode_prompt(prompt):
            raise ConfigError(
                f"the reward model {row.version} reads prompts through another chat template than the policy: "
                f"{_where_they_part(judge, policy, prompt)}. Give the folder of [reward] start the policy's chat "
                'template (tokenizer.chat_template), or set [reward] start = "policy"; then run prefloop reward again.'
            )


def _where_they_part(judge: Tokenization, policy: Tokenization, prompt: Prompt) -> str:
    theirs, ours = (t.tokenizer.decode(t.encode_prompt(prompt)) for t in (judge, policy))
    same = next((n for n, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))
    shown = [repr(text[max(0, same - 10) : same + 30]) for text in (theirs, ours)]
    return f"it reads {shown[0]} where the policy reads {shown[1]}"


def _reading(project: Project, source: str) -> Tokenization:
    """Return how a model reads prompts, without loading the model."""
    tokenizer = load_tokenizer(source, project.config.model)
    chat = project.config.model.chat == "auto" and bool(getattr(tokenizer, "chat_template", None))
    return Tokenization(tokenizer, (), None, chat, 0)
