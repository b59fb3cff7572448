"""Says what the fleet asks of each kind of server, and what is checked of every answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

import prefloop
from prefloop.engine.base import Sampled, Sampling
from prefloop.engine.placement import Placement
from prefloop.engine.rollouts.canary import Canary
from prefloop.engine.rollouts.http import LONGEST, Address, Fault, Refused
from prefloop.engine.rollouts.server import fingerprints
from prefloop.engine.weights import Version
from prefloop.models.tokenization import Tokenization

A_TOKEN = 64  # bytes of an answer of our own server: an id and a log-probability, as text


@dataclass(frozen=True)
class Ours:
    """Holds what a server must share with the trainer.

    vocabulary: rows of the embedding
    adapter:    the rank of the adapter that is trained; 0 where whole weights are
    single:     whether the weights are float32, so that rounding hardly shows
    """

    tokenization: Tokenization
    vocabulary: int
    adapter: int = 0
    single: bool = True


@dataclass(frozen=True)
class Job:
    """Is what one server is asked to sample: prompts with a key each, at one version of the weights."""

    prompts: Sequence[Sequence[int]]
    keys: Sequence[int]
    sampling: Sampling
    seed: int
    version: Version
    canary: Canary


class Dialect(Protocol):
    """Knows one kind of server. Every method raises Fault where asking again may help, and Refused where not."""

    @property
    def takes_adapters(self) -> bool:
        """Whether a server gets an adapter beside its base. Others get whole weights, with the adapter added."""
        ...

    @property
    def renormalises(self) -> bool:
        """Whether, with top-p, log-probabilities of samples are for certain those within the nucleus."""
        ...

    @property
    def any_temperature(self) -> bool:
        """Whether `logprobs` knows other temperatures than 1."""
        ...

    @property
    def keyed(self) -> bool:
        """Whether a sample depends on its key as it does here, so that the trainer draws the same."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """Return variables with which a server of our own is started."""
        ...

    def command(self, port: int, folder: Path, dtype: str) -> list[str]:
        """Return the arguments of Python that start a server of a model's folder, for this machine alone."""
        ...

    def check(self, server: Address, ours: Ours) -> None:
        """Raise Refused where the server is not one for this trainer: another tokenizer, vocabulary, version."""
        ...

    def take(self, server: Address, version: Version) -> None:
        """Make the server take over a version of the weights."""
        ...

    def generate(self, server: Address, job: Job) -> list[Sampled]: ...

    def logprobs(self, server: Address, texts: Canary, version: Version, temperature: float = 1.0) -> list[list[float]]:
        """Return the log-probabilities of what follows the prompt of each text."""
        ...

    def release(self, server: Address) -> None:
        """Let go of the server."""
        ...


class Own:
    """Is the dialect of `prefloop rollout serve`."""

    takes_adapters = False
    renormalises = any_temperature = keyed = True
    environment: Mapping[str, str] = {}

    def __init__(self, ours: Ours, placement: Placement):
        self.stop_ids, self.placement = list(ours.tokenization.stop_ids), placement

    def command(self, port: int, folder: Path, dtype: str) -> list[str]:
        model = self.placement.model
        return [
            *("-m", "prefloop", "rollout", "serve", str(folder), "--port", str(port), "--dtype", dtype),
            *("--chat", model.chat, "--device", self.placement.device, "--threads", str(torch.get_num_threads())),
            *("--key", self.placement.rollout.key),
            *(["--trust-remote-code"] if model.trust_remote_code else []),
        ]

    def check(self, server: Address, ours: Ours) -> None:
        about = server.get("/v1/about")
        if about.get("prefloop") != prefloop.__version__:
            raise Refused(
                f"{server} runs prefloop {about.get('prefloop')}, and this is {prefloop.__version__}: install one "
                "version on both machines."
            )
        mine = fingerprints(ours.tokenization)
        if about["tokenizer"] != mine["tokenizer"]:
            raise Refused(
                f"{server} has another tokenizer (fingerprint {about['tokenizer']}, ours {mine['tokenizer']}): its "
                "token ids mean other texts. Start it with the model that is trained."
            )
        if ours.tokenization.chat and about["template"] != mine["template"]:
            raise Refused(
                f"{server} has another chat template (fingerprint {about['template']}, ours {mine['template']}). "
                "Start it with the model that is trained."
            )
        if about["vocabulary"] != ours.vocabulary:
            raise Refused(
                f"{server} has a vocabulary of {about['vocabulary']} tokens and the policy one of {ours.vocabulary}. "
                "Start it with the model that is trained."
            )

    def take(self, server: Address, version: Version) -> None:
        said = server.post("/v1/weights", {"folder": str(version.folder)})
        if said.get("version") != version.name:
            raise Fault(f"it took over version {said.get('version')} in place of {version.name}")

    def generate(self, server: Address, job: Job) -> list[Sampled]:
        how = job.sampling
        ask = {
            "version": job.version.name,
            "prompts": [list(p) for p in job.prompts],
            "keys": list(job.keys),
            "seed": job.seed,
            "max_tokens": how.max_tokens,
            "temperature": float(how.temperature),
            "top_p": float(how.top_p),
            "batch": how.batch,
            "stop_ids": self.stop_ids,
        }
        longest = LONGEST + A_TOKEN * how.max_tokens * len(job.prompts)
        said = server.post("/v1/generate", ask, longest=longest)
        if said.get("version") != job.version.name:
            raise Fault(f"it sampled with version {said.get('version')} in place of {job.version.name}")
        return [Sampled(tuple(s["ids"]), tuple(s["logprobs"] or ()), s["ended"]) for s in said["samples"]]

    def logprobs(self, server: Address, texts: Canary, version: Version, temperature: float = 1.0) -> list[list[float]]:
        body = {
            "version": version.name,
            "rows": [list(r) for r in texts.rows],
            "prompt_lengths": list(texts.prompts),
            "temperature": float(temperature),
        }
        return list(server.post("/v1/logprobs", body)["logprobs"])

    def release(self, server: Address) -> None:
        server.post("/v1/release", {}, timeout=5.0)
