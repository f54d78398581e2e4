"""Many processes and threads; some are killed, stopped, forked, or have odd clocks."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import count, groupby
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from milepost import CheckpointManager
from milepost.journal.errors import MilepostError
from tests.support.faults import Child, children

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from milepost.journal.storage.files.folders import Durability
    from tests.support.tally import Tally

    Tell = Callable[[Any], None]

JOB = "etl"
SLOW = pytest.mark.slow
PROCESSES, THREADS = 8, 4  # of each process: 32 threads in all


def ids(manager: CheckpointManager, job_id: str = JOB) -> list[str]:
    return [info.checkpoint_id for info in manager.list(job_id)]


def in_threads(*works: Callable[[], object]) -> None:
    """Run each in a thread of its own until all have ended."""
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# -- a pipe that all writers tell their answers to -------------------------------------


class Answers:
    """What was answered, in a pipe that several processes write and several read.

    A record is smaller than what a pipe takes whole, and all are of one size, so that
    no kill and no second reader ever tears one.
    """

    BYTES = 256

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()

    def put(self, *record: str) -> None:
        os.write(self._writing, orjson.dumps(record).ljust(self.BYTES))

    def no_more(self) -> None:
        """Let readers meet the end once every other process has said so, or died."""
        os.close(self._writing)

    def __iter__(self) -> Iterator[list[str]]:
        while record := os.read(self._reading, self.BYTES):
            yield orjson.loads(record)


def save_for_ever(root: Path, jobs: list[str], name: str, answers: Answers) -> None:
    """Be a process with several threads; put every answer where readers see it."""
    manager = CheckpointManager(root)

    def save(thread: int) -> None:
        for number in count():
            job, step = jobs[(thread + number) % len(jobs)], f"{name}.{thread}.{number}"
            answers.put(job, step, manager.save(job, step, {"n": number}))

    in_threads(*[partial(save, thread) for thread in range(THREADS)])


def watch(root: Path, answers: Answers, tell: Tell) -> None:
    """Be a reader: what was answered is there at once, what was there stays."""
    answers.no_more()
    manager, seen, heard = CheckpointManager(root), dict[str, list[str]](), []
    for job, step, saved in answers:
        now, before = ids(manager, job), seen.get(job, [])
        assert saved in now, f"{step} was answered"  # I1
        assert now[: len(before)] == before, f"{job} forgot something"  # I2
        seen[job] = now
        heard.append([job, step, saved])
    for record in heard:
        tell(record)


class Crowd:
    """Writers that are killed, stopped and woken at random."""

    def __init__(self, spawn: Callable[[str], Child], seed: int) -> None:
        self._spawn = spawn
        self._dice = random.Random(seed)
        self._names = map(str, count())
        self._running = [spawn(next(self._names)) for _ in range(PROCESSES)]
        self._stopped: list[Child] = []
        self.kills = self.stops = 0

    def act(self) -> None:
        """Do something to one of them."""
        match self._dice.choice(["kill", "stop", "wake", "wake"]):
            case "kill":
                victim = self._take(self._running)
                self._kill(victim)
                self._running.append(self._spawn(next(self._names)))
            case "stop" if len(self._stopped) < PROCESSES // 2:
                victim = self._take(self._running)
                victim.signal(signal.SIGSTOP)
                self._stopped.append(victim)
                self.stops += 1
            case _ if self._stopped:
                # Half of them never know; the others die without having gone on.
                victim = self._take(self._stopped)
                if self._dice.random() < 0.5:
                    victim.signal(signal.SIGCONT)
                    self._running.append(victim)
                else:
                    self._kill(victim)
                    self._running.append(self._spawn(next(self._names)))

    def _take(self, among: list[Child]) -> Child:
        return among.pop(self._dice.randrange(len(among)))

    def _kill(self, victim: Child) -> None:
        victim.signal(signal.SIGKILL)
        assert victim.wait() == -signal.SIGKILL
        self.kills += 1

    def end(self) -> None:
        for child in (*self._running, *self._stopped):
            self._kill(child)


@SLOW
@pytest.mark.parametrize("jobs", [1, 12], ids=["one job", "many jobs"])
@pytest.mark.parametrize("seconds", [2, 25])
def test_a_crowd_that_is_killed_and_stopped_loses_and_doubles_nothing(
    root: Path, jobs: int, seconds: int, tally: Tally
) -> None:
    names, answers = [f"job-{number}" for number in range(jobs)], Answers()

    def spawn(name: str) -> Child:
        return Child(lambda _: save_for_ever(root, names, name, answers))

    dice, over = random.Random(seconds), threading.Event()
    with children(*[partial(watch, root, answers)] * 2) as readers:
        crowd = Crowd(spawn, seconds)
        timer = threading.Timer(seconds, over.set)
        timer.start()
        while not over.wait(dice.uniform(0.005, 0.05)):
            crowd.act()
        timer.join()
        crowd.end()
        answers.no_more()
        told = [record for reader in readers for record in reader.hear_all()]
    assert told
    assert crowd.kills > PROCESSES
    assert crowd.stops > 0
    for job in names:
        acknowledged = {step: saved for name, step, saved in told if name == job}
        unanswered = assert_sound(root, job, acknowledged)
        assert unanswered <= crowd.kills * THREADS
    tally("processes killed under load", crowd.kills)
    tally("processes stopped under load", crowd.stops)
    tally("answers of a crowd, none lost", len(told))


def assert_sound(root: Path, job: str, acknowledged: dict[str, str]) -> int:
    """Check the job; return how many saves are there that nobody was answered."""
    with CheckpointManager(root) as manager:
        there = {i.step_name: i.checkpoint_id for i in manager.list(job)}
        assert len(there) == len(manager.list(job)), "something is there twice"
        assert acknowledged.items() <= there.items()  # I1
        seqs = [event["seq"] for event in manager.history(job)]
        assert seqs == [*range(1, len(seqs) + 1)]  # I3
        for report in manager.verify(job, deep=True):  # none of a job without a save
            assert report.ok, report.problem
        for _, steps in groupby(sorted(there, key=thread_of), key=thread_of):
            numbers = [int(step.rpartition(".")[2]) for step in steps]
            assert numbers == sorted(numbers), "a thread's saves changed places"
    return len(there) - len(acknowledged)


def thread_of(step: str) -> str:
    return step.rpartition(".")[0]


# -- forks -----------------------------------------------------------------------------


@SLOW
@pytest.mark.parametrize("durability", ["always", "interval", "never"])
def test_forked_workers_that_die_are_replaced_and_share_their_parents_manager(
    root: Path, durability: Durability
) -> None:
    """As a server does that forks before it serves: gunicorn, uWSGI, Celery."""
    manager = CheckpointManager(root, durability=durability, interval_seconds=0.01)
    saved = [manager.save(JOB, "parent", {})]

    def serve(tell: Tell) -> None:
        def save() -> None:
            for number in count():
                tell(manager.save(JOB, "child", {"n": number}))

        in_threads(save, save)

    workers = [Child(serve) for _ in range(4)]
    for turn in range(12):
        victim = workers.pop(0)
        for _ in range(5):
            saved.append(victim.hear())
            assert saved[-1] in ids(manager), "answered, and not to be seen"  # I1
        saved.append(manager.save(JOB, "parent", {"turn": turn}))
        victim.signal(signal.SIGKILL)
        saved += victim.hear_all()
        victim.wait()
        workers.append(Child(serve))
    for worker in workers:
        worker.signal(signal.SIGKILL)
        saved += worker.hear_all()
        worker.wait()
    found = Counter(ids(manager))
    assert found.keys() >= {*saved}  # I1
    assert found.most_common(1)[0][1] == 1
    manager.close()
    with CheckpointManager(root) as again:
        assert ids(again) == [*found]
        assert again.verify(JOB, deep=True)[0].ok


@SLOW
def test_forks_under_a_parent_whose_threads_are_saving_neither_hang_nor_lose(
    root: Path,
) -> None:
    manager, saved, over = CheckpointManager(root), list[str](), threading.Event()

    def save() -> None:
        while not over.is_set():
            saved.append(manager.save(JOB, "parent", {}))

    threads = [threading.Thread(target=save) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(15):
            with children(
                lambda tell: tell([manager.save(JOB, "child", {}) for _ in range(3)])
            ) as (child,):
                saved += child.hear()
    finally:
        over.set()
        for thread in threads:
            thread.join()
    with CheckpointManager(root) as again:
        assert sorted(ids(again)) == sorted(saved)  # I1
        assert again.verify(JOB, deep=True)[0].ok


# -- clocks ----------------------------------------------------------------------------

MOMENTS = [
    datetime(2026, 11, 23, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2106, 2, 7, 6, 28, 16, tzinfo=UTC),
    datetime(2026, 11, 23, tzinfo=UTC),
    datetime(2026, 11, 22, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(2026, 11, 23, tzinfo=UTC),
]


def test_a_clock_that_jumps_changes_neither_the_order_nor_what_is_kept(
    root: Path,
) -> None:
    now = MOMENTS[0]
    manager = CheckpointManager(root, clock=lambda: now)
    saved = []
    for number, moment in enumerate(MOMENTS * 2):
        now = moment
        saved.append(manager.save(JOB, "step", {"n": number}))
        latest, current = manager.latest(JOB), manager.current(JOB)
        assert latest is not None
        assert current is not None
        assert latest.checkpoint_id == current.checkpoint_id == saved[-1]
    with CheckpointManager(root, clock=lambda: MOMENTS[1]) as skewed:
        assert ids(skewed) == saved  # in the order of seq
        assert skewed.cleanup(JOB, keep_last=3) == len(saved) - 3
        assert ids(skewed) == ids(manager) == saved[-3:]  # I6
        saved = [*saved[-3:], skewed.save(JOB, "step", {})]
    assert ids(manager) == saved
    assert manager.verify(JOB, deep=True)[0].ok


def test_what_was_deleted_can_come_back_after_the_clock_went_back(root: Path) -> None:
    now = MOMENTS[2]
    with CheckpointManager(root, clock=lambda: now) as manager:
        doomed, _ = (manager.save(JOB, name, {"s": name}) for name in ("one", "two"))
        manager.delete(JOB, doomed)
        now = MOMENTS[1]
        assert manager.compact(JOB) is None  # its trash period has not ended
        assert manager.undelete(JOB, doomed)
        assert manager.get(JOB, doomed).state == {"s": "one"}


def test_processes_whose_clocks_differ_by_years_agree_about_everything(
    root: Path,
) -> None:
    def work(moment: datetime, tell: Tell) -> None:
        manager = CheckpointManager(root, clock=lambda: moment)
        for number in range(20):
            tell(manager.save(JOB, "step", {"n": number}))
            with suppress(MilepostError):
                manager.cleanup(JOB, keep_last=15)

    with children(*[partial(work, moment) for moment in MOMENTS[:4]]) as writers:
        saved = [id_ for writer in writers for id_ in writer.hear_all()]
    with CheckpointManager(root) as manager:
        events = manager.history(JOB, types={"checkpoint.saved"})
        order = [event["data"]["checkpoint_id"] for event in events]
        assert sorted(order) == sorted(saved)  # I1
        assert ids(manager) == order[-15:]
        assert manager.verify(JOB, deep=True)[0].ok
