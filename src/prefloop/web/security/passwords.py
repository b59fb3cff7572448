"""Hashes passwords with argon2id (RFC 9106), a limited number at once, in equal time whether or not a name exists."""

from __future__ import annotations

import os
import threading
import unicodedata
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import ARGON2_VERSION

from prefloop.errors import BusyError, DataError

SHORTEST, LONGEST = 10, 128  # in characters


class Passwords:
    """Hashes and verifies passwords.

    Hashing takes 64 MiB and much time, so two run at once, a few wait, and the rest get "busy".
    """

    def __init__(
        self, hasher: PasswordHasher | None = None, at_once: int = 2, waiting: int = 8, patience_s: float = 10.0
    ) -> None:
        self._hasher = hasher or PasswordHasher()
        self._running = threading.BoundedSemaphore(at_once)
        self._admitted = threading.BoundedSemaphore(at_once + waiting)
        self._patience_s = patience_s

    def hash(self, password: str, name: str | None = None) -> str:
        """Return the hash of a new password.

        Raises DataError if it is too short, too long or too simple, and BusyError if too many come at once.
        """
        if not SHORTEST <= len(password) <= LONGEST:
            raise DataError(f"a password has {SHORTEST} to {LONGEST} characters; a few words in a row do well")
        if len(set(password)) < 4 or (name and password.casefold() == name.casefold()):
            raise DataError("this password is too easy to guess; a few words in a row do well")
        with self._slot():
            return self._hasher.hash(_bytes(password))

    def verify(self, known: str | None, password: str) -> bool:
        """Return whether the password matches a hash. None (no such account) never matches, after the same work."""
        if len(password) > LONGEST:
            return False
        with self._slot():
            try:
                return self._hasher.verify(known or self._nobodys, _bytes(password)) and known is not None
            except (VerificationError, InvalidHashError):
                return False

    def outdated(self, known: str) -> bool:
        """Return whether a hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(known)

    @cached_property
    def _nobodys(self) -> str:
        """Return a hash that no password matches, and that takes as long to check as any other.

        It is drawn at random and not computed, or the first unknown name would take twice as long.
        """
        made, salt, digest = self._hasher, os.urandom(self._hasher.salt_len), os.urandom(self._hasher.hash_len)
        cost = f"m={made.memory_cost},t={made.time_cost},p={made.parallelism}"
        return f"$argon2id$v={ARGON2_VERSION}${cost}${_base64(salt)}${_base64(digest)}"

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if not self._admitted.acquire(blocking=False):
            raise BusyError(_FLOOD)
        try:
            if not self._running.acquire(timeout=self._patience_s):
                raise BusyError(_FLOOD)
            try:
                yield
            finally:
                self._running.release()
        finally:
            self._admitted.release()


_FLOOD = "too many people are signing in at this moment; try again in a few seconds"


def _bytes(password: str) -> bytes:
    """Return the password as bytes, in one form however the keyboard composes its accents."""
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")


def _base64(data: bytes) -> str:
    return b64encode(data).rstrip(b"=").decode()
