"""The condition of a job, and its remedy.  Pure.

Rows are those of the recovery table in docs/recovery.md.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from milepost.journal.events.vocabulary import Event


class Condition(Enum):
    """The condition of a job; the values are stable."""

    SOUND = "sound"
    UNSETTLED = "unsettled"  # needs crash recovery, done by the next access
    BUSY = "busy"  # a write is in progress
    HEAD_MISSING = "head_missing"
    POISONED = "poisoned"
    DAMAGED = "damaged"
    JOURNAL_MISSING = "journal_missing"
    DAMAGED_STATES = "damaged_states"
    FOREIGN = "foreign"
    NEWER = "newer_format"
    UNREADABLE = "unreadable_files"


class Remedy(Enum):
    """The remedy for a condition; the values are stable."""

    NOTHING = "nothing"
    SETTLE = "settle"  # recover, as the next write would
    CUT = "cut"  # back to the last whole write that is proven
    RESTART = "restart"  # begin a new journal
    DROP_STATES = "drop_states"  # delete the checkpoints that cannot be read
    BY_HAND = "by_hand"  # move or copy files, or give access to them
    UPGRADE = "upgrade"
    WAIT = "wait"


class Treatment(NamedTuple):
    """The remedy for a condition, and its cost.

    Attributes:
        remedy: for the condition.
        is_fine: nothing is wrong; a `remedy` is applied automatically.
        is_lossy: a repair gives up acknowledged events, so a person must consent.
    """

    remedy: Remedy
    is_fine: bool = False
    is_lossy: bool = False


TREATMENTS = {
    Condition.SOUND: Treatment(Remedy.NOTHING, is_fine=True),
    Condition.UNSETTLED: Treatment(Remedy.SETTLE, is_fine=True),
    Condition.BUSY: Treatment(Remedy.WAIT, is_fine=True),
    Condition.HEAD_MISSING: Treatment(Remedy.SETTLE),
    Condition.POISONED: Treatment(Remedy.SETTLE),
    Condition.DAMAGED: Treatment(Remedy.CUT, is_lossy=True),
    Condition.JOURNAL_MISSING: Treatment(Remedy.RESTART, is_lossy=True),
    Condition.DAMAGED_STATES: Treatment(Remedy.DROP_STATES, is_lossy=True),
    Condition.FOREIGN: Treatment(Remedy.BY_HAND),
    Condition.NEWER: Treatment(Remedy.UPGRADE),
    Condition.UNREADABLE: Treatment(Remedy.BY_HAND),
}
# Damage without loss (R22): the original journal can be rewritten.
_RESTORED = Treatment(Remedy.CUT)


class Diagnosis(NamedTuple):
    """The damage of one job, the part that is safe, and the remedy.

    Attributes:
        job_id: of the job; its file's name if its id cannot be read.
        verdict: its condition.
        row: of the recovery table in docs/recovery.md.
        message: the same in one plain line.
        line: 1-based number of the first bad line, 0 if there is none.
        offset: byte offset of that line in the journal.
        expected: content of that line.
        found: actual content of that line.
        acknowledged_seq: seq of the last acknowledged event, from the head.
        proven_seq: events up to this one are whole, and follow from each other.
        proven_bytes: their size in the journal.
        checkpoints: number of live ones as of `proven_seq` that restore.
        newest: the last of them.
        unreadable: live checkpoints as of `proven_seq` whose state is damaged.
        keys: number of encrypted states by key id.
        cut_bytes: number of bytes behind `proven_bytes`.
        lost_events: number of acknowledged events in these bytes, if known.
        lost_hash: of the last acknowledged event, if it is in these bytes.
        lost_checkpoints: saved in these bytes, as far as they can be read.
        salvage_file: would keep these bytes in a repair; None if there are none.
        notes: legal but notable findings.
    """

    job_id: str
    verdict: Condition
    row: str = ""
    message: str = ""
    line: int = 0
    offset: int = 0
    expected: str = ""
    found: str = ""
    acknowledged_seq: int = 0
    proven_seq: int = 0
    proven_bytes: int = 0
    checkpoints: int = 0
    newest: str | None = None
    unreadable: tuple[str, ...] = ()
    keys: tuple[tuple[str, int], ...] = ()
    cut_bytes: int = 0
    lost_events: int = 0
    lost_hash: str = ""
    lost_checkpoints: tuple[str, ...] = ()
    salvage_file: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def treatment(self) -> Treatment:
        """The remedy and its cost."""
        return _RESTORED if self.row == "R22" else TREATMENTS[self.verdict]

    @property
    def is_journaled(self) -> bool:
        """Whether a repair that rewrites the journal appends a ``job.repaired``.

        It does not if it only restores the original bytes.
        """
        return self.row != "R22" or self.cut_bytes > 0

    @property
    def exists(self) -> bool:
        """Whether the job exists or existed."""
        is_empty = not (self.acknowledged_seq or self.proven_seq)
        return self.verdict is not Condition.SOUND or not is_empty

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.treatment.is_fine


def gives_up(event: Event, acknowledged: str) -> bool:
    """Return whether `event` is a repair by which a person gave up an event, by hash.

    A head that still acknowledges it is older than that repair (R21).
    """
    data: object = event["data"]
    if event["type"] != "job.repaired" or not isinstance(data, dict):
        return False
    return data.get("lost_hash") == acknowledged
