"""Writes CSV for spreadsheets, in which no cell is taken for a formula. It is for people, and not for reading back.

See OWASP, "CSV Injection". Excel, LibreOffice and Google Sheets run a text that starts with = + - @, tab or carriage
return, and in East Asian settings also one that starts with the full-width forms. Such a text gets an apostrophe before
it. Numbers stay numbers, also negative ones, and so does a text that is nothing but a number.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from typing import IO, Any

from prefloop.exchange.files.tables import Columns
from prefloop.invisible import INVISIBLE
from prefloop.messages import answer_text, to_turns
from prefloop.types import Prompt

BOM = "\ufeff"  # Without it, Excel takes UTF-8 for the code page of its machine.
# A spreadsheet may drop these before it looks at a cell: white space, and characters that cannot be seen.
_UNSEEN = rf"[\s{INVISIBLE}]*"
_FORMULA = re.compile(rf"[\t\r\n]|{_UNSEEN}[=+\-@\uff1d\uff0b\uff0d\uff20\u2212\ufe62\ufe63\ufe66\ufe6b]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def write_csv(out: IO[bytes], columns: Columns, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write a header and the rows in RFC 4180 form, UTF-8 with a byte order mark. Return how many rows were written."""
    count = 0
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    try:
        text.write(BOM)
        writer = csv.writer(text)
        writer.writerow(columns.csv)
        for row in rows:
            writer.writerow([cell(_asked(row) if name == "prompt" else row.get(name)) for name in columns.csv])
            count += 1
    finally:
        text.detach()  # The caller closes the stream.
    return count


def _asked(row: Mapping[str, Any]) -> object:
    """Return the prompt, after the tools that may be called if there are any."""
    prompt = row.get("prompt")
    if not row.get("tools"):
        return prompt
    return Prompt(prompt if isinstance(prompt, str) else to_turns(prompt or []), tools=tuple(row["tools"])).text


def cell(value: object) -> str | int | float:
    """Return a value as a cell: numbers as they are, text made harmless, everything else as text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return value
    if (
        isinstance(value, list)
        and value
        and all(isinstance(v, dict) and {"role", "content"} <= v.keys() for v in value)
    ):
        return harmless(answer_text(to_turns(value)))
    if isinstance(value, str):
        return harmless(value)
    return harmless(json.dumps(value, ensure_ascii=False))


def harmless(text: str) -> str:
    """Return the text, with an apostrophe if a spreadsheet would run it.

    NUL, which ends a cell early, becomes U+FFFD.
    """
    text = text.replace("\0", "\ufffd")
    if _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text
