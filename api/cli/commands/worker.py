"""`milepost worker`: run background work and show its status (task, status)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from milepost.api.cli.context import Frame, command, example_text, with_shared_options
from milepost.api.cli.exits import Failure, Problem
from milepost.api.cli.output import say
from milepost.api.cli.results import Answer, Table
from milepost.api.cli.waiting import Stop, stopped, until_stopped
from milepost.journal.clock import stamp

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from milepost.journal.errors import MilepostError
    from milepost.worker.config.settings import Settings
    from milepost.worker.schedule.report import TaskReport
    from milepost.worker.service import Worker
    from milepost.worker.status import TaskStatus

_LOOK_SECONDS = 1.0
_RUN_COLUMNS = ("task", "outcome", "seconds", "did")
_STATUS_COLUMNS = (
    *("task", "schedule", "next_run"),
    *("last_run", "seconds", "outcome", "did"),
)


@with_shared_options
@click.group(
    "worker",
    invoke_without_command=True,
    epilog=example_text("milepost worker --once\nmilepost worker status"),
)
@click.option("--once", is_flag=True, help="Run each task once, then exit.")
@click.pass_context
def worker_command(context: click.Context, *, once: bool) -> Answer | None:
    """Run the background work on schedule, without the HTTP API.

    Runs cleanup, compact, purge and verify until Ctrl-C or SIGTERM.
    """
    frame: Frame = context.obj
    if context.invoked_subcommand is not None:
        if once:
            raise Failure("usage", "--once takes no subcommand", "worker task TASK")
        return None
    if once:
        return _run(frame, (), trust_clock=False)
    with until_stopped() as stop, _worker(frame) as (worker, settings):
        _stay(worker, f"working on {settings.store.root} (Ctrl-C ends it)")
    return stopped(stop)


@command("task", example="milepost worker task\nmilepost worker task verify")
@click.argument("tasks", nargs=-1, metavar="[TASK]...")
@click.option(
    "--trust-clock",
    is_flag=True,
    help="Accept the current system time after a detected clock jump.",
)
def task_command(frame: Frame, tasks: tuple[str, ...], *, trust_clock: bool) -> Answer:
    """Run each TASK once in this process, or all of them.

    Safe to run while another worker is active.  Exit 3 if a job was left out.
    """
    return _run(frame, tasks, trust_clock=trust_clock)


@command("status", example="milepost worker status --json")
def status_command(frame: Frame) -> Answer:
    """Show the active worker and each task's last run.

    Reads the store's records; needs no worker or server.
    """
    settings = frame.settings()
    from milepost.api.cli.stores import existing
    from milepost.api.fields.worker import stored_fields
    from milepost.journal.clock import utc_now
    from milepost.journal.storage.files.storage import FileStorage
    from milepost.worker.status import stored_status

    storage = FileStorage(existing(settings.store.root))
    status = stored_status(storage, settings.worker, utc_now(), settings.schedule)
    pid = status.leader_pid
    said = [f"process {pid} is the active worker" if pid else "no worker is running"]
    if status.clock_jump is not None:
        from milepost.journal.store.clock_guard import why_waiting

        said.append(why_waiting(status.clock_jump))
    if status.problem is not None:
        said.append(status.problem)
    rows = map(_status_row, status.tasks)
    return Answer(stored_fields(status), Table(_STATUS_COLUMNS, rows), tuple(said))


for _command in (task_command, status_command):
    worker_command.add_command(_command)


def _worker(frame: Frame) -> AbstractContextManager[tuple[Worker, Settings]]:
    from contextlib import contextmanager

    settings = frame.settings()
    from milepost.api.cli.logs import log_to_stderr
    from milepost.api.cli.stores import actor
    from milepost.worker.config.settings import open_executor, open_manager
    from milepost.worker.executors import STOP_SECONDS, jobs_stopped
    from milepost.worker.service import Worker

    log_to_stderr()

    @contextmanager
    def opened() -> Iterator[tuple[Worker, Settings]]:
        executor = open_executor(settings)
        with (
            open_manager(settings, actor=actor()) as manager,
            jobs_stopped(executor, STOP_SECONDS),
        ):
            worker = Worker(
                manager, settings, executor=executor, config_path=settings.file
            )
            yield worker, settings

    return opened()


def _stay(worker: Worker, greeting: str) -> None:
    """Run the worker until a signal raises `KeyboardInterrupt`.

    Raises:
        Failure: the worker stopped by itself.
    """
    try:
        worker.start()
        say(greeting)
        while not worker.join(_LOOK_SECONDS):
            pass
    finally:
        worker.stop()
    raise Failure("internal", "the worker stopped by itself; its log has the reason")


def _run(frame: Frame, names: Sequence[str], *, trust_clock: bool) -> Answer:
    from milepost.worker.tasks import TASK_NAMES

    for name in names:
        if name not in TASK_NAMES:
            hint = f"tasks are {', '.join(TASK_NAMES)}"
            raise Failure("usage", f"there is no task {name!r}", hint)
    with until_stopped() as stop, _worker(frame) as (worker, _):
        if trust_clock:
            worker.trust_clock()
        # A run stops between two jobs, and its report says that it is incomplete.
        with stop.calling(worker.ask_to_stop):
            return _ran(worker, names or TASK_NAMES, stop)
    return stopped(stop)


def _ran(worker: Worker, names: Sequence[str], stop: Stop) -> Answer:
    """Run tasks one after another; a failed task does not stop the others.

    Raises:
        MilepostError: the only task failed.
    """
    from milepost.api.cli.progress import Progress
    from milepost.api.fields.checkpoints import problem_fields
    from milepost.api.fields.worker import report_fields
    from milepost.journal.errors import MilepostError

    reports: list[TaskReport] = []
    failed: list[tuple[str, MilepostError]] = []
    for name in names:
        try:
            with Progress() as progress:
                reports.append(worker.run_task(name, progress=progress))
        except MilepostError as exc:
            if len(names) == 1:
                raise
            failed.append((name, exc))
        if stop.received is not None:
            break
    data = {
        "runs": [report_fields(report) for report in reports],
        "failed": [{"task": name, **problem_fields(exc)} for name, exc in failed],
    }
    # The worker has logged the rest.
    return Answer(
        data,
        Table(_RUN_COLUMNS, map(_run_row, reports)),
        (),
        _left(reports, failed, stop),
    )


def _left(
    reports: list[TaskReport], failed: list[tuple[str, MilepostError]], stop: Stop
) -> Problem | None:
    """Return the problem of incomplete runs, or None."""
    if stop.problem is not None:
        return stop.problem
    if failed:
        name, exc = failed[0]
        return Problem(exc.code, f"{name}: {exc}", exc.hint)
    for report in reports:
        if report.outcome != "ok":
            text = f"{report.task} {report.outcome}: {report.line}"
            return Problem("partly_done", text)
    return None


def _run_row(report: TaskReport) -> tuple[object, ...]:
    took = f"{report.duration_seconds:.1f}"
    return report.task, report.outcome, took, report.line


def _status_row(task: TaskStatus) -> tuple[object, ...]:
    last = task.last
    last_fields: Any = (None, None, None, None)
    if last is not None:
        took = f"{last.duration_seconds:.1f}"
        last_fields = (stamp(last.at), took, last.outcome, last.line or last.error)
    due = task.next_run and stamp(task.next_run)
    return task.name, task.schedule, due, *last_fields
