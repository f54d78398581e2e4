"""The one judgement of a job's files, and what may be done about it.  Pure.

Rows are those of the recovery table in docs/recovery.md.  `milepost.journal.recovery.recovery` finds the
facts.  Readers, writers, `doctor` and `repair` all act on the ruling of `judge`.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.events.codec import CorruptLine
from milepost.journal.recovery.head import Extent, Head

if TYPE_CHECKING:
    from milepost.journal.recovery.snapshot import Evidence


class Action(Enum):
    """What becomes of the bytes behind the last whole write."""

    NOTHING = "clean"  # R10, R11: there are none
    FINISH_LINE = "finish it"  # R12: only the newline is missing
    CUT = "torn"  # R14: never acknowledged; keep a copy, then cut
    QUARANTINE = "damaged"  # R13: it was synced once, so this is rot


class Condition(Enum):
    """What there is to say about a job; the values are stable."""

    SOUND = "sound"
    UNSETTLED = "unsettled"  # what a crash left; the next look settles it
    BUSY = "busy"  # a write is on its way
    HEAD_MISSING = "head_missing"
    POISONED = "poisoned"
    DAMAGED = "damaged"
    JOURNAL_MISSING = "journal_missing"
    DAMAGED_STATES = "damaged_states"
    FOREIGN = "foreign"
    NEWER = "newer_format"
    UNREADABLE = "unreadable_files"


class Remedy(Enum):
    """What there is to do; the values are stable."""

    NOTHING = "nothing"
    SETTLE = "settle"  # what the next write would do
    CUT = "cut"  # back to the last whole write that is proven
    RESTART = "restart"  # begin the journal anew
    DROP_STATES = "drop_states"  # delete the checkpoints that cannot be read
    BY_HAND = "by_hand"  # move or copy files, or give access to them
    UPGRADE = "upgrade"
    WAIT = "wait"


class Treatment(NamedTuple):
    """What is done about a verdict: how bad it is, and whether a repair loses anything.

    Attributes:
        remedy: what there is to do.
        is_fine: nothing is wrong; `remedy`, if there is any, comes by itself.
        is_lossy: a repair gives up what was acknowledged, so a person must consent.
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
# Damage that takes nothing: the journal is rewritten as it was.
_RESTORED = Treatment(Remedy.CUT)


class Diagnosis(NamedTuple):
    """What is wrong with one job, how much of it is safe, and what to do.

    Attributes:
        job_id: which; its file's name if its id cannot be read.
        verdict: what it comes to.
        row: of the recovery table in docs/recovery.md.
        message: the same in one plain line.
        line: 1-based number of the first bad line, 0 if there is none.
        offset: byte offset of that line in the journal.
        expected: what should stand there.
        found: what stands there.
        acknowledged_seq: the last event that was acknowledged, as the head says.
        proven_seq: events up to this one are whole, and follow from each other.
        proven_bytes: how much of the journal they take.
        checkpoints: live ones as of `proven_seq` that restore.
        newest: the last of them.
        unreadable: live checkpoints as of `proven_seq` whose state is not what was
            saved.
        keys: how many states are encrypted, by the key that they need.
        cut_bytes: what stands behind `proven_bytes`.
        lost_events: how many acknowledged events go with that, as far as can be known.
        lost_hash: of the last acknowledged event, if that is among them.
        lost_checkpoints: saved in it, as far as their lines can be read.
        salvage_file: where a repair would keep those bytes; None if there are none.
        notes: what is legal but worth knowing.
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
        """What there is to do about it."""
        return _RESTORED if self.row == "R22" else TREATMENTS[self.verdict]

    @property
    def is_journaled(self) -> bool:
        """Whether a repair that rewrites the journal says so in it.

        Not where the very bytes that were written are put back.
        """
        return self.row != "R22" or self.cut_bytes > 0

    @property
    def exists(self) -> bool:
        """Whether there is, or was, such a job."""
        is_empty = not (self.acknowledged_seq or self.proven_seq)
        return self.verdict is not Condition.SOUND or not is_empty

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.treatment.is_fine


class Facts(NamedTuple):
    """What was found of a job's files.

    Attributes:
        head: what its head says; None if no slot of it is valid.
        has_head: there is a head file.
        size: of the journal, 0 if there is none.
        is_foreign: it is another job's, or another store's.
        newer_seq: the first event in a newer schema, 0 for none.
        proven: the last whole write, all up to it intact.
        problem: why no further.
        base: the acknowledged event, if it is among the proven ones; or the
            ``job.repaired`` that says that a person gave it up.
        tail: what the recovery table does with the bytes behind `proven`.
        is_given_up: the latter; the head is older than that repair.
        unreadable: how many live states are not what was saved.
        owes: a salvage file is named by no event, or something was left over.
        is_altered: another program wrote into the file, and no event is lost by that:
            more is proven in its canonical text, or all of it is in other places.
        is_short: the head file is shorter than a writer makes it before anything else.
        shown: the last event that its head shows, if it is among the proven ones.
        text: the bytes that all this is about: of the file, or its canonical text.
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
        """How many events were shown and are not proven any more."""
        shown = Head().shown if self.head is None else self.head.shown
        return 0 if self.is_given_up else max(shown.seq - self.proven.seq, 0)


class Judgement(NamedTuple):
    """A verdict, and the row of the recovery table that it is by."""

    verdict: Condition
    row: str


def required(head: Head | None) -> Extent:
    """Return what must be in the journal: what was acknowledged, and is on the disk."""
    if head is None:
        return Extent()
    return head.shown if head.durability == "always" else head.synced


def judge(facts: Facts) -> Judgement:
    """Return the first row that fits: the worst comes first."""
    if facts.size == 0:
        return _without_a_journal(facts)
    return _refusal(facts) or _damage(facts) or _mendable(facts)


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
    """Tell whether a tail can be told: behind what was acknowledged, or at creation.

    A head is made in full length before its journal, and both slots are synced before
    the first write is acknowledged.  So a head without a valid slot is of a creation
    that was cut only while nothing is proven.
    """
    if facts.head is not None:
        return True
    is_first = facts.proven.seq == 0 or facts.tail is Action.FINISH_LINE
    return facts.has_head and not facts.is_short and is_first


def _mendable(facts: Facts) -> Judgement:
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
    """Return where a ruling sees the first thing that is wrong; None if nowhere."""
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
    """Tell whether the file itself, whatever is in it, is too short."""
    inode = None if facts.text is None else facts.text.inode
    return inode == head.inode and facts.size < must.size
