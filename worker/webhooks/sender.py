"""One HTTP request to a checked address, bounded in time and size.

The connection goes to an address that was checked, not to what the name resolves to a
moment later.  No redirect is followed and no proxy is used.
"""

from __future__ import annotations

import http
import http.client
import socket
import ssl
import threading
from contextlib import closing, suppress
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from milepost.worker.addresses import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from milepost.worker.addresses import Allowed

    # Returns the addresses of a host; raises OSError.
    Resolve = Callable[[str, int], list[str]]

MAX_ANSWER_BYTES = 64 * 1024
MAX_ERROR_CHARACTERS = 200
_PORTS = {"http": 80, "https": 443}


class Outcome(NamedTuple):
    """The result of an attempt: the status of the answer, or an error."""

    status: int | None = None
    error: str | None = None

    @property
    def is_delivered(self) -> bool:
        """Whether the receiver accepted the event."""
        return self.status is not None and self.error is None


class Target(NamedTuple):
    """Where a request goes, and what it may connect to."""

    url: str
    allowed: Allowed
    timeout_seconds: float


class _Ended(OSError):
    """The request was ended from outside: by its deadline, or by `stop`."""


def resolved(host: str, port: int) -> list[str]:
    """Return the addresses of `host`, from the system's resolver.

    Raises:
        OSError: there are none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Sender:
    """Sends requests, one at a time; `stop` ends the current one."""

    def __init__(self, resolve: Resolve = resolved) -> None:
        self._resolve = resolve
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._why_ended: str | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """End the current request, and refuse later ones."""
        self._is_stopped = True
        self._end("the worker stops")

    def post(self, target: Target, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Send `body` and return the outcome, within the timeout of `target`.

        The resolver of names has its own timeout, which is not included.
        """
        self._why_ended = None
        late = f"no complete answer within {target.timeout_seconds:g} s"
        timer = threading.Timer(target.timeout_seconds, self._end, [late])
        timer.daemon = True
        try:
            addresses = self._checked(target)
            timer.start()
            return self._exchange(target, addresses, headers, body)
        except http.client.HTTPException as exc:
            return Outcome(error=self._why_ended or f"no HTTP: {type(exc).__name__}")
        except (OSError, ValueError) as exc:
            text = self._why_ended or str(exc) or type(exc).__name__
            return Outcome(error=text[:MAX_ERROR_CHARACTERS])
        finally:
            timer.cancel()

    def _checked(self, target: Target) -> list[str]:
        """Return the addresses of the target, if all of them are allowed.

        One that is not allowed refuses all: a name with such a mixture is either wrong
        or an attack.
        """
        parts = urlsplit(target.url)
        host, port = _place(target.url)
        addresses = self._resolve(host, port)
        for address in addresses:
            if why := refusal(address, parts.scheme, target.allowed):
                raise OSError(f"{host} is refused: {why}")
        if not addresses:
            raise OSError(f"{host} has no address")
        return addresses

    def _exchange(
        self,
        target: Target,
        addresses: list[str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> Outcome:
        parts = urlsplit(target.url)
        path = parts._replace(scheme="", netloc="", path=parts.path or "/").geturl()
        with closing(self._connected(target, addresses)) as connected:
            connection = http.client.HTTPConnection(*_place(target.url))
            connection.sock = connected
            connection.request("POST", path, body, {"Host": parts.netloc, **headers})
            with connection.getresponse() as answer:
                # A receiver that is still sending must not see a reset.
                with suppress(OSError, http.client.HTTPException):
                    answer.read(MAX_ANSWER_BYTES)
                return _outcome(answer.status)

    def _connected(self, target: Target, addresses: list[str]) -> socket.socket:
        """Return a connection to the first address that accepts one, with TLS."""
        host, port = _place(target.url)
        problem: OSError | None = None
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            plain = socket.socket(family, socket.SOCK_STREAM)
            try:
                plain.settimeout(target.timeout_seconds)
                self._watch(plain)
                plain.connect((address, port))
                if urlsplit(target.url).scheme == "http":
                    return plain
                # Wraps a duplicate object of the same connection.
                secure = ssl.create_default_context().wrap_socket(
                    plain, server_hostname=host, do_handshake_on_connect=False
                )
            except OSError as exc:
                plain.close()
                if isinstance(exc, _Ended):
                    raise
                problem = exc
                continue
            try:
                self._watch(secure)
                secure.do_handshake()
            except OSError:
                secure.close()
                raise
            return secure
        assert problem is not None, "there is at least one address"
        raise problem

    def _watch(self, connection: socket.socket) -> None:
        """Make `connection` the one that `_end` shuts down."""
        with self._lock:
            self._socket = connection
            if self._is_stopped or self._why_ended is not None:
                raise _Ended

    def _end(self, why: str) -> None:
        with self._lock:
            self._why_ended = why
            if self._socket is not None:
                with suppress(OSError):
                    # Wakes up the thread that uses it.  `SSLSocket.shutdown` would
                    # change the object, which that thread is using.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None, "checked with the settings"
    return parts.hostname, parts.port or _PORTS[parts.scheme]


def _outcome(status: int) -> Outcome:
    if status < http.HTTPStatus.OK:
        return Outcome(status, "no final answer")
    if status < http.HTTPStatus.MULTIPLE_CHOICES:
        return Outcome(status)
    if status < http.HTTPStatus.BAD_REQUEST:
        return Outcome(status, "redirects are not followed")
    return Outcome(status, "the receiver refused the event")
