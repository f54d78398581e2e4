"""The gate: checks every request before the application, so handlers can trust it.

| check, in this order | refused with |
|---|---|
| unless it is a probe: `Host` names this server | 400 bad_host |
| if it changes something: it is not from another site's page | 403 cross_site |
| path and query are valid UTF-8 | 422 invalid_request |
| if tokens are configured: it has one with the needed scope | 401, 403 |
| the body is small enough and arrives in time | 413, 408 |
| the body is declared as JSON, within the bounds of depth and keys | 415, 422, 413 |

Only the last two checks read the body.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

import anyio
import anyio.to_thread
from starlette.datastructures import Headers

from milepost.api.http.responses import error_answer
from milepost.api.http.security.body import BodyLimits, Refused, check_shape
from milepost.api.http.security.hosts import HostList, check_host, check_origin
from milepost.api.http.security.tokens import TokenBook, check_bind, scope_needed

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from milepost.api.http.security.tokens import Principal

__all__ = ["BodyLimits", "HostList", "SecurityMiddleware", "TokenBook", "check_bind"]

logger = logging.getLogger("milepost.api")

# Everything else needs a token, if tokens are configured.
OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/openapi.json"})
# Probes use addresses: a kubelet's Host is the address of the pod.  Their answers
# reveal nothing but that a server exists.
PROBE_PATHS = frozenset({"/healthz", "/readyz"})
_HEADERS = [
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]
_CHECK_IN_THREAD_BYTES = 64 * 1024


class SecurityMiddleware:
    """Checks requests, and stores the caller in ``state.principal``.

    Pure ASGI.  An unexpected exception of the application becomes a 500 with code
    ``internal``; its traceback goes to the log only.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: HostList, tokens: TokenBook, limits: BodyLimits
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._tokens = tokens
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse one request, or pass it on with its body already read."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # No WebSockets: a close before the accept becomes a plain 403.
            await send({"type": "websocket.close", "code": 1008})
            return
        answering = _Answering(send)
        try:
            await self._guard(scope, receive, answering)
        except Refused as refused:
            await error_answer(
                refused.status, refused.code, refused.detail, headers=refused.headers
            )(scope, receive, answering)
        except Exception:
            logger.exception("%s %r failed", scope["method"], scope["path"])
            if answering.has_begun:
                # Part of the answer is sent: only a broken connection can report it.
                raise
            await error_answer(500, "internal", "the server failed; its log says why")(
                scope, receive, answering
            )

    async def _guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        method: str = scope["method"]
        client = scope.get("client") or ("",)
        host = ""
        if scope["path"] not in PROBE_PATHS:
            is_in_process = client[0] == "testclient"
            host = check_host(headers, self._hosts, is_in_process=is_in_process)
        check_origin(method, headers, host)
        _check_utf8(scope)
        principal = self._admit(headers)
        scope.setdefault("state", {})["principal"] = principal
        if scope["path"] not in OPEN_PATHS:
            self._authorize(principal, method)
        body = await self._read(headers, receive)
        if body is None:
            return
        if body:
            _check_content_type(headers)
            if len(body) > _CHECK_IN_THREAD_BYTES:
                await anyio.to_thread.run_sync(check_shape, body, self._limits)
            else:
                check_shape(body, self._limits)
        if method == "HEAD":
            # Handled as GET; the server omits the body.
            scope = {**scope, "method": "GET"}
        await self._app(scope, _replay(body, receive), send)

    def _admit(self, headers: Headers) -> Principal | None:
        return self._tokens.principal(headers.getlist("authorization"))

    def _authorize(self, principal: Principal | None, method: str) -> None:
        if principal is None:
            raise Refused(
                401,
                "unauthorized",
                "a valid token is needed: Authorization: Bearer <token>",
                headers={"WWW-Authenticate": "Bearer"},
            )
        needed = scope_needed(method)
        if not principal.may(needed):
            raise Refused(403, "forbidden", f"{principal.actor} has no {needed} scope")

    async def _read(self, headers: Headers, receive: Receive) -> bytes | None:
        """Return the whole body; None if the client disconnected before its end."""
        declared = headers.get("content-length", "")
        if not declared and "transfer-encoding" not in headers:
            return b""  # HTTP/1.1: a request with neither has no body
        if declared.isdecimal() and int(declared[:20]) > self._limits.size_bytes:
            raise self._too_large()
        chunks: list[bytes] = []
        size = 0
        with anyio.move_on_after(self._limits.timeout_seconds) as patience:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                chunk: bytes = message.get("body", b"")
                size += len(chunk)
                if size > self._limits.size_bytes:
                    raise self._too_large()
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
        assert patience.cancelled_caught
        raise Refused(
            408,
            "slow_body",
            f"the body did not arrive within {self._limits.timeout_seconds:g} seconds",
            headers={"Connection": "close"},
        )

    def _too_large(self) -> Refused:
        return Refused(
            413,
            "body_too_large",
            f"the body is larger than the allowed {self._limits.size_bytes} bytes "
            "(api.max_body)",
        )


class _Answering:
    """Sends an answer with the security headers, and records that it began."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            headers = [*message.get("headers", ())]
            given = {name for name, _ in headers}
            headers += [header for header in _HEADERS if header[0] not in given]
            message["headers"] = headers
        await self._send(message)


def _replay(body: bytes, receive: Receive) -> Receive:
    pending: list[Message] = [
        {"type": "http.request", "body": body, "more_body": False}
    ]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


def _check_utf8(scope: Scope) -> None:
    # The server replaces invalid bytes by U+FFFD, which would make two different ids
    # equal.
    for name, raw in (
        ("path", scope.get("raw_path") or b""),
        ("query", scope.get("query_string", b"")),
    ):
        try:
            unquote_to_bytes(raw).decode()
        except UnicodeDecodeError as exc:
            raise Refused(
                422, "invalid_request", f"the {name} is not valid UTF-8"
            ) from exc


def _is_of_browser(headers: Headers) -> bool:
    return any(name == "origin" or name.startswith("sec-fetch-") for name in headers)


def _check_content_type(headers: Headers) -> None:
    # Only this type makes a browser send a preflight for cross-site requests.
    kind = headers.get("content-type", "")
    if not kind and not _is_of_browser(headers):
        return  # as clients of the original endpoints do
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise Refused(
            415,
            "unsupported_media_type",
            f"Content-Type must be application/json, got {kind[:80]!r}",
        )
