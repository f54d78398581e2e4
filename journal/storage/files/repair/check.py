"""Find out the condition of a job: reads everything, changes nothing.

`milepost.journal.recovery.diagnosis` decides on the basis of these facts.
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
from milepost.journal.recovery.diagnosis import Condition, Diagnosis
from milepost.journal.states import delta_chain, line_codec
from milepost.journal.storage.files.places import Places
from milepost.journal.storage.files.recovery.elsewhere import ways_back
from milepost.journal.storage.files.recovery.facts import look
from milepost.journal.storage.files.recovery.head import Extent, Head
from milepost.journal.storage.files.recovery.judgement import (
    Action,
    Judgement,
    judge,
    problem_of,
    required,
)
from milepost.journal.storage.files.recovery.passage import (
    claims,
    line_number,
    pieces,
    walk,
)
from milepost.journal.storage.files.recovery.salvage import name_of
from milepost.journal.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost.journal.events.vocabulary import Event
    from milepost.journal.states.access import Vault
    from milepost.journal.storage.files.recovery.judgement import Facts
    from milepost.journal.storage.files.recovery.snapshot import Evidence
    from milepost.journal.storage.files.storage import FileStorage


class Found(NamedTuple):
    """A diagnosis, and the input of a repair.

    Attributes:
        diagnosis: the diagnosis.
        view: the view of all proven events.
        text: the bytes it was read from: the journal's, or their canonical form.
    """

    diagnosis: Diagnosis
    view: JobView
    text: Evidence


def diagnose(
    storage: FileStorage, job_id: str, vault: Vault, *, deep: bool
) -> Diagnosis:
    """Diagnose a job without changing its files.

    Args:
        storage: the storage of the job.
        job_id: the job; an unknown one is sound, at seq 0.
        vault: the available keys.
        deep: read every live state, not only the checksums of their lines.
    """
    try:
        store_id = storage.store_id
    except MilepostError:
        store_id = None  # reported by the store check; the hash chain does not need it
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
    """Examine all of a job; see `diagnose`.

    Raises:
        NewerFormat: a newer version wrote its head.
        OSError: it cannot be read.
    """
    return _Examination(evidence, job_id, store_id, vault).run(deep=deep)


class _Examination:
    """One examination of one job."""

    def __init__(
        self, evidence: Evidence, job_id: str, store_id: str | None, vault: Vault
    ) -> None:
        self._evidence = evidence
        self._job_id = job_id
        self._store_id = store_id
        self._vault = vault
        self._facts = look(evidence, job_id, store_id)
        self._text = self._facts.text or evidence
        self._places = Places(evidence.inode)
        self._view = self._folded()
        self._keys: Counter[str] = Counter()
        self._others: tuple[str, ...] = ()  # notes about states without a checkpoint

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
        """Return the view of the proven events."""
        view = JobView(self._job_id, self._store_id)
        proven = walk(self._text.read, Extent(), self._facts.proven.size)
        try:
            for found, _, _ in proven:
                for event, offset, size, fault in found:
                    job_view.apply(view, event, size, fault)
                    self._places.ends.append(offset + size)
        except MALFORMED as exc:  # the first event opens no job, so nothing is usable
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
        """Return the live checkpoints whose states cannot be restored."""
        view = self._view
        # A delta whose base rotted is unreadable too.
        faults = (fault for fault in view.faults.values() if fault != STATE_MISSING)
        is_needed = deep or any(faults) or self._misses_a_live_state()
        if not is_needed or view.newer_seq:
            return ()
        return tuple(
            entry.checkpoint_id
            for entry in view.checkpoints.after(0)
            if not self._opens(entry.seq)
        )

    def _misses_a_live_state(self) -> bool:
        return any(map(self._view.checkpoints.saved_as, self._view.faults))

    def _opens(self, seq: int) -> bool:
        if seq in self._view.faults:
            return False
        return delta_chain.problem_of(seq, self._member) is None

    def _count_keys(self) -> None:
        """Count the states under each key."""
        view = self._view
        if view.newer_seq:
            return
        entries = [*view.checkpoints.after(0), *(t.entry for t in view.trash.values())]
        for seq in (*(entry.seq for entry in entries), *view.sizes.others()):
            if seq in view.faults:
                continue
            offset, size = self._places.of(seq)
            start = self._text.read(offset, min(size, line_codec.HEADER_BYTES))
            with suppress(UnreadableState, NewerFormat):
                key_id = line_codec.read_header(start, seq=seq).key_id
                self._keys[key_id] += 1
        del self._keys[""]

    def _member(self, seq: int) -> delta_chain.Member:
        if not 0 < seq <= self._places.last:  # a base that does not exist
            raise UnreadableState(f"event {seq} does not exist")
        lines = self._text.read(*self._places.of(seq))
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
        """Return how many acknowledged events are after the damage, and their saves.

        Nothing after the damage is proven; the claims of the lines are the best
        estimate.  A number counts if its line follows from the one before it.
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
            yield f"{path} is left over from a crashed process, or in use"
        for name in sorted(filter(_is_given_up, unnamed)):
            yield f"salvage/{name} is from an unfinished repair"
        is_damage = ruling.verdict in {Condition.DAMAGED, Condition.JOURNAL_MISSING}
        if is_damage and ruling.row != "R22":
            yield from ways_back(evidence, self._facts.proven.size)
        yield from self._others
        for seq, lost in view.losses:
            yield f"a repair lost {counted(lost, 'event')}, as event {seq} records"
        if not evidence.is_still:
            yield "another process was writing to it, or is stopped"


def _is_given_up(salvage_file: str) -> bool:
    return salvage_file.endswith(".damaged")


def _saved_id(event: Event) -> str | None:
    data: object = event["data"]
    found = data.get("checkpoint_id") if isinstance(data, dict) else None
    return found if isinstance(found, str) else None


def _message(ruling: Judgement, facts: Facts, view: JobView, cut: int) -> str:
    """Return the message of a diagnosis."""
    shown = Head().shown if facts.head is None else facts.head.shown
    if ruling.row == "R8" and not cut:
        return (
            f"its journal ends at event {facts.proven.seq}, but event {shown.seq} was "
            "acknowledged: it went back to an older journal, or was copied while jobs "
            "were saving"
        )
    texts = {
        "R3": "its journal is missing; it had "
        f"{counted(shown.seq, 'acknowledged event')}",
        "R4": "a sync failed, so the content of the disk is unknown",
        "R5": "its file is another job's journal, or another store's",
        "R6": "its head is missing: the journal is intact, but an earlier loss at its "
        "end cannot be excluded",
        "R7": "its head is missing, and its last lines are damaged",
        "R8": "acknowledged events are damaged or missing",
        "R9": "its history differs from the acknowledged one",
        "R10": f"{counted(view.seq, 'event')}, "
        f"{counted(len(view.checkpoints), 'checkpoint')}",
        "R11": "whole events at the end are not acknowledged yet",
        "R12": "the last line has no newline",
        "R13": "bytes rotted after they were synced",
        "R14": f"{counted(cut, 'byte')} at the end are from an interrupted write",
        "R15": "a recovery is not journaled yet, or a leftover file is not removed yet",
        "R18": f"the states of {counted(facts.unreadable, 'checkpoint')} are damaged; "
        "its events are intact",
        "R20": job_view.newer_reason(view),
        "R21": "its head is older than the repair that replaced the journal",
        "R22": "another program wrote into its file; every event is intact",
        "R23": "its removal is recorded, but not complete",
    }
    return texts.get(ruling.row, "nothing was acknowledged yet")
