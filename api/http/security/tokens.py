"""Bearer tokens, their scopes, and the addresses a server may listen on."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from typing import TYPE_CHECKING, NamedTuple, Protocol

from milepost.journal.errors import InvalidArgument, MilepostError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

# Each scope includes those before it.  "read" is every GET.  "write" is every operation
# of a job on its own checkpoints: save, restore, delete, clean up.  These are journaled
# under the token's name, and deleted checkpoints can be undeleted until their trash
# period ends.  "admin" is needed to confirm a plan that removes much of a job; changes
# of tokens, keys or policies over HTTP are reserved for it.
SCOPES = ("read", "write", "admin")
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class TokenLike(Protocol):
    """A configured token: its name, the SHA-256 of its text in hex, its scopes."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def sha256(self) -> str: ...  # noqa: D102
    @property
    def scopes(self) -> Sequence[str]: ...  # noqa: D102


class Principal(NamedTuple):
    """The sender of a request; the journal records `actor`."""

    actor: str
    level: int

    def may(self, scope: str) -> bool:
        """Return whether `scope` is granted."""
        return self.level >= SCOPES.index(scope)


EVERYONE = Principal("api", len(SCOPES) - 1)


class Forbidden(MilepostError):
    """The caller lacks the needed scope; nothing was done."""

    code = "forbidden"


class UnsafeBind(InvalidArgument):
    """Other machines could use the server without a token."""


def hash_token(token: str) -> str:
    """Return the SHA-256 of `token` in hex, as config.toml has it."""
    return hashlib.sha256(token.encode()).hexdigest()


def scope_needed(method: str) -> str:
    """Return the scope that a request with `method` needs."""
    return "read" if method in _READING else "write"


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_bind(host: str, tokens: Collection[object]) -> None:
    """Check that a server may listen on `host`.

    Raises:
        UnsafeBind: other machines could reach it, and there is no token.
    """
    if not tokens and not is_loopback(host):
        raise UnsafeBind(
            f"refusing to listen on {host!r} without a token: anyone who reaches this "
            "machine could read, change and start jobs",
            hint="add a [[api.tokens]] entry to config.toml, or listen on 127.0.0.1",
        )


class TokenBook:
    """The configured tokens.  Without any, every caller is `api`, with all scopes.

    Raises:
        InvalidArgument: a token's hash is not 64 hex digits, or a scope is unknown.
    """

    def __init__(self, tokens: Iterable[TokenLike] = ()) -> None:
        self._entries = [_entry(token) for token in tokens]

    def __bool__(self) -> bool:
        """Return whether requests need a token."""
        return bool(self._entries)

    def principal(self, credentials: Sequence[str]) -> Principal | None:
        """Return the owner of these `Authorization` headers, None if unknown."""
        if not self._entries:
            return EVERYONE
        if len(credentials) != 1:
            return None
        scheme, _, token = credentials[0].partition(" ")
        shown = hashlib.sha256(token.strip().encode("latin-1", "replace")).digest()
        known = None
        for digest, principal in self._entries:
            # Every entry is compared, so that the time reveals nothing.
            if hmac.compare_digest(digest, shown):
                known = principal
        return known if scheme.lower() == "bearer" else None


def _entry(token: TokenLike) -> tuple[bytes, Principal]:
    try:
        digest = bytes.fromhex(token.sha256)
    except ValueError:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise InvalidArgument(
            f"token {token.name!r}: sha256 must be 64 hex digits, the SHA-256 of the "
            "token's text"
        )
    for scope in token.scopes:
        if scope not in SCOPES:
            raise InvalidArgument(
                f"token {token.name!r}: unknown scope {scope!r}; choose among "
                f"{', '.join(SCOPES)}"
            )
    # A token without scopes is valid, and may do nothing.
    level = max((SCOPES.index(scope) for scope in token.scopes), default=-1)
    return digest, Principal(f"token:{token.name}", level)
