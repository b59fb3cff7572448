"""Defines the errors of prefloop. Each message says what happened, where, and what to do about it.

PrefloopError              anything that a user can put right; the command line prints it without a traceback
├── ConfigError            prefloop.toml, --set, or options that contradict each other
├── DataError              a file, row or ranking that cannot be used
│   └── TemplateError      a prompt that the model's chat template refuses
├── ModelError             a model folder or hub id that cannot be used
├── StoreError             the database is missing, damaged, or newer than this program
│   └── UnavailableError   the database cannot be reached at the moment; trying again later may work
├── BusyError              another process is writing to this project
├── TrainingError          a run cannot go on (NaN, nothing to learn from)
├── RankError              one of several processes that compute together has died, or does not answer
├── NothingToDoError       the input of a stage does not exist yet
├── AnswerError            a submitted answer does not fit what was shown
├── LeaseError             a lease does not exist, belongs to another person, or has run out
├── ConflictError          two different things were sent under one name; the first one counts
└── ForbiddenError         this person may not do that
"""

import difflib
from collections.abc import Sequence


class PrefloopError(Exception):
    """Is the base class of problems that the user can put right. `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(PrefloopError):
    """A setting is missing, misspelt, of the wrong type, or contradicts another."""

    exit_code = 2


class DataError(PrefloopError):
    """A file, row or ranking cannot be used."""

    exit_code = 3


class TemplateError(DataError):
    """The chat template of a model refuses a prompt. `reason` is what it said."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ModelError(PrefloopError):
    """A model folder or hub id cannot be loaded or does not fit."""

    exit_code = 4


class StoreError(PrefloopError):
    """The store is missing, damaged, or newer than this program."""

    exit_code = 5


class UnavailableError(StoreError):
    """The store cannot be reached at this moment: its server is away, its disk is full, its file was moved."""


class BusyError(PrefloopError):
    """Another process is working on this project."""

    exit_code = 6


class TrainingError(PrefloopError):
    """A run cannot go on; the last good checkpoint is kept."""

    exit_code = 7


class RankError(PrefloopError):
    """A rank has died or does not answer. The last good checkpoint is kept, and a new group goes on from there."""

    exit_code = 9


class NothingToDoError(PrefloopError):
    """A stage's input does not exist yet; the message names the command that makes it."""

    exit_code = 8


class AnswerError(PrefloopError):
    """What a person submitted is not an answer to what was shown; nothing was written."""

    exit_code = 3


class LeaseError(PrefloopError):
    """A lease does not exist, belongs to somebody else, or has run out and its place was given away."""


class ConflictError(PrefloopError):
    """The same UUID came with another body, or a second answer where one stands; the first one stands."""


class ForbiddenError(PrefloopError):
    """This person may not do that."""


def suggest(name: str, known: Sequence[str]) -> str:
    """Return ' Did you mean "x"?' for a near miss, else the list of what exists."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f' Did you mean "{near[0]}"?' if near else f" Known: {', '.join(sorted(known))}."
