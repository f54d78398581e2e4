"""Finding out what is wrong with a job: reads everything, changes nothing.

`milepost.journal.recovery.diagnosis` judges what is found here.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.errors import MilepostError, NewerFormat, UnreadableState
from milepost.journal.events import codec
from milepost.journal.events.codec import STATE_MISSING, CorruptLine
from milepost.journal.index import job_view
from milepost.journal.index.job_view import MALFORMED, JobView
from milepost.journal.recovery import recovery
from milepost.journal.recovery.diagnosis import (
    Action,
    Condition,
    Diagnosis,
    Judgement,
    judge,
    problem_of,
    required,
)
from milepost.journal.recovery.elsewhere import ways_back
from milepost.journal.recovery.head import Extent, Head
from milepost.journal.recovery.passage import claims, line_number, pieces, walk
from milepost.journal.recovery.salvage import name_of
from milepost.journal.repair.steps import counted
from milepost.journal.states import delta_chain, line_codec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost.journal.events.vocabulary import Event
    from milepost.journal.recovery.diagnosis import Facts
    from milepost.journal.recovery.snapshot import Evidence
    from milepost.journal.states.access import Vault
    from milepost.journal.storage.contract import Storage


class Found(NamedTuple):
    """A diagnosis, and what a repair builds on.

    Attributes:
        diagnosis: the diagnosis.
        view: of all that is proven.
        text: the bytes that it was read from: the journal's, or its canonical text.
    """

    diagnosis: Diagnosis
    view: JobView
    text: Evidence


def diagnose(storage: Storage, job_id: str, vault: Vault, *, deep: bool) -> Diagnosis:
    """Say what is wrong with a job; its files are left as they are.

    Args:
        storage: where it is.
        job_id: an unknown one is sound, at seq 0.
        vault: the keys at hand.
        deep: read every live state, not only the checksums of their lines.
    """
    try:
        store_id = storage.store_id
    except MilepostError:
        store_id = None  # whoever looks at the store says so; the chain needs none
    try:
        with storage.evidence(job_id) as evidence:
            return examine(evidence, job_id, store_id, vault, deep=deep).diagnosis
    except MilepostError as exc:
        verdict = (
            Condition.NEWER if isinstance(exc, NewerFormat) else Condition.UNREADABLE
        )
        return Diagnosis(job_id, verdict, message=str(exc))


def examine(
    evidence: Evidence, job_id: str, store_id: str | None, vault: Vault, *, deep: bool
) -> Found:
    """Read all of a job and say what is wrong; see `diagnose`.

    Raises:
        NewerFormat: a newer version wrote its head.
        OSError: it cannot be read.
    """
    return _Examination(evidence, job_id, store_id, vault).run(deep=deep)


class _Examination:
    """One look at one job."""

    def __init__(
        self, evidence: Evidence, job_id: str, store_id: str | None, vault: Vault
    ) -> None:
        self._evidence = evidence
        self._job_id = job_id
        self._store_id = store_id
        self._vault = vault
        self._facts = recovery.look(evidence, job_id, store_id)
        self._text = self._facts.text or evidence
        self._view = self._folded()
        self._keys: Counter[str] = Counter()
        self._others: tuple[str, ...] = ()  # notes about states of no checkpoint

    def run(self, *, deep: bool) -> Found:
        unreadable = self._unreadable(deep=deep)
        others = delta_chain.damaged_others(self._view, self._member, deep=deep)
        self._others = () if self._view.newer_seq else tuple(others)
        self._count_keys()
        evidence = self._evidence
        unnamed = set(evidence.salvage_files) - self._view.salvage_files.keys()
        newer_seq = self._view.newer_seq or self._facts.newer_seq
        owes = bool(evidence.leftovers) or not all(map(_is_given_up, unnamed))
        self._facts = self._facts._replace(
            newer_seq=newer_seq, unreadable=len(unreadable), owes=owes
        )
        ruling = judge(self._facts)
        if ruling.verdict is Condition.UNSETTLED and not evidence.is_still:
            ruling = Judgement(Condition.BUSY, ruling.row)
        diagnosis = self._diagnosis(ruling, unreadable, unnamed)
        return Found(diagnosis, self._view, self._text)

    def _folded(self) -> JobView:
        """Return the view of what is proven."""
        view = JobView(self._job_id, self._store_id)
        proven = walk(self._text.read, Extent(), self._facts.proven.size)
        try:
            for (event, offset, size, fault), _ in proven:
                job_view.apply(view, event, offset, size, fault)
        except MALFORMED as exc:  # the first event opens no job, and all hangs on it
            self._facts = self._facts._replace(
                proven=Extent(),
                problem=CorruptLine(0, "an event that opens this job", f"{exc}"),
                base=None if required(self._facts.head).seq else Extent(),
                tail=Action.QUARANTINE,
            )
            return JobView(self._job_id, self._store_id)
        return view

    # -- states --------------------------------------------------------------------

    def _unreadable(self, *, deep: bool) -> tuple[str, ...]:
        """Return the live checkpoints that do not restore, for want of a state."""
        view = self._view
        # A delta whose base rotted is as unreadable as that one.
        faults = (fault for fault in view.faults.values() if fault != STATE_MISSING)
        is_needed = deep or any(faults) or self._misses_a_live_state()
        if not is_needed or view.newer_seq:
            return ()
        return tuple(
            entry.checkpoint_id
            for entry in view.checkpoints.values()
            if not self._opens(entry.seq)
        )

    def _misses_a_live_state(self) -> bool:
        faults, entries = self._view.faults, self._view.checkpoints.values()
        return bool(faults) and any(entry.seq in faults for entry in entries)

    def _opens(self, seq: int) -> bool:
        if seq in self._view.faults:
            return False
        return delta_chain.problem_of(seq, self._member) is None

    def _count_keys(self) -> None:
        """Count the states that are encrypted, by the key they need."""
        view = self._view
        if view.newer_seq:
            return
        entries = [*view.checkpoints.values(), *(t.entry for t in view.trash.values())]
        for seq in (*(entry.seq for entry in entries), *view.places.others()):
            if seq in view.faults:
                continue
            offset, size = view.places[seq]
            start = self._text.read(offset, min(size, line_codec.HEADER_BYTES))
            with suppress(UnreadableState, NewerFormat):
                key_id = line_codec.read_header(start, seq=seq).key_id
                self._keys[key_id] += 1
        del self._keys[""]

    def _member(self, seq: int) -> delta_chain.Member:
        try:
            lines = self._text.read(*self._view.places[seq])
        except KeyError:  # a base that is none
            raise UnreadableState(f"event {seq} has no state") from None
        state_line, _, event_line = lines.rstrip(b"\n").rpartition(b"\n")
        return delta_chain.member(
            (state_line, event_line), self._view.address_of(seq), self._vault
        )

    # -- the answer ----------------------------------------------------------------

    def _diagnosis(
        self, ruling: Judgement, unreadable: tuple[str, ...], unnamed: set[str]
    ) -> Diagnosis:
        view, proven, facts = self._view, self._facts.proven, self._facts
        head = facts.head or Head()
        problem = problem_of(facts, ruling)
        is_damage = ruling.verdict is Condition.DAMAGED
        cut = max((self._text.size or 0) - proven.size, 0)
        if not (is_damage or ruling.row == "R14"):
            cut = 0
        rest = partial(pieces, self._text.read, proven.size, proven.size + cut)
        lost, lost_ids = self._lost(ruling, cut)
        restorable = [c for c in view.checkpoints if c not in set(unreadable)]
        return Diagnosis(
            self._job_id,
            ruling.verdict,
            ruling.row,
            _message(ruling, facts, view, cut),
            line_number(self._evidence.read, problem.offset)
            if problem and facts.size
            else 0,
            problem.offset if problem else 0,
            problem.expected if problem else "",
            problem.found if problem else "",
            head.shown.seq,
            proven.seq,
            proven.size,
            len(restorable),
            restorable[-1] if restorable else None,
            unreadable,
            tuple(sorted(self._keys.items())),
            cut,
            lost,
            head.shown.hash if lost and facts.base is None else "",
            lost_ids,
            name_of(self._text.name, rest, proven.size, lost, is_damage=is_damage)
            if cut
            else None,
            tuple(self._notes(ruling, unnamed)),
        )

    def _lost(self, ruling: Judgement, cut: int) -> tuple[int, tuple[str, ...]]:
        """Return how many acknowledged events are behind the damage, and their saves.

        Behind damage nothing is proven; what lines claim is the best there is.  A
        number counts if its line follows from the one before, whatever that is.
        """
        shown = 0 if self._facts.head is None else self._facts.head.shown.seq
        proven = self._facts.proven
        if ruling.row == "R14" or ruling.verdict is Condition.JOURNAL_MISSING:
            return self._facts.lost_events, ()
        if ruling.verdict is not Condition.DAMAGED or ruling.row == "R22":
            return 0, ()
        last, saved, prev = shown, [], ""
        for line, event in claims(self._text.read, proven.size, proven.size + cut):
            if codec.follows(line, prev):
                last = max(last, event["seq"])
            prev = f"{event.get('hash')}"
            if event["type"] == "checkpoint.saved":
                saved.append(_saved_id(event))
        least = 1 if ruling.row == "R9" else 0
        return max(last - proven.seq, least), tuple(filter(None, saved))

    def _notes(self, ruling: Judgement, unnamed: set[str]) -> Iterator[str]:
        evidence, view = self._evidence, self._view
        for path in evidence.leftovers:
            yield f"{path} is left over from a process that died, or at work"
        for name in sorted(filter(_is_given_up, unnamed)):
            yield f"salvage/{name} is of a repair that was not finished"
        is_damage = ruling.verdict in {Condition.DAMAGED, Condition.JOURNAL_MISSING}
        if is_damage and ruling.row != "R22":
            yield from ways_back(evidence, self._facts.proven.size)
        yield from self._others
        for seq, lost in view.losses:
            yield f"a repair gave up {counted(lost, 'event')}, as event {seq} says"
        if not evidence.is_still:
            yield "another process was writing to it, or is stopped"


def _is_given_up(salvage_file: str) -> bool:
    return salvage_file.endswith(".damaged")


def _saved_id(event: Event) -> str | None:
    data: object = event["data"]
    found = data.get("checkpoint_id") if isinstance(data, dict) else None
    return found if isinstance(found, str) else None


def _message(ruling: Judgement, facts: Facts, view: JobView, cut: int) -> str:
    """Return a verdict in plain words."""
    shown = Head().shown if facts.head is None else facts.head.shown
    if ruling.row == "R8" and not cut:
        return (
            f"its journal ends at event {facts.proven.seq}, but event {shown.seq} was "
            "acknowledged: it went back to an older journal, or was copied while jobs "
            "were saving"
        )
    texts = {
        "R3": f"its journal is gone; it had {shown.seq} acknowledged events",
        "R4": "a sync failed, so what the disk holds is unknown",
        "R5": "its file holds another job's journal, or another store's",
        "R6": "its head is missing: the journal is intact, but whether it was cut "
        "before cannot be told",
        "R7": "no head says how far it is acknowledged, and its last lines are bad",
        "R8": "acknowledged events are damaged or gone",
        "R9": "its history is not the one that was acknowledged",
        "R10": f"{counted(view.seq, 'event')}, "
        f"{counted(len(view.checkpoints), 'checkpoint')}",
        "R11": "whole events at the end are not acknowledged yet",
        "R12": "the last line lacks its end",
        "R13": "bytes rotted after they were synced",
        "R14": f"{counted(cut, 'byte')} at the end are of a write that was cut",
        "R15": "a recovery has yet to be told, or a file to be cleared away",
        "R18": f"the states of {counted(facts.unreadable, 'checkpoint')} are damaged; "
        "its events are fine",
        "R20": job_view.newer_reason(view),
        "R21": "its head is older than the repair that replaced the journal",
        "R22": "another program wrote into its file; every event is intact",
    }
    return texts.get(ruling.row, "nothing was acknowledged yet")
