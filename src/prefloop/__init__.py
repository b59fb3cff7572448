"""prefloop: align a language model with what people prefer, end to end.

    with prefloop.Project.open("support") as project:
        project.sample()

docs/api.md is the tour. Names are loaded when they are first used: `import prefloop` itself loads neither torch nor
pydantic. `__init__.pyi` says to type checkers and editors what there is.
"""

import os
from importlib import import_module

__version__ = "0.1.0"

# How long a thread of torch's (GNU OpenMP) waits busily for the others before it sleeps, read when torch is loaded. By
# default it is milliseconds: while another process has one of the cores, the waiting keeps our own threads from theirs.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_NAMES = {
    "Interval": "prefloop.api.results",
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
