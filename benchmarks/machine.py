"""Facts about the machine that matter and are harmless to publish."""

from __future__ import annotations

import os
import platform
import sqlite3
from pathlib import Path
from typing import TypedDict

import orjson

# On these a sync costs nothing, so ratios of durable writes mean nothing.
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


class Machine(TypedDict):
    """No name of the host, no path, no user.

    Attributes:
        load: how many processes wanted to run in the minute before.
    """

    system: str
    cores: int
    python: str
    orjson: str
    sqlite: str
    file_system: str
    load: float


def describe(folder: Path) -> Machine:
    """Return the facts, the file system being the one that holds `folder`."""
    return {
        "system": platform.system(),
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
        "orjson": orjson.__version__,
        "sqlite": sqlite3.sqlite_version,
        "file_system": _file_system(folder),
        "load": round(os.getloadavg()[0], 1),
    }


def cautions(machine: Machine) -> list[str]:
    """Return the conditions that make the figures less reliable."""
    found = []
    if machine["file_system"] in _IN_MEMORY:
        found.append(
            f"The folder is on {machine['file_system']}, where a sync costs nothing: "
            "ratios of durable writes mean little.  Give --folder on a disk."
        )
    if machine["load"] > machine["cores"] / 2:
        found.append(
            f"The load was {machine['load']} at the start: other work lengthens "
            "times and lowers rates; ratios suffer less."
        )
    return found


def _file_system(folder: Path) -> str:
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return "unknown"
    for line in mounts.splitlines():
        fields = line.split(" ")
        if fields[2] == number:
            return fields[fields.index("-") + 1]
    return "unknown"
