"""Finding out what is wrong with a job: reads everything, changes nothing.

`journal.diagnosis` judges what is found here.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from journal import chain, event_codec, index, recovery, state_codec
from journal import head as head_codec
from journal.diagnosis import Condition, Diagnosis, Facts, Judgement, judge, required
from journal.errors import (
    MilepostError,
    NewerFormat,
    UnreadableState,
)
from journal.event_codec import STATE_MISSING, BadLine, peek, span_of
from journal.head import Extent, Head
from journal.index import MALFORMED, JobView
from journal.recovery import Action
from journal.repair import counted
from journal.side_files import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from journal.event_codec import Located
    from journal.events import Event
    from journal.evidence import Evidence
    from journal.storage import Storage
    from journal.vault import Vault

_READ_BYTES = 1024 * 1024
_FIRST_LINE_BYTES = 8192


class Found(NamedTuple):
    """A diagnosis, and what a repair builds on: the view of all that is proven."""

    diagnosis: Diagnosis
    view: JobView


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
        self._size = evidence.size or 0
        self._head = head_codec.decode(evidence.head or b"")
        self._must = required(self._head)
        self._view = JobView(job_id, store_id)
        self._proven = Extent()
        self._base = None if self._must.seq else Extent()
        self._problem: BadLine | None = None
        self._is_given_up = False
        self._keys: Counter[str] = Counter()

    def run(self, *, deep: bool) -> Found:
        self._fold()
        tail = self._judge_tail()
        unreadable = self._unreadable(deep=deep)
        self._count_keys()
        evidence = self._evidence
        unnamed = set(evidence.side_files) - self._view.side_files.keys()
        facts = Facts(
            self._head,
            evidence.head is not None,
            self._size,
            self._is_foreign(),
            self._view.newer_seq,
            self._proven,
            self._problem,
            self._base,
            tail,
            self._is_given_up,
            len(unreadable),
            bool(evidence.leftovers) or not all(map(_is_given_up, unnamed)),
        )
        ruling = judge(facts)
        if ruling.verdict is Condition.UNSETTLED and not evidence.is_still:
            ruling = Judgement(Condition.BUSY, ruling.row)
        return Found(self._diagnosis(ruling, unreadable, unnamed), self._view)

    # -- the chain -----------------------------------------------------------------

    def _fold(self, until_seq: int | None = None) -> None:
        """Fold whole writes only, as far as lines are intact and in the chain."""
        write: list[Located] = []
        try:
            for located in self._events():
                write.append(located)
                event, offset, _, _ = located
                first, last = span_of(event)
                if first != self._proven.seq + 1 or not first <= event["seq"] <= last:
                    what = f"a write that begins at {self._proven.seq + 1}"
                    raise BadLine(offset, what, f"one at {first}")  # noqa: TRY301
                if event["seq"] == last:
                    self._take(write)
                    write = []
                    if last == until_seq:
                        return
        except BadLine as exc:
            self._problem = exc
        except MALFORMED as exc:
            self._problem = BadLine(write[0][1], "an event that follows", str(exc))
            if len(write) > 1:  # half a write is folded: once more, without it
                self._again(self._proven.seq)

    def _again(self, until_seq: int) -> None:
        """Fold anew, up to a write that is known to be whole."""
        problem, base = self._problem, self._base
        self._view = JobView(self._job_id, self._store_id)
        self._proven = Extent()
        if until_seq:
            self._fold(until_seq)
        self._problem, self._base = problem, base

    def _take(self, write: list[Located]) -> None:
        for event, offset, size, fault in write:
            index.apply(self._view, event, offset, size, fault)
        event, offset, size, _ = write[-1]
        self._proven = Extent(event["seq"], event["hash"], offset + size)
        for event, offset, size, _ in write:
            is_it = (event["seq"], event["hash"]) == self._must[:2]
            is_instead = self._base is None and recovery.gives_up(
                event, (self._head or Head()).shown
            )
            self._is_given_up |= is_instead
            if is_it or is_instead:
                self._base = Extent(event["seq"], event["hash"], offset + size)

    def _events(self) -> Iterator[Located]:
        """Yield verified events; raise `BadLine` where they end before the file."""
        seq, prev, end, want = 0, None, 0, _READ_BYTES
        while end < self._size:
            before = end
            data = self._evidence.read(before, min(want, self._size - before))
            for located in event_codec.scan(data, seq=seq, prev=prev, offset=before):
                event, offset, size, _ = located
                seq, prev, end = event["seq"], event["hash"], offset + size
                yield located
            if end > before:
                continue
            if before + len(data) >= self._size or len(data) < want:
                left = self._size - before
                raise BadLine(before, "a whole write", f"{left} bytes of one")
            want *= 2

    def _judge_tail(self) -> Action:
        """Judge what is behind the acknowledged event as the next writer would."""
        if self._base is None:
            return Action.NOTHING
        head = self._head or Head()
        verdict = recovery.judge_tail(
            self._evidence.read(self._base.size, self._size - self._base.size),
            self._base,
            later_writes_prove=head.durability == "always",
            states_may_be_gone=head.inode != self._evidence.inode,
        )
        if verdict.action is Action.FINISH_LINE:
            return verdict.action
        if verdict.keep.seq > self._proven.seq:
            return Action.QUARANTINE  # intact lines that make no sense
        if verdict.keep.seq < self._proven.seq:  # it reads their states, too
            self._again(verdict.keep.seq)
        self._problem = verdict.problem
        return verdict.action

    def _is_foreign(self) -> bool:
        line, _, _ = self._evidence.read(0, _FIRST_LINE_BYTES).partition(b"\n")
        event = peek(line)
        if event is None or event["type"] != "job.opened":
            return False
        data: object = event["data"]
        if not isinstance(data, dict):
            return False
        is_ours = self._store_id in (None, data.get("store"))
        return data.get("job") != self._job_id or not is_ours

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
        try:
            return chain.problem_of(seq, self._member) is None
        except KeyError:  # its base is no save
            return False

    def _count_keys(self) -> None:
        """Count the states that are encrypted, by the key they need."""
        view = self._view
        if view.newer_seq:
            return
        entries = [*view.checkpoints.values(), *(t.entry for t in view.trash.values())]
        for entry in entries:
            if entry.seq in view.faults:
                continue
            offset, size = view.places[entry.seq]
            start = self._evidence.read(offset, min(size, state_codec.HEADER_BYTES))
            with suppress(UnreadableState, NewerFormat):
                key_id = state_codec.read_header(start, seq=entry.seq).key_id
                self._keys[key_id] += 1
        del self._keys[""]

    def _member(self, seq: int) -> chain.Member:
        lines = self._evidence.read(*self._view.places[seq])
        first, _, second = lines.rstrip(b"\n").partition(b"\n")
        pair = (first, second) if second else (b"", first)
        return chain.member(pair, self._view.site(seq), self._vault)

    # -- the answer ----------------------------------------------------------------

    def _diagnosis(
        self, ruling: Judgement, unreadable: tuple[str, ...], unnamed: set[str]
    ) -> Diagnosis:
        view, proven = self._view, self._proven
        head = self._head or Head()
        problem = self._shown_problem(ruling)
        is_damage = ruling.verdict is Condition.DAMAGED
        rest = b""
        if is_damage or ruling.row == "R14":
            rest = self._evidence.read(proven.size, self._size - proven.size)
        lost, lost_ids = self._lost(rest, ruling)
        restorable = [c for c in view.checkpoints if c not in set(unreadable)]
        return Diagnosis(
            self._job_id,
            ruling.verdict,
            ruling.row,
            _message(ruling, head, view, len(unreadable), len(rest)),
            self._line_of(problem),
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
            len(rest),
            lost,
            head.shown.hash if lost and self._base is None else "",
            lost_ids,
            name_of(self._evidence.name, rest, proven.size, lost, is_damage=is_damage)
            if rest
            else None,
            tuple(self._notes(unnamed)),
        )

    def _shown_problem(self, ruling: Judgement) -> BadLine | None:
        must, proven = self._must, self._proven
        match ruling.row:
            case "R8" if self._problem is None:
                what = f"{must.seq} events in {must.size} bytes"
                return BadLine(self._size, what, "the end of the file")
            case "R9":
                what = f"event {must.seq} with hash {must.hash}"
                return BadLine(proven.size, what, "another event of that number")
            case "R5":
                line, _, _ = self._evidence.read(0, _FIRST_LINE_BYTES).partition(b"\n")
                event = peek(line)
                found = event["data"] if event else {}
                return BadLine(0, f"job {self._job_id!r} of this store", f"{found}")
            case "R7" | "R8" | "R12" | "R13" | "R14":
                return self._problem
        return None

    def _line_of(self, problem: BadLine | None) -> int:
        if problem is None:
            return 0
        count, at = 1, 0
        while at < problem.offset:
            data = self._evidence.read(at, min(_READ_BYTES, problem.offset - at))
            count, at = count + data.count(b"\n"), at + _READ_BYTES
        return count

    def _lost(self, rest: bytes, ruling: Judgement) -> tuple[int, tuple[str, ...]]:
        """Return how many acknowledged events are behind the damage, and their saves.

        Behind damage nothing is proven; what lines claim is the best there is.  A
        number counts if its line follows from the one before, whatever that is.
        """
        shown = 0 if self._head is None else self._head.shown.seq
        proven = self._proven.seq
        if ruling.row == "R14" or ruling.verdict is Condition.JOURNAL_MISSING:
            return max(shown - proven, 0), ()
        if ruling.verdict is not Condition.DAMAGED:
            return 0, ()
        last, saved, prev = shown, [], ""
        for line in rest.split(b"\n"):
            event = peek(line)
            if event is None:
                continue
            if event_codec.follows(line, prev):
                last = max(last, event["seq"])
            prev = f"{event.get('hash')}"
            if event["type"] == "checkpoint.saved":
                saved.append(_saved_id(event))
        least = 1 if ruling.row == "R9" else 0
        return max(last - proven, least), tuple(filter(None, saved))

    def _notes(self, unnamed: set[str]) -> Iterator[str]:
        evidence, view = self._evidence, self._view
        for path in evidence.leftovers:
            yield f"{path} is left over from a process that died, or at work"
        for name in sorted(filter(_is_given_up, unnamed)):
            yield f"side/{name} is of a repair that was not finished"
        for seq, lost in view.losses:
            yield f"a repair gave up {counted(lost, 'event')}, as event {seq} says"
        if not evidence.is_still:
            yield "another process was writing to it, or is stopped"


def _is_given_up(side_file: str) -> bool:
    return side_file.endswith(".damaged")


def _saved_id(event: Event) -> str | None:
    data: object = event["data"]
    found = data.get("checkpoint_id") if isinstance(data, dict) else None
    return found if isinstance(found, str) else None


def _message(
    ruling: Judgement, head: Head, view: JobView, unreadable: int, rest: int
) -> str:
    """Return a verdict in plain words."""
    texts = {
        "R3": f"its journal is gone; it had {head.shown.seq} acknowledged events",
        "R4": "a sync failed, so what the disk holds is unknown",
        "R5": "its file holds another job's journal, or another store's",
        "R6": "its head is missing: the journal is intact, but whether it was cut "
        "before cannot be told",
        "R7": "its head is missing and its last lines are bad",
        "R8": "acknowledged events are damaged or gone",
        "R9": "its history is not the one that was acknowledged",
        "R10": f"{counted(view.seq, 'event')}, "
        f"{counted(len(view.checkpoints), 'checkpoint')}",
        "R11": "whole events at the end are not acknowledged yet",
        "R12": "the last line lacks its end",
        "R13": "bytes rotted after they were synced",
        "R14": f"{counted(rest, 'byte')} at the end are of a write that was cut",
        "R15": "a recovery has yet to be told, or a file to be cleared away",
        "R18": f"the states of {counted(unreadable, 'checkpoint')} are damaged; its "
        "events are fine",
        "R20": index.newer_reason(view),
        "R21": "its head is older than the repair that replaced the journal",
    }
    return texts.get(ruling.row, "nothing was acknowledged yet")
