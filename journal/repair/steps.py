"""What a repair does, step by step: told before it is done, and after.  Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from milepost.journal.recovery.diagnosis import Condition, Diagnosis, Remedy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost.journal.events.vocabulary import JobRepairedData

_MAX_NAMED = 20


class Step(NamedTuple):
    """One thing that is done: the verb, the same in the past, and what to.

    `is_lossy` marks what gives up something that was acknowledged.
    """

    verb: str
    past: str
    what: str
    is_lossy: bool = False

    @property
    def would(self) -> str:
        """The step as it would be done."""
        return f"would {self.verb} {self.what}"

    @property
    def did(self) -> str:
        """The step as it was done."""
        return f"{self.past} {self.what}"


class Repair(NamedTuple):
    """What a repair did, or would do.

    Attributes:
        job_id: which job's.
        before: what was wrong.
        steps: what was done about it; in a dry run, what would be done.
        after: how the job is now; None after a dry run.
    """

    job_id: str
    before: Diagnosis
    steps: tuple[Step, ...]
    after: Diagnosis | None = None

    @property
    def is_lossy(self) -> bool:
        """Whether a step gives up something that was acknowledged."""
        return any(step.is_lossy for step in self.steps)


def steps_of(diagnosis: Diagnosis) -> tuple[Step, ...]:
    """Return what a repair does about a diagnosis."""
    steps = [*_STEPS[diagnosis.treatment.remedy](diagnosis)]
    if steps and diagnosis.treatment.remedy is not Remedy.DROP_STATES:
        steps += _drop(diagnosis)
    return tuple(steps)


def _nothing(_: Diagnosis) -> Iterator[Step]:
    yield from ()


def _settle(found: Diagnosis) -> Iterator[Step]:
    match found.row:
        case "R4":
            what = "the journal from what the disk holds, and clear the mark"
            yield Step("rewrite", "rewrote", what)
            yield _told("sync_failed")
        case "R6":
            what = f"a head that acknowledges event {found.proven_seq}"
            yield Step("make", "made", what)
            yield _told("head_missing")
        case "R11":
            what = f"the journal up to event {found.proven_seq}, to acknowledge it"
            yield Step("sync", "synced", what)
        case "R12":
            yield Step("end", "ended", "the last line with its newline")
        case "R14":
            yield from _keep(found)
            what = f"the journal back to event {found.proven_seq}"
            yield Step("cut", "cut", what)
            yield _told("torn_tail")
        case "R21":
            yield Step("move", "moved", f"the head to event {found.proven_seq}")
        case "R15":
            yield Step("clear", "cleared", "away what a process that died left behind")


def _cut(found: Diagnosis) -> Iterator[Step]:
    yield from _keep(found)
    if found.row == "R22":
        what = f"the journal as it was written, up to event {found.proven_seq}"
        yield Step("rewrite", "rewrote", what)
        if found.is_journaled:
            yield _told("damaged")
        return
    yield from _give_up(found)
    if found.proven_seq == 0:
        yield Step("begin", "began", "the journal anew: no event of it is proven")
    else:
        what = f"the journal back to event {found.proven_seq}"
        yield Step("cut", "cut", f"{what}, byte {found.proven_bytes}")
    yield _told("damaged")


def _restart(found: Diagnosis) -> Iterator[Step]:
    yield from _give_up(found)
    yield Step("begin", "began", "the journal anew")
    yield _told("journal_missing")


def _drop(found: Diagnosis) -> Iterator[Step]:
    if found.unreadable:
        what = f"what cannot be read: {checkpoints_of(found.unreadable)}"
        yield Step("delete", "deleted", what, is_lossy=True)


def _keep(found: Diagnosis) -> Iterator[Step]:
    if found.salvage_file is not None:
        where = f"from byte {found.proven_bytes} on, in salvage/{found.salvage_file}"
        yield Step("keep", "kept", f"{counted(found.cut_bytes, 'byte')} {where}")


def _give_up(found: Diagnosis) -> Iterator[Step]:
    if not found.lost_events:
        yield Step("give", "gave", "up bytes that once were synced", is_lossy=True)
        return
    what = f"up {lost_events_of(found)}"
    if found.lost_checkpoints:
        what += f", with them {checkpoints_of(found.lost_checkpoints)}"
    yield Step("give", "gave", what, is_lossy=True)


def _told(reason: str) -> Step:
    return Step("journal", "journaled", f"it as job.repaired ({reason})")


def told(data: JobRepairedData) -> str:
    """Return in plain words what a ``job.repaired`` says."""
    parts = [_REASONS.get(data["reason"], data["reason"])]
    if lost := data.get("lost_events"):
        parts.append(f"{counted(lost, 'acknowledged event')} lost")
    if salvage_file := data.get("salvage_file"):
        size, offset = data.get("cut_bytes", 0), data.get("offset", 0)
        where = f"from byte {offset} on are in salvage/{salvage_file}"
        parts.append(f"{counted(size, 'byte')} {where}")
    return "; ".join(parts)


def lost_events_of(found: Diagnosis) -> str:
    """Return in words which events go with what is damaged."""
    first, last = found.proven_seq + 1, found.proven_seq + found.lost_events
    if found.verdict is Condition.DAMAGED and found.row in {"R7", "R13"}:
        what = f"{counted(found.lost_events, 'event')} that may be acknowledged"
    else:
        what = counted(found.lost_events, "acknowledged event")
    return f"{what} ({first})" if first == last else f"{what} ({first} to {last})"


def checkpoints_of(ids: tuple[str, ...]) -> str:
    """Return how many checkpoints these are, and which, the first of them at least."""
    more = len(ids) - _MAX_NAMED
    named = ", ".join(ids[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"{counted(len(ids), 'checkpoint')} ({named})"


def counted(count: int, noun: str) -> str:
    """Return `3 events`, or `1 event`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


_REASONS = {
    "torn_tail": "a write that a crash had cut was cleared away",
    "head_missing": "the head was missing and was made anew",
    "sync_failed": "a sync had failed, so the journal was rewritten from the disk",
    "damaged": "a person gave up what was damaged",
    "journal_missing": "a person began the journal anew, for it was gone",
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
# What `job.repaired` says of a loss that was accepted.
REASONS: dict[Condition, Literal["damaged", "journal_missing"]] = {
    Condition.DAMAGED: "damaged",
    Condition.JOURNAL_MISSING: "journal_missing",
}
