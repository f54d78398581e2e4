"""A worker beside many waiting executions: `python -m benchmarks.waiting_probe FOLDER`.

Prints the bytes that it grows by, the seconds of the first sweep and of a later one,
and the seconds from each of ten decisions to the lease of the next attempt.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

from benchmarks import stores
from benchmarks.workflows import Here
from milepost import CheckpointManager
from milepost.journal.clock import utc_now
from milepost.worker.config.settings import Settings
from milepost.worker.config.workflows import rule_of
from milepost.worker.problems import Problems
from milepost.worker.service import Worker
from milepost.worker.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Iterable

_DECISIONS = 10
_APPROVE = """
import sys, time
from milepost import CheckpointManager
manager = CheckpointManager(sys.argv[1], actor="ops")
for line in sys.stdin:
    (asked,) = manager.approvals(job_id=line.strip())
    digest = asked.subject_digest
    manager.decide(asked.approval_id, "approve", subject_digest=digest)
    print(time.monotonic(), flush=True)
"""


def main() -> None:
    """Sweep twice, decide ten times, print the figures."""
    settings = Settings.model_validate({"workflows": [{"auto_resume": True}]})
    with CheckpointManager(sys.argv[1]) as manager:
        here = Here(manager)
        supervisor = Supervisor(
            manager,
            here,
            lambda name: rule_of(settings.workflows, name),
            Problems(),
            clock=utc_now,
            may_expire=lambda: True,
        )
        before = stores.resident_bytes()
        first = _timed(supervisor)
        grown = stores.resident_bytes() - before
        jobs = manager.job_ids()
        supervisor.notice(jobs)
        print(grown, first, _timed(supervisor))
        worker = Worker(manager, settings, executor=here)
        worker.start()
        try:
            _decide(worker, here, jobs[:_DECISIONS])
        finally:
            worker.stop()


def _decide(worker: Worker, here: Here, jobs: Iterable[str]) -> None:
    while not worker.status.leader:
        time.sleep(0.01)
    time.sleep(2)  # its first sweep
    command = [sys.executable, "-c", _APPROVE, sys.argv[1]]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for job_id in jobs:
            time.sleep(0.2)  # in step with no look
            print(job_id, file=process.stdin, flush=True)
            decided_at = float(process.stdout.readline())
            print(max(here.acquired.get(timeout=30) - decided_at, 0.0))
        process.stdin.close()


def _timed(supervisor: Supervisor) -> float:
    start = time.perf_counter()
    supervisor.look()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
