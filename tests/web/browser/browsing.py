"""Does what people do at the screen, in the words of a test."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from prefloop.types import Completion, Item, Message, Prompt

SENTENCE = "The **capital** of France is Paris, on the *Seine*. "
CHAT = (Message("user", "What is the capital of France?"), Message("assistant", "Paris."), Message("user", "Why?"))


def an_item(name: str, count: int, length: int = 1, chat: bool = False) -> Item:
    """Return answers that begin with their own local ids, so that a test knows what it ranks; c0 is the shortest."""
    texts = [f"c{i} of {name}. " + SENTENCE * (length + i) for i in range(count)]
    answers = tuple(Completion(f"{name}:c{i}", text, model=f"secret-{i}") for i, text in enumerate(texts))
    return Item(name, Prompt(CHAT if chat else f"Question {name}?", system="Be brief." if chat else None), answers)


def local(page: Any) -> list[str]:
    """Return the local ids of the answers on the screen, by position."""
    return [text[:2] for text in page.locator(".card .rendered").all_inner_texts()]


def tiers(ranking: Any) -> list[list[str]]:
    """Return local ids, best first."""
    return [sorted(id.split(":")[1] for id in tier) for tier in ranking.tiers]


def until(condition: Callable[[], Any], page: Any = None, seconds: float = 20) -> Any:
    """Return what `condition` gives as soon as it is true of something.

    With a page, its routes are answered meanwhile.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        page.wait_for_timeout(20) if page else time.sleep(0.02)
    return found


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def lease(page: Any) -> str:
    """Return which presentation is on the screen; "" for none."""
    return str(page.evaluate("document.querySelector('#task')?.dataset.lease ?? ''"))


def submitted(page: Any, *keys: str) -> None:
    """Press keys until the item is gone: each Enter that is refused for an unseen text shows that text."""
    before = lease(page)
    press(page, *keys)
    gone(page, before, lambda: press(page, "Enter"))


_SENT_OR_STOPPED = """before => document.querySelector("#task")?.dataset.lease !== before ||
    document.querySelector("#said").dataset.kind === "stop" """


def gone(page: Any, before: str, submit: Callable[[], Any]) -> None:
    """Submit until the item of that lease is gone and the next thing is there."""
    for _ in range(20):
        submit()
        page.wait_for_function(_SENT_OR_STOPPED, arg=before)
        if lease(page) != before:
            page.wait_for_selector("#task, #done")
            return
        page.wait_for_timeout(100)  # The text that was shown must have been on the screen.
    raise AssertionError(f"not submitted: {page.locator('#said').inner_text()}")


def next_ready(page: Any) -> None:
    """Wait until nothing is on its way: answers are with the server, the item after this one is here."""
    page.wait_for_load_state("networkidle")
