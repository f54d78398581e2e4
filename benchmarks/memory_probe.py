"""The memory of an index: `python -m benchmarks.memory_probe FOLDER rss|tracemalloc`.

A process of its own, since memory that was used before hides what is used now.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc

from benchmarks import stores
from milepost import CheckpointManager


def main() -> None:
    """Print how many bytes the process grows by indexing the job."""
    folder, how = sys.argv[1:]
    if how == "tracemalloc":
        tracemalloc.start()
    measure = _traced_bytes if how == "tracemalloc" else stores.resident_bytes
    with CheckpointManager(folder) as manager:
        manager.seq("another")  # load lazy modules before the measurement
        before = measure()
        manager.seq(stores.JOB)
        print(measure() - before)


def _traced_bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


if __name__ == "__main__":
    main()
