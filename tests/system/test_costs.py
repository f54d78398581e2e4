"""How costs grow, in operations counted at n and at 10 n; times are benchmarks'."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pytest

from milepost import CheckpointManager
from milepost.journal.storage.files.storage import FileStorage
from milepost.worker.config.retention import RetentionSettings, Rule
from milepost.worker.config.settings import Settings
from milepost.worker.tasks.retention import RETENTION
from milepost.worker.tasks.task import TaskContext
from tests.support.clock import Clock
from tests.support.costs import Costs, cost, grows, least
from tests.support.faults import FaultyDisk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

JOB = "job"
N, FACTOR = 150, 10
RUNS = 6

pytestmark = pytest.mark.timeout(300)


class Made(NamedTuple):
    """An open store whose one job has `len(ids)` checkpoints."""

    manager: CheckpointManager
    disk: FaultyDisk
    root: Path
    ids: list[str]


def made(root: Path, count: int) -> Made:
    disk = FaultyDisk(root, syncs=False)
    manager = CheckpointManager(storage=FileStorage(root, disk=disk), clock=Clock())
    ids = [manager.save(JOB, "step", {"n": n}) for n in range(count)]
    return Made(manager, disk, root, ids)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Made, Made]]:
    folder = tmp_path_factory.mktemp("costs")
    small, large = made(folder / "n", N), made(folder / "10n", N * FACTOR)
    yield small, large
    small.manager.close()
    large.manager.close()


def middle(found: Made, run: int) -> str:
    """Return another checkpoint at each run, from the middle of the job."""
    return found.ids[len(found.ids) // 2 + run]


def undelete(found: Made, run: int) -> None:
    deleted = middle(found, 40 + run)
    found.manager.delete(JOB, deleted)
    assert found.manager.undelete(JOB, deleted)


ONE: dict[str, Callable[[Made, int], object]] = {
    "save": lambda x, _: x.manager.save(JOB, "step", {"n": 0}),
    "latest": lambda x, _: x.manager.latest(JOB),
    "get": lambda x, run: x.manager.get(JOB, middle(x, run)),
    "restore": lambda x, run: x.manager.restore(JOB, middle(x, run)),
    "pin": lambda x, run: x.manager.pin(JOB, middle(x, run)),
    "delete": lambda x, run: x.manager.delete(JOB, middle(x, 20 + run)),
    "first page": lambda x, _: x.manager.page(JOB, limit=10),
    "middle page": lambda x, run: x.manager.page(
        JOB, limit=10, after_seq=len(x.ids) // 2 - 40 + run
    ),
    "undelete": undelete,
}


@pytest.mark.parametrize("name", ONE)
def test_one_operation_costs_the_same_however_long_the_job_is(
    both: tuple[Made, Made], name: str
) -> None:
    found = []
    for each in both:
        ONE[name](each, RUNS)  # imports, and what is cached on first use
        works = [partial(ONE[name], each, run) for run in range(RUNS)]
        found.append(least(each.disk, works))
    assert found[0].instructions > 100
    assert grows(*found, factor=1.0) == []


def test_a_save_calls_the_disk_this_often(both: tuple[Made, Made]) -> None:
    made, _ = both
    made.manager.save(JOB, "step", {"n": 0})
    before = len(made.disk.calls)
    made.manager.save(JOB, "step", {"n": 0})
    calls = [call.operation for call in made.disk.calls[before:]]
    assert [x for x in calls if x in {"append", "sync", "pwrite"}] == [
        "append",
        "sync",
        "pwrite",
    ]
    assert len(calls) <= 9


def opened(root: Path, disk: FaultyDisk) -> None:
    with CheckpointManager(storage=FileStorage(root, disk=disk)) as manager:
        manager.latest(JOB)


def removed(root: Path, disk: FaultyDisk) -> None:
    with CheckpointManager(storage=FileStorage(root, disk=disk)) as manager:
        # Pinned ones do not count.
        assert manager.cleanup(JOB, keep_last=len(manager.list(JOB)) - 20) > 0


@pytest.mark.parametrize("work", [opened, removed])
def test_what_reads_a_job_costs_at_most_its_history(
    both: tuple[Made, Made], work: Callable[[Path, FaultyDisk], None]
) -> None:
    found = []
    for each in both:
        works = [partial(work, each.root, each.disk)] * RUNS
        found.append(least(each.disk, works))
    assert found[1].disk_calls == found[0].disk_calls
    assert grows(*found, factor=1.1 * FACTOR) == []


def test_a_removal_is_one_write_however_many_checkpoints_go(tmp_path: Path) -> None:
    for count in (20, 20 * FACTOR):
        found = made(tmp_path / str(count), count)
        before = len(found.disk.calls)
        assert found.manager.cleanup(JOB, keep_last=10) == count - 10
        calls = [call.operation for call in found.disk.calls[before:]]
        assert (calls.count("append"), calls.count("sync")) == (1, 1)
        found.manager.close()


def retention(root: Path, jobs: int) -> tuple[Costs, Costs]:
    """Return what a pass costs that removes half of all jobs, and the next one."""
    disk = FaultyDisk(root, syncs=False)
    with CheckpointManager(
        storage=FileStorage(root, disk=disk), clock=Clock()
    ) as manager:
        for job in range(jobs):
            for n in range(10):
                manager.save(f"job-{job}", "step", {"n": n})
        settings = Settings(
            retention=RetentionSettings(
                min_age="0s", max_remove_fraction=1.0, default=Rule(keep_last=5)
            )
        )
        run = TaskContext(manager, settings, Clock().now, steady=lambda: 0.0)
        half = cost(disk, lambda: RETENTION.run(run))
        assert len(manager.list("job-0")) == 5
        return half, cost(disk, lambda: RETENTION.run(run))


def test_a_pass_of_retention_costs_the_same_for_each_job(tmp_path: Path) -> None:
    few = retention(tmp_path / "n", 6)
    many = retention(tmp_path / "10n", 6 * FACTOR)
    for small, large in zip(few, many, strict=True):
        assert grows(small, large, factor=1.1 * FACTOR) == []
