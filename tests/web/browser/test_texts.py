"""A browser lays out texts in any script and with formulas as it should."""

from __future__ import annotations

from typing import Any

import pytest
from browsing import press

from prefloop.types import Completion, Item, Message, Prompt

pytestmark = pytest.mark.slow

ARABIC = "مرحبا بالعالم\n\n- بند\n- English\n\n> اقتباس\n\n| عمود | b |\n|-|-|\n| س | d |\n\n```\nx = 1  # تعليق\n```"
HEBREW = "שלום עולם, Hello.\n\nEnglish paragraph.\n\n$x$ הוא משתנה"
FORMULAS = r"Money: $5 and $10. $\frac{a_1}{b*c*d}$ and \[ \sum_{i=1}^n x_i \] and $\unknown{x}$"
# It says which way each element's one line runs: from where it begins.
SIDES = """(selector) => [...document.querySelectorAll(selector)].map((node) => {
  const range = document.createRange();
  range.selectNodeContents(node);
  const [text, box] = [range.getBoundingClientRect(), node.getBoundingClientRect()];
  return box.right - text.right < text.left - box.left ? "from the right" : "from the left";
})"""


@pytest.fixture
def page(make_site: Any) -> Any:
    answers = tuple(Completion(f"t:c{n}", text) for n, text in enumerate((ARABIC, HEBREW, FORMULAS)))
    asked = (Message("user", "ما هي العاصمة؟"), Message("assistant", "Paris."), Message("user", "למה?"))
    return make_site([Item("t", Prompt(asked), answers)]).rank("Ada")


def card(page: Any, text: str) -> str:
    """Return the selector of the card with that text, because the order is another one each time."""
    return f"#{page.locator('.card', has_text=text).first.get_attribute('id')}"


def test_every_paragraph_runs_in_its_own_direction(page: Any) -> None:
    arabic, hebrew = card(page, "مرحبا"), card(page, "שלום")
    for selector, expected in (
        (f"{arabic} .rendered > p", ["from the right"]),
        (f"{arabic} li", ["from the right", "from the left"]),
        (f"{arabic} .rendered blockquote p", ["from the right"]),
        (f"{arabic} pre code", ["from the left"]),
        (f"{hebrew} .rendered > p", ["from the right", "from the left", "from the right"]),
    ):
        assert page.evaluate(SIDES, selector)[: len(expected)] == expected, selector
    directions = "(s) => [...document.querySelectorAll(s)].map((node) => getComputedStyle(node).direction)"
    blocks = f"{arabic} .rendered > :is(ul, blockquote, table)"
    assert page.evaluate(directions, blocks) == ["rtl"] * 3, "bullets, bars and columns are on the right"
    assert page.evaluate(directions, ".turn .rendered > p") == ["rtl", "ltr", "rtl"]
    press(page, "m")
    assert page.evaluate(directions, f"{arabic} .raw") == ["rtl"]
    press(page, "m", "c")
    page.keyboard.type("תשובה")
    assert page.evaluate("document.activeElement.matches(':dir(rtl)')")


def test_formulas_are_typeset_and_show_each_source_once(page: Any) -> None:
    shown = card(page, "Money")
    assert "$5 and $10" in page.inner_text(f"{shown} .rendered")
    assert r"$\unknown{x}$" in page.inner_text(f"{shown} .rendered")
    assert page.locator(f"{shown} math").count() == 2
    assert page.locator(f"{shown} annotation:visible").count() == 0
    fraction = page.locator(f"{shown} mfrac").bounding_box()
    assert fraction["height"] > 25, "a fraction is two lines high"
    parts = page.locator(f"{shown} mfrac > mrow")
    assert parts.nth(0).bounding_box()["y"] < parts.nth(1).bounding_box()["y"]


def test_a_formula_wider_than_its_card_scrolls_by_keyboard(make_site: Any) -> None:
    wide = r"\[ " + " + ".join(f"x_{n}" for n in range(60)) + r" \]"
    answers = (Completion("w:c0", wide), Completion("w:c1", "$$x$$"))
    site = make_site([Item("w", Prompt("Add."), answers)], overlap=2)
    review = site.page("Rita")
    review.goto(f"{site.url}/review/items/{next(iter(site.server.store.items())).id}")
    for page in (site.rank("Ada"), review):
        page.wait_for_selector("math[tabindex='0']")
        assert page.locator("math").count() == 2
        assert page.locator("math[tabindex='0']").count() == 1
