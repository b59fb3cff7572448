"""Finds formulas in text written by models, and typesets their TeX as MathML.

`end_of` follows pandoc's rules (tex_math_dollars, tex_math_single_backslash), so "$5 and $10" is money. `typeset` gives
MathML only if everything in the source is visible in it. For anything unknown, hidden, coloured or too long it gives
None, and the caller shows the source. The TeX is untrusted: macros are not allowed, and length, nesting and size are
limited.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from html import escape
from xml.etree.ElementTree import Element

from latex2mathml.converter import Converter

from prefloop.invisible import INVISIBLE

LONGEST = 4000  # the longest formula in characters; longer ones are text
LONGEST_TYPESET = 1500  # the longest TeX that is typeset, in characters; longer ones are shown as TeX
DEEPEST = 25  # levels of nested groups
_ENVIRONMENTS = (
    r"(?:equation|align|alignat|aligned|gather|gathered|multline|eqnarray|split|cases|array|[pbBvV]?matrix)\*?"
)
DISPLAY = re.compile(rf"\$\$|\\\[|\\begin\{{{_ENVIRONMENTS}\}}")
_CLOSING = {"$$": "$$", "\\[": "\\]"}
# No space follows the first dollar, and no space precedes the last one, which no digit follows. An escaped dollar
# belongs to the formula.
_DOLLARS = re.compile(rf"\$(?![\s$])(?>(?:\\.|[^$\\]){{1,{LONGEST}}})(?<!\s)\$(?!\d)", re.DOTALL)

# -- where ------------------------------------------------------------------------------------------------------------


def end_of(text: str, start: int) -> int | None:
    """Return the position where the formula that begins at `start` ends; None if none begins there."""
    end = _end_of(text, start)
    if end is None or text.count("`", start, end) % 2:  # "$5, and `$HOME`" contains half of a piece of code.
        return None
    return end


def _end_of(text: str, start: int) -> int | None:
    opening = DISPLAY.match(text, start)
    if opening:
        return _closed(text, opening)
    if text.startswith("\\(", start):
        return _found(text, "\\)", start + 2)
    word_before = start > 0 and text[start - 1].isalnum()  # A$ and US$ are money.
    dollars = None if word_before else _DOLLARS.match(text, start)
    return dollars.end() if dollars else None


def _closed(text: str, opening: re.Match[str]) -> int | None:
    return _found(text, closing(opening[0]), opening.end())


def closing(opening: str) -> str:
    """Return the delimiter that ends a display formula with that opening."""
    return _CLOSING.get(opening) or opening.replace("begin", "end", 1)


def _found(text: str, ending: str, start: int) -> int | None:
    """Return the end of the first `ending` that is not escaped by a backslash and does not follow at once."""
    at = start
    while (at := text.find(ending, at, start + LONGEST)) >= 0:
        backslashes = at - len(text[start:at].rstrip("\\")) - start
        if backslashes % 2 == 0:
            return at + len(ending) if text[start:at].strip() else None
        at += 1
    return None


def is_display(source: str) -> bool:
    """Return whether a formula stands on lines of its own."""
    return DISPLAY.match(source) is not None


# -- typesetting ------------------------------------------------------------------------------------------------------

# These are MathML elements, and the attributes that each may have with their allowed values. The sanitiser holds the
# same list.
_VARIANT = {"mathvariant": "normal|italic|bold|bold-italic|monospace|sans-serif"}
_LENGTH, _TRUTH = r"[0-2]?(?:\.[0-9]{1,3})?em", "true|false"
ELEMENTS: dict[str, dict[str, str]] = {
    **dict.fromkeys(("mrow", "msqrt", "mroot", "msub", "msup", "msubsup", "mtr", "munderover"), {}),
    **dict.fromkeys(("mi", "mn", "mtext"), _VARIANT),
    "math": {"display": "block|inline"},
    "semantics": {},
    "annotation": {"encoding": "application/x-tex"},
    "mo": {
        **_VARIANT,
        **dict.fromkeys(("stretchy", "fence", "largeop", "movablelimits", "accent"), _TRUTH),
        "form": "prefix|infix|postfix",
        "minsize": r"[0-3](?:\.[0-9]{1,3})?em",
        "maxsize": r"[0-3](?:\.[0-9]{1,3})?em",
    },
    "mspace": {"width": _LENGTH},
    "mfrac": {"linethickness": "0"},
    "munder": {"accentunder": _TRUTH},
    "mover": {"accent": _TRUTH},
    "mtable": {"displaystyle": _TRUTH},
    "mtd": {"columnalign": "left|right|center"},
    "mstyle": {"displaystyle": _TRUTH, "scriptlevel": "[01]"},
    "menclose": {"notation": "box"},
}
_PARTS = {"mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "munder": 2, "mover": 2, "msubsup": 3, "munderover": 3}
# The loss of these attributes moves things a little and hides nothing.
_DROPPED = frozenset({"width", "rowspacing", "columnspacing", "minsize", "maxsize", "separator"})
# These are not typeset: macros, whose expansion has no bound; comments and character numbers, which would vanish or
# change.
_REFUSED = re.compile(
    r"\\(?:[gex]?def|let|\w*newcommand|newenvironment|DeclareMathOperator|unicode|char|verb|mathchoice)(?![a-zA-Z])"
    rf"|(?<!\\)(?:\\\\)*%|&#|[{INVISIBLE}]"
)
_HIDDEN = re.compile(f"[{INVISIBLE}]")
_GROUPS = re.compile(r"\\left|\\right|\\begin|\\end|\\.|[{}]", re.DOTALL)
# The converter lacks these environments, or numbers them although nobody wrote numbers; each is replaced by one that it
# has.
_SAME = {
    "equation": "equation*",
    **dict.fromkeys(("align", "aligned", "eqnarray", "eqnarray*"), "align*"),
    **dict.fromkeys(("gather", "gather*", "gathered", "multline", "multline*"), "matrix"),
}
_NAMED = re.compile(r"(?<=\\begin\{)[a-z]+\*?(?=\})|(?<=\\end\{)[a-z]+\*?(?=\})")
_ENTITY = re.compile(r"&#x([0-9A-Fa-f]{4,6});")


def typeset(source: str) -> str | None:
    """Return a formula with its delimiters as a <math> element that keeps the source; None if it must stay as it is."""
    if len(source) > LONGEST_TYPESET or _REFUSED.search(source) or _depth(source) > DEEPEST:
        return None
    return _typeset(source)


@lru_cache(maxsize=4096)
def _typeset(source: str) -> str | None:
    tex = _inside(source)
    try:
        row = _converted(tex, source)
        if any(node.get("linebreak") for node in row.iter("mspace")):  # MathML has line breaks only in tables.
            row = _converted(rf"\begin{{align*}}{tex}\end{{align*}}", source)
        shown: list[str] = []
        html = _element(row, shown)
    except Exception:  # noqa: BLE001 - it stumbles over what it doesn't know in many ways
        return None
    if _lost(tex, "".join(shown)):
        return None
    display = "block" if is_display(source) else "inline"
    return (
        f'<math display="{display}"><semantics>{html}'
        f'<annotation encoding="application/x-tex">{escape(source, quote=False)}</annotation></semantics></math>'
    )


def _inside(source: str) -> str:
    """Return the formula without delimiters, in environments that the converter supports."""
    width = 0 if source.startswith("\\begin") else 1 if not source.startswith("$$") and source[0] == "$" else 2
    tex = source[width : len(source) - width].strip()
    tex = _NAMED.sub(lambda match: _SAME.get(match[0], match[0]), tex)
    return re.sub(r"\\arg(?![a-zA-Z])", r"\\operatorname{arg}", tex)


def _converted(tex: str, source: str) -> Element:
    return Converter(display="block" if is_display(source) else "inline").convert_to_element(tex)[0]


def _element(node: Element, shown: list[str]) -> str:
    """Return the element as HTML; its text is added to `shown`.

    Raises KeyError or ValueError for anything not allowed.
    """
    tag, allowed = node.tag, ELEMENTS[node.tag]
    attributes = dict(node.attrib)
    text = node.text or ""
    if len(node) != _PARTS.get(tag, len(node)):
        raise ValueError(f"{tag} with {len(node)} parts")
    upright = _ENTITY.fullmatch(text)
    if node.tag == "mi" and upright and chr(int(upright[1], 16)).isascii():
        attributes["mathvariant"] = "normal"  # The converter does not mark \mathrm{d}.
    text = _ENTITY.sub(lambda match: chr(int(match[1], 16)), text)
    if attributes.get("mathvariant") in _LETTERS:
        text = "".join(map(_LETTERS[attributes.pop("mathvariant")], text))
    if "\\" in text.replace("\\backslash", ""):
        raise ValueError(f"not known: {text}")
    if _HIDDEN.search(text):
        raise ValueError("something that cannot be seen")
    tag = "mo" if tag == "mi" and text in ("±", "∓", "÷") else tag
    said = ""
    for name, value in attributes.items():
        if name in allowed and re.fullmatch(allowed[name], value):
            said += f' {name}="{value}"'
        elif name not in _DROPPED:
            raise ValueError(f"{node.tag} {name}")
    shown.append(text)
    inner = "".join(_element(child, shown) for child in node)
    return f"<{tag}{said}>{escape(text, quote=False)}{inner}</{tag}>"


def _lettered(style: str) -> Callable[[str], str]:
    """Return a function that turns a letter into its character in a style, such as R into a double-struck R.

    The function raises KeyError if there is none.
    """

    def letter(plain: str) -> str:
        kind, name = unicodedata.name(plain).replace("LATIN ", "").replace(" LETTER", "").split()
        try:
            return unicodedata.lookup(f"MATHEMATICAL {style} {kind} {name}")
        except KeyError:
            return unicodedata.lookup(f"{style} {kind} {name}")

    return letter


_LETTERS = {
    "double-struck": _lettered("DOUBLE-STRUCK"),
    "script": _lettered("SCRIPT"),
    "fraktur": _lettered("FRAKTUR"),
}
_COMMANDS = re.compile(
    r"\\begin\{array\}\{[lcr| ]*\}|\\(?:begin|end)\{[a-zA-Z]+\*?\}|\\hspace\*?\{-?[\d.]+[a-z]{2}\}"
    r"|\\\\(?:\[[\d.]+[a-z]{2}\])?|\\[a-zA-Z]+|\\."
)
_KEPT = re.compile(r"[^\W_]|[=<>+]")


def _lost(tex: str, shown: str) -> bool:
    """Return whether a letter, a digit or a relation of the source is missing in what is shown."""
    wanted = Counter(_KEPT.findall(unicodedata.normalize("NFKC", _COMMANDS.sub(" ", tex))))
    return bool(wanted - Counter(_KEPT.findall(unicodedata.normalize("NFKC", shown))))


def _depth(source: str) -> int:
    depth = deepest = 0
    for match in _GROUPS.finditer(source):
        depth += (match[0] in ("{", "\\left", "\\begin")) - (match[0] in ("}", "\\right", "\\end"))
        deepest = max(deepest, depth)
    return deepest
