"""Finds the guidelines in force, and what has changed since somebody read them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from prefloop.store import Guidelines, Person
from prefloop.types import digest
from prefloop.web.services import Services
from prefloop.web.views import present


def on_disk(known: Services) -> str:
    """Return the content of the guidelines file, which is read at each call so that an edit shows at once."""
    try:
        return (known.root / known.config.annotate.guidelines).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return (
            f"This project has no guidelines yet. Rank the answers by **{known.config.annotate.criterion}**: "
            "the best first; answers that are equally good share a place."
        )


def guidelines(known: Services, *, look: bool = False) -> Guidelines:
    """Return the text that people are shown: the file's, or one written later in the browser.

    look: whether to check for changes now
    """
    return known.queue.rules.guidelines(on_disk(known), look=look)


def changed_for(known: Services, me: Person) -> bool:
    """Return whether this person has read an earlier version than the current one."""
    return me.guidelines is not None and me.guidelines != guidelines(known).hash


def asked(known: Services) -> str:
    """Return a hash of what the ranking screen follows. If it changes, the page loads anew."""
    return digest("asked", present.rules(known.queue.rules.current()), guidelines(known).hash)


@dataclass(frozen=True)
class Piece:
    """Holds lines that stayed ("same"), were removed ("gone") or were added ("new")."""

    kind: str
    text: str


def pieces(before: str, after: str) -> list[Piece]:
    """Return the differences between two versions, with one unchanged line around each."""
    old, new = before.splitlines(), after.splitlines()
    found: list[Piece] = []
    for group in difflib.SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(1):
        for kind, a, b, c, d in group:
            if kind == "equal":
                found.append(Piece("same", "\n".join(old[a:b])))
                continue
            if a < b:
                found.append(Piece("gone", "\n".join(old[a:b])))
            if c < d:
                found.append(Piece("new", "\n".join(new[c:d])))
    return [piece for piece in found if piece.text.strip()]
