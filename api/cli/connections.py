"""Deadlines for connections that wait for their client, and a bound on their number.

Uvicorn has neither for a head that never ends, for a body that is not read and for a
client that does not receive its answer.  A connection is always in one of these phases:

| phase | the server waits for | ends it |
|---|---|---|
| head | a request, to the end of its head | `idle` before its first byte, then `head` |
| body | the body of a request that the application reads | the application, with 408 |
| rest | the rest of a body whose request has been answered | `body` |
| work | nothing, the application is running | the application |
| send | the client to receive the answer | `send`, unless enough was received |

A deadline counts from the beginning of its phase, so slow bytes do not extend it.  If
all connections are in use, those that have waited longest for their client are closed
for new ones; a running request is never dropped.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NamedTuple

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:  # the extra `fast` is not installed
    HttpToolsProtocol = None  # type: ignore[assignment, misc]

if TYPE_CHECKING:
    import asyncio

    _Protocol = H11Protocol
else:
    _Protocol = object

# A client that receives less of its answer in `send` seconds is not reading it.
_SEND_LEAST_BYTES = 64 * 1024
# Close several at once: the search visits every connection.
_EVICTED_PART = 16
# As h11: what a parser keeps of a head, or of the end of a body, that does not end.
_UNPARSED_MAX_BYTES = 64 * 1024
_HAVE_BODY = frozenset({b"content-length", b"transfer-encoding"})


class Bounds(NamedTuple):
    """The maximum number of connections and the length of each phase."""

    connections: int
    head_seconds: float
    body_seconds: float
    send_seconds: float


class Phase(Enum):
    """What a connection waits for."""

    HEAD = auto()
    BODY = auto()
    REST = auto()
    WORK = auto()
    SEND = auto()


class Connection(_Protocol):
    """A client's connection, with deadlines, on a protocol of uvicorn."""

    def __init__(self, *args: Any, bounds: Bounds, **options: Any) -> None:
        super().__init__(*args, **options)
        self._bounds = bounds
        self._phase = Phase.HEAD
        self._began = 0.0
        self._unsent = 0  # when the deadline was set
        self._is_blocked = False
        self._deadline: asyncio.TimerHandle | None = None

    # -- what asyncio and uvicorn call ---------------------------------------------

    def connection_made(  # type: ignore[override] # as uvicorn has it
        self, transport: asyncio.Transport
    ) -> None:
        """Count the connection and wait for its request."""
        super().connection_made(transport)
        if len(self.connections) > self._bounds.connections:
            self._make_room()
        self._enter(Phase.HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the deadline."""
        super().connection_lost(exc)
        # Uvicorn does so only after an orderly end.
        self._unset_keepalive_if_required()
        self._cancel()

    def data_received(self, data: bytes) -> None:
        """Process data; a head or a body may be complete."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        # The answered request is finished, so the phase restarts even if it has the
        # same name as before.
        self._enter(self._found())

    def pause_writing(self) -> None:
        """Wait for the client to receive the buffered data."""
        super().pause_writing()
        self._is_blocked = True
        self._look()

    def resume_writing(self) -> None:
        """Continue: the client received enough."""
        super().resume_writing()
        self._is_blocked = False
        self._look()

    # -- phases --------------------------------------------------------------------

    def _has_more_body(self) -> bool:
        """Return whether the head of a request has arrived, but not all of its body."""
        raise NotImplementedError

    def _found(self) -> Phase:
        is_answered = self.cycle is None or self.cycle.response_complete
        if self._is_blocked or self.transport.is_closing():
            return Phase.SEND
        if self._has_more_body():
            return Phase.REST if is_answered else Phase.BODY
        return Phase.HEAD if is_answered else Phase.WORK

    def _look(self) -> None:
        found = self._found()
        if found is not self._phase:
            self._enter(found)

    def _enter(self, phase: Phase) -> None:
        self._cancel()
        self._phase = phase
        self._began = self.loop.time()
        self._unsent = self.transport.get_write_buffer_size()
        seconds = {
            Phase.HEAD: self._bounds.head_seconds,
            Phase.REST: self._bounds.body_seconds,
            Phase.SEND: self._bounds.send_seconds,
        }.get(phase)
        if seconds is not None:
            self._deadline = self.loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._deadline = None
        found = self._found()
        taken = self._unsent - self.transport.get_write_buffer_size()
        is_taken = found is Phase.SEND and taken >= _SEND_LEAST_BYTES
        if found is not self._phase or is_taken:
            self._enter(found)
        else:
            self.transport.abort()

    def _cancel(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _make_room(self) -> None:
        """Close the connections that waited longest, or else this one."""
        waiting = [
            each
            for each in self.connections
            if isinstance(each, Connection)
            and each is not self
            and each._phase is not Phase.WORK  # noqa: SLF001 - our own class
        ]
        waiting.sort(key=lambda each: each._began)  # noqa: SLF001 - our own class
        most = max(1, self._bounds.connections // _EVICTED_PART)
        for each in waiting[:most] or [self]:
            each.transport.abort()
            # No longer counted, although asyncio reports the loss only later.
            self.connections.discard(each)


class H11Connection(Connection, H11Protocol):
    """A connection that is parsed in Python."""

    def _has_more_body(self) -> bool:
        return self.conn.their_state is h11.SEND_BODY

    def shutdown(self) -> None:
        """Close the connection, now or after its answer."""
        # h11 refuses to close a failed connection.
        if self.conn.our_state is h11.ERROR:
            self.transport.close()
        else:
            super().shutdown()


if HttpToolsProtocol is None:
    Fastest: type[Connection] = H11Connection
else:

    class HttptoolsConnection(  # type: ignore[misc] # `_Protocol` is h11 for types
        Connection, HttpToolsProtocol
    ):
        """A connection that is parsed by httptools, which has no bound of its own."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._is_in_body = False
            self._unparsed_bytes = 0  # at most, since the parser last gave something

        def _has_more_body(self) -> bool:
            return self._is_in_body

        def data_received(self, data: bytes) -> None:
            """Process data; refuse a head, or a trailer, that is too large."""
            self._unparsed_bytes += len(data)
            super().data_received(data)
            is_open = not self.transport.is_closing()
            if self._unparsed_bytes > _UNPARSED_MAX_BYTES and is_open:
                msg = "Invalid HTTP request received."  # as uvicorn says it
                self.logger.warning(msg)
                self.send_400_response(msg)

        def on_headers_complete(self) -> None:
            """Start the request; its body follows."""
            # After such a head httptools reads no further; the answer is the last one.
            is_last = self.parser.should_upgrade()
            if is_last and not _HAVE_BODY.isdisjoint(name for name, _ in self.headers):
                raise ValueError("a body after `Upgrade`")  # uvicorn answers 400
            self._unparsed_bytes, self._is_in_body = 0, True
            super().on_headers_complete()
            if is_last:
                self.cycle.keep_alive = False

        def on_body(self, body: bytes) -> None:
            """Take a part of the body."""
            self._unparsed_bytes = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            """End the body."""
            self._unparsed_bytes, self._is_in_body = 0, False
            super().on_message_complete()

    Fastest = HttptoolsConnection
