"""What an operation costs, in counts that are the same on every machine."""

from __future__ import annotations

import sys
import tracemalloc
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from tests.support.faults import FaultyDisk


class Costs(NamedTuple):
    """Counts of one operation.

    Attributes:
        disk_calls: calls of the disk, syncs and locks included.
        read_bytes: bytes read from files.
        instructions: bytecode instructions of this thread.
        peak_bytes: memory that was in use at once besides what was before; a copy of a
            list, which is one instruction, shows here.
    """

    disk_calls: int
    read_bytes: int
    instructions: int
    peak_bytes: int


# Less than this is no growth: a number has one digit more, a buffer is rounded up.
SLACK = Costs(0, 256, 200, 4096)


def cost(disk: FaultyDisk, work: Callable[[], object]) -> Costs:
    """Return what `work` costs."""
    calls, read_bytes = len(disk.calls), disk.read_bytes
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return Costs(len(disk.calls) - calls, disk.read_bytes - read_bytes, count, 0)


def peak(work: Callable[[], object]) -> int:
    """Return the most memory that `work` uses at once, in bytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def least(disk: FaultyDisk, works: list[Callable[[], object]]) -> Costs:
    """Return what an operation costs at least, in each count, over several runs.

    Now and then a table grows, which costs as much as all the additions before.  From
    Python 3.12 on, a function counts from its second traced call on, so the first run
    is left out.
    """
    _, *found = [cost(disk, work) for work in works[::2]]
    peaks = [peak(work) for work in works[1::2]]
    counts = map(min, zip(*(each[:3] for each in found), strict=True))
    return Costs(*counts, peak_bytes=min(peaks))


def grows(small: Costs, large: Costs, factor: float) -> list[str]:
    """Return the counts that are more than `factor` times as large."""
    return [
        f"{name}: {before:,} -> {after:,}"
        for name, before, after, slack in zip(
            Costs._fields, small, large, SLACK, strict=True
        )
        if after > before * factor + slack
    ]
