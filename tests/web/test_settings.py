"""The owner changes how people are asked while the server runs: settings, guidelines, files of items."""

from __future__ import annotations

import gzip
import html
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from prefloop.config import Annotate
from prefloop.store import Queue
from prefloop.web import uploading

from .conftest import an_item

PAIR = [{"id": "a", "text": "Because."}, {"id": "b", "text": "Why not?"}]


@pytest.fixture
def site(make_server: Callable[..., Any]) -> Any:
    server = make_server(overlap_share=0.0, gold_share=0.0)
    server.store.add([an_item(f"i{n}") for n in range(3)])
    server.queue.fill()
    for role, name in (("owner", "Olga"), ("annotator", "Ada")):
        server.join(role, name)
    (server.app.state.services.root / "guidelines.md").write_text("# Be fair\n\nTies are fine.\n")
    return server


def words(page: Any, status: int = 200) -> str:
    assert page.status_code == status, page.text
    return html.unescape(" ".join(re.sub(r"<[^>]+>", " ", page.text.partition("<main")[2]).split()))


def form(page: Any) -> dict[str, str]:
    """Return what a browser would send of the settings form, untouched."""
    part = page.text.partition('action="/settings/rules"')[2].partition("</form>")[0]
    found = dict(re.findall(r'<input id="(\w+)" name="\w+" value="([^"]*)"', part))
    found |= {name: "on" for name, rest in re.findall(r'type="checkbox" id="(\w+)"([^>]*)', part) if "checked" in rest}
    chosen = re.search(r'<select id="rationale".*?<option selected>(\w+)', part, re.DOTALL)
    assert chosen is not None
    return {**found, "rationale": chosen.group(1)}


def test_a_setting_changed_in_the_browser_counts_at_once_and_is_logged(site: Any) -> None:
    olga, ada = site.browser("Olga"), site.browser("Ada")
    page = olga.get("/settings")
    sent = form(page)
    assert "Nothing differs from before." in words(olga.post("/settings/rules", data=sent)), sent
    sent |= {"attributes": "clear, kind", "overlap": "2", "limit": "2", "rationale": "required"}
    said = words(olga.post("/settings/rules", data=sent))
    assert "Changed: attributes, rationale, overlap, limit." in said
    assert "Changed in the browser 1 minute ago by Olga; prefloop.toml says none." in said
    assert [row.wanted for row in site.queue.browse()] == [2, 2, 2]
    item = ada.post("/rank/next", json={}).text
    assert "clear of A, 1 to 5" in item and "kind of A" in item
    assert Queue(site.store, Annotate(overlap_share=0.0, gold_share=0.0)).rules.current().limit == 2
    log = words(olga.get("/audit"))
    assert "limit: none → 2" in log and 'attributes: [] → ["clear", "kind"]' in log
    assert olga.post("/settings/rules/limit/reset").status_code == 303
    assert site.queue.rules.current().limit is None
    assert "limit: 2 → none" in words(olga.get("/audit"))


def test_what_a_setting_means_is_said_for_a_form(site: Any) -> None:
    shown = site.browser("Olga").get("/settings").text
    assert "the most items that a person may rank; empty = no limit" in shown
    assert "rankings that <code>run</code> waits for" in shown and "`" not in shown


def test_what_cannot_be_is_said_and_changes_nothing(site: Any) -> None:
    olga = site.browser("Olga")
    sent = form(olga.get("/settings"))
    for key, value in {"overlap": "0", "limit": "many", "gold_share": "7", "attributes": "a, b, c"}.items():
        said = words(olga.post("/settings/rules", data={**sent, "partial": "on", key: value}), 422)
        assert f"Nothing was changed. {key}" in said
    assert not site.queue.rules.current(look=True).partial
    assert olga.post("/settings/rules/criterion/reset").status_code == 422


def test_people_are_told_once_that_the_guidelines_changed_and_see_what(site: Any) -> None:
    olga, ada = site.browser("Olga"), site.browser("Ada")
    notice = "The guidelines have changed."
    ada.post("/rank/next", json={})  # The guide stood open beside the first item.
    assert notice not in ada.get("/").text
    editing = re.search(r'name="editing" value="(\w+)"', olga.get("/settings/guidelines").text)
    assert editing is not None
    sent = {"text": "# Be fair\r\n\r\nTies are rare. <script>x</script>\r\n", "editing": editing.group(1)}
    preview = olga.post("/settings/guidelines", data={**sent, "act": "preview"})
    assert "Ties are rare" in preview.text and "<script>x" not in preview.text
    assert "Ties are fine." in words(ada.get("/guidelines")), "a preview changes nothing"
    saved = olga.post("/settings/guidelines", data={**sent, "act": "save"})
    assert "Saved." in words(saved) and notice not in saved.text, "whoever wrote them knows them"
    assert notice in ada.get("/rank").text and notice in ada.get("/").text
    page = words(ada.get("/guidelines"))
    assert "Removed: Ties are fine." in page and "New: Ties are rare." in page
    assert ada.post("/guidelines/read", data={"back": "/rank"}).headers["location"] == "/rank"
    assert notice not in ada.get("/rank").text
    assert "Ties are rare." in words(ada.get("/guidelines")) and "Removed" not in words(ada.get("/guidelines"))
    assert "guidelines change 1" in words(olga.get("/audit"))
    late = olga.post("/settings/guidelines", data={**sent, "text": "mine", "act": "save"})
    assert "somebody has changed the guidelines while you edited" in words(late, 422) and "mine" in late.text
    assert olga.post("/settings/guidelines/file").status_code == 303
    assert "Ties are fine." in words(ada.get("/guidelines"))


def test_somebody_new_is_not_told_that_what_they_never_read_has_changed(site: Any) -> None:
    (site.app.state.services.root / "guidelines.md").write_text("# Other\n")
    assert "have changed" not in site.browser("Ada").get("/").text


def upload(browser: Any, body: bytes, name: str = "items.jsonl", **more: str) -> Any:
    return browser.post("/settings/items", files={"file": (name, body)}, data=more)


def lines(*records: object) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def test_a_file_of_items_is_added_and_its_bad_rows_are_named(site: Any) -> None:
    olga = site.browser("Olga")
    good = [{"id": f"new{n}", "prompt": f"Why {n}?", "completions": PAIR} for n in range(3)]
    body = (
        lines(good[0], {"id": "bad", "prompt": "no answers?", "completions": 7}, good[1])
        + b"{broken\n"
        + lines(good[2])
    )
    said = words(upload(olga, body))
    assert "3 records read as rankings. New: 3 items, 6 answers" in said
    assert "People are asked to rank 3 of them." in said
    assert "2 rows could not be used" in said and "row 2:" in said and "row 4:" in said
    assert site.queue.quota().tasks == 6
    assert "Everything was there before" in words(upload(olga, gzip.compress(body), "again.jsonl.gz"))
    assert site.queue.quota().tasks == 6
    assert "items added" in words(olga.get("/audit"))
    assert [one.name for one in site.store.imports()] == ["items.jsonl", "again.jsonl.gz"]


def test_a_file_that_nobody_can_use_is_refused_and_adds_nothing(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    olga = site.browser("Olga")
    before = site.store.counts()
    assert "cannot tell what the file is" in words(upload(olga, lines({"colour": "red"})), 422)
    assert "holds something" in words(upload(olga, b""), 422)
    labelled = lines({"prompt": "Why?", "completions": PAIR, "helpful_label": 1})
    assert "helpful_label" in words(upload(olga, labelled), 422)
    bomb = gzip.compress(b"[" * 100_000_000)
    assert len(bomb) < 1_000_000
    assert upload(olga, bomb, "bomb.json.gz").status_code == 422
    assert site.store.counts() == before
    assert "1 record read as rankings" in words(upload(olga, labelled, ignore="helpful_label"))
    monkeypatch.setattr(uploading, "MOST_BYTES", 10)
    assert "larger than" in words(upload(olga, labelled), 422)
