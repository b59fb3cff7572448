"""Is an engine whose samples come from servers. The engine that it wraps does all else, wherever that computes."""

from __future__ import annotations

import copy
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, get_ident
from typing import Any, Self

from torch import Tensor

from prefloop.algorithms.base import Role
from prefloop.engine.base import Engine, Sampled, Sampling, Term
from prefloop.engine.placement import Placement
from prefloop.engine.profiling import span
from prefloop.engine.rollouts.canary import Canary
from prefloop.engine.rollouts.comparing import AS_CLOSE, by_server, by_trainer, check, check_draws
from prefloop.engine.rollouts.dialect import Dialect, Job, Ours, Own
from prefloop.engine.rollouts.environments import python_of
from prefloop.engine.rollouts.fleet import Fleet, Member
from prefloop.engine.rollouts.http import Address, key_of
from prefloop.engine.rollouts.launching import Launched
from prefloop.engine.rollouts.sglang import Sglang
from prefloop.engine.rollouts.vllm import Vllm
from prefloop.engine.weights import Version, publish_version
from prefloop.errors import ConfigError, TrainingError

OTHERS: Mapping[str, type[Vllm] | type[Sglang]] = {"vllm": Vllm, "sglang": Sglang}


def dialect_of(placement: Placement, ours: Ours) -> Dialect:
    kind = OTHERS.get(placement.rollout.backend)
    return kind(ours) if kind else Own(ours, placement)


class ServedEngine:
    """Keeps the promises of `engine.base.Engine`.

    `sync` publishes the policy's weights; before the next samples every server takes them over, and is tried out.
    """

    trusts_sampler = False

    def __init__(self, inner: Engine, ours: Ours, seed: int, placement: Placement):
        """Wrap an engine. Servers are asked, or started, when the first samples are wanted."""
        self._inner, self._seed, self._placement = inner, seed, placement
        self._ours, self._canary = ours, Canary.of(ours.tokenization, ours.vocabulary)
        settings = placement.rollout
        self._weights = (
            Path(settings.weights) if settings.weights else placement.root.absolute() / "rollout" / "weights"
        )
        self._now: tuple[Version, Canary] | None = None  # what was published last
        self._publisher = 0  # the thread that did
        self._moved = False  # whether the policy may have other weights since
        self._rounded: dict[Role, bool] = {}  # models that were cast; True where to another type than the policy's
        self._alone = Lock()  # Several servers are asked at once.
        self._dialect = dialect_of(placement, ours)
        self._fleet = Fleet(settings, self._dialect, self._ours, self._members())
        self._owns_fleet = True

    def __getattr__(self, name: str) -> Any:
        if name == "_inner" or name.startswith("__"):  # It is being copied.
            raise AttributeError(name)
        return getattr(self._inner, name)

    def generate(self, prompts: Sequence[Sequence[int]], keys: Sequence[int], sampling: Sampling) -> list[Sampled]:
        if not prompts:
            return []
        with span("sampling"):
            version, canary = self._now or self._publish()
            still = get_ident() == self._publisher  # Another thread samples ahead, while this one learns.
            job = Job(prompts, keys, sampling, self._seed, version, canary)
            compare = self._by_trainer if still and not self._moved else self._by_server
            return self._fleet.generate(job, lambda: self._repair(still), compare)

    def sync(self) -> None:
        self._inner.sync()
        self._publish()

    def _publish(self) -> tuple[Version, Canary]:
        """Publish the policy's weights, unless they are what was published last."""
        if self._rounded.get("policy"):
            raise ConfigError(
                "this run samples from the reference too, since its policy starts from another model, and rollout "
                "servers hold the number type of the policy alone. Take out [align] frozen_dtype."
            )
        with span("publish"):
            name = self._inner.weights_hash("policy")
            if self._now is None or self._now[0].name != name:
                version = publish_version(self._weights, name, self._save)
                said = self._inner.forward("policy", self._canary.as_rows(), temperature=1.0)
                self._now = version, self._canary.expecting(said)
            self._publisher, self._moved = get_ident(), False
        return self._now

    def _save(self, folder: Path) -> None:
        how = {"adapter_alone": True} if self._ours.adapter and self._dialect.takes_adapters else {}
        self._inner.save("policy", folder, **how)

    def _repair(self, still: bool) -> None:
        """Publish the version again. Raises TrainingError where the weights have moved on, or may just now.

        still: whether nobody else works with the engine
        """
        assert self._now is not None
        version = self._now[0]
        with self._alone:
            if not still or self._inner.weights_hash("policy") != version.name:
                raise TrainingError(
                    f"{version.folder} was damaged after it was published, and the policy has learnt since. The last "
                    "checkpoint is kept: the same command goes on from there. Check the disk."
                )
            publish_version(self._weights, version.name, self._save)

    def _by_trainer(self, member: Member, job: Job, made: Sequence[Sampled], bound: float) -> float:
        """Return how far samples are from what the trainer says of them. Raises Fault where they are not of its."""
        exact = self._ours.single and member.apart < AS_CLOSE
        with self._alone:
            found = check(by_trainer(self._inner, self._dialect, exact, job, made), bound)
            if exact and self._dialect.keyed and job.sampling.temperature:
                check_draws(self._inner, job, made)
            return found

    def _by_server(self, member: Member, job: Job, made: Sequence[Sampled], bound: float) -> float:
        """Return how far samples are from what the server says of them, since the trainer's weights move on."""
        gate = self._placement.rollout.canary
        return check(by_server(self._dialect, member.address, self._ours, gate, job, made), bound)

    def cast(self, role: Role, dtype: str) -> None:
        self._inner.cast(role, dtype)
        self._rounded[role] = (dtype == "float32") != self._ours.single

    def with_policy(self, role: Role) -> Self:
        other = copy.copy(self)
        other._rounded = {"policy": self._rounded.get(role, False)}
        other._inner, other._now, other._owns_fleet = self._inner.with_policy(role), None, False
        return other

    def step(self, *terms: Term) -> Mapping[str, float]:
        """Make a step. Its metrics say what happened while samples were drawn since the step before."""
        self._moved = True
        return {**self._inner.step(*terms), **self._fleet.report()}

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        self._moved = True
        try:
            with self._inner.averaged_weights():
                yield
        finally:
            self._moved = True

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]) -> None:
        self._inner.restore(tensors, values)
        self._now = None

    def computed_by(self) -> Mapping[str, Any]:
        backend = self._placement.rollout.backend
        where = self._placement.rollout.servers or f"{self._placement.rollout.launch} launched here"
        return {**self._inner.computed_by(), "sampling": backend, "servers": where}

    def stop_sampling(self) -> None:
        self._fleet.stop()
        self._inner.stop_sampling()

    def close(self) -> None:
        if self._owns_fleet:
            self._fleet.close()
        with self._alone:  # A thread that nobody waits for may still compare samples.
            self._inner.close()

    # -- the servers -------------------------------------------------------------------------------------------------

    def _members(self) -> list[Member]:
        settings, root = self._placement.rollout, self._placement.root.absolute()
        trainer, key = f"{socket.gethostname()}:{root}", key_of(settings.key)

        def connect(url: str) -> Address:
            return Address(url, key, trainer, settings.key, settings.timeout)

        found = [Member(url, connect) for url in settings.servers]
        for n in range(settings.launch):
            device = {"CUDA_VISIBLE_DEVICES": settings.devices[n]} if settings.devices else {}
            env = {**self._dialect.environment, **device}
            log = root / "rollout" / f"server-{n}.log"
            found.append(Member(f"launched server {n}", connect, Launched(self._command, log, env)))
        return found

    def _command(self, port: int, folder: Path) -> list[str]:
        """Return the command that starts a server of a model."""
        settings = self._placement.rollout
        own = settings.backend == "prefloop"
        python = sys.executable if own else python_of(settings.backend, settings.python)
        return [python, *self._dialect.command(port, folder, self._placement.model.dtype), *settings.options]
