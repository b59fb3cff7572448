"""What is wrong with a table of settings, in sentences that say what to write; and which settings there are.

Everything here is told the model of all settings (`config.Config`), so that it knows none by itself.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from prefloop.errors import suggest

Model = type[BaseModel]


def holds_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\0" in value
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return any(map(holds_nul, inner))


def problems(table: Mapping[str, Any], model: Model) -> Iterator[str]:
    """One line for each setting that is "" though it may be left out."""
    for section, values in table.items():
        for key, value in values.items() if isinstance(values, Mapping) else ():
            if value == "" and may_be_left_out(model, section, key):
                yield f'  {section}.{key} = "" says nothing: leave the line out'


def may_be_left_out(model: Model, section: str, key: str) -> bool:
    """Whether the setting is none unless somebody sets it."""
    found = model.model_fields.get(section)
    fields = getattr(found.annotation, "model_fields", {}) if found else {}
    return (
        key in fields and not fields[key].is_required() and fields[key].get_default(call_default_factory=True) is None
    )


def explain(error: Any, of: Model) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        return f'  unknown key "{key}".{suggest(location[-1], _known_keys(location[:-1], of))}'
    if error["type"] == "literal_error":
        near = difflib.get_close_matches(str(error["input"]), error["ctx"]["expected"].replace("'", "").split(), n=1)
        return f"  {key}: {error['msg']} (got {error['input']!r})" + (f' Did you mean "{near[0]}"?' if near else "")
    return f"  {key}: {error['msg']} (got {error['input']!r})"


def _known_keys(section: Sequence[str], of: Model) -> list[str]:
    model: Any = of
    for name in section:
        annotation = model.model_fields[name].annotation
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
        if model is None:
            return []
    return list(model.model_fields)


def describe(model: Model) -> list[tuple[str, str, str, str]]:
    """(key, type, default, meaning) of every setting, for docs and help."""
    rows: list[tuple[str, str, str, str]] = []
    for section, section_field in model.model_fields.items():
        annotation = section_field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            for name, field in annotation.model_fields.items():
                default = field.get_default(call_default_factory=True)
                rows.append((f"{section}.{name}", _type_name(field.annotation), repr(default), field.description or ""))
    return rows


def _type_name(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return " or ".join(repr(value) for value in typing.get_args(annotation))
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type_name(a) for a in typing.get_args(annotation))
    return "none" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))
