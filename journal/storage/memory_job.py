"""One job in memory: its lines, its lock, a rewrite."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.disk.disk import Busy
from milepost.journal.errors import (
    DamagedJournal,
    NestedCall,
    UnreadableState,
)
from milepost.journal.events import codec
from milepost.journal.events.codec import CorruptLine, Mark
from milepost.journal.process.mutex import Mutex
from milepost.journal.storage import removals
from milepost.journal.storage.contract import Position, Version, refuse_other

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from milepost.journal.events.codec import Stored
    from milepost.journal.events.vocabulary import JobRepairedData
    from milepost.journal.storage.contract import (
        LockScope,
        OnPiece,
        Rewrite,
        Snapshot,
    )
    from milepost.journal.storage.removals import Records, Removal


class _Acknowledged(NamedTuple):
    """The stored lines, per event, and their version.  Never changed in place.

    Attributes:
        lines: of a list that only grows.
        end: how many of them are acknowledged.
    """

    lines: list[bytes] = []  # noqa: RUF012 - never changed
    end: int = 0
    last: Mark = Mark()
    version: Version = Version(0, 0)


class MemoryJob:
    """One job, and the interface of its lock holder."""

    def __init__(self, job_id: str, store: Records) -> None:
        self.job_id = job_id
        self.store = store
        self.lock = Mutex()
        self._now = _Acknowledged()
        self._rewrite: MemoryRewrite | None = None

    def version(self) -> Version | None:
        """See `JobStorage.version`."""
        return self._now.version if self._now.end else None

    def position(self) -> Position:
        """See `JobStorage.position`."""
        now = self._now
        return Position(now.last, now.version) if now.end else Position()

    def events(
        self, after: Mark, until_seq: int, on_piece: OnPiece | None = None
    ) -> Iterator[Stored]:
        """See `JobStorage.events`."""
        if until_seq <= after.seq:
            return
        now, seq = self._now, after.seq
        prev = after.hash or (_hash_of(now.lines[seq - 1]) if seq else None)
        for lines in now.lines[seq : min(until_seq, now.end)]:
            try:
                for event, _, size, fault in codec.scan(lines, seq=seq, prev=prev):
                    yield event, size, fault
                    seq, prev = event["seq"], event["hash"]
            except CorruptLine as exc:
                raise self.damage(seq, exc.expected, exc.found) from exc
            if on_piece is not None:
                on_piece(len(lines))

    def lines(self, seq: int) -> tuple[bytes, bytes]:
        """See `JobStorage.lines`."""
        state_line, _, event_line = self._lines_of(seq)[:-1].rpartition(b"\n")
        return state_line, event_line

    def run(self, seq: int, until_seq: int, most: int) -> list[tuple[bytes, bytes]]:
        """See `JobStorage.run`."""
        found, size = [self.lines(seq)], len(self._lines_of(seq))
        for after in range(seq + 1, until_seq + 1):
            size += len(self._lines_of(after))
            if size > most:
                break
            found.append(self.lines(after))
        return found

    def first_bytes(self, seq: int, most: int) -> bytes:
        """See `JobStorage.first_bytes`."""
        return self._lines_of(seq)[:most]

    def _lines_of(self, seq: int) -> bytes:
        if not 0 < seq <= self._now.end:
            raise UnreadableState(f"event {seq} does not exist")
        return self._now.lines[seq - 1]

    def damage(self, after_seq: int, expected: str, found: str) -> DamagedJournal:
        """See `JobStorage.damage`."""
        before = b"".join(self._now.lines[:after_seq])
        return DamagedJournal(
            self.job_id,
            line=before.count(b"\n") + 1,
            offset=len(before),
            expected=expected,
            found=found,
        )

    def snapshot(self, at: Position) -> None:
        """See `JobStorage.snapshot`: no other process opens this job."""

    def keep_snapshot(self, snapshot: Snapshot, version: Version) -> None:
        """See `JobStorage.keep_snapshot`."""

    def drop_snapshot(self) -> None:
        """See `JobStorage.drop_snapshot`."""

    def hold(self, *, wait: bool = True) -> LockScope[HeldMemoryJob]:
        """See `JobStorage.hold`."""
        return MemoryLockScope(self, wait=wait)

    def take(self) -> HeldMemoryJob | None:
        """See `JobStorage.take`."""
        return HeldMemoryJob(self) if self.lock.acquire(0) else None

    def let_go(self) -> None:
        """See `JobStorage.let_go`."""
        self.lock.release()

    def refuse_nested(self) -> None:
        """See `JobStorage.refuse_nested`."""
        if self.lock.is_mine:
            raise NestedCall.inside()

    @contextmanager
    def rewriting(self) -> Iterator[MemoryRewrite]:
        """See `JobStorage.rewriting`."""
        rewrite = MemoryRewrite(self)
        try:
            self.lock.hold(partial(self._begin, rewrite))
            yield rewrite
        finally:
            if self._rewrite is rewrite:
                self._rewrite = None

    def _begin(self, rewrite: MemoryRewrite) -> None:
        if self._rewrite is not None:
            raise Busy
        self._rewrite = rewrite

    def sweep(self) -> None:
        """See `JobStorage.sweep`: a copy ends with its process."""

    def repairs(self) -> list[JobRepairedData]:
        """See `JobStorage.repairs`: nothing is ever cut."""
        return []

    # -- under the lock ----------------------------------------------------------------

    def add(self, lines: Sequence[bytes], last: Mark) -> Version:
        """Acknowledge `lines` after the last event; return the new version."""
        now = self._now
        kept = now.lines if now.end else []
        del kept[now.end :]  # left by an interrupted append
        kept += lines
        size = now.version.size + sum(map(len, lines))
        version = now.version._replace(size=size)
        self._now = _Acknowledged(kept, len(kept), last, version)
        return version

    def put(self, lines: list[bytes], last: Mark) -> None:
        """Replace all lines."""
        version = Version(self._now.version.generation + 1, sum(map(len, lines)))
        self._now = _Acknowledged(lines, len(lines), last, version)

    def is_being_rewritten(self) -> bool:
        """Return whether a rewrite is in progress."""
        return self._rewrite is not None

    def lines_after(self, seq: int) -> list[bytes]:
        """Return the acknowledged lines of the events after `seq`."""
        return self._now.lines[seq : self._now.end]


class HeldMemoryJob:
    """A job in memory whose lock is held; see `HeldJob`."""

    def __init__(self, job: MemoryJob) -> None:
        self._job = job

    @property
    def position(self) -> Position:
        """See `HeldJob.position`."""
        return self._job.position()

    @property
    def version(self) -> Version | None:
        """See `HeldJob.version`."""
        return self._job.version()

    def append(self, expected: Mark, lines: Sequence[bytes], last: Mark) -> Version:
        """See `HeldJob.append`."""
        refuse_other(self._job.job_id, self._job.position().last, expected)
        return self._job.add(lines, last)

    def repairs(self) -> list[JobRepairedData]:
        """See `HeldJob.repairs`."""
        return []

    def recall(self, seen: Mark) -> None:
        """See `HeldJob.recall`: memory is never restored from a backup."""

    def finish(self, rewrite: Rewrite) -> tuple[int, int]:
        """See `HeldJob.finish`."""
        assert isinstance(rewrite, MemoryRewrite)
        rewrite.new += self._job.lines_after(len(rewrite.new))
        at = self._job.version()
        return 0 if at is None else at.size, sum(map(len, rewrite.new))

    def replace(self, rewrite: Rewrite, lines: Sequence[bytes], last: Mark) -> None:
        """See `HeldJob.replace`."""
        assert isinstance(rewrite, MemoryRewrite)
        self._job.put([*rewrite.new, *lines], last)

    def remove_salvage_files(self, names: Iterable[str]) -> None:
        """See `HeldJob.remove_salvage_files`: there are none."""

    def remove(self, removal: Removal) -> None:
        """See `HeldJob.remove`."""
        job = self._job
        refuse_other(job.job_id, job.position().last, removal.last)
        if job.is_being_rewritten():
            raise Busy
        opened = codec.peek(job.lines(1)[1])
        assert opened is not None, "the first line opens the job"
        removals.bury(job.store, codec.origin_of(opened), removal)
        job.put([], Mark())


class MemoryRewrite:
    """New lines that will replace those of a job; see `Rewrite`."""

    def __init__(self, job: MemoryJob) -> None:
        self._job = job
        self.new: list[bytes] = []

    def copy(
        self,
        until_seq: int,
        lines_of: Callable[[int, bytes], bytes],
        on_piece: OnPiece | None = None,
    ) -> None:
        """See `Rewrite.copy`."""
        old = self._job.lines_after(0)
        for event, _, _ in self._job.events(Mark(), until_seq, on_piece):
            seq, lines = event["seq"], old[event["seq"] - 1]
            self.new.append(lines_of(seq, lines) if codec.has_state(event) else lines)

    def follow(self) -> None:
        """See `Rewrite.follow`: copying the rest under the lock is quick."""


class MemoryLockScope:
    """The lock scope of one job in memory."""

    def __init__(self, job: MemoryJob, *, wait: bool) -> None:
        self._job = job
        self._wait = wait
        self._is_mine = False

    def __enter__(self) -> HeldMemoryJob:
        self._job.refuse_nested()
        self._is_mine = True
        if not self._job.lock.acquire(-1 if self._wait else 0):
            raise Busy
        return HeldMemoryJob(self._job)

    def __exit__(self, *exc: object) -> None:
        self.release()

    def release(self) -> None:
        """See `LockScope.release`."""
        if self._is_mine:
            self._job.lock.release()


def _hash_of(lines: bytes) -> str:
    event = codec.peek(lines[:-1].rpartition(b"\n")[2])
    assert event is not None, "what was appended are event lines"
    return event["hash"]
