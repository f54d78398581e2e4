"""Faults of the package that this harness found, mended here until they are there.

Each is a proposed change to `journal/`, applied while the harness runs, so that one
fault does not hide the next.  Once the package has it, its entry goes; the goal is none.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from journal.journal_file import JournalFile
from rewrite import Rewrite, rewritten

if TYPE_CHECKING:
    from collections.abc import Iterator

KNOWN: dict[str, Rewrite] = {
    # A poison mark that a power cut brings back is older than what was acknowledged
    # after the rewrite: healing up to the mark's watermark would cut that.
    "healing trusts the watermark of a stale poison mark": Rewrite(
        JournalFile._heal,
        """\
    if size > keep.size:
        self._keep_aside(self._file.read(keep.size, size - keep.size), keep.size)
    self._write_new(self._path, self._file.read(0, keep.size))
""",
        """\
    tail = self._file.read(keep.size, size - keep.size)
    verdict = recovery.judge_tail(
        tail, keep, later_writes_prove=head.durability == "always"
    )
    if verdict.action is Action.QUARANTINE:
        assert verdict.problem is not None
        raise self._damaged(verdict.problem)
    keep = verdict.keep
    good = self._file.read(0, keep.size)
    if verdict.action is Action.FINISH_LINE:
        good += b"\\n"
    elif size > keep.size:
        self._keep_aside(self._file.read(keep.size, size - keep.size), keep.size)
    self._write_new(self._path, good)
""",
    ),
}


@contextmanager
def mended() -> Iterator[None]:
    """Run with every known fault mended."""
    with rewritten(*KNOWN.values()):
        yield
