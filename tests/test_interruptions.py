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
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from faults import FaultyDisk

import journal
from journal import CheckpointManager
from journal.storage_file import FileStorage

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from conftest import Tally

JOB = "etl"
PACKAGE = str(Path(journal.__file__).parent) + os.sep
# No call takes as long; one that does hangs.
HANG_SECONDS = 30
_LAP = 50
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
    root: Path, call: Callable[[Scene, int], object], *, opcodes: bool
) -> tuple[dict[str, object], int]:
    """Interrupt `call` at each event in turn; return what was wrong, and how many."""
    problems: dict[str, object] = {}
    Scene(root / "first").close()
    before = descriptors()
    for lap in count():
        # What failed syncs leave aside makes a store slower: take another now and then.
        scene = Scene(root / str(lap))
        call(scene, 0)
        for nth in range(lap * _LAP + 1, (lap + 1) * _LAP + 1):
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


# An exception that strikes a generator while it is closed goes nowhere; Python says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "opcodes", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["line", "code"]
)
@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_is_interrupted_anywhere_stops_no_other(
    tmp_path: Path, name: str, tally: Tally, *, opcodes: bool
) -> None:
    problems, points = swept(tmp_path, CALLS[name], opcodes=opcodes)
    assert problems == {}
    assert points > 50
    tally("interruptions", points)
