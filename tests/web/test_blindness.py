"""What annotators receive tells nothing: no model, version, score, gold, ids, others' answers, or original order."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefloop.labels.answer import Answer
from prefloop.types import Completion, Item, Prompt, Ranking

SECRETS = ("secret-model", "policy-v7", "sampler-setting", "tok-finger", "hidden-note", "item-name", "prompt-note")
UUID = "00000000-0000-4000-8000-{:012d}"


def secretive(n: int, count: int = 4) -> Item:
    """Return an item where everything that could leak has a name to search for; only the texts are for annotators."""
    name = f"item-name-{n}"
    answers = tuple(
        Completion(
            f"{name}:c{i}",
            f"Answer text {i} of {n}.",
            model=f"secret-model-{i}",
            policy_version=f"policy-v7-{i}",
            token_ids=(911191119, 922292229),
            logprobs=(-0.123456789, -0.654321),
            finish_reason="length",
            sampling={"temperature": 0.777123777, "note": "sampler-setting"},
            tokenizer="tok-finger",
            metadata={"reward": 3.141592653, "note": "hidden-note"},
        )
        for i in range(count)
    )
    ids = tuple(answer.id for answer in answers)
    said = Ranking(
        name, "crowd-annotator", "quality", (ids[:1], ids[1:]), comment="crowd comment", shown=ids, simulated=True
    )
    prompt = Prompt(f"Question text {n}?", metadata={"note": "prompt-note"})
    return Item(name, prompt, answers, rankings=(said,), external_id=f"item-name-x-{n}", round=3, source="sample")


@pytest.fixture
def site(make_server: Callable[..., Any]) -> Any:
    server = make_server(overlap=3, overlap_share=0.0, gold_share=0.4, attributes=("helpful",))
    server.store.add([secretive(n) for n in range(12)])
    server.queue.fill()
    for item in list(server.store.items())[:4]:
        server.queue.set_gold(None, item.id, [[item.completions[0].id], [item.completions[1].id]])
    server.queue.set_priorities({f"item-name-{n}": 0.812581258 + n for n in range(12)})
    return server


def everything(server: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every answer that an annotator gets in a day: (which, response)."""
    server.join("annotator", name)
    browser = server.browser(name)
    for path in ("/", "/rank", "/guidelines", "/history", "/account"):
        yield path, browser.get(path)
    for n in range(10):
        shown = browser.post("/rank/next", json={})
        yield "next", shown
        lease = re.search(r'data-lease="([^"]+)"', shown.text)
        if not lease:
            break
        base = f"/rank/{lease.group(1)}"
        answer = Answer(((0,), (1, 2), (3,)), comment=f"said by {name}").to_json()
        yield "ahead", browser.post("/rank/next", json={"after": lease.group(1)})
        yield "draft", browser.post(f"{base}/draft", json={"state": {"lease": lease.group(1), "at": 1}})
        yield "drafted", browser.post("/rank/next", json={})
        yield "heartbeat", browser.post(f"{base}/heartbeat", json={})
        body = {"uuid": UUID.format(n), "answer": answer}
        yield "bad", browser.post(f"{base}/submit", json={**body, "answer": {"tiers": [[0]]}})
        if n == 3:
            yield "skip", browser.post(f"{base}/skip", json={"uuid": UUID.format(n), "reason": "unclear"})
            continue
        yield "submit", browser.post(f"{base}/submit", json=body)
        yield "again", browser.post(f"{base}/submit", json=body)
        yield "conflict", browser.post(f"{base}/submit", json={**body, "answer": {**answer, "comment": "other"}})
        yield "reopen", browser.post(f"{base}/reopen", json={})
    browser.headers["accept"] = "application/json"
    yield "foreign", browser.post("/rank/nobody/reopen", json={})
    yield "foreign", browser.get("/review")
    yield "given", browser.post("/rank/given", json={})
    browser.headers["accept"] = "text/html"
    yield "history", browser.get("/history")


def text_of(response: Any) -> str:
    """Return body and headers, without the page's own address."""
    headers = {k: v for k, v in response.headers.items() if k not in ("content-security-policy", "date")}
    return str(response.text) + json.dumps(headers)


def test_no_answer_to_an_annotator_holds_anything_but_the_texts(site: Any) -> None:
    seen: dict[str, set[int]] = {}
    got: list[tuple[str, str, str]] = []
    for who in ("Ada", "Ben"):
        for which, response in everything(site, who):
            seen.setdefault(which, set()).add(response.status_code)
            got.append((who, which, text_of(response)))
    items = list(site.store.items())
    secret = [
        *SECRETS,
        "crowd-annotator",
        "crowd comment",
        "911191119",
        "0.123456789",
        "0.777123777",
        "3.141592653",
        "0.812581258",
    ]
    secret += [item.prompt.id for item in items]
    secret += [ranking.id for item in items for ranking in item.rankings]
    for who, which, text in got:
        others = "said by Ben" if who == "Ada" else "said by Ada"
        assert [s for s in (*secret, others) if s in text] == [], which
    assert seen["next"] == seen["submit"] == seen["reopen"] == {200}
    assert (seen["bad"], seen["conflict"]) == ({422}, {409})


def test_the_names_of_fields_say_nothing_either(site: Any) -> None:
    """JSON keys and data attributes are a fixed list: a person looks at a new one first."""
    attributes, keys = set(), set()
    for _, response in everything(site, "Ada"):
        if "json" in response.headers.get("content-type", ""):
            keys |= set(_keys(response.json()))
        else:
            attributes |= set(re.findall(r"\b(data-[a-z-]+)=", response.text))
            for data in re.findall(r'data-(?:answer|draft|progress)="([^"]*)"', response.text):
                keys |= set(_keys(json.loads(data.replace("&#34;", '"')))) if data else set()
    # fmt: skip
    assert keys == {
        "seconds",
        "saved",
        "progress",
        "done",
        "limit",
        "open",
        "per_hour",
        "seconds_per_word",
        "leases",
        "error",
        "tiers",
        "unacceptable",
        "none_acceptable",
        "ratings",
        "flags",
        "comment",
        "lease",
        "at",
    }
    # fmt: skip
    assert attributes <= {
        "data-asked",
        "data-act",
        "data-after",
        "data-answer",
        "data-base",
        "data-card",
        "data-cards",
        "data-count",
        "data-drag",
        "data-draft",
        "data-edge",
        "data-given",
        "data-lease",
        "data-mode",
        "data-needed",
        "data-next",
        "data-open",
        "data-person",
        "data-position",
        "data-progress",
        "data-role",
        "data-row",
        "data-rules",
        "data-seconds",
        "data-size",
        "data-theme",
        "data-theme-form",
        "data-value",
        "data-words",
    }


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _keys(inner)
    if isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


def test_gold_looks_like_any_other_item(site: Any) -> None:
    """The page is the same but for texts, lease, position and numbers, so that structure does not tell."""
    site.join("annotator", "Ada")
    browser = site.browser("Ada")
    golds = {item for item, _ in site.queue.golds()}
    shapes: dict[bool, set[str]] = {True: set(), False: set()}
    for n in range(10):
        page = browser.post("/rank/next", json={}).text
        lease = re.search(r'data-lease="([^"]+)"', page)
        assert lease
        number = re.search(r"Question text (\d+)\?", page)
        assert number
        varying = r'(data-(?:lease|seconds|position|progress|words)="[^"]*")|(text \d+( of \d+)?)'
        shapes[f"item-name-{number.group(1)}" in golds].add(re.sub(varying, "", page))
        answer = Answer(((0,), (1,), (2,), (3,))).to_json()
        browser.post(f"/rank/{lease.group(1)}/submit", json={"uuid": UUID.format(n), "answer": answer})
    assert shapes[True] and shapes[False], "both kinds were handed out"
    assert shapes[True] == shapes[False]


def test_the_order_of_the_letters_is_not_that_of_the_list(site: Any) -> None:
    """Over two people and their items every original place comes first about equally often; the same never does."""
    first: list[str] = []
    for who in ("Ada", "Ben", "Cleo"):
        site.join("annotator", who)
        browser = site.browser(who)
        for n in range(10):
            page = browser.post("/rank/next", json={}).text
            lease = re.search(r'data-lease="([^"]+)"', page)
            if not lease:
                break
            first += re.findall(r"Answer text (\d) of", page)[:1]
            body = {"uuid": UUID.format(n), "answer": Answer(((0,), (1,), (2,), (3,))).to_json()}
            browser.post(f"/rank/{lease.group(1)}/submit", json=body)
    assert len(first) >= 24
    assert set(first) == set("0123")
    assert max(first.count(c) for c in "0123") <= 0.6 * len(first)


def test_a_surplus_answer_is_thanked_for_like_any_other(make_server: Callable[..., Any]) -> None:
    """Whether others have answered meanwhile is nobody's business."""
    server = make_server(overlap=1, overlap_share=0.0, gold_share=0.0)
    server.store.add([secretive(0), secretive(1)])
    server.queue.fill()
    receipts = []
    leases = []
    for who in ("Ada", "Ben"):
        server.join("annotator", who)
        page = server.browser(who).post("/rank/next", json={}).text
        leases.append(re.search(r'data-lease="([^"]+)"', page).group(1))  # type: ignore[union-attr]
    for who, lease in zip(("Ada", "Ben"), leases, strict=True):
        body = {"uuid": UUID.format(1), "answer": Answer(((0,), (1,), (2,), (3,))).to_json()}
        receipts.append(sorted(_keys(server.browser(who).post(f"/rank/{lease}/submit", json=body).json())))
    assert receipts[0] == receipts[1]
