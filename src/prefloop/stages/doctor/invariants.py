"""Tries on the project's own model what must hold on any model before its training means anything.

Each of these, broken, looks like a training problem and is none: padding that is read, a sampler and a learner that
disagree, a first update that is not on policy, a gradient that depends on the batch's cut, a reward model that scores
differently once saved.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prefloop.algorithms.base import Loss, Role
from prefloop.algorithms.sft import Sft
from prefloop.batch import PolicyOutput, Rows, collate
from prefloop.config_section import Optimiser
from prefloop.engine import Training
from prefloop.engine import make as make_engine
from prefloop.engine.base import Sampled, Sampling, Term
from prefloop.kernels import gpu, native
from prefloop.models.four_bit import Quantised
from prefloop.models.load import from_pretrained, load_tokenizer
from prefloop.models.lora import copy_of, rank_of
from prefloop.models.packed import supports_packed
from prefloop.models.packed_forward import computed_by
from prefloop.models.policy import Policy
from prefloop.models.reward import RewardModel, load_reward_model
from prefloop.models.save import save_pretrained
from prefloop.models.tokenization import Tokenization, eos_of
from prefloop.ops.kl import k1
from prefloop.ops.masked import masked_sum
from prefloop.project.left_out import LeftOut
from prefloop.project.project import ModelRef, Project, derive, load_policy
from prefloop.stages.doctor.base import Check, guarded
from prefloop.training.first_checks import prompts_apart
from prefloop.types import Prompt

PROMPTS, SAMPLED_EACH, TOKENS = 4, 2, 24
# in nats; rounding of bfloat16 is about 2^-8 of a logit
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}


def invariants(project: Project) -> Iterator[Check]:
    """Yield checks on the newest policy and the newest reward model."""
    ref = _policy(project)
    if ref is None:
        yield Check("model", "skipped", "a new model is made by the first stage that needs it")
        return
    found: list[_Subject] = []
    with ExitStack() as engines:

        def load() -> Check:
            found.append(_Subject(project, ref, engines))
            count = sum(p.numel() for p in found[0].model.parameters())
            context = found[0].tokenization.context
            return Check("model", "ok", f"{ref.version} ({ref.path}): {count:,} parameters, {context} tokens")

        yield guarded("model", load)
        if not found:
            return
        subject = found[0]
        for name, look in _POLICY.items():
            yield guarded(name, lambda look=look, name=name: look(subject, name))  # type: ignore[misc]
    row = project.store.latest_model("reward")
    if row is None:
        yield Check("reward model", "skipped", "none yet: prefloop reward makes one")
        return
    source = Path(project.ref(row).path)  # The check "models" compared its files before.
    yield guarded("reward padding", lambda: _reward_padding(project, source))
    yield guarded("reward save and load", lambda: _reward_saved(project, source))


def _policy(project: Project) -> ModelRef | None:
    row = project.store.latest_model("policy")
    if row is not None:
        return project.ref(row)
    if project.config.model.init == "scratch" and not (project.root / "model" / "config.json").is_file():
        return None
    settings = project.config.model
    if settings.path is None:
        return project.base()
    folder = project.root / settings.path
    return ModelRef("base", str(folder if folder.is_dir() else settings.path), "")


class _Subject:
    """Holds a policy, a few prompts, and what it samples for them. `engines` closes the engine."""

    def __init__(self, project: Project, ref: ModelRef, engines: ExitStack):
        self.project = project
        self.model, self.tokenization = load_policy(project, ref, learns=True)
        self.tolerance = TOLERANCE[project.config.model.dtype]
        self.prompts = _prompts(project, self.tokenization)
        models: dict[Role, torch.nn.Module] = {
            "policy": Policy(self.model),
            "reference": Policy(copy_of(self.model)),
        }
        seed = derive(project.config.project.seed, "doctor")
        made = make_engine(models, self.tokenization, seed, project.device)
        self.engine = engines.enter_context(closing(made))
        asked = [ids for ids in self.prompts for _ in range(SAMPLED_EACH)]
        self.samples: list[Sampled] = self.engine.generate(asked, list(range(len(asked))), Sampling(TOKENS))
        self.rows = collate(
            [[*ids, *s.ids] for ids, s in zip(asked, self.samples, strict=True)], [len(ids) for ids in asked]
        )

    def gradients(self, term: Term, token_budget: int = 8192) -> tuple[Mapping[str, float], Mapping[str, Tensor]]:
        """Return the metrics and gradients of an engine that learns the same policy."""
        training = Training(Optimiser(token_budget=token_budget), 1, {"policy": 1.0})
        engine = make_engine({"policy": Policy(self.model)}, self.tokenization, 0, self.project.device, training)
        with closing(engine):
            return engine.gradients(term)


def _prompts(project: Project, tokenization: Tokenization) -> list[list[int]]:
    """Return ids of a few prompts that leave room for an answer; made-up ones where the store has none."""
    stored = project.store.prompts(limit=200)
    made_up = [Prompt("Hello."), Prompt("Say something about the weather, please."), Prompt("Why?"), Prompt("1 2 3")]
    encoded = [
        tokenization.encode_prompt(p) for p in LeftOut(project).accepted([tokenization], [*stored, *made_up], "prompts")
    ]
    fitting = [ids for ids in encoded if len(ids) + TOKENS <= tokenization.context]
    if not fitting:
        return [[1]]
    stride = max(1, len(fitting) // PROMPTS)  # They have different lengths, as far as the store has them.
    return sorted(fitting, key=len)[::stride][:PROMPTS]


# -- policy ----------------------------------------------------------------------------------------------------------


def _ending(s: _Subject, name: str) -> Check:
    tokenization = s.tokenization
    if not tokenization.stop_ids:
        advice = "set eos_token_id in the model's generation_config.json: without it no answer ever ends"
        return Check(name, "fail", "the model names no token that ends an answer", advice)
    answer = tokenization.encode_completion(Prompt("Hello."), tokenization.encode_prompt(Prompt("Hello.")), "Hi.")
    if answer[-1] not in tokenization.stop_ids:
        return Check(
            name, "fail", f"training would end answers with token {answer[-1]}, sampling at {tokenization.stop_ids}"
        )
    ended = sum(sample.ended for sample in s.samples)
    detail = (
        f"answers end with {_token(tokenization, tokenization.end_id)} ({tokenization.source}); {_stops(s)}; "
        f"{ended} of {len(s.samples)} samples ended within {TOKENS} tokens"
    )
    if tokenization.runs_on:
        return Check(name, "warn", detail, tokenization.runs_on)
    if tokenization.end_id not in eos_of(getattr(s.model, "generation_config", None)):
        advice = (
            f"set eos_token_id in the model's generation_config.json to {tokenization.end_id} too: other programs stop "
            "only where it says. Models that prefloop saves name it"
        )
        return Check(name, "warn", detail, advice)
    return Check(name, "ok", detail)


def _stops(s: _Subject) -> str:
    """Say which part of the model names which stop token."""
    named = {
        "the generation config": getattr(s.model, "generation_config", None),
        "the tokenizer": s.tokenization.tokenizer,
    }
    said = {who: " and ".join(_token(s.tokenization, id) for id in eos_of(of)) or "none" for who, of in named.items()}
    if len(set(said.values())) == 1:
        return f"generation config and tokenizer name {next(iter(said.values()))}"
    return " and ".join(f"{who} names {what}" for who, what in said.items())


def _token(tokenization: Tokenization, id: int | None) -> str:
    return f"{tokenization.tokenizer.convert_ids_to_tokens(id)} (token {id})"


def _padding(s: _Subject, name: str) -> Check:
    """Check that nothing changes when the same rows have other padding."""
    before = s.engine.forward("policy", s.rows)
    noise = torch.randint_like(s.rows.ids, int(s.rows.ids.max()) + 1)
    filled = replace(s.rows, ids=torch.where(s.rows.mask, s.rows.ids, noise))
    gap = float((s.engine.forward("policy", filled) - before).abs().max())
    alone = torch.stack([_alone(s, n, before.shape[1]) for n in range(len(s.rows))])
    apart = float((alone - before).abs().max())
    detail = f"other padding changes log-probabilities by {gap:.1e}, a batch of one by {apart:.1e} nats"
    return _verdict(name, gap == 0.0 and apart < 10 * s.tolerance, detail, "padding or position ids reach the model")


def _alone(s: _Subject, row: int, width: int) -> Tensor:
    logp = s.engine.forward("policy", s.rows.select(torch.tensor([row])))[0]
    return torch.nn.functional.pad(logp, (0, width - len(logp)))


def _sampler(s: _Subject, name: str) -> Check:
    learner = s.engine.forward("policy", s.rows)
    sampler = torch.zeros_like(learner)
    sampler[s.rows.action] = torch.tensor([lp for sample in s.samples for lp in sample.logprobs])
    gap = (sampler - learner).abs()[s.rows.action]
    mean, most = float(gap.mean()), float(gap.max())
    detail = f"sampler and learner differ by {mean:.1e} nats a token, {most:.1e} at most, on {len(gap)} tokens"
    return _verdict(name, mean < s.tolerance, detail, "sampled tokens are not the policy's own: ratios would be wrong")


def _first_step(s: _Subject, name: str) -> Check:
    """Check before any update that a copy gives KL 0 to the last bit, and the learner's own pass a ratio of 1."""
    old, copied = s.engine.forward("policy", s.rows), s.engine.forward("reference", s.rows)
    kl = float(masked_sum(k1(old, copied), s.rows.action).abs())
    index, seen = torch.arange(0, len(s.rows), 2), _Seen()
    s.gradients(Term(s.rows.select(index), seen))
    logp = seen.logp
    action = s.rows.select(index).action
    ratio = torch.exp((logp - old[index][:, : logp.shape[1]])[action])
    off = float((ratio - 1).abs().max())
    detail = f"ratio is within {off:.1e} of 1, KL to a copy is {kl:g}"
    return _verdict(name, kl == 0.0 and off < 10 * s.tolerance, detail, "dropout, padding or temperature differs")


def _splitting(s: _Subject, name: str) -> Check:
    """Check that the same batch, whole and one row at a time, gives the same gradient by the learner itself."""
    found = [s.gradients(Term(s.rows, Sft()), budget) for budget in (1_000_000, 64)]
    (whole, gradient), (parts, summed) = (
        (metrics["loss"], torch.cat([g.flatten() for g in by_name.values()])) for metrics, by_name in found
    )
    loss = abs(whole - parts) / max(1e-12, abs(whole))
    apart = float((gradient - summed).norm() / gradient.norm().clamp(min=1e-12))
    detail = f"splitting the batch changes the loss by {loss:.1e}, the gradient by {apart:.1e} of its norm"
    return _verdict(name, max(loss, apart) < 100 * s.tolerance, detail, "training depends on token_budget")


class _Seen:
    """Keeps the log-probabilities that this objective is given, and asks for no change."""

    name = "seen"
    trains: tuple[Role, ...] = ("policy",)
    logp: Tensor

    def weight(self, batch: Rows) -> Tensor:
        return torch.ones(())

    def loss(self, out: PolicyOutput, batch: Rows) -> Loss:
        self.logp = out.logp.detach().cpu()
        return Loss(0.0 * masked_sum(out.logp, batch.action))


def _compiled(s: _Subject, name: str) -> Check:
    """Check whether sampling, scoring and training are as fast as they can be here."""
    weight = next(s.model.parameters())
    if weight.is_cuda and not gpu.AVAILABLE:
        advice = "pip install triton (torch's builds for CUDA on Linux bring it)"
        return Check(name, "warn", "no Triton: torch computes it all, and sampling is several times slower", advice)
    if gpu.fits(weight):
        return Check(name, "ok", "by Triton, on the GPU")
    if not weight.is_cuda and weight.dtype != torch.float32:
        advice = 'set [model] dtype = "float32"; align.frozen_dtype may stay'
        return Check(name, "warn", f"not used for {weight.dtype}: on a CPU that may be many times slower", advice)
    if not supports_packed(s.model):
        return Check(name, "ok", f"not used: transformers computes a {type(s.model).__name__} with these settings")
    if native.AVAILABLE:
        return Check(name, "ok", f"there, {native.LANES} numbers at a time")
    advice = "install a C compiler (Debian: gcc), then prefloop again: pip install --force-reinstall --no-deps"
    return Check(name, "warn", "not there, or from other sources than these: torch computes it all, slower", advice)


def _adapter(s: _Subject, name: str) -> Check:
    """Check what trains and samples with the adapter that `[model] adapter` asks for."""
    if not (rank := rank_of(s.model)):
        return Check(name, "ok", "none: all weights are trained")
    said, learns = s.engine.computed_by(), computed_by(s.model, learns=True)
    count = sum(p.numel() for p in s.model.parameters() if p.requires_grad)
    trunk = " on a trunk in 4 bits" if any(isinstance(part, Quantised) for part in s.model.modules()) else ""
    detail = f"rank {rank}, {count:,} parameters{trunk}; trained by {learns} code, sampled by {said['sampling']}"
    if learns == "packed":
        return Check(name, "ok", detail)
    why = f"prefloop has no code of its own for a {type(s.model).__name__} with these settings"
    return Check(name, "warn", f"{detail}, because {why}", "it is right, and slower")


def _apart(subject: _Subject, name: str) -> Check:
    stored = LeftOut(subject.project).accepted(
        [subject.tokenization], subject.project.store.prompts(limit=200), "prompts"
    )
    if len(stored) < 2:
        return Check(name, "skipped", "there are no prompts yet that could be compared")
    made = prompts_apart([(p, subject.tokenization.encode_prompt(p)) for p in stored])
    return _verdict(name, made["status"] == "ok", made["detail"], "the chat template leaves the question out")


_POLICY: Mapping[str, Any] = {
    "compiled code": _compiled,
    "adapter": _adapter,
    "prompts apart": _apart,
    "end of answers": _ending,
    "padding": _padding,
    "sampler and learner": _sampler,
    "first update": _first_step,
    "batch splitting": _splitting,
}


def _verdict(name: str, holds: bool, detail: str, broken: str) -> Check:
    if holds:
        return Check(name, "ok", detail)
    return Check(name, "fail", detail, f"{broken}; do not train with this model before it is understood")


# -- reward model ----------------------------------------------------------------------------------------------------


def _texts(project: Project, tokenization: Tokenization) -> list[list[int]]:
    words = [Prompt("Hello."), Prompt("A somewhat longer text, to be padded less than the others."), Prompt("No")]
    asked = LeftOut(project).accepted([tokenization], [*project.store.prompts(limit=5), *words], "prompts")
    return [tokenization.encode_prompt(p)[-tokenization.context :] for p in asked]


def _padded(sequences: list[list[int]], left: bool, fill: int) -> Rows:
    width = max(map(len, sequences)) + 3
    ids = torch.full((len(sequences), width), fill)
    mask = torch.zeros(len(sequences), width, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        at = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        ids[row, at], mask[row, at] = torch.tensor(sequence), True
    return Rows(ids, mask, torch.zeros_like(mask))


def _short(sequences: list[list[int]], context: int) -> list[list[int]]:
    return [ids[: context - 3] for ids in sequences]  # There must be room for the padding that is added.


@torch.no_grad()
def _score(model: RewardModel, rows: Rows) -> Tensor:
    return model(rows).score


@torch.no_grad()
def _reward_padding(project: Project, source: Path) -> Check:
    model, tokenization = load_reward_model(source, project.config.model)
    sequences = _short(_texts(project, tokenization), tokenization.context)
    alone = torch.cat([_score(model, collate([ids], [0])) for ids in sequences])
    others = [_score(model, collate(sequences, [0] * len(sequences)))]
    others += [_score(model, _padded(sequences, left, fill)) for left in (False, True) for fill in (0, 1)]
    gap = max(float((other - alone).abs().max()) for other in others)
    scale = max(1.0, float(alone.abs().max()))
    detail = f"alone, in a batch, padded left or right: scores within {gap:.1e}"
    limit = 10 * TOLERANCE[project.config.model.dtype] * scale
    return _verdict("reward padding", gap < limit, detail, "padding reaches the reward model")


@torch.no_grad()
def _reward_saved(project: Project, source: Path) -> Check:
    """Check that it scores the same when saved and loaded again, and that plain transformers agrees.

    transformers runs in batches with its own pad token.
    """
    from transformers import AutoModelForSequenceClassification

    settings = project.config.model
    model, tokenization = load_reward_model(source, settings)
    sequences = _short(_texts(project, tokenization), tokenization.context)
    rows = collate(sequences, [0] * len(sequences))
    before = _score(model, rows)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model.model, tokenization, Path(folder))
        again, _ = load_reward_model(folder, settings)
        moved = float((_score(again, rows) - before).abs().max())
        plain = from_pretrained(AutoModelForSequenceClassification, folder, settings).eval()
        pad = load_tokenizer(folder, settings).pad_token_id
    if pad is None:
        advice = "set pad_token in its tokenizer, to a token that ends no answer"
        return Check("reward save and load", "fail", "the saved tokenizer has no pad token", advice)
    width = max(map(len, sequences))
    ids = torch.tensor([[*s, *[pad] * (width - len(s))] for s in sequences])
    logits = plain(input_ids=ids, attention_mask=rows.mask.long()).logits[:, 0].float()
    gap = float((logits - before).abs().max())
    scale = max(1.0, float(before.abs().max()))
    detail = f"saved and loaded: scores move by {moved:g}; plain transformers differs by {gap:.1e}"
    holds = moved == 0.0 and gap < 10 * TOLERANCE[settings.dtype] * scale
    return _verdict("reward save and load", holds, detail, "what is saved is not what was trained")
