"""Offers models on their own, without a project: a policy that answers, a reward model that scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.config import Model
from prefloop.types import Completion, Prompt, content_from_json, digest

if TYPE_CHECKING:
    from prefloop.project.project import Project

Asked = str | Sequence[Mapping[str, Any]] | Prompt


def as_prompt(asked: Asked) -> Prompt:
    """Return the prompt of a text, or of the messages of a chat as transformers' chat templates take them."""
    if isinstance(asked, Prompt):
        return asked
    return Prompt(asked if isinstance(asked, str) else content_from_json([dict(message) for message in asked]))


class Policy:
    """Wraps a causal language model that answers prompts. `model` and `tokenizer` are those of transformers."""

    def __init__(self, model: Any, tokenization: Any, device: str):
        self.model = model.to(device)
        self.tokenizer = tokenization.tokenizer
        self._tokenization, self._device = tokenization, device

    def generate(
        self,
        prompts: Sequence[Asked],
        k: int = 1,
        *,
        max_tokens: int = 128,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[list[str]]:
        """Return k answers to each prompt.

        The same seed gives the same answers to a prompt, whatever other prompts are in the call.
        """
        from prefloop.engine import make as make_engine
        from prefloop.engine.base import Sampling
        from prefloop.models.policy import Policy as Sampler
        from prefloop.project.project import derive

        asked = [as_prompt(prompt) for prompt in prompts]
        ids = [self._tokenization.encode_prompt(prompt) for prompt in asked for _ in range(k)]
        keys = [derive(0, prompt.id, place) for prompt in asked for place in range(k)]
        engine = make_engine({"policy": Sampler(self.model)}, self._tokenization, seed, self._device)
        with closing(engine):
            drawn = engine.generate(ids, keys, Sampling(max_tokens, temperature, top_p))
        texts = [self._tokenization.decode(sample.ids, asked[n // k]) for n, sample in enumerate(drawn)]
        return [texts[n * k : (n + 1) * k] for n in range(len(asked))]


class RewardScorer:
    """Wraps a reward model that scores texts.

    `score` gives normalised rewards: 0 is the mean of the reference policy's answers, and 1 is one standard deviation
    above it.
    """

    def __init__(self, model: Any, tokenization: Any, device: str, source: str):
        from prefloop.models.load import weights_hash

        self.name = source
        self.model = model.to(device)
        self.tokenizer = tokenization.tokenizer
        self.criterion: str = model.criterion
        self.identity = f"{source} {weights_hash(model.model)}"
        self._tokenization, self._device = tokenization, device

    def score(self, prompts: Sequence[Asked], texts: Sequence[str]) -> list[float]:
        """Return the reward of each text as an answer to the prompt in the same place."""
        return [float(value) for value in self.model.normalise(self._raw(prompts, texts))]

    def raw(self, prompts: Sequence[Asked], texts: Sequence[str]) -> list[float]:
        """Return scores before normalisation: what plain transformers computes from the same folder."""
        return [float(value) for value in self._raw(prompts, texts)]

    def _raw(self, prompts: Sequence[Asked], texts: Sequence[str]) -> Any:
        from prefloop.rewards.model import raw_scores

        if len(prompts) != len(texts):
            raise ValueError(f"score needs a prompt for each text: {len(prompts)} prompts, {len(texts)} texts")
        asked = [as_prompt(prompt) for prompt in prompts]
        answers = [Completion(digest("asked", n), text) for n, text in enumerate(texts)]
        return raw_scores(self.model, self._tokenization, asked, answers, device=self._device)


def newest_policy(project: Project, round: int | None) -> Policy:
    """Return the newest policy of a project, or that at the start of a round."""
    from prefloop.project.project import load_policy

    ref = project.policy(project.aligned_rounds() if round is None else round)
    return Policy(*load_policy(project, ref), project.device)


def newest_reward_model(project: Project, criterion: str | None, round: int | None) -> RewardScorer:
    """Return the newest reward model of a criterion of a project; of the only one where none is named."""
    from prefloop.errors import DataError, suggest
    from prefloop.project.project import load_registered_reward

    rows = project.reward_models(project.latest_round() if round is None else round)
    known = {row.criterion or "": row for row in rows}
    if criterion is None and len(known) == 1:
        criterion = next(iter(known))
    if criterion is None or criterion not in known:
        raise DataError(f'there is no reward model for "{criterion}".{suggest(str(criterion), list(known))}')
    row = known[criterion]
    return RewardScorer(*load_registered_reward(project, row), project.device, row.version)


def load_policy(source: str | Path, *, device: str = "auto", **settings: Any) -> Policy:
    """Return a Hugging Face folder or hub id as a policy.

    settings: those of `[model]`, such as dtype="bfloat16"

    Raises ModelError where it cannot be loaded.
    """
    from prefloop.engine.process import pick_device
    from prefloop.models.load import load_causal

    model, tokenization = load_causal(source, Model(**settings))
    return Policy(model, tokenization, pick_device(device))


def load_reward_model(source: str | Path, *, device: str = "auto", **settings: Any) -> RewardScorer:
    """Return any `AutoModelForSequenceClassification` with one label as a scorer: a folder or a hub id.

    settings: those of `[model]`, such as dtype="bfloat16"

    Raises ModelError where it cannot be loaded.
    """
    from prefloop.engine.process import pick_device
    from prefloop.models.reward import load_reward_model as load

    model, tokenization = load(source, Model(**settings))
    return RewardScorer(model, tokenization, pick_device(device), Path(source).name)
