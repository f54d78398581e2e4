"""`milepost serve`: serve the HTTP API and run the worker.  Imports on use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from milepost.api.cli.context import Frame, command
from milepost.api.cli.orphans import leave_orphans_to_parent
from milepost.api.cli.waiting import stopped, until_stopped

if TYPE_CHECKING:
    from milepost.api.cli.results import Answer


@command("serve", example="milepost serve --host 127.0.0.1 --port 0")
@click.option(
    "--host", metavar="ADDRESS", help="Listen on this address instead of api.host."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Listen on this port instead of api.port; 0 chooses a free one.",
)
def serve_command(frame: Frame, *, host: str | None, port: int | None) -> Answer:
    """Serve the HTTP API and run the worker.

    Runs until Ctrl-C or SIGTERM.
    """
    leave_orphans_to_parent()
    with until_stopped() as stop:
        settings = frame.settings(
            MILEPOST_API_HOST=host,
            MILEPOST_API_PORT=None if port is None else str(port),
        )
        from milepost.api.cli.logs import log_to_stderr
        from milepost.api.cli.server import serve

        lines = log_to_stderr()
        serve(settings, stop, greet=lines.say)
    return stopped(stop)
