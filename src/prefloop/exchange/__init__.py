"""Reads and writes the file formats of the field. It converts between files and the types of `prefloop.types`."""

from prefloop.exchange.base import Parsed, RowError
from prefloop.exchange.files.sinks import Written
from prefloop.exchange.registry import FORMATS, MAX_LINE_BYTES, check, read, sniff
from prefloop.exchange.soft import Soft
from prefloop.exchange.write import (
    PAIRINGS,
    write_demonstrations,
    write_kto,
    write_pairs,
    write_prompts,
    write_rankings,
)

__all__ = [
    "FORMATS",
    "MAX_LINE_BYTES",
    "PAIRINGS",
    "Parsed",
    "RowError",
    "Soft",
    "Written",
    "check",
    "read",
    "sniff",
    "write_demonstrations",
    "write_kto",
    "write_pairs",
    "write_prompts",
    "write_rankings",
]
