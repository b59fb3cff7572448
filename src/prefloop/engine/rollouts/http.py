"""Asks a server over HTTP, and says of every failure whether asking again may help."""

from __future__ import annotations

import io
import json
import os
import socket
import ssl
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from typing import Any
from urllib.parse import urlsplit

from prefloop.errors import ConfigError

CONNECT_S = 10.0
LONGEST = 64 << 20  # Bytes of an answer, where nothing else is expected.
_PIECE = 1 << 20
SECRET = 8  # A key of fewer characters may stand anywhere in an answer.
_SHOWN = 300  # characters of what a server said


class Fault(Exception):
    """A server did not answer as it should: asking again, later or another one, may help.

    after: seconds that the server wants to be left alone first
    """

    after = 0.0


class Silent(Fault):
    """A server did not answer in time."""


class Stale(Fault):
    """A server holds another version of the weights than it is asked for."""


class Damaged(Fault):
    """A server refuses published weights, because they are not what was published."""


class Refused(Exception):
    """Asking again would not help. The message says what to do."""


class Address:
    """Is where a server is asked. Its key goes into headers, and nowhere else."""

    def __init__(self, url: str, key: str = "", trainer: str = "", variable: str = "", timeout: float = 600.0):
        self.url, self.timeout = url.rstrip("/"), timeout
        self._key, self._trainer, self._variable = key, trainer, variable

    def __str__(self) -> str:
        return self.url

    def get(self, path: str, timeout: float | None = None) -> Any:
        return self._ask("GET", path, None, timeout)

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        timeout: float | None = None,
        text: bool = False,
        longest: int = LONGEST,
    ) -> Any:
        """Ask with a body. text: whether any text is an answer; longest: how many bytes of one are read"""
        return self._ask("POST", path, body, timeout, text, longest)

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        timeout: float | None,
        text: bool = False,
        longest: int = LONGEST,
    ) -> Any:
        """Return what the server answered, as JSON. Raises Fault or Refused."""
        try:
            status, after, data = self._exchange(method, path, body, timeout or self.timeout, longest)
        except ssl.SSLCertVerificationError as error:
            raise Refused(
                f"{self.url} shows a certificate that is not trusted here ({error.verify_message}). If it is your own, "
                "put its authority's certificate into a file and set SSL_CERT_FILE to it; or ask the server over "
                "http:// in a network of your own."
            ) from None
        except ssl.SSLError as error:
            raise Fault(f"no TLS connection: {error.reason or error}") from None
        except TimeoutError:
            raise Silent(f"no answer within {timeout or self.timeout:g} s ([rollout] timeout)") from None
        except (OSError, HTTPException) as error:
            raise Fault(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from None
        if len(self._key) >= SECRET:
            data = data.replace(self._key.encode(), b"...")  # A server that repeats the key would bring it into logs.
        try:
            answer = json.loads(data) if data.strip() else {}
        except (ValueError, RecursionError):
            if status == 200 and not text:
                raise Fault(f"half an answer, or no JSON: {_short(data)!r}") from None
            answer = {}
        if status != 200:
            try:
                self._fail(status, path, _said(answer) or _short(data))
            except Fault as fault:
                fault.after = after
                raise
        return answer

    def _exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout: float, longest: int
    ) -> tuple[int, float, bytes]:
        parts = urlsplit(self.url)
        headers = {"Accept": "application/json", "X-Prefloop-Trainer": self._trainer}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=min(CONNECT_S, timeout))
        until = time.monotonic() + timeout

        def in_time(sock: Any, **how: Any) -> HTTPResponse:
            reader: Any = _InTime(sock, until)
            return HTTPResponse(reader, **how)

        connection.response_class = in_time  # type: ignore[assignment]
        try:
            connection.connect()
            connection.sock.settimeout(timeout)
            connection.request(method, parts.path + path, data, headers)
            response = connection.getresponse()
            data = _read(response, longest)
            return response.status, _seconds(response.getheader("Retry-After")), data
        finally:
            connection.close()

    def _fail(self, status: int, path: str, said: str) -> None:
        if status in (401, 403):
            where = f"the environment variable {self._variable}" if self._variable else "the key"
            has = "does not hold the server's API key" if self._key else "is empty, and the server wants an API key"
            raise Refused(f"{self.url} refuses the API key ({status}): {where} {has}.")
        if status in (404, 405, 501):
            raise Refused(f"{self.url} knows no {path} ({status}): {said}. Is [rollout] backend what runs there?")
        if 300 <= status < 400:
            raise Refused(f"{self.url} has moved ({status}). Write the address where it is now into [rollout] servers.")
        if status == 409:
            raise Stale(said)
        if status == 422:
            raise Damaged(said)
        if status in (408, 425, 429) or status >= 500:
            raise Fault(f"HTTP {status}: {said}")
        raise Refused(f"{self.url}{path} refuses the request ({status}): {said}")


def key_of(variable: str) -> str:
    """Return the API key, which only the environment holds; "" where there is none. Raises ConfigError."""
    key = os.environ.get(variable, "").strip()
    if not key.isascii() or not key.isprintable():  # An error of the HTTP library would show it.
        raise ConfigError(
            f"the environment variable {variable} holds no API key: a key has no line breaks, and no letters beyond "
            "ASCII. Put the key alone into it."
        )
    return key


class _InTime:
    """Stands for a socket whose answer, from its first byte to its last, must be read by a moment."""

    def __init__(self, sock: socket.socket, until: float):
        self.sock, self.until = sock, until

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(_Bytes(self.sock.makefile("rb", buffering=0), self.sock, self.until))


class _Bytes(io.RawIOBase):
    def __init__(self, bytes_of: Any, sock: socket.socket, until: float):
        self.bytes_of, self.sock, self.until = bytes_of, sock, until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        if (left := self.until - time.monotonic()) <= 0:
            raise TimeoutError
        self.sock.settimeout(left)  # It holds for each piece alone.
        return self.bytes_of.readinto(buffer)

    def close(self) -> None:
        self.bytes_of.close()
        super().close()


def _read(response: HTTPResponse, longest: int) -> bytes:
    """Return the body of an answer. Raises Fault where it is too long."""
    pieces, size = list[bytes](), 0
    wanted = response.length
    while size <= longest and (wanted is None or wanted <= longest):
        piece = response.read1(_PIECE)
        if not piece:
            if wanted is not None and size < wanted:
                raise IncompleteRead(b"".join(pieces), wanted - size)
            return b"".join(pieces)
        pieces.append(piece)
        size += len(piece)
    raise Fault(f"its answer is longer than {longest} bytes, which is more than was asked for")


def _seconds(header: str | None) -> float:
    """Return what `Retry-After` asks for, where it is a number of seconds; it may also be a date."""
    return float(header) if header and header.strip().isdecimal() else 0.0


def _said(answer: Any) -> str:
    """Return the message of an error, in the forms that servers have for it."""
    found = answer.get("error") or answer.get("message") or answer.get("detail") if isinstance(answer, dict) else answer
    found = found.get("message", found) if isinstance(found, dict) else found
    return _short(str(found or "").encode())


def _short(data: bytes) -> str:
    text = " ".join(data.decode(errors="replace").split())
    if text.startswith("<"):
        return "a web page"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
