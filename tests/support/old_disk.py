"""A disk on which everything is old, so that nothing is too recent to be relied on."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.faults import FaultyDisk

if TYPE_CHECKING:
    from milepost.journal.disk.disk import Stat


class OldDisk(FaultyDisk):
    """The real disk with other times: old ones, and another one after each change.

    Real times are those of the clock, and too coarse to tell quick changes apart; then
    nothing is kept.  Here a time is a checksum of the content.
    """

    def stat(self, path: Path | str) -> Stat | None:
        found = super().stat(path)
        if found is None or not Path(path).is_file():
            return found
        return found._replace(changed_ns=zlib.crc32(Path(path).read_bytes()))

    def stat_folder(self, folder: Path) -> Stat | None:
        found = super().stat_folder(folder)
        if found is None:
            return None
        names = "\n".join(sorted(os.listdir(folder)))  # noqa: PTH208 - names are enough
        return found._replace(changed_ns=zlib.crc32(names.encode()))
