"""Untrusted text to safe HTML. What models and people wrote is hostile: nothing they write becomes markup of ours.

Three walls, one behind the other: markdown-it with HTML off, the allow-list of nh3, and the page's content security
policy. What cannot be seen (zero-width, bidirectional and control characters) gets a label, so that nobody ranks a text
that differs from what they read. Nothing is cut: a text too long or too deeply nested for Markdown is shown as it is.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from html import escape
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

MAX_RENDERED = 200_000  # characters of Markdown; a longer text is shown raw
MAX_NESTING = 20  # quotes in lists in quotes ...; a deeper text is shown raw
MAX_MARKS = 10_000  # lines, and characters that may be markup; parsing many more takes seconds
MAX_CELLS = 50_000  # of a table: the head's columns times all lines, since short rows are filled up
MAX_LABELS = 1000  # invisible characters with a label of their own; further ones are a box
TAGS = frozenset(
    ("p", "br", "hr", "em", "strong", "code", "pre", "ul", "ol", "li", "blockquote", "a", "sup", "sub")
    + ("h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td")
)
SCHEMES = frozenset({"http", "https", "mailto"})
REL = "noopener noreferrer nofollow"
_LABELS_IN_A_RUN = 12  # of invisible characters; the others of the run are counted

# Everything that shows nothing: C0 and C1 controls but tab and newline, Unicode's default-ignorable characters, fillers
# that are blank letters, line and paragraph separators.
_INVISIBLE = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
# Joiners that change what is seen, so that labels would only tear words and emoji apart: between two emoji, between
# letters of scripts that join (Arabic to Sinhala), and the one that asks for an emoji's colours.
_EMOJI = "\u203c-\u3299\U0001f000-\U0001faff"
_JOINING = "\u0620-\u0dff"
_WANTED = (
    f"(?<=[{_EMOJI}])\ufe0f|(?<=[0-9#*])\ufe0f(?=\u20e3)|(?<=[{_EMOJI}\ufe0f])\u200d(?=[{_EMOJI}])"
    f"|(?<=[{_JOINING}])[\u200c\u200d](?=[{_JOINING}])"
)
_SHORT = {
    "\u200b": "ZWSP", "\u200c": "ZWNJ", "\u200d": "ZWJ", "\u200e": "LRM", "\u200f": "RLM", "\u202a": "LRE",
    "\u202b": "RLE", "\u202c": "PDF", "\u202d": "LRO", "\u202e": "RLO", "\u2060": "WJ", "\u2066": "LRI",
    "\u2067": "RLI", "\u2068": "FSI", "\u2069": "PDI", "\ufeff": "BOM", "\u00ad": "SHY", "\u061c": "ALM",
    "\x1b": "ESC", "\x00": "NUL", "\r": "CR",
}  # fmt: skip


def rendered(text: str) -> Markup:
    """Markdown as safe HTML (block elements). Too long, or nested too deeply: the same as `raw`, in a <pre>."""
    text = _normal(text)
    if _renderable(text):
        env: dict[str, Any] = {}
        tokens = _markdown().parse(text.replace("\0", "\u2400"), env)
        # markdown-it silently drops what is nested deeper than its limit
        if _depth(tokens) < MAX_NESTING - 1:
            html = _markdown().renderer.render(tokens, _markdown().options, env)
            return Markup(_label(clean(html)))
    return Markup(f"<pre>{raw(text)}</pre>")


def _renderable(text: str) -> bool:
    """Whether Markdown of it takes no longer than a page may."""
    if len(text) > MAX_RENDERED or sum(map(text.count, "\n[]!|*_`<&")) > MAX_MARKS:
        return False
    lines = text.split("\n")
    return max(line.count("|") for line in lines) * len(lines) <= MAX_CELLS


def raw(text: str) -> Markup:
    """The text itself, escaped, for an element with `white-space: pre-wrap`; invisible characters get labels."""
    return Markup(_label(escape(_normal(text))))


def clean(html: str) -> str:
    """HTML with only the allowed tags, `href` of the allowed schemes, and the start of an ordered list.

    Idempotent. Of a tag that is not allowed the text is kept, of script and style nothing.
    """
    return nh3.clean(
        html,
        tags=set(TAGS),
        attributes={"a": {"href"}, "ol": {"start"}},
        attribute_filter=_attribute,
        url_schemes=set(SCHEMES),
        link_rel=REL,
        strip_comments=True,
    )


def _attribute(tag: str, name: str, value: str) -> str | None:
    """nh3 lets `title` and `lang` pass on any tag: only what is named here stays."""
    allowed = (
        (name == "start" and re.fullmatch(r"[0-9]{1,9}", value))
        or (name == "href" and _allowed_link(value))
        or name == "rel"  # written by nh3 itself
    )
    return value if allowed else None


def _allowed_link(url: str) -> bool:
    """Absolute, of an allowed scheme, and nothing but printable ASCII, as markdown-it's encoding leaves it."""
    if not re.fullmatch(r"[!-~]+", url):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme.lower() in SCHEMES and bool(parts.netloc or parts.scheme.lower() == "mailto")


def _normal(text: str) -> str:
    """Line ends as \\n; halves of surrogate pairs, which no HTML can hold, as the replacement character."""
    text = text.replace("\r\n", "\n")
    return _SURROGATE.sub("\ufffd", text)


_SURROGATE = re.compile("[\ud800-\udfff]")


def _label(html: str) -> str:
    """Labels for invisible characters. They are never inside a tag: attributes hold printable ASCII only."""
    marked, end = _RUN.subn(_labels, html, count=MAX_LABELS), 0
    if marked[1] < MAX_LABELS:
        return marked[0]
    for match in islice(_RUN.finditer(html), MAX_LABELS):
        end = match.end()
    rest = _RUN.sub(lambda m: m.group() if m.group(1) is None else "\u25af", html[end:])
    return _RUN.sub(_labels, html[:end]) + rest


_RUN = re.compile(f"{_WANTED}|((?:(?!{_WANTED})[{_INVISIBLE}])+)")


def _labels(match: re.Match[str]) -> str:
    run = match.group(1)
    if run is None:
        return match.group()
    shown = "".join(_one(character) for character in run[:_LABELS_IN_A_RUN])
    left = len(run) - _LABELS_IN_A_RUN
    return f'{shown}<span class="invisible">+{left} invisible</span>' if left > 0 else shown


@lru_cache(maxsize=512)
def _one(character: str) -> str:
    point = f"U+{ord(character):04X}"
    name = unicodedata.name(character, "control character" if ord(character) < 0xA0 else "invisible character")
    return f'<span class="invisible" title="{point} {name.lower()}">{_SHORT.get(character, point)}</span>'


def _depth(tokens: list[Token]) -> int:
    inner = (child.level + token.level for token in tokens for child in token.children or ())
    return max(max((token.level for token in tokens), default=0), max(inner, default=0))


@lru_cache(maxsize=1)
def _markdown() -> MarkdownIt:
    """CommonMark and tables. No HTML, no reference definitions: they would vanish from the page, text and all."""
    markdown = MarkdownIt("commonmark", {"html": False, "maxNesting": MAX_NESTING})
    markdown.enable("table").disable(["html_block", "html_inline", "reference"])
    markdown.validateLink = _allowed_link  # type: ignore[method-assign]
    markdown.add_render_rule("image", _image)
    markdown.add_render_rule("fence", _fence)
    return markdown


def _image(self: RendererHTML, tokens: list[Token], at: int, options: Any, env: Any) -> str:
    """No picture is fetched: its address could carry what the page holds to elsewhere."""
    token = tokens[at]
    said = f"[image: {token.attrs.get('src', '')}] {token.content}".rstrip()
    return escape(said)


def _fence(self: RendererHTML, tokens: list[Token], at: int, options: Any, env: Any) -> str:
    """Code, with what stands after the opening fence: it is part of what the model wrote."""
    token = tokens[at]
    info = f"{token.info.strip()}\n" if token.info.strip() else ""
    return f"<pre><code>{escape(info + token.content)}</code></pre>\n"
