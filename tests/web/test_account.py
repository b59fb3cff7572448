"""People come in and go out, and an owner manages people, through the pages."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from prefloop.web.security.access import cookie_name
from prefloop.web.security.throttle import Throttle

from .conftest import PASSWORD, Server, an_item

NEW = "another good pass phrase"


def link_on(page: str) -> str:
    found = re.search(r'id="link">http://testserver(/join/[^<]+)<', page)
    assert found, page
    return found[1]


def test_the_owners_link_makes_an_owner_once(server: Server) -> None:
    token = server.people.owner_link()
    browser = server.browser()
    page = browser.get(f"/join/{token}")
    assert page.status_code == 200 and "owner" in page.text
    assert browser.get(f"/join/{token}").status_code == 200, "looking does not use it up"
    form = {"name": "Olga", "password": PASSWORD, "again": PASSWORD}
    answer = browser.post(f"/join/{token}", data=form)
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    assert browser.get("/people").status_code == 200
    other = server.browser()
    assert other.get(f"/join/{token}").status_code == 404
    assert other.post(f"/join/{token}", data=form | {"name": "Eve"}).status_code == 404
    assert [p.name for p in server.people.list()] == ["Olga"] and server.people.owner_link() is None


def test_an_invitation_from_the_page_lets_an_annotator_in(server: Server) -> None:
    server.join("owner", "Olga")
    page = server.browser("Olga").post("/people/invite", data={"role": "annotator", "groups": "law, medicine"}).text
    browser = server.browser()
    assert (
        browser.post(link_on(page), data={"name": "Anna", "password": PASSWORD, "again": PASSWORD}).status_code == 303
    )
    anna = next(p for p in server.people.list() if p.name == "Anna")
    assert anna.role == "annotator" and anna.groups == ("law", "medicine")
    assert browser.get("/people").status_code == 403


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"password": "short", "again": "short"}, "10 to 128 characters"),
        ({"again": "something else"}, "differ"),
        ({"name": "olga"}, "taken"),
        ({"name": " \u200b "}, "name"),
        ({"name": "Password is me", "password": "password is me", "again": "password is me"}, "guess"),
    ],
)
def test_a_bad_form_says_why_and_keeps_the_invitation(server: Server, form: dict[str, str], said: str) -> None:
    server.join("owner", "Olga")
    token = server.people.invite(None, "annotator")
    full = {"name": "Anna", "password": PASSWORD, "again": PASSWORD} | form
    answer = server.browser().post(f"/join/{token}", data=full)
    assert answer.status_code == 422 and said in answer.text
    assert full["password"] not in answer.text.replace(full["name"], "")
    assert server.people.peek(token) is not None


def test_a_wrong_password_and_an_unknown_name_get_the_same_answer(server: Server) -> None:
    server.join("owner", "Olga")
    server.join("annotator", "Dora")
    dora = next(p for p in server.people.list() if p.name == "Dora")
    server.people.disable(None, dora.id)
    texts = []
    for name, password in (("Olga", "wrong password"), ("Nobody", "wrong password"), ("Dora", PASSWORD)):
        answer = server.browser().post("/login", data={"name": name, "password": password})
        assert answer.status_code == 401 and "set-cookie" not in answer.headers
        texts.append(answer.text.replace(name, "NAME"))
    assert len(set(texts)) == 1


def test_guessing_is_slowed_down_and_says_for_how_long(server: Server) -> None:
    server.join("owner", "Olga")
    browser = server.browser()
    for _ in range(5):
        assert browser.post("/login", data={"name": "Olga", "password": "wrong password"}).status_code == 401
    answer = browser.post("/login", data={"name": " OLGA", "password": PASSWORD})
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
    state = server.app.state
    state.services = replace(state.services, throttle=Throttle())
    assert browser.post("/login", data={"name": "Olga", "password": PASSWORD}).status_code == 303


def test_the_cookie_is_out_of_reach_and_new_at_every_login(server: Server) -> None:
    server.join("owner", "Olga")
    browser = server.browser("Olga")
    (name, first) = next(iter(browser.cookies.items()))
    answer = browser.post("/login", data={"name": "Olga", "password": PASSWORD})
    header = answer.headers["set-cookie"].lower()
    assert "httponly" in header and "samesite=lax" in header and "path=/" in header
    assert browser.cookies[name] != first and server.people.session(first) is None


def test_over_tls_the_cookie_is_bound_to_the_host(server: Server) -> None:
    server.join("owner", "Olga")
    browser = server.browser()
    browser.base_url = "https://testserver"
    answer = browser.post("/login", data={"name": "Olga", "password": PASSWORD})
    assert answer.headers["set-cookie"].startswith("__Host-prefloop-") and "Secure" in answer.headers["set-cookie"]
    assert browser.get("/account").status_code == 200


def test_a_planted_session_is_worth_nothing(server: Server) -> None:
    """In session fixation, whatever cookie was there before a login is not the one after it."""
    server.join("owner", "Olga")
    browser = server.browser("Olga")
    name = next(iter(browser.cookies))
    victim = server.browser()
    victim.cookies.set(name, "planted")
    victim.post("/login", data={"name": "Olga", "password": PASSWORD})
    attacker = server.browser()
    attacker.cookies.set(name, "planted")
    assert attacker.get("/account").status_code == 303


@pytest.mark.parametrize(
    ("next", "to"),
    [
        ("/people", "/people"),
        ("/audit?after=3", "/audit?after=3"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example/", "/"),
        ("javascript:alert(1)", "/"),
        ("/x\r\nset-cookie: a=b", "/"),
        ("", "/"),
    ],
)
def test_after_the_login_one_stays_on_this_server(server: Server, next: str, to: str) -> None:
    server.join("owner", "Olga")
    answer = server.browser().post("/login", data={"name": "Olga", "password": PASSWORD, "next": next})
    assert answer.headers["location"] == to
    assert server.browser("Olga").get("/login", params={"next": next}).headers["location"] == to


def test_a_page_asked_for_before_the_login_comes_after_it(server: Server) -> None:
    assert server.browser().get("/audit?after=3").headers["location"] == "/login?next=/audit%3Fafter%3D3"


def test_signing_out_ends_the_session_on_the_server(server: Server) -> None:
    server.join("owner", "Olga")
    browser = server.browser("Olga")
    token = next(iter(browser.cookies.values()))
    assert browser.get("/logout").status_code == 405 and server.people.session(token)
    assert browser.post("/logout").status_code == 303
    assert server.people.session(token) is None and browser.get("/account").status_code == 303


def test_changing_the_password_signs_out_the_other_browsers(server: Server) -> None:
    server.join("owner", "Olga")
    here, there = server.browser("Olga"), server.browser("Olga")
    form = {"password": PASSWORD, "new": NEW, "again": NEW}
    assert here.post("/account/password", data=form | {"password": "wrong password"}).status_code == 403
    assert here.post("/account/password", data=form | {"again": "x"}).status_code == 422
    assert here.post("/account/password", data=form | {"new": "short", "again": "short"}).status_code == 422
    assert there.get("/account").status_code == 200
    assert here.post("/account/password", data=form).status_code == 200
    assert here.get("/account").status_code == 200 and there.get("/account").status_code == 303
    assert server.browser().post("/login", data={"name": "Olga", "password": PASSWORD}).status_code == 401
    assert server.browser().post("/login", data={"name": "Olga", "password": NEW}).status_code == 303


def test_the_account_page_says_where_else_one_is_signed_in(server: Server) -> None:
    server.join("owner", "Olga")
    server.join("annotator", "Anna")
    here, _ = server.browser("Olga"), server.browser("Anna")
    assert "in this browser only" in here.get("/account").text
    there, third = server.browser("Olga"), server.browser("Olga")
    assert "and in 2 others" in here.get("/account").text
    third.post("/logout")
    assert "and in 1 other." in here.get("/account").text
    there.post("/account/password", data={"password": PASSWORD, "new": NEW, "again": NEW})
    assert "in this browser only" in there.get("/account").text


def test_signing_out_everywhere_ends_all_sessions(server: Server) -> None:
    server.join("owner", "Olga")
    here, there = server.browser("Olga"), server.browser("Olga")
    assert here.post("/account/sign-out").status_code == 303
    assert here.get("/account").status_code == there.get("/account").status_code == 303


def test_an_owner_gives_a_new_password_that_is_shown_once(server: Server) -> None:
    server.join("owner", "Olga")
    anna = server.join("annotator", "Anna")
    olga, hers = server.browser("Olga"), server.browser("Anna")
    page = olga.post(f"/people/{anna}/password")
    password = re.search(r'id="password">([^<]+)<', page.text)
    assert password and password[1] not in olga.get(f"/people/{anna}").text
    assert hers.get("/account").status_code == 303
    assert server.browser().post("/login", data={"name": "Anna", "password": password[1]}).status_code == 303


def test_excluding_locking_out_and_back(server: Server) -> None:
    server.join("owner", "Olga")
    anna = server.join("annotator", "Anna")
    olga, hers = server.browser("Olga"), server.browser("Anna")
    olga.post(f"/people/{anna}/exclude", data={"reason": "clicks <at> random"})
    assert server.people.person(anna).excluded == "clicks <at> random"
    assert "clicks &lt;at&gt; random" in olga.get(f"/people/{anna}").text
    olga.post(f"/people/{anna}/include")
    assert server.people.person(anna).excluded is None
    olga.post(f"/people/{anna}/limit", data={"limit": "12"})
    olga.post(f"/people/{anna}/groups", data={"groups": "law,, law ,medicine"})
    assert server.people.person(anna).limit == 12 and server.people.person(anna).groups == ("law", "medicine")
    assert olga.post(f"/people/{anna}/limit", data={"limit": "-3"}).status_code == 422
    assert olga.post(f"/people/{anna}/groups", data={"groups": ",".join(map(str, range(30)))}).status_code == 422
    olga.post(f"/people/{anna}/disable")
    assert hers.get("/account").status_code == 303
    olga.post(f"/people/{anna}/enable")
    assert server.browser("Anna").get("/account").status_code == 200


def test_the_last_owner_cannot_go(server: Server) -> None:
    mine = server.join("owner", "Olga")
    olga = server.browser("Olga")
    assert olga.post(f"/people/{mine}/role", data={"role": "annotator"}).status_code == 403
    assert olga.post(f"/people/{mine}/disable").status_code == 403
    assert olga.post(f"/people/{mine}/delete", data={"rankings": "keep", "name": "Olga"}).status_code == 403
    assert olga.get("/people").status_code == 200


@pytest.mark.parametrize("rankings", ["keep", "remove"])
def test_deleting_a_person_needs_their_name_and_leaves_none_of_it(server: Server, rankings: str) -> None:
    server.join("owner", "Olga")
    anna = server.join("annotator", "Annabella")
    server.store.add([an_item("one")])
    server.queue.fill()
    olga = server.browser("Olga")
    form = {"rankings": rankings, "name": "Anabella"}
    assert olga.post(f"/people/{anna}/delete", data=form).status_code == 422 and server.people.person(anna)
    answer = olga.post(f"/people/{anna}/delete", data=form | {"name": "Annabella"})
    assert answer.status_code == 200 and "No model has learnt" in answer.text
    for path in ("/people", "/audit"):
        assert "Annabella" not in olga.get(path).text
    assert server.people.by_login("Annabella") is None


def test_a_withdrawn_invitation_does_not_work(server: Server) -> None:
    server.join("owner", "Olga")
    olga = server.browser("Olga")
    link = link_on(olga.post("/people/invite", data={"role": "reviewer"}).text)
    (invite,) = server.people.invites()
    assert olga.post(f"/people/invites/{invite.id}/withdraw").status_code == 303
    assert server.browser().get(link).status_code == 404


def test_the_audit_log_has_it_all_without_secrets(server: Server) -> None:
    server.join("owner", "Olga")
    olga = server.browser("Olga")
    link = link_on(olga.post("/people/invite", data={"role": "annotator"}).text)
    server.browser().post("/login", data={"name": "secret typed as a name", "password": "wrong password"})
    page = olga.get("/audit").text
    assert "login failed" in page and "invite" in page and "Olga" in page
    assert link.rpartition("/")[2] not in page and "typed as a name" not in page
    assert "Nothing more" in olga.get("/audit?before=1").text
    assert page.index("login failed") < page.index("invite"), "newest first"


def test_colours_are_kept_in_a_cookie_and_lead_nowhere_else(server: Server) -> None:
    browser = server.browser()
    assert 'data-theme="auto"' in browser.get("/login").text
    assert browser.post("/theme", data={"theme": "dark", "back": "//evil.example"}).headers["location"] == "/"
    assert 'data-theme="dark"' in browser.get("/login").text
    assert browser.post("/theme", data={"theme": "x onload=1"}).status_code == 422
    browser.cookies.set("prefloop_theme", '"><script>')
    assert "<script>" not in browser.get("/login").text


def test_a_problem_with_a_form_does_not_repeat_what_was_typed(server: Server) -> None:
    answer = server.browser().post("/login", data={"password": "p" * 2000, "name": "x"})
    assert answer.status_code == 422 and "ppp" not in answer.text


def test_two_projects_on_one_host_do_not_share_a_cookie(server: Server) -> None:
    from pathlib import Path

    class Fake:
        class app:
            class state:
                services = replace(server.app.state.services, root=Path("/elsewhere"))

        class url:
            scheme = "http"

    server.join("owner", "Olga")
    assert cookie_name(Fake) not in server.browser("Olga").cookies  # type: ignore[arg-type]
