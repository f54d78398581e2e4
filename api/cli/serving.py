"""The verbs that stay: serve, worker.  What they need is imported when they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from api.cli.answers import Answer, Table
from api.cli.exits import Failure, Problem
from api.cli.frame import Frame, verb
from api.cli.output import say
from api.cli.waiting import Stop, until_stopped
from journal.clock import stamp

if TYPE_CHECKING:
    from worker.service import Worker
    from worker.tasks import RunReport

_LOOK_SECONDS = 1.0


@verb("serve", example="milepost serve --host 127.0.0.1 --port 0")
@click.option("--host", metavar="ADDRESS", help="Listen here instead of on api.host.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Listen here instead of on api.port; 0 takes a free one.",
)
def serve_verb(frame: Frame, *, host: str | None, port: int | None) -> Answer:
    """Serve the HTTP API, with the worker beside it.

    Until Ctrl-C or SIGTERM.
    """
    with until_stopped() as stop:
        settings = frame.settings(
            MILEPOST_API_HOST=host,
            MILEPOST_API_PORT=None if port is None else str(port),
        )
        from api.cli.logs import log_to_stderr
        from api.cli.server import serve

        log_to_stderr()
        serve(settings, stop)
    return _stopped(stop)


@verb("worker", example="milepost worker --once")
@click.option("--once", is_flag=True, help="Apply retention once, then leave.")
def worker_verb(frame: Frame, *, once: bool) -> Answer:
    """Apply retention on schedule, without the HTTP API.

    Until Ctrl-C or SIGTERM.
    """
    with until_stopped() as stop:
        settings = frame.settings()
        from api.cli.logs import log_to_stderr
        from api.cli.stores import actor
        from worker.service import Worker
        from worker.settings import open_manager

        log_to_stderr()
        with open_manager(settings, actor=actor()) as manager:
            worker = Worker(manager, settings, config_path=settings.file)
            if once:
                return _run_once(worker, stop)
            greeting = f"working on {settings.store.root} (Ctrl-C ends it)"
            _work(worker, greeting)
    return _stopped(stop)


def _run_once(worker: Worker, stop: Stop) -> Answer:
    # The pass ends between two jobs, and its report says that it is not through.
    with stop.calling(worker.ask_to_stop):
        return _ran(worker.run_once())


def _work(worker: Worker, greeting: str) -> None:
    """Let the worker run until a signal raises `KeyboardInterrupt`.

    Raises:
        Failure: it ended by itself.
    """
    try:
        worker.start()
        say(greeting)
        while not worker.join(_LOOK_SECONDS):
            pass
    finally:
        worker.stop()
    raise Failure("internal", "the worker ended by itself; its log says why")


def _stopped(stop: Stop) -> Answer:
    by = stop.received.name if stop.received else None
    return Answer({"stopped_by": by}, None, ("stopped",), stop.problem)


def _ran(report: RunReport) -> Answer:
    problem = None
    if report.problems or not report.is_complete:
        problem = Problem("partly_done", report.line)
    data = {
        **report._asdict(),
        "started_at": stamp(report.started_at),
        "problems": [found._asdict() for found in report.problems],
    }
    rows = report.removed_by_job.items()
    # The worker has said the rest already, in its log.
    return Answer(data, Table(("job_id", "removed"), rows), (), problem)
