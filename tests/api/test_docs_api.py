"""docs/api.md and examples/loop.ipynb run as they are printed."""

from __future__ import annotations

import json
import linecache
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "api.md"
COLOURS = ("red", "blue", "green", "black")
THINGS = ("cat", "hat", "box", "cup", "key", "bag", "car", "pen", "map", "fan")


def test_the_examples_of_the_page_run_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"Say {c} {t}.", "completion": f"The {t} is {c}."} for c in COLOURS for t in THINGS]
    Path("demonstrations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 11
    names: dict[str, object] = {"__name__": "example"}
    for number, block in enumerate(blocks):
        name = f"<block {number} of api.md>"
        linecache.cache[name] = (len(block), None, block.splitlines(True), name)  # inspect.getsource needs it.
        exec(compile(block, name, "exec", dont_inherit=True), names)
    assert Path("support/report.html").is_file() and Path("aligned/config.json").is_file()


def test_the_notebook_was_run_from_top_to_bottom_and_names_no_place_of_a_machine() -> None:
    """`make notebook` runs it again; that takes minutes, so here it is only read."""
    cells = json.loads((ROOT / "examples" / "loop.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert len(outputs) >= len(code) - 1 and {output["output_type"] for output in outputs} == {"stream"}
    text = "".join("".join(output["text"]) for output in outputs)
    assert len(text) < 4000 and not re.search(r"(?<!\w)/\w+/", text)
    for cell in code:
        compile("".join(cell["source"]), "<cell>", "exec")
