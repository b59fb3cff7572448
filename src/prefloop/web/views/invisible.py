"""Gives a label to what cannot be seen: zero-width, bidirectional and control characters, blank letters.

Nobody ranks a text that differs from what they read. Joiners that change what is seen are left alone.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import islice

from prefloop.invisible import INVISIBLE

MAX_LABELS = 1000  # So many invisible characters get a label; further ones get a box.
_LABELS_IN_A_RUN = 12  # So many invisible characters in a row are labelled; further ones are counted.

# These joiners change what is seen, so that labels would only tear words and emoji apart. They stand between two emoji,
# between letters of scripts that join (Arabic to Sinhala), or ask for an emoji's colours.
_EMOJI = "\u203c-\u3299\U0001f000-\U0001faff"
_JOINING = "\u0620-\u0dff"
_WANTED = (
    f"(?<=[{_EMOJI}])\ufe0f|(?<=[0-9#*])\ufe0f(?=\u20e3)|(?<=[{_EMOJI}\ufe0f])\u200d(?=[{_EMOJI}])"
    f"|(?<=[{_JOINING}])[\u200c\u200d](?=[{_JOINING}])"
)
# fmt: skip
_SHORT = {
    "\u200b": "ZWSP",
    "\u200c": "ZWNJ",
    "\u200d": "ZWJ",
    "\u200e": "LRM",
    "\u200f": "RLM",
    "\u202a": "LRE",
    "\u202b": "RLE",
    "\u202c": "PDF",
    "\u202d": "LRO",
    "\u202e": "RLO",
    "\u2060": "WJ",
    "\u2066": "LRI",
    "\u2067": "RLI",
    "\u2068": "FSI",
    "\u2069": "PDI",
    "\ufeff": "BOM",
    "\u00ad": "SHY",
    "\u061c": "ALM",
    "\x1b": "ESC",
    "\x00": "NUL",
    "\r": "CR",
}


def label(html: str) -> str:
    """Return HTML in which invisible characters have labels.

    They are never inside a tag: attributes are printable ASCII.
    """
    if _ANY.search(html) is None:  # This is true for nearly every text.
        return html
    marked, end = _RUN.subn(_labels, html, count=MAX_LABELS), 0
    if marked[1] < MAX_LABELS:
        return marked[0]
    for match in islice(_RUN.finditer(html), MAX_LABELS):
        end = match.end()
    rest = _RUN.sub(lambda m: m.group() if m.group(1) is None else "\u25af", html[end:])
    return _RUN.sub(_labels, html[:end]) + rest


_ANY = re.compile(f"[{INVISIBLE}]")
_RUN = re.compile(f"{_WANTED}|((?:(?!{_WANTED})[{INVISIBLE}])+)")


def _labels(match: re.Match[str]) -> str:
    run = match.group(1)
    if run is None:
        return match.group()
    shown = "".join(_one(character) for character in run[:_LABELS_IN_A_RUN])
    left = len(run) - _LABELS_IN_A_RUN
    return f'{shown}<span class="invisible" dir="ltr">+{left} invisible</span>' if left > 0 else shown


@lru_cache(maxsize=512)
def _one(character: str) -> str:
    point = f"U+{ord(character):04X}"
    name = unicodedata.name(character, "control character" if ord(character) < 0xA0 else "invisible character")
    return f'<span class="invisible" dir="ltr" title="{point} {name.lower()}">{_SHORT.get(character, point)}</span>'
