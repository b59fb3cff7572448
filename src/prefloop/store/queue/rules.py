"""Holds the settings of annotation (`Rules`): those of the file, with changes made in the browser on top.

A change counts as long as prefloop.toml (with --set), or the guidelines file, says what it said when the change was
made. So whoever changes the file later has the last word. Every process that uses the queue sees a change after at most
`LOOK_EVERY_S` seconds.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, func, insert, select, update

from prefloop.config import Annotate
from prefloop.errors import DataError
from prefloop.store import mapping
from prefloop.store.connections.database import Database
from prefloop.store.people.rows import may
from prefloop.store.queue.rows import count, note
from prefloop.store.schema import guidelines, people, rules
from prefloop.types import digest

# fmt: skip
CHANGEABLE = (
    "attributes",
    "partial",
    "none_acceptable",
    "rationale",
    "overlap",
    "overlap_many",
    "overlap_share",
    "gold_share",
    "random_share",
    "limit",
    "quota",
    "lease_minutes",
    "lease_hours",
)
OVERLAP = ("overlap", "overlap_many", "overlap_share")
GUIDELINES = "guidelines"  # The value and base of this key are hashes of texts.
LONGEST_GUIDELINES = 100_000  # characters
LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class Change:
    """Describes a change made in the browser.

    back:   whether it returns to what the file says
    counts: whether it is not such a return, and the file still says what it said then (`base`)
    """

    number: int
    at: float
    who: str | None
    key: str
    value: Any
    base: Any
    back: bool
    counts: bool


@dataclass(frozen=True)
class Guidelines:
    """Holds the guidelines in force.

    change: how they came to differ from the file's; None if they are the file's
    """

    text: str
    hash: str
    change: Change | None


class Rules:
    """Holds the settings in force. Several threads may use it.

    `file` is [annotate] as prefloop.toml and --set give it.
    """

    def __init__(self, database: Database, file: Annotate, clock: Callable[[], float] = time.time) -> None:
        self._database, self.file, self._clock = database, file, clock
        self._lock = threading.Lock()
        self._known: tuple[Annotate, tuple[Change, ...]] | None = None
        self._looked = 0.0
        self._texts: dict[str, str] = {}  # The text behind a hash never changes.

    def current(self, *, look: bool = False) -> Annotate:
        """Return what counts now.

        look: whether to include what another process changed within the last second
        """
        return self._state(look)[0]

    def changes(self) -> dict[str, Change]:
        """Return {key: its last change}, also of those that count no more because the file was changed later."""
        return {change.key: change for change in self._state(True)[1]}

    def _state(self, look: bool) -> tuple[Annotate, tuple[Change, ...]]:
        with self._lock:
            if self._known is None or look or time.monotonic() - self._looked >= LOOK_EVERY_S:
                began = time.monotonic()
                with self._database.read() as connection:
                    found = last_changes(connection, self.file)
                self._known, self._looked = (applied(self.file, found), found), began
            return self._known

    # -- settings ----------------------------------------------------------------------------------------------------

    def change(self, by: str | None, values: Mapping[str, Any]) -> tuple[str, ...]:
        """Set some keys for everybody from now on. Return those that differ now.

        Owners only. Raises DataError, and changes nothing, where a value is not valid or a key cannot be changed here.
        """
        for key in values:
            if key not in CHANGEABLE:
                raise DataError(f"{key} is changed in prefloop.toml only")
        with self._database.work(alone=True) as connection:
            may(connection, by, "owner")
            before = applied(self.file, last_changes(connection, self.file))
            after = _valid(before, values)
            different = [key for key in values if getattr(before, key) != getattr(after, key)]
            for key in different:
                self._write(connection, by, key, _plain(after)[key], _plain(self.file)[key])
                said = f"{key}: {_words(_plain(before)[key])} → {_words(_plain(after)[key])}"
                note(connection, self._clock(), by, "setting", said, _plain(before)[key], _plain(after)[key])
        self._state(True)
        return tuple(different)

    def _write(self, connection: Connection, by: str | None, key: str, value: Any, base: Any) -> None:
        row = {"at": self._clock(), "who": by, "key": key, "base": mapping.dumps(base)}
        connection.execute(insert(rules), row | {"value": None if value == base else mapping.dumps(value)})

    # -- guidelines --------------------------------------------------------------------------------------------------

    def guidelines(self, on_disk: str, *, look: bool = False) -> Guidelines:
        """Return the text that counts, where the file holds `on_disk`."""
        base = text_hash(on_disk)
        last = next((change for change in self._state(look)[1] if change.key == GUIDELINES), None)
        if last is None or last.back or last.base != base:
            return Guidelines(on_disk, base, None)
        text = self.text_of(last.value)
        return Guidelines(on_disk, base, None) if text is None else Guidelines(text, last.value, last)

    def text_of(self, hash: str) -> str | None:
        """Return a version of the guidelines that somebody has read or written."""
        if hash not in self._texts:
            with self._database.read() as connection:
                found = connection.scalar(select(guidelines.c.text).where(guidelines.c.hash == hash))
            if found is None:
                return None
            self._texts[hash] = found
        return self._texts[hash]

    def write_guidelines(self, by: str | None, text: str, on_disk: str, editing: str) -> bool:
        """Make `text` what everybody is shown; return whether it differs. Owners only.

        editing: hash of the text that was being edited. Raises DataError where somebody else has changed it meanwhile.
        """
        text = text.replace("\r\n", "\n")
        if not text.strip() or len(text) > LONGEST_GUIDELINES or "\0" in text:
            raise DataError(f"guidelines have 1 to {LONGEST_GUIDELINES} characters")
        with self._database.work(alone=True) as connection:
            may(connection, by, "owner")
            before = self.guidelines(on_disk, look=True)
            if before.hash != editing:
                raise DataError("somebody has changed the guidelines while you edited them. Open the page again.")
            after, base = text_hash(text), text_hash(on_disk)
            if after == before.hash:
                return False
            for version in (on_disk, text):
                _keep_text(connection, version, self._clock())
            self._write(connection, by, GUIDELINES, after, base)
            number = count(connection, rules, rules.c.key == GUIDELINES)
            note(connection, self._clock(), by, "guidelines", f"change {number}", before.text, text)
        self._state(True)
        return True

    def versions(self) -> list[Change]:
        """Return every change of the guidelines in the browser, newest first."""
        with self._database.read() as connection:
            rows = connection.execute(select(rules).where(rules.c.key == GUIDELINES).order_by(rules.c.seq.desc()))
            return [_to_change(row, False) for row in rows.mappings()]

    def read(self, person: str, shown: Guidelines) -> None:
        """Remember that a person has read these guidelines."""
        with self._database.write() as connection:
            _keep_text(connection, shown.text, self._clock())
        with self._database.work() as connection:
            connection.execute(update(people).where(people.c.id == person).values(guidelines=shown.hash))


def last_changes(connection: Connection, file: Annotate, before: int | None = None) -> tuple[Change, ...]:
    """Return the last change of each key. before: only changes before the one of that number."""
    newest = select(func.max(rules.c.seq)).group_by(rules.c.key)
    if before is not None:
        newest = newest.where(rules.c.seq < before)
    rows = connection.execute(select(rules).where(rules.c.seq.in_(newest)).order_by(rules.c.seq)).mappings()
    plain = _plain(file)
    return tuple(_to_change(row, json.loads(row["base"]) == plain.get(row["key"])) for row in rows)


def in_force_since(connection: Connection, file: Annotate, at: float) -> list[Annotate]:
    """Return the settings that were in force at some moment after `at`, newest first, without the current ones."""
    later = connection.scalars(select(rules.c.seq).where(rules.c.at >= at).order_by(rules.c.seq.desc())).all()
    return [applied(file, last_changes(connection, file, before=number)) for number in later]


def applied(file: Annotate, changes: Sequence[Change]) -> Annotate:
    """Return the file with the changes in force. A change that is no longer valid, after an update, is left out."""
    over = {change.key: change.value for change in changes if change.counts and change.key in CHANGEABLE}
    try:
        return Annotate.model_validate({**_plain(file), **over}) if over else file
    except ValidationError:
        return file


def text_hash(text: str) -> str:
    """Return the identifier of a version of the guidelines."""
    return digest("guidelines", text)


def _keep_text(connection: Connection, text: str, now: float) -> None:
    """Store a version of the guidelines. Callers work alone, or hold the write lock."""
    if connection.scalar(select(guidelines.c.seq).where(guidelines.c.hash == text_hash(text))) is None:
        connection.execute(insert(guidelines), {"hash": text_hash(text), "text": text, "at": now})


def _valid(before: Annotate, values: Mapping[str, Any]) -> Annotate:
    try:
        after = Annotate.model_validate({**_plain(before), **values})
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    names = [name for name in after.attributes if not name.strip() or len(name) > 40 or "\0" in name]
    if names or len(set(after.attributes)) != len(after.attributes):
        raise DataError("attributes: give up to two different names of at most 40 characters")
    return after


def _plain(settings: Annotate) -> dict[str, Any]:
    return settings.model_dump(mode="json")


def _words(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _to_change(row: Mapping[Any, Any], same_file: bool) -> Change:
    back = row["value"] is None
    value, base = None if back else json.loads(row["value"]), json.loads(row["base"])
    return Change(row["seq"], row["at"], row["who"], row["key"], value, base, back, same_file and not back)
