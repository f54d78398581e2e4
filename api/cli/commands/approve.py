"""`milepost approve`: approve what an execution waits for."""

from __future__ import annotations

import click

from milepost.api.cli.context import Frame, command
from milepost.api.cli.deciding import decided
from milepost.api.cli.results import Answer


@command(
    "approve",
    example='milepost approve "$ID" --digest "$DIGEST"\n'
    """milepost approve "$ID" --digest "$DIGEST" --comment 'as agreed'""",
)
@click.argument("approval_id", metavar="ID")
@click.option(
    "--digest", metavar="DIGEST", help="The digest of the subject; nothing is asked."
)
@click.option("--comment", metavar="TEXT", help="A comment, which is journaled.")
def approve_command(
    frame: Frame, approval_id: str, digest: str | None, comment: str | None
) -> Answer:
    """Approve what an execution waits for.

    Shows the subject and asks.  Without a terminal it prints the subject and decides
    nothing (exit 6); --digest, with the digest of the subject that was read, decides.
    It is refused if the subject is another one (exit 5), or if you may not decide it
    (exit 6).  With the last required approval the execution goes on.
    """
    return decided(frame, approval_id, "approve", digest=digest, comment=comment)
