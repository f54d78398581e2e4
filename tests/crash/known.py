"""Faults of the package that this harness found, mended here until they are there.

Each is a proposed change to `journal/`, applied while the harness runs, so that one
fault does not hide the next.  Once the package has it, its entry goes; the goal is none.
"""  # noqa: E501

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rewrite import Rewrite, rewritten

from journal.journal_file import JournalFile
from journal.storage_file import FileStorage

if TYPE_CHECKING:
    from collections.abc import Iterator

KNOWN: dict[str, tuple[Rewrite, ...]] = {
    # A poison mark that a power cut brings back is older than what was acknowledged
    # after the rewrite: healing up to the mark's watermark would cut that.
    "healing trusts the watermark of a stale poison mark": (
        Rewrite(
            JournalFile._on_the_medium,
            """\
    if head.durability == "always":
        return self._locate(head.shown) if head.shown.seq else Extent()
    base = self._locate(head.synced) if head.synced.seq else Extent()
    data = file.read(base.size, file.stat().size - base.size)
    keep = recovery.judge_tail(data, base, later_writes_prove=False).keep
    return min(keep, head.shown)
""",
            """\
    proves = head.durability == "always"
    base = head.shown if proves else head.synced
    base = self._locate(base) if base.seq else Extent()
    data = file.read(base.size, file.stat().size - base.size)
    whole = data[: data.rfind(b"\\n") + 1]
    verdict = recovery.judge_tail(whole, base, later_writes_prove=proves)
    if verdict.action is Action.QUARANTINE:
        assert verdict.problem is not None
        raise self._damaged(verdict.problem)
    return verdict.keep
""",
        ),
        Rewrite(
            JournalFile._heal,
            "self._lost_events = head.shown.seq - keep.seq",
            "self._lost_events = max(head.shown.seq - keep.seq, 0)",
        ),
    ),
    # Whoever made the store may have died before it synced the folder; who comes next
    # must not build on names that can still vanish.
    "a store that was found is taken for durable": (
        Rewrite(
            FileStorage.create,
            "    if known is not None:\n        return known\n",
            "    if known is not None:\n"
            "        if not self.__dict__.get('_is_durable'):\n"
            "            for folder in (self.root, self.root.parent):\n"
            "                self._disk.sync_folder(folder)\n"
            "            self.__dict__['_is_durable'] = True\n"
            "        return known\n",
        ),
        Rewrite(
            JournalFile._first_look,
            "    self._disk.sync_folder(self._folders.heads)\n",
            "    self._disk.sync_folder(self._folders.heads)\n"
            "    self._disk.sync_folder(self._folders.root)\n"
            "    self._disk.sync_folder(self._folders.root.parent)\n",
        ),
    ),
    # Without it a power cut takes side/ with all that is in it, and the cut stays.
    "the name of side/ is never synced": (
        Rewrite(
            JournalFile._keep_aside,
            "    self._disk.make_folder(self._folders.side)\n",
            "    self._disk.make_folder(self._folders.side)\n"
            "    self._disk.sync_folder(self._folders.root)\n",
        ),
    ),
    # Both slots can be torn; then a dropped state of a deleted checkpoint looks bad.
    "without a valid slot, a dropped state is taken for damage": (
        Rewrite(
            JournalFile._settle_tail,
            "judge_tail(data, base, later_writes_prove=proves)",
            "judge_tail(data, base, later_writes_prove=proves,"
            " states_may_be_gone=base.seq == 0)",
        ),
    ),
}

# A process that may not write cannot settle what a power cut left under `interval`, and
# calls the job damaged instead of saying that it cannot know.
READERS_MAY_BE_WRONG_ABOUT_INTERVAL = True

# A job.repaired that no side file stands for (head_missing, sync_failed) is forgotten
# by a process that dies between the repair and the event.
REPAIRS_MAY_GO_UNTOLD = True

# A process whose first look meets the lock of another one's recovery answers up to the
# head, and that may be stale; until it waits, such an answer may lag.
FIRST_LOOKS_MAY_LAG = True


@contextmanager
def mended() -> Iterator[None]:
    """Run with every known fault mended."""
    with rewritten(*(rewrite for known in KNOWN.values() for rewrite in known)):
        yield
