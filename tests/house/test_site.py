"""The site of `make docs` is whole, and no page of it asks another server for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_site_has_every_page_and_no_link_that_leads_nowhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed: pip install 'prefloop[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in (ROOT / "docs").rglob("*.md"):
        inside = page.relative_to(ROOT / "docs").with_suffix("")
        assert (tmp_path / ("" if inside.name == "index" else inside) / "index.html").is_file(), page
    reference = (tmp_path / "reference" / "index.html").read_text(encoding="utf-8")
    assert "annotate_with" in reference and "Make an algorithm of your own known" in reference
    for page in tmp_path.rglob("*.html"):
        asked = re.findall(r'<(?:script|img|iframe)[^>]* src="(https?:[^"]*)"', page.read_text(encoding="utf-8"))
        asked += re.findall(r'<link[^>]*rel="stylesheet"[^>]*href="(https?:[^"]*)"', page.read_text(encoding="utf-8"))
        assert not asked, page
