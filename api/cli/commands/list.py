"""`milepost list`: list checkpoints.

Scripts call `list` most, so it imports little: it must start within 100 ms of a bare
Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from milepost.api.cli.context import Frame, command, fail_if_empty_option
from milepost.api.cli.exits import Failure, Problem
from milepost.api.cli.results import Answer, Table, or_nothing
from milepost.api.cli.targets import Target, complete_job, require_job
from milepost.api.fields.checkpoints import (
    checkpoint_fields,
    problem_fields,
)
from milepost.journal.errors import MilepostError
from milepost.journal.wording import counted

if TYPE_CHECKING:
    from milepost.journal.manager import CheckpointManager
    from milepost.journal.models import CheckpointInfo


class _Listed(NamedTuple):
    info: CheckpointInfo
    is_current: bool

    def fields(self) -> dict[str, Any]:
        return {**checkpoint_fields(self.info), "is_current": self.is_current}

    def row(self) -> tuple[object, ...]:
        info = self.info
        return (
            info.seq,
            info.checkpoint_id,
            info.step_name,
            info.timestamp,
            info.stored_bytes,
            ",".join(info.tags),
            info.pinned,
            self.is_current,
            info.held is not None,
            info.failed,
        )


_COLUMNS = (
    "seq",
    "checkpoint_id",
    "step_name",
    "timestamp",
    "stored_bytes",
    "tags",
    "pinned",
    "current",
    "held",
    "failed",
)
_QUIET = frozenset({"tags", "pinned", "held", "failed"})
_SPARE = frozenset({"stored_bytes"})


@command("list", example="milepost list etl-daily")
@click.argument("job", required=False, shell_complete=complete_job)
@click.option("--match", metavar="GLOB", help="Every job whose id matches.")
@fail_if_empty_option
def list_command(
    frame: Frame, job: str | None, match: str | None, *, fail_if_empty: bool
) -> Answer:
    """List checkpoints.

    Lists those of JOB, oldest first, or those of every job.
    """
    if job is not None and match is not None:
        raise Failure("usage", "JOB and --match exclude each other")
    with frame.open() as manager:
        if job is None:
            answer, is_empty = _list_every_job(manager, match)
        else:
            answer, is_empty = _list_job(manager, job)
    nothing = "no checkpoints" if job is None else f"job {job!r} has no checkpoints"
    return or_nothing(
        answer, if_empty=nothing if is_empty else None, is_failure=fail_if_empty
    )


def _list_job(manager: CheckpointManager, job: str) -> tuple[Answer, bool]:
    require_job(manager, Target(job, None))
    listed = _listed(manager, job)
    shown = [checkpoint.fields() for checkpoint in listed]
    answer = Answer(
        {"job_id": job, "checkpoints": shown, "total": len(shown)},
        Table(_COLUMNS, (checkpoint.row() for checkpoint in listed), _SPARE, _QUIET),
        _unshown(listed),
    )
    return answer, not listed


def _unshown(listed: list[_Listed]) -> tuple[str, ...]:
    """Return a note on checkpoints whose metadata can't be shown."""
    problems = [each.info.metadata_problem for each in listed]
    found = [problem for problem in problems if problem is not None]
    if not found:
        return ()
    return (
        f"metadata of {counted(len(found), 'checkpoint')} is not shown: {found[0]}",
    )


def _list_every_job(
    manager: CheckpointManager, match: str | None
) -> tuple[Answer, bool]:
    listed: list[_Listed] = []
    damage: list[MilepostError] = []
    for job in manager.jobs(match=match):
        try:
            listed += _listed(manager, job.job_id)
        except MilepostError as exc:
            # I10: one damaged job must not hide the others.
            damage.append(exc)
    shown = [checkpoint.fields() for checkpoint in listed]
    answer = Answer(
        {
            "checkpoints": shown,
            "total": len(shown),
            "unreadable": [problem_fields(exc, hint=True) for exc in damage],
        },
        Table(
            ("job_id", *_COLUMNS),
            ((checkpoint.info.job_id, *checkpoint.row()) for checkpoint in listed),
            _SPARE,
            _QUIET,
        ),
        (*map(str, damage), *_unshown(listed)),
        Problem("partly_done", f"jobs that can't be read: {len(damage)}")
        if damage
        else None,
    )
    return answer, not listed and not damage


def _listed(manager: CheckpointManager, job_id: str) -> list[_Listed]:
    current = manager.current(job_id)
    current_id = current and current.checkpoint_id
    return [
        _Listed(info, info.checkpoint_id == current_id) for info in manager.list(job_id)
    ]
