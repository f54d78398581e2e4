"""`milepost schedules`: list the schedules of workflows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from milepost.api.cli.context import Frame, command, fail_if_empty_option
from milepost.api.cli.results import Answer, Table, or_nothing

if TYPE_CHECKING:
    from milepost.journal.manager import CheckpointManager

_COLUMNS = (
    *("schedule", "workflow", "cron", "next_run", "last_slot", "execution_id"),
    *("status", "started", "late", "skipped"),
)
_SPARE = frozenset({"workflow", "started"})


@command("schedules", example="milepost schedules\nmilepost schedules --json")
@fail_if_empty_option
def schedules_command(frame: Frame, *, fail_if_empty: bool) -> Answer:
    """List the schedules of config.toml, and what their last slot came to.

    Late slots are due and not started yet: no worker runs, or earlier executions of
    the schedule are unfinished.  Skipped slots were late, and catch_up did not want
    them.
    """
    from milepost.api.fields.worker import schedule_fields
    from milepost.journal.clock import utc_now
    from milepost.worker.status import stored_schedules

    settings = frame.settings()
    with frame.open() as manager:
        found = [
            schedule_fields(each)
            for each in stored_schedules(
                manager.storage, settings.schedule, settings.worker.timezone, utc_now()
            )
        ]
        for each in found:
            each["status"] = _status(manager, each["last"])
    rows = (
        (
            *(each["name"], each["workflow"], each["cron"], each["next_run"]),
            *(_of(each["last"], "slot"), _of(each["last"], "execution_id")),
            *(each["status"], each["started"], each["late"], each["skipped"]),
        )
        for each in found
    )
    answer = Answer({"schedules": found}, Table(_COLUMNS, rows, _SPARE))
    return or_nothing(
        answer, if_empty=None if found else "no schedules", is_failure=fail_if_empty
    )


def _of(last: dict[str, Any] | None, key: str) -> str | None:
    return None if last is None else last[key]


def _status(manager: CheckpointManager, last: dict[str, Any] | None) -> str | None:
    """Return the status of an execution, None if there is none, or it was removed."""
    if last is None:
        return None
    found = manager.get_execution_status(last["execution_id"])
    return None if found is None else found["status"]
