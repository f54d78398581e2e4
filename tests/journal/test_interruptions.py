"""An exception at any point of a call leaves everything as others need it.

A signal handler may raise between any two steps of the main thread, and libraries raise
in other threads.  Here a tracer raises at each line, call and return of the package in
turn, one at a time (slow: at each bytecode), and then somebody else goes on.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.faults import Fault
from tests.support.interruptions import (
    HANG_SECONDS,
    JOB,
    LAP,
    LARGE,
    Injector,
    Scene,
    outcome,
    swept,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.tally import Tally

SLOW = pytest.mark.slow


@pytest.fixture(autouse=True)
def unlogged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log nothing: a captured record keeps its exception, and that its open files."""
    monkeypatch.setattr(logging.getLogger("milepost.journal"), "disabled", True)


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


def append_and_pop(scene: Scene, n: int) -> object:
    entries = [{"id": f"{n}"}, {"id": f"{n}b"}]
    scene.manager.append("log", entries, key="id")
    scene.manager.append("log", entries, key="id")
    return scene.manager.pop("log"), scene.manager.entries("log")


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
    "append and pop": append_and_pop,
}


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
    problems, points = swept(
        tmp_path, CALLS[name], every=every, opcodes=opcodes, open_=Scene
    )
    assert problems == {}
    assert points > 50
    tally("interruptions", points // every)


@SLOW
def test_the_first_save_of_a_job_may_be_interrupted_anywhere(
    tmp_path: Path, tally: Tally
) -> None:
    problems: dict[str, object] = {}
    for nth in count(1):
        if nth % LAP == 1:
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
        if nth % LAP == 0:
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
            while len(queue) < queued and not injector.place:
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
        if nth % LAP == 0:
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
