"""Random histories of one job, faults and crashes among them, against a plain model."""

from __future__ import annotations

import errno
import gc
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from milepost import CheckpointManager, Policy
from milepost.journal.errors import (
    ConfirmationRequired,
    Conflict,
    NoSpace,
    Protected,
    ReadOnlyStore,
    StalePlan,
    StorageFailed,
    UnknownCheckpoint,
)
from milepost.journal.recovery.diagnosis import Condition
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.store import job as replica
from tests.support.clock import Clock
from tests.support.faults import Fault, FaultyDisk, Medium, journal_of
from tests.support.states import STATES
from tests.support.views import whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.retention.decisions import Plan
    from tests.support.tally import Tally

JOB = "etl"
TRASH = timedelta(seconds=60)
GUARDED = 11  # live checkpoints, from which on a plan that takes over half waits
WHO = st.integers(0, 1)


class Died(BaseException):
    """The process of a handle is no more: nothing of it may run on."""


class MortalDisk(FaultyDisk):
    """A disk whose user can die: from then on it does nothing for him."""

    is_dead = False

    def die(self) -> None:
        self.is_dead = True
        raise Died

    def meet(self, operation: str, path: Path) -> Fault | None:
        # The kernel lets go of the locks of the dead.
        if self.is_dead and operation != "unlock":
            raise Died
        return super().meet(operation, path)


class Saved(NamedTuple):
    """What the model knows of a checkpoint."""

    state: dict[str, Any]
    parent: str | None
    tags: tuple[str, ...]


class Model:
    """What a job is, told without a journal."""

    def __init__(self) -> None:
        self.saved: dict[str, Saved] = {}  # every id ever, oldest first
        self.live: set[str] = set()
        self.gone: dict[str, datetime] = {}  # deleted, when
        self.purged: set[str] = set()  # of these, what cannot come back
        self.erased: set[str] = set()  # deleted, and no way back
        self.pinned: set[str] = set()
        self.pinned_when_deleted: set[str] = set()
        self.held: set[str] = set()
        self.chosen: str | None = None  # last saved or restored
        self.current: str | None = None
        self.keys: dict[str, tuple[str, list[object]]] = {}  # id and content
        self.salvage_files: list[datetime] = []  # torn bytes kept aside, since when
        self.confirmed: set[int] = set()  # `keep_last` of plans
        self.types: list[str] = []  # of all events

    @property
    def order(self) -> list[str]:
        """The live checkpoints, oldest first."""
        return [id_ for id_ in self.saved if id_ in self.live]

    def told(self, type_: str) -> None:
        if not self.types:
            self.types.append("job.opened")
        self.types.append(type_)

    def save(self, id_: str, state: dict[str, Any], tags: tuple[str, ...] = ()) -> None:
        self.saved[id_] = Saved(state, self.current, tags)
        self.live.add(id_)
        self.chosen = self.current = id_
        self.told("checkpoint.saved")

    def keyed(self, key: str | None) -> tuple[str, list[object]] | None:
        """What a key stands for: a live save on the line from current to the root."""
        known = None if key is None else self.keys.get(key)
        if known is None or known[0] not in self.live:
            return None
        found = self.current
        while found is not None and found != known[0]:
            found = self.saved[found].parent
        return known if found else None

    def restore(self, id_: str) -> None:
        self.chosen = self.current = id_
        self.told("checkpoint.restored")

    def remove(self, ids: list[str], now: datetime, type_: str) -> None:
        for id_ in ids:
            self.live.remove(id_)
            self.gone[id_] = now
            if id_ in self.pinned:
                self.pinned.remove(id_)
                self.pinned_when_deleted.add(id_)
        self.settle()
        self.told(type_)

    def purge(self, ids: list[str], now: datetime, type_: str) -> None:
        self.remove([id_ for id_ in ids if id_ in self.live], now, type_)
        self.purged.update(ids)
        self.salvage_files = [
            datetime.min.replace(tzinfo=UTC) for _ in self.salvage_files
        ]

    def erase(self, now: datetime) -> None:
        self.purge([*self.order, *self.gone], now, "job.erased")

    def undelete(self, id_: str) -> None:
        del self.gone[id_]
        self.live.add(id_)
        if id_ in self.pinned_when_deleted:
            self.pinned_when_deleted.remove(id_)
            self.pinned.add(id_)
        self.settle()
        self.told("checkpoint.undeleted")

    def settle(self) -> None:
        """The chosen one is current, or its closest ancestor left, or the newest."""
        found = self.chosen
        while found is not None and found not in self.live:
            found = self.saved[found].parent
        self.current = found or (self.order[-1] if self.order else None)

    @property
    def unprotected(self) -> list[str]:
        """What a person's cleanup counts, oldest first."""
        protected = self.pinned | self.held
        return [id_ for id_ in self.order if id_ not in protected]

    def doomed(self, keep_last: int) -> list[str]:
        """What a policy that keeps the newest removes: never what is shielded."""
        shielded = {*self.order[-keep_last:], *self.pinned, *self.held, self.current}
        return [id_ for id_ in self.order if id_ not in shielded]  # I6

    def repair(self, now: datetime, *, keeps_aside: bool) -> None:
        self.salvage_files += [now] * keeps_aside
        self.told("job.repaired")

    def due(self, now: datetime) -> set[str]:
        """Which states a compaction erases."""
        due = {id_ for id_, at in self.gone.items() if at <= now - TRASH}
        return due | self.purged

    def has_to_compact(self, now: datetime) -> bool:
        return bool(self.due(now)) or any(
            at <= now - TRASH for at in self.salvage_files
        )

    def compact(self, now: datetime) -> None:
        """Descendants descend, from now on, from what led to the erased."""
        due = self.due(now)
        self.salvage_files = [at for at in self.salvage_files if at > now - TRASH]
        for id_ in due:
            del self.gone[id_]
            self.pinned_when_deleted.discard(id_)
        self.purged.clear()
        self.erased |= due
        for id_, saved in self.saved.items():
            parent = saved.parent
            while parent in due:
                parent = self.saved[parent].parent
            self.saved[id_] = saved._replace(parent=parent)
        while self.chosen in due:
            self.chosen = self.saved[self.chosen].parent
        self.told("job.compacted")

    def follow(self, event: Any, states: dict[str, Any], now: datetime) -> None:
        """Take over what may or may not have happened, and did."""
        data, type_ = event["data"], event["type"]
        match type_:
            case "checkpoint.saved":
                self.save(data["checkpoint_id"], states[data["step_name"]])
            case "checkpoint.restored":
                self.restore(data["checkpoint_id"])
            case "checkpoint.deleted":
                self.remove([data["checkpoint_id"]], now, type_)
            case "checkpoints.cleaned":
                self.remove([*data["removed"]], now, type_)
            case "checkpoint.undeleted":
                self.undelete(data["checkpoint_id"])
            case "checkpoint.purged":
                self.purge([data["checkpoint_id"]], now, type_)
            case "job.erased":
                self.erase(now)
            case "job.compacted":
                self.compact(now)
            case "job.repaired":
                self.repair(now, keeps_aside="salvage_file" in data)
            case "job.opened":
                assert self.types == []
            case _:
                raise AssertionError(type_)


EFFECTS = {
    "fails": {"error": errno.EIO},
    "is full": {"error": errno.ENOSPC},
    "loses": {"error": errno.EIO, "loses": True},
    "dies": {},
    "tears and fails": {"error": errno.EIO, "taken": 60},
    "tears and dies": {"taken": 200},
}


class Strike(NamedTuple):
    """What happens at the `nth` call of `operation` (any, if it is empty)."""

    operation: str
    effect: str
    nth: int

    def of(self, disk: MortalDisk) -> Fault:
        """Return the fault, for the user of this disk."""
        action = disk.die if self.effect.endswith("dies") else None
        return Fault(self.operation, self.nth, action=action, **EFFECTS[self.effect])


MOSTLY_FIRST = st.sampled_from([1, 1, 1, 2])  # most work has one write and one sync
STRIKES = (
    st.builds(
        Strike,
        st.sampled_from(["append", "pwrite"]),
        st.sampled_from([e for e in EFFECTS if e != "loses"]),
        MOSTLY_FIRST,
    )
    | st.builds(
        Strike,
        st.just("sync"),
        st.sampled_from([e for e in EFFECTS if not e.startswith("tears")]),
        MOSTLY_FIRST,
    )
    | st.builds(
        Strike,
        st.sampled_from(["sync_folder", "rename"]),
        st.sampled_from(["fails", "dies"]),
        MOSTLY_FIRST,
    )
    | st.builds(Strike, st.just(""), st.just("dies"), st.integers(1, 30))
)
WORK: dict[str, Callable[[CheckpointManager, str], Any]] = {
    "save": lambda manager, _: manager.save(JOB, "struck", {"n": [1]}),
    "restore": lambda manager, id_: manager.restore(JOB, id_),
    "delete": lambda manager, id_: manager.delete(JOB, id_, force=True),
    "cleanup": lambda manager, _: manager.cleanup(JOB, keep_last=1),
    "undelete": lambda manager, id_: manager.undelete(JOB, id_),
    "purge": lambda manager, id_: manager.delete(JOB, id_, force=True, purge=True),
    "erase": lambda manager, _: manager.erase(JOB),
    "compact": lambda manager, _: manager.compact(JOB),
    "list": lambda manager, _: manager.list(JOB),
}


TURNS = st.lists(
    st.tuples(
        WHO,
        st.sampled_from(
            ["delete", "undelete"] * 2 + ["purge", "purge another", "compact", "save"]
        ),
        st.integers(0, 70),
    ),
    min_size=3,
    max_size=9,
)


class Histories(RuleBasedStateMachine):
    """A store behind two handles."""

    known = Bundle("known")

    @initialize(target=known, is_new=st.booleans())
    def begin(self, is_new: bool) -> Any:
        self.root = Path(tempfile.mkdtemp()) / "store"
        self.clock = Clock()
        self.model = Model()
        self.medium = Medium()
        self.forks: dict[str, Saved] = {}
        self.plans: list[tuple[int, Plan]] = []
        self.disks: list[MortalDisk] = []
        self.handles: list[CheckpointManager] = []
        for by in range(2):
            self.take(by)
        if is_new:
            return multiple()
        saved = self.handles[0].save(JOB, "step", {})
        self.model.save(saved, {})
        return saved

    def opened(self) -> tuple[MortalDisk, CheckpointManager]:
        """Return a process that knows nothing yet, and the disk it dies with."""
        # Nothing but processes dies here, so nothing has to reach the medium.
        disk = MortalDisk(self.root, syncs=False, medium=self.medium)
        manager = CheckpointManager(
            storage=FileStorage(self.root, disk=disk),
            trash_seconds=TRASH.total_seconds(),
            clock=self.clock,
        )
        return disk, manager

    def take(self, by: int) -> None:
        """Open a new handle."""
        disk, manager = self.opened()
        self.disks[by : by + 1], self.handles[by : by + 1] = [disk], [manager]

    def teardown(self) -> None:
        if not hasattr(self, "root"):
            return
        _, fresh = self.opened()
        for report in fresh.verify(deep=True):
            assert report.ok, report
        for found in fresh.diagnose(deep=True):
            assert found.verdict is Condition.SOUND, found
        shutil.rmtree(self.root.parent)

    @rule(
        target=known,
        by=WHO,
        state=STATES,
        tags=st.lists(st.sampled_from(["a", "b"]), max_size=2, unique=True),
        is_pinned=st.booleans(),
        key=st.none() | st.sampled_from(["k1", "k2"]),
        is_expected=st.booleans(),
        seconds=st.integers(-50, 50),
    )
    def save(
        self,
        by: int,
        state: dict[str, Any],
        tags: list[str],
        is_pinned: bool,
        key: str | None,
        is_expected: bool,
        seconds: int,
    ) -> str:
        model = self.model
        self.clock.turn(seconds=seconds)  # time is informative, never an order
        expected_seq = len(model.types) if is_expected else None
        known = model.keyed(key)
        content = [state, sorted(tags), is_pinned]
        try:
            new = self.handles[by].save(
                *(JOB, "step", state),
                tags=tags,
                pinned=is_pinned,
                idempotency_key=key,
                expected_seq=expected_seq,
            )
        except Conflict:
            assert known is not None
            assert not same(known[1], content)
            return known[0]
        if known is not None:
            assert known[0] == new
            assert same(known[1], content)
            return new
        model.save(new, state, tuple(tags))
        if is_pinned:
            model.pinned.add(new)
        if key is not None:
            model.keys[key] = (new, content)
        return new

    @rule(target=known, by=WHO)
    def save_many(self, by: int) -> Any:
        """As many as it takes for a plan to require confirmation."""
        saved = [self.handles[by].save(JOB, f"m{n}", {"n": n}) for n in range(GUARDED)]
        for n, id_ in enumerate(saved):
            self.model.save(id_, {"n": n})
        return multiple(*saved)

    @rule(by=WHO, id_=known)
    def restore(self, by: int, id_: str) -> None:
        try:
            state = self.handles[by].restore(JOB, id_)
        except UnknownCheckpoint:
            assert id_ not in self.model.live
        else:
            assert same(state, self.model.saved[id_].state)
            self.model.restore(id_)

    @rule(by=WHO, id_=known, force=st.booleans())
    def delete(self, by: int, id_: str, force: bool) -> None:
        model = self.model
        try:
            deleted = self.handles[by].delete(JOB, id_, force=force)
        except Protected:
            assert id_ in model.held or (id_ in model.pinned and not force)
            return
        assert deleted == (id_ in model.live)
        if deleted:
            assert force or id_ not in model.pinned
            assert id_ not in model.held
            model.remove([id_], self.clock.now, "checkpoint.deleted")

    @rule(by=WHO, keep_last=st.integers(1, 4))
    def cleanup(self, by: int, keep_last: int) -> None:
        doomed = self.model.unprotected[:-keep_last]
        assert self.handles[by].cleanup(JOB, keep_last) == len(doomed)
        if doomed:
            self.model.remove(doomed, self.clock.now, "checkpoints.cleaned")

    @rule(by=WHO, keep_last=st.integers(1, 3))
    def plan(self, by: int, keep_last: int) -> None:
        plan = self.handles[by].plan(JOB, Policy(keep_last=keep_last))
        removed = [verdict.checkpoint_id for verdict in plan.remove]
        doomed, live = self.model.doomed(keep_last), len(self.model.live)
        assert removed[::-1] == doomed
        is_much = live >= GUARDED and len(doomed) > live / 2
        assert bool(plan.waits) == (is_much and keep_last not in self.model.confirmed)
        self.plans.append((keep_last, plan))

    @precondition(lambda self: self.plans)
    @rule(by=WHO, confirm=st.booleans())
    def apply(self, by: int, confirm: bool) -> None:
        """Carry out the last plan, which may be stale, and was perhaps carried out."""
        model, (keep_last, plan) = self.model, self.plans[-1]
        doomed = [verdict.checkpoint_id for verdict in plan.remove]
        try:
            assert self.handles[by].apply(plan, confirm=confirm) == len(doomed)
        except ConfirmationRequired:
            assert plan.waits
            assert not confirm
            return
        except StalePlan:
            assert plan.jobs[0].head_seq != len(model.types)
            return
        if doomed:
            assert set(doomed) <= set(model.doomed(keep_last))
            assert confirm or not plan.waits
            model.remove(doomed, self.clock.now, "checkpoints.cleaned")
            model.confirmed |= {keep_last} if plan.waits else set()

    @rule(by=WHO, id_=known)
    def undelete(self, by: int, id_: str) -> None:
        model = self.model
        try:
            came_back = self.handles[by].undelete(JOB, id_)
        except Conflict:
            assert id_ in model.erased | model.due(self.clock.now)
            return
        assert came_back == (id_ in model.gone)
        if came_back:
            model.undelete(id_)

    @rule(by=WHO, id_=known, force=st.booleans())
    def purge(self, by: int, id_: str, force: bool) -> None:
        model, now = self.model, self.clock.now
        try:
            purged = self.handles[by].delete(JOB, id_, force=force, purge=True)
        except Protected:
            assert id_ in model.held or (id_ in model.pinned and not force)
            return
        assert purged == (id_ in model.live or id_ in model.gone)
        if purged:
            assert force or id_ not in model.pinned
            assert id_ not in model.held
            model.purge([id_], now, "checkpoint.purged")
            model.compact(now)

    @rule(id_=known, other=known, turns=TURNS)
    def come_and_go(
        self, id_: str, other: str, turns: list[tuple[int, str, int]]
    ) -> None:
        """One checkpoint goes and comes back, while others leave the disk."""
        for by, verb, seconds in turns:
            match verb:
                case "delete":
                    self.delete(by, id_, force=True)
                case "undelete":
                    self.undelete(by, id_)
                case "purge":
                    self.purge(by, id_, force=True)
                case "purge another":
                    self.purge(by, other, force=True)
                case "compact":
                    self.compact(by, seconds)
                case "save":
                    saved = self.handles[by].save(JOB, "step", {})
                    self.model.save(saved, {})
            self.compare(self.opened()[1])

    @rule(by=WHO)
    def erase(self, by: int) -> None:
        model, now = self.model, self.clock.now
        try:
            done = self.handles[by].erase(JOB)
        except Protected:
            assert model.held
            return
        assert (done is None) == (model.types == [])
        if done is not None:
            model.erase(now)
            assert done.dropped == len(model.due(now))
            if model.has_to_compact(now):
                model.compact(now)

    @rule(by=WHO)
    def complete(self, by: int) -> None:
        if self.handles[by].complete(JOB):
            self.model.told("job.completed")
        else:
            assert self.model.types == []

    @rule(by=WHO, seconds=st.integers(0, 90))
    def compact(self, by: int, seconds: int) -> None:
        self.clock.turn(seconds=seconds)
        model, now = self.model, self.clock.now
        done = self.handles[by].compact(JOB)
        assert (done is not None) == model.has_to_compact(now)
        if done is not None:
            assert done.dropped == len(model.due(now))
            model.compact(now)

    @rule(by=WHO, id_=known, is_pin=st.booleans())
    def pin(self, by: int, id_: str, is_pin: bool) -> None:
        manager, kind = self.handles[by], "pinned" if is_pin else "unpinned"
        work = manager.pin if is_pin else manager.unpin
        self.mark(work, id_, self.model.pinned, f"checkpoint.{kind}", is_pin)

    @rule(by=WHO, id_=known, is_hold=st.booleans())
    def hold(self, by: int, id_: str, is_hold: bool) -> None:
        manager, kind = self.handles[by], "held" if is_hold else "released"
        work = manager.hold if is_hold else manager.release
        self.mark(work, id_, self.model.held, f"checkpoint.{kind}", is_hold)

    def mark(
        self,
        work: Callable[[str, str], bool],
        id_: str,
        marked: set[str],
        type_: str,
        is_on: bool,
    ) -> None:
        try:
            changed = work(JOB, id_)
        except UnknownCheckpoint:
            assert id_ not in self.model.live
            return
        assert changed == ((id_ in marked) != is_on)
        (marked.add if is_on else marked.discard)(id_)
        if changed:
            self.model.told(type_)

    @rule(by=WHO, id_=known, to=st.sampled_from(["fork a", "fork b"]))
    def fork(self, by: int, id_: str, to: str) -> None:
        try:
            self.handles[by].fork(JOB, id_, to)
        except UnknownCheckpoint:
            assert id_ not in self.model.live
        except Conflict:
            assert to in self.forks
        else:
            assert to not in self.forks
            self.forks[to] = self.model.saved[id_]._replace(parent=None)

    @rule(by=WHO, is_closed=st.booleans())
    def open_again(self, by: int, is_closed: bool) -> None:
        """Take a new handle; the old one is closed, or dropped as if it had died."""
        if is_closed:
            self.handles[by].close()
        self.take(by)

    @rule()
    def start_again(self) -> None:
        """The machine restarts: what failed syncs lost is in no memory any more."""
        for journal in self.root.glob("journals/*.jsonl"):
            self.medium.show(journal)
        for by in range(2):
            self.take(by)

    @precondition(lambda self: self.model.types)
    @rule(by=WHO, junk=st.binary(min_size=1, max_size=40))
    def tear(self, by: int, junk: bytes) -> None:
        """A writer dies in the middle: half a line that was never acknowledged."""
        with journal_of(self.root, JOB).open("ab") as file:
            file.write(b'{"v":1,' + junk.replace(b"\n", b""))
        self.handles[by].list(JOB)
        self.model.repair(self.clock.now, keeps_aside=True)

    @rule(by=WHO, id_=known, work=st.sampled_from([*WORK]), strike=STRIKES)
    def strike(self, by: int, id_: str, work: str, strike: Strike) -> None:
        """Whatever fails in the middle of something: it happened, or it did not."""
        disk = self.disks[by]
        disk.set(strike.of(disk))
        outcome, answer = "done", None
        try:
            answer = WORK[work](self.handles[by], id_)
        except (NoSpace, ReadOnlyStore):
            outcome = "refused"
        except (StorageFailed, Died):
            outcome = "unknown"
        except (UnknownCheckpoint, Protected, Conflict):
            outcome = "impossible"
        disk._faults.clear()
        if disk.is_dead:
            self.take(by)
            gc.collect()  # the kernel closes what the dead had open
        happened = self.go_on(by)
        assert happened == [] or outcome in {"done", "unknown"}, (outcome, happened)
        # An erasure is two writes: what is gone, then the compaction.
        is_erasure = work in {"purge", "erase"} and happened[1:] == ["job.compacted"]
        assert len(happened) <= 1 or is_erasure, happened
        if outcome == "done" and work != "list":
            assert bool(happened) == bool(answer) or work == "restore"  # I1

    def go_on(self, by: int) -> list[str]:
        """Save once more, and take over what turns out to have happened before."""
        before = len(self.model.types)
        self.handles[by].save(JOB, "settled", {})
        states = {"struck": {"n": [1]}, "settled": {}}
        events = self.handles[by].history(JOB, after_seq=before)
        for event in events:
            self.model.follow(event, states, self.clock.now)
        assert events[-1]["type"] == "checkpoint.saved"
        silent = {"job.repaired", "job.opened"}
        return [event["type"] for event in events[:-1] if event["type"] not in silent]

    @invariant()
    def every_process_answers_what_the_model_says(self) -> None:
        """The two handles, and one that begins with the first byte now."""
        if not hasattr(self, "root"):
            return
        for manager in (*self.handles, self.opened()[1]):
            self.compare(manager)
            for job, saved in self.forks.items():
                (info,) = manager.list(job)
                assert (info.tags, info.parent_id) == (saved.tags, saved.parent)
                found = manager.get(job, info.checkpoint_id).state
                assert same(found, saved.state)  # I5

    def compare(self, manager: CheckpointManager) -> None:
        model, infos = self.model, manager.list(JOB)
        expected = model.order
        assert [i.checkpoint_id for i in infos] == expected  # I2
        assert [i.tags for i in infos] == [model.saved[i].tags for i in expected]
        assert [i.parent_id for i in infos] == [model.saved[i].parent for i in expected]
        assert {i.checkpoint_id for i in infos if i.pinned} == model.pinned
        assert {i.checkpoint_id for i in infos if i.held} == model.held
        current, latest = manager.current(JOB), manager.latest(JOB)
        assert (current and current.checkpoint_id) == model.current
        assert (latest and latest.checkpoint_id) == (expected[-1] if expected else None)
        assert manager.seq(JOB) == len(model.types)
        history = manager.history(JOB)
        assert [event["type"] for event in history] == model.types
        assert [event["seq"] for event in history] == [*range(1, len(history) + 1)]
        for id_ in expected[:1] + expected[-1:]:
            assert same(manager.get(JOB, id_).state, model.saved[id_].state)  # I5


class OpenedFromSnapshots(Histories):
    """Processes that open a job begin with a snapshot, kept by the one before."""

    def compare(self, manager: CheckpointManager) -> None:
        view = manager._reader.view(JOB)
        of_events = manager._store.replay(JOB, until_seq=view.seq)
        assert whole(view) == whole(of_events)
        super().compare(manager)


def same(a: object, b: object) -> bool:
    """Tell whether two states are equal in kind as well: 1 is not 1.0 nor True."""
    return orjson.dumps(a, option=orjson.OPT_SORT_KEYS) == orjson.dumps(
        b, option=orjson.OPT_SORT_KEYS
    )


SLOW = pytest.mark.slow


def run(machine: type[Histories], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            deadline=None,
            max_examples=examples,
            stateful_step_count=30,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("examples", [10, pytest.param(300, marks=SLOW)])
def test_a_store_with_snapshots_answers_like_a_dict(
    examples: int, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "_SNAPSHOT_EVENTS", 1)
    run(OpenedFromSnapshots, examples)
    tally("random histories with snapshots", examples)


@pytest.mark.parametrize("examples", [25, pytest.param(800, marks=SLOW)])
def test_a_store_behind_two_handles_answers_like_a_dict(
    examples: int, tally: Tally
) -> None:
    run(Histories, examples)
    tally("random histories", examples)
