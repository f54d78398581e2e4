"""`milepost reject`: reject what an execution waits for."""

from __future__ import annotations

import click

from milepost.api.cli.context import Frame, command
from milepost.api.cli.deciding import decided
from milepost.api.cli.results import Answer


@command(
    "reject",
    example="""milepost reject "$ID" --reason 'wrong bucket' --digest "$DIGEST\"""",
)
@click.argument("approval_id", metavar="ID")
@click.option(
    "--reason", metavar="TEXT", required=True, help="The reason, which is journaled."
)
@click.option(
    "--digest", metavar="DIGEST", help="The digest of the subject; nothing is asked."
)
def reject_command(
    frame: Frame, approval_id: str, reason: str, digest: str | None
) -> Answer:
    """Reject what an execution waits for.

    Shows the subject and asks, as `milepost approve` does.  One rejection is enough.
    The execution stays paused, fails or goes on without the step, as its request says.
    """
    return decided(frame, approval_id, "reject", digest=digest, comment=reason)
