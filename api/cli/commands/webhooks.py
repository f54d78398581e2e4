"""`milepost webhooks`: list the recent deliveries of webhooks."""

from __future__ import annotations

import click

from milepost.api.cli.context import Frame, command, fail_if_empty_option
from milepost.api.cli.results import Answer, Table, or_nothing

_COLUMNS = (
    *("at", "webhook", "outcome", "type", "job_id", "seq"),
    *("attempts", "status", "error", "id"),
)
_QUIET = frozenset({"error"})
_SPARE = frozenset({"id", "seq"})


@command(
    "webhooks", example="milepost webhooks --name ops\nmilepost webhooks --limit 20"
)
@click.option("--name", metavar="NAME", help="Only those of this webhook.")
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Show at most the N newest."
)
@fail_if_empty_option
def webhooks_command(
    frame: Frame, name: str | None, limit: int | None, *, fail_if_empty: bool
) -> Answer:
    """List the recent deliveries of webhooks, newest first.

    OUTCOME is delivered, retrying, failed or dropped.  The store keeps the last 100 of
    each webhook.
    """
    with frame.open() as manager:
        from milepost.worker.webhooks.outbox import deliveries

        found = deliveries(manager.storage, name)[:limit]
    rows = (tuple(getattr(each, column) for column in _COLUMNS) for each in found)
    data = {"deliveries": [each._asdict() for each in found], "total": len(found)}
    answer = Answer(data, Table(_COLUMNS, rows, _SPARE, _QUIET))
    return or_nothing(
        answer, if_empty=None if found else "no deliveries", is_failure=fail_if_empty
    )
