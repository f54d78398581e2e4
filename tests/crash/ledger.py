"""What was issued, promised and expected: the judge of every recovered disk."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from milepost.journal import ids
from milepost.journal.events.codec import peek
from milepost.journal.index.threads import to_rows

if TYPE_CHECKING:
    from milepost import CheckpointManager
    from milepost.journal.index.job_view import JobView
    from tests.crash.simdisk import World

STORE = "/disk/store"
_REPAIRED = b'"type":"job.repaired"'
_COMPACTED = b'"type":"job.compacted"'
_GIVEN_UP = b'"data":{"reason":"damaged"'
_STATE = b'{"state":'
GATE = "gate"  # a step of this name waits for an approval


@lru_cache(maxsize=8192)
def events_of(content: bytes) -> bytes:
    """Return a journal's bytes without its whole state lines.

    A compaction drops or re-encodes these; events stay for ever, and an event that
    stands without its state is found by restoring.
    """
    *lines, rest = content.split(b"\n")
    kept = [line + b"\n" for line in lines if not line.startswith(_STATE)]
    return b"".join(kept) + rest


class Violation(AssertionError):
    """A disk on which a promise was broken."""


class Listing(NamedTuple):
    """What a job must show.

    Attributes:
        ids: of its checkpoints, oldest first.
        current: the current one.
        workflows: all that is known of its executions.
    """

    ids: tuple[str, ...]
    current: str | None
    workflows: str = ""


class Promise(NamedTuple):
    """What was acknowledged or shown, as journal bytes by job.

    Attributes:
        durable: must survive a power cut.
        live: must survive the death of every process.
        refused: contents whose last write was answered with "nothing was written", and
            first events of jobs that were removed.
    """

    durable: dict[str, bytes]
    live: dict[str, bytes]
    refused: tuple[bytes, ...] = ()

    def with_(self, job: str, content: bytes, *, is_durable: bool) -> Promise:
        """Return this promise, and `content` besides."""
        durable = self.durable
        if is_durable and len(content) > len(durable.get(job, b"")):
            durable = {**durable, job: content}
        live = self.live
        if len(content) > len(live.get(job, b"")):
            live = {**live, job: content}
        return Promise(durable, live, self.refused)

    def without(self, job: str) -> Promise:
        """Return this promise, but for a job."""
        durable = {j: content for j, content in self.durable.items() if j != job}
        live = {j: content for j, content in self.live.items() if j != job}
        return Promise(durable, live, self.refused)

    def lags(self, job: str, content: bytes) -> bool:
        """Tell whether `content` is an earlier part of what was promised."""
        promised = self.live.get(job, b"")
        return len(content) < len(promised) and promised.startswith(content)

    def after_power_cut(self) -> Promise:
        """Return what is left of it when the page cache is gone."""
        return Promise(self.durable, self.durable, self.refused)

    def fingerprint(self) -> int:
        """Return a number that is equal for equal promises."""
        return hash(
            (*self.durable.items(), None, *self.live.items(), None, *self.refused)
        )


def listing_of(view: JobView) -> Listing:
    """Return what a folded job holds."""
    current = view.current
    return Listing(
        tuple(view.checkpoints),
        None if current is None else current.checkpoint_id,
        repr(plain([view.workflows, to_rows(view.threads)])),
    )


def plain(folded: object) -> object:
    """Return a part of a view as plain values that can be compared and printed."""
    match folded:
        case dict():
            return {key: plain(value) for key, value in folded.items()}
        case str() | int() | None:
            return folded
        case list() | tuple():
            return [plain(value) for value in folded]
    slots: tuple[str, ...] = getattr(folded, "__slots__", ())
    return {slot: plain(getattr(folded, slot)) for slot in slots}


def check_workflows(view: JobView) -> None:
    """Check that what one write does landed whole, whatever was acknowledged."""
    known = view.workflows
    for execution in known.executions.values():
        name, status = execution.execution_id, execution.status
        if bool(execution.leased) != (status == "running"):
            raise Violation(f"{name} is {status}, leased by {execution.leased}")
        is_idle = status not in {"pending", "running", "waiting"}
        for step in execution.steps:
            if step.status == "open" and is_idle:
                raise Violation(f"{name} is {status}, its step {step.name} is open")
            if step.name == GATE and step.approval_id is None:
                raise Violation(f"{name} has a gate without an approval")
    for approval in known.approvals.values():
        execution = known.executions[approval.execution_id]
        waits = execution.waiting_on == approval.approval_id
        if approval.status == "pending" and not waits:
            raise Violation(f"{approval.approval_id} is pending, nothing waits for it")
        if approval.status == "approved" and waits:
            raise Violation(f"{approval.execution_id} waits for an approval it has")


def _payloads_that_left(view: JobView) -> set[int]:
    """Return the events of executions whose states a compaction may have dropped."""
    known = view.workflows
    return {
        seq
        for execution in known.executions.values()
        for seq in execution.payload_seqs()
        if execution.removed_at is not None or seq <= known.erased_seq
    }


NO_PROMISE = Promise({}, {})


def journal_path(job: str) -> str:
    """Return where the journal of `job` is."""
    return f"{STORE}/journals/{ids.file_name(job)}.jsonl"


def job_at(path: str) -> str | None:
    """Return the job whose journal is at `path`, None if it is no journal."""
    if not path.endswith(".jsonl"):
        return None
    return ids.job_of(path.rpartition("/")[2][: -len(".jsonl")])


class Ledger:
    """Every journal content that whole writes make, and what each must show.

    A content is `events_of` the journal's bytes.  Lines are chained by hash, so equal
    contents are equal histories, and a check is a comparison of bytes.

    Args:
        parent: what was issued before a crash; what is issued after stays here.
    """

    def __init__(self, parent: Ledger | None = None) -> None:
        self.listings: dict[bytes, Listing | None] = (
            {} if parent is None else parent.listings.copy()
        )
        self.states: dict[str, Any] = {} if parent is None else parent.states.copy()
        self.proved: set[bytes] = set() if parent is None else parent.proved
        self.cuts: tuple[bytes, ...] = () if parent is None else parent.cuts
        self.live_cuts: tuple[bytes, ...] = () if parent is None else parent.live_cuts

    def issue(self, before: bytes, data: bytes, *, is_recovery: bool) -> None:
        """Take down that a program appends `data` to a journal that holds `before`."""
        content = events_of(before + data)
        if content in self.listings and not before.endswith(b"\n") and data == b"\n":
            return  # recovery finishes a line
        if before and self.whole_part(before) != before:
            raise Violation(f"written behind what is no whole write: {before[-80:]!r}")
        before = events_of(before)
        lines = data.splitlines()
        if is_recovery and all(_REPAIRED in line for line in lines):
            self.listings[content] = self.listings.get(before)
        else:
            self.listings.setdefault(content, None)

    def replaced(self, content: bytes) -> None:
        """Take down that a journal is now this file: what was, and that it was so."""
        events = events_of(content)
        if not events or events in self.listings:
            return
        known = max(
            (k for k in self.listings if events.startswith(k)), key=len, default=b""
        )
        added = events[len(known) :].splitlines()
        if not all(_COMPACTED in line or _GIVEN_UP in line for line in added):
            raise Violation(f"replaced by what never was: {added}")
        self.listings[events] = self.listings.get(known)

    def expect(self, content: bytes, listing: Listing) -> None:
        """Take down what a job whose journal is `content` was seen to hold."""
        self.listings[content] = listing

    def whole_part(self, content: bytes) -> bytes:
        """Return the longest run of whole writes that a journal begins with."""
        end = content.rfind(b"\n") + 1
        while end:
            start = content.rfind(b"\n", 0, end - 1) + 1
            is_event = not content.startswith(_STATE, start)
            if is_event and events_of(content[:end]) in self.listings:
                return content[:end]
            end = start
        return b""

    def check_content(self, job: str, content: bytes, promise: Promise) -> None:
        """Check what a job shows against what was issued and promised."""
        promised = promise.live.get(job, b"")
        if not content.startswith(promised):
            keep = len(self.whole_part(content))
            raise Violation(
                f"{job}: lost what was acknowledged or shown: {_last(promised)}; "
                f"there is {_last(content[:keep])}"
            )
        if content and content not in self.listings:
            keep = len(self.whole_part(content))
            raise Violation(
                f"{job}: shows {content[keep:][:120]!r}, which is no whole write"
            )
        if content.startswith(promise.refused):
            raise Violation(f"{job}: shows a write that was refused: {_last(content)}")

    def check_states(
        self, manager: CheckpointManager, view: JobView, content: bytes
    ) -> None:
        """Check the list, the current checkpoint and every state of a job.

        Args:
            manager: who answers.
            view: what it knows.
            content: the journal's bytes, state lines and all.
        """
        job = view.job_id
        expected, found = self.listings.get(events_of(content)), listing_of(view)
        if expected is not None and found != expected:
            raise Violation(f"{job}: holds {found}, not {expected}")
        # Equal bytes restore equally: all of them once, the newest always.
        check_workflows(view)
        is_proved = content in self.proved
        for checkpoint_id in found.ids[-1:] if is_proved else found.ids:
            if manager.get(job, checkpoint_id).state != self.states.get(checkpoint_id):
                raise Violation(f"{job}: {checkpoint_id} came back as another state")
        if is_proved:
            return
        self.proved.add(content)
        shown = manager.list(job), manager.latest(job), manager.current(job)
        if shown[0][-1:] != [i for i in shown[1:2] if i is not None]:
            raise Violation(f"{job}: the newest is {shown[1]}, listed is {shown[0]}")
        for report in manager.verify(job, deep=True):
            if not report.ok and content:
                raise Violation(f"{job}: {report.problem}")
            if damaged := [note for note in report.notes if "is damaged" in note]:
                raise Violation(f"{job}: {damaged}")
        lost = view.faults.keys() & view.sizes.others()
        if lost := lost - _payloads_that_left(view):
            raise Violation(f"{job}: the states of events {lost} are not there")

    def crashed(self, world: World, *, is_power_cut: bool) -> None:
        """Take down what a recovery of this machine will have to cut and keep."""
        if is_power_cut:
            self.cuts += self._tails(world)
            self.live_cuts = self.cuts
        else:  # the next power cut may take it, if nobody synced it
            self.live_cuts += self._tails(world)

    def _tails(self, world: World) -> tuple[bytes, ...]:
        found = []
        for path, (_, content) in world.contents().items():
            if job_at(path) is None:
                continue
            if content in (
                self.whole_part(content),
                self.whole_part(content + b"\n")[:-1],
            ):
                continue
            tail = content[len(self.whole_part(content)) :]
            if tail:
                found.append(tail)
        return tuple(found)

    def check_leftovers(self, world: World) -> None:
        """Check that no compaction that died has left its file behind."""
        for path in world.contents():
            if path.endswith(".copy"):
                raise Violation(f"{path} is still there")

    def check_salvage_files(self, world: World) -> None:
        """Check that what was cut is kept, and that a journal names where."""
        contents = world.contents()
        folder = f"{STORE}/salvage/"
        kept = {
            path[len(folder) :]: content
            for path, (_, content) in contents.items()
            if path.startswith(folder) and not path.endswith(".tmp")
        }
        for cut in self.live_cuts:
            if cut not in kept.values():
                raise Violation(
                    f"{len(cut)} cut bytes are in no salvage file: {cut[:60]!r}"
                )
        for name in kept:
            path = f"{STORE}/journals/{name.partition('.')[0]}.jsonl"
            _, content = contents.get(path, (0, b""))
            if b'"salvage_file":"%b"' % name.encode() not in content:
                raise Violation(f"no job.repaired names {name}")


def _last(content: bytes) -> str:
    if not content:
        return "nothing"
    event = peek(content.splitlines()[-1])
    return f"{len(content)} bytes to event {event['seq'] if event else '?'}"
