"""Allowed values of `Host` and `Origin`.

A foreign page can make a visitor's browser send requests to 127.0.0.1.  Two headers
reveal it: `Host` (with DNS rebinding it is still the foreign name), and the page's
`Origin` on requests that change something.  An address in `Host` did not come from DNS,
so a server that listens on all addresses accepts each of them.
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
    """The host names of this server; ``*.example.org`` covers all subdomains.

    ``*`` is every name.  It is safe only if requests need a token, which a foreign page
    does not have; see `check_names`.

    Attributes:
        is_open: every name is allowed.

    Raises:
        InvalidArgument: a name is not a host name.
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
        """Return whether `host`, as written in a request, is allowed."""
        matched = _HOST.fullmatch(host)
        if matched is None:
            return False
        name = matched[1].lower().removesuffix(".")
        if self.is_open or name in self._names or name.endswith(self._suffixes):
            return True
        return self._has_any_address and _is_address(name)


def check_names(hosts: HostList, tokens: object) -> None:
    """Check that a server may answer to `hosts`; `tokens` is true if it needs one.

    Raises:
        InvalidArgument: every name is allowed, and there is no token.
    """
    if hosts.is_open and not tokens:
        raise InvalidArgument(
            f"api.allowed_hosts: {ANY!r} needs a token: without one, any web page open "
            "in a browser on this machine could read and change jobs",
            hint="name the hosts, or add a [[api.tokens]] entry to config.toml",
        )


def _is_address(name: str) -> bool:
    try:
        # In some browsers, any page can reach this machine as 0.0.0.0.
        return not ipaddress.ip_address(name.strip("[]")).is_unspecified
    except ValueError:
        return False


def _normal(name: str) -> str:
    wildcard, bare = ("*.", name[2:]) if name.startswith("*.") else ("", name)
    if bare.count(":") > 1 and not bare.startswith("["):
        bare = f"[{bare}]"
    matched = _HOST.fullmatch(bare)
    if matched is None:
        raise InvalidArgument(f"api.allowed_hosts: {name!r} is not a host name")
    return wildcard + matched[1].lower().removesuffix(".")


def check_host(headers: Headers, hosts: HostList, *, is_in_process: bool) -> str:
    """Return the `Host` of a request that names this server.

    `is_in_process` is true for a test client that calls the application without a
    socket, so its `Host` cannot come from a browser.

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
    """Refuse a request that changes something and comes from a foreign page.

    Programs send neither header; browsers always send one with a POST or DELETE.

    Raises:
        Refused: 403 ``cross_site``.
    """
    if method in _SAFE_METHODS:
        return
    site = headers.get("sec-fetch-site")
    if site is not None and site not in {"same-origin", "none"}:
        raise Refused(403, "cross_site", f"refused: the request is {site[:40]}")
    for origin in headers.getlist("origin"):
        # The scheme is ignored: behind a proxy that terminates TLS it differs.
        _, _, authority = origin.partition("://")
        if authority.lower() != host.lower():
            raise Refused(
                403, "cross_site", f"refused: the request comes from {origin[:80]!r}"
            )
