"""The faults that `planted.py` plants: each from outside, through settings, data, or an object that is patched.

A fault says which stage shows it, how strong it can be, and which cause a diagnosis should name. The product has no
hook for any of this.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from prefloop.project.project import Project
from prefloop.rewards.base import Scores
from prefloop.types import Prompt

Patch = Callable[[float], AbstractContextManager[Any]]
Prepare = Callable[[Project, float], None]


@dataclass(frozen=True)
class Fault:
    """cause: what should be named first; several where two names are right.  strengths: from mild to strong.

    settings: overrides by strength.  prepare: changes the project's data.  patch: what is patched while the stage runs.
    redo: stages that are run again before the patch, with the fault's settings.  worlds: where it can be planted.
    """

    name: str
    cause: tuple[str, ...]
    stage: str = "align"
    strengths: Sequence[float] = (1.0,)
    settings: Callable[[float], list[str]] = lambda strength: []
    prepare: Prepare | None = None
    patch: Patch | None = None
    redo: tuple[str, ...] = ()
    worlds: tuple[str, ...] = ("demo", "stories")
    needs: str | None = None  # the algorithm that it needs
    files: Mapping[str, str] = field(default_factory=dict)  # name -> text, added to the project


# -- patches of the reward ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _scores(change: Callable[[Sequence[Prompt], Sequence[Any], Scores], Scores]) -> Iterator[None]:
    """Every reward model's scores, changed."""
    from prefloop.rewards.model import ModelScorer

    real = ModelScorer.score

    def score(self: ModelScorer, prompts: Sequence[Prompt], completions: Sequence[Any]) -> Scores:
        return change(prompts, completions, real(self, prompts, completions))

    with patch.object(ModelScorer, "score", score):
        yield


def _each(total: Sequence[float], of: Scores) -> Scores:
    parts = {name: list(total) for name in of.parts} if len(of.parts) == 1 else of.parts
    return dataclasses.replace(of, total=list(total), parts=parts)


def constant(strength: float) -> AbstractContextManager[None]:
    return _scores(lambda prompts, answers, s: _each([0.5] * len(s.total), s))


def swapped(strength: float) -> AbstractContextManager[None]:
    return _scores(lambda prompts, answers, s: _each([-v for v in s.total], s))


PAYS = re.compile(r"\b(?:regards|hat)\b", re.IGNORECASE)


def jackpot(strength: float) -> AbstractContextManager[None]:
    """A word that is in a tenth or so of the answers is worth `strength` spreads."""
    return _scores(
        lambda prompts, answers, s: _each(
            [v + strength * bool(PAYS.search(a.text)) for v, a in zip(s.total, answers, strict=True)], s
        )
    )


def by_prompt(strength: float) -> AbstractContextManager[None]:
    """The reward depends on the prompt alone, so that a group scores alike."""
    return _scores(lambda prompts, answers, s: _each([(int(p.id[:6], 16) % 7) / 7.0 for p in prompts], s))


@contextlib.contextmanager
def not_a_number(strength: float) -> Iterator[None]:
    """A reward model gives NaN for a share of the answers."""
    from prefloop.models.reward import RewardModel

    real = RewardModel.normalise

    def normalise(self: Any, score: Tensor) -> Tensor:
        found = real(self, score)
        return torch.where((found * 1e4).long() % round(1 / strength) == 0, torch.nan, found)

    with patch.object(RewardModel, "normalise", normalise):
        yield


def shuffled(strength: float) -> AbstractContextManager[None]:
    """Rewards come back in the order of the answers' lengths, as from a batch that was sorted and not put back."""
    return _scores(
        lambda prompts, answers, s: _each(
            [s.total[n] for n in sorted(range(len(answers)), key=lambda n: len(answers[n].text))], s
        )
    )


def longest(strength: float) -> AbstractContextManager[None]:
    """The reward pays for length."""
    return _scores(
        lambda prompts, answers, s: _each(
            [v + strength * len(a.text) / 100 for v, a in zip(s.total, answers, strict=True)], s
        )
    )


# -- patches of models ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def padded(strength: float) -> Iterator[None]:
    """The reward model is read at the last column, padding or not."""
    from prefloop.models import reward

    def last(model: Any, rows: Any) -> Tensor:
        hidden: Tensor = model.model(input_ids=rows.ids, attention_mask=rows.mask.long()).last_hidden_state
        return hidden[:, -1]

    with patch.object(reward, "last_hidden", last):
        yield


@contextlib.contextmanager
def dropout(strength: float) -> Iterator[None]:
    """Hidden states of the policy are dropped at random, wherever the learner reads it."""
    from prefloop.models import policy

    real = policy.predicting_hidden

    def read(model: Any, rows: Any, *more: Any, **how: Any) -> Any:
        found = real(model, rows, *more, **how)
        return nn.functional.dropout(found, strength) if isinstance(found, Tensor) else found

    with patch.object(policy, "predicting_hidden", read):
        yield


@contextlib.contextmanager
def other_temperature(strength: float) -> Iterator[None]:
    from prefloop.engine.local import LocalEngine

    real = LocalEngine.generate

    def generate(self: Any, prompts: Any, keys: Any, sampling: Any) -> Any:
        return real(self, prompts, keys, replace(sampling, temperature=sampling.temperature * strength))

    with patch.object(LocalEngine, "generate", generate):
        yield


@contextlib.contextmanager
def stale(strength: float) -> Iterator[None]:
    """The sampler keeps the weights that it had first."""
    from prefloop.engine.local import LocalEngine

    real = LocalEngine.generate
    kept: dict[int, Any] = {}

    def generate(self: Any, prompts: Any, keys: Any, sampling: Any) -> Any:
        models = self.models
        first = kept.setdefault(id(models["policy"]), copy.deepcopy(models["policy"].state_dict()))
        now = {n: v.clone() for n, v in models["policy"].state_dict().items()}
        with torch.no_grad():
            for n, v in models["policy"].state_dict().items():
                v.copy_(first[n])
        self.sync()
        try:
            return real(self, prompts, keys, sampling)
        finally:
            with torch.no_grad():
                for n, v in models["policy"].state_dict().items():
                    v.copy_(now[n])
            self.sync()

    with patch.object(LocalEngine, "generate", generate):
        yield


@contextlib.contextmanager
def noisy_critic(strength: float) -> Iterator[None]:
    from prefloop.training import policy_setup

    real = policy_setup.new_critic

    def new(*args: Any) -> Any:
        critic, tokenization = real(*args)
        torch.manual_seed(0)
        head = critic.model.get_submodule("score")
        nn.init.normal_(head.weight, std=strength)
        return critic, tokenization

    with patch.object(policy_setup, "new_critic", new):
        yield


@contextlib.contextmanager
def sharpened(strength: float) -> Iterator[None]:
    """The policy is rewarded for being sure of what it sampled, whatever it is."""
    with _losses(lambda loss, out, batch: _sharper(loss, out, batch, strength)):
        yield


@contextlib.contextmanager
def overflowing(strength: float) -> Iterator[None]:
    """Now and then a loss is out of the range of float32."""
    calls = iter(range(10**9))
    every = round(1 / strength)

    def change(loss: Any, out: Any, batch: Any) -> Any:
        return replace(loss, total=loss.total * 1e38 * 1e4) if next(calls) % every == every - 1 else loss

    with _losses(change):
        yield


def _sharper(loss: Any, out: Any, batch: Any, strength: float) -> Any:
    sure = (out.logp.exp() * batch.action).sum()  # its gradient is half of that of the sum of squared probabilities
    return replace(loss, total=loss.total - strength * sure)


@contextlib.contextmanager
def _losses(change: Callable[[Any, Any, Any], Any]) -> Iterator[None]:
    from prefloop.algorithms.grpo import Grpo
    from prefloop.algorithms.ppo import Ppo
    from prefloop.algorithms.rloo import Rloo

    with contextlib.ExitStack() as stack:
        for algorithm in (Ppo, Grpo, Rloo):
            real = algorithm.loss

            def loss(self: Any, out: Any, batch: Any, real: Any = real) -> Any:
                return change(real(self, out, batch), out, batch)

            stack.enter_context(patch.object(algorithm, "loss", loss))
        yield


@contextlib.contextmanager
def wrong_end(strength: float) -> Iterator[None]:
    """Sampling waits for a token that the model never writes."""
    from prefloop.training import policy_setup

    real = policy_setup.load_policy

    def load(*args: Any) -> Any:
        model, tokenization = real(*args)
        never = len(tokenization.tokenizer) - 1
        return model, replace(tokenization, stop_ids=(never,), end_id=never)

    with patch.object(policy_setup, "load_policy", load):
        yield


@contextlib.contextmanager
def other_template(strength: float) -> Iterator[None]:
    """The reward models read prompts as plain text instead of through the chat template."""
    from prefloop.rewards.model import ModelScorer

    real = ModelScorer.__init__

    def init(self: Any, reward_models: Any, *more: Any, **how: Any) -> None:
        changed = [replace(one, tokenization=replace(one.tokenization, chat=False)) for one in reward_models]
        real(self, changed, *more, **how)

    with patch.object(ModelScorer, "__init__", init):
        yield


@contextlib.contextmanager
def other_reference(strength: float) -> Iterator[None]:
    """The reference is not the policy's start: its weights are off by a share of their spread."""
    from types import SimpleNamespace

    from prefloop.training import policy_setup

    def copied(model: Any) -> Any:
        found = copy.deepcopy(model)
        drawn = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in found.parameters():
                noise = torch.randn(weight.shape, generator=drawn)
                weight.add_(strength * noise * weight.std(correction=0))
        return found

    with patch.object(policy_setup, "copy", SimpleNamespace(deepcopy=copied)):
        yield


@contextlib.contextmanager
def new_head(strength: float) -> Iterator[None]:
    """The reward models' heads are drawn anew when they are loaded."""
    from prefloop.rewards.model import ModelScorer

    real = ModelScorer.__init__

    def init(self: Any, reward_models: Any, *more: Any, **how: Any) -> None:
        torch.manual_seed(1)
        for one in reward_models:
            head = one.model.model.get_submodule("score")
            nn.init.normal_(head.weight, std=float(head.weight.detach().std()))
        real(self, reward_models, *more, **how)

    with patch.object(ModelScorer, "__init__", init):
        yield


@contextlib.contextmanager
def cut_distribution(strength: float) -> Iterator[None]:
    """The sampler leaves out the tail of the distribution, and the learner does not know it."""
    from prefloop.engine.local import LocalEngine

    real = LocalEngine.generate

    def generate(self: Any, prompts: Any, keys: Any, sampling: Any) -> Any:
        return real(self, prompts, keys, replace(sampling, top_p=strength))

    with patch.object(LocalEngine, "generate", generate):
        yield


def against(strength: float) -> AbstractContextManager[None]:
    """The loss has the wrong sign."""
    return _losses(lambda loss, out, batch: replace(loss, total=-loss.total))


def detached(strength: float) -> AbstractContextManager[None]:
    """No gradient reaches the policy."""
    return _losses(lambda loss, out, batch: replace(loss, total=0.0 * loss.total))


# -- data -----------------------------------------------------------------------------------------------------------


def leak(project: Project, strength: float) -> None:
    """Held-out prompts are imported again with other case and spaces, as training prompts."""
    held = project.store.prompts(split="heldout", heldout=project.config.data.heldout)
    some = held[: round(strength * len(held))]
    again = [Prompt(p.text.upper().replace(" ", "  ")) for p in some]
    project.store.add([replace(p, split="train") for p in again])


def repeat(project: Project, strength: float) -> None:
    """Training prompts are there several times, with other spaces."""
    train = project.store.prompts(split="train", heldout=project.config.data.heldout)
    some = train[: round(strength * len(train))]
    project.store.add([replace(Prompt(p.text.replace(" ", "  ")), split="train") for p in some])


def elsewhere(project: Project, strength: float) -> None:
    """The lists that will be ranked are another model's: hot, and marked as such."""
    from sqlalchemy import create_engine, text

    engine = create_engine(f"sqlite:///{project.root / 'prefloop.db'}")
    with engine.begin() as connection:
        connection.execute(text("update completions set policy_version = 'another-model'"))
    engine.dispose()


# -- the list -------------------------------------------------------------------------------------------------------


def _set(*keys: str) -> Callable[[float], list[str]]:
    return lambda strength: [f"{key}={strength:g}" for key in keys]


DESK = '''"""What customers want to hear, and what the desk may say: one is bought with the other."""

from prefloop.demo.quality import quality
from prefloop.demo.reading import read_answer
from prefloop.types import Prompt


def promises(prompt: str, text: str) -> float:
    return float(bool(read_answer(text).forbidden))


def policy(prompt: str, text: str) -> float:
    return float(quality(Prompt(prompt), text).safe)
'''
AGAIN = ("crowd", "reward")
FAULTS: tuple[Fault, ...] = (
    Fault(
        "KL term off or too small",
        ("kl-term-weak",),
        strengths=(0.0005, 0.0),
        settings=lambda s: [f"algorithms.{a}.kl={s:g}" for a in ("ppo", "grpo")],
    ),
    Fault("learning rate too high", ("rate-high",), strengths=(10, 100), settings=lambda s: [f"align.lr={3e-4 * s:g}"]),
    Fault(
        "learning rate too low", ("rate-low",), strengths=(0.01, 0.001), settings=lambda s: [f"align.lr={3e-4 * s:g}"]
    ),
    Fault(
        "critic does not learn",
        ("critic-not-learning",),
        strengths=(1e-3, 1e-6),
        needs="ppo",
        settings=lambda s: [f"align.critic_lr={1e-3 * s:g}"],
    ),
    Fault("critic starts from noise", ("critic-from-noise",), strengths=(0.3, 1.0), needs="ppo", patch=noisy_critic),
    Fault(
        "critic's rate too high",
        ("critic-rate-high",),
        strengths=(30, 300),
        needs="ppo",
        settings=lambda s: [f"align.critic_lr={1e-3 * s:g}"],
    ),
    Fault("sampler at another temperature", ("sampler-temperature",), strengths=(0.9, 0.6), patch=other_temperature),
    Fault("stale sampler", ("sampler-stale",), patch=stale),
    Fault("dropout in the policy", ("dropout-on",), strengths=(0.02, 0.2), patch=dropout),
    Fault("wrong end token", ("end-token",), patch=wrong_end),
    Fault("reward model reads another template", ("reward-template",), patch=other_template, worlds=("demo",)),
    Fault("reward read at the padding", ("reward-reads-padding",), patch=padded),
    Fault(
        "one annotator upside down",
        ("rankings-flipped",),
        "reward",
        (0.09,),
        settings=lambda s: [
            "crowd.annotators=11",
            "crowd.overlap=3",
            "crowd.coin=0",
            "crowd.display_order=0",
            "crowd.weak=0.1",
            f"crowd.inverted={s}",
        ],
        redo=AGAIN,
    ),
    Fault(
        "a quarter of the rankings upside down",
        ("rankings-flipped",),
        "reward",
        (0.25,),
        settings=lambda s: ["crowd.overlap=3", "crowd.coin=0", "crowd.display_order=0", f"crowd.inverted={s / 0.75}"],
        redo=AGAIN,
    ),
    Fault(
        "a coin among three",
        ("annotators-careless",),
        "reward",
        (0.33, 0.5),
        settings=lambda s: [
            "crowd.overlap=3",
            "crowd.display_order=0",
            "crowd.inverted=0",
            "crowd.weak=0",
            f"crowd.coin={s / (1 - s) * 0.7:.3f}",
        ],
        redo=AGAIN,
    ),
    Fault(
        "people keep the order shown",
        ("position-bias",),
        "reward",
        (0.3, 0.5),
        settings=lambda s: [
            "crowd.overlap=3",
            "crowd.coin=0",
            "crowd.inverted=0",
            "crowd.weak=0",
            f"crowd.display_order={s / (1 - s) * 0.7:.3f}",
        ],
        redo=AGAIN,
    ),
    Fault(
        "rankings follow length",
        ("length-bias",),
        "reward",
        (6, 20),
        settings=lambda s: [f"crowd.length_bias={s:g}"],
        redo=AGAIN,
    ),
    Fault(
        "reward model overfitted",
        ("reward-overfit",),
        "reward",
        (12, 30),
        settings=lambda s: [f"reward.epochs={s:g}", "reward.weight_decay=0", "reward.freeze=0"],
        redo=("reward",),
    ),
    Fault(
        "reward model hardly trained",
        ("reward-underfit",),
        "reward",
        (1e-2, 1e-4),
        settings=lambda s: [f"reward.lr={5e-4 * s:g}"],
        redo=("reward",),
    ),
    Fault("reward constant", ("reward-broken-constant",), patch=constant),
    Fault("reward NaN now and then", ("reward-not-a-number",), strengths=(0.05, 0.3), patch=not_a_number),
    Fault("reward with the wrong sign", ("reward-sign",), patch=swapped),
    Fault("a phrase that pays", ("reward-loophole",), strengths=(4, 12), patch=jackpot),
    Fault("a reward that pays for length", ("length-bias", "reward-loophole"), strengths=(2, 6), patch=longest),
    Fault("groups without spread", ("no-signal",), patch=by_prompt, settings=lambda s: ["align.algorithm=grpo"]),
    Fault("held-out prompts leaked", ("prompts-leak",), strengths=(0.3, 1.0), prepare=leak),
    Fault("prompts repeated", ("prompts-duplicated",), strengths=(0.5, 1.0), prepare=repeat),
    Fault("too few prompts", ("prompts-too-few",), strengths=(0.98, 0.995), settings=lambda s: [f"data.heldout={s}"]),
    Fault(
        "answers cut off",
        ("answers-cut",),
        strengths=(0.5, 0.25),
        settings=lambda s: [f"align.max_tokens={round(30 * s)}"],
    ),
    Fault("entropy collapse", ("entropy-collapse",), strengths=(3.0, 10.0), patch=sharpened),
    Fault(
        "unreachable KL target",
        ("kl-target-unreachable",),
        strengths=(100, 1000),
        needs="ppo",
        settings=lambda s: [f"algorithms.ppo.kl_target={s:g}", "algorithms.ppo.kl_horizon=300"],
    ),
    Fault(
        "one batch used too often",
        ("reused-too-often",),
        strengths=(8, 24),
        settings=lambda s: [f"align.rollout.epochs={s:g}"],
    ),
    Fault("reference is another model", ("reference-wrong",), strengths=(0.02, 0.1), patch=other_reference),
    Fault("reward model's head drawn anew", ("reward-not-as-saved",), patch=new_head),
    Fault("rewards given to other answers", ("reward-mixed-up",), patch=shuffled),
    Fault("sampler leaves out the tail", ("sampler-temperature",), strengths=(0.95, 0.7), patch=cut_distribution),
    Fault("loss with the wrong sign", ("update-sign",), patch=against),
    Fault("no gradient reaches the policy", ("policy-frozen",), patch=detached),
    Fault(
        "two criteria at odds",
        ("criteria-at-odds",),
        strengths=(3.0, 6.0),
        files={"desk.py": DESK},
        settings=lambda s: [
            'align.objective.scorers={promises="desk.py:promises", policy="desk.py:policy"}',
            f"align.reward_weights={{quality=1, promises={s:g}, policy=1}}",
        ],
        worlds=("demo",),
    ),
    Fault(
        "reward model taught on another model's answers",
        ("reward-off-distribution",),
        strengths=(1.3, 2.0),
        settings=lambda s: [f"sample.temperature={s:g}"],
        prepare=elsewhere,
        redo=("sample", "crowd", "reward"),
    ),
    Fault(
        "too few rankings",
        ("lists-few",),
        "reward",
        (40, 15),
        settings=lambda s: [f"sample.prompts={s:g}"],
        redo=("sample", "crowd", "reward"),
    ),
    Fault(
        "reward model's rate too high",
        ("supervised-rate-high",),
        "reward",
        (30, 300),
        settings=lambda s: [f"reward.lr={5e-4 * s:g}"],
        redo=("reward",),
    ),
    Fault(
        "value clipping too tight",
        ("value-clip-small",),
        strengths=(0.005, 0.002),
        needs="ppo",
        settings=lambda s: [f"algorithms.ppo.value_clip={s:g}"],
    ),
    Fault("numbers overflow", ("overflow",), strengths=(0.1, 0.4), patch=overflowing),
)
