"""`python -m benchmarks.saver FOLDER`: save 1 KB durably until a line arrives.

Then prints how long each save took, in seconds.
"""

from __future__ import annotations

import select
import sys
from itertools import cycle
from time import perf_counter

from benchmarks import stores
from benchmarks.states import states
from milepost import CheckpointManager


def main() -> None:
    """Print that saving begins, save, print the times."""
    took = []
    with CheckpointManager(sys.argv[1]) as manager:
        source = cycle(states(1024))
        manager.save("beside", stores.STEP, next(source))
        print("begun", flush=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            start = perf_counter()
            manager.save("beside", stores.STEP, next(source))
            took.append(perf_counter() - start)
    print(*took, sep="\n")


if __name__ == "__main__":
    main()
