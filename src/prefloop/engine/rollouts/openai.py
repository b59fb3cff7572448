"""Asks any endpoint of OpenAI's protocol for answers to a prompt: messages or text go out, texts come back.

What comes back is of another model than the project's. So this is no engine: there are no token ids, no
log-probabilities, and no version of the policy's weights.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from prefloop.config_rollout import Rollouts
from prefloop.engine.base import Sampling
from prefloop.engine.rollouts.fleet import LONGEST_WAIT_S
from prefloop.engine.rollouts.http import Address, Fault, Refused, key_of
from prefloop.errors import DataError
from prefloop.exchange.choices import read_choice
from prefloop.messages import Message, message_to_json
from prefloop.models.chat import plain_lead, plain_prompt, prompt_turns, wrapped
from prefloop.types import Completion, Json, Prompt

SEEDS = 2**31  # Every server takes a seed below it.
LISTED = 10  # So many models of an endpoint are named.
NAMED = {"answered_by": "model", "system_fingerprint": "system_fingerprint"}  # what an answer says of who gave it


class RowRefused(Exception):
    """The endpoint does not answer this prompt, or not in a way that can be used. Others may fare better."""


class NoAnswer(Exception):
    """No endpoint answered a prompt within the attempts; the text names each and its cause."""


@dataclass(frozen=True)
class Answer:
    """Holds a completion without an id, how it was asked for, and its tokens, where the endpoint counts them."""

    completion: Completion
    how: Json
    tokens: float | None


class Endpoint(Address):
    """Is an endpoint, and what was learnt of its dialect while it was asked."""

    def __init__(self, url: str, settings: Rollouts):
        """Take the address of an API, which ends with a path such as /v1; without a path, it is /v1."""
        whole = url if urlsplit(url).path.strip("/") else url.rstrip("/") + "/v1"
        super().__init__(whole, key_of(settings.key), variable=settings.key, timeout=settings.timeout)
        self.model = settings.model
        self.answered = False
        self.one_each = False  # whether it refuses n
        self.limit = "max_tokens"

    def _fail(self, status: int, path: str, said: str) -> None:
        if status in (400, 413, 422) or (status == 403 and self.answered):
            raise RowRefused(f"{self.url} refuses it ({status}): {said}")
        if status == 404 and path != "/models":
            raise Refused(
                f"{self.url} has no {path}, or no model {self.model!r} (404): {said}. Set [rollout] model to one that "
                f"it serves{self._models()}; servers is where its API begins, such as https://host/v1."
            )
        if status == 402:
            raise Refused(f"{self.url} wants to be paid first (402): {said}")
        if status == 409:
            raise Fault(f"HTTP 409: {said}")
        super()._fail(status, path, said)

    def _models(self) -> str:
        try:
            names = [str(model["id"]) for model in self.get("/models", timeout=10.0)["data"]]
        except (Fault, Refused, RowRefused, KeyError, TypeError):
            return ""
        return f" ({', '.join(names[:LISTED])}{', ...' if len(names) > LISTED else ''})"


class Endpoints:
    """Holds the endpoints of a model. Several threads may draw at once."""

    def __init__(self, settings: Rollouts, sampling: Sampling):
        self.settings, self.sampling = settings, sampling
        self.servers = [Endpoint(url, settings) for url in settings.servers]
        self._chat = settings.api == "chat"
        self._closed = threading.Event()
        self._refused: Refused | None = None

    def draw(self, prompt: Prompt, k: int, seed: Callable[[int], int]) -> list[Answer]:
        """Return k answers to a prompt.

        An endpoint may give fewer than it is asked for: it is then asked again, with another seed.
        seed: that of the request which is made when so many are there

        Raises RowRefused, NoAnswer, and Refused where no prompt would be answered.
        """
        found: list[Answer] = []
        while len(found) < k:
            found += self._ask(prompt, k - len(found), seed(len(found)) % SEEDS)
        return found

    def close(self) -> None:
        """Let nobody wait for another attempt."""
        self._closed.set()

    def _ask(self, prompt: Prompt, n: int, seed: int) -> list[Answer]:
        causes: dict[str, str] = {}
        for attempt in range(self.settings.retries + 1):
            if self._refused is not None:
                raise self._refused
            if self._closed.is_set():
                break
            server = self.servers[(seed + attempt) % len(self.servers)]
            try:
                return self._asked(server, prompt, n, seed)
            except Refused as refused:
                self._refused = refused  # No thread asks for another prompt.
                raise
            except Fault as fault:
                causes[server.url] = str(fault)
                if attempt < self.settings.retries:
                    self._closed.wait(min(LONGEST_WAIT_S, max(fault.after, self.settings.backoff * 2**attempt)))
        raise NoAnswer("; ".join(f"{url}: {cause}" for url, cause in causes.items()))

    def _asked(self, server: Endpoint, prompt: Prompt, n: int, seed: int) -> list[Answer]:
        said, n = self._post(server, prompt, n, seed)
        choices = said.get("choices") if isinstance(said, dict) else None
        if not isinstance(choices, list) or not choices:
            raise Fault("it gave no choices")
        usable, why = [], ""
        for choice in choices[:n]:
            try:
                usable.append(_without_lead(read_choice(choice), prompt, self._chat))
            except DataError as error:
                why = str(error)
        if not usable:
            raise RowRefused(f"what {server} answers cannot be used: {why}")
        server.answered = True
        asked = {"backend": "openai", "endpoint": server.url, "model": self.settings.model, "api": self.settings.api}
        named = {name: said[key] for name, key in NAMED.items() if _plain(said.get(key))}
        tokens = _tokens(said)
        each = None if tokens is None else tokens / len(choices)
        return [Answer(c, {**asked, **named, "seed": seed, "n": n}, each) for c in usable]

    def _post(self, server: Endpoint, prompt: Prompt, n: int, seed: int) -> tuple[Any, int]:
        """Return what an endpoint says to a request for n answers, and for how many it was then asked."""
        n, limit = 1 if server.one_each else n, server.limit
        how = self.sampling
        body = {
            "model": self.settings.model,
            **(_messages(prompt) if self._chat else {"prompt": plain_prompt(prompt)}),
            "temperature": float(how.temperature),
            "top_p": float(how.top_p),
            limit: how.max_tokens,
            "n": n,
            "seed": seed,
        }
        path = "/chat/completions" if self._chat else "/completions"
        try:
            return server.post(path, body), n
        except RowRefused as refused:
            if limit == "max_tokens" and "max_completion_tokens" in str(refused):  # OpenAI's newer models want it.
                server.limit = "max_completion_tokens"
                return self._post(server, prompt, n, seed)
            if n == 1:
                raise
        said = server.post(path, {**body, "n": 1})  # Some refuse n, or refuse it at temperature 0.
        server.one_each = True
        return said, 1


def _messages(prompt: Prompt) -> Json:
    """Return a prompt in the protocol's form: calls and tools are wrapped as functions, and arguments are JSON text."""
    messages = [_message(turn) for turn in prompt_turns(prompt)]
    return {"messages": messages, **({"tools": [wrapped(tool) for tool in prompt.tools]} if prompt.tools else {})}


def _message(turn: Message) -> Json:
    if not turn.calls:
        return message_to_json(turn)
    calls = [wrapped(call) for call in turn.calls]
    for call in calls:
        given = call["function"].get("arguments") or {}
        text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        call["function"] = {**call["function"], "arguments": text}
    kept = {key: value for key, value in message_to_json(turn).items() if key != "function_call"}
    return {**kept, "tool_calls": calls}


def _without_lead(completion: Completion, prompt: Prompt, chat: bool) -> Completion:
    """Take off the space that follows "Assistant:" in a transcript."""
    text = completion.text
    if chat or not plain_lead(plain_prompt(prompt), text[1:]):
        return completion
    return replace(completion, text=text.removeprefix(" "))


def _plain(value: object) -> bool:
    """Return whether it is a text that any store can hold."""
    return isinstance(value, str) and value.isprintable()


def _tokens(said: Json) -> float | None:
    usage = said.get("usage")
    found = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return float(found) if isinstance(found, int | float) else None
