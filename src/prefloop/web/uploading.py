"""Imports a file of items from a browser, in a separate process, which protects the server.

Its bytes, memory and processor time are limited. The formats and the messages about bad rows are those of `prefloop
import`, which also takes larger files.
"""

from __future__ import annotations

import hashlib
import os
import resource
import tempfile
import threading
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from prefloop import exchange
from prefloop.errors import BusyError, DataError
from prefloop.exchange import RowError
from prefloop.store import Counts
from prefloop.types import Demonstration, Item, Prompt
from prefloop.web.services import Services

MOST_BYTES = 8_000_000
MEMORY_BYTES = 4 << 30  # This limits the address space, of which a reading process takes much more than of memory.
PROCESSOR_S = 30
REASONS = 50  # So many reasons of bad rows are kept.
_ONE = threading.Lock()


@dataclass(frozen=True)
class Loaded:
    """Holds the result of a file.

    tasks:   how many items people will now rank
    reasons: those of the first bad rows
    """

    format: str
    counts: Counts
    records: int
    tasks: int
    rejected: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Parsed:
    format: str
    records: list[Prompt | Demonstration | Item]
    rejected: int
    reasons: tuple[str, ...]


def load(known: Services, name: str, body: bytes, ignore: Collection[str] = ()) -> Loaded:
    """Add the content of a file. Fields in `ignore` are metadata and nothing else.

    Raises DataError if the file cannot be read or has no usable row, and BusyError while another file is being read.
    """
    if len(body) > MOST_BYTES:
        raise DataError(f"the file is larger than {MOST_BYTES // 1_000_000} MB. Import it with: prefloop import FILE")
    if not body:
        raise DataError("choose a file that holds something")
    if not _ONE.acquire(blocking=False):
        raise BusyError("another file is being read; try again in a moment")
    try:
        parsed = _parse(body, known.config.data.max_line_bytes, tuple(ignore))
    finally:
        _ONE.release()
    if not parsed.records:
        raise DataError(f"none of its {parsed.rejected} rows can be used as {parsed.format}: {parsed.reasons[0]}")
    counts = known.store.add(parsed.records)
    sha256 = hashlib.sha256(body).hexdigest()
    rows = [*parsed.reasons, *[""] * (parsed.rejected - len(parsed.reasons))]
    known.store.record_import(Path(name).name[:200] or "upload", sha256, parsed.format, counts, rows)
    tasks = known.queue.fill()
    return Loaded(parsed.format, counts, len(parsed.records), tasks, parsed.rejected, parsed.reasons)


def _parse(body: bytes, max_line_bytes: int, ignore: tuple[str, ...]) -> _Parsed:
    with tempfile.TemporaryDirectory(prefix="prefloop-") as folder:
        path = Path(folder) / "upload"  # The file name is not used, because the content tells the format.
        path.write_bytes(body)
        try:
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                return process.submit(_read, path, max_line_bytes, ignore).result()
        except (BrokenProcessPool, MemoryError):
            raise DataError(
                "reading this file takes more memory or time than the server gives to one. If it is right, import it "
                "with: prefloop import FILE"
            ) from None


def _read(path: Path, max_line_bytes: int, ignore: tuple[str, ...]) -> _Parsed:
    """Read the file; this runs in the separate process."""
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_S, PROCESSOR_S))
    with suppress(ValueError, OSError):  # Not every system can limit the address space.
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        records, reasons, rejected = list[Prompt | Demonstration | Item](), list[str](), 0
        format = exchange.sniff(path, max_line_bytes=max_line_bytes, ignore=ignore)
        for record in exchange.read(path, max_line_bytes=max_line_bytes, ignore=ignore):
            if isinstance(record, RowError):
                rejected += 1
                if len(reasons) < REASONS:
                    reasons.append(f"row {record.line}: {record.reason}")
            else:
                records.append(record)
        return _Parsed(format, records, rejected, tuple(reasons))
    except DataError as error:
        raise DataError(str(error).replace(str(path), "the file")) from None
