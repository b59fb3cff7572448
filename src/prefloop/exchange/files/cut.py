"""Cuts JSON into records without parsing it: lines, or the elements of one array.

A few bytes of an archive can expand to gigabytes of brackets, commas or newlines. The work for a record is limited, so
that such a file ends soon: `Endless` says where, and that nothing after it was read.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from prefloop.exchange.base import BadRow

CHUNK_BYTES = 1 << 16
PEEK_BYTES = 1 << 16
MANY_BLANK = 1_000_000
DEEPEST = 100_000  # An element that is nested too deep up to this many levels affects only itself.


class Endless(Exception):
    """States that nothing usable is to be expected in the rest of a file."""


def longest(limit: int) -> int:
    """Return how long a record that exceeds `limit` bytes may be and still be skipped."""
    return max(64 * limit, 64_000_000)


def lines_of(stream: io.BufferedIOBase, limit: int) -> Iterator[tuple[int, bytes | BadRow]]:
    """Yield non-blank lines with their numbers. Of a line over `limit` bytes only the first `limit` + 1 are kept."""
    line = blank = 0
    while raw := stream.readline(limit + 1):
        line += 1
        rest, length = raw, len(raw)
        while not rest.endswith(b"\n") and (rest := stream.readline(CHUNK_BYTES)):
            length += len(rest)
            if length > longest(limit):
                raise Endless(f"the line goes on for more than {longest(limit):,} bytes")
            if len(raw) <= limit:
                raw += rest  # The read was short, and the line may go on.
        if len(raw) > limit or raw.strip():
            blank = 0
            yield line, raw
        elif (blank := blank + 1) > MANY_BLANK:
            raise Endless(f"more than {MANY_BLANK:,} lines in succession are blank")


_OUTSIDE = re.compile(rb'["\[\]{},\n]')
_INSIDE = re.compile(rb'["\\\n]')


def elements_of(stream: io.BufferedIOBase, limit: int) -> Iterator[tuple[int, bytes | BadRow]]:
    """Yield the elements of one JSON array, cut out without parsing, with the lines on which they start.

    Only brackets and strings are followed, so an element that is not valid JSON does not affect its neighbours.
    """
    depth, begin, start, line = 0, 0, 1, 1  # The part that is not yet copied into `element` starts at `begin`.
    element, length, work = bytearray(), 0, 0  # These are the bytes of the element so far, and the marks found in it.
    for chunk, at, line, marks in _marks(stream):
        mark = chunk[at : at + 1]
        if depth == 1 and mark in (b",", b"]", b"}"):
            element += chunk[begin:at]
            if element.strip() or mark == b",":
                yield start + _blank_lines(element), bytes(element)
            element.clear()
            begin, start, length, work = at + 1, line, 0, marks
        if not mark:
            length = _bounded(length + len(chunk) - begin, marks - work, limit)
            if len(element) <= limit:
                element += chunk[begin:]
            begin = 0
        elif mark in b"[{":
            depth = _bounded_depth(depth + 1)
            begin = at + 1 if depth == 1 else begin
        elif mark != b",":
            depth -= 1
            if depth == 0:
                if (chunk[at + 1 :] + stream.read(PEEK_BYTES)).strip():
                    yield line, BadRow("something follows the end of the array; it was not read")
                return
    if element.strip():
        yield start + _blank_lines(element), bytes(element)
    yield line, BadRow("the array is not closed; was the file cut short?")


def _bounded(length: int, marks: int, limit: int) -> int:
    """Return the length of an element so far. Raises Endless if finding its end takes too much work."""
    if length > longest(limit) or marks > max(limit, CHUNK_BYTES):
        raise Endless(f"an element is longer than {length:,} bytes")
    return length


def _bounded_depth(depth: int) -> int:
    if depth > DEEPEST:
        raise Endless(f"brackets are nested more than {DEEPEST:,} levels deep")
    return depth


def _marks(stream: io.BufferedIOBase) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield (chunk, position, line, marks so far) at each bracket and comma outside strings and each end of a chunk."""
    line, count, in_string, escaped = 1, 0, False, False
    while chunk := stream.read1(CHUNK_BYTES):  # read1 returns what comes before a damaged place.
        at = 1 if escaped else 0
        escaped = False
        while found := (_INSIDE if in_string else _OUTSIDE).search(chunk, at):
            mark, at, count = found.group(), found.end(), count + 1
            if mark == b"\n":
                line += 1
            elif mark == b'"':
                in_string = not in_string
            elif mark == b"\\":
                escaped = at == len(chunk)
                at += 1
            else:
                yield chunk, found.start(), line, count
        yield chunk, len(chunk), line, count


def _blank_lines(element: bytearray) -> int:
    return element[: len(element) - len(element.lstrip())].count(b"\n")
