"""Many threads and many processes on one store: nothing lost, doubled or torn."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
import warnings
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, Policy, journal
from milepost.journal.errors import LockTimeout, MilepostError, NestedCall
from milepost.journal.storage.files.storage import FileStorage
from tests.support.faults import (
    Child,
    Fault,
    FaultyDisk,
    children,
    head_of,
    in_child,
    journal_of,
    read_head,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sized
    from types import FrameType

    from milepost.journal.storage.files.folders import Durability
    from tests.support.tally import Tally

    Tell = Callable[[Any], None]

JOB = "etl"
DURABILITIES: list[Durability] = ["always", "interval", "never"]


def unsynced(root: Path, **options: Any) -> CheckpointManager:
    """Open the store; only processes die here, so nothing has to reach the medium."""
    disk = FaultyDisk(root, syncs=False)
    return CheckpointManager(storage=FileStorage(root, disk=disk, **options))


def ids(manager: CheckpointManager, job_id: str = JOB) -> list[str]:
    return [info.checkpoint_id for info in manager.list(job_id)]


def steps(manager: CheckpointManager) -> list[str]:
    return [info.step_name for info in manager.list(JOB)]


def assert_sound(root: Path, saved: list[str], job_id: str = JOB) -> None:
    """Nothing is lost, nothing is doubled, and the chain has no gap."""
    with CheckpointManager(root) as again:
        found = ids(again, job_id)
        assert sorted(found) == sorted(saved)
        seqs = [event["seq"] for event in again.history(job_id)]
        assert seqs == [*range(1, len(seqs) + 1)]  # I3
        report = again.verify(job_id, deep=True)[0]
        assert report.ok, report.problem


def run(*works: Callable[[], object]) -> None:
    """Run each in a thread of its own; the first error is raised here."""
    errors: list[BaseException] = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as exc:  # noqa: BLE001 - raised below
            errors.append(exc)

    threads = [
        threading.Thread(target=guarded, args=[work], daemon=True) for work in works
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "it hangs"
    if errors:
        raise errors[0]


@pytest.fixture
def restless() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


# -- many writers ----------------------------------------------------------------------


def write(root: Path, durability: Durability, tell: Tell) -> None:
    """Be one of the processes: four threads that save, and tell every answer."""
    with CheckpointManager(root, durability=durability) as manager:

        def save() -> None:
            for number in range(5):
                tell(manager.save(JOB, "step", {"n": number}))

        run(*[save] * 4)


@pytest.mark.parametrize("durability", DURABILITIES)
def test_four_processes_with_sixteen_threads_lose_and_double_nothing(
    root: Path, durability: Durability
) -> None:
    work = partial(write, root, durability)
    with children(work, work, work, work) as writers:
        saved = [id_ for writer in writers for id_ in writer.hear_all()]
    assert len(set(saved)) == 4 * 4 * 5
    assert_sound(root, saved)


def test_two_managers_of_one_process_are_as_good_as_two_processes(root: Path) -> None:
    saved: list[str] = []

    def save(manager: CheckpointManager) -> None:
        for number in range(10):
            saved.append(manager.save(JOB, "step", {"n": number}))
            assert saved[-1] in ids(manager)

    with unsynced(root) as one, unsynced(root) as two:
        run(*[partial(save, one), partial(save, two)] * 3)
        assert ids(one) == ids(two)
    assert_sound(root, saved)


def test_a_repeated_save_of_many_processes_is_one_checkpoint(root: Path) -> None:
    def work(tell: Tell) -> None:
        manager = CheckpointManager(root)
        save = partial(manager.save, JOB, "step", {"n": 1}, idempotency_key="k")
        run(*[lambda: tell(save())] * 4)

    with children(work, work, work) as writers:
        answers = [id_ for writer in writers for id_ in writer.hear_all()]
    assert len(answers) == 12
    assert len(set(answers)) == 1
    assert_sound(root, answers[:1])


def test_of_many_that_expect_the_same_seq_exactly_one_gets_it(root: Path) -> None:
    def work(tell: Tell) -> None:
        manager = CheckpointManager(root)
        for seq in (0, 2, 3, 4):
            while manager.seq(JOB) < seq:
                pass  # until somebody has taken the one before
            with contextlib.suppress(journal.errors.Conflict):
                tell(manager.save(JOB, "step", {}, expected_seq=seq))

    with children(work, work, work) as writers:
        saved = [id_ for writer in writers for id_ in writer.hear_all()]
    assert len(saved) == 4
    assert_sound(root, saved)


def test_many_jobs_are_created_by_many_processes_at_once(root: Path) -> None:
    def work(tell: Tell) -> None:
        manager = CheckpointManager(root)
        for number in range(12):
            tell([f"job-{number}", manager.save(f"job-{number}", "step", {})])

    with children(work, work, work) as writers:
        saved = [pair for writer in writers for pair in writer.hear_all()]
    for number in range(12):
        name = f"job-{number}"
        assert_sound(root, [id_ for job, id_ in saved if job == name], name)


def test_another_process_may_create_the_job_between_any_two_calls(root: Path) -> None:
    for nth in count(1):
        folder = root / f"{nth}"
        disk = FaultyDisk(folder, syncs=False)
        manager = CheckpointManager(storage=FileStorage(folder, disk=disk))
        manager.save("other", "one", {})
        rival, saved = unsynced(folder, lock_timeout_seconds=0), list[str]()

        def intrude(rival: CheckpointManager = rival, to: list[str] = saved) -> None:
            with contextlib.suppress(NestedCall):
                to.append(rival.save(JOB, "rival", {}))
                assert ids(rival) == to

        fault = disk.set(Fault("", nth, action=intrude))
        saved.append(manager.save(JOB, "mine", {}))
        if not fault.has_fired:
            break
        with unsynced(folder) as again:
            assert sorted(ids(again)) == sorted(saved), f"call {nth}"  # I1
            types = [event["type"] for event in again.history(JOB)]
            assert "job.repaired" not in types, f"call {nth}"
        assert read_head(folder, JOB).shown.seq == 1 + len(saved)


# -- readers beside writers ------------------------------------------------------------


def test_another_process_sees_every_save_the_moment_it_is_answered(root: Path) -> None:
    def work(tell: Tell) -> None:
        manager = unsynced(root)
        for number in range(100):
            tell(manager.save(JOB, "step", {"n": number}))

    reader = unsynced(root)
    with children(work) as (writer,):
        for number, saved in enumerate(iter(writer.hear, None)):
            assert ids(reader)[number] == saved
            assert reader.get(JOB, saved).state == {"n": number}
        assert number == 99


@pytest.mark.parametrize("durability", DURABILITIES)
def test_what_a_reader_was_shown_never_vanishes(
    root: Path, durability: Durability
) -> None:
    """Readers in a process of their own race with writers; what they see only grows."""

    def work(tell: Tell) -> None:
        with unsynced(root, durability=durability) as manager:
            for number in range(150):
                manager.save(JOB, "step", {"n": number})
        tell("done")

    reader = unsynced(root)
    with children(work, work) as writers:
        done = threading.Event()

        def look() -> None:
            seen: list[str] = []
            while not done.is_set():
                now = ids(reader)
                assert now[: len(seen)] == seen  # I1
                seen = now

        def wait() -> None:
            assert [writer.hear() for writer in writers] == ["done", "done"]
            done.set()

        run(look, look, wait)
    assert len(ids(reader)) == 300


def in_a_loop(work: Callable[[], object], done: threading.Event) -> None:
    while not done.is_set():
        work()


@pytest.mark.slow
@pytest.mark.usefixtures("restless")
def test_threads_read_while_others_save_and_delete(root: Path) -> None:
    """A view is changed in place: whoever walks it must not trip over that."""
    manager = unsynced(root)
    for _ in range(1000):
        manager.save(JOB, "step", {})
    done = threading.Event()

    def change() -> None:
        for _ in range(100):
            manager.delete(JOB, manager.save(JOB, "step", {}))
        done.set()

    questions: list[Callable[[], object]] = [
        lambda: manager.list(JOB),
        lambda: manager.page(JOB, limit=10, after_seq=5),
        lambda: manager.plan(JOB, Policy(keep_last=2)),
        lambda: manager.job(JOB),
        lambda: manager.latest(JOB),
        lambda: manager.current(JOB),
        lambda: manager.history(JOB, reverse=True, limit=3),
        lambda: manager.verify(JOB),
    ]
    try:
        run(change, *[partial(in_a_loop, question, done) for question in questions])
    finally:
        done.set()


@pytest.mark.usefixtures("restless")
def test_a_reader_never_sees_half_of_a_cleanup(root: Path) -> None:
    manager = unsynced(root)
    done = threading.Event()
    each = 40

    def change() -> None:
        for turn in range(15):
            for number in range(each):
                manager.save(JOB, f"{turn}", {"n": number}, tags=[f"{number}"])
            manager.cleanup(JOB, keep_last=1)
        done.set()

    def look() -> None:
        found: dict[str, list[int]] = {}
        for info in manager.list(JOB):
            found.setdefault(info.step_name, []).append(int(info.tags[0]))
        for numbers in found.values():
            # All so far, or what a cleanup keeps; a batch lands whole or not at all.
            assert numbers in ([*range(len(numbers))], [each - 1])

    run(change, partial(in_a_loop, look, done), partial(in_a_loop, look, done))


@pytest.mark.parametrize("operation", ["append", "sync", "sync_folder", "pwrite"])
def test_a_reader_that_looks_in_the_middle_of_a_save_does_not_hide_it(
    root: Path, operation: str
) -> None:
    """Whatever that reader made of the half-done write, the answer is to be seen."""
    for nth in range(1, 9):
        disk = FaultyDisk(root / f"{nth}", syncs=False)
        manager = CheckpointManager(storage=FileStorage(root / f"{nth}", disk=disk))

        def look(manager: CheckpointManager = manager) -> None:
            thread = threading.Thread(target=lambda: manager.list(JOB))
            thread.start()
            thread.join(0.2)  # or until it has to wait for this very call

        fault = disk.set(Fault(operation, nth, action=look))
        saved = []
        for name in ("one", "two", "three"):
            saved.append(manager.save(JOB, name, {}))
            assert ids(manager) == saved, f"call {nth}"  # I2
        if not fault.has_fired:
            break


@pytest.mark.usefixtures("restless")
def test_the_only_checkpoint_may_go_while_somebody_asks_for_it(root: Path) -> None:
    manager = unsynced(root)
    done = threading.Event()

    def change() -> None:
        for _ in range(100):
            manager.delete(JOB, manager.save(JOB, "step", {}))
        done.set()

    def look() -> None:
        for found in (manager.latest(JOB), manager.current(JOB)):
            assert found is None or found.step_name == "step"

    run(change, *[partial(in_a_loop, look, done)] * 3)


# -- more jobs than are kept open ------------------------------------------------------


def test_hundreds_of_jobs_are_read_and_written_by_many_threads(root: Path) -> None:
    manager, names = unsynced(root), [f"job-{n}" for n in range(230)]
    for name in names:
        manager.save(name, "one", {})

    def work(seed: int) -> None:
        order = random.Random(seed).sample(names, len(names))
        for name in order:
            assert manager.list(name)[0].step_name == "one"
            if hash(name) % 4 == seed % 4:
                manager.save(name, f"by-{seed}", {})
            assert manager.latest(name) is not None

    run(*[partial(work, seed) for seed in range(4)])
    assert all(report.ok for report in manager.verify())


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("what", ["list", "save"])
def test_a_head_that_is_closed_for_want_of_room_is_opened_again(
    root: Path, what: str, nth: int
) -> None:
    """Right before one caller reads a head, others open hundreds of jobs."""
    CheckpointManager(root).save(JOB, "one", {})
    disk = FaultyDisk(root, syncs=False)
    manager = CheckpointManager(storage=FileStorage(root, disk=disk))
    others = [f"other-{n}" for n in range(250)]

    def crowd() -> None:
        thread = threading.Thread(target=lambda: [*map(manager.list, others)])
        thread.start()
        thread.join(0.2)  # or until it has to wait for this very read

    disk.set(Fault("read", nth, on=f"heads/{JOB}", action=crowd))
    for _ in range(3):
        if what == "save":
            manager.save(JOB, "more", {})
        assert manager.list(JOB)[0].step_name == "one"


def test_a_damaged_job_that_has_to_make_room_does_not_stop_the_one_that_needs_it(
    root: Path,
) -> None:
    manager = unsynced(root, durability="interval", interval_seconds=600)
    manager.save(JOB, "one", {})
    manager.save(JOB, "two", {})  # not synced yet
    os.truncate(journal_of(root, JOB), 10)
    for number in range(220):
        manager.save(f"job-{number}", "one", {})  # I10


@pytest.mark.parametrize("operation", ["append", "sync", "pwrite"])
def test_closing_waits_for_a_save_on_its_way_and_neither_is_stuck(
    root: Path, operation: str
) -> None:
    disk = FaultyDisk(root, syncs=False)
    manager = CheckpointManager(storage=FileStorage(root, disk=disk))
    manager.save(JOB, "one", {})
    closer = threading.Thread(target=manager.close, daemon=True)

    def close() -> None:
        closer.start()
        closer.join(0.2)  # it has to wait for this save

    disk.set(Fault(operation, action=close))
    assert finishes(partial(manager.save, JOB, "two", {})) is None
    closer.join(10)
    assert not closer.is_alive()
    assert steps(CheckpointManager(root)) == ["one", "two"]


@pytest.mark.slow
@pytest.mark.parametrize("durability", DURABILITIES)
def test_more_jobs_than_descriptors_are_no_problem(
    root: Path, durability: Durability
) -> None:
    def work() -> int:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (480, hard))
        manager = unsynced(root, durability=durability, interval_seconds=600)
        for number in range(260):
            manager.save(f"job-{number}", "one", {})
            manager.save(f"job-{number}", "two", {})
        return len(manager.jobs())

    assert in_child(work) == 260


# -- processes that die ----------------------------------------------------------------


def save_for_ever(root: Path, durability: Durability, tell: Tell) -> None:
    manager = CheckpointManager(root, durability=durability, codec="json")
    for number in count():
        tell(manager.save(JOB, "step", {"n": number, "text": "x" * 3000}))


@pytest.mark.parametrize(
    ("durability", "kills"),
    [
        ("always", 5),
        *(pytest.param(each, 100, marks=pytest.mark.slow) for each in DURABILITIES),
    ],
)
def test_killed_writers_lose_nothing_that_they_were_answered(
    root: Path, durability: Durability, kills: int, tally: Tally
) -> None:
    dice = random.Random(kills)
    for turn in range(0, kills, 5):  # a store of its own for five: replays stay short
        kill_writers(root / str(turn), durability, dice)
    tally("processes killed under load", 2 * kills)


def kill_writers(root: Path, durability: Durability, dice: random.Random) -> None:
    acknowledged: list[str] = []
    for _ in range(5):
        writers = [Child(partial(save_for_ever, root, durability)) for _ in range(2)]
        heard = [w.hear() for w in writers for _ in range(dice.randint(1, 6))]
        with CheckpointManager(root) as reader:
            shown = ids(reader)
        for writer in writers:
            writer.signal(signal.SIGKILL)
        for writer in writers:
            acknowledged += [*heard, *writer.hear_all()]
            heard = []
            assert writer.wait() == -signal.SIGKILL
        with CheckpointManager(root) as again:
            found = ids(again)
            assert set(acknowledged) <= set(found)  # I1
            assert found[: len(shown)] == shown
    assert_sound(root, found)


def test_a_killed_holder_leaves_a_lock_that_can_be_taken(root: Path) -> None:
    def hold(tell: Tell) -> None:
        with FileStorage(root).job(JOB).hold():
            tell("held")
            signal.pause()

    manager = CheckpointManager(root)
    manager.save(JOB, "one", {})
    holder = Child(hold)
    assert holder.hear() == "held"
    impatient = CheckpointManager(root, lock_timeout_seconds=0.01)
    with pytest.raises(LockTimeout):
        impatient.save(JOB, "two", {})
    assert len(ids(impatient)) == 1  # who only reads is never kept waiting
    holder.signal(signal.SIGKILL)
    holder.wait()
    impatient.save(JOB, "three", {})
    assert len(ids(manager)) == 2


def test_a_stopped_writer_keeps_only_its_own_job_waiting(root: Path) -> None:
    disk = FaultyDisk(root)
    disk.set(Fault("sync", 1, on=f"journals/{JOB}", action=stop))
    CheckpointManager(root).save("other", "one", {})
    stopped = Child(
        lambda tell: tell(
            CheckpointManager(storage=FileStorage(root, disk=disk)).save(JOB, "a", {})
        )
    )
    os.waitpid(stopped.pid, os.WUNTRACED)
    manager = CheckpointManager(root, lock_timeout_seconds=0.01)
    assert manager.list(JOB) == []  # written, not answered: not shown
    with pytest.raises(LockTimeout):
        manager.save(JOB, "b", {})
    manager.save("other", "two", {})  # I10
    stopped.signal(signal.SIGCONT)
    assert stopped.hear() is not None
    assert stopped.wait() == 0
    manager.save(JOB, "b", {})
    assert steps(manager) == ["a", "b"]


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


# -- shared writes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("savers", "letters", "writes"),
    [(300, 1, [1, 256, 44]), (20, 1_000_000, [1, 9, 9, 2])],
    ids=["in events", "in bytes"],
)
def test_what_queues_up_behind_a_save_shares_writes_of_a_bounded_size(
    root: Path, savers: int, letters: int, writes: list[int]
) -> None:
    disk, in_sync = FaultyDisk(root, syncs=False), threading.Event()
    storage = FileStorage(root, disk=disk)
    manager = CheckpointManager(storage=storage, codec="json")
    manager.save(JOB, "before", {})
    waiting: Sized = manager._store._job(JOB).queue._waiting

    def queue_up() -> None:
        in_sync.set()
        until(lambda: len(waiting) > savers, seconds=30)  # with the first

    disk.set(Fault("sync", on=f"journals/{JOB}", action=queue_up))
    first = threading.Thread(target=manager.save, args=[JOB, "first", {}])
    first.start()
    assert in_sync.wait(30)
    run(*[partial(manager.save, JOB, "step", {"text": "x" * letters})] * savers)
    first.join()
    assert sizes_of_writes(manager, after=2) == writes


def sizes_of_writes(manager: CheckpointManager, after: int) -> list[int]:
    """Return how many events each write had: one of several says which it spans."""
    events: list[Any] = manager.history(JOB, after_seq=after, limit=1000)
    spans = [event.get("span", [event["seq"], event["seq"]]) for event in events]
    return [last - first + 1 for first, last in sorted({*map(tuple, spans)})]


# -- forks -----------------------------------------------------------------------------


def test_a_forked_child_goes_on_with_its_parents_manager(root: Path) -> None:
    with CheckpointManager(root) as manager:
        saved = [manager.save(JOB, "before", {})]

        def work(tell: Tell) -> None:
            for _ in range(10):
                tell(manager.save(JOB, "child", {}))
            manager.close()

        with children(work, work) as forked:
            saved += [manager.save(JOB, "parent", {}) for _ in range(10)]
            saved += [id_ for child in forked for id_ in child.hear_all()]
        assert ids(manager)[0] == saved[0]
    assert_sound(root, saved)


def test_a_fork_in_the_middle_of_a_save_neither_waits_for_ever_nor_writes_twice(
    root: Path,
) -> None:
    disk = FaultyDisk(root)
    manager = CheckpointManager(storage=FileStorage(root, disk=disk))
    saved = [manager.save(JOB, "before", {})]
    begun, may_end = threading.Event(), threading.Event()

    def pause() -> None:
        begun.set()
        assert may_end.wait(30)

    disk.set(Fault("sync", on=f"journals/{JOB}", action=pause))
    saver = threading.Thread(target=lambda: saved.append(manager.save(JOB, "mid", {})))
    saver.start()
    assert begun.wait(30)

    def work(tell: Tell) -> None:
        tell(steps(manager))  # what was written but not answered is not shown
        tell(manager.save(JOB, "child", {}))

    with children(work) as (child,):
        assert child.hear() == ["before"]
        may_end.set()
        saver.join(30)
        saved.append(child.hear())
    assert_sound(root, saved)


def test_a_fork_while_another_thread_reads_a_head_does_not_hang_the_child(
    root: Path,
) -> None:
    saved = [CheckpointManager(root).save(JOB, "before", {})]
    disk = FaultyDisk(root)
    manager = CheckpointManager(storage=FileStorage(root, disk=disk))
    begun, may_end = threading.Event(), threading.Event()

    def pause() -> None:
        begun.set()
        assert may_end.wait(30)

    disk.set(Fault("read", on=f"heads/{JOB}", action=pause))
    reader = threading.Thread(target=lambda: manager.list(JOB))
    reader.start()
    assert begun.wait(30)
    saved.append(in_child(lambda: manager.save(JOB, "child", {})))
    may_end.set()
    reader.join(30)
    assert_sound(root, saved)


def test_a_fork_while_another_thread_packs_states_does_not_hang_the_child(
    root: Path,
) -> None:
    large = {"text": "0123456789" * 1000}
    manager = CheckpointManager(root)
    saved = [manager.save(JOB, "before", large)]
    guard = manager._reader.recent._guard
    holding = threading.Event(), threading.Event()

    def hold() -> None:
        holding[0].set()
        assert holding[1].wait(30)

    packing = threading.Thread(target=lambda: guard.hold(hold))
    packing.start()
    assert holding[0].wait(30)
    saved.append(in_child(lambda: manager.save(JOB, "child", large)))
    holding[1].set()
    packing.join()
    assert_sound(root, saved)


def test_a_child_that_outlives_a_killed_parent_does_not_keep_its_lock(
    root: Path,
) -> None:
    def parent(tell: Tell) -> None:
        manager = CheckpointManager(root)
        manager.save(JOB, "one", {})
        with manager._store.storage.job(JOB).hold():
            child = Child(lambda _: signal.pause())
            tell(child.pid)
            signal.pause()

    dying = Child(parent)
    orphan = dying.hear()
    dying.signal(signal.SIGKILL)
    dying.wait()
    try:
        CheckpointManager(root, lock_timeout_seconds=5).save(JOB, "two", {})
    finally:
        os.kill(orphan, signal.SIGKILL)
    assert len(ids(CheckpointManager(root))) == 2


def test_multiprocessing_with_fork_can_save_through_an_inherited_manager(
    root: Path,
) -> None:
    manager = unsynced(root)
    saved = [manager.save(JOB, "before", {})]
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def work() -> None:
        for number in range(5):
            answers.put(manager.save(JOB, "child", {"n": number}))

    processes = [context.Process(target=work) for _ in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads may be about
        for process in processes:
            process.start()
    saved += [answers.get() for _ in range(15)]
    for process in processes:
        process.join()
    assert_sound(root, saved)


# -- Ctrl-C ----------------------------------------------------------------------------

PACKAGE = Path(journal.__file__).parent


class Interrupt:
    """Ctrl-C at the `nth` place where Python would notice it: a call, or its return."""

    def __init__(self, nth: int, only: str = "") -> None:
        self.place = ""
        self._left = nth
        self._only = only

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        name = Path(frame.f_code.co_filename)
        is_ours = name.is_relative_to(PACKAGE) or name.name == "contextlib.py"
        if not is_ours or self._only not in name.name:
            return
        if event not in {"call", "c_return"} or frame.f_code.co_name == "__del__":
            return  # what is raised in a `__del__` is swallowed
        self._left -= 1
        if self._left == 0:
            sys.setprofile(None)
            self.place = f"{name.name}:{frame.f_code.co_name}:{frame.f_lineno}"
            raise KeyboardInterrupt


def finishes(work: Callable[[], object]) -> str | None:
    """Tell what goes wrong with `work` in another thread, a hang included."""
    problem: list[str] = []

    def guarded() -> None:
        try:
            work()
        except Exception as exc:  # noqa: BLE001 - that is what is asked for
            problem.append(repr(exc))

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(10)
    return "hangs" if thread.is_alive() else next(iter(problem), None)


def interrupted(
    manager: CheckpointManager, interrupt: Interrupt
) -> tuple[str, str | None]:
    """Interrupt a save; return where, and what is wrong then.

    Nowhere, if there are fewer places.
    """
    try:
        sys.setprofile(interrupt)
        manager.save(JOB, "interrupted", {})
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    # As a job does that saves a last time when it is stopped.
    wrong = finishes(partial(manager.save, JOB, "last", {}))
    return interrupt.place, wrong or finishes(manager.close)


@pytest.mark.slow
# What strikes within a destructor, Python itself drops.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("is_new", [False, True], ids=["known job", "new job"])
def test_ctrl_c_anywhere_in_a_save_stops_neither_the_next_save_nor_the_exit(
    tmp_path: Path, *, is_new: bool
) -> None:
    problems: dict[str, object] = {}
    for nth in count(1):
        root = tmp_path / str(nth)
        manager = unsynced(root, lock_timeout_seconds=0.2)
        manager.save("other", "one", {})
        start = [] if is_new else ["one"]
        for name in start:
            manager.save(JOB, name, {})
        place, wrong = interrupted(manager, Interrupt(nth))
        if not place:
            break
        with unsynced(root) as again:
            found = steps(again)
            is_sound = again.verify(JOB, deep=True)[0].ok
        legal = [[*start, "last"], [*start, "interrupted", "last"]]
        if wrong or found not in legal or not is_sound:
            problems[place] = wrong or found  # I1
    assert problems == {}
    assert nth > 100


def until(is_so: Callable[[], object], *, seconds: float = 1) -> None:
    """Return once it is so, or when it will not be any more."""
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        os.sched_yield()


@pytest.mark.parametrize("leads", [True, False], ids=["leading", "following"])
def test_ctrl_c_in_a_shared_write_leaves_the_other_saver_neither_stuck_nor_lost(
    tmp_path: Path, *, leads: bool
) -> None:
    problems: dict[str, object] = {}
    for nth in count(1):
        disk = FaultyDisk(tmp_path / str(nth), syncs=False)
        storage = FileStorage(tmp_path / str(nth), disk=disk, lock_timeout_seconds=0.2)
        manager = CheckpointManager(storage=storage)
        manager.save(JOB, "one", {})
        waiting: Sized = manager._store._job(JOB).queue._waiting
        met, told = threading.Event(), list[str | None]()
        save = partial(manager.save, JOB, "beside", {})
        other = threading.Thread(
            target=lambda to=told, work=save: to.append(finishes(work)), daemon=True
        )

        def meet(
            met: threading.Event = met,
            other: threading.Thread = other,
            waiting: Sized = waiting,
        ) -> None:
            if leads:
                other.start()
            met.set()
            until(lambda: len(waiting))

        disk.set(Fault("append", action=meet))
        if not leads:
            other.start()
            assert met.wait(30)
        place, wrong = interrupted(manager, Interrupt(nth, "group_commit"))
        other.join(15)
        found = steps(manager)
        is_lost = told == [None] and "beside" not in found
        if wrong or other.is_alive() or "hangs" in told or is_lost:
            problems[place] = wrong or told or "the other hangs"
        if not place:
            break
    assert problems == {}
    assert nth > 5


def test_ctrl_c_in_one_of_many_savers_hurts_no_other(root: Path) -> None:
    """The main thread waits in the queue, or leads it, when the signal strikes."""

    def work(tell: Tell) -> None:
        manager = CheckpointManager(root, lock_timeout_seconds=5)
        done = threading.Event()

        def save() -> None:
            while not done.is_set():
                tell(manager.save(JOB, "thread", {}))

        others = [threading.Thread(target=save) for _ in range(3)]
        for other in others:
            other.start()
        strikes = 0
        while strikes < 10:
            try:
                while True:
                    tell([manager.save(JOB, "main", {})])
            except KeyboardInterrupt:
                strikes += 1
                tell("struck")
        done.set()
        for other in others:
            other.join()
        tell(manager.save(JOB, "last", {}))
        manager.close()

    signal.signal(signal.SIGINT, signal.default_int_handler)
    with children(work) as (child,):
        saved, dice = [], random.Random(7)
        for _ in range(10):
            saved += [child.hear() for _ in range(dice.randint(0, 11))]
            while not isinstance(heard := child.hear(), list):  # back in its loop
                saved.append(heard)
            child.signal(signal.SIGINT)
            saved += heard
            while (heard := child.hear()) != "struck":
                saved.append(heard)
        saved += child.hear_all()
        saved = [*chain.from_iterable(s if isinstance(s, list) else [s] for s in saved)]
    with CheckpointManager(root) as again:
        assert set(saved) - {"struck"} <= set(ids(again))  # I1
        assert len(ids(again)) <= len(set(saved)) + 10
        assert steps(again)[-1] == "last"
        assert again.verify(JOB, deep=True)[0].ok


# -- durability other than always ------------------------------------------------------


def test_interval_syncs_in_the_background_after_every_answer(root: Path) -> None:
    disk, synced = FaultyDisk(root), threading.Event()
    storage = FileStorage(root, disk=disk, durability="interval", interval_seconds=0.01)
    manager = CheckpointManager(storage=storage)
    manager.save(JOB, "one", {})
    for _ in range(3):
        synced.clear()
        disk.set(Fault("pwrite", 2, on=head_of(root, JOB).name, action=synced.set))
        manager.save(JOB, "more", {})
        assert synced.wait(30)  # the head moved a second time: shown, then synced
    manager.close()


@pytest.mark.parametrize("durability", ["interval", "never"])
def test_a_process_that_ends_without_closing_lets_the_next_one_sync(
    root: Path, durability: Durability
) -> None:
    def work(tell: Tell) -> None:
        manager = CheckpointManager(root, durability=durability, interval_seconds=600)
        for name in ("one", "two", "three"):
            tell(manager.save(JOB, name, {}))

    with children(work) as (child,):
        saved = child.hear_all()
    assert read_head(root, JOB).synced.seq == 2
    disk = FaultyDisk(root)
    with CheckpointManager(storage=FileStorage(root, disk=disk)) as again:
        again.save(JOB, "four", {})
        assert ids(again)[:3] == saved
        assert [*again.history(JOB, types={"job.repaired"})] == []
    assert read_head(root, JOB).synced.seq == 5


def test_a_flusher_that_fails_once_goes_on(root: Path) -> None:
    disk, moved = FaultyDisk(root), threading.Event()
    storage = FileStorage(root, disk=disk, durability="interval", interval_seconds=0.01)
    manager = CheckpointManager(storage=storage)
    manager.save(JOB, "one", {})
    broken = disk.fail("stat", 1, on=f"heads/{JOB}")  # as the lock is taken
    with contextlib.suppress(MilepostError):
        manager.save(JOB, "two", {})
    disk.set(Fault("pwrite", 2, on=f"heads/{JOB}", action=moved.set))
    manager.save(JOB, "three", {})
    assert moved.wait(30)
    assert broken.has_fired
    manager.close()
    assert journal_of(root, JOB).exists()


# -- a folder that is removed and made again -------------------------------------------


def test_a_store_that_was_made_anew_is_answered_about_and_written_to_as_it_is(
    root: Path,
) -> None:
    with CheckpointManager(root) as first, CheckpointManager(root) as other:
        for name in ("one", "two"):
            first.save(JOB, name, {})
        assert steps(other) == ["one", "two"]
        shutil.rmtree(root)
        with CheckpointManager(root) as anew:
            saved = [anew.save(JOB, "new", {})]
        assert steps(first) == steps(other) == ["new"]
        saved += [first.save(JOB, "again", {}), other.save(JOB, "more", {})]
        other.save("another job", "step", {})
    assert_sound(root, saved)


def test_a_new_job_goes_into_the_store_that_is_there_now(root: Path) -> None:
    with CheckpointManager(root) as first:
        first.save(JOB, "one", {})
        shutil.rmtree(root)
        with CheckpointManager(root) as anew:
            anew.save("its own", "step", {})
        saved = [first.save("late", "step", {})]
    assert_sound(root, saved, "late")
    assert CheckpointManager(root).verify("its own")[0].ok


def test_a_store_that_is_gone_is_not_taken_for_a_new_one(root: Path) -> None:
    with CheckpointManager(root) as manager:
        manager.save(JOB, "one", {})
        shutil.rmtree(root)
        with pytest.raises(MilepostError, match="seen before"):
            manager.list(JOB)
