"""A call inside another call of its thread is refused at once, and hurts neither."""

from __future__ import annotations

import faulthandler
import gc
import signal
import threading
import weakref
from collections import Counter
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, MemoryStorage
from milepost.journal.errors import NestedCall
from milepost.journal.storage.files.storage import FileStorage
from tests.support.faults import Fault, FaultyDisk, children

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.faults import Tell

JOB = "etl"
CALLS: dict[str, Callable[[CheckpointManager, str], object]] = {
    "save": lambda m, _: m.save(JOB, "nested", {}),
    "save of another job": lambda m, _: m.save("other", "nested", {}),
    "save of a new job": lambda m, _: m.save("new", "nested", {}),
    "restore": lambda m, id_: m.restore(JOB, id_),
    "get": lambda m, id_: m.get(JOB, id_),
    "latest": lambda m, _: m.latest(JOB),
    "current": lambda m, _: m.current(JOB),
    "list": lambda m, _: m.list(JOB),
    "list of another job": lambda m, _: m.list("other"),
    "job": lambda m, _: m.job(JOB),
    "history": lambda m, _: m.history(JOB),
    "seq": lambda m, _: m.seq(JOB),
    "delete": lambda m, id_: m.delete(JOB, id_),
    "pin": lambda m, id_: m.pin(JOB, id_),
    "cleanup": lambda m, _: m.cleanup(JOB, keep_last=1),
    "fork": lambda m, id_: m.fork(JOB, id_, "forked"),
    "compact": lambda m, _: m.compact(JOB),
    "close": lambda m, _: m.close(),
}


class Scene:
    """A store, and a call that is made in the middle of a save."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.disk = FaultyDisk(root, syncs=False)
        self.manager = CheckpointManager(storage=FileStorage(root, disk=self.disk))
        self.manager.save("other", "one", {})
        self.first = self.manager.save(JOB, "one", {})
        self.manager.save(JOB, "two", {})
        self.caught: list[BaseException | None] = []

    def save_with(self, nested: Callable[[], object], operation: str) -> str:
        """Save; make the call at that operation on the job's files."""

        def call() -> None:
            try:
                nested()
            except NestedCall as exc:
                self.caught.append(exc)
            else:
                self.caught.append(None)

        self.disk.set(Fault(operation, on=JOB, action=call))
        return self.manager.save(JOB, "outer", {})


@pytest.fixture
def scene(root: Path) -> Iterator[Scene]:
    made = Scene(root)
    yield made
    made.manager.close()


@pytest.mark.parametrize("operation", ["lock", "append", "sync", "pwrite"])
@pytest.mark.parametrize("name", CALLS)
def test_every_call_in_the_middle_of_a_save_is_refused_and_the_save_goes_on(
    scene: Scene, name: str, operation: str
) -> None:
    nested = partial(CALLS[name], scene.manager, scene.first)
    outer = scene.save_with(nested, operation)
    (error,) = scene.caught
    assert isinstance(error, NestedCall)
    assert error.code == "nested_call"
    assert "docs/jobs.md" in (error.hint or "")
    newest = scene.manager.latest(JOB)
    assert newest is not None
    assert newest.checkpoint_id == outer
    assert [info.step_name for info in scene.manager.list(JOB)] == [
        "one",
        "two",
        "outer",
    ]


def test_a_call_in_the_middle_of_a_read_is_refused_or_answered(scene: Scene) -> None:
    with CheckpointManager(storage=FileStorage(scene.root)) as other:
        other.save(JOB, "elsewhere", {})
    caught: list[object] = []

    def call() -> None:
        try:
            caught.append(scene.manager.save(JOB, "nested", {}))
        except NestedCall as exc:
            caught.append(exc)

    scene.disk.set(Fault("read", on=f"journals/{JOB}", action=call))
    steps = [info.step_name for info in scene.manager.list(JOB)]
    assert steps == ["one", "two", "elsewhere"]
    assert isinstance(caught[0], NestedCall)
    assert scene.manager.save(JOB, "after", {})


def test_another_manager_on_the_same_folder_is_refused_as_well(
    scene: Scene,
) -> None:
    with CheckpointManager(storage=FileStorage(scene.root)) as other:
        scene.save_with(partial(other.save, JOB, "nested", {}), "sync")
        assert isinstance(scene.caught[0], NestedCall)
        assert other.save(JOB, "after", {})
        # What takes no lock that this thread holds just works.
        scene.save_with(partial(other.save, "other", "nested", {}), "sync")
        assert scene.caught[1] is None


def test_a_destructor_and_a_callback_inside_a_save_are_refused(scene: Scene) -> None:
    errors: list[BaseException] = []

    def save() -> None:
        try:
            scene.manager.save(JOB, "last words", {})
        except NestedCall as exc:
            errors.append(exc)

    class Dying:
        def __del__(self) -> None:
            save()

    class Ring:
        pass

    def collect() -> None:
        ring: Any = Ring()
        ring.me, ring.dying = ring, Dying()
        reference = weakref.ref(ring, lambda _: save())
        del ring
        gc.collect()
        assert reference() is None

    scene.save_with(collect, "sync")
    assert len(errors) == 2
    assert scene.manager.save(JOB, "after", {})


def test_a_call_of_another_thread_is_not_nested(scene: Scene) -> None:
    seen: list[int] = []

    def look() -> None:
        thread = threading.Thread(
            target=lambda: seen.append(len(scene.manager.list(JOB)))
        )
        thread.start()
        thread.join(30)

    scene.save_with(look, "sync")
    assert seen == [2]  # what is not answered yet is not shown


def test_what_is_nested_in_no_call_is_not_refused_after_an_interruption() -> None:
    manager = CheckpointManager(storage=MemoryStorage())
    manager.save(JOB, "one", {})
    try:
        manager._store._calls.alone(partial(raise_, KeyboardInterrupt))
    except KeyboardInterrupt:
        assert manager.save(JOB, "two", {})  # its traceback still has all frames


def raise_(kind: type[BaseException]) -> None:
    raise kind


@pytest.mark.parametrize("raises", [False, True], ids=["calls", "raises"])
def test_real_signals_in_a_loop_of_saves_neither_hang_nor_lose_anything(
    root: Path, *, raises: bool
) -> None:
    class Struck(Exception):
        pass

    def job(tell: Tell) -> None:
        faulthandler.dump_traceback_later(60, exit=True)
        manager = CheckpointManager(root)
        outcomes, answered = Counter[str](), list[str]()
        is_in_call = False

        def strike(*_: object) -> None:
            nonlocal is_in_call
            if raises:
                if is_in_call:
                    is_in_call = False
                    raise Struck
                return
            try:
                answered.append(manager.save(JOB, "handler", {}))
                outcomes["saved"] += 1
            except NestedCall:
                outcomes["refused"] += 1

        signal.signal(signal.SIGALRM, strike)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        strikes = 0
        for _ in count():
            try:
                is_in_call = True
                answered.append(manager.save(JOB, "main", {}))
                manager.latest(JOB)
                is_in_call = False
            except Struck:
                strikes += 1
            if strikes + outcomes.total() >= 200:
                break
        signal.setitimer(signal.ITIMER_REAL, 0)
        tell([*answered, manager.save(JOB, "end", {})])
        manager.close()

    with children(job) as (child,):
        answered = child.hear()
    with CheckpointManager(root) as again:
        kept = [info.checkpoint_id for info in again.list(JOB)]
        assert set(answered) <= set(kept)  # I1
        assert again.verify(JOB, deep=True)[0].ok
