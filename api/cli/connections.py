"""Connections that wait for their client have a deadline, and their number a bound.

Uvicorn has neither for a request whose head never ends, for a body that nobody reads
and for a client that takes no answer.  A connection is always in one of these phases:

| phase | the server waits for | ends it |
|---|---|---|
| head | a request, to the end of its head | `idle` before its first byte, then `head` |
| body | the body of a request that the application reads | the application, with 408 |
| rest | the rest of a body whose request was answered already | `body` |
| work | nothing, the application is at work | the application |
| send | the client to take the answer | `send`, unless enough was taken |

A deadline counts from the beginning of its phase, so that bytes that trickle in move
none.  Where all connections are taken, those that have waited longest for their client
make room for new ones; a request at work is never dropped.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NamedTuple

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio

# A client that takes less of its answer in `send` seconds is not reading it.
_SEND_LEAST_BYTES = 64 * 1024
# Make room for several at once: the search looks at every connection.
_EVICTED_PART = 16


class Bounds(NamedTuple):
    """How many connections there may be, and how long each phase may last."""

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


class Connection(H11Protocol):
    """One connection of a client, bounded."""

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
        """Count it; begin to wait for its request."""
        super().connection_made(transport)
        if len(self.connections) > self._bounds.connections:
            self._make_room()
        self._enter(Phase.HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        super().connection_lost(exc)
        # Uvicorn does so only after an orderly end.
        self._unset_keepalive_if_required()
        self._cancel()

    def data_received(self, data: bytes) -> None:
        """Take what came; a head or a body may have ended."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        super().on_response_complete()
        # What was just answered is over, so the phase begins anew even if it is the
        # same as before.
        self._enter(self._found())

    def pause_writing(self) -> None:
        """Begin to wait for the client to take what is there."""
        super().pause_writing()
        self._is_blocked = True
        self._look()

    def resume_writing(self) -> None:
        """Go on: it took enough."""
        super().resume_writing()
        self._is_blocked = False
        self._look()

    def shutdown(self) -> None:
        """Close it, now or when its request was answered."""
        # h11 refuses to close what has failed already.
        if self.conn.our_state is h11.ERROR:
            self.transport.close()
        else:
            super().shutdown()

    # -- phases --------------------------------------------------------------------

    def _found(self) -> Phase:
        is_answered = self.cycle is None or self.cycle.response_complete
        if self._is_blocked or self.transport.is_closing():
            return Phase.SEND
        if self.conn.their_state is h11.SEND_BODY:
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
        """Drop those that have waited longest for their client, or else this one."""
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
            # Counted no more, though asyncio tells it only later.
            self.connections.discard(each)
