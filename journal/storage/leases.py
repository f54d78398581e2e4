"""Leases of a store: the right to do some work, held by one process at a time."""

from __future__ import annotations

import os
import socket
from datetime import datetime
from typing import NamedTuple, Protocol

import orjson

from milepost.journal.clock import moment, stamp, utc_now
from milepost.journal.errors import NewerFormat, StorageFailed

FORMAT = 1


class Holder(NamedTuple):
    """The holder of a lease.

    Attributes:
        fence: the number of its tenure, greater than that of every earlier one.
        who: the work that it is held for.
        since: the start of the tenure, by the clock of the host.
    """

    fence: int
    who: str
    host: str
    pid: int
    since: datetime

    @classmethod
    def here(cls, before: Holder | None, who: str) -> Holder:
        """Return this process as the holder after `before`."""
        fence = 1 if before is None else before.fence + 1
        return cls(fence, who, socket.gethostname(), os.getpid(), utc_now())


class Lease(Protocol):
    """A contender for one lease.  Each call of `Storage.lease` returns another one.

    A lease saves work; it does not protect data.  Its holder may lose it at any time
    and notice later: what must not be done twice compares `fence`, or an expected seq.
    """

    @property
    def fence(self) -> int | None:
        """The number of this contender's tenure; None if it does not hold the lease.

        It grows with every new tenure of the lease, across processes and restarts.
        """

    def acquire(self, who: str) -> bool:
        """Take the lease if it is free, without waiting; return whether it is held.

        Taken, it is held until `release`, or until its process ends, or, in a storage
        whose leases expire, until it was not renewed in time.

        Raises:
            StorageFailed: it cannot be taken, or the store does not exist.
        """

    def renew(self) -> bool:
        """Extend the lease; return whether it is still held.

        The holder calls it at least once a second.  A lease that was lost is not taken
        again.
        """

    def is_held(self) -> bool:
        """Return whether this contender holds the lease; checked before each action."""

    def holder(self) -> Holder | None:
        """Return the current holder, in any process; None if the lease is free.

        Raises:
            NewerFormat, StorageFailed: its facts cannot be read.
        """

    def release(self) -> None:
        """Release the lease if it is held; idempotent."""


def encode(holder: Holder) -> bytes:
    """Return the facts of `holder` as stored."""
    facts = holder._asdict() | {"since": stamp(holder.since)}
    return orjson.dumps({"format": FORMAT, **facts}) + b"\n"


def decode(raw: bytes, name: str) -> Holder:
    """Return the holder of lease `name` in its stored facts.

    Raises:
        NewerFormat: a newer version wrote them.
        StorageFailed: they are malformed.
    """
    try:
        facts = orjson.loads(raw)
        format_ = facts.pop("format")
        if format_ == FORMAT:
            return Holder(
                int(facts["fence"]),
                str(facts["who"]),
                str(facts["host"]),
                int(facts["pid"]),
                moment(facts["since"]),
            )
    except (ValueError, TypeError, LookupError, AttributeError) as exc:
        raise StorageFailed(
            f"lease {name!r}: the facts of its holder are malformed",
            hint="stop every process of the store, then remove them",
        ) from exc
    raise NewerFormat(
        f"lease {name!r} has format {format_}, this version knows {FORMAT}",
        hint="upgrade",
    )
