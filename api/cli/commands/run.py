"""`milepost run`: start an execution of a workflow."""

from __future__ import annotations

import click

from milepost.api.cli.context import Frame, command
from milepost.api.cli.inputs import object_option
from milepost.api.cli.output import say
from milepost.api.cli.results import Answer
from milepost.api.cli.targets import complete_job
from milepost.api.cli.workflows import status_of


@command(
    "run",
    example="""milepost run ingest --job etl-daily --input '{"day": "2026-11-20"}'\n"""
    "milepost run ingest --job etl-daily --input @day.json --version 2",
)
@click.argument("workflow")
@click.option(
    "--job", metavar="JOB", required=True, shell_complete=complete_job, help="Its job."
)
@click.option(
    "--input", "given", metavar="JSON|@FILE|-", help="The input, a JSON object."
)
@click.option("--version", metavar="VERSION", help="The version of the workflow.")
@click.option("--wait", is_flag=True, help="Follow it until it ends or waits.")
@click.option(
    "--idempotency-key",
    metavar="KEY",
    help="A repeat with the same key starts nothing.",
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
) -> Answer:
    """Start an execution of a workflow, and print its id.

    The worker starts its job, if [[workflows]] has auto_resume for it; else this
    command does, through the [executor] of config.toml.  Without one the execution
    waits for a process that takes its lease.  While another process runs an execution
    of JOB, nothing is started (exit 5).

    With --wait: exit 0 if it completed, 9 if it waits for a person, 1 if it failed,
    was cancelled, or lost its process.  Ctrl-C ends only the waiting.
    """
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
