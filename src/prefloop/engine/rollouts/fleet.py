"""Asks several servers for samples: each at the right weights, and again, elsewhere or later, where one fails.

Nothing is dropped: a call returns one sample for each prompt, or ends the run with the names of the servers and the
causes.
A sample depends on its key, so that one that is asked for again is the same.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from prefloop.config_rollout import Rollouts
from prefloop.engine.base import Sampled
from prefloop.engine.rollouts.comparing import check_copies
from prefloop.engine.rollouts.dialect import Dialect, Job, Ours
from prefloop.engine.rollouts.http import Address, Damaged, Fault, Refused, Silent, Stale
from prefloop.engine.rollouts.launching import Launched
from prefloop.engine.rollouts.side_by_side import Ended, all_of
from prefloop.engine.weights import Version
from prefloop.errors import ConfigError, TrainingError

LONGEST_WAIT_S = 60.0
# Samples may be so many times further off than the canary, which has more tokens, and by rounding of float32, in nats.
OF_SAMPLES, OF_ROUNDING = 4, 1e-3
POSITIVE = 1e-3  # A log-probability may be above 0 by rounding only.
_BROKEN = (KeyError, IndexError, TypeError, ValueError, AttributeError)  # An answer of another form raises one of them.


class Member:
    """Is one server, and what is known of it. launched: where it is our own"""

    def __init__(self, name: str, connect: Callable[[str], Address], launched: Launched | None = None):
        self.name, self._connect, self.launched = name, connect, launched
        self.lock = threading.Lock()
        self.address = connect(name)
        self.apart = 0.0  # how far it was at the last canary
        self.used = False  # whether it may think that this trainer uses it
        self.forget()

    def forget(self) -> None:
        """Know nothing of it: it may have been started again, with other weights or another model."""
        self.holds, self.checked = "", False

    def up(self, version: Version) -> None:
        """Start it where it is our own and does not run."""
        if self.launched is None or self.launched.alive:
            return
        self.forget()
        self.launched.start(version.model)
        self.address = self._connect(self.launched.url)
        self.launched.wait(self.address)


Compare = Callable[[Member, Job, Sequence[Sampled], float], float]


class Fleet:
    """Holds the servers of an engine. `counts` holds what went wrong since the last report."""

    def __init__(self, settings: Rollouts, dialect: Dialect, ours: Ours, members: Sequence[Member]):
        self.settings, self.dialect, self.ours, self.members = settings, dialect, ours, members
        self.counts = {"rollout_retries": 0, "rollout_reissued": 0}
        self.canary = self.apart = 0.0  # the largest differences since the last report: of the canary, of samples
        self._asked = False
        self._counting = threading.Lock()  # Servers are asked by threads.
        self._closed = threading.Event()

    def generate(self, job: Job, repair: Callable[[], None], compare: Compare) -> list[Sampled]:
        """Return one sample for each prompt, in order.

        repair:  publishes the version again, where its files were damaged
        compare: returns how far samples of a part are off, in nats a token. Raises Fault beyond a bound
        Raises ConfigError where a server is not one for this trainer, TrainingError where none answers.
        """
        parts, self._asked = _parts(job, len(self.members)), True
        try:
            made = all_of(
                lambda n: self._sample(parts[n], n, repair, compare), range(len(parts)), len(parts), self._closed
            )
        except Refused as error:
            raise ConfigError(str(error)) from None
        except Ended:
            raise TrainingError("the samples are no longer wanted: the command ends") from None
        return [s for part in made for s in part]

    def _sample(self, job: Job, first: int, repair: Callable[[], None], compare: Compare) -> list[Sampled]:
        """Sample a part, from the server `first` on."""
        causes: dict[str, str] = {}
        for attempt in range(self.settings.retries + 1):
            if self._closed.is_set():
                raise Ended
            if attempt:
                self._count("rollout_retries")
                self._closed.wait(min(LONGEST_WAIT_S, self.settings.backoff * 2 ** (attempt - 1)))
            member = self.members[(first + attempt) % len(self.members)]
            try:
                with member.lock:
                    return self._ask(member, job, compare)
            except Fault as fault:
                causes[member.name] = str(fault)
                self._failed(fault, repair)
        said = "; ".join(f"{name}: {cause}" for name, cause in causes.items())
        raise TrainingError(
            f"no rollout server gave samples in {self.settings.retries + 1} attempts. {said}. The last checkpoint is "
            "kept: put the server right, and the same command goes on from there."
        )

    def _failed(self, fault: Fault, repair: Callable[[], None]) -> None:
        if isinstance(fault, Stale):
            self._count("rollout_reissued")
        if isinstance(fault, Damaged):
            repair()

    def _ask(self, member: Member, job: Job, compare: Compare) -> list[Sampled]:
        try:
            member.up(job.version)
            self._bring(member, job)
            made = self._checked(member, self.dialect.generate(member.address, job), job)
            check_copies(job, made)
            if self._closed.is_set():
                raise Ended
            apart = compare(member, job, made, self._bound(member, job))
            with self._counting:
                self.apart = max(self.apart, apart)
            return made
        except Stale:
            member.holds = ""
            raise
        except Fault as fault:
            member.forget()
            if isinstance(fault, Silent) and member.launched is not None:
                member.launched.stop()  # It hangs: the next attempt starts another.
            raise
        except _BROKEN as error:
            member.forget()
            raise Fault(f"its answer has another form: {type(error).__name__}: {error}") from None

    def _bring(self, member: Member, job: Job) -> None:
        """Make the server hold the job's version, and see that it does."""
        member.used = True
        if not member.checked:
            self.dialect.check(member.address, self.ours)
            member.checked = True
        if member.holds == job.version.name:
            return
        self.dialect.take(member.address, job.version)
        said = self.dialect.logprobs(member.address, job.canary, job.version)
        apart = job.canary.apart(said)
        if apart > self.settings.canary:
            raise Fault(
                f"its log-probabilities of the canary's texts differ from the trainer's by {apart:.2g} nats a token on "
                f"average, more than [rollout] canary = {self.settings.canary:g}: it does not sample from version "
                f"{job.version.name}"
            )
        self.canary, member.apart = max(self.canary, apart), apart
        member.holds = job.version.name

    def _bound(self, member: Member, job: Job) -> float:
        """Return how far samples may be off: by their temperature, and by how far the server's canary was.

        Beyond float32 the canary says less: the sampler rounds more often than a pass over a whole text.
        """
        most = OF_SAMPLES * self.settings.canary
        if self.ours.single:
            most = min(most, OF_ROUNDING + OF_SAMPLES * member.apart)
        return most / min(1.0, job.sampling.temperature or 1.0)

    def _checked(self, member: Member, made: Sequence[Sampled], job: Job) -> list[Sampled]:
        """Return the samples, once they are what was asked for. A part of an answer is no answer."""
        if len(made) != len(job.prompts):
            raise Fault(f"it gave {len(made)} samples for {len(job.prompts)} prompts")
        for s in made:
            if not s.ids or len(s.ids) > job.sampling.max_tokens:
                raise Fault(f"it gave a sample of {len(s.ids)} tokens; 1 to {job.sampling.max_tokens} were asked for")
            if not s.logprobs:
                raise Refused(f"{member.name} gives no log-probabilities with its samples, and training needs them.")
            if len(s.logprobs) != len(s.ids) or not all(math.isfinite(x) and x < POSITIVE for x in s.logprobs):
                raise Fault(
                    f"it gave {len(s.logprobs)} log-probabilities for {len(s.ids)} tokens, or some that are not finite "
                    "or above 0"
                )
            if not all(type(i) is int for i in s.ids):
                raise Fault("it gave token ids that are no integers")
            if min(s.ids) < 0 or max(s.ids) >= self.ours.vocabulary:
                found = max(s.ids) if min(s.ids) >= 0 else min(s.ids)
                raise Refused(
                    f"{member.name} sampled token {found}, and the policy's vocabulary has {self.ours.vocabulary}: it "
                    "serves a model with a larger one. Start it with the model that is trained."
                )
            self._check_end(s, job)
        stops = self.ours.tokenization.stop_ids
        return [replace(s, ended=s.ids[-1] in stops, weights=job.version.name) for s in made]

    def _check_end(self, s: Sampled, job: Job) -> None:
        """Raise Fault where a sample does not end as it is said to."""
        stops = self.ours.tokenization.stop_ids
        if any(i in stops for i in s.ids[:-1]):
            raise Fault("it gave a sample that goes on after a token that ends answers")
        if s.ended and s.ids[-1] not in stops:
            raise Fault(f"it says that a sample ended by itself, with token {s.ids[-1]}, which ends no answer")
        if not s.ended and len(s.ids) < job.sampling.max_tokens:
            raise Fault(f"it cut a sample at {len(s.ids)} tokens, before max_tokens = {job.sampling.max_tokens}")

    def _count(self, name: str) -> None:
        with self._counting:
            self.counts[name] += 1

    def report(self) -> Mapping[str, float]:
        """Return what happened since the last report; nothing where no samples were drawn."""
        if not self._asked:
            return {}
        found = {name: float(n) for name, n in self.counts.items()}
        found |= {"rollout_canary": self.canary, "rollout_apart": self.apart}
        self.counts, self._asked = dict.fromkeys(self.counts, 0), False
        self.canary = self.apart = 0.0
        return found

    def stop(self) -> None:
        """Let nobody wait for samples any more. Requests that are under way are left alone."""
        self._closed.set()

    def close(self) -> None:
        """Let go of servers that were there, and stop our own."""
        self.stop()
        all_of(self._let_go, self.members, len(self.members))

    def _let_go(self, member: Member) -> None:
        if member.launched is not None:
            member.launched.stop()
        elif member.used and not member.lock.locked():  # It would not answer: it has not yet, to what was asked last.
            with suppress(Fault, Refused):  # It may not be there any more.
                self.dialect.release(member.address)


def _parts(job: Job, servers: int) -> list[Job]:
    """Return one part for each server, of nearly equal size. Answers to one prompt stay together: it is read once."""
    count = len(job.prompts)
    cuts = [0]
    for n in range(1, servers):
        cut = max(cuts[-1], n * count // servers)
        while 0 < cut < count and job.prompts[cut] == job.prompts[cut - 1]:
            cut += 1
        cuts.append(cut)
    ends = [*cuts[1:], count]
    found = [
        replace(job, prompts=job.prompts[a:b], keys=job.keys[a:b]) for a, b in zip(cuts, ends, strict=True) if a < b
    ]
    return found or [job]
