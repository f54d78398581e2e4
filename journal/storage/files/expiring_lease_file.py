"""A lease with a ttl: a locked file with the holder's facts and deadline.

The holder overwrites it at each renewal, without a sync.  The lock shows that the
holder is alive, the deadline that it still works.  A contender that finds the deadline
passed puts another file in its place.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Literal, NamedTuple

from milepost.journal.disk.boot import boot_id
from milepost.journal.disk.disk import within
from milepost.journal.errors import NoSpace, StorageFailed
from milepost.journal.process import forks
from milepost.journal.process.mutex import Mutex
from milepost.journal.storage.files.failures import fail
from milepost.journal.storage.files.lease_lock import LeaseLock
from milepost.journal.storage.leases import (
    TENURE_BYTES,
    Holder,
    Tenure,
    decode_tenure,
    encode_tenure,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.disk.disk import Disk, File
    from milepost.journal.storage.files.folders import Folders

# How long another process may take between two steps of a change of the file.
_GRACE_SECONDS = 0.2
_MOST_BYTES = 16 * 1024

_boot_id = cache(boot_id)

Outcome = Literal["won", "lost"]


class _Term(NamedTuple):
    """A tenure of this contender, and its file."""

    file: File
    tenure: Tenure


class ExpiringLeaseFile:
    """A `Lease` with a ttl.  Safe for threads: one may renew it while another works.

    Args:
        disk: the file operations.
        folders: those of the store.
        name: of the lease.
        ttl_seconds: how long a tenure lasts that is not renewed.
        steady: the clock of the deadlines, the same for all processes.
    """

    def __init__(
        self,
        disk: Disk,
        folders: Folders,
        name: str,
        ttl_seconds: float,
        steady: Callable[[], float],
    ) -> None:
        self._name = name
        self._lock = LeaseLock(disk, folders, name)
        self._ttl_seconds = ttl_seconds
        self._steady = steady
        self._mutex = Mutex()
        self._term: _Term | None = None
        # What was read last: between two renewals a sweep decodes nothing.
        self._read: tuple[bytes, Tenure | None] = b"", None

    @property
    def fence(self) -> int | None:
        """See `Lease.fence`."""
        term = self._held()
        return None if term is None else term.tenure.holder.fence

    def is_held(self) -> bool:
        """See `Lease.is_held`."""
        return self._held() is not None

    def _held(self) -> _Term | None:
        term = self._term
        if term is None or not self._is_in_time(term.tenure):
            return None
        return term if self._lock.is_named(term.file) else None

    def _is_in_time(self, tenure: Tenure | None) -> bool:
        return tenure is not None and tenure.is_live(_boot_id(), self._steady())

    # -- taking it -------------------------------------------------------------------

    def acquire(self, who: str) -> bool:
        """See `Lease.acquire`."""
        try:
            return self._mutex.hold(partial(self._acquire, who))
        except OSError as exc:
            fail(exc, f"cannot take {self._lock.path}")

    def _acquire(self, who: str) -> bool:
        if self.is_held():
            return True
        self._release(forget=False)
        forks.watch(self)
        within(_GRACE_SECONDS, partial(self._contend, who))
        return self.is_held()

    def _contend(self, who: str) -> Outcome | None:
        """Contend once; None if another contender interfered."""
        file = self._lock.take()
        if file is None:
            return self._take_over(who)
        is_won = False
        try:
            term = self._begin(file, self._tenure_in(file), who)
            is_won = self._is_undisputed(file)
        finally:
            if not is_won:
                file.close()
        if not is_won:
            return None
        self._term = term
        return "won"

    def _take_over(self, who: str) -> Outcome | None:
        """Replace a file that is not in force and cannot be locked.

        Its holder let the lease expire, or a process was stopped while it looked.
        """
        if self.is_live():
            return "lost"
        draft = self._lock.take_draft()
        if draft is None:
            return None
        term = None
        try:
            # Again, now that no other contender can replace it: the holder of the file
            # may be a new one.
            if not self.is_live():
                term = self._begin(draft, self._last(), who)
                self._lock.replace()
        except BaseException:
            term = None
            raise
        finally:
            if term is None:
                self._lock.drop_draft(draft)
        self._term = term
        return None if term is None else "won"

    def _last(self) -> Tenure | None:
        file = self._lock.look(even_free=True)
        if file is None:
            return None
        try:
            return self._tenure_in(file)
        finally:
            file.close()

    def _begin(self, file: File, before: Tenure | None, who: str) -> _Term:
        holder = Holder.here(None if before is None else before.holder, who)
        return self._write(file, holder)

    def _write(self, file: File, holder: Holder) -> _Term:
        tenure = Tenure(holder, _boot_id(), self._steady() + self._ttl_seconds)
        line = encode_tenure(tenure)
        if file.pwrite(line, 0) != len(line):
            raise NoSpace(f"no room for {self._lock.path}", hint="free some space")
        return _Term(file, tenure)

    def _is_undisputed(self, file: File) -> bool:
        """Return whether what was just written to `file` is in force.

        A contender decides while it has the draft locked.  One that decides later reads
        what was written.  One that has decided before replaces the file: wait for it.
        """
        is_decided = within(_GRACE_SECONDS, lambda: not self._lock.is_being_replaced())
        return is_decided and self._lock.is_named(file)

    # -- having it -------------------------------------------------------------------

    def renew(self) -> bool:
        """See `Lease.renew`."""
        try:
            return self._mutex.hold(self._renew)
        except OSError as exc:
            fail(exc, f"cannot write {self._lock.path}")

    def _renew(self) -> bool:
        term = self._held()
        if term is None:
            return False
        renewed = self._write(term.file, term.tenure.holder)
        if not self._is_undisputed(term.file):
            return False
        self._term = renewed
        return True

    def release(self, *, forget: bool = False) -> None:
        """See `Lease.release`."""
        self._mutex.hold(partial(self._release, forget=forget))

    def _release(self, *, forget: bool) -> None:
        term = self._term
        if term is None:
            return
        try:
            self._lock.release(term.file, forget=forget)
        except StorageFailed:
            self._term = None  # it is released, and its file stays
            raise
        self._term = None  # after an interruption it is released again

    def after_fork(self) -> None:
        """Leave the lease to the parent: a child's copy would outlive it."""
        self._mutex = Mutex()
        self._release(forget=False)

    # -- looking at it ---------------------------------------------------------------

    def holder(self) -> Holder | None:
        """See `Lease.holder`."""
        tenure = self._look()
        return None if tenure is None else tenure.seen(_boot_id(), self._steady())

    def is_live(self) -> bool:
        """See `Lease.is_live`."""
        return self._is_in_time(self._look())

    def _look(self) -> Tenure | None:
        """Return the tenure in the file, if the file is locked."""
        try:
            file = self._lock.look()
            if file is None:
                return None
            try:
                # Its holder may have just locked it, or be writing.
                look = partial(self._tenure_in, file)
                return look() or within(_GRACE_SECONDS, look)
            finally:
                file.close()
        except OSError as exc:
            fail(exc, f"cannot read {self._lock.path}")

    def _tenure_in(self, file: File) -> Tenure | None:
        raw = file.read(0, TENURE_BYTES)
        if b"\n" not in raw:
            raw = file.read(0, _MOST_BYTES)
        if raw != self._read[0]:
            self._read = raw, decode_tenure(raw, self._name)
        return self._read[1]
