"""An exception at any point of a call leaves everything as others need it.

A signal handler may raise between any two steps of the main thread, and libraries raise
in other threads.  Here a tracer raises at each line, call and return of the package in
turn, one at a time (slow: at each bytecode), and then somebody else goes on.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from milepost import CheckpointManager, journal
from milepost.journal.storage.files.storage import FileStorage
from tests.support.faults import Fault, FaultyDisk

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from tests.support.tally import Tally

JOB = "etl"
PACKAGE = str(Path(journal.__file__).parent) + os.sep
# No call takes as long; one that does hangs.
HANG_SECONDS = 30
_LAP = 50
SLOW = pytest.mark.slow
LARGE = {"rows": [{"id": n, "name": f"row {n}"} for n in range(200)]}


class Boom(Exception):
    """What a handler of the program's own raises."""


KINDS = [KeyboardInterrupt, SystemExit, Boom, ValueError, OSError, TimeoutError]


class Injector:
    """Raises at the `nth` event of the package in this thread, once."""

    def __init__(self, nth: int, *, opcodes: bool = False) -> None:
        self.place = ""
        self.kind = KINDS[nth % len(KINDS)]
        self._left = nth
        self._opcodes = opcodes

    def run(self, work: Callable[[], object]) -> object:
        """Return what `work` does; None if it was interrupted.

        Only if the exception was raised may anything come out of it.
        """
        sys.settrace(self._begin)
        try:
            return work()
        except BaseException:
            if not self.place:
                raise
            return None
        finally:
            sys.settrace(None)

    def _begin(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = self._opcodes
        return self._step(frame, event, None)

    def _step(self, frame: FrameType, event: str, _: object) -> Any:
        if event != "exception":
            self._left -= 1
            if self._left == 0:
                name = Path(frame.f_code.co_filename).name
                at = f"{frame.f_lasti}" if event == "opcode" else event
                self.place = f"{name}:{frame.f_code.co_name}:{frame.f_lineno}:{at}"
                raise self.kind("injected")
        return self._step


def outcome(work: Callable[[], object]) -> object:
    """Return what `work` answers in a thread of its own, or what is wrong with it."""
    found: list[object] = ["hangs"]

    def guarded() -> None:
        try:
            found[0] = work()
        except BaseException as exc:  # noqa: BLE001 - that is what is asked for
            found[0] = exc

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(HANG_SECONDS)
    return found[0]


def descriptors() -> int:
    gc.collect()
    return len([*Path("/proc/self/fd").iterdir()])


class Scene:
    """A store that two managers of this process have open; two are as two processes."""

    def __init__(self, root: Path) -> None:
        self.disk = FaultyDisk(root, syncs=False)
        self.manager = CheckpointManager(storage=FileStorage(root, disk=self.disk))
        disk = FaultyDisk(root, syncs=False)
        self.other = CheckpointManager(storage=FileStorage(root, disk=disk))
        self.saved = [self.manager.save(JOB, step, LARGE) for step in ("one", "two")]

    def wrong(self) -> object:
        """Return what is wrong for other threads and processes; None if nothing is."""
        return outcome(self._go_on)

    def _go_on(self) -> object:
        self.saved += [m.save(JOB, "after", {}) for m in (self.manager, self.other)]
        for manager in (self.manager, self.other):
            newest = manager.latest(JOB)
            if newest is None or newest.checkpoint_id != self.saved[-1]:
                return f"{newest} instead of {self.saved[-1]}"
        assert self.manager.get(JOB, self.saved[-2]).state == {}
        return None if gc.isenabled() else "the collector is off"

    def close(self) -> object:
        """Close both managers; return what is wrong with the store."""
        verified = self.other.verify(JOB, deep=True)[0]
        for manager in (self.manager, self.other):
            manager.close()
        return None if verified.ok else verified


def save_large(scene: Scene, n: int) -> object:
    state = {**LARGE, "n": n}
    metadata = {"n": n}
    return scene.manager.save(JOB, "large", state, metadata=metadata, tags=["t"])


def save_after_another_process(scene: Scene, n: int) -> object:
    scene.other.save(JOB, "elsewhere", {"n": n})
    return scene.manager.save(JOB, "here", {"n": n})


def delete_and_undelete(scene: Scene, _: int) -> object:
    checkpoint_id = scene.saved[-1]
    scene.manager.delete(JOB, checkpoint_id)
    return scene.manager.undelete(JOB, checkpoint_id)


def read_after_another_process(scene: Scene, n: int) -> object:
    scene.other.save(JOB, "elsewhere", {"n": n})
    return scene.manager.list(JOB), scene.manager.latest(JOB), scene.manager.jobs()


CALLS: dict[str, Callable[[Scene, int], object]] = {
    "save": lambda scene, n: scene.manager.save(JOB, "x", {"n": n}),
    "save a large state": save_large,
    "save after another process": save_after_another_process,
    "save with a key": lambda scene, n: scene.manager.save(
        JOB, "x", {"n": n}, idempotency_key=f"{n}"
    ),
    "restore": lambda scene, _: scene.manager.restore(JOB, scene.saved[0]),
    "get": lambda scene, _: scene.manager.get(JOB, scene.saved[0]),
    "read after another process": read_after_another_process,
    "delete and undelete": delete_and_undelete,
    "cleanup": lambda scene, _: scene.manager.cleanup(JOB, keep_last=5),
}


def swept(
    root: Path, call: Callable[[Scene, int], object], *, every: int, opcodes: bool
) -> tuple[dict[str, object], int]:
    """Interrupt `call` at each nth event; return what was wrong, and the events."""
    problems: dict[str, object] = {}
    Scene(root / "first").close()
    before = descriptors()
    for lap in count():
        # What failed syncs leave aside makes a store slower: take another now and then.
        scene = Scene(root / str(lap))
        call(scene, 0)
        for nth in range(lap * _LAP + 1, (lap + 1) * _LAP + 1, every):
            injector = Injector(nth, opcodes=opcodes)
            injector.run(partial(call, scene, nth))
            wrong = scene.wrong()
            if wrong is not None:
                problems[f"{injector.place} {injector.kind.__name__}"] = wrong
            if wrong == "hangs" or not injector.place:
                return problems, nth
        wrong = scene.close()
        if wrong is not None or descriptors() != before:
            problems[f"up to {nth}"] = wrong or "descriptors stay open"
        if problems:
            break
    return problems, nth


SWEEPS = [
    pytest.param("save with a key", 10, False, id="save with a key-tenth line"),
    *(
        pytest.param(name, 1, unit == "code", id=f"{name}-{unit}", marks=SLOW)
        for name in CALLS
        for unit in ("line", "code")
    ),
]


# An exception that strikes a generator while it is closed goes nowhere; Python says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "every", "opcodes"), SWEEPS)
def test_a_call_that_is_interrupted_anywhere_stops_no_other(
    tmp_path: Path, name: str, every: int, tally: Tally, *, opcodes: bool
) -> None:
    problems, points = swept(tmp_path, CALLS[name], every=every, opcodes=opcodes)
    assert problems == {}
    assert points > 50
    tally("interruptions", points // every)


@SLOW
def test_the_first_save_of_a_job_may_be_interrupted_anywhere(
    tmp_path: Path, tally: Tally
) -> None:
    problems: dict[str, object] = {}
    for nth in count(1):
        if nth % _LAP == 1:
            scene = Scene(tmp_path / f"{nth}")
        job = f"job-{nth}"
        injector = Injector(nth)
        injector.run(partial(scene.manager.save, job, "first", {}))
        again = outcome(partial(scene.manager.save, job, "again", {}))
        seen = outcome(partial(scene.other.list, job))
        steps = [info.step_name for info in seen] if isinstance(seen, list) else seen
        if steps not in (["again"], ["first", "again"]) or not isinstance(again, str):
            problems[f"{injector.place} {injector.kind.__name__}"] = again, steps
        if not injector.place:
            break
        if nth % _LAP == 0:
            assert scene.close() is None
    assert problems == {}
    assert nth > 500
    tally("interruptions", nth)


# -- callers that wait for each other --------------------------------------------------


class Crowd(NamedTuple):
    """One thread that leads, held up in its sync, and those that queue up behind it.

    Attributes:
        scene: the store.
        answers: of those that are not interrupted.
    """

    scene: Scene
    answers: dict[str, object]

    def queue_up(self, *, others: int, is_first: bool, injector: Injector) -> None:
        """Interrupt one caller among others, in front of them or behind."""
        queue = self.scene.manager._store._job(JOB).queue._waiting
        begun, may_end = threading.Event(), threading.Event()

        def hold_up() -> None:
            begun.set()
            assert may_end.wait(HANG_SECONDS)

        self.scene.disk.set(Fault("sync", on=f"journals/{JOB}", action=hold_up))
        victim = partial(self.scene.manager.save, JOB, "victim", {})
        work = [
            ("leader", partial(self._save, "leader")),
            ("victim", lambda: injector.run(victim)),
        ]
        names = [f"other-{n}" for n in range(others)]
        work[2 if is_first else 1 : 1] = [(n, partial(self._save, n)) for n in names]
        threads = []
        for queued, (_, call) in enumerate(work):
            thread = threading.Thread(target=call, daemon=True)
            thread.start()
            threads.append(thread)
            if not queued:
                assert begun.wait(HANG_SECONDS)
            deadline = time.monotonic() + HANG_SECONDS
            # Whoever was interrupted before it came to the queue is not waited for.
            while len(queue) <= queued and not injector.place:
                assert time.monotonic() < deadline
                os.sched_yield()
        may_end.set()
        for thread in threads:
            thread.join(HANG_SECONDS)
            assert not thread.is_alive(), f"{injector.place}: somebody hangs"

    def _save(self, name: str) -> None:
        try:
            self.answers[name] = self.scene.manager.save(JOB, name, {})
        except BaseException as exc:  # noqa: BLE001 - that is what is asked for
            self.answers[name] = exc


@SLOW
@pytest.mark.parametrize("is_first", [True, False], ids=["leading", "following"])
def test_a_caller_that_is_interrupted_among_others_hurts_none_of_them(
    tmp_path: Path, tally: Tally, *, is_first: bool
) -> None:
    problems: dict[str, object] = {}
    nth, crowd = 0, Crowd(Scene(tmp_path / "0"), {})
    for nth in count(1):
        if nth % _LAP == 0:
            assert crowd.scene.close() is None
            crowd = Crowd(Scene(tmp_path / f"{nth}"), {})
        crowd.answers.clear()
        injector = Injector(nth)
        crowd.queue_up(others=2, is_first=is_first, injector=injector)
        ids = {
            info.step_name: info.checkpoint_id for info in crowd.scene.other.list(JOB)
        }
        expected = {name: ids.get(name) for name in ("leader", "other-0", "other-1")}
        wrong = crowd.scene.wrong()
        if crowd.answers != expected or wrong is not None:
            problems[f"{injector.place} {injector.kind.__name__}"] = (
                wrong or crowd.answers
            )
        crowd.scene.manager.cleanup(JOB, keep_last=1)
        if not injector.place or len(problems) > 5:
            break
    assert problems == {}
    assert nth > 100
    tally("interruptions", nth)
