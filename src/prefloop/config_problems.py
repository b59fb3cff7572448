"""What is wrong with a table of settings, in sentences that say what to write; and which settings there are.

Everything here is told the model of all settings (`config.Config`), so that it knows none by itself.
"""

from __future__ import annotations

import copy
import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from prefloop.errors import suggest

Model = type[BaseModel]

TRL = {  # TRL has these names for the same settings, which people who come from there may write.
    "learning_rate": "lr",
    "max_steps": "steps",
    "num_train_epochs": "epochs",
    "num_ppo_epochs": "epochs",
    "num_iterations": "epochs",
    "num_mini_batches": "minibatches",
    "num_generations": "k",
    "max_completion_length": "max_tokens",
    "max_new_tokens": "max_tokens",
    "response_length": "max_tokens",
    "max_length": "max_tokens",
    "max_grad_norm": "clip_norm",
    "warmup_ratio": "warmup",
    "lr_scheduler_type": "schedule",
    "eval_steps": "eval_every",
    "save_steps": "checkpoint_every",
}


def holds_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\0" in value
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return any(map(holds_nul, inner))


def sections(model: Model, section: str = "") -> Iterator[tuple[str, Model]]:
    """Yield (name, class) of every section.

    A part comes after the section that it belongs to: "align", then "align.rollout".
    """
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            key = f"{section}.{name}" if section else name
            yield key, field.annotation
            yield from sections(field.annotation, key)


def places(model: Model, section: str, name: str) -> list[str]:
    """Return the dotted keys of a setting by its name, in a section or one of its parts.

    For example k of align is ["align.rollout.k"].
    """
    return [key for key in _keys(model, section) if key.rpartition(".")[2] == name]


def _keys(model: Model, section: str) -> list[str]:
    """Return the dotted keys of the settings of a section and its parts."""
    return [key for key, *_ in describe(model) if key.split(".")[0] == section]


def settings_of(table: Mapping[str, Any], model: Model) -> dict[str, Any]:
    """Return {dotted key: value} of every setting in a table of settings; a mapping that is a setting stays whole."""
    known, found = dict(sections(model)), dict[str, Any]()

    def walk(inner: Mapping[str, Any], path: str) -> None:
        for name, value in inner.items():
            key = f"{path}.{name}" if path else name
            if key in known and isinstance(value, Mapping):
                walk(value, key)
            else:
                found[key] = value

    walk(table, "")
    return found


def as_now(table: Mapping[str, Any], model: Model) -> dict[str, Any]:
    """Return the settings in the manifest of a run, where they stand now: `k` was in `[align]` before it had parts."""
    known, found = dict(sections(model)), copy.deepcopy(dict(table))
    for key, value in settings_of(table, model).items():
        section, _, name = key.partition(".")
        if section in known and name not in known[section].model_fields and (moved := places(model, section, name)):
            del found[section][name]
            found[section].setdefault(moved[0].split(".")[1], {})[name] = value
    return found


def problems(table: Mapping[str, Any], model: Model) -> Iterator[str]:
    """Yield one line for each setting that is "" though it may be left out."""
    for key, value in settings_of(table, model).items():
        if value == "" and may_be_left_out(model, key.split(".")):
            yield f'  {key} = "" says nothing: leave the line out'


def may_be_left_out(model: Model, key: Sequence[str]) -> bool:
    """Return whether the setting is none unless somebody sets it."""
    found = dict(sections(model)).get(".".join(key[:-1]))
    field = found.model_fields.get(key[-1]) if found else None
    return field is not None and not field.is_required() and field.get_default(call_default_factory=True) is None


def explain(error: Any, of: Model) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        return f'  unknown key "{key}".{_instead(location, of)}'
    if error["type"] == "literal_error":
        near = difflib.get_close_matches(str(error["input"]), error["ctx"]["expected"].replace("'", "").split(), n=1)
        return f"  {key}: {error['msg']} (got {error['input']!r})" + (f' Did you mean "{near[0]}"?' if near else "")
    if error["type"] == "value_error":  # by a section's own check, which says all that is to be said
        return f"  [{key}] {error['ctx']['error']}"
    return f"  {key}: {error['msg']} (got {error['input']!r})"


def _instead(location: Sequence[str], of: Model) -> str:
    """Return what to write instead of a key that does not exist.

    It is where the setting is, by this name, by TRL's name or by one like it.
    """
    *inside, name = location
    known = dict(sections(of))
    if not inside:
        near = difflib.get_close_matches(name, list(of.model_fields), n=1, cutoff=0.6)
        found = [f"[{key}]" for key in known if key.split(".")[1:] == [name]] + [f'"{key}"' for key in near]
        return f" Did you mean {' or '.join(found)}?" if found else suggest(name, list(of.model_fields))
    top, section = inside[0], known.get(".".join(inside))
    for place in [*places(of, top, name), *places(of, top, TRL.get(name, name))]:
        there, _, called = place.rpartition(".")
        offline = getattr(known[top], "offline", {}).get(called)
        return f" Write {called} in [{there}], or --set {place}=VALUE." + (
            f" An offline algorithm has {offline} in [{top}] instead." if offline else ""
        )
    for key, part in known.items():  # [rollout] and [align.rollout] share a name.
        if key.split(".")[1:] == [top] and TRL.get(name, name) in part.model_fields:
            return f" Did you mean [{key}]?"
    fields = list(section.model_fields) if section else []
    elsewhere = {key.rpartition(".")[2]: key for key in _keys(of, top)}
    near = difflib.get_close_matches(name, [*fields, *elsewhere], n=1, cutoff=0.6)
    if near and near[0] not in fields:
        return f' Did you mean "{elsewhere[near[0]]}"?'
    options = " Options of an algorithm stand in [algorithms.NAME]." if "algorithm" in fields and not near else ""
    return suggest(name, fields) + options


def describe(model: Model) -> list[tuple[str, str, str, str]]:
    """Return (key, type, default, meaning) of every setting, for docs and help. The last part of a key is its name."""
    known = dict(sections(model))
    return [
        (f"{section}.{name}", _type_name(field.annotation), repr(default), field.description or "")
        for section, fields in known.items()
        for name, field in fields.model_fields.items()
        if f"{section}.{name}" not in known
        for default in [field.get_default(call_default_factory=True)]
    ]


def _type_name(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return " or ".join(repr(value) for value in typing.get_args(annotation))
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type_name(a) for a in typing.get_args(annotation))
    return "none" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))
