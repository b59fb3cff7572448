"""Run a notebook again and keep what it prints; `make notebook` does it for examples/loop.ipynb.

    python examples/run_notebook.py examples/loop.ipynb

It runs in a folder of its own that is removed afterwards. What differs from run to run for no reason is taken out.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient


def execute(path: Path, seconds: int = 900) -> Any:
    """Return the notebook with the outputs of this run."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook, timeout=seconds, kernel_name="python3", resources={"metadata": {"path": folder}}
        ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # It holds when each cell ran.
        if "outputs" in cell:  # Warnings name places on this machine.
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return notebook


if __name__ == "__main__":
    file = Path(sys.argv[1])
    nbformat.write(execute(file), file)
