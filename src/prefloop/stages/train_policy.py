"""Policy optimisation against the reward model: the loop of every online algorithm, none of which it knows."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prefloop.algorithms.base import OnlineAlgorithm, Role
from prefloop.algorithms.registry import code_of, make
from prefloop.algorithms.sft import Sft
from prefloop.diagnose.collapse import collapsed, signs
from prefloop.engine import Training
from prefloop.engine import make as make_engine
from prefloop.engine.base import Term
from prefloop.engine.checkpoint import load_checkpoint, publish, save_checkpoint
from prefloop.engine.profiling import Clock, next_step, span
from prefloop.errors import ConfigError, NothingToDoError
from prefloop.models.folder import file_hash
from prefloop.models.policy import Policy
from prefloop.models.reward import Critic, new_critic, new_reward_model
from prefloop.models.tokenization import Tokenization
from prefloop.project.chance import chance_warnings
from prefloop.project.left_out import LeftOut, fitting
from prefloop.project.project import ModelRef, Outcome, Project, derive, load_policy
from prefloop.record import Run
from prefloop.rewards.model import ModelScorer, reward_tokenizations
from prefloop.rewards.rules import RuleScorer
from prefloop.store import ModelRow
from prefloop.training.demonstrations import encode_demonstrations, rows_of
from prefloop.training.frozen import round_reference
from prefloop.training.learning_rates import rate
from prefloop.training.policy_evaluation import Looked, Validation, wins
from prefloop.training.prefetch import Ahead
from prefloop.training.progress import Progress
from prefloop.training.reward_scores import make_scorer
from prefloop.training.rollout import Encoded, Rollouts, add_logprobs, describe, roll_out, summary

AGREES = 1e-4  # nats; float32 gives about 1e-5, bfloat16 about 1e-2


def train_policy(project: Project, round: int) -> Outcome:
    """Optimise the policy of a round. Stops at the KL budget; the best checkpoint by held-out reward is the result."""
    settings, seed = project.config.align, project.config.project.seed
    options = project.config.algorithms.get(settings.algorithm, {})
    algorithm: OnlineAlgorithm = make(settings.algorithm, options)
    if settings.rollout.k < algorithm.min_k:
        raise ConfigError(
            f"{settings.algorithm} needs at least {algorithm.min_k} completions a prompt to form a baseline; "
            f'[align.rollout] k = {settings.rollout.k}. Set k = 4 or more, or use algorithm = "ppo".'
        )
    start, reference = project.policy(round).here(), project.reference().here()
    own = project.scorer(settings.reward) if settings.reward is not None else None
    judges = [] if own else project.reward_models(round)
    train = project.store.prompts(split="train", heldout=project.config.data.heldout)
    if not train:
        raise NothingToDoError("there are no training prompts yet: run prefloop import FILE")
    snapshot = project.snapshot("prompts", [p.id for p in train])
    inputs = {
        "policy": start.weights,
        "reference": reference.weights,
        "rewards": {own.name: own.identity} if own else {m.criterion: m.weights_sha256 for m in judges},
        "prompts": snapshot,
        "round": round,
        **code_of(settings.algorithm),
    }
    fingerprint = project.fingerprint("align", settings, inputs | {"options": options})
    if done := project.done("align", fingerprint):
        return done
    with project.lock():
        run = project.begin("align", fingerprint, inputs)
        warnings = chance_warnings(project, judges)
        for warning in warnings:
            project.say(f"warning: {warning}")
        scorer = own or make_scorer(project, judges)
        loop = _Loop(project, run, algorithm, start, reference, scorer, judges, derive(seed, "align", round))
        result = loop.train() | {"round": round, "algorithm": settings.algorithm, "warnings": warnings}
        if result["best_step"] == 0:  # no new policy: the one that the round started from stays what it is
            result |= {"policy": start.version, "weights": start.weights, "model": None}
        else:
            result |= {"policy": run.name, "model": project.relative(run.path / "model")}
            metrics = {"round": round, "reward": result["reward"], "kl": result["kl"]}
            snapshot = loop.left_out.used(snapshot)
            project.register(run, "policy", start, result["weights"], snapshot, metrics)
        run.finish(result)
        return Outcome("align", run.name, result)


class _Loop:
    """One run of `align`: models, prompts and the step loop."""

    def __init__(
        self,
        project: Project,
        run: Run,
        algorithm: OnlineAlgorithm,
        start: Any,
        reference: Any,
        scorer: ModelScorer | RuleScorer,
        judges: list[ModelRow],
        seed: int,
    ):
        self.project, self.run, self.seed = project, run, seed
        self.settings = settings = project.config.align
        self.from_reference = start.path == reference.path
        self.progress = Progress(algorithm)
        model, self.tokenization = load_policy(project, start)
        frozen = copy.deepcopy(model) if self.from_reference else load_policy(project, reference)[0]
        self.scorer = scorer
        if settings.frozen_dtype and isinstance(scorer, ModelScorer):  # the reference follows, once it is measured
            for judge in scorer.reward_models:
                judge.model.to(getattr(torch, settings.frozen_dtype))
        models: dict[Role, torch.nn.Module] = {"policy": Policy(model, settings.rollout.temperature)}
        if "value" in algorithm.needs:
            critic, critic_tokenization = self._critic(judges, start)
            if critic_tokenization.fingerprint != self.tokenization.fingerprint:
                raise ConfigError(
                    f"{algorithm.name} starts its critic from the reward model, which has another tokenizer than the "
                    'policy. Use [reward] start = "policy", or an algorithm without a critic (rloo, grpo).'
                )
            models["critic"] = critic
        per_step = settings.rollout.epochs * settings.rollout.minibatches
        lr: dict[Role, float] = {"policy": rate(project, settings.lr, "policy", model)}
        if "critic" in models:
            lr["critic"] = rate(project, settings.critic_lr or settings.lr, "critic", models["critic"].model)
        training = Training(settings, settings.steps * per_step, lr, settings.average)
        everything: dict[Role, torch.nn.Module] = {
            **models,
            "reference": Policy(frozen, settings.rollout.temperature).requires_grad_(False),
        }
        stale = settings.rollout.staleness > 0
        self.engine = make_engine(everything, self.tokenization, seed, project.device, training, own_sampler=stale)
        self.ahead = Ahead(self._roll_out)
        heldout = project.config.data.heldout
        self.left_out, theirs = LeftOut(project), reward_tokenizations(self.scorer)
        train = project.store.prompts(split="train", heldout=heldout)
        self.prompts = fitting(project, self.tokenization, train, settings.max_tokens, self.left_out, theirs)
        self.validation = Validation(
            project, self.tokenization, self.scorer, [p for p, _ in self.prompts], self.left_out
        )
        self.sampling = self.validation.sampling
        self.demonstrations: list[tuple[list[int], int]] = []
        if settings.ptx:
            shown = project.store.demonstrations(split="train", heldout=heldout)
            shown = self.left_out.accepted([self.tokenization], shown, "demonstrations")
            self.demonstrations, long = encode_demonstrations(self.tokenization, shown, self.tokenization.context)
            if long:
                project.say(f"warning: {long} demonstrations do not fit the model's context and are left out of ptx")
            if not self.demonstrations:
                raise ConfigError(
                    "[align] ptx mixes in demonstrations, but there are none: import some, or set ptx = 0"
                )

    def _critic(self, judges: list[ModelRow], start: ModelRef) -> tuple[Critic, Tokenization]:
        """It starts as the reward model that counts most; where a function rewards, as the policy with a new head."""
        if not isinstance(self.scorer, ModelScorer):
            fresh, tokenization = new_reward_model(
                start.intact(), self.project.config.model, derive(self.seed, "critic")
            )
            return Critic(fresh.model, 0.0, 1.0), tokenization
        main = max(self.scorer.reward_models, key=lambda j: abs(j.weight))
        row = next(m for m in judges if (m.criterion or m.version) == main.name)
        return new_critic(self.project.ref(row).intact(), self.project.config.model)

    # -- the loop ----------------------------------------------------------------------------------------------------

    def train(self) -> dict[str, Any]:
        settings, folder = self.settings, self.run.path / "checkpoints"
        self.run.note("computed_by", self.engine.computed_by())
        checkpoint = load_checkpoint(folder)
        first = self.done = 0
        if checkpoint is not None:
            self.engine.restore(checkpoint.files, checkpoint.state["engine"])
            self.progress.restore(checkpoint.state["progress"])
            first = self.done = checkpoint.step
            self.engine.sync()
        self.run.rewind(first if checkpoint is not None else -1)
        baseline = self._round_reference(fresh=checkpoint is None)
        if checkpoint is None:
            with self.project.progress(len(self.validation.prompts), "align: evaluation before the first step"):
                self.run.metric(0, self._evaluate(0) | baseline)
        with self.project.progress(settings.steps, f"align ({self.progress.algorithm.name})", first) as bar:
            for step in range(first, settings.steps):
                if self.progress.stopped:
                    break
                metrics, seconds = self._step(step)
                self.done = step + 1
                last = step + 1 == settings.steps
                if last or (step + 1) % settings.evaluation.eval_every == 0:
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
        needs = self.progress.algorithm.needs
        trusted = behind or self.progress.sampler_agrees
        batch = add_logprobs(rolls.batch, self.engine, needs, trusted, self.progress.reference_shift)
        clock.lap("logprobs")
        credited, metrics = self.progress.algorithm.credit(batch)
        logged = describe(rolls, batch) | dict(metrics)
        updates: list[Mapping[str, float]] = []
        rng = np.random.default_rng([self.seed, step])
        for _ in range(settings.rollout.epochs):
            # a fresh permutation every inner epoch; a prompt's completions stay together, so that it is read once
            lists = torch.from_numpy(rng.permutation(len(credited) // settings.rollout.k))
            for part in torch.tensor_split(lists, min(settings.rollout.minibatches, len(lists))):
                index = (part[:, None] * settings.rollout.k + torch.arange(settings.rollout.k)).flatten()
                terms = [Term(credited.select(index), self.progress.algorithm)]
                if self.demonstrations:
                    picked = rng.integers(len(self.demonstrations), size=len(index))
                    shown = rows_of([self.demonstrations[i] for i in picked])
                    terms.append(Term(shown, Sft(), settings.ptx, temperature=1.0))  # nobody sampled them
                updates.append(self.engine.step(*terms))
        clock.lap("learn")
        self.ahead.wait()
        self.engine.sync()
        if settings.rollout.staleness:
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
        prompts, k = self._prompts_at(step), self.settings.rollout.k
        return roll_out(
            self.engine,
            self.tokenization,
            self.scorer,
            prompts,
            k,
            self.sampling,
            self.settings.rollout,
            name,
            sampled_by,
        )

    def _is_stale(self, step: int) -> bool:
        """Whether a step's samples are made one update early. Not across checkpoints, so that resuming is exact."""
        every = (self.settings.checkpoint_every, self.settings.evaluation.eval_every)
        return self.settings.rollout.staleness > 0 and step < self.settings.steps and all(step % n for n in every)

    def _prompts_at(self, step: int) -> list[Encoded]:
        """The step's prompts: one long sequence of shuffled passes over all of them, a pure function of the step."""
        n, wanted = len(self.prompts), self.settings.rollout.prompts
        picked = []
        for place in range(step * wanted, (step + 1) * wanted):
            epoch, index = divmod(place, n)
            picked.append(self.prompts[int(np.random.default_rng([self.seed, 1, epoch]).permutation(n)[index])])
        return picked

    # -- judging itself ----------------------------------------------------------------------------------------------

    def _evaluate(self, step: int) -> dict[str, float]:
        """Looks at held-out prompts; keeps the best weights that have not collapsed; notices a spent KL budget."""
        settings, state = self.settings, self.progress
        with self.engine.averaged_weights():
            self.engine.sync()
            looked = self.validation.look(self.engine, f"{self.run.name}/{step}", state.reference_shift)
            if not state.start:
                state.start = {"figures": looked.figures, "rewards": looked.rewards}
                same = self.from_reference and step == 0
                state.reference = state.start if same else self._reference()
                if self.tokenization.runs_on and looked.figures["ended"] < 0.5:
                    share = f"{looked.figures['ended']:.0%}"
                    self.project.say(
                        f"warning: {share} of the answers ended by themselves: {self.tokenization.runs_on}"
                    )
            # chosen by what is optimised: the EOS rule counts
            reward, kl = float(np.mean(looked.rewards)), looked.figures["kl"]
            state.sampler_agrees = looked.figures["sampler_mismatch"] < AGREES
            gone = collapsed(*(signs(looked.figures, at["figures"]) for at in (state.reference, state.start)))
            within = kl <= settings.evaluation.kl_budget
            eligible = within and not gone
            if step == 0 or (eligible and reward > state.best_reward):
                state.best_step, state.best_reward = step, reward if eligible else -math.inf
                with span("I/O"):
                    self.engine.save("policy", self.run.path / "best")
        self.engine.sync()
        won = wins(looked.rewards, state.reference["rewards"])
        length, ended = looked.figures["length"], looked.figures["ended"]
        state.evals.append({"step": step, "reward": reward, "kl": kl, "win_rate": won, "length": length,
                            "ended": ended, "collapsed": gone})  # fmt: skip
        if not within:
            state.stopped = f"KL {kl:.1f} nats a sequence is over the budget of {settings.evaluation.kl_budget:g}"
        self._show(step, looked, reward, kl, gone)
        return {f"eval_{name}": value for name, value in looked.figures.items()} | {"eval_win_rate": won}

    def _round_reference(self, fresh: bool) -> dict[str, float]:
        """The reference in `frozen_dtype`, and what that alone adds to the KL: measured where a run begins."""
        if not self.settings.frozen_dtype:
            return {}
        rows = self.validation.answers(self.engine, f"{self.run.name}/0").batch if fresh else None
        shift, a_sequence = round_reference(self.engine, self.settings.frozen_dtype, rows)
        if fresh:
            self.progress.reference_shift = shift
        return {"kl_baseline": a_sequence}

    def _reference(self) -> dict[str, Any]:
        looked = self.validation.look_at_reference(self.engine)
        return {"figures": looked.figures, "rewards": looked.rewards}

    def _show(self, step: int, looked: Looked, reward: float, kl: float, gone: list[str]) -> None:
        text = self.validation.shown(looked, step)
        self.project.say(f"step {step}: held-out reward {reward:+.3f}, KL {kl:.2f} nats | {text}")
        if gone:
            self.project.say(f"warning: step {step}: the policy has collapsed, and is not kept: {'; '.join(gone)}")

    def _checkpoint(self, step: int) -> None:
        tensors, values = self.engine.state()
        state = {"engine": values, "progress": self.progress.state()}
        save_checkpoint(self.run.path / "checkpoints", step, tensors, state)

    def _result(self) -> dict[str, Any]:
        state = self.progress
        if state.best_step:
            publish(self.run.path / "model", lambda tmp: _copy(self.run.path / "best", tmp))
        at_best = next(e for e in state.evals if e["step"] == state.best_step)
        return {
            "steps": self.done,
            "best_step": state.best_step,
            **{name: at_best.get(name) for name in ("reward", "kl", "win_rate", "length", "ended", "collapsed")},
            "reward_before": state.evals[0]["reward"],
            "collapses": [{"step": e["step"], "signs": e["collapsed"]} for e in state.evals if e.get("collapsed")],
            "validation": self.validation.to_json(),
            "stopped": state.stopped or "all steps done",
            **self.left_out.to_json(),
            "weights": file_hash(self.run.path / "model") if state.best_step else None,
        }


def _copy(source: Path, target: Path) -> None:
    for path in source.iterdir():
        shutil.copyfile(path, target / path.name)
