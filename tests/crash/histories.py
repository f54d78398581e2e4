"""Random workflows, killed anywhere and started again, against a plain model.

A life is a run of a program to its end, on a simulated disk, with the people and the
other processes that it waits for.  After each operation of the disk, and before and
after each effect of a step, the machine and the world outside are copied: these are the
moments at which every process may die.  A history is a chain of such deaths.
"""

from __future__ import annotations

import gc
from collections import Counter
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from random import Random
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from milepost import CheckpointManager
from milepost.journal.errors import (
    IllegalTransition,
    LeaseLost,
    Rejected,
    StepFailed,
    StepUncertain,
)
from milepost.journal.workflow import attempts
from milepost.journal.workflow.retries import NotRun, Retry, RetryAfter
from tests.crash.ledger import STORE, Violation
from tests.crash.programs import (
    JOB,
    KID,
    SIGNAL,
    TRIES,
    Op,
    Program,
    expected,
    items_of,
    make,
    value_of,
)
from tests.crash.session import ROOT, QuietStorage
from tests.crash.simdisk import (
    Content,
    SimDisk,
    SimFile,
    World,
    Write,
    forgetful_cut,
    power_cuts,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from milepost.journal.index.executions import Execution
    from milepost.journal.workflow.run import Run

Key = tuple[str, str]  # a job, and what a result is recorded by

_START = datetime(2026, 11, 23, 5, tzinfo=UTC)
_TRIED = {"flaky": 2, "later": 1, "failing": 10**6, "stubborn": 3}  # failures
_ENDED = ("completed", "failed", "cancelled")
_MOST_ROUNDS = 60  # a program that goes on after so many waits never ends
_MOST_CUTS = 25  # a power cut leaves one of so many disks
_WHOLE = 0.05  # of the programs die at every moment, others at a few
_SAMPLE = 6
_ENDS = 0.35  # of the histories after each death
_STALLS = 0.1  # of the steps
_VERIFIED = 0.2  # of the stores at the end of a life
_LEFT_TO_PARENTS = 0.5  # of the children that can go on
_LEASE_SECONDS = 60.0  # longer than any lease


class Outside:
    """What no crash takes back: effects, answers, clocks, and what people know.

    Attributes:
        now: the time.
        started: how often each step was begun.
        done: how often each had its effect.
        flight: the steps that were begun and not answered yet.
        excused: how often a step was in flight when its process died.
        answered: results that the program got.
        seen: results that some process found in the journal.
        saved: checkpoints.
        sent: how many signals each job got.
        marks: what happens once only.
        deaths: so far.
        asked_after: as many deaths, the program last asked for all its steps.
    """

    def __init__(self) -> None:
        self.now = _START
        self.started: dict[Key, int] = {}
        self.done: dict[Key, int] = {}
        self.flight: frozenset[Key] = frozenset()
        self.excused: dict[Key, int] = {}
        self.answered: dict[Key, Any] = {}
        self.seen: frozenset[Key] = frozenset()
        self.saved: dict[str, Any] = {}
        self.sent: dict[str, int] = {}
        self.marks: frozenset[object] = frozenset()
        self.deaths = self.asked_after = 0

    def copy(self) -> Outside:
        """Return it as it is now."""
        new = Outside.__new__(Outside)
        new.__dict__ = {
            name: known.copy() if isinstance(known, dict) else known
            for name, known in self.__dict__.items()
        }
        return new

    def after_death(self) -> Outside:
        """Return it after the death of all processes."""
        new = self.copy()
        new.excuse()
        new.deaths += 1
        return new

    def excuse(self) -> None:
        """Allow once more what is in flight."""
        for key in self.flight:
            self.excused[key] = self.excused.get(key, 0) + 1
        self.flight = frozenset()

    def fingerprint(self) -> int:
        """Return a number that is equal for equal worlds."""
        return hash(
            (
                self.now,
                *(
                    frozenset(known.items())
                    for known in (self.started, self.done, self.excused, self.sent)
                ),
                frozenset(self.answered),
                frozenset(self.saved),
                self.flight,
                self.seen,
                self.marks,
            )
        )


class Moment(NamedTuple):
    """The machine and the world outside, right after something happened."""

    label: str
    world: World
    outside: Outside


class _Table(attempts._Table):
    """The attempts of one process, without the thread that renews their leases."""

    def keep(self, key: tuple[str, str], held: attempts.Held) -> None:
        self.held[key] = held


class _File(SimFile):
    """A file whose locks others may be faster to take."""

    before_lock: Callable[[str], None]

    def try_lock(self, *, shared: bool = False) -> bool:
        self.before_lock(self._path)
        return super().try_lock(shared=shared)


class _Disk(SimDisk):
    """The disk, as one process sees it."""

    def __init__(self, world: World, before_lock: Callable[[str], None]) -> None:
        super().__init__(world)
        self._before_lock = before_lock

    def open(self, path: Path, *args: Any, **kwargs: Any) -> SimFile:
        file = super().open(path, *args, **kwargs)
        file.__class__ = _File
        cast("_File", file).before_lock = self._before_lock
        return file


class _Clock:
    """The clock of the world outside: who sleeps lets it go on."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def __call__(self) -> datetime:
        return self._life.out.now

    def steady(self) -> float:
        return self().timestamp()

    def sleep(self, seconds: float) -> None:
        self._life.out.now += timedelta(seconds=seconds)


class Process(NamedTuple):
    """One process of the machine."""

    manager: CheckpointManager
    table: _Table


class Life:
    """A program's run to its end, from what a crash has left.

    Args:
        program: what runs.
        world: the machine.
        outside: the rest of the world.
        random: whether others are slow, fast or helpful.

    Attributes:
        moments: at which it can be killed.
    """

    def __init__(
        self, program: Program, world: World, outside: Outside, random: Random
    ) -> None:
        self.program = program
        self.world = world
        self.out = outside
        self.random = random
        self.moments: list[Moment] = []
        self._racer: Callable[[], None] | None = None
        self._patience = 0
        self._guard = Lock()
        self._tries: Counter[Key] = Counter()
        self._runs: Counter[Key] = Counter()
        self._clock = _Clock(self)
        world.observer = lambda kind, path: self.moment(f"{kind} {path[len(STORE) :]}")
        self.other = self.process()  # of people, and of what helps them
        self._broken: Violation | None = None
        self._is_stalled = False
        self._late: int | None = None  # the last event when a slow process comes back

    # -- the machine ---------------------------------------------------------------

    def moment(self, label: str) -> None:
        """Everybody may die now."""
        with self._guard:
            self.moments.append(Moment(label, self.world.copy(), self.out.copy()))

    def process(self) -> Process:
        """Start a process."""
        disk = _Disk(self.world, self._before_lock)
        storage = QuietStorage(
            ROOT,
            lock_timeout_seconds=0.0,
            disk=disk,
            steady=self._clock.steady,
        )
        manager = CheckpointManager(storage=storage, actor="me", clock=self._clock)
        return Process(manager, _Table())

    @contextmanager
    def of(self, process: Process) -> Iterator[CheckpointManager]:
        """Let a process do something."""
        mine, attempts._table = attempts._table, process.table
        try:
            yield process.manager
        finally:
            attempts._table = mine

    def _before_lock(self, path: str) -> None:
        if self._racer is None or "/heads/" not in path:
            return
        if self._patience:
            self._patience -= 1
            return
        racer, self._racer = self._racer, None
        racer()

    # -- a life --------------------------------------------------------------------

    def live(self) -> None:
        """Go on until the execution has ended, and check all that it left.

        Raises:
            Violation: a promise was broken.
        """
        with self.of(self.other) as manager:
            self._look(manager)
        if not self._has_ended():
            self.go_on(self.process())
        if self._broken is not None:
            raise self._broken
        with self.of(self.other) as manager:
            self._check_end(manager)

    def go_on(self, process: Process, rounds: int = _MOST_ROUNDS) -> None:
        """Run the program, and help it over its waits, until it has ended."""
        for _ in range(rounds):
            with self.of(process) as manager:
                self._run(manager)
            if self._has_ended():
                return
            self._help(process)
        if rounds == _MOST_ROUNDS:
            raise Violation(f"never ends: {self._executions(JOB)}")

    def _has_ended(self) -> bool:
        found = self._executions(JOB)
        return bool(found) and found[0].status in _ENDED

    def _executions(self, job: str) -> list[Execution]:
        with self.of(self.other) as manager:
            view = manager._store.view(job)
        return [*view.workflows.executions.values()]

    def _run(self, manager: CheckpointManager) -> None:
        block = manager.execution(
            "w", job_id=JOB, on_exhausted=self.program.on_exhausted
        )
        self._count_tries()
        try:
            with block as run:
                early = self.program.early.get(JOB, 0)
                self._send_up_to(JOB, run.execution_id, early)
                run.result = self._perform(manager, run, self.program.ops)
                self.out.asked_after = self.out.deaths
        except (LeaseLost, IllegalTransition):
            if self._late is None:
                raise
        if self._late is not None:
            if manager.seq(JOB) != self._late:
                raise Violation("an attempt that is over has written")
            self._late = None

    def _count_tries(self) -> None:
        """Take down how often each step may be tried by the next attempt."""
        self._runs.clear()
        if not any(op.kind in _TRIED for op in self.program.each()):
            return
        self._tries.clear()
        with self.of(self.other) as manager:
            for job in (JOB, KID):
                for event in manager.history(job):
                    data: Any = event["data"]
                    if event["type"] == "step.failed":
                        self._tries[job, data["key"]] += 1
                    elif event["type"] == "execution.ready" and "is_auto" not in data:
                        self._tries.clear()  # a person has resumed it

    # -- the program ---------------------------------------------------------------

    def _perform(
        self, manager: CheckpointManager, run: Run, ops: tuple[Op, ...]
    ) -> list[Any]:
        found = []
        for op in ops:
            if op in self.program.ops:
                self._meanwhile((JOB, f"before {op.key[1]}"), op)
            found.append(self._answer(op, self._call(manager, run, op)))
        return found

    def _answer(self, op: Op, found: Any) -> Any:
        """Check that the program gets the same answer as the last time."""
        out = self.out
        if op.key in out.answered and out.answered[op.key] != found:
            raise Violation(f"{op.key}: {found!r} after {out.answered[op.key]!r}")
        if op.kind not in ("save", "dropped"):
            out.answered[op.key] = found
        job, key = op.key
        out.flight = frozenset(
            (other, name)
            for other, name in out.flight
            if other != job or not (name == key or name.startswith(f"{key}["))
        )
        return found

    def _call(self, manager: CheckpointManager, run: Run, op: Op) -> Any:  # noqa: C901, PLR0911, PLR0912 - a table
        effect = partial(self._effect, op.key, op)
        match op.kind:
            case "step" | "again" | "pause":
                return run.step(op.name, effect)
            case "once":
                self.out.flight |= {op.key}
                try:
                    return run.step(op.name, effect, once=True)
                except StepUncertain:
                    if op.key not in self.out.excused:
                        raise
                    return "uncertain"
            case "burnt":
                try:
                    return run.step(op.name, effect, once=True)
                except (OSError, StepUncertain):
                    return "failed"
            case "reconciled":
                look = partial(self._reconcile, op.key)
                return run.step(op.name, effect, once=True, reconcile=look)
            case "flaky":
                return run.step(op.name, effect, retry=Retry(3, jitter=0))
            case "later":
                return run.step(op.name, effect, retry=Retry(2))
            case "failing" | "stubborn":
                try:
                    return run.step(op.name, effect, retry=Retry(TRIES, jitter=0))
                except StepFailed:
                    return "failed"
            case "nap":
                return run.sleep(op.name, 5) or "over"
            case "sleep":
                return run.sleep(op.name, hours=1) or "over"
            case "signal":
                return self._signal(run, op)
            case "timeout":
                hour = timedelta(hours=1)
                return run.signal(op.name, timeout=hour, default="nothing came")
            case "approval":
                return self._approval(run, op)
            case "save":
                state = {"of": [*op.key], "at": self.out.now.isoformat()}
                self.out.saved[run.save(op.name, state)] = state
                return "over"
            case "map":
                return self._map(run, op)
            case "scope":
                with run.scope(op.name):
                    return self._perform(manager, run, op.body)
            case "child":
                return self._child(manager, run, op)
            case "dropped":
                if not self.out.deaths:
                    run.step(op.name, effect)
                return None
        raise AssertionError(op.kind)

    def _effect(self, key: Key, op: Op) -> Any:
        """Be a step; what is wrong with that is told at the end of the life too."""
        try:
            return self._happen(key, op)
        except Violation as exc:
            self._broken = exc
            raise

    def _happen(self, key: Key, op: Op) -> Any:
        """Let something happen outside that nobody can take back."""
        out = self.out
        is_answered = key in out.answered and op.kind not in ("failing", "burnt")
        if key in out.seen or is_answered:
            raise Violation(f"{key} runs again, though its result was recorded")
        with self._guard:
            out.started[key] = out.started.get(key, 0) + 1
            out.flight |= {key}
        self._runs[key] += 1
        if op.kind in _TRIED:
            self._try(key, op)
        elif out.started[key] > 1 + out.excused.get(key, 0):
            raise Violation(f"{key} runs {out.started[key]} times")
        elif op.kind in ("once", "reconciled", "burnt") and key in out.done:
            raise Violation(f"{key} has its effect twice")
        self.moment(f"before the effect of {key}")
        out.done[key] = out.done.get(key, 0) + 1
        self.moment(f"after the effect of {key}")
        self._meanwhile(key, op)
        if op.kind == "burnt":
            raise OSError("smoke, after the effect")
        return value_of(key)

    def _try(self, key: Key, op: Op) -> None:
        """Fail so many times."""
        out = self.out
        attempts = 3 if op.kind == "flaky" else 2
        if self._runs[key] > max(1, attempts - self._tries[key]):
            raise Violation(f"{key} is tried {self._runs[key]} times more")
        if out.started[key] > _TRIED[op.kind]:
            return
        self.moment(f"{key} fails")
        if op.kind == "later":
            raise RetryAfter(3600)
        raise OSError("busy")

    def _reconcile(self, key: Key) -> Any:
        if key not in self.out.done:
            raise NotRun
        return value_of(key)

    def _signal(self, run: Run, op: Op) -> Any:
        job = op.key[0]
        if op.way == "racing" and self.out.sent.get(job, 0) <= op.count:
            self._patience = self.random.randrange(3)
            self._racer = partial(self._send_up_to, job, run.execution_id, op.count + 1)
        try:
            return run.signal(SIGNAL)
        finally:
            self._racer = None

    def _approval(self, run: Run, op: Op) -> str:
        told: Any = None
        if op.way == "told":
            key = op.key[0], f"{op.key[1]}-notify"
            told = partial(self._effect, key, op)
        try:
            subject = {"way": op.way, "of": op.key}
            return run.approval(op.name, subject, notify=told).status
        except Rejected:
            return "rejected"

    def _map(self, run: Run, op: Op) -> list[Any]:
        def item(key: Key) -> Any:
            if op.way == "inner":
                inside = key[0], f"{key[1]}>inner"
                run.step("inner", partial(self._effect, inside, op))
            return self._effect(key, op)

        workers = 2 if op.way == "workers" else 1
        found = run.map(op.name, item, items_of(op), key=_number_of, workers=workers)
        return [outcome.value for outcome in found]

    def _child(self, manager: CheckpointManager, run: Run, op: Op) -> Any:
        try:
            return run.child(op.name, self._kid(manager, op), job_id=KID)
        except StepFailed:
            return "failed"

    def _kid(self, manager: CheckpointManager, op: Op) -> Any:
        def work(run: Run) -> list[Any]:
            count = self.program.early.get(KID, 0)
            self._send_up_to(KID, run.execution_id, count)
            found = self._perform(manager, run, op.body)
            if op.way == "fails":
                raise ValueError("no")
            return found

        return manager.workflow("kid", on_exhausted=self.program.on_exhausted)(work)

    # -- others --------------------------------------------------------------------

    def _meanwhile(self, key: Key, op: Op) -> None:
        """Let others do something while a step runs, once in all."""
        if key in self.out.marks or op.kind == "map":
            return
        self.out.marks |= {key}
        if op.kind == "pause" and key == op.key:
            with self.of(self.other) as manager:
                manager.pause_execution(f"exec_{key[0]}")
        elif key[0] == JOB and not self._is_stalled and self.random.random() < _STALLS:
            self._is_stalled = True
            self._stall()

    def _stall(self) -> None:
        """Stop so long that others go on, and come back late."""
        with self.of(self.other) as manager:
            (mine,) = manager._store.view(JOB).workflows.live.values()
            attempt = mine.attempt
        if mine.status != "running":
            return
        self.out.excuse()
        self.out.now += timedelta(seconds=_LEASE_SECONDS)
        rounds = self.random.choice([1, _MOST_ROUNDS])
        self.go_on(self.process(), rounds)
        (late,) = self._executions(JOB)
        if late.attempt <= attempt:
            raise Violation("nobody went on")
        with self.of(self.other) as manager:
            self._late = manager.seq(JOB)

    def _send_up_to(self, job: str, execution_id: str, count: int) -> None:
        """Send the next signals of a job, until there were so many."""
        while (number := self.out.sent.get(job, 0)) < count:
            with self.of(self.other) as manager:
                manager.signal(
                    execution_id,
                    SIGNAL,
                    {"n": number},
                    idempotency_key=f"{job}-{number}",
                )
            self.out.sent[job] = number + 1

    def _help(self, process: Process) -> None:
        """Do what executions wait for."""
        for job in (KID, JOB):
            for execution in self._executions(job):
                if execution.status == "waiting":
                    self._end_wait(job, execution)
                elif job == KID and execution.status not in _ENDED:
                    self._run_kid(process)

    def _run_kid(self, process: Process) -> None:
        """Run the child as a worker does, or leave it to its parent."""
        (op,) = (op for op in self.program.ops if op.kind == "child")
        if self.random.random() < _LEFT_TO_PARENTS:
            return
        self._count_tries()
        with self.of(process) as manager, suppress(ValueError):
            manager.run(self._kid(manager, op), job_id=KID)

    def _end_wait(self, job: str, execution: Execution) -> None:
        name = execution.execution_id
        with self.of(self.other) as manager:
            if manager.workflows.why_dead(name) is None:
                raise Violation(f"{name} waits, and holds a lease")
            approval = manager._store.view(job).workflows.open_approval(execution)
            if execution.is_paused:
                manager.resume_execution(name)
            elif approval is not None:
                asked = manager.get_approval(approval.approval_id)
                is_no = (asked.subject or {})["way"] == "rejected"
                manager.decide(
                    asked.approval_id,
                    "reject" if is_no else "approve",
                    subject_digest=asked.subject_digest,
                    actor="ops",
                )
            elif execution.wake_at is not None:
                if self.out.now < datetime.fromisoformat(execution.wake_at):
                    self._refuse_wake(manager, name)
                self.out.now = max(
                    self.out.now, datetime.fromisoformat(execution.wake_at)
                )
                manager.workflows.wake(name, actor="worker")
            elif execution.awaits == SIGNAL:
                if execution.signals:
                    raise Violation(f"{name} waits for what it has")
                self._send_up_to(job, name, self.out.sent.get(job, 0) + 1)
            else:
                manager.workflows.wake(name, actor="worker")

    def _refuse_wake(self, manager: CheckpointManager, name: str) -> None:
        if manager.workflows.wake(name, actor="worker"):
            raise Violation(f"{name} goes on before its time")

    # -- what must hold ------------------------------------------------------------

    def _look(self, manager: CheckpointManager) -> None:
        """Check what a crash has left."""
        for job in (JOB, KID):
            view = manager._store.view(job)
            for execution in view.workflows.executions.values():
                recorded = ((job, key) for key in execution.durable.recorded)
                self.out.seen |= {*recorded}
                if bool(execution.leased) != (execution.status == "running"):
                    raise Violation(f"{execution.status}, led by {execution.leased}")
            saved = {name for name, s in self.out.saved.items() if s["of"][0] == job}
            if lost := saved.difference(view.checkpoints):
                raise Violation(f"saves are lost: {lost}")

    def _check_end(self, manager: CheckpointManager) -> None:
        """Check what the end of an execution has left."""
        (execution,) = self._executions(JOB)
        if len(kids := self._executions(KID)) > 1:
            raise Violation(f"a child ran {len(kids)} times")
        outcome = manager.execution_outcome(execution.execution_id)
        wanted = expected(self.program.ops, lambda op: op.key in self.out.excused)
        if not _agree(wanted, outcome.result) or outcome.status != "completed":
            raise Violation(f"ends as {outcome}, not with {wanted}")
        for checkpoint_id, state in self.out.saved.items():
            if manager.get(state["of"][0], checkpoint_id).state != state:
                raise Violation(f"{checkpoint_id} came back as another state")
        for job in (JOB, KID):
            self._check_history(manager, job)
        if self.random.random() < _VERIFIED:
            for report in manager.verify(deep=True):
                if not report.ok:
                    raise Violation(f"{report.job_id}: {report.problem}")

    def _check_history(self, manager: CheckpointManager, job: str) -> None:
        """Check that nothing was recorded twice."""
        once: Counter[tuple[str, str]] = Counter()
        untils: dict[str, set[str]] = {}
        events = [*manager.history(job)]
        for event in events:
            data: Any = event["data"]
            if "key" not in data:
                continue
            match event["type"]:
                case "step.completed" | "signal.consumed":
                    once["result", data["key"]] += 1
                case "approval.requested":
                    once["approval", data["key"]] += 1
                case "execution.waiting" if not data["key"].startswith("later"):
                    untils.setdefault(data["key"], set()).add(data.get("until", ""))
        if twice := [what for what, count in once.items() if count > 1]:
            raise Violation(f"{job}: recorded twice: {twice}")
        if moved := [key for key, known in untils.items() if len(known) > 1]:
            raise Violation(f"{job}: timers began anew: {moved}, {untils}")
        if job == JOB:
            (end,) = (e["data"] for e in events if e["type"] == "execution.completed")
            recorded = {key for what, key in once if what == "result"}
            dropped = sorted(k for k in recorded if k.startswith("dropped"))
            unused = cast("Any", end).get("unused_steps", [])
            if unused != (dropped if self.out.asked_after else []):
                raise Violation(f"unused: {unused} of {dropped}")


def _number_of(key: Key) -> str:
    return key[1].rpartition("[")[2][:-1]


def _agree(wanted: object, found: object) -> bool:
    """Return whether results are equal, where they do not depend on the kills."""
    if wanted is None:
        return True
    if isinstance(wanted, list) and isinstance(found, list):
        return len(wanted) == len(found) and all(map(_agree, wanted, found))
    return wanted == found


# -- which histories -------------------------------------------------------------------


class Explorer:
    """Runs histories, each once.

    Args:
        seed: of all that is chosen at random.

    Attributes:
        count: distinct states that a life began with: of the disk, the world outside,
            and the program.
        deaths: of all processes, over all histories.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.count = 0
        self.deaths: Counter[int] = Counter()
        self._random = Random(seed)
        self._seen: set[tuple[object, ...]] = set()

    def explore(self, count: int) -> None:
        """Run so many distinct histories.

        Raises:
            Violation: a promise was broken.
        """
        gc.freeze()
        while self.count < count:
            program = make(self._random)
            moments = self._first(program)
            is_whole = self._random.random() < _WHOLE
            for moment in moments if is_whole else moments[:_SAMPLE]:
                self._chain(program, moment)
                if self.count >= count:
                    return

    def _first(self, program: Program) -> list[Moment]:
        """Return the moments of a life without deaths, in any order."""
        world = World()
        SimDisk(world).make_folder(ROOT.parent)
        world.settle()
        moments = self._life(program, world, Outside(), ())
        self._random.shuffle(moments)
        return moments

    def _chain(self, program: Program, moment: Moment) -> None:
        """Die at a moment, and again and again in the lives after it."""
        story: tuple[str, ...] = ()
        while True:
            how, world = self._cut(moment)
            outside = moment.outside.after_death()
            story = (*story, f"{how} at {moment.label}")
            key = program, world.fingerprint(), world.dirt(), outside.fingerprint()
            if key in self._seen:
                return
            self._seen.add(key)
            self.count += 1
            self.deaths[len(story)] += 1
            moments = self._life(program, world, outside, story)
            if not moments or self._random.random() < _ENDS:
                return
            moment = self._random.choice(moments)

    def _life(
        self, program: Program, world: World, outside: Outside, story: tuple[str, ...]
    ) -> list[Moment]:
        life = Life(program, world, outside, Random(self._random.random()))
        try:
            life.live()
        except Exception as exc:
            lines = [
                f"{type(exc).__name__}: {exc}",
                f"seed {self.seed}, history {self.count}",
                *map(str, program.ops),
                *story,
                *(f"  > {moment.label}" for moment in life.moments[-40:]),
            ]
            raise Violation("\n".join(lines)) from exc
        return life.moments

    def _cut(self, moment: Moment) -> tuple[str, World]:
        """Return what a death leaves of the machine."""
        match self._random.choice(["kill", "kill", "torn", "power", "forget"]):
            case "torn" if moment.label.startswith("append"):
                return "torn write", self._torn(moment)
            case "power":
                number = self._random.randrange(_MOST_CUTS)
                *_, cut = islice(power_cuts(moment.world, is_fine=False), number + 1)
                return "power cut", cut
            case "forget":
                return "power cut that forgets", forgetful_cut(moment.world)
        return "kill", moment.world.copy()

    def _torn(self, moment: Moment) -> World:
        """Return a machine on which a part of the last write arrived."""
        world = moment.world.copy()
        inode = world.find(STORE + moment.label.partition(" ")[2])
        assert inode is not None
        file = world.files[inode]
        last = file.changes[-1]
        assert isinstance(last, Write)
        missing = self._random.randrange(1, len(last.data))
        part = Write(last.offset, last.data[:-missing])
        world.files[inode] = Content(
            file.durable, (*file.changes[:-1], part), file.seen[:-missing]
        )
        return world
