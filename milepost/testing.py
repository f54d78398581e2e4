"""For tests of workflows: a clock that is turned by hand, and crashes.

    from milepost.testing import FakeClock, MemoryStorage, crash_after

docs/testing.md has a complete test.  Nothing here needs a test framework.
"""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from milepost.journal.errors import InvalidArgument
from milepost.journal.storage.memory import MemoryStorage
from milepost.journal.store.store import Store
from milepost.journal.workflow.attempts import end_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from milepost.journal.batch import Batch

__all__ = ["Crash", "Crashed", "FakeClock", "MemoryStorage", "crash_after"]

_START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeClock:
    """A clock that is turned by hand: ``CheckpointManager(…, clock=FakeClock())``.

    Short waits of a workflow turn it, and take no time.

    Args:
        now: the time that it begins with, with a time zone.

    Attributes:
        now: the time.
    """

    def __init__(self, now: datetime = _START) -> None:
        if now.tzinfo is None:
            raise InvalidArgument(f"the time {now} has no time zone")
        self.now = now
        self._guard = threading.Lock()

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now

    def turn(self, **by: float) -> None:
        """Let the time of a ``timedelta(**by)`` pass."""
        with self._guard:
            self.now += timedelta(**by)

    def sleep(self, seconds: float) -> None:
        """Turn the clock instead of waiting."""
        self.turn(seconds=seconds)


class Crashed(BaseException):
    """The process has ended, as far as a program can see.

    Not an `Exception`, so that no handler of the program's own errors catches it.
    """


class Crash:
    """A crash to come.

    Attributes:
        event_type: the type of the events that are counted.
        count: of the last one, after which the process ends.
        seen: how many there were.
        has_happened: whether the process has ended.
    """

    def __init__(self, event_type: str, count: int) -> None:
        self.event_type = event_type
        self.count = count
        self.seen = 0
        self._guard = threading.Lock()

    @property
    def has_happened(self) -> bool:
        """Whether the process has ended."""
        return self.seen >= self.count

    def _count(self, written: Counter[str]) -> bool:
        """Count events that are durable; return whether the process ends now."""
        with self._guard:
            before = self.has_happened
            self.seen += written[self.event_type]
            return self.has_happened and not before


@contextmanager
def crash_after(event_type: str, count: int = 1) -> Iterator[Crash]:
    """End the process once it has written `count` events of a type, in this block.

        with crash_after("step.completed", 2):
            manager.run(ingest, job_id="ingest-7")
        with CheckpointManager(storage=storage, clock=clock) as next_process:
            next_process.run(ingest, job_id="ingest-7")

    The last of the events is durable, and nothing is written after it: the call raises
    `Crashed`, as does every later write of its manager.  The leases of the store are
    free for the next manager.  The block swallows `Crashed`.

    Args:
        event_type: for example ``step.completed`` or ``checkpoint.saved``.
        count: at least 1.

    Raises:
        InvalidArgument: `count` is less than 1.
        AssertionError: the block ended, and there were fewer.
    """
    if count < 1:
        raise InvalidArgument(f"count must be at least 1, got {count}")
    crash, write = Crash(event_type, count), Store.write

    def watched(store: Store, job_id: str, request: Any, **how: Any) -> Any:
        written: Counter[str] = Counter()
        answer = write(store, job_id, partial(_observed, request, written), **how)
        if crash._count(written):  # noqa: SLF001 - the two are one
            setattr(store, "write", _refuse)  # noqa: B010 - it is dead
            end_process(store.storage)
            raise Crashed(f"after {count} events {event_type!r}")
        return answer

    setattr(Store, "write", watched)  # noqa: B010 - until the block ends
    try:
        yield crash
    except Crashed:
        if not crash.has_happened:
            raise
    finally:
        setattr(Store, "write", write)  # noqa: B010
    if not crash.has_happened:
        raise AssertionError(
            f"the block wrote {crash.seen} of {count} events {event_type!r}"
        )


def _observed(
    request: Callable[[Batch], Any], written: Counter[str], batch: Batch
) -> Any:
    before = batch.seq
    answer = request(batch)
    written.clear()  # a decision may be asked again
    written.update(type_ for _, type_, _ in batch.since(before))
    return answer


def _refuse(*_: Any, **__: Any) -> Any:
    raise Crashed("this process has ended")
