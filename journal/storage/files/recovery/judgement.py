"""The judgement of a job's files, and the actions that it allows.  Pure.

Rows are those of the recovery table in docs/recovery.md.  The facts come from
`milepost.journal.storage.files.recovery.facts`.  Readers, writers, `doctor` and
`repair` all act on the result of `judge` (docs/adr/0023).
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.events.codec import CorruptLine
from milepost.journal.recovery.diagnosis import Condition
from milepost.journal.storage.files.recovery.head import Extent, Head

if TYPE_CHECKING:
    from milepost.journal.storage.files.recovery.snapshot import Evidence


class Action(Enum):
    """The treatment of the bytes behind the last whole write."""

    NOTHING = "clean"  # R10, R11: there are none
    FINISH_LINE = "finish it"  # R12: only the newline is missing
    CUT = "torn"  # R14: never acknowledged; keep a copy, then cut
    QUARANTINE = "damaged"  # R13: once synced, so the medium or a program changed it


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
        is_removed: the head acknowledges nothing, and the job's removal is recorded.
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
    is_removed: bool = False
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
    if facts.is_removed:
        return Judgement(Condition.UNSETTLED, "R23")
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
