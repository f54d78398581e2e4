"""Compaction, trash and verification: what each does, and where it goes on later."""

from __future__ import annotations

import dataclasses
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager
from milepost.worker.config.settings import (
    DEFAULT_SCHEDULES,
    RetentionSettings,
    Rule,
    Settings,
    WorkerSettings,
)
from milepost.worker.schedule.scheduler import read_schedule
from milepost.worker.tasks import TASKS
from milepost.worker.tasks.task import TaskContext

if TYPE_CHECKING:
    from pathlib import Path

    from milepost.worker.schedule.report import TaskReport
    from tests.support.clock import Clock

KEEP_TWO = RetentionSettings(
    min_keep=1,
    min_age="0s",
    max_remove_fraction=1.0,
    default=Rule(keep_last=2),
    compact_min_bytes=4096,
    compact_fraction=0.0,
    erase_within_seconds=86_400.0,
)
BY_NAME = {task.name: task for task in TASKS}


class Work:
    """Runs of tasks, each going on where the last one of its kind ended."""

    def __init__(self, manager: CheckpointManager, clock: Clock) -> None:
        self.manager = manager
        self.clock = clock
        self.retention = KEEP_TWO
        self.worker: dict[str, Any] = {}
        self.resume_after: dict[str, str | None] = {}
        self.options: dict[str, Any] = {}

    def run(self, name: str) -> TaskReport:
        settings = Settings(
            retention=self.retention, worker=WorkerSettings(**self.worker)
        )
        after = self.resume_after.get(name)
        run = TaskContext(self.manager, settings, self.clock(), after)
        report = BY_NAME[name].run(dataclasses.replace(run, **self.options))
        self.resume_after[name] = report.resume_after
        return report

    def fill(self, *jobs: str, count: int = 5, size: int = 10) -> None:
        for job in jobs:
            for number in range(count):
                # Not alike, or they would be told from each other in a few bytes.
                dice = random.Random(f"{job} {number}")
                state = {"n": [dice.getrandbits(60) for _ in range(size)]}
                self.manager.save(job, "step", state)

    def empty_trash(self, **past: float) -> None:
        """Let the trash period of all that is removed end, and so much more pass."""
        self.run("cleanup")
        self.clock.turn(seconds=self.manager.trash_seconds + 1)
        self.clock.turn(**past)


@pytest.fixture
def work(manager: CheckpointManager, clock: Clock) -> Work:
    return Work(manager, clock)


# -- compaction and trash --------------------------------------------------------------


def test_compaction_takes_what_is_worth_it_and_leaves_the_rest_to_the_trash(
    work: Work,
) -> None:
    work.fill("large", size=500)
    work.fill("small")
    assert work.run("compact").counts["compacted"] == 0
    work.empty_trash(days=2)
    compacted = work.run("compact")
    assert (compacted.counts["compacted"], compacted.counts["states_erased"]) == (1, 3)
    assert compacted.counts["bytes_freed"] > 4096
    erased = work.run("purge")
    assert (erased.counts["compacted"], erased.counts["states_erased"]) == (1, 3)  # I9
    assert [found.ok for found in work.manager.verify(deep=True)] == [True, True]


def test_a_compaction_that_frees_nothing_is_counted_as_skipped(work: Work) -> None:
    blocks = [random.Random(n).randbytes(2000).hex() for n in range(8)]
    first = work.manager.save("a", "all", {"of": blocks})
    for mask in range(1, 256, 9):
        work.manager.restore("a", first)
        work.manager.save(
            "a", "some", {"of": [blocks[n] * (mask >> n & 1) for n in range(8)]}
        )
    work.manager.delete("a", first)
    work.clock.turn(seconds=work.manager.trash_seconds + 1)
    skipped = work.run("compact")
    assert (skipped.counts["compacted"], skipped.counts["skipped"]) == (0, 1)
    assert skipped.line == "0 compacted, 1 skipped, 1 job"
    work.clock.turn(days=2)
    assert work.run("purge").counts["states_erased"] == 1  # I9


def test_the_trash_waits_for_what_is_late_and_no_longer(work: Work) -> None:
    work.fill("a")
    work.empty_trash(hours=23)
    assert work.run("purge").counts["states_erased"] == 0
    work.clock.turn(hours=2)
    assert work.run("purge").counts["states_erased"] == 3  # I9
    assert work.run("purge").counts["compacted"] == 0


def test_the_trash_takes_kept_bytes_of_a_recovery_too(work: Work, root: Path) -> None:
    work.fill("a")
    with (root / "journals/a.jsonl").open("ab") as torn:
        torn.write(b'{"state":7,"codec":"js')
    work.fill("a", count=1)
    assert list((root / "salvage").iterdir())
    work.clock.turn(seconds=work.manager.trash_seconds + 1)
    work.run("purge")
    assert not list((root / "salvage").iterdir())  # I9


def test_a_run_rewrites_at_most_so_much_and_the_next_goes_on(work: Work) -> None:
    jobs = ["a", "b", "c"]
    work.fill(*jobs, count=40, size=2000)
    work.empty_trash(days=2)
    work.worker = {"max_rewrite_bytes": 1 << 20}
    assert work.manager.jobs()[0].size_bytes > 1 << 19
    first = work.run("compact")
    second = work.run("compact")
    assert (first.counts["compacted"], first.resume_after) == (2, "b")
    assert (second.counts["compacted"], second.resume_after) == (1, None)
    assert "more next time" in first.line
    assert "more next time" not in second.line


def test_the_journal_says_which_task_rewrote_it(work: Work) -> None:
    work.fill("a")
    work.empty_trash(days=2)
    work.run("purge")
    (event,) = work.manager.history("a", types=["job.compacted"])
    assert event["actor"] == "worker:purge"


# -- verification ----------------------------------------------------------------------


def flip(path: Path, text: bytes) -> None:
    raw = bytearray(path.read_bytes())
    raw[raw.rindex(text)] ^= 1
    path.write_bytes(raw)


def test_verification_finds_a_changed_event_in_any_job_and_goes_on(  # I10
    work: Work, root: Path
) -> None:
    work.fill("a", "b", "c")
    work.worker = {"verify_deep_bytes": 0}
    flip(root / "journals/b.jsonl", b'"checkpoint.saved"')
    report = work.run("verify")
    assert (report.outcome, report.damaged, report.jobs) == ("partly", 1, 3)
    assert [problem.job_id for problem in report.problems] == ["b"]
    assert report.counts == {"verified": 3, "read_in_full": 0}


def test_every_state_is_read_after_enough_runs_however_little_each_reads(
    work: Work, root: Path
) -> None:
    work.fill("a", "b", "c")
    work.worker = {"verify_deep_bytes": 1}
    work.manager.verify()
    flip(root / "journals/c.jsonl", b'"body"')
    found = [work.run("verify") for _ in range(4)]
    assert [report.counts["read_in_full"] for report in found] == [1] * 4
    assert [report.resume_after for report in found] == ["a", "b", "c", "a"]
    assert "c" in {problem.job_id for problem in found[2].problems}
    assert found[2].damaged == 1


def test_a_store_that_fits_into_one_run_is_read_in_full_each_time(work: Work) -> None:
    work.fill("a", "b")
    for _ in range(2):
        report = work.run("verify")
        assert report.counts == {"verified": 2, "read_in_full": 2}
        assert report.resume_after is None


# -- time and stopping -----------------------------------------------------------------


@pytest.mark.parametrize("name", [*BY_NAME])
def test_a_run_that_takes_too_long_ends_after_the_job_it_is_at(
    name: str, work: Work
) -> None:
    work.fill("a", "b", "c")
    work.options = {"steady": lambda: 10.0, "ends_at": 9.0}
    looked = [work.run(name) for _ in range(3)]
    assert [report.jobs for report in looked] == [1, 1, 1]
    assert {report.outcome for report in looked} == {"ok"}
    assert [report.resume_after for report in looked][:2] == ["a", "b"]


@pytest.mark.parametrize("name", [*BY_NAME])
def test_a_task_that_was_asked_to_stop_begins_no_job(name: str, work: Work) -> None:
    work.fill("a")
    stop = threading.Event()
    stop.set()
    work.options = {"stop": stop}
    report = work.run(name)
    assert (report.jobs, report.outcome) == (0, "stopped")


class StopsAtPiece(threading.Event):
    """A stop that is asked for at the second look: in the middle of the first job."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    def is_set(self) -> bool:
        self.looks += 1
        return self.looks > 1


@pytest.mark.parametrize("name", ["compact", "verify"])
def test_a_long_job_is_left_between_two_pieces_and_nothing_was_changed(
    name: str, work: Work, root: Path
) -> None:
    work.fill("a", "b", count=9, size=500)
    work.empty_trash()
    before = (root / "journals/a.jsonl").read_bytes()
    work.options = {"stop": StopsAtPiece()}
    report = work.run(name)
    assert (report.outcome, report.jobs, report.resume_after) == ("stopped", 0, None)
    assert (root / "journals/a.jsonl").read_bytes() == before
    assert sorted(path.name for path in (root / "journals").iterdir()) == [
        "a.jsonl",
        "b.jsonl",
    ]
    work.options = {}
    assert work.run(name).outcome == "ok"


# -- the registry ----------------------------------------------------------------------


def test_every_task_has_a_name_and_a_schedule_of_its_own_that_fires() -> None:
    assert len(BY_NAME) == len(TASKS)
    schedules = [getattr(WorkerSettings(), task.name) for task in TASKS]
    assert sorted(schedules) == sorted(DEFAULT_SCHEDULES)
    for text in schedules:
        assert read_schedule(text)
