"""Takes the pictures of the README from a finished demo: the screen on which people rank, and the report.

    prefloop demo --seed 0 --out demo
    python examples/screenshots.py demo docs/images

It needs Chromium and the extras [web] and [test]. The demo's folder stays as it is: people rank in a copy.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
COLOURS = 64  # A palette of so many colours keeps a picture of text small.
PASSWORD = "correct horse battery"


def main(demo: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 760})
        page.goto((demo / "report.html").absolute().as_uri())
        save(page, out / "report.png")
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "demo"
            shutil.copytree(demo, copy, ignore=shutil.ignore_patterns("runs", "imitation", "dpo"))
            ranking(page, copy, out / "ranking.png")
        browser.close()


def ranking(page: Any, project: Path, file: Path) -> None:
    """Let the owner join, open the first list and place three of its four answers, two of them equal."""
    command = [sys.executable, "-m", "prefloop", "annotate", "-C", str(project), "--port", "0", "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        told = json.loads(server.stdout.readline())
        page.goto(told["owner_link"])
        page.fill("input[name=name]", "Ada")
        page.fill("input[name=password]", PASSWORD)
        page.fill("input[name=again]", PASSWORD)
        page.press("input[name=again]", "Enter")
        page.wait_for_url(lambda url: "/join/" not in url)
        page.goto(f"{told['address']}/rank")
        page.wait_for_selector("#task")
        for key in ("1", "2", "2"):  # Each key is the place of the answer that has the focus; the next one gets it.
            page.keyboard.press(key)
            page.wait_for_timeout(400)
        save(page, file)
    finally:
        server.terminate()
        server.wait()


def save(page: Any, file: Path) -> None:
    page.wait_for_timeout(500)
    page.screenshot(path=str(file))
    with Image.open(file) as picture:
        picture.convert("RGB").quantize(COLOURS).save(file, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
