"""`milepost signal`: send a named message to an execution."""

from __future__ import annotations

import click

from milepost.api.cli.context import Frame, command
from milepost.api.cli.inputs import object_option
from milepost.api.cli.results import Answer
from milepost.api.cli.workflows import status_of


@command(
    "signal",
    example="""milepost signal exec_etl-daily paid --payload '{"by": "card"}'""",
)
@click.argument("execution_id", metavar="ID")
@click.argument("name")
@click.option("--payload", metavar="JSON|@FILE|-", help="A JSON object.")
@click.option(
    "--idempotency-key", metavar="KEY", help="A repeat with the same key sends nothing."
)
def signal_command(
    frame: Frame,
    execution_id: str,
    name: str,
    payload: str | None,
    idempotency_key: str | None,
) -> Answer:
    """Send the signal NAME to an unfinished execution.

    It is kept until the execution consumes it.
    """
    given = object_option(payload, "--payload")
    with frame.open_to_write() as manager:
        found = status_of(manager, execution_id)["execution_id"]
        seq = manager.signal(found, name, given, idempotency_key=idempotency_key)
    data = {"execution_id": found, "name": name, "seq": seq}
    return Answer(data, None, (f"sent {name} to execution {found} as seq {seq}",))
