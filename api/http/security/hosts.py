"""Which names a request may call this server by, and where it may come from.

A page of a stranger can make a visitor's browser talk to 127.0.0.1.  Two things give it
away: the name that the browser asked for (DNS rebinding keeps the stranger's name in
`Host`), and the page's own origin on everything that changes something.  An address in
`Host` comes from no DNS, so a server that listens on all addresses answers to each.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from milepost.api.http.security.body import Refused
from milepost.journal.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.datastructures import Headers

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_WILDCARDS = frozenset({"", "0.0.0.0", "::", "[::]"})  # noqa: S104 - not bound here
ANY = "*"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class HostList:
    """The names that this server answers to; ``*.example.org`` names all below it.

    ``*`` is every name.  It is safe only where requests need a token, which a page of a
    stranger has not; see `check_names`.

    Attributes:
        is_open: every name is one of ours.

    Raises:
        InvalidArgument: a name is no host name.
    """

    def __init__(self, bound: str, allowed: Iterable[str] = ()) -> None:
        given = set(allowed)
        self.is_open = ANY in given
        names = {_normal(name) for name in given - {ANY}}
        self._has_any_address = bound in _WILDCARDS
        if not self._has_any_address:
            names.add(_normal(bound))
        self._suffixes = tuple(name[1:] for name in names if name.startswith("*."))
        self._names = _LOOPBACK | {name for name in names if not name.startswith("*")}

    def __contains__(self, host: str) -> bool:
        """Say whether `host`, as it stands in a request, is one of ours."""
        matched = _HOST.fullmatch(host)
        if matched is None:
            return False
        name = matched[1].lower().removesuffix(".")
        if self.is_open or name in self._names or name.endswith(self._suffixes):
            return True
        return self._has_any_address and _is_address(name)


def check_names(hosts: HostList, tokens: object) -> None:
    """Return if a server may answer to `hosts`; `tokens` is true if it asks for one.

    Raises:
        InvalidArgument: it answers to every name, and there is no token.
    """
    if hosts.is_open and not tokens:
        raise InvalidArgument(
            f"api.allowed_hosts: {ANY!r} needs a token: without one, any web page that "
            "somebody on this machine visits could read and change jobs",
            hint="name the hosts, or add a [[api.tokens]] entry to config.toml",
        )


def _is_address(name: str) -> bool:
    try:
        # 0.0.0.0 reaches this machine from any page, in some browsers.
        return not ipaddress.ip_address(name.strip("[]")).is_unspecified
    except ValueError:
        return False


def _normal(name: str) -> str:
    wildcard, bare = ("*.", name[2:]) if name.startswith("*.") else ("", name)
    if bare.count(":") > 1 and not bare.startswith("["):
        bare = f"[{bare}]"
    matched = _HOST.fullmatch(bare)
    if matched is None:
        raise InvalidArgument(f"api.allowed_hosts: {name!r} is no host name")
    return wildcard + matched[1].lower().removesuffix(".")


def check_host(headers: Headers, hosts: HostList, *, is_in_process: bool) -> str:
    """Return the `Host` of a request that names this server.

    `is_in_process` is true for a test client that reaches the application without a
    socket: what it calls itself cannot come out of a browser.

    Raises:
        Refused: 400 ``bad_host``: it names another server, several, or none.
    """
    named = headers.getlist("host")
    if len(named) == 1 and (
        named[0] in hosts or (is_in_process and named[0] == "testserver")
    ):
        return named[0]
    shown = ", ".join(repr(name[:80]) for name in named) or "none"
    raise Refused(
        400,
        "bad_host",
        f"this server does not answer to Host {shown}; add the name to "
        "api.allowed_hosts if it should",
    )


def check_origin(method: str, headers: Headers, host: str) -> None:
    """Return if a request that changes something comes from no foreign page.

    Programs send neither header; browsers always say where a POST or DELETE comes from.

    Raises:
        Refused: 403 ``cross_site``.
    """
    if method in _SAFE_METHODS:
        return
    site = headers.get("sec-fetch-site")
    if site is not None and site not in {"same-origin", "none"}:
        raise Refused(403, "cross_site", f"refused: the request is {site[:40]}")
    for origin in headers.getlist("origin"):
        # The scheme is left out: behind a proxy that ends TLS it differs from ours.
        _, _, authority = origin.partition("://")
        if authority.lower() != host.lower():
            raise Refused(
                403, "cross_site", f"refused: the request comes from {origin[:80]!r}"
            )
