"""The in-memory replica of one job, and the position of a history reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost.journal.events.codec import STATE_MISSING
from milepost.journal.process.mutex import Mutex
from milepost.journal.recovery.head import Extent
from milepost.journal.store.group_commit import WriteQueue

if TYPE_CHECKING:
    from milepost.journal.errors import MilepostError
    from milepost.journal.index.job_view import JobView, Mark
    from milepost.journal.storage.contract import Stamp


class KnownJob:
    """This process's replica of one job."""

    def __init__(self, view: JobView) -> None:
        self.view = view
        self.stamp: Stamp | None = None  # of the journal, when the view was folded
        self.seen = Extent()  # the last event that this process has returned
        self.created_at: str | None = None  # creation time of the job of `seen`
        self.store_id: str | None = None  # store of `seen`
        # Of the file that the view's offsets refer to; None while a fold is running or
        # was interrupted: the view is then invalid.
        self.inode: int | None = None
        self.error: MilepostError | None = None  # why the job is quarantined
        self.folding = Mutex()
        self.queue = WriteQueue()

    def has_rotted(self, known: set[int]) -> bool:
        """Return whether states appear rotten that are not in `known`, by seq.

        A state lost in a power cut, returned before it was synced, looks the same; only
        under the lock can the two be distinguished.
        """
        return any(
            fault != STATE_MISSING and seq not in known
            for seq, fault in self.view.faults.items()
        )


class Cursor:
    """The position of a reader in a job's history."""

    __slots__ = ("end", "hash", "job_id", "seq")

    def __init__(self, job_id: str, mark: Mark) -> None:
        self.job_id = job_id
        self.seq = mark.seq
        self.end = mark.offset
        self.hash = mark.hash
