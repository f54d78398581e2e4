"""The steps of a repair, in words: as planned, and as carried out.  Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from milepost.journal.recovery.diagnosis import Condition, Diagnosis, Remedy
from milepost.journal.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost.journal.events.vocabulary import JobRepairedData

_MAX_NAMED = 20


class RepairAction(NamedTuple):
    """One step: its verb, the verb's past tense, and its object.

    `is_lossy` marks steps that lose acknowledged data.
    """

    verb: str
    past: str
    what: str
    is_lossy: bool = False

    @property
    def would(self) -> str:
        """The step as planned."""
        return f"would {self.verb} {self.what}"

    @property
    def did(self) -> str:
        """The step as carried out."""
        return f"{self.past} {self.what}"


class Repair(NamedTuple):
    """The result of a repair, or its plan.

    Attributes:
        job_id: the repaired job.
        before: the diagnosis before the repair.
        steps: the steps carried out; in a dry run, the planned ones.
        after: the diagnosis after the repair; None after a dry run.
    """

    job_id: str
    before: Diagnosis
    steps: tuple[RepairAction, ...]
    after: Diagnosis | None = None

    @property
    def is_lossy(self) -> bool:
        """Whether a step loses acknowledged data."""
        return any(step.is_lossy for step in self.steps)


def steps_of(diagnosis: Diagnosis) -> tuple[RepairAction, ...]:
    """Return the steps of a repair for a diagnosis."""
    steps = [*_STEPS[diagnosis.treatment.remedy](diagnosis)]
    if steps and diagnosis.treatment.remedy is not Remedy.DROP_STATES:
        steps += _drop(diagnosis)
    return tuple(steps)


def _nothing(_: Diagnosis) -> Iterator[RepairAction]:
    yield from ()


def _settle(found: Diagnosis) -> Iterator[RepairAction]:
    match found.row:
        case "R4":
            what = "the journal from the disk's content, and clear the mark"
            yield RepairAction("rewrite", "rewrote", what)
            yield _journaled("sync_failed")
        case "R6":
            what = f"a head that acknowledges event {found.proven_seq}"
            yield RepairAction("make", "made", what)
            yield _journaled("head_missing")
        case "R11":
            what = f"the journal up to event {found.proven_seq}, to acknowledge it"
            yield RepairAction("sync", "synced", what)
        case "R12":
            yield RepairAction("end", "ended", "the last line with its newline")
        case "R14":
            yield from _keep(found)
            what = f"the journal back to event {found.proven_seq}"
            yield RepairAction("cut", "cut", what)
            yield _journaled("torn_tail")
        case "R21":
            yield RepairAction("move", "moved", f"the head to event {found.proven_seq}")
        case "R23":
            yield RepairAction("complete", "completed", "the removal of the job")
        case "R15":
            yield RepairAction(
                "remove", "removed", "files left over from a crashed process"
            )


def _cut(found: Diagnosis) -> Iterator[RepairAction]:
    yield from _keep(found)
    if found.row == "R22":
        what = f"the journal as it was written, up to event {found.proven_seq}"
        yield RepairAction("rewrite", "rewrote", what)
        if found.is_journaled:
            yield _journaled("damaged")
        return
    yield from _give_up(found)
    if found.proven_seq == 0:
        yield RepairAction(
            "start", "started", "a new journal: no event of it is proven"
        )
    else:
        what = f"the journal back to event {found.proven_seq}"
        yield RepairAction("cut", "cut", f"{what}, byte {found.proven_bytes}")
    yield _journaled("damaged")


def _restart(found: Diagnosis) -> Iterator[RepairAction]:
    yield from _give_up(found)
    yield RepairAction("start", "started", "a new journal")
    yield _journaled("journal_missing")


def _drop(found: Diagnosis) -> Iterator[RepairAction]:
    if found.unreadable:
        what = f"the unreadable {checkpoints_of(found.unreadable)}"
        yield RepairAction("delete", "deleted", what, is_lossy=True)


def _keep(found: Diagnosis) -> Iterator[RepairAction]:
    if found.salvage_file is not None:
        where = f"from byte {found.proven_bytes} on, in salvage/{found.salvage_file}"
        yield RepairAction(
            "keep", "kept", f"{counted(found.cut_bytes, 'byte')} {where}"
        )


def _give_up(found: Diagnosis) -> Iterator[RepairAction]:
    if not found.lost_events:
        yield RepairAction(
            "give", "gave", "up bytes that had been synced", is_lossy=True
        )
        return
    what = f"up {lost_events_of(found)}"
    if found.lost_checkpoints:
        what += f", with {checkpoints_of(found.lost_checkpoints)}"
    yield RepairAction("give", "gave", what, is_lossy=True)


def _journaled(reason: str) -> RepairAction:
    return RepairAction("journal", "journaled", f"it as job.repaired ({reason})")


def in_words(data: JobRepairedData) -> str:
    """Return a ``job.repaired`` in words."""
    parts = [_REASONS.get(data["reason"], data["reason"])]
    if lost := data.get("lost_events"):
        parts.append(f"{counted(lost, 'acknowledged event')} lost")
    if salvage_file := data.get("salvage_file"):
        size, offset = data.get("cut_bytes", 0), data.get("offset", 0)
        where = f"from byte {offset} on are in salvage/{salvage_file}"
        parts.append(f"{counted(size, 'byte')} {where}")
    return "; ".join(parts)


def lost_events_of(found: Diagnosis) -> str:
    """Return in words which events are lost with the damage."""
    first, last = found.proven_seq + 1, found.proven_seq + found.lost_events
    if found.verdict is Condition.DAMAGED and found.row in {"R7", "R13"}:
        what = f"{counted(found.lost_events, 'event')} that may be acknowledged"
    else:
        what = counted(found.lost_events, "acknowledged event")
    return f"{what} ({first})" if first == last else f"{what} ({first} to {last})"


def checkpoints_of(ids: tuple[str, ...]) -> str:
    """Return the number of checkpoints and the ids of the first ones."""
    more = len(ids) - _MAX_NAMED
    named = ", ".join(ids[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"{counted(len(ids), 'checkpoint')} ({named})"


_REASONS = {
    "torn_tail": "an interrupted write was removed",
    "head_missing": "the head was missing and was rebuilt",
    "sync_failed": "a sync had failed, so the journal was rewritten from the disk",
    "damaged": "an operator accepted the loss of damaged data",
    "journal_missing": "an operator started a new journal; the old one was missing",
}
_STEPS = {
    Remedy.NOTHING: _nothing,
    Remedy.SETTLE: _settle,
    Remedy.CUT: _cut,
    Remedy.RESTART: _restart,
    Remedy.DROP_STATES: _drop,
    Remedy.BY_HAND: _nothing,
    Remedy.UPGRADE: _nothing,
    Remedy.WAIT: _nothing,
}
# The reason in `job.repaired` of an accepted loss.
REASONS: dict[Condition, Literal["damaged", "journal_missing"]] = {
    Condition.DAMAGED: "damaged",
    Condition.JOURNAL_MISSING: "journal_missing",
}
