"""Is the task of online `align`: sample, learn from what was sampled, look at the policy. It knows no algorithm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefloop.algorithms.base import OnlineAlgorithm
from prefloop.algorithms.sft import Sft
from prefloop.batch import CreditedBatch, LogprobBatch, RankingBatch, ReferencedBatch
from prefloop.engine.base import Term, terms_of
from prefloop.engine.profiling import span
from prefloop.ops.ratio import importance_weights, mismatch
from prefloop.project.evidence import write_evidence
from prefloop.project.project import Project
from prefloop.record import Run
from prefloop.rewards.criteria import balance_of
from prefloop.training.alarms import Alarms
from prefloop.training.answers_log import sample_rows
from prefloop.training.demonstrations import rows_of
from prefloop.training.dynamic_sampling import without_constant_groups
from prefloop.training.first_checks import prompts_apart, ranked_accuracy, reward_checks
from prefloop.training.keeping import KeepBest
from prefloop.training.kl_control import KlControl, calibration_of, with_earlier_runs
from prefloop.training.policy_setup import PolicySetup
from prefloop.training.prefetch import Prefetch
from prefloop.training.progress import Progress
from prefloop.training.reference import Refresh
from prefloop.training.rollout import Encoded, Rollouts, add_logprobs, describe, length_rules, roll_out

STALE_CAP = 2.0  # of importance weights, where a server's samples are one update behind (TRL's usual one)


class PolicyTraining:
    """Is the task of `loop.train` that learns from its own samples."""

    def __init__(self, project: Project, run: Run, algorithm: OnlineAlgorithm, setup: PolicySetup, seed: int):
        self.project, self.settings = project, (settings := project.config.align)
        self.rollout = settings.sampled
        self.store, self.run, self.setup, self.seed = project.store, run, setup, seed
        self.engine = setup.engine
        balance, calibration = balance_of(setup.scorer, settings.objective), calibration_of(project.config, algorithm)
        self.progress = Progress(algorithm, balance, calibration=calibration)
        self.control = KlControl(project, self.progress, seed)
        self.keep = KeepBest(project, run, setup.engine, setup.validation, self.progress, setup.from_reference)
        self.refresh = Refresh.of(settings)
        self.alarms = Alarms(project, run, settings.on_alarm, settings.stop_on)
        self._learnt_from: tuple[Rollouts, LogprobBatch, Tensor | None] | None = (
            None  # of the last step, for samples.jsonl
        )
        self.prefetch = Prefetch(
            self._roll_out,
            setup.engine.sync,
            staleness=settings.rollout.staleness,
            steps=settings.steps,
            barriers=(settings.evaluation.eval_every, settings.checkpoint_every),
        )

    def close(self) -> None:
        self.engine.stop_sampling()  # What is drawn ahead is for no step any more.
        self.prefetch.close()

    # -- the step ----------------------------------------------------------------------------------------------------

    def step(self, step: int) -> dict[str, float]:
        """Roll out, credit, learn. Return metrics, which are masked means over the whole rollout batch."""
        sampled, behind = self.prefetch.next(step)
        rolls, balanced = self._balanced(sampled)
        with span("store"):
            self.store.add_rollouts([p.id for p in rolls.prompts], rolls.completions, self.run.name)
        algorithm = self.progress.algorithm
        # Where servers sample, the ratio is of the learner's own log-probabilities, however well the two agree.
        cap = self._cap(behind)
        trusted = self.engine.trusts_sampler and not cap and (behind or self.progress.sampler_agrees)
        with span("logprobs"):
            batch = add_logprobs(rolls.batch, self.engine, algorithm.needs, trusted, self.progress.reference_shift)
            batch = self._with_baseline(rolls, batch)
            priced, moved = self.refresh.measured(self.engine, rolls.batch, batch, as_learner=not trusted)
        with span("learn"):
            credited, credit = algorithm.credit(priced)
            credited, weighed = self._weighed(credited, cap)
            self._learnt_from = rolls, batch, getattr(credited, "advantage", None)
            updates = self._learn(credited, np.random.default_rng([self.seed, step]))
            self.refresh.after(self.engine, step + 1)
        metrics = {**describe(rolls, batch), **moved, **balanced, **credit, **weighed}
        metrics |= self._of_updates(updates, behind, trusted)
        return metrics | self.control.stepped(metrics)

    def _with_baseline(self, rolls: Rollouts, batch: LogprobBatch) -> LogprobBatch:
        """Add the running mean reward of each prompt, where the algorithm needs it, and let it follow."""
        if "baseline" not in self.progress.algorithm.needs:
            return batch
        ids, baselines = [p.id for p in rolls.prompts], self.progress.baselines
        batch = replace(batch, baseline=baselines.of(ids, batch.reward))
        baselines.see(ids, batch.reward)
        return batch

    def _cap(self, behind: bool) -> float:
        """Return the largest importance weight of this step's tokens; 0 where there are no weights."""
        asked = self.rollout.importance_cap
        return asked if asked is not None else STALE_CAP if behind and not self.engine.trusts_sampler else 0.0

    def _weighed(
        self, credited: CreditedBatch | ReferencedBatch, cap: float
    ) -> tuple[CreditedBatch | ReferencedBatch, dict[str, float]]:
        """Multiply advantages by the importance weights of their tokens. Say how far the samplers are from each other.

        A loss that multiplies an advantage is weighted so, whatever it clips, since weights are never negative.
        """
        if not isinstance(credited, CreditedBatch) or (self.engine.trusts_sampler and not cap):
            return credited, {}
        of = credited.old_logp, credited.sampler_logp, credited.action
        if cap:
            credited = replace(credited, advantage=credited.advantage * importance_weights(*of, cap))
        return credited, mismatch(*of)

    def _roll_out(self, step: int, behind: bool) -> Rollouts:
        s, name, version = self.setup, f"{self.run.name}/{step}", f"{self.run.name}/{step - behind}"

        def draw(prompts: Sequence[Encoded], attempt: int = 0) -> Rollouts:
            how = self.rollout.k, s.validation.sampling, self.rollout, f"{name}.{attempt}" if attempt else name, version
            return roll_out(s.engine, s.tokenization, s.scorer, prompts, *how)

        rolls, attempts = draw(self._prompts_at(step)), self.rollout.dynamic_sampling
        if not attempts or self.rollout.k == 1:
            return rolls
        return without_constant_groups(rolls, s.prompts, draw, attempts, [self.seed, 2, step])

    def _balanced(self, rolls: Rollouts) -> tuple[Rollouts, dict[str, float]]:
        """Return the rollouts with the reward that several criteria make together at this step, and its metrics.

        It is made here and not where the samples are scored, since samples may be made ahead (staleness).
        """
        if self.progress.balance is None:
            return rolls, {}
        self.progress.balance = balance = self.progress.balance.seen(rolls.scores.parts)
        made = balance.reward(rolls.scores.parts)
        batch, most = rolls.batch, self.settings.max_tokens
        reward = length_rules(made, batch.action, batch.ended, self.rollout, most)
        return replace(rolls, batch=replace(batch, reward=reward)), balance.metrics(rolls.scores.parts)

    def _prompts_at(self, step: int) -> list[Encoded]:
        """Return the step's prompts. All steps take them from one long sequence of shuffled passes over the prompts."""
        prompts, wanted = self.setup.prompts, self.rollout.prompts
        picked = []
        for place in range(step * wanted, (step + 1) * wanted):
            epoch, index = divmod(place, len(prompts))
            picked.append(prompts[int(np.random.default_rng([self.seed, 1, epoch]).permutation(len(prompts))[index])])
        return picked

    def _learn(self, credited: CreditedBatch | ReferencedBatch, rng: np.random.Generator) -> list[Mapping[str, float]]:
        """Update the policy on each minibatch of each pass. Returns the metrics of every update.

        Where the algorithm keeps nothing of the samples there is no update.
        """
        settings, algorithm, updates = self.rollout, self.progress.algorithm, []
        learnt = credited.learnt() if isinstance(credited, CreditedBatch) else credited
        places = _lists(learnt)
        for _ in range(settings.epochs if places else 0):
            # Every inner epoch has a fresh permutation. A prompt's completions stay together, so that it is read once.
            lists = torch.from_numpy(rng.permutation(len(places)))
            for part in torch.tensor_split(lists, min(settings.minibatches, len(lists))):
                some = learnt.select(torch.cat([places[n] for n in part.tolist()]))
                shown = [] if getattr(algorithm, "critic_warmup", 0) else self._shown(len(part) * settings.k, rng)
                updates.append(self.engine.step(*terms_of(some, algorithm), *shown))
        return updates

    def _shown(self, n: int, rng: np.random.Generator) -> list[Term]:
        """Return the supervised loss on n demonstrations, where there are any (`[align] ptx`)."""
        if not (shown := self.setup.demonstrations):
            return []
        picked = rows_of([shown[i] for i in rng.integers(len(shown), size=n)])
        return [Term(picked, Sft(), self.settings.ptx, temperature=1.0)]  # They were not sampled.

    def _of_updates(self, updates: Sequence[Mapping[str, float]], behind: bool, trusted: bool) -> dict[str, float]:
        """Return the means over the step's updates, and what the first update says of the samples.

        With fresh samples, or the learner's own log-probabilities, the first ratio is exactly 1, or else the sampler
        and the learner disagree.
        """
        stale = {"staleness": float(behind)} if self.rollout.staleness else {}
        if not updates:
            return stale
        names = dict.fromkeys(name for u in updates for name in u)
        means = {name: float(np.mean([u[name] for u in updates if name in u])) for name in names}
        named, of = ("stale_kl", "approx_kl") if behind and trusted else ("first_ratio", "ratio")
        return {**({named: updates[0][of]} if of in updates[0] else {}), **stale, **means}

    # -- the other methods of a task ---------------------------------------------------------------------------------

    @property
    def stopped(self) -> str:
        return self.progress.stopped

    def begin(self, fresh: bool) -> dict[str, float]:
        if fresh and self.progress.calibration is not None:
            self.progress.calibration = with_earlier_runs(self.project, self.progress.calibration)
        return self.keep.begin(fresh)

    def logged(self, done: int) -> None:
        stop = self.alarms.look(done)
        self.progress.stopped = self.progress.stopped or stop

    def evaluate(self, done: int) -> dict[str, float]:
        if self._learnt_from is not None:
            rolls, batch, advantage = self._learnt_from
            self.run.samples(sample_rows(done, "train", rolls, batch, self.setup.tokenization, advantage))
        found = self.keep.evaluate(done)
        if self.keep.looked is not None:
            steered = self.control.evaluated(done, self.keep.looked, self.keep.gain)
            found |= {f"eval_{name}": value for name, value in steered.items()}
        return found if done else {**found, **self._first_checks()}

    def _first_checks(self) -> dict[str, float]:
        """Try the reward on held-out lists that people ranked, and on the policy's first answers."""
        s, looked = self.setup, self.keep.looked
        if looked is not None:
            rolls = looked.rolls
            checks = reward_checks(s.scorer, s.tokenization, rolls.prompts, rolls.completions)
            write_evidence(self.run, checks=[prompts_apart(s.prompts), *checks])
        return ranked_accuracy(s.scorer, s.ranked)

    def state(self) -> dict[str, Any]:
        return self.progress.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.progress.restore(state)


def _lists(batch: CreditedBatch | ReferencedBatch) -> list[Tensor]:
    """Return the places on the batch's first axis that stay together: the completions of a prompt, which are a list."""
    if isinstance(batch, RankingBatch):
        return list(torch.arange(len(batch)).split(1))
    _, counts = torch.unique_consecutive(batch.group, return_counts=True)
    return list(torch.arange(len(batch)).split(counts.tolist()))
