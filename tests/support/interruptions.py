"""Raise at any point of a call, one at a time, and see how others go on."""

from __future__ import annotations

import gc
import os
import sys
import threading
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from milepost import CheckpointManager, journal
from milepost.journal.storage.files.storage import FileStorage
from tests.support.faults import FaultyDisk

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

JOB = "etl"
PACKAGE = str(Path(journal.__file__).parent) + os.sep
# No call takes as long; one that does hangs.
HANG_SECONDS = 30
LAP = 50
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

    def prepare(self) -> None:
        """Do what the call builds on, before it is interrupted."""

    def wrong(self) -> object:
        """Return what is wrong for other threads and processes; None if nothing is."""
        return outcome(self.go_on)

    def go_on(self) -> object:
        """Use the store; return what is wrong, None if nothing is."""
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


_S = TypeVar("_S", bound=Scene)


def swept(
    root: Path,
    call: Callable[[_S, int], object],
    *,
    every: int,
    opcodes: bool,
    open_: Callable[[Path], _S],
) -> tuple[dict[str, object], int]:
    """Interrupt `call` at each nth event; return what was wrong, and the events."""
    problems: dict[str, object] = {}
    open_(root / "first").close()
    before = descriptors()
    span = max(LAP, every)
    for lap in count():
        # What failed syncs leave aside makes a store slower: take another now and then.
        scene = open_(root / str(lap))
        scene.prepare()
        call(scene, 0)
        for nth in range(lap * span + 1, (lap + 1) * span + 1, every):
            scene.prepare()
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
