"""The scripts without a page are right about states, keys and shared words. They run in the browser itself."""

from __future__ import annotations

import random
from typing import Any

import pytest
from browsing import an_item, press

pytestmark = pytest.mark.slow

WALK = """async ([cards, steps]) => {
  const S = await import("/static/rank_state.js");
  let state = S.blank(cards);
  const seen = [];
  for (const [name, ...values] of steps) {
    state = S[name](state, ...values);
    seen.push([state, S.tiers(state), state.slots.map((_, i) => S.rankOf(state, i)), S.missing(state, false)]);
  }
  return seen;
}"""
DIFF = """async ([pairs]) => {
  const {diff} = await import("/static/rank_diff.js");
  return pairs.map(([a, b]) => diff(a, b));
}"""
KEYS = """async ([presses]) => {
  const {actionOf} = await import("/static/rank_keys.js");
  return presses.map(([init, options]) => {
    const event = new KeyboardEvent("keydown", init);
    Object.defineProperty(event, "target", {value: document.body});
    return actionOf(event, options);
  });
}"""


@pytest.fixture
def page(make_site: Any) -> Any:
    site = make_site([])
    page = site.page("Ada")
    page.goto(f"{site.url}/history")
    return page


def test_whatever_is_pressed_the_state_stays_a_ranking(page: Any) -> None:
    """Random walks: tiers are dense and name each placed card once, and nothing but a placing step loses a card."""
    draw = random.Random(5)
    for cards in (2, 3, 4, 9):
        steps = []
        for _ in range(300):
            card = draw.randrange(cards)
            steps.append(
                draw.choice(
                    [
                        ["place", card, draw.randint(1, cards)],
                        ["move", card, draw.choice([-1, 1])],
                        ["tie", card],
                        ["insert", card, draw.randint(1, cards + 1)],
                        ["unplace", card],
                        ["toggleBad", card],
                    ]
                )
            )
        for step, (state, tiers, ranks, missing) in zip(steps, page.evaluate(WALK, [cards, steps]), strict=True):
            placed = [card for tier in tiers for card in tier]
            assert sorted(placed) == [card for card in range(cards) if state["slots"][card]], step
            assert all(tiers) and all(0 <= slot <= cards for slot in state["slots"]), step
            assert [next((n + 1 for n, t in enumerate(tiers) if card in t), 0) for card in range(cards)] == ranks
            # fmt: skip
            assert missing == (
                []
                if state["none"] and not placed
                else [card for card in range(cards) if card not in placed and card not in state["bad"]]
            )


@pytest.mark.parametrize(
    ("steps", "tiers"),
    [
        ([["place", 0, 2], ["place", 1, 1], ["place", 2, 2]], [[1], [0, 2]]),
        ([["place", 0, 3], ["place", 1, 3]], [[0, 1]]),
        ([["place", 0, 1], ["place", 1, 2], ["insert", 2, 2]], [[0], [2], [1]]),
        ([["place", 0, 1], ["place", 1, 2], ["insert", 2, 1]], [[2], [0], [1]]),
        ([["place", 0, 1], ["place", 1, 2], ["insert", 2, 4]], [[0], [1], [2]]),
        ([["place", 0, 1], ["place", 1, 2], ["place", 2, 3], ["move", 2, -1]], [[0], [1, 2]]),
        ([["place", 0, 1], ["place", 1, 2], ["place", 2, 3], ["move", 2, -1], ["move", 2, -1]], [[0], [2], [1]]),
        ([["place", 0, 1], ["place", 1, 1], ["move", 0, -1]], [[0], [1]]),
        ([["place", 0, 1], ["move", 0, -1]], [[0]]),
        ([["place", 0, 1], ["place", 1, 2], ["tie", 2]], [[0], [1, 2]]),
        ([["place", 0, 1], ["place", 1, 2], ["tie", 1]], [[0, 1]]),
        ([["tie", 1]], []),
    ],
)
def test_what_a_step_means(page: Any, steps: Any, tiers: Any) -> None:
    assert page.evaluate(WALK, [3, steps])[-1][1] == tiers


def test_a_diff_gives_both_texts_back_and_marks_no_more_than_it_must(page: Any) -> None:
    draw = random.Random(7)
    vocabulary = ["the ", "cat ", "sat", "\n", ", ", "on ", "a ", "Ünï ", "😀", "mat."]
    texts = ["".join(draw.choices(vocabulary, k=draw.randint(0, 40))) for _ in range(120)]
    pairs = [[a, b] for a, b in zip(texts[::2], texts[1::2], strict=True)] + [
        ["", ""],
        ["a", ""],
        ["", "b"],
        ["a", "a"],
    ]
    for (a, b), runs in zip(pairs, page.evaluate(DIFF, [pairs]), strict=True):
        assert "".join(text for kind, text in runs if kind != "+") == a
        assert "".join(text for kind, text in runs if kind != "-") == b
        if a == b:
            assert [kind for kind, _ in runs] == (["="] if a else [])
    one, other = page.evaluate(DIFF, [[["a b c d", "a c d e"], ["x " * 40000, "y " * 40000]]])
    assert sum(len(text.split()) for kind, text in one if kind == "=") == 3
    assert other is None, "texts without anything in common are not searched forever"


def test_keys_mean_the_same_on_other_keyboards(page: Any) -> None:
    on, off, pair = {"single": True}, {"single": False}, {"single": True, "pair": True}
    presses: list[tuple[dict[str, Any], dict[str, Any], Any]] = [
        ({"key": "3", "code": "Digit3"}, on, ["place", 3]),
        ({"key": "&", "code": "Digit1"}, on, ["place", 1]),  # French
        ({"key": "1", "code": "Digit1", "shiftKey": True}, on, ["place", 1]),  # French, with Shift
        ({"key": "!", "code": "Digit1", "shiftKey": True}, on, None),
        ({"key": "0", "code": "Digit0"}, on, ["none"]),
        ({"key": "ы", "code": "KeyS"}, on, ["skip"]),  # Russian
        ({"key": "[", "code": "Digit8", "ctrlKey": True, "altKey": True}, on, ["better"]),  # German: AltGr
        ({"key": "=", "code": "Digit0", "shiftKey": True}, on, ["tie"]),  # German
        ({"key": "q", "code": "KeyA"}, on, ["rate", 1, 0]),
        ({"key": "T", "code": "KeyT", "shiftKey": True}, on, ["rate", 5, 1]),
        ({"key": "X", "code": "KeyX", "shiftKey": True}, on, None),
        ({"key": "s", "code": "KeyS", "ctrlKey": True}, off, ["draft"]),
        ({"key": "z", "code": "KeyZ", "metaKey": True}, off, ["undo"]),
        ({"key": "c", "code": "KeyC", "ctrlKey": True}, on, None),  # Copying belongs to the browser.
        ({"key": "3", "code": "Digit3"}, off, None),
        ({"key": "s", "code": "KeyS"}, off, None),
        ({"key": "=", "code": "Equal"}, off, None),
        ({"key": "Enter", "code": "Enter"}, off, ["submit"]),
        ({"key": "Backspace", "code": "Backspace"}, off, ["unplace"]),
        ({"key": "ArrowUp", "code": "ArrowUp", "altKey": True}, off, ["better"]),
        ({"key": "ArrowLeft", "code": "ArrowLeft"}, pair, ["pair", 0, False]),
        ({"key": "ArrowRight", "code": "ArrowRight", "shiftKey": True}, pair, ["pair", 1, True]),
        ({"key": "ArrowLeft", "code": "ArrowLeft"}, on, None),
        ({"key": "Tab", "code": "Tab"}, on, None),
        ({"key": "σ", "code": "KeyS"}, on, ["skip"]),  # Greek
        ({"key": ";", "code": "KeyQ"}, on, ["rate", 1, 0]),  # On a Greek keyboard a letter's place prints a sign.
        ({"key": "ς", "code": "KeyW"}, on, ["rate", 2, 0]),
        ({"key": "/", "code": "KeyQ"}, on, ["rate", 1, 0]),  # Hebrew
        ({"key": "/", "code": "Slash"}, on, None),
        ({"key": "ש", "code": "KeyA"}, on, None),
        ({"key": "س", "code": "KeyS"}, on, ["skip"]),  # Arabic
        ({"key": "٣", "code": "Digit3"}, on, ["place", 3]),
        ({"key": "z", "code": "KeyY", "ctrlKey": True}, on, ["undo"]),  # German
        ({"key": "ü", "code": "BracketLeft"}, on, ["better"]),
        ({"key": "Dead", "code": "BracketLeft"}, on, ["better"]),  # French: ^
        ({"key": "х", "code": "BracketLeft"}, on, ["better"]),  # Russian
        ({"key": "Ü", "code": "BracketLeft", "shiftKey": True}, on, None),
        ({"key": "à", "code": "Digit0"}, on, ["none"]),  # French
        ({"key": "m", "code": "Semicolon"}, on, ["raw"]),
        ({"key": ",", "code": "KeyM"}, on, None),
        ({"key": "+", "code": "Equal", "shiftKey": True}, on, None),
        # An input method is composing: what Enter and the letters do belongs to the word.
        ({"key": "Enter", "code": "Enter", "isComposing": True}, on, None),
        ({"key": "Process", "code": "KeyS", "keyCode": 229}, on, None),
        ({"key": "Enter", "code": "Enter", "ctrlKey": True, "keyCode": 229}, on, None),
        ({"key": "Escape", "code": "Escape", "isComposing": True}, on, None),
    ]
    found = page.evaluate(KEYS, [[[init, options] for init, options, _ in presses]])
    assert found == [expected for _, _, expected in presses]


def test_french_digits_choose_in_dialogs_and_a_composed_word_ends_nothing(make_site: Any) -> None:
    page = make_site([an_item("a", 3)]).rank("Ada")
    press(page, "f")
    page.evaluate(
        """() => document.activeElement.dispatchEvent(
            new KeyboardEvent("keydown", {key: "é", code: "Digit2", bubbles: true, cancelable: true}))"""
    )
    assert page.locator("#flags [aria-pressed=true]").get_attribute("data-value") == "unsafe"
    press(page, "Enter", "c")
    session = page.context.new_cdp_session(page)
    session.send("Input.imeSetComposition", {"text": "にほん", "selectionStart": 3, "selectionEnd": 3})
    for key in ("Enter", "Escape"):
        session.send(
            "Input.dispatchKeyEvent",
            {"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": 229, "modifiers": 2},
        )
    session.send("Input.insertText", {"text": "日本"})
    assert page.input_value("#comment") == "日本"
    assert page.evaluate("document.activeElement.id") == "comment", "Escape was the input method's"
    assert "still without a place" not in page.inner_text("#said"), "Enter was the input method's"
