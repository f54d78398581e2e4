"""What a process holds of one job, and how far it has read a history."""

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
    """What this process holds of one job."""

    def __init__(self, view: JobView) -> None:
        self.view = view
        self.stamp: Stamp | None = None  # the journal's, when the view was folded
        self.seen = Extent()  # the last event that this process has shown
        self.created_at: str | None = None  # the job that it was seen in
        self.store_id: str | None = None  # of the store in which it was seen
        # Of the file that the view's offsets are about; None while it is being folded,
        # and after a fold that was interrupted: then the view is no good.
        self.inode: int | None = None
        self.error: MilepostError | None = None  # why it is quarantined
        self.folding = Mutex()
        self.queue = WriteQueue()

    def has_rotted(self, known: set[int]) -> bool:
        """Tell whether states look like rot of which that was not known, by seq.

        One that a power cut took, when it was shown but not synced, looks the same;
        whether it is given up, only the lock can tell.
        """
        return any(
            fault != STATE_MISSING and seq not in known
            for seq, fault in self.view.faults.items()
        )


class Cursor:
    """How far a reader of a job's history has come."""

    __slots__ = ("end", "hash", "job_id", "seq")

    def __init__(self, job_id: str, mark: Mark) -> None:
        self.job_id = job_id
        self.seq = mark.seq
        self.end = mark.offset
        self.hash = mark.hash
