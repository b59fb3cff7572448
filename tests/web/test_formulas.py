"""Formulas survive Markdown to the last backslash, are typeset where nothing gets lost, and bound what they cost."""

from __future__ import annotations

import re
import time
from html import unescape

import pytest

pytest.importorskip("nh3", reason="the server is not installed: pip install 'prefloop[web]'")

from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.web.render import rendered
from prefloop.web.views import formulas


def text_of(html: str) -> str:
    return unescape(re.sub("<[^>]*>", "", str(html))).strip()


@pytest.mark.parametrize(
    "source",
    [
        r"So \(a_b\) and \[ x^2 \] and \{1,2\}",
        r"$x = 2*a*b$ and $y_1*y_2*y_3$, then $_a_$",
        r"$$a_1 \\ b$$",
        "\\[\na = b\n- c\n+ d_1 * e_2 * f\n\\]",
        "\\[\n\na_1\n\n\\]",
        "$$\n# x\n> y\n1. z\n=\n$$",
        "Text\n\\[\na\n=\nb\n\\]\nmore",
        "where $$\na\n- b\n$$ and so",
        "\\begin{align}\na_1 &= b*c*d \\\\\n&< e\n\\end{align}",
        r"$a<b & c > d$ and $\text{a `b` c}$ and $\{x\}$",
        r"$\|x\|$ and \|x\| and 50\% and \$5 and \_ and \#",
        "2*a*b and 2**3**4 and f(x)*g(x)*h(x) and a * b * c",
        r"unclosed \( a_b and \[ c $d and $$",
        r"\\ and \, and \; and C:\dir\_x",
        "a\\\nb",
        "$5 and $10, $20,000 and $30,000, A$5/B$, 5 $, US$5*2*3$",
        r"$\unknown{x}$ $\phantom{secret}$ $a % hidden$",
    ],
)
def test_no_character_of_the_source_is_lost(source: str) -> None:
    assert text_of(rendered(source)) == source


PIECES = [
    r"\(a_b\)",
    r"$x_1*y*z$",
    r"\[ a \\ b \]",
    r"$$q^{*a*}$$",
    "word",
    "`$c*`",
    r"\{",
    "$5",
    "2*a*b",
    "\n",
    "&",
    "<b>",
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=8))
def test_formulas_survive_beside_each_other(pieces: list[str]) -> None:
    source = " ".join(pieces)
    shown = re.sub(r"\s+", "", text_of(rendered(source)))
    assert shown == re.sub(r"\s+|`", "", source)


@pytest.mark.parametrize(
    "source",
    ["$5 and $10", "$20,000 and $30,000", "US$5 or A$6$", r"\$a\$", "$ a $", "$a$1", "`$a$`", "$5, and `$HOME`"],
)
def test_money_and_code_are_not_formulas(source: str) -> None:
    assert "<math" not in rendered(source, typeset=True) and "math" not in rendered(source)


def test_code_blocks_hold_no_formulas_and_quotes_and_lists_do() -> None:
    assert "math" not in rendered("```\n$a$ \\(b\\)\n```\n\n    $$c$$")
    for source in (
        "> $$\n> a_1 * b\n> $$",
        "- x\n  \\[\n  a_1 * b\n  \\]",
        "1. $a_1 * b$",
        "# $a_1 * b$",
        "**$a_1 * b$**",
    ):
        assert "<math" in rendered(source, typeset=True), source


def test_a_table_keeps_formulas_backslashes_and_cells_too_many() -> None:
    html = rendered("| a | b |\n|-|-|\n| $|x|$ | `a|b` |\n| $\\|x\\|$ | 1 | 2 | 3 |\n")
    assert [text_of(cell) for cell in re.findall("<td>.*?</td>", html)] == ["$|x|$", "a|b", r"$\|x\|$", "1 | 2 | 3"]


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        (r"$\frac{-b \pm \sqrt{b^2-4ac}}{2a}$", ["<mfrac>", "<msqrt>", "<mo>±</mo>", "<msup>"]),
        (r"\(\mathrm{d}x\)", ['<mi mathvariant="normal">d</mi>', "<mi>x</mi>"]),
        (r"$$a_1 \\ b$$", ['<math display="block">', "<mtable", "<msub>"]),
        (r"\begin{align} a &= b \\ c &< d \end{align}", ['columnalign="right"', "<mo>&lt;</mo>"]),
        (r"$$\begin{aligned} a \\ b \end{aligned}$$", ["<mtr>"]),
        (r"\begin{gather} a \\ b \end{gather}", ["<mtr>"]),
        (r"$\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}$", ["<mtd>", "<mo>[</mo>"]),
        (r"$\mathbb{1}[x \in \mathbb{R}]$", ["𝟙", "ℝ", "<mo>∈</mo>"]),
        (r"$\arg\max_\theta \mathcal{L}(\theta)$", ["arg", "max", "ℒ"]),
        (r"$\text{if } \boxed{42}$", ['notation="box"', "<mtext>if&nbsp;</mtext>"]),
        (r"$\text{السرعة} = 5\%$", ["السرعة", "%"]),
    ],
)
def test_a_formula_is_typeset_and_keeps_its_source(source: str, parts: list[str]) -> None:
    html = rendered(source, typeset=True)
    for part in parts:
        assert part in html, html
    assert unescape(html.split('<annotation encoding="application/x-tex">')[1].split("</annotation>")[0]) == source


def test_numbers_that_nobody_wrote_are_not_shown() -> None:
    assert "(1)" not in text_of(rendered(r"\begin{align} a &= b \\ c &= d \end{align}", typeset=True))


@pytest.mark.parametrize(
    "tex",
    [
        r"\unknown{x}",
        r"\phantom{secret} y",
        r"\color{white}{secret}",
        r"\href{https://evil.example}{x}",
        r"\class{top}{x}",
        r"\style{display:none}{x}",
        r"x % secret",
        r"x \\% secret",
        r"\def\a{\a\a}\a",
        r"\newcommand{\a}{x}\a",
        r"\unicode{x202e}x",
        "x\u202ey",
        "x\u200by",
        r"\mathchoice{a}{b}{c}{d}",
        r"\label{secret} x",
        r"\kern{secret} x",
        r"\hspace{secret} x",
        r"\uproot secret",
        r"\rule{9em}{9em}",
        r"\frac{a}",
        "{{{",
        r"\raisebox{-9em}{x}",
    ],
)
def test_what_would_hide_or_change_something_is_shown_as_it_was_written(tex: str) -> None:
    assert formulas.typeset(f"${tex}$") is None
    assert "<math" not in rendered(f"${tex}$", typeset=True)


def test_spaces_move_nothing_far_or_backwards() -> None:
    for html in map(formulas.typeset, (r"$a\!\!\!b$", r"$a\hspace{-9em}b$", r"$a\hspace{99em}b$")):
        assert html and "width" not in html
    assert 'width="2em"' in (formulas.typeset(r"$a\qquad b$") or "")


BOMBS = {
    "groups": "$" + "{" * 700 + "x" + "}" * 700 + "$",
    "roots": "$" + r"\sqrt" * 290 + " x$",
    "left": "$" + r"\left(" * 120 + "x" + r"\right)" * 120 + "$",
    "matrices": "$" + r"\begin{matrix}" * 50 + "x" + r"\end{matrix}" * 50 + "$",
    "powers": "$" + "x^{" * 400 + "}" * 400 + "$",
    "primes": "$x" + "'" * 1400 + "$",
    "dollars": "$a" * 4_900,
    "openings": r"\(" * 4_900,
    "brackets": "\\[\n" * 4_900,
    "environments": "\\begin{align}\n" * 4_000,
    "many": "$x^2$ " * 2_400,
    "long": r"$$" + "x+" * 90_000 + "$$",
    "lines": "$$\n" + "- a\n\n" * 4_000 + "$$",
    "unclosed in lines": "a $$ b `\n" * 3_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_of_formulas_is_over_soon(name: str) -> None:
    start = time.process_time()
    html = rendered(BOMBS[name], typeset=True)
    assert time.process_time() - start < 8, "they take less than one; what grows with the square takes minutes"
    assert len(html) < 12 * len(BOMBS[name]) + 400_000


TEX = st.lists(
    st.sampled_from(
        [r"\frac", r"\sqrt", r"\left(", r"\right)", r"\begin{matrix}", r"\end{matrix}", r"\text{", r"\mathbb{R}"]
        + [r"\sum", r"\\", r"\,", r"\hat", r"\boxed", r"\over", r"\limits", r"\mathbf{", r"\operatorname{a}"]
        + list("{}[]^_&'|x1=+<> ")
    ),
    max_size=25,
).map("".join)  # fmt: skip


@settings(max_examples=250, deadline=None)
@given(TEX)
def test_whatever_the_tex_its_letters_are_shown_or_its_source_is(tex: str) -> None:
    html = formulas.typeset(f"${tex}$")
    if html is not None:
        shown, _, source = html.partition("<annotation")
        assert tex in text_of(f"<{source}")
        for character in "x1=+<>":
            assert text_of(shown).count(character) >= re.sub(r"\\[a-zA-Z]+({matrix})?", "", tex).count(character)
        assert "\\" not in text_of(shown)


@pytest.mark.parametrize(
    ("source", "first"),
    [
        ("مرحبا بالعالم", '<p dir="auto">'),
        ("# שלום", '<h1 dir="auto">'),
        ("- مرحبا", '<ul dir="auto">'),
        ("1. שלום", '<ol dir="auto">'),
        ("> مرحبا", '<blockquote dir="auto">'),
        ("| مرحبا |\n|-|\n| ب |", '<table dir="auto">'),
    ],
)
def test_a_block_takes_the_direction_of_its_own_text(source: str, first: str) -> None:
    assert rendered(source).startswith(first)


def test_what_stands_inside_a_block_leaves_the_block_its_direction() -> None:
    """A browser that looks for a quote's direction leaves out what has a direction of its own in it."""
    assert rendered("> مرحبا\n>\n> - ب\n>\n> ج").count("dir=") == 1


def test_formulas_and_labels_do_not_decide_a_direction() -> None:
    """The browser leaves out elements with a direction of their own when it looks for the first strong letter."""
    assert '<span class="math" dir="ltr">$x$</span>' in rendered("$x$ هو")
    assert '<span class="invisible" dir="ltr"' in rendered("\u200fهو")


def test_delimiters_far_apart_are_no_formula() -> None:
    assert "math" not in rendered("$a" + "b" * formulas.LONGEST + "$")
