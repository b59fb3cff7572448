"""Identifies the code of a caller's own function or class by a hash of its source, for fingerprints and manifests."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any

from prefloop.messages import digest

Seen = tuple[int, ...]  # These are the ids of what is being described, because a function may hold itself.


def source_hash(thing: Any) -> str:
    """Return a hash that changes when the code of a function, a class or a callable object changes.

    It covers the source text, default arguments, what a closure or a `functools.partial` holds and the attributes of an
    object, as far as these are plain values, functions or classes. It does not cover other functions that this one
    calls: whoever changes those gives the object an attribute `identity`, a text, which is used instead.
    """
    if not isinstance(thing, FunctionType | MethodType | functools.partial | type) and not _identity(thing):
        return digest("source", [_described(type(thing)), _described(getattr(thing, "__dict__", {}))])
    return digest("source", _described(thing))


def _identity(thing: Any) -> str | None:
    told = getattr(thing, "identity", None)
    return told if isinstance(told, str) else None


def _described(thing: Any, seen: Seen = ()) -> Any:
    """Return JSON that says what an object is, alike in every process: no address in memory is in it."""
    if thing is None or isinstance(thing, str | bytes | int | float):
        return repr(thing)
    if id(thing) in seen:
        return "itself"
    seen = (*seen, id(thing))
    if told := _identity(thing):
        return ["identity", told]
    if isinstance(thing, Mapping):
        return sorted([str(key), _described(value, seen)] for key, value in thing.items())
    if isinstance(thing, list | tuple):
        return [_described(value, seen) for value in thing]
    if isinstance(thing, set | frozenset):
        return sorted(map(repr, thing))
    if isinstance(thing, functools.partial):
        return [_described(part, seen) for part in (thing.func, thing.args, thing.keywords)]
    if isinstance(thing, MethodType):
        return [_described(thing.__func__, seen), _described(vars(thing.__self__), seen)]
    if isinstance(thing, FunctionType):
        held = {name: cell.cell_contents for name, cell in _cells(thing)}
        defaults = (thing.__defaults__, thing.__kwdefaults__)
        return [_text(thing), _described(defaults, seen), _described(held, seen)]
    if isinstance(thing, type):
        return [_class(base, seen) for base in thing.__mro__ if base is not object]
    return str(getattr(thing, "__qualname__", type(thing).__qualname__))


def _class(cls: type, seen: Seen) -> Any:
    """Return the text of a class; of one typed in a notebook, which has no file, what is defined in it."""
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        members = {name: value for name, value in vars(cls).items() if not _made(name, value)}
        return [cls.__qualname__, _described(members, seen)]


def _made(name: str, value: Any) -> bool:
    """Return whether Python or `dataclass` put it there."""
    code = getattr(value, "__code__", None)
    return name.startswith("__") and (code is None or code.co_filename == "<string>")


def _cells(function: FunctionType) -> list[tuple[str, Any]]:
    """Return what a closure holds; `__class__`, which `super()` makes, is not the author's."""
    pairs = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return [(name, cell) for name, cell in pairs if name != "__class__"]


def _text(function: FunctionType) -> Any:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # A function typed at a prompt has no file.
        return _bytecode(function.__code__)


def _bytecode(code: CodeType) -> list[Any]:
    constants = [_bytecode(c) if isinstance(c, CodeType) else _described(c) for c in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), constants]
