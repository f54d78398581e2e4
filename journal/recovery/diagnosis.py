"""The diagnosis of a job's files, and the actions that it allows.  Pure.

Rows are those of the recovery table in docs/recovery.md.  The facts come from
`milepost.journal.recovery.recovery`.  Readers, writers, `doctor` and `repair` all act
on the result of `judge` (docs/adr/0023).
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.events.codec import CorruptLine
from milepost.journal.recovery.head import Extent, Head

if TYPE_CHECKING:
    from milepost.journal.recovery.snapshot import Evidence


class Action(Enum):
    """The treatment of the bytes behind the last whole write."""

    NOTHING = "clean"  # R10, R11: there are none
    FINISH_LINE = "finish it"  # R12: only the newline is missing
    CUT = "torn"  # R14: never acknowledged; keep a copy, then cut
    QUARANTINE = "damaged"  # R13: once synced, so the medium or a program changed it


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


class Facts(NamedTuple):
    """The facts about a job's files.

    Attributes:
        head: the newest valid slot; None if there is none.
        has_head: the head file exists.
        size: of the journal, 0 if there is none.
        is_foreign: the journal is that of another job or store.
        newer_seq: the first event in a newer schema, 0 for none.
        proven: the end of the last whole write; everything up to it is intact.
        problem: the error behind `proven`.
        base: the acknowledged event, if it is among the proven ones; or the
            ``job.repaired`` by which a person gave it up.
        tail: treatment of the bytes behind `proven`.
        is_given_up: `base` is that ``job.repaired``; the head is older than it.
        unreadable: number of live states that are damaged.
        owes: a salvage file is named in no event, or a temporary file was left.
        is_altered: another program changed the file without loss of events: more is
            proven in its canonical text, or events are at other offsets.
        is_short: the head file is shorter than a writer allocates it.
        shown: the last event that the head acknowledges, if it is proven.
        text: the bytes examined: the file, or its canonical text.
    """

    head: Head | None = None
    has_head: bool = True
    size: int = 0
    is_foreign: bool = False
    newer_seq: int = 0
    proven: Extent = Extent()
    problem: CorruptLine | None = None
    base: Extent | None = None
    tail: Action = Action.NOTHING
    is_given_up: bool = False
    unreadable: int = 0
    owes: bool = False
    is_altered: bool = False
    is_short: bool = False
    shown: Extent | None = None
    text: Evidence | None = None

    @property
    def lost_events(self) -> int:
        """Number of acknowledged events that are no longer proven."""
        shown = Head().shown if self.head is None else self.head.shown
        return 0 if self.is_given_up else max(shown.seq - self.proven.seq, 0)


class Judgement(NamedTuple):
    """A condition, and the row of the recovery table that determines it."""

    verdict: Condition
    row: str


def required(head: Head | None) -> Extent:
    """Return the extent that must be in the journal: acknowledged and synced."""
    if head is None:
        return Extent()
    return head.shown if head.durability == "always" else head.synced


def judge(facts: Facts) -> Judgement:
    """Return the first row that matches; the worst conditions come first."""
    if facts.size == 0:
        return _without_a_journal(facts)
    return _refusal(facts) or _damage(facts) or _repairable(facts)


def _refusal(facts: Facts) -> Judgement | None:
    if facts.is_foreign:
        return Judgement(Condition.FOREIGN, "R5")
    return Judgement(Condition.NEWER, "R20") if facts.newer_seq else None


def _without_a_journal(facts: Facts) -> Judgement:
    if required(facts.head).seq:
        return Judgement(Condition.JOURNAL_MISSING, "R3")
    if facts.head is not None and facts.head.shown.seq:
        return Judgement(Condition.UNSETTLED, "R2")
    return Judgement(Condition.SOUND, "R2")


def _damage(facts: Facts) -> Judgement | None:
    if not _has_acknowledgement(facts) and facts.tail is not Action.NOTHING:
        return Judgement(Condition.DAMAGED, "R7")
    if facts.base is None:
        is_short = facts.proven.seq < required(facts.head).seq
        return Judgement(Condition.DAMAGED, "R8" if is_short else "R9")
    if facts.tail is Action.QUARANTINE:
        return Judgement(Condition.DAMAGED, "R13")
    return Judgement(Condition.DAMAGED, "R22") if facts.is_altered else None


def _has_acknowledgement(facts: Facts) -> bool:
    """Return whether a tail is known to be behind all acknowledged events.

    A head has its full length before its journal is created, and both slots are synced
    before the first write is acknowledged.  So a head without a valid slot belongs to
    an interrupted creation only as long as nothing is proven.
    """
    if facts.head is not None:
        return True
    is_first = facts.proven.seq == 0 or facts.tail is Action.FINISH_LINE
    return facts.has_head and not facts.is_short and is_first


def _repairable(facts: Facts) -> Judgement:
    if not facts.has_head:
        return Judgement(Condition.HEAD_MISSING, "R6")
    if facts.head is not None and facts.head.is_poisoned:
        return Judgement(Condition.POISONED, "R4")
    if facts.unreadable:
        return Judgement(Condition.DAMAGED_STATES, "R18")
    return _settled(facts)


def _settled(facts: Facts) -> Judgement:
    if facts.is_given_up:
        return Judgement(Condition.UNSETTLED, "R21")
    if facts.tail is Action.CUT or facts.lost_events:
        return Judgement(Condition.UNSETTLED, "R14")
    if facts.tail is Action.FINISH_LINE:
        return Judgement(Condition.UNSETTLED, "R12")
    if facts.proven.seq > (facts.head or Head()).shown.seq:
        return Judgement(Condition.UNSETTLED, "R11")
    if facts.owes:
        return Judgement(Condition.UNSETTLED, "R15")
    return Judgement(Condition.SOUND, "R10")


def problem_of(facts: Facts, ruling: Judgement) -> CorruptLine | None:
    """Return the first error that a judgement is based on, None if there is none."""
    head, must = facts.head or Head(), required(facts.head)
    whole = f"{must.seq} events in {must.size} bytes"
    match ruling.row:
        case "R3":
            return CorruptLine(0, f"a journal of {whole}", "no journal")
        case "R8" | "R22" if facts.problem is None or _is_cut(facts, head, must):
            return CorruptLine(facts.size, whole, "the end")
        case "R9":
            what = f"event {must.seq} with hash {must.hash}"
            return CorruptLine(facts.proven.size, what, "another event of that number")
        case "R5" | "R7" | "R8" | "R12" | "R13" | "R14" | "R22":
            return facts.problem
    return None


def _is_cut(facts: Facts, head: Head, must: Extent) -> bool:
    """Return whether the file itself is shorter than acknowledged."""
    inode = None if facts.text is None else facts.text.inode
    return inode == head.inode and facts.size < must.size
