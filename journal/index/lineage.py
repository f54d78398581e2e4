"""The tree of a job's saves; answers ancestor queries.  Pure."""

from __future__ import annotations

from bisect import bisect_right


class SeqRange:
    """Consecutive saves, each but the first a child of the one before it.

    Attributes:
        parent: seq of the save that the first one continues from.
        base: the run that contains `parent`; the run itself at the root.
        depth: number of runs below.
        jump: a run further down, chosen so that the way down a chain of n runs takes
            O(log n) hops (Myers, "An applicative random-access stack", 1983).
    """

    __slots__ = ("base", "depth", "jump", "parent")

    def __init__(self, parent: int = 0, base: SeqRange | None = None) -> None:
        self.parent = parent
        self.base, self.depth, self.jump = self, 0, self
        if base is not None:
            near = base.jump
            is_even = base.depth - near.depth == near.depth - near.jump.depth
            self.base, self.depth = base, base.depth + 1
            self.jump = near.jump if is_even else base


class Lineage:
    """Parent links of all saves, deleted ones included.

    A job without restores is one run, whatever its length; a save that continues from
    an older one starts a new run.

    Attributes:
        tip: seq of the last save.
    """

    __slots__ = ("_runs", "_starts", "tip")

    def __init__(self) -> None:
        self.tip = 0
        # Seq 0 is the empty job, the root of all runs.
        self._starts = [0]
        self._runs = [SeqRange()]

    def branch(self, seq: int, parent: int) -> None:
        """Start a run at `seq`, the newest save, whose parent is not `tip`."""
        run = SeqRange(parent, self._run_of(parent))
        self._starts.append(seq)
        self._runs.append(run)

    def branches(self) -> list[tuple[int, int]]:
        """Return what `branch` was called with, oldest first."""
        runs = zip(self._starts, self._runs, strict=True)
        return [(seq, run.parent) for seq, run in runs if seq]

    def leads(self, seq: int, to: int) -> bool:
        """Return whether save `seq` is `to` or one of its ancestors."""
        target, run, last = self._run_of(seq), self._run_of(to), to
        while run.depth > target.depth:
            if run.jump.depth > target.depth:
                run = run.jump
            else:
                run, last = run.base, run.parent
        return run is target and seq <= last

    def _run_of(self, seq: int) -> SeqRange:
        return self._runs[bisect_right(self._starts, seq) - 1]
