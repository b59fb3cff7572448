"""Parses Markdown with markdown-it, with rules of our own so that nothing that was written gets lost.

Nothing inside a formula is markup. A backslash stays visible. Stars inside a word or a product (2*a*b) are stars. A
table row with more cells than its head keeps them all. The text of each block decides its direction.
"""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape
from typing import Any
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_block.table import table as gfm_table
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from prefloop.web.views import formulas

MAX_NESTING = 20  # levels of nested blocks; a deeper text is shown raw
MOST_LINES = 100  # A formula may have so many lines.
MOST_TYPESET = 20_000  # So many characters of formulas in one text are typeset; further ones are shown as TeX.
MATHML = "mathml"  # This key in the environment of a rendering says whether formulas are typeset.


SCHEMES = frozenset({"http", "https", "mailto"})


def allowed_link(url: str) -> bool:
    """Return whether a link is absolute, of an allowed scheme, and printable ASCII after markdown-it's encoding."""
    if not re.fullmatch(r"[!-~]+", url):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme.lower() in SCHEMES and bool(parts.netloc or parts.scheme.lower() == "mailto")


@lru_cache(maxsize=1)
def parser() -> MarkdownIt:
    """Return a parser for CommonMark and tables, without HTML and without reference definitions.

    Such definitions would not be shown.
    """
    markdown = MarkdownIt("commonmark", {"html": False, "maxNesting": MAX_NESTING})
    markdown.enable("table").disable(["html_block", "html_inline", "reference", "text_join"])
    markdown.validateLink = allowed_link  # type: ignore[method-assign]
    block, inline = markdown.block.ruler, markdown.inline.ruler
    block.at("table", _table, {"alt": ["paragraph", "reference"]})
    block.before("table", "formula", _formula_block, {"alt": ["paragraph", "reference", "blockquote"]})
    block.before("lheading", "formula_in_line", _paragraph_with_formula)
    block.at("paragraph", _paragraph)
    inline.before("escape", "formula", _formula)
    inline.before("escape", "break", _break)
    inline.before("emphasis", "star", _star)
    markdown.core.ruler.push("direction", _direction)
    for name, rule in (("image", _image), ("fence", _fence), ("text_special", _special), ("formula", _math)):
        markdown.add_render_rule(name, rule)
    return markdown


# -- formulas ---------------------------------------------------------------------------------------------------------

# Code and escaped characters may contain a delimiter that does not open a formula.
_OPENINGS = re.compile(rf"(?P<code>(?<!`)(`+)(?!`).*?(?<!`)\2(?!`))|(?P<display>{formulas.DISPLAY.pattern})|\\.")


def _formula(state: StateInline, silent: bool) -> bool:
    if state.src[state.pos] not in "$\\":
        return False
    end = formulas.end_of(state.src, state.pos)
    if end is None or end > state.posMax:
        return False
    if not silent:
        state.push("formula", "", 0).content = state.src[state.pos : end]
    state.pos = end
    return True


def _line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]


def _formula_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Parse lines that begin with a display formula. None of them is a list, a heading or a table."""
    if state.is_code_block(start) or not formulas.DISPLAY.match(_line(state, start)):
        return False
    if _last_line(state, start, end) is None:
        return False
    return silent or _paragraph(state, start, end, False)


def _paragraph_with_formula(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Parse a paragraph whose first line begins a formula that ends on a later line."""
    if silent or (_last_line(state, start, end) or start) == start:
        return False
    return _paragraph(state, start, end, False)


def _last_line(state: StateBlock, start: int, end: int) -> int | None:
    """Return the line on which the last formula that begins on line `start` ends; None if there is none."""
    text, at, last = _line(state, start), 0, None
    while opening := _OPENINGS.search(text, at):
        at = opening.end()
        if not opening["display"]:
            continue
        closed = formulas.end_of(text, opening.start())
        if closed is not None:
            at, last = closed, start
            continue
        alone = not text[at:].strip()  # Blank lines are part of it, as inside a fence.
        whole = text[opening.start() :]
        for line in range(start + 1, min(end, start + MOST_LINES)):
            if state.sCount[line] < state.blkIndent or (state.isEmpty(line) and not alone):
                return None
            whole += "\n" + _line(state, line)
            if formulas.closing(opening["display"]) in _line(state, line) and formulas.end_of(whole, 0):
                return line
        return None
    return last


def _paragraph(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Parse CommonMark's paragraph, except that lines inside a formula always belong to it."""
    terminators = state.md.block.ruler.getRules("paragraph")
    outer, state.parentType = state.parentType, "paragraph"
    end = state.lineMax
    line, inside = start + 1, _last_line(state, start, end) or start
    while line < end:
        if line > inside:
            if state.isEmpty(line):
                break
            indented = state.sCount[line] - state.blkIndent > 3 or state.sCount[line] < 0  # These never begin a block.
            if not indented and any(rule(state, line, end, True) for rule in terminators):
                break
            inside = _last_line(state, line, end) or line
        line += 1
    content = state.getLines(start, line, state.blkIndent, False).strip()
    state.line = line
    state.push("paragraph_open", "p", 1).map = [start, line]
    token = state.push("inline", "", 0)
    token.content, token.map, token.children = content, [start, line], []
    state.push("paragraph_close", "p", -1)
    state.parentType = outer
    return True


def _math(self: RendererHTML, tokens: list[Token], at: int, options: Any, env: Any) -> str:
    source = tokens[at].content
    if env.get(MATHML) and env.get("typeset", 0) + len(source) <= MOST_TYPESET:
        env["typeset"] = env.get("typeset", 0) + len(source)
        if html := formulas.typeset(source):
            return html
    kind = "math display" if formulas.is_display(source) else "math"
    return f'<span class="{kind}" dir="ltr">{escape(source, quote=False)}</span>'


# -- what else would be eaten ----------------------------------------------------------------------------------------

_STARS = re.compile(r"(?<=[0-9A-Za-z])\*+(?=[0-9A-Za-z])")


def _star(state: StateInline, silent: bool) -> bool:
    """Keep the stars of 2*a*b, which is a product.

    Stars between letters that are not ASCII stay markup, because Chinese has no spaces.
    """
    stars = _STARS.match(state.src, state.pos, state.posMax) if state.src[state.pos] == "*" else None
    if not stars:
        return False
    if not silent:
        state.append_pending(stars[0])
    state.pos = stars.end()
    return True


def _special(self: RendererHTML, tokens: list[Token], at: int, options: Any, env: Any) -> str:
    """Render a character that a backslash protected from being markup, with the backslash, since it may be TeX."""
    token = tokens[at]
    kept = token.info == "escape" and token.content != token.markup
    return ('<span class="escape">\\</span>' if kept else "") + escape(token.content)


def _break(state: StateInline, silent: bool) -> bool:
    """Parse a backslash at the end of a line: it is a line break, and visible."""
    if not state.src.startswith("\\\n", state.pos):
        return False
    if not silent:
        token = state.push("text_special", "", 0)
        token.markup, token.info = "\\", "escape"
        state.push("hardbreak", "br", 0)
    state.pos += 2
    return True


_PIPES = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)|\\.|[$]|\|")


def _cells(row: str) -> list[str]:
    """Return the cells of a table row, split at pipes outside of code and formulas that no backslash escapes."""
    cells, start, at = [], 0, 0
    while match := _PIPES.search(row, at):
        end = formulas.end_of(row, match.start()) if match[0][0] in "$\\" else None
        at = end or match.end()
        if match[0] == "|":
            cells.append(row[start : match.start()])
            start = at
    return [*cells, row[start:]]


def _table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Parse GFM's table, and split its rows again.

    The original parser takes backslashes away, cuts formulas, and drops cells too many.
    """
    before = len(state.tokens)
    if not gfm_table(state, start, end, silent):
        return False
    rows: dict[int, list[Token]] = {}
    for token in state.tokens[before:]:
        if token.type == "inline" and token.map:
            rows.setdefault(token.map[0], []).append(token)
    for line, tokens in rows.items():
        cells = _cells(_line(state, line).strip())
        cells = cells[not cells[0].strip() :]
        if cells and not cells[-1].strip():
            cells.pop()
        cells[len(tokens) - 1 :] = ["|".join(cells[len(tokens) - 1 :])]
        for token, cell in zip(tokens, [*cells, *[""] * len(tokens)], strict=False):
            token.content = cell.strip()
    return True


_DIRECTED = frozenset(
    ("paragraph_open", "heading_open", "bullet_list_open", "ordered_list_open", "blockquote_open", "table_open")
)


def _direction(state: StateCore) -> None:
    """Set the direction of whole blocks: for a list, a browser leaves out the parts that have their own direction.

    The paragraphs inside take theirs from the style sheet (unicode-bidi: plaintext).
    """
    for token in state.tokens:
        if token.type in _DIRECTED and token.level == 0:
            token.attrSet("dir", "auto")


def _image(self: RendererHTML, tokens: list[Token], at: int, options: Any, env: Any) -> str:
    """Render an image as text. No image is fetched, because its address could carry content of the page elsewhere."""
    token = tokens[at]
    said = f"[image: {token.attrs.get('src', '')}] {token.content}".rstrip()
    return escape(said)


def _fence(self: RendererHTML, tokens: list[Token], at: int, options: Any, env: Any) -> str:
    """Render a code block with the text after its opening fence, which is part of what the model wrote."""
    token = tokens[at]
    info = f'<span class="info">{escape(token.info.strip())}</span>\n' if token.info.strip() else ""
    return f"<pre><code>{info}{escape(token.content)}</code></pre>\n"
