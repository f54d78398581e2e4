"""Byte ranges of a journal's events, by seq."""

from __future__ import annotations

from array import array

from milepost.journal.storage.files.recovery.head import Extent


class Places:
    """Where the events of one journal file end, as far as they were read.

    A range that several threads find at once is stored twice with the same values.

    Args:
        inode: of the journal file.
    """

    __slots__ = ("ends", "inode")

    def __init__(self, inode: int) -> None:
        self.inode = inode
        self.ends = array("Q", [0])  # by seq; 0 for the start of the journal

    @property
    def last(self) -> int:
        """The seq of the last event whose place is known."""
        return len(self.ends) - 1

    def learn(self, first: int, ends: array[int]) -> None:
        """Record where the events from `first` on end, unless some before are missing.

        One call of C code, so that an exception leaves no part of it.
        """
        if first <= len(self.ends):
            self.ends[first : first + len(ends)] = ends

    def of(self, seq: int) -> tuple[int, int]:
        """Return the offset and the size of event `seq`, whose place must be known."""
        start = self.ends[seq - 1]
        return start, self.ends[seq] - start


class Known:
    """What this process knows of a job's journal from reading and writing it.

    Attributes:
        places: of the events, as far as they were read.
        shown: the acknowledged extent, when it was last looked up.
    """

    __slots__ = ("places", "shown")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Forget the journal, which was removed: another may get its inode."""
        self.places, self.shown = Places(0), Extent()

    def places_of(self, inode: int) -> Places:
        """Return the places in the file `inode`, which is the journal now."""
        if self.places.inode != inode:
            self.places = Places(inode)
        return self.places
