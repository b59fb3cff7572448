"""Makes responses without store, session or template, and the headers of all responses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from http import HTTPStatus

from starlette.responses import HTMLResponse, JSONResponse, Response

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "font-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        # Scripts may insert HTML only through one policy of ours, for HTML that the server has cleaned.
        "require-trusted-types-for 'script'",
        "trusted-types prefloop",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "x-frame-options": "DENY",
}
RETRY_AFTER_S = 5
AWAY = (
    "The server cannot reach its database at this moment, or is busy. What it has acknowledged is kept. "
    "Try again in a few seconds."
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/static/app.css">
</head>
<body>
<main><section class="narrow">
<h1>{title}</h1>
<p>{message}</p>
<p class="actions"><a class="button main" href="/">Back to the start</a></p>
</section></main>
</body>
</html>
"""


# These titles are for people's pages; programs read the status.
TITLES = {
    400: "This request cannot be read",
    401: "You are not signed in",
    403: "No access",
    404: "Nothing here",
    409: "It has changed meanwhile",
    413: "Too large",
    422: "That cannot be used",
    429: "Too many attempts",
    500: "Something went wrong",
    503: "Not available now",
}


def title(status: int) -> str:
    """Return the title of an error page."""
    return TITLES.get(status) or HTTPStatus(status).phrase


def sentence(message: str) -> str:
    """Return a message as a page shows it. Programs and scripts get the message as it is."""
    text = message[:1].upper() + message[1:]
    return text if text.endswith((".", "!", "?", ":")) else f"{text}."


def wants_page(path: str, accept: str) -> bool:
    """Return whether the response is shown to a person in a browser. Programs and scripts get JSON."""
    return not path.startswith("/api/") and "text/html" in accept


def plain(status: int, message: str, *, as_page: bool, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with the same words for people and for scripts. A 503 says when to try again."""
    more = ({"retry-after": str(RETRY_AFTER_S)} if status == 503 else {}) | dict(headers or {})
    if as_page:
        return HTMLResponse(_PAGE.format(title=title(status), message=escape(sentence(message))), status, more)
    return JSONResponse({"error": message}, status, more)


def on_the_wire(status: int, message: str) -> bytes:
    """Return a complete HTTP response that closes the connection, for requests that never reach the application."""
    body = json.dumps({"error": message}).encode()
    lines = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    lines |= HEADERS | {"cache-control": "no-store"}
    if status == 503:
        lines["retry-after"] = str(RETRY_AFTER_S)
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
    return (head + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n").encode("ascii") + body
