"""`milepost run`: start an execution of a workflow, or run a workflow function."""

from __future__ import annotations

import click

from milepost.api.cli.context import Frame, command
from milepost.api.cli.exits import Failure
from milepost.api.cli.inputs import object_option
from milepost.api.cli.output import say
from milepost.api.cli.results import Answer
from milepost.api.cli.targets import complete_job
from milepost.api.cli.workflows import status_of


@command(
    "run",
    example="""milepost run ingest --job etl-daily --input '{"day": "2026-11-20"}'\n"""
    "milepost run ingest --job etl-daily --input @day.json --version 2\n"
    "milepost run flows:ingest --job-id etl-daily",
)
@click.argument("workflow", metavar="WORKFLOW|MODULE:NAME")
@click.option(
    *("--job", "--job-id", "job"),
    metavar="JOB",
    required=True,
    shell_complete=complete_job,
    help="Its job.",
)
@click.option(
    *("--input", "given"),
    metavar="JSON|@FILE|-",
    help="The input of a new execution, a JSON object.",
)
@click.option("--version", metavar="VERSION", help="The version of WORKFLOW.")
@click.option("--wait", is_flag=True, help="Follow WORKFLOW until it ends or waits.")
@click.option(
    "--idempotency-key",
    metavar="KEY",
    help="A repeat of WORKFLOW with the same key starts nothing.",
)
@click.option(
    "--resume", is_flag=True, help="Continue MODULE:NAME; start no execution."
)
def run_command(
    frame: Frame,
    *,
    workflow: str,
    job: str,
    given: str | None,
    version: str | None,
    idempotency_key: str | None,
    wait: bool,
    resume: bool,
) -> Answer:
    """Start an execution of WORKFLOW, or run MODULE:NAME here.  The colon decides.

    WORKFLOW is a name.  Its execution is started as pending, and its id is printed.
    The worker starts its job, if [[workflows]] has auto_resume for it; else this
    command does, through the [executor] of config.toml.  Without one the execution
    waits for a process that takes its lease.  While another process runs an execution
    of JOB, nothing is started (exit 5).

    With --wait: exit 0 if it completed, 9 if it waits for a person, 1 if it failed,
    was cancelled, or lost its process.  Ctrl-C ends only the waiting.

    MODULE:NAME is a workflow function (@manager.workflow).  It runs in this process,
    as far as it goes: it continues its unfinished execution in JOB, or starts one.
    Exit 0 if it completed or waits, 1 if it failed, 5 if another process runs it.
    Ctrl-C and SIGTERM interrupt the execution (exit 130); the next run continues it.
    """
    if ":" in workflow:
        from milepost.api.cli.foreground import run_function

        if wait or version is not None or idempotency_key is not None:
            msg = "--wait, --version and --idempotency-key need a name without a colon"
            raise Failure("usage", msg, "a workflow function runs in this process")
        data = object_option(given, "--input")
        return run_function(frame, workflow, job, data, is_resumed=resume)
    if resume:
        raise Failure("usage", "--resume needs a workflow function, MODULE:NAME")
    from milepost.api.cli.following import follow
    from milepost.api.cli.starting import hand_over

    data = object_option(given, "--input")
    manager, settings = frame.open_with_settings(may_create=True)
    with manager:
        started = manager.start_workflow_execution(
            job,
            workflow,
            data,
            workflow_version=version,
            pending=True,
            idempotency_key=idempotency_key,
        )
        name = started.execution_id
        status = status_of(manager, name)
        # The execution may have begun: the request may be a repeat.
        handed = None
        if status["status"] == "pending":
            handed = hand_over(manager, settings, status)
        notes = [f"execution {name} of job {job} is {status['status']}"]
        notes += [handed.note] if handed else []
        if not wait or (handed and handed.problem):
            problem = handed.problem if handed else None
            return Answer(status, name, tuple(notes), problem)
        for note in notes:
            say(note)
        status, problem = follow(manager, settings, name, handed)
    return Answer(status, name, (), problem)
