"""Leases of a store: the right to do some work, held by one process at a time."""

from __future__ import annotations

import math
import os
import socket
import zlib
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import orjson

from milepost.journal.clock import moment, stamp, utc_now
from milepost.journal.errors import InvalidArgument, NewerFormat, StorageFailed

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

FORMAT = 1
TENURE_BYTES = 512  # a longer one takes more
_CRC_SUFFIX_BYTES = len(b',"crc":"01234567"}\n')


class Holder(NamedTuple):
    """The holder of a lease.

    Attributes:
        fence: the number of its tenure, greater than that of every earlier one.
        who: the work that it is held for.
        since: the start of the tenure, by the clock of the host.
        deadline: when the lease expires unless it is renewed, by the clock of the host;
            None if it does not expire.
        is_expired: the deadline has passed: the lease is lost, and the next contender
            gets it.
    """

    fence: int
    who: str
    host: str
    pid: int
    since: datetime
    deadline: datetime | None = None
    is_expired: bool = False

    @classmethod
    def here(cls, before: Holder | None, who: str) -> Holder:
        """Return this process as the holder after `before`."""
        fence = 1 if before is None else before.fence + 1
        return cls(fence, who, socket.gethostname(), os.getpid(), utc_now())


class Tenure(NamedTuple):
    """The tenure of a lease, renewed or not.

    Attributes:
        boot: the boot that `until` counts from, empty if unknown.
        until: the deadline, by the clock since boot; infinite without a ttl.
    """

    holder: Holder
    boot: str
    until: float

    def is_live(self, boot: str, now: float) -> bool:
        """Return whether the lease is held at `now`, by the clock since `boot`."""
        is_same_boot = self.boot == boot or not self.boot or not boot
        return is_same_boot and now < self.until

    def seen(self, boot: str, now: float) -> Holder:
        """Return the holder as it is seen at `now`, by the clock since `boot`."""
        if self.until == math.inf:
            return self.holder
        deadline = utc_now() + timedelta(seconds=self.until - now)
        return self.holder._replace(
            deadline=deadline, is_expired=not self.is_live(boot, now)
        )


class Lease(Protocol):
    """A contender for one lease.  Each call of `Storage.lease` returns another one.

    A lease saves work; it does not protect data.  Its holder may lose it at any time
    and notice later: what must not be done twice compares `fence`, or an expected seq.
    """

    @property
    def fence(self) -> int | None:
        """The number of this contender's tenure; None if it does not hold the lease.

        It grows with every new tenure of the lease, across processes and restarts.  It
        begins again at 1 once the lease was forgotten; a lease with a ttl may also be
        forgotten when the machine crashes.
        """

    def acquire(self, who: str) -> bool:
        """Take the lease if it is free or expired; return whether it is held.

        Does not wait for the holder.  Taken, it is held until `release`, or until its
        process ends, or, if it has a ttl, until it was not renewed for so long.

        Raises:
            StorageFailed: it cannot be taken, or the store does not exist.
        """

    def renew(self) -> bool:
        """Extend the lease; return whether it is still held.

        The holder of a lease without a ttl calls it at least once a second, that of one
        with a ttl every third of it.  It costs no sync.  A lease that was lost is not
        taken again.

        Raises:
            StorageFailed: it cannot be extended; it expires unless a later call works.
        """

    def is_held(self) -> bool:
        """Return whether this contender holds the lease; checked before each action."""

    def holder(self) -> Holder | None:
        """Return the current holder, in any process; None if the lease is free.

        A holder that has not renewed the lease in time is returned, as expired.

        Raises:
            NewerFormat, StorageFailed: its facts cannot be read.
        """

    def is_live(self) -> bool:
        """Return whether any contender holds the lease, in any process.

        As `holder`, but cheaper: a sweep asks it of thousands of leases.  Cheaper still
        if it keeps the contender.

        Raises:
            NewerFormat, StorageFailed: as `holder`.
        """

    def release(self, *, forget: bool = False) -> None:
        """Release the lease if it is held; idempotent.

        Args:
            forget: remove all traces of it: the store keeps nothing, and the next fence
                is 1.  Nothing is removed unless this contender was the last holder.

        Raises:
            StorageFailed: it is released, and its traces cannot be removed.
        """


def check_ttl(ttl_seconds: float | None) -> float | None:
    """Return the ttl of a lease if it is valid.

    Raises:
        InvalidArgument: it is not.
    """
    if ttl_seconds is not None and not 0 < ttl_seconds < math.inf:
        raise InvalidArgument(
            f"ttl_seconds is {ttl_seconds!r}: a lease expires after more than 0 s"
        )
    return ttl_seconds


def encode(holder: Holder) -> bytes:
    """Return the facts of `holder` as stored, without its deadline."""
    return orjson.dumps(_facts(holder)) + b"\n"


def _facts(holder: Holder) -> dict[str, Any]:  # values of JSON
    return {
        "format": FORMAT,
        "fence": holder.fence,
        "who": holder.who,
        "host": holder.host,
        "pid": holder.pid,
        "since": stamp(holder.since),
    }


def decode(raw: bytes, name: str) -> Holder:
    """Return the holder of lease `name` in its stored facts.

    Raises:
        NewerFormat: a newer version wrote them.
        StorageFailed: they are malformed.
    """
    return _decode(raw, name, _holder)


def encode_tenure(tenure: Tenure) -> bytes:
    """Return a padded line with a checksum: others read it while it is overwritten."""
    facts = _facts(tenure.holder) | {"boot": tenure.boot, "until": tenure.until}
    body = orjson.dumps(facts)[:-1]
    line = b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(body))
    return line.ljust(TENURE_BYTES)


def decode_tenure(raw: bytes, name: str) -> Tenure | None:
    """Return the tenure of lease `name` in the first line of `raw`.

    None if the line is not whole.

    Raises:
        NewerFormat, StorageFailed: as `decode`.
    """
    line = raw[: raw.find(b"\n") + 1]
    body = line[:-_CRC_SUFFIX_BYTES]
    if line[-_CRC_SUFFIX_BYTES:] != b',"crc":"%08x"}\n' % zlib.crc32(body):
        return None
    return _decode(line, name, _tenure)


def _holder(facts: dict[str, Any]) -> Holder:
    return Holder(
        int(facts["fence"]),
        str(facts["who"]),
        str(facts["host"]),
        int(facts["pid"]),
        moment(facts["since"]),
    )


def _tenure(facts: dict[str, Any]) -> Tenure:
    return Tenure(_holder(facts), str(facts["boot"]), float(facts["until"]))


def _decode(raw: bytes, name: str, made_of: Callable[[dict[str, Any]], _T]) -> _T:
    try:
        facts = orjson.loads(raw)
        format_ = facts["format"]
        if format_ == FORMAT:
            return made_of(facts)
    except (ValueError, TypeError, LookupError, AttributeError) as exc:
        raise StorageFailed(
            f"lease {name!r}: the facts of its holder are malformed",
            hint="stop every process of the store, then remove them",
        ) from exc
    raise NewerFormat(
        f"lease {name!r} has format {format_}, this version knows {FORMAT}",
        hint="upgrade",
    )
