"""Turns untrusted text into safe HTML.

What models and people wrote is hostile: nothing they write becomes markup of ours.

There are three walls, one behind the other: markdown-it with HTML off, the allow-list of nh3, and the page's content
security policy. What cannot be seen gets a label (`invisible`), formulas survive (`markdown`, `formulas`), and each
paragraph runs in its own text's direction. Nothing is cut: a text too long or too deeply nested for Markdown is shown
as it is.
"""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape
from typing import Any

import nh3
from markdown_it.token import Token
from markupsafe import Markup

from prefloop.web.views.formulas import ELEMENTS
from prefloop.web.views.invisible import label
from prefloop.web.views.markdown import MATHML, MAX_NESTING, SCHEMES, allowed_link, parser

SHORT, REMEMBERED = 10_000, 1000  # HTML is cached for texts of up to so many characters, and for so many texts.
MAX_RENDERED = 200_000  # characters of Markdown; a longer text is shown raw
# A text may have so many lines, and so many characters that may be markup; parsing many more takes seconds.
MAX_MARKS = 10_000
MAX_CELLS = 50_000  # cells of a table: the head's columns times all lines, since short rows are filled up
# These elements have a direction of their own.
BLOCKS = frozenset(("p", "ul", "ol", "blockquote", "table", "h1", "h2", "h3", "h4", "h5", "h6"))
TAGS = BLOCKS.union(
    ("br", "hr", "em", "strong", "code", "pre", "li", "a", "sup", "sub", "thead", "tbody", "tr", "th", "td", "span"),
    ELEMENTS,
)
CLASSES = frozenset({"math", "math display", "escape", "info"})  # A span may have these classes.
REL = "noopener noreferrer nofollow"


def rendered(text: str, *, typeset: bool = False) -> Markup:
    """Return Markdown as safe HTML (block elements). A text that is too long or nested too deeply is shown as by `raw`.

    A formula is its source in a span; with `typeset` it is MathML, where that shows all of the source. Short texts are
    remembered for a while, since several people are shown the same items.
    """
    return (_remembered if len(text) <= SHORT else _rendered)(text, typeset)


def _rendered(text: str, typeset: bool) -> Markup:
    text = _normal(text)
    if _renderable(text):
        env: dict[str, Any] = {MATHML: typeset}
        tokens = parser().parse(text.replace("\0", "\u2400"), env)
        # markdown-it silently drops content that is nested deeper than its limit.
        if _depth(tokens) < MAX_NESTING - 1:
            html = parser().renderer.render(tokens, parser().options, env)
            return Markup(label(clean(html)))
    return Markup(f"<pre>{raw(text)}</pre>")


_remembered = lru_cache(maxsize=REMEMBERED)(_rendered)


def _renderable(text: str) -> bool:
    """Return whether Markdown of it takes no longer than a page may."""
    if len(text) > MAX_RENDERED or sum(map(text.count, "\n[]!|*_`<&$\\")) > MAX_MARKS:
        return False
    lines = text.split("\n")
    return max(line.count("|") for line in lines) * len(lines) <= MAX_CELLS


def raw(text: str) -> Markup:
    """Return the text itself, escaped, for an element with `white-space: pre-wrap`; invisible characters get labels."""
    return Markup(label(escape(_normal(text))))


def clean(html: str) -> str:
    """Return HTML with only the allowed tags, and attributes of a few fixed values.

    Cleaning the result again changes nothing. The text of a tag that is not allowed is kept; script and style leave
    nothing.
    """
    return nh3.clean(
        html,
        tags=set(TAGS),
        attributes=_ATTRIBUTES,
        attribute_filter=_attribute,
        url_schemes=set(SCHEMES),
        link_rel=REL,
        strip_comments=True,
    )


_ATTRIBUTES = {
    **{name: set(said) for name, said in ELEMENTS.items()},
    **{name: {"dir"} for name in BLOCKS},
    "a": {"href"},
    "ol": {"start", "dir"},
    "span": {"class", "dir"},
}


def _attribute(tag: str, name: str, value: str) -> str | None:
    """Return an attribute's value, or None to drop it. nh3 lets `title` and `lang` pass on any tag; this does not."""
    allowed = (
        (name == "start" and re.fullmatch(r"[0-9]{1,9}", value))
        or (name == "href" and allowed_link(value))
        or (name == "dir" and value == ("auto" if tag in BLOCKS else "ltr"))
        or (name == "class" and value in CLASSES)
        or (name in ELEMENTS.get(tag, ()) and re.fullmatch(ELEMENTS[tag][name], value))
        or name == "rel"  # nh3 itself writes it.
    )
    return value if allowed else None


def _normal(text: str) -> str:
    """Return the text with line ends as \\n, and with the replacement character for halves of surrogate pairs.

    No HTML can hold such a half.
    """
    text = text.replace("\r\n", "\n")
    return _SURROGATE.sub("\ufffd", text)


_SURROGATE = re.compile("[\ud800-\udfff]")


def _depth(tokens: list[Token]) -> int:
    inner = (child.level + token.level for token in tokens for child in token.children or ())
    return max(max((token.level for token in tokens), default=0), max(inner, default=0))
