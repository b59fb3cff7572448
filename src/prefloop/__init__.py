"""prefloop: align a language model with what people prefer, end to end.

    with prefloop.Project.open("support") as project:
        project.sample()

docs/api.md is the tour. Names are loaded when they are first used: `import prefloop` itself loads neither torch nor
pydantic. `__init__.pyi` says to type checkers and editors what there is.
"""

from importlib import import_module

__version__ = "0.1.0"

_NAMES = {
    "Interval": "prefloop.results",
    "Policy": "prefloop.api.models",
    "Project": "prefloop.api.project",
    "Prompt": "prefloop.types",
    "RankedList": "prefloop.api.rankings",
    "RewardScorer": "prefloop.api.models",
    "errors": "prefloop.errors",
    "load_policy": "prefloop.api.models",
    "load_reward_model": "prefloop.api.models",
    "register": "prefloop.algorithms.registry",
}
__all__ = ["__version__", *_NAMES]


def __getattr__(name: str) -> object:
    if name not in _NAMES:
        raise AttributeError(f"module 'prefloop' has no attribute {name!r}")
    module = import_module(_NAMES[name])
    value = module if name == "errors" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
