"""Recognises names that people cannot tell apart, such as "Anna" and "Аnna", whose first letter is Cyrillic.

It follows Unicode's technical standard 39: each character is replaced by one that stands for all characters that look
like it, by Unicode's table of confusable characters. Names with equal replacements look alike.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

_MARK = "\u200e"  # The table puts the left-to-right mark around letters that are written from right to left.


def look_alike(one: str, other: str) -> bool:
    """Return whether two names look the same, as written, in small letters, or in capital letters."""
    return not _looks(one).isdisjoint(_looks(other))


def _looks(name: str) -> set[str]:
    plain = " ".join(unicodedata.normalize("NFKC", name).split())
    return {_skeleton(written) for written in (plain, plain.casefold(), plain.upper())}


def _skeleton(name: str) -> str:
    decomposed = unicodedata.normalize("NFD", name)
    return unicodedata.normalize("NFD", "".join(_prototype(letter) for letter in decomposed))


@lru_cache(maxsize=4096)
def _prototype(letter: str) -> str:
    """Return the prototype that replaces a letter; it may be several letters ("rn" for "m").

    The table has both directions: a prototype lists all letters that look like it, and each of them lists the
    prototype.
    """
    # The import stands here, because it reads a megabyte.
    from confusable_homoglyphs.confusables import confusables_data

    alike = {letter}
    for _ in range(2):  # The first pass finds the prototype, and the second finds all others from it.
        alike |= {entry["c"].strip(_MARK) for one in alike for entry in confusables_data.get(one, ())}
    found = min(alike, key=lambda text: (-len(text), text))
    return found if found == letter or len(found) == 1 else "".join(map(_prototype, found))
