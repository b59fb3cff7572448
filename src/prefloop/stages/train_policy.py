"""Policy optimisation against the reward model: the loop of every online algorithm, none of which it knows."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prefloop.algorithms.base import OnlineAlgorithm, Role
from prefloop.algorithms.registry import make, options_of
from prefloop.algorithms.sft import Sft
from prefloop.engine.base import Sampling, Term
from prefloop.engine.checkpoint import load_checkpoint, publish, save_checkpoint
from prefloop.engine.learner import Learner
from prefloop.engine.local import LocalEngine, save_pretrained
from prefloop.engine.spans import Clock, next_step, span
from prefloop.errors import ConfigError, NothingToDoError
from prefloop.models.policy import Policy
from prefloop.models.reward import new_critic
from prefloop.record import Run
from prefloop.rewards.model import Judge, ModelScorer, judge_codecs
from prefloop.stages.ahead import Ahead
from prefloop.stages.frozen import round_reference
from prefloop.stages.left_out import LeftOut
from prefloop.stages.project import Outcome, Project, derive, file_hash, fitting, load_policy, load_registered_reward
from prefloop.stages.rates import rate
from prefloop.stages.rollout import Encoded, Rollouts, annotate, describe, roll_out, summary
from prefloop.stages.sft import encode_demonstrations, rows_of
from prefloop.store import ModelRow
from prefloop.types import Prompt, digest

AGREES = 1e-4  # nats; float32 gives about 1e-5, bfloat16 about 1e-2


@dataclass
class Progress:
    """What the loop carries from step to step beside the learner: all of it is in every checkpoint."""

    algorithm: Any
    best_step: int = 0
    best_reward: float = -math.inf
    stopped: str = ""
    sampler_agrees: bool = False  # at the last evaluation: the learner need not compute what sampling gave
    reference_shift: float = 0.0  # nats a token that rounding to `frozen_dtype` took from the reference
    evals: list[dict[str, float]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        return {
            "algorithm": options_of(self.algorithm),
            "best_step": self.best_step,
            "best_reward": self.best_reward if math.isfinite(self.best_reward) else None,
            "stopped": self.stopped,
            "sampler_agrees": self.sampler_agrees,
            "reference_shift": self.reference_shift,
            "evals": self.evals,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.algorithm = make(self.algorithm.name, state["algorithm"])
        self.best_step = state["best_step"]
        self.best_reward = -math.inf if state["best_reward"] is None else state["best_reward"]
        self.stopped = state["stopped"]
        self.sampler_agrees = state["sampler_agrees"]
        self.reference_shift = state.get("reference_shift", 0.0)
        self.evals = list(state["evals"])


def train_policy(project: Project, round: int) -> Outcome:
    """Optimise the policy of a round. Stops at the KL budget; the best checkpoint by held-out reward is the result."""
    settings, seed = project.config.align, project.config.project.seed
    options = project.config.algorithms.get(settings.algorithm, {})
    algorithm: OnlineAlgorithm = make(settings.algorithm, options)
    if settings.k < algorithm.min_k:
        raise ConfigError(
            f"{settings.algorithm} needs at least {algorithm.min_k} completions a prompt to form a baseline; "
            f'[align] k = {settings.k}. Set k = 4 or more, or use algorithm = "ppo".'
        )
    start, reference = project.policy(round), project.reference()
    judges = project.reward_models(round)
    train = project.store.prompts(split="train", heldout=project.config.data.heldout)
    if not train:
        raise NothingToDoError("there are no training prompts yet: run prefloop import FILE")
    snapshot = project.snapshot("prompts", [p.id for p in train])
    inputs = {
        "policy": start.weights,
        "reference": reference.weights,
        "rewards": {m.criterion: m.weights_sha256 for m in judges},
        "prompts": snapshot,
        "round": round,
    }
    fingerprint = project.fingerprint("align", settings, inputs | {"options": options})
    if done := project.done("align", fingerprint):
        return done
    with project.lock():
        run = project.begin("align", fingerprint, inputs)
        loop = _Loop(project, run, algorithm, start, reference, judges, derive(seed, "align", round))
        result = loop.train() | {
            "round": round,
            "algorithm": settings.algorithm,
            "model": project.relative(run.path / "model"),
        }
        metrics = {"round": round, "reward": result["reward"], "kl": result["kl"]}
        project.register(run, "policy", start, result["weights"], snapshot, metrics)
        run.finish(result)
        return Outcome("align", run.name, result)


def make_scorer(project: Project, models: list[ModelRow]) -> ModelScorer:
    """The reward models of a round as one scorer, weighted as `[align] reward_weights` says."""
    weights = project.config.align.reward_weights
    unknown = set(weights) - {m.criterion for m in models}
    if unknown:
        raise ConfigError(
            f"[align] reward_weights names {', '.join(sorted(unknown))}, but reward models exist for "
            f"{', '.join(str(m.criterion) for m in models)}"
        )
    judges = []
    for row in models:
        model, codec = load_registered_reward(project, row)
        name = row.criterion or row.version
        judges.append(Judge(name, model, codec, weights.get(name, 0.0) if weights else 1.0 / len(models)))
    return ModelScorer(judges, device=project.device)


def validation_and_test(prompts: list[Prompt]) -> tuple[list[Prompt], list[Prompt]]:
    """Held-out prompts in two halves, by hash: `align` picks its best checkpoint on one, `evaluate` uses the other."""
    first = [p for p in prompts if int(digest("half", p.id), 16) % 2 == 0]
    second = [p for p in prompts if int(digest("half", p.id), 16) % 2 == 1]
    return (first or second), (second or first)


class _Loop:
    """One run of `align`: models, prompts and the step loop."""

    def __init__(
        self,
        project: Project,
        run: Run,
        algorithm: OnlineAlgorithm,
        start: Any,
        reference: Any,
        judges: list[ModelRow],
        seed: int,
    ):
        self.project, self.run, self.seed = project, run, seed
        self.settings = settings = project.config.align
        self.progress = Progress(algorithm)
        model, self.codec = load_policy(project, start)
        frozen = copy.deepcopy(model) if start.path == reference.path else load_policy(project, reference)[0]
        self.scorer = make_scorer(project, judges)
        if settings.frozen_dtype:  # the reference follows, once it has been measured
            for judge in self.scorer.judges:
                judge.model.to(getattr(torch, settings.frozen_dtype))
        models: dict[Role, torch.nn.Module] = {"policy": Policy(model, settings.temperature)}
        if "value" in algorithm.needs:
            main = max(self.scorer.judges, key=lambda j: abs(j.weight))
            row = next(m for m in judges if (m.criterion or m.version) == main.name)
            critic, critic_codec = new_critic(project.ref(row).intact(), project.config.model)
            if critic_codec.fingerprint != self.codec.fingerprint:
                raise ConfigError(
                    f"{algorithm.name} starts its critic from the reward model, which has another tokenizer than the "
                    'policy. Use [reward] start = "policy", or an algorithm without a critic (rloo, grpo).'
                )
            models["critic"] = critic
        per_step = settings.epochs * settings.minibatches
        lr: dict[Role, float] = {"policy": rate(project, settings.lr, "policy", model)}
        if "critic" in models:
            lr["critic"] = rate(project, settings.critic_lr or settings.lr, "critic", models["critic"].model)
        self.learner = Learner(models, settings, settings.steps * per_step, lr, settings.average, project.device)
        everything: dict[Role, torch.nn.Module] = {
            **models,
            "reference": Policy(frozen, settings.temperature).requires_grad_(False),
        }
        self.engine = LocalEngine(
            everything,
            self.codec,
            seed,
            settings.token_budget,
            self.learner,
            project.device,
            own_sampler=settings.staleness > 0,
        )
        self.ahead = Ahead(self._roll_out)
        self.model = model
        heldout = project.config.data.heldout
        self.left_out, theirs = LeftOut(project), judge_codecs(self.scorer)
        train = project.store.prompts(split="train", heldout=heldout)
        self.prompts = fitting(project, self.codec, train, settings.max_tokens, self.left_out, theirs)
        validation, _ = validation_and_test(project.store.prompts(split="heldout", heldout=heldout))
        if not validation:
            project.say("warning: no held-out prompts; the best checkpoint is chosen on training prompts")
        validation = validation or train_sample(self.prompts)
        fit = fitting(project, self.codec, validation, settings.max_tokens, self.left_out, theirs)
        self.validation = fit[: settings.eval_prompts]
        self.sampling = Sampling(settings.max_tokens, settings.temperature)
        self.demonstrations: list[tuple[list[int], int]] = []
        if settings.ptx:
            shown = project.store.demonstrations(split="train", heldout=heldout)
            shown = self.left_out.accepted([self.codec], shown, "demonstrations")
            self.demonstrations, long = encode_demonstrations(self.codec, shown, self.codec.context)
            if long:
                project.say(f"warning: {long} demonstrations do not fit the model's context and are left out of ptx")
            if not self.demonstrations:
                raise ConfigError(
                    "[align] ptx mixes in demonstrations, but there are none: import some, or set ptx = 0"
                )

    # -- the loop ----------------------------------------------------------------------------------------------------

    def train(self) -> dict[str, Any]:
        settings, folder = self.settings, self.run.path / "checkpoints"
        checkpoint = load_checkpoint(folder)
        first = 0
        if checkpoint is not None:
            self.learner.restore(checkpoint.files, checkpoint.state["learner"])
            self.progress.restore(checkpoint.state["progress"])
            first = checkpoint.step
            self.engine.sync()
        self.run.rewind(first if checkpoint is not None else -1)
        baseline = self._round_reference(fresh=checkpoint is None)
        if checkpoint is None:
            self.run.metric(0, self._evaluate(0) | baseline)
        with self.project.progress(settings.steps, f"align ({self.progress.algorithm.name})", first) as bar:
            for step in range(first, settings.steps):
                if self.progress.stopped:
                    break
                metrics, seconds = self._step(step)
                last = step + 1 == settings.steps
                if last or (step + 1) % settings.eval_every == 0:
                    metrics |= self._evaluate(step + 1)
                with span("I/O"):
                    self.run.metric(step + 1, metrics)
                    self.run.timing(step + 1, seconds)
                    if last or self.progress.stopped or (step + 1) % settings.checkpoint_every == 0:
                        self._checkpoint(step + 1)
                next_step()
                bar.update()
                bar.set_postfix_str(summary(metrics, "reward", "kl", "length"))
        return self._result()

    def _step(self, step: int) -> tuple[dict[str, float], dict[str, float]]:
        """Roll out, credit, learn. Metrics are masked means over the whole rollout batch."""
        settings, clock = self.settings, Clock()
        rolls = self.ahead.take(step)
        behind = rolls is not None
        if rolls is None:
            rolls = self._roll_out(step)
        if self._is_stale(step + 1):
            self.ahead.start(step + 1)
        clock.lap("rollout")
        with span("I/O"):
            self.project.store.add_rollouts([p.id for p in rolls.prompts], rolls.completions, self.run.name)
        clock.lap("store")
        needs = frozenset(self.progress.algorithm.needs)
        trusted = behind or self.progress.sampler_agrees
        batch = annotate(rolls.batch, self.engine, needs, trusted, self.progress.reference_shift)
        clock.lap("annotate")
        credited, metrics = self.progress.algorithm.credit(batch)
        logged = describe(rolls, batch) | dict(metrics)
        updates: list[Mapping[str, float]] = []
        rng = np.random.default_rng([self.seed, step])
        for _ in range(settings.epochs):
            # a fresh permutation every inner epoch; a prompt's completions stay together, so that it is read once
            lists = torch.from_numpy(rng.permutation(len(credited) // settings.k))
            for part in torch.tensor_split(lists, min(settings.minibatches, len(lists))):
                index = (part[:, None] * settings.k + torch.arange(settings.k)).flatten()
                terms = [Term(credited.select(index), self.progress.algorithm)]
                if self.demonstrations:
                    picked = rng.integers(len(self.demonstrations), size=len(index))
                    shown = rows_of([self.demonstrations[i] for i in picked])
                    terms.append(Term(shown, Sft(), settings.ptx, temperature=1.0))  # nobody sampled them
                updates.append(self.engine.step(*terms))
        clock.lap("learn")
        self.ahead.wait()
        self.engine.sync()
        if settings.staleness:
            clock.lap("wait")
            logged["staleness"] = float(behind)
        if behind:
            logged["stale_kl"] = updates[0]["approx_kl"]
        else:
            logged["first_ratio"] = updates[0]["ratio"]  # exactly 1, or policy and learner disagree
        for name in updates[0]:
            logged[name] = float(np.mean([u[name] for u in updates]))
        self.progress.algorithm = self.progress.algorithm.adapt(logged)
        return logged, clock.seconds

    def _roll_out(self, step: int) -> Rollouts:
        name = f"{self.run.name}/{step}"
        sampled_by = f"{self.run.name}/{step - self._is_stale(step)}"
        prompts, k = self._prompts_at(step), self.settings.k
        return roll_out(
            self.engine, self.codec, self.scorer, prompts, k, self.sampling, self.settings, name, sampled_by
        )

    def _is_stale(self, step: int) -> bool:
        """Whether a step's samples are made one update early. Not across checkpoints, so that resuming is exact."""
        every = (self.settings.checkpoint_every, self.settings.eval_every)
        return self.settings.staleness > 0 and step < self.settings.steps and all(step % n for n in every)

    def _prompts_at(self, step: int) -> list[Encoded]:
        """The step's prompts: one long sequence of shuffled passes over all of them, a pure function of the step."""
        n, wanted = len(self.prompts), self.settings.prompts
        picked = []
        for place in range(step * wanted, (step + 1) * wanted):
            epoch, index = divmod(place, n)
            picked.append(self.prompts[int(np.random.default_rng([self.seed, 1, epoch]).permutation(n)[index])])
        return picked

    # -- judging itself ----------------------------------------------------------------------------------------------

    def _evaluate(self, step: int) -> dict[str, float]:
        """Held-out reward and KL with fixed random keys; keeps the best weights; notices a spent KL budget."""
        settings, state = self.settings, self.progress
        with self.learner.averaged_weights():
            self.engine.sync()
            rolls = self._held_out(step)
            batch = annotate(rolls.batch, self.engine, frozenset(), reference_shift=state.reference_shift)
            seen = {f"eval_{k}": v for k, v in describe(rolls, batch).items() if k != "sequences"}
            # chosen by what is optimised: the EOS rule counts
            reward, kl = float(rolls.batch.reward.mean()), seen["eval_kl"]
            state.sampler_agrees = seen["eval_sampler_mismatch"] < AGREES
            within = kl <= settings.kl_budget
            if reward > state.best_reward and within:
                state.best_step, state.best_reward = step, reward
                with span("I/O"):
                    publish(self.run.path / "best", lambda tmp: save_pretrained(self.model, self.codec, tmp))
        self.engine.sync()
        state.evals.append({"step": step, "reward": reward, "kl": kl})
        if not within:
            state.stopped = f"KL {kl:.1f} nats a sequence is over the budget of {settings.kl_budget:g}"
        self._show(step, rolls, reward, kl)
        return seen

    def _held_out(self, step: int) -> Rollouts:
        by = f"{self.run.name}/{step}"
        return roll_out(
            self.engine, self.codec, self.scorer, self.validation, 1, self.sampling, self.settings, "eval", by
        )

    def _round_reference(self, fresh: bool) -> dict[str, float]:
        """The reference in `frozen_dtype`, and what that alone adds to the KL: measured where a run begins."""
        if not self.settings.frozen_dtype:
            return {}
        rows = self._held_out(0).batch if fresh else None
        shift, a_sequence = round_reference(self.engine, self.settings.frozen_dtype, rows)
        if fresh:
            self.progress.reference_shift = shift
        return {"kl_baseline": a_sequence}

    def _show(self, step: int, rolls: Rollouts, reward: float, kl: float) -> None:
        place = (step // max(1, self.settings.eval_every)) % len(rolls.completions)
        text = " ".join(rolls.completions[place].text.split())
        self.project.say(f"step {step}: held-out reward {reward:+.3f}, KL {kl:.2f} nats | {text[:160]}")

    def _checkpoint(self, step: int) -> None:
        files, plain = self.learner.state()
        save_checkpoint(
            self.run.path / "checkpoints", step, files, {"learner": plain, "progress": self.progress.state()}
        )

    def _result(self) -> dict[str, Any]:
        state = self.progress
        publish(self.run.path / "model", lambda tmp: _copy(self.run.path / "best", tmp))
        at_best = next(e for e in state.evals if e["step"] == state.best_step)
        return {
            "steps": self.learner.steps // (self.settings.epochs * self.settings.minibatches),
            "best_step": state.best_step,
            "reward": at_best["reward"],
            "reward_before": state.evals[0]["reward"],
            "kl": at_best["kl"],
            "stopped": state.stopped or "all steps done",
            **self.left_out.to_json(),
            "weights": file_hash(self.run.path / "model"),
        }


def train_sample(prompts: list[Encoded]) -> list[Prompt]:
    return [p for p, _ in prompts[:: max(1, len(prompts) // 64)]]


def _copy(source: Path, target: Path) -> None:
    for path in source.iterdir():
        shutil.copyfile(path, target / path.name)
