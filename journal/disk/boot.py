"""The identity of the current boot of the machine."""

from __future__ import annotations

from pathlib import Path

from milepost.journal.disk.disk import read_whole


def boot_id() -> str:
    """Return an id that changes with every boot, empty if unknown."""
    try:
        return read_whole(Path("/proc/sys/kernel/random/boot_id")).decode().strip()
    except (OSError, ValueError):
        return ""
