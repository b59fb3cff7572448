"""The settings of `[rollout]`: which servers sample in place of this process, and how long one waits for them."""

from __future__ import annotations

from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from prefloop.config_section import Section
from prefloop.errors import ConfigError

Backend = Literal["local", "prefloop", "vllm", "sglang", "openai"]


class Rollouts(Section):
    """Where samples are drawn. It says nothing of what is sampled, which `[sample]` and `[align.rollout]` say."""

    backend: Backend = Field(
        "local",
        description='who samples: "local" is this process, "prefloop" a server of `prefloop rollout serve`, "vllm" and '
        '"sglang" servers of these, "openai" any endpoint of this protocol, for `prefloop sample` alone',
    )
    servers: tuple[str, ...] = Field((), description='addresses of servers that run already, as "http://10.0.0.2:8302"')
    model: str | None = Field(None, min_length=1, description="openai: the name of the model that the endpoint serves")
    api: Literal["chat", "completions"] = Field(
        "chat",
        description='openai: "chat" sends messages to /chat/completions, "completions" sends text to /completions',
    )
    launch: int = Field(0, ge=0, description="servers that are started on this machine, and stopped at the end")
    devices: tuple[str, ...] = Field(
        (), description="CUDA_VISIBLE_DEVICES of each launched server, in order; none = those of this process"
    )
    options: tuple[str, ...] = Field((), description="further command-line options of launched servers")
    python: str | None = Field(
        None,
        description="Python of the environment that launches vllm or sglang; none = that of `prefloop rollout install`",
    )
    key: str = Field(
        "PREFLOOP_ROLLOUT_KEY",
        min_length=1,
        description="the environment variable that holds the servers' API key; it is never written down",
    )
    weights: str | None = Field(
        None,
        description="folder in which versions of the weights are published, and which the servers see under the same "
        "path; none = rollout/weights in the project",
    )
    timeout: float = Field(600, gt=0, description="seconds that one answer of a server may take")
    retries: int = Field(
        5, ge=0, description="how often a request is repeated, elsewhere or later, before the run ends"
    )
    backoff: float = Field(
        0.5, ge=0, description="seconds before the first repetition; each further one waits twice that"
    )
    canary: float = Field(
        5e-3,
        gt=0,
        description="largest mean difference, in nats a token, between a server's log-probabilities of fixed texts and "
        "the trainer's; a version beyond it is not sampled from",
    )

    @model_validator(mode="after")
    def _says_who(self) -> Self:
        if self.backend == "openai":
            self._says_which_endpoint()
        if self.backend != "local" and bool(self.servers) == bool(self.launch):
            raise ValueError(f'backend = "{self.backend}" needs either servers = ["http://..."] or launch = 1 or more')
        if self.devices and len(self.devices) != self.launch:
            raise ValueError(f"devices names {len(self.devices)} and launch = {self.launch}: one for each server")
        for address in self.servers:
            parts = urlsplit(address)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f'servers: {address!r} is no address such as "http://10.0.0.2:8302"')
            if parts.username or parts.password:
                raise ValueError("servers: an address holds no password; the variable that `key` names holds it")
        if len(set(self.servers)) < len(self.servers):
            raise ValueError("servers names an address twice")
        return self

    def _says_which_endpoint(self) -> None:
        if self.launch:
            raise ValueError('backend = "openai" asks endpoints that run already: take launch out')
        if not self.servers or not self.model:
            raise ValueError('backend = "openai" needs servers = ["https://..."], and model, which is asked there')
        if found := next((address for address in self.servers if urlsplit(address).query), None):
            raise ValueError(f"servers: an address holds no query: {found.partition('?')[0]}?...")


def refuse_endpoint(settings: Rollouts, command: str) -> None:
    """Raise ConfigError for a command that an endpoint's texts are of no use to."""
    if settings.backend == "openai":
        raise ConfigError(
            f'{command} works with the policy, and [rollout] backend = "openai" gives texts of another model: it '
            "serves prefloop sample alone. Give this command --set rollout.backend=local"
        )
