"""The tree of a job's saves: whether one is an ancestor of another.  Pure."""

from __future__ import annotations

from bisect import bisect_right


class Run:
    """Saves that each continue from the save right before, the first one excepted.

    Attributes:
        parent: seq of the save that the first one continues from.
        base: the run that holds `parent`; the run itself at the root.
        depth: how many runs lie below.
        jump: a run further down, chosen so that the way down a chain of n runs takes
            O(log n) steps (Myers, "An applicative random-access stack", 1983).
    """

    __slots__ = ("base", "depth", "jump", "parent")

    def __init__(self, parent: int = 0, base: Run | None = None) -> None:
        self.parent = parent
        self.base, self.depth, self.jump = self, 0, self
        if base is not None:
            near = base.jump
            is_even = base.depth - near.depth == near.depth - near.jump.depth
            self.base, self.depth = base, base.depth + 1
            self.jump = near.jump if is_even else base


class Lineage:
    """Which saves lead to which, deleted ones included.

    A job that is never taken back is one run, whatever its length; a save that
    continues from an older one begins another.

    Attributes:
        tip: seq of the last save.
    """

    __slots__ = ("_runs", "_starts", "tip")

    def __init__(self) -> None:
        self.tip = 0
        # Seq 0 stands for the empty job, where all roots begin.
        self._starts = [0]
        self._runs = [Run()]

    def branch(self, seq: int, parent: int) -> None:
        """Begin a run: save `seq`, the newest, does not continue from `tip`."""
        run = Run(parent, self._run_of(parent))
        self._starts.append(seq)
        self._runs.append(run)

    def leads(self, seq: int, to: int) -> bool:
        """Tell whether save `to` is `seq`, or continues from it over any saves."""
        target, run, last = self._run_of(seq), self._run_of(to), to
        while run.depth > target.depth:
            if run.jump.depth > target.depth:
                run = run.jump
            else:
                run, last = run.base, run.parent
        return run is target and seq <= last

    def _run_of(self, seq: int) -> Run:
        return self._runs[bisect_right(self._starts, seq) - 1]
