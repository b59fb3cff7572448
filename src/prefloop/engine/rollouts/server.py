"""Is the server of `prefloop rollout serve`: the sampler of this package behind HTTP, for a trainer elsewhere.

    GET  /health        whether it runs
    GET  /v1/about      prefloop's version, fingerprints of tokenizer and template, vocabulary, context, weights version
    POST /v1/weights    {"folder"}  ->  takes over a published version, whole or not at all
    POST /v1/generate   {"version", "prompts", "keys", "seed", "max_tokens", ...}  ->  ids, logprobs, ended
    POST /v1/logprobs   {"version", "rows", "prompt_lengths", "temperature"}  ->  log-probabilities of given tokens
    POST /v1/release    lets go of it, so that another trainer may use it

Each request names the trainer that it comes from. While one uses the server, others are refused. It uses the standard
library's server, so that a machine that samples needs no more than one that trains.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import prefloop
from prefloop.batch import collate
from prefloop.config import Model
from prefloop.engine.base import Sampling
from prefloop.engine.decoding import sampler
from prefloop.engine.local import LocalEngine
from prefloop.engine.weights import put_into, read_version
from prefloop.errors import ConfigError, ModelError, PrefloopError
from prefloop.models.load import load_causal
from prefloop.models.policy import Policy
from prefloop.models.tokenization import Tokenization

LEASE_S = 600.0  # A trainer that was silent for so long no longer keeps others out.
LONGEST_BODY = 256 << 20
IDLE_S = 60.0  # A connection on which nothing comes is closed.


class _Ask(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Generate(_Ask):
    version: str
    prompts: list[list[int]]
    keys: list[int]
    seed: int
    max_tokens: int = Field(ge=1)
    temperature: float = Field(ge=0)
    top_p: float = Field(gt=0, le=1)
    batch: int = Field(ge=1)
    stop_ids: list[int]


class _Logprobs(_Ask):
    version: str
    rows: list[list[int]]
    prompt_lengths: list[int]
    temperature: float = Field(gt=0)


class _Weights(_Ask):
    folder: str


class Refusal(Exception):
    """Is an answer other than 200."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def fingerprints(tokenization: Tokenization) -> dict[str, str]:
    """Return what must be equal on a server and in its trainer: of the tokenizer, and of its chat template."""
    template = str(getattr(tokenization.tokenizer, "chat_template", None) or "")
    return {
        "tokenizer": replace(tokenization, chat=False).fingerprint,
        "template": hashlib.sha256(template.encode()).hexdigest()[:16],
    }


class Rollouts:
    """Holds the model of a server, and answers what trainers ask. It computes one answer at a time."""

    def __init__(self, model: Any, tokenization: Tokenization, device: str = "cpu"):
        self.engine = LocalEngine({"policy": Policy(model)}, tokenization, 0, device=device)
        self.model, self.tokenization = model, tokenization
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])
        self.version = ""  # There is none before the first trainer publishes one.
        self.trainer, self.seen = "", 0.0
        self.busy = threading.Lock()

    def about(self) -> dict[str, Any]:
        return {
            "prefloop": prefloop.__version__,
            **fingerprints(self.tokenization),
            "vocabulary": self.vocabulary,
            "context": self.tokenization.context,
            "version": self.version,
        }

    def claim(self, trainer: str) -> None:
        """Keep the server for a trainer. Raises Refusal where another one uses it."""
        if not trainer:
            raise Refusal(400, "the header X-Prefloop-Trainer is missing: it names who asks")
        now = time.monotonic()
        if trainer != self.trainer and self.trainer and now - self.seen < LEASE_S:
            raise Refusal(
                423,
                f"{self.trainer} uses this server (last asked {now - self.seen:.0f} s ago). Two trainers would take "
                "each other's weights away: stop one, or start a server for each.",
            )
        self.trainer, self.seen = trainer, now

    def release(self) -> dict[str, Any]:
        self.trainer = ""
        return {}

    def weights(self, ask: _Weights) -> dict[str, Any]:
        """Take over a version. What was there before stays where it is damaged, or of another model."""
        folder = Path(ask.folder)
        with self.busy:
            try:
                name, tensors = read_version(folder)
                put_into(self.model, tensors, folder)
            except ModelError as error:
                raise Refusal(422, str(error)) from None
            self.version = name
        return {"version": name}

    def generate(self, ask: _Generate) -> dict[str, Any]:
        if len(ask.keys) != len(ask.prompts):
            raise Refusal(400, f"there are {len(ask.prompts)} prompts and {len(ask.keys)} keys")
        self._readable(ask.prompts, ask.max_tokens)
        how = Sampling(ask.max_tokens, ask.temperature, ask.top_p, ask.batch)
        with self.busy:
            self._holds(ask.version)
            made = sampler.generate(self.model, ask.stop_ids, ask.prompts, ask.keys, how, ask.seed)
        samples = [{"ids": s.ids, "logprobs": s.logprobs, "ended": s.ended} for s in made]
        return {"version": ask.version, "samples": samples}

    def logprobs(self, ask: _Logprobs) -> dict[str, Any]:
        self._readable(ask.rows, 0)
        if len(ask.prompt_lengths) != len(ask.rows):
            raise Refusal(400, f"there are {len(ask.rows)} rows and {len(ask.prompt_lengths)} prompt_lengths")
        rows = collate(ask.rows, ask.prompt_lengths)
        with self.busy:
            self._holds(ask.version)
            found = self.engine.forward("policy", rows, temperature=ask.temperature)
        return {"version": ask.version, "logprobs": [x[a].tolist() for x, a in zip(found, rows.action, strict=True)]}

    def _readable(self, rows: list[list[int]], more: int) -> None:
        for n, row in enumerate(rows):
            if not row or min(row) < 0 or max(row) >= self.vocabulary:
                raise Refusal(
                    400, f"row {n} is empty, or holds ids outside of the vocabulary (0 to {self.vocabulary - 1})"
                )
            if len(row) + more > self.tokenization.context:
                raise Refusal(
                    400,
                    f"row {n} and its answer have {len(row) + more} tokens; the context is {self.tokenization.context}",
                )

    def _holds(self, version: str) -> None:
        if version != self.version:
            raise Refusal(409, f"this server holds version {self.version or 'none'}, not {version}")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], family: int):
        self.address_family = family
        self.rollouts: Rollouts | None = (
            None  # It listens before the model is loaded, so that a port in use shows at once.
        )
        self.key = ""
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Log nothing: requests hold a key."""

    def do_GET(self) -> None:
        self._answer(
            {
                "/health": lambda _: {"status": "ok" if self.server.rollouts else "loading"},
                "/v1/about": lambda _: self._loaded().about(),
            }
        )

    def do_POST(self) -> None:
        self._answer(
            {
                "/v1/weights": lambda body: self._claimed().weights(_Weights.model_validate(body)),
                "/v1/generate": lambda body: self._claimed().generate(_Generate.model_validate(body)),
                "/v1/logprobs": lambda body: self._claimed().logprobs(_Logprobs.model_validate(body)),
                "/v1/release": lambda body: self._claimed().release(),
            }
        )

    def _claimed(self) -> Rollouts:
        rollouts = self._loaded()
        rollouts.claim(self.headers.get("X-Prefloop-Trainer", ""))
        return rollouts

    def _loaded(self) -> Rollouts:
        if self.server.rollouts is None:
            raise Refusal(503, "the model is being loaded")
        return self.server.rollouts

    def _check_key(self) -> None:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.server.key and not hmac.compare_digest(given.encode(), self.server.key.encode()):
            raise Refusal(401, "the API key is wrong or missing")

    def _answer(self, routes: Mapping[str, Callable[[Any], Mapping[str, Any]]]) -> None:
        """Answer by a route. Every way it can end is an answer, and the server goes on."""
        try:
            body = self._body() if self.command == "POST" else None
            if self.path != "/health":
                self._check_key()
            if self.path not in routes:
                raise Refusal(404, f"there is no {self.command} {self.path}")
            self._say(200, routes[self.path](body))
        except Refusal as refusal:
            self._say(refusal.status, {"error": str(refusal)})
        except ValidationError as error:
            first = error.errors()[0]
            self._say(400, {"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"})
        except ConnectionError:
            self.close_connection = True  # Whoever asked has gone.
        except (PrefloopError, RuntimeError) as error:  # Memory ran out, for example.
            self._say(500, {"error": str(error)})

    def _body(self) -> Any:
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            raise Refusal(411, "Content-Length is missing") from None
        if not 0 <= length <= LONGEST_BODY:
            self.close_connection = True
            raise Refusal(413, f"the request has {length} bytes; at most {LONGEST_BODY} are read")
        data = self.rfile.read(length)
        try:
            return json.loads(data or b"{}")
        except ValueError:
            raise Refusal(400, "the request is no JSON") from None

    def _say(self, status: int, body: Mapping[str, Any]) -> None:
        data = json.dumps(body).encode()
        with suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)


def listen(host: str, port: int, key: str, variable: str) -> _Server:
    """Return a server that listens, and answers that it is loading; port 0 takes a free one. Raises ConfigError."""
    if not key and not _loopback(host):
        raise ConfigError(
            f"{host} can be reached from other machines, and whoever reaches the server could use it. Put a secret "
            f"into the environment variable {variable} here and where you train, or listen on 127.0.0.1."
        )
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        server = _Server((str(address[0]), int(address[1])), family)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error}. Choose another with --port, or stop what runs there."
        ) from None
    server.key = key
    return server


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    server: _Server, folder: str, settings: Model, device: str, ready: Callable[[str], None] = lambda _: None
) -> None:
    """Load the model and answer until `shutdown`, or until an exception such as KeyboardInterrupt."""
    answering = threading.Thread(target=server.serve_forever, name="rollouts", daemon=True)
    answering.start()
    try:
        model, tokenization = load_causal(folder, settings)
        server.rollouts = Rollouts(model, tokenization, device)
        host, port = str(server.server_address[0]), server.server_address[1]
        ready(f"http://{f'[{host}]' if ':' in str(host) else host}:{port}")
        answering.join()
    finally:
        server.shutdown()
        server.server_close()
