"""A copy of a journal that will replace it, made while other processes write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost.journal.disk.disk import Busy
from milepost.journal.events.codec import Mark, has_state
from milepost.journal.storage.files.recovery.passage import PIECE_BYTES, pieces

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.disk.copy_file import JournalCopy
    from milepost.journal.storage.contract import OnPiece
    from milepost.journal.storage.files.file_job import FileJob


class JournalRewrite:
    """A copy of a journal that will replace it; see `Rewrite`.

    Attributes:
        new: the new file.
    """

    def __init__(self, job: FileJob, new: JournalCopy) -> None:
        self._job = job
        self._end = 0  # how far the old journal is copied
        self.new = new

    def copy(
        self,
        until_seq: int,
        lines_of: Callable[[int, bytes], bytes],
        on_piece: OnPiece | None = None,
    ) -> None:
        """See `Rewrite.copy`."""
        for found, data, begin in self._job.walk(Mark(), until_seq, on_piece):
            parts: list[bytes] = []
            for event, offset, size, _ in found:
                lines = data[offset - begin : offset - begin + size]
                if has_state(event):
                    lines = lines_of(event["seq"], lines)
                parts.append(lines)
                self._end = offset + size
            self.new.write(b"".join(parts))

    def follow(self) -> None:
        """See `Rewrite.follow`."""
        # Syncing a long file takes long; only the rest is synced under the lock.
        self.new.sync()
        while (end := self._job.extent().size) - self._end > PIECE_BYTES:
            self.copy_up_to(end)

    def copy_up_to(self, end: int) -> None:
        """Copy later lines as they are: none of their states needs a dropped one.

        Raises:
            Busy: the journal was replaced meanwhile.
        """
        for data in pieces(self._job.files.read, self._end, end):
            self.new.write(data)
            self._end += len(data)
        if self._end < end:
            raise Busy
