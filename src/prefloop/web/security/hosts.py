"""Says which host names this server answers to, and which address its links use.

A link made from the Host header of a request could lead where an attacker wants. A page of another site whose name is
made to point to this machine (DNS rebinding) would count as one of ours. Therefore a name must be known.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import Scope

from prefloop.config import Annotate
from prefloop.errors import ConfigError

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?", re.ASCII)


_REMEDY = (
    'If people reach it by this name, set [annotate] public_url = "{address}" in prefloop.toml, or add the name to '
    "[annotate] hosts; then start it again."
)


@dataclass(frozen=True)
class Hosts:
    """Holds the names of this server.

    names:  in lower case, without port
    public: `[annotate] public_url` without a slash at the end, or ""
    remedy: what to do where people reach it by another name; it may hold {name} and {address}
    """

    names: frozenset[str]
    public: str = ""
    remedy: str = _REMEDY

    @classmethod
    def of(cls, settings: Annotate, bound: str = "", remedy: str = _REMEDY) -> Hosts:
        """Return the names from the settings. Raises ConfigError for settings that name no host or no network.

        bound: what the server listens on
        """
        public = (settings.public_url or "").rstrip("/")
        parts = urlsplit(public)
        if public and (parts.scheme not in ("http", "https") or not _HOST.fullmatch(parts.netloc) or parts.path):
            raise ConfigError(
                f"[annotate] public_url = {settings.public_url!r} is no address of a server. Write https://host, with "
                "a port where it has one, and no path"
            )
        for name in settings.hosts:
            if not _HOST.fullmatch(name):
                raise ConfigError(f"[annotate] hosts: {name!r} is no host name. Write rank.example.org")
        for network in settings.proxies:
            try:
                ip_network(network, strict=False)
            except ValueError:
                raise ConfigError(
                    f"[annotate] proxies: {network!r} is neither an address nor a network. Write 127.0.0.1 or "
                    "10.0.0.0/8: whoever is named there decides what address a client has"
                ) from None
        machine = socket.gethostname()
        own = ("localhost", machine, f"{machine.partition('.')[0]}.local", bound, parts.netloc, *settings.hosts)
        return cls(frozenset(_name(name) for name in own if name), public, remedy)

    def refusal(self, scope: Scope, stated: list[str]) -> tuple[int, str] | None:
        """Return (status, reason) for a request whose Host is not one of this server's names; None if it is.

        stated: all Host headers. An old client sends none, and then means the address that it is connected to.
        """
        if not stated:
            return None
        if len(stated) > 1 or not _HOST.fullmatch(stated[0]):
            return 400, "the header Host does not name a host"
        name = _name(stated[0])
        if name in self.names or self._is_own_address(name, scope):
            return None
        address = f"{scope['scheme']}://{stated[0]}"
        how = self.remedy.format(name=name, address=address)
        return 421, f"This server is not known as {name}. {how}"

    def _is_own_address(self, name: str, scope: Scope) -> bool:
        here = str((scope.get("server") or ("",))[0]).lower()
        address = _address(name)
        return name == here or address is not None and (address.is_loopback or address == _address(here))

    def is_public(self, host: str) -> bool:
        """Return whether a Host header is that of `public_url`, including the port."""
        return bool(self.public) and host.lower() == urlsplit(self.public).netloc.lower()

    def is_ours(self, origin: str, host: str) -> bool:
        """Return whether an origin belongs to this server, which was called as `host`."""
        _, _, named = origin.lower().partition("://")
        return named != "" and named in (host.lower(), self.public.lower().partition("://")[2])

    def address(self, request: Request) -> str:
        """Return the start of links for others: as configured, or as this request reached the server."""
        return self.public or str(request.base_url).rstrip("/")


def _name(host: str) -> str:
    """Return a host without port and brackets, in lower case, without a dot at the end."""
    found = _HOST.fullmatch(host)
    return (found[1] if found else host).strip("[]").rstrip(".").lower()


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(name)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found
