"""The cost of durable steps: time, bytes, restarts, forks, many waiting executions."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING

from benchmarks import stores
from benchmarks.contenders import ABSURD, DBOS, OURS
from benchmarks.running import PROJECT, Figure, Subject, Target
from benchmarks.states import states
from benchmarks.step_peers import (
    Absurd,
    Dbos,
    Forking,
    Milepost,
    has_absurd,
    has_dbos,
)
from benchmarks.timing import Times, race
from milepost import CheckpointManager

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.running import Run
    from benchmarks.step_peers import Contender

_NOTE = (
    "A step has a result of 1 KB, which is durable before the next one begins.  "
    "*workflows*: whole ones, their start and end included, in turns in one "
    "process.  *beside a save*: a step and a "
    "durable save of the same 1 KB in turns in one process.  *restart*: from the start "
    "of a new process until it runs the first step without a result, after a SIGKILL.  "
    "*fork*: another workflow with the results of all steps but one.  *waiting*: "
    "executions that wait for an approval, and a worker that looks after them; a sweep "
    "looks at each.  Absurd starts a killed task again after the end of its claim."
)

_RESTART = """
import sys, time
from milepost import CheckpointManager
def killed():
    print(time.monotonic(), flush=True)
    sys.stdin.read()
with CheckpointManager(sys.argv[1]).execution("work", job_id="job") as run:
    for number in range(int(sys.argv[2])):
        run.step("done", lambda: {"n": number, "text": "x" * 1000})
    run.step("next", killed)
"""
_RESTART_DBOS = """
import logging, sys, time
logging.disable(logging.CRITICAL)
from dbos import DBOS
DBOS(config={
    "name": "bench", "system_database_url": f"sqlite:///{sys.argv[1]}/dbos.sqlite",
    "run_admin_server": False,
})
@DBOS.step()
def done(number):
    return {"n": number, "text": "x" * 1000}
@DBOS.step()
def killed():
    print(time.monotonic(), flush=True)
    sys.stdin.read()
@DBOS.workflow()
def work(steps):
    for number in range(steps):
        done(number)
    killed()
DBOS.launch()
if sys.argv[3] == "first":
    DBOS.start_workflow(work, int(sys.argv[2]))
time.sleep(3600)
"""


def measure(run: Run) -> Subject:
    """Run workflows of durable steps in every way."""
    figures = [*_beside_a_save(run)]
    with ExitStack() as stack:
        contenders = _contenders(run, stack)
        figures += _speed(run, contenders)
        figures += _forks(run, contenders)
    figures.append(_restarts(run))
    figures += _waiting(run)
    return Subject("Durable steps", _NOTE, tuple(figures))


def _contenders(run: Run, stack: ExitStack) -> dict[str, Contender]:
    results = states(1024)
    ours = Milepost(run.new_folder("steps-milepost"), results)
    contenders: dict[str, Contender] = {OURS: ours}
    if has_dbos():
        dbos = Dbos(run.new_folder("steps-dbos"), results)
        stack.callback(dbos.close)
        contenders[DBOS] = dbos
    if has_absurd():
        absurd = Absurd(results)
        stack.callback(absurd.close)
        contenders[ABSURD] = absurd
    return contenders


def _beside_a_save(run: Run) -> list[Figure]:
    source = cycle(states(1024))
    with (
        CheckpointManager(run.new_folder("steps-saves")) as manager,
        manager.execution("work", job_id="steps") as block,
    ):
        calls: dict[str, Callable[[], object]] = {
            "step": lambda: block.step("s", next, source),
            "save": lambda: manager.save(stores.JOB, stores.STEP, next(source)),
        }
        waited = race(calls, rounds=run.pick(80, 5), calls=5)
        computed = race(calls, rounds=run.pick(80, 5), calls=5, waits=False)
    target = Target(1.3, of="ratio")
    beside = "a durable save", waited["save"]
    name = "a step beside a save"
    return [
        waited["step"].figure(name, "µs", beside=beside, target=target),
        computed["step"].figure(
            f"{name}, processor time", "µs", beside=(beside[0], computed["save"])
        ),
    ]


def _speed(run: Run, contenders: dict[str, Contender]) -> list[Figure]:
    """Return steps per second and bytes per step, each beside every peer."""
    steps = run.pick(50, 10)
    before = {name: peer.size_bytes() for name, peer in contenders.items()}
    rounds = run.pick(8, 2)
    calls = {name: partial(peer.work, steps) for name, peer in contenders.items()}
    times = race(calls, rounds=rounds)
    total = steps * rounds * 2  # each turn begins with a call that does not count
    grown = {
        name: (peer.size_bytes() - before[name]) / total
        for name, peer in contenders.items()
    }
    found = []
    peers: list[str | None] = [name for name in contenders if name != OURS]
    for peer in peers or [None]:
        target = Target(2.5, "ratio", is_floor=True) if peer == DBOS else None
        mine, size = times[OURS], grown[OURS]
        other = None if peer is None else times[peer]
        found += [
            Figure(
                "workflows of durable steps",
                steps / mine.p50,
                "steps/s",
                peer=peer,
                peer_value=None if other is None else steps / other.p50,
                ratio=None if other is None else other.ratio_to(mine),
                target=target,
            ),
            Figure(
                "a durable step on the disk",
                size,
                "bytes",
                peer=peer,
                peer_value=None if peer is None else grown[peer],
                ratio=None if peer is None else size / grown[peer],
            ),
        ]
    return found


def _forks(run: Run, contenders: dict[str, Contender]) -> list[Figure]:
    steps = run.pick(100, 10)
    calls = {
        name: partial(peer.fork, peer.work(steps), steps)
        for name, peer in contenders.items()
        if isinstance(peer, Forking)
    }
    times = race(calls, rounds=run.pick(15, 2))
    return [_beside(f"fork after {steps - 1} steps", times)]


def _restarts(run: Run) -> Figure:
    steps, times = run.pick(100, 10), run.pick(5, 2)
    codes = {OURS: _RESTART} | ({DBOS: _RESTART_DBOS} if has_dbos() else {})
    took: dict[str, list[tuple[float, ...]]] = {name: [] for name in codes}
    for number in range(times):
        for name, code in codes.items():
            root = run.new_folder(f"restart {name} {number}")
            took[name].append((_restart(code, root, steps),))
    found = {name: Times(tuple(rounds)) for name, rounds in took.items()}
    return _beside(f"restart after {steps} steps", found)


def _restart(code: str, root: Path, steps: int) -> float:
    for turn in ("first", "again"):
        started_at = time.monotonic()
        with subprocess.Popen(
            [sys.executable, "-c", code, str(root), str(steps), turn],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            said_at = float(process.stdout.readline())
            process.kill()
    return said_at - started_at


def _beside(name: str, times: dict[str, Times]) -> Figure:
    beside = (DBOS, times[DBOS]) if DBOS in times else None
    return times[OURS].figure(name, "ms", beside=beside)


def _waiting(run: Run) -> list[Figure]:
    """Measure a worker in a process of its own."""
    count = run.pick(1_000, 20)
    root = run.new_folder("waiting")
    with CheckpointManager(root, durability="never", actor="bench") as manager:
        for number in range(count):
            job = f"job-{number:04d}"
            with manager.execution("work", job_id=job) as block:
                block.step("prepare", lambda: {"text": "x" * 1000})
                block.approval("publish", {"rows": 3})
    command = [sys.executable, "-m", "benchmarks.waiting_probe", str(root)]
    printed = subprocess.run(
        command, cwd=PROJECT, check=True, capture_output=True, text=True
    ).stdout
    memory, first, later, *decided = map(float, printed.split())
    among = f"{count:,} waiting: "
    running = Times(tuple((seconds,) for seconds in decided))
    return [
        Figure(f"{among}memory of the worker for each", memory / count, "bytes"),
        Figure(f"{among}first sweep, which opens them", first * 1e3, "ms"),
        Figure(f"{among}a sweep that looks at each", later * 1e3, "ms"),
        running.figure(f"{among}decision to running", "ms", target=Target(100)),
    ]
