"""Asks an HTTP service for rewards, many texts in each request."""

from __future__ import annotations

import json
import math
import os
import ssl
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from prefloop.errors import ConfigError, DataError
from prefloop.types import Prompt

TEMPORARY = frozenset([408, 425, 429, 500, 502, 503, 504])  # A request with one of these statuses is sent again.
TOKEN = "PREFLOOP_REWARD_TOKEN"  # The environment variable that holds the bearer token of the service.
LONGEST_ANSWER = 1 << 20  # bytes
LONGEST_PAUSE = 60.0  # seconds, whatever Retry-After asks for
AGAIN = "then run the same command again"


def is_address(spec: str) -> bool:
    """Return whether a setting that names a scorer is the address of a service."""
    return spec.lower().startswith(("http://", "https://"))


@dataclass(frozen=True)
class Service:
    """Scores texts by POST requests to one address. Nothing is sent before `score` is called.

    The request is the JSON object {"prompts": [text, ...], "completions": [text, ...]}, and the answer must be a JSON
    list with one finite number for each completion. A token in the environment variable PREFLOOP_REWARD_TOKEN is sent
    as bearer token. A redirect is an error, so that texts only go to the address given.

    url:      the address; manifests hold it
    timeout:  seconds that one request may take: to connect, until the answer begins, and until it is complete
    batch:    the most completions in one request
    attempts: how often a request is sent before a temporary failure becomes an error
    pause:    seconds before the second attempt; each pause is twice the one before it, or what Retry-After asks for
    """

    url: str
    timeout: float = 60.0
    batch: int = 64
    attempts: int = 4
    pause: float = 1.0

    def __post_init__(self) -> None:
        _check_address(self.url)
        if not (0 < self.timeout < math.inf and 0 <= self.pause < math.inf and self.batch >= 1 and self.attempts >= 1):
            raise ConfigError(
                f"the reward service {self.url} needs a finite timeout above 0, a finite pause of at least 0, and a "
                f"batch and attempts of at least 1; given are {self.timeout}, {self.pause}, {self.batch} and "
                f"{self.attempts}"
            )

    def score(self, prompts: Sequence[Prompt | str], texts: Sequence[str]) -> list[float]:
        """Return the number that the service gives for each text as an answer to the prompt in the same place.

        Raises DataError, which names the address and what to do, if the service can't be reached, refuses a request, or
        answers anything else than finite numbers.
        """
        asked = [p if isinstance(p, str) else p.text for p in prompts]
        values: list[float] = []
        for start in range(0, len(texts), self.batch):
            some = slice(start, start + self.batch)
            body = json.dumps({"prompts": asked[some], "completions": list(texts[some])}).encode()
            values += self._numbers(self._ask(body), texts[some])
        return values

    def _ask(self, body: bytes) -> bytes:
        """Send a request until it is answered, with pauses between the attempts."""
        pause = self.pause
        for attempt in range(1, self.attempts + 1):
            try:
                return self._post(body)
            except _TemporaryFailure as failure:
                if attempt == self.attempts:
                    raise DataError(
                        f"the reward service {self.url} {failure.what} (attempt {attempt} of {self.attempts}). "
                        f"{failure.advice}; {AGAIN}."
                    ) from failure
                time.sleep(min(LONGEST_PAUSE, max(pause, failure.wait)))
                pause *= 2
        raise AssertionError("there is at least one attempt")

    def _post(self, body: bytes) -> bytes:
        """Send a request once. Raises _TemporaryFailure if another attempt may succeed, else DataError."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token := os.environ.get(TOKEN):  # Read from the environment, so that no manifest or settings file holds it.
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(self.url, body, headers)
        deadline = time.monotonic() + self.timeout
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout) as response:
                return self._read(response, deadline)
        except HTTPError as error:
            with error:
                raise self._refused(error, deadline) from error
        except (OSError, HTTPException) as error:
            raise self._broken(error) from error

    def _read(self, response: Any, deadline: float) -> bytes:
        """Return the body of an HTTPResponse.

        The limit of a socket is for each read, so an answer that comes in small parts needs the deadline, too.
        """
        parts, size = [], 0
        while part := response.read1(65536):
            parts.append(part)
            size += len(part)
            if size > LONGEST_ANSWER:
                raise DataError(
                    f"the reward service {self.url} sent more than {LONGEST_ANSWER} bytes. It must answer with a JSON "
                    f"list of numbers and nothing else: correct the service, {AGAIN}."
                )
            if time.monotonic() > deadline:
                raise TimeoutError("the answer is not complete")
        if response.length:
            raise IncompleteRead(b"".join(parts), response.length)
        return b"".join(parts)

    def _refused(self, error: HTTPError, deadline: float) -> _TemporaryFailure | DataError:
        """Return what a status other than success means."""
        what = f"answered with status {error.code} {error.reason}"
        if error.code in TEMPORARY:
            wait = error.headers.get("Retry-After") or ""
            advice = "Look into its log and correct what it reports, or wait until it is less busy"
            return _TemporaryFailure(what, advice, float(wait) if wait.isascii() and wait.isdigit() else 0.0)
        if 300 <= error.code < 400:
            where = error.headers.get("Location")
            return DataError(
                f"the reward service {self.url} {what}, which leads to {where}. Texts are sent only to the address "
                f"that you set: set the final one, {AGAIN}."
            )
        said = b""
        with suppress(OSError, HTTPException, DataError):
            said = self._read(error.fp, deadline)
        return DataError(
            f"the reward service {self.url} {what}: {said[:200].decode(errors='replace')!r}. Check that the address is "
            f"right, and that the service takes the request that docs/api.md describes; {AGAIN}."
        )

    def _broken(self, error: OSError | HTTPException) -> _TemporaryFailure | DataError:
        """Return what the lack of a whole answer means."""
        cause = getattr(error, "reason", error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return DataError(
                f"the reward service {self.url} has a certificate that is not trusted: {cause.verify_message}. Correct "
                f"the address or the certificate, or name its authority in SSL_CERT_FILE; {AGAIN}."
            )
        if isinstance(cause, TimeoutError):
            advice = "Make it faster, or give it more time or less work from Python with Service(url, timeout, batch)"
            return _TemporaryFailure(f"did not answer within {self.timeout:g} s", advice)
        why = str(cause) or type(cause).__name__
        return _TemporaryFailure(f"could not be reached ({why})", "Start it or correct the address")

    def _numbers(self, answer: bytes, texts: Sequence[str]) -> list[float]:
        """Return the numbers of an answer, which must be one finite number for each text."""
        must = f"It must answer with a JSON list of {len(texts)} finite numbers: correct the service, {AGAIN}."
        try:
            values: Any = json.loads(answer)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, list):
            shown = answer[:200].decode(errors="replace")
            raise DataError(f"the reward service {self.url} answered {shown!r}. {must}")
        if len(values) != len(texts):
            raise DataError(
                f"the reward service {self.url} gave {len(values)} numbers for {len(texts)} completions. {must}"
            )
        for value, text in zip(values, texts, strict=True):
            if not _is_finite(value):
                raise DataError(
                    f"the reward service {self.url} gave {str(value)[:80]} for the completion {text[:80]!r}. {must}"
                )
        return [float(value) for value in values]


class _TemporaryFailure(Exception):
    """A request failed in a way that may pass. `wait` is how many seconds the service asks for."""

    def __init__(self, what: str, advice: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.what, self.advice, self.wait = what, advice, wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, so that each of them is an HTTPError."""

    def redirect_request(self, *args: Any) -> None:
        return None


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # It is an integer that is larger than any float.
        return False


def _check_address(url: str) -> None:
    """Raise ConfigError for what is no address, and for an address with a password."""
    try:
        parts = urlsplit(url)
        good = is_address(url) and bool(parts.hostname) and parts.port != 0 and not parts.fragment
    except ValueError:
        good = False
    if not good or any(not "!" <= letter <= "~" for letter in url):
        raise ConfigError(f'{url!r} is not the address of a reward service. Write it as "https://host:port/path".')
    if "@" in parts.netloc:
        raise ConfigError(
            f"the address of the reward service at {parts.hostname} holds a user name or a password, and manifests "
            "hold addresses. Take it out; from Python, an object with score(prompts, texts) can send one."
        )
