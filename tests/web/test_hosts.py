"""The server answers to the right names, and its links lead to the right place."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable

import pytest

from prefloop.config import Annotate
from prefloop.errors import ConfigError
from prefloop.web.security.hosts import Hosts

from .conftest import PASSWORD, Server

NAME = socket.gethostname()


def invitation(server: Server, host: str | None = None) -> str:
    server.join("owner", "Olga")
    headers = {} if host is None else {"host": host}
    page = server.browser("Olga").post("/people/invite", data={"role": "annotator"}, headers=headers)
    found = re.search(r'id="link">([^<]+)/join/', page.text)
    return found[1] if found else str(page.status_code)


def test_an_invitation_leads_to_the_public_address_whatever_host_was_asked(make_server: Callable[..., Server]) -> None:
    server = make_server(public_url="https://rank.example.org:8443/")
    assert invitation(server) == "https://rank.example.org:8443"
    page = server.browser("Olga").post("/people/invite", data={"role": "annotator"}, headers={"host": "evil.example"})
    assert page.status_code == 421 and "/join/" not in page.text


def test_without_a_public_address_it_leads_to_where_the_server_was_reached(server: Server) -> None:
    assert invitation(server, "localhost:9000") == "http://localhost:9000"


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8300", "127.0.0.1", "127.0.0.1:9", "[::1]:8300", "testserver", NAME, f"{NAME}.:80"]
    + ["rank.example.org", "Rank.Example.org:443", "other.example", "192.0.2.7:8300"],
)
def test_known_names_are_answered(make_server: Callable[..., Server], host: str) -> None:
    server = make_server(public_url="https://rank.example.org", hosts=["other.example", "192.0.2.7"])
    assert server.browser().get("/login", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("192.0.2.7", 421),
        ("[2001:db8::1]", 421),
        ("rank.example.org", 421),
        ("", 400),
        ("localhost/evil", 400),
        ("evil.example@localhost", 400),
        ("localhost:8300, evil.example", 400),
        ("localhost evil", 400),
        ("localhost:port", 400),
        ("l\u00f6calhost", 400),
    ],
)
@pytest.mark.parametrize("path", ["/login", "/static/app.css", "/api/openapi.json", "/people/"])
def test_other_names_are_refused_with_the_setting_that_would_allow_them(
    server: Server, host: str, status: int, path: str
) -> None:
    answer = server.browser().get(path, headers={"host": host.encode()})
    assert answer.status_code == status and answer.headers["content-security-policy"]
    if status == 421:
        assert "[annotate] public_url" in answer.text and "[annotate] hosts" in answer.text


def test_a_page_of_the_public_address_may_write_though_a_proxy_changed_the_host(
    make_server: Callable[..., Server],
) -> None:
    server = make_server(public_url="https://rank.example.org")
    server.join("owner", "Olga")
    browser = server.browser()
    del browser.headers["sec-fetch-site"]
    form = {"name": "Olga", "password": PASSWORD}
    for origin, expected in (("https://rank.example.org", 303), ("https://evil.example", 403), ("", 403)):
        assert browser.post("/login", data=form, headers={"origin": origin}).status_code == expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"public_url": "rank.example.org"}, "public_url"),
        ({"public_url": "ftp://rank.example.org"}, "public_url"),
        ({"public_url": "https://rank.example.org/path"}, "public_url"),
        ({"public_url": "https://user@rank.example.org"}, "public_url"),
        ({"hosts": ["https://rank.example.org"]}, "hosts"),
        ({"proxies": ["*"]}, "proxies"),
        ({"proxies": ["10.0.0.0/33"]}, "proxies"),
    ],
)
def test_settings_that_name_no_host_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[annotate\] {said}"):
        Hosts.of(Annotate.model_validate(settings))
