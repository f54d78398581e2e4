"""`milepost save`: save a state as a new checkpoint."""

from __future__ import annotations

from typing import Any

import click

from milepost.api.cli.context import Frame, command, expect_seq_option
from milepost.api.cli.exits import Failure
from milepost.api.cli.inputs import read_file, state_in, unique
from milepost.api.cli.results import Answer
from milepost.api.cli.targets import job_argument
from milepost.api.fields.checkpoints import checkpoint_fields


@command(
    "save",
    example="milepost save etl-daily state.json --step load --tag prod\n"
    """echo '{"rows": 120}' | milepost save etl-daily --step load --meta source=s3\n"""
    "milepost save train state.json --step epoch-3 --meta loss:=0.25",
)
@job_argument
@click.argument("file", default="-", metavar="[FILE|-]")
@click.option("--step", required=True, metavar="NAME", help="The name of the step.")
@click.option(
    "--meta",
    multiple=True,
    metavar="KEY=TEXT|KEY:=JSON",
    help="Metadata: text, or with := a number or other JSON; repeatable.",
)
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="A tag; repeatable.")
@click.option("--pin", is_flag=True, help="Protect it from policies and deletion.")
@click.option("--failed", is_flag=True, help="The step failed.")
@click.option("--workflow", metavar="NAME", help="The workflow's name.")
@click.option("--workflow-version", metavar="VERSION", help="The workflow's version.")
@expect_seq_option
@click.option(
    "--idempotency-key", metavar="KEY", help="A repeat with the same key saves nothing."
)
def save_command(
    frame: Frame,
    *,
    job: str,
    file: str,
    step: str,
    meta: tuple[str, ...],
    tags: tuple[str, ...],
    workflow: str | None,
    workflow_version: str | None,
    expect_seq: int | None,
    idempotency_key: str | None,
    pin: bool,
    failed: bool,
) -> Answer:
    """Save a state as a new checkpoint.

    The state is a JSON object in FILE or on stdin.  Prints the checkpoint's id.
    """
    metadata = _metadata(meta)
    state = state_in(read_file(file), "stdin" if file == "-" else file)
    with frame.open_to_write(may_create=True) as manager:
        checkpoint_id = manager.save(
            job,
            step,
            state,
            metadata=metadata,
            tags=tags,
            pinned=pin,
            failed=failed,
            workflow_name=workflow,
            workflow_version=workflow_version,
            idempotency_key=idempotency_key,
            expected_seq=expect_seq,
        )
        info = manager.get(job, checkpoint_id).info
    note = f"saved {info.stored_bytes} bytes as seq {info.seq} of job {job}"
    return Answer(checkpoint_fields(info), checkpoint_id, (note,))


def _metadata(pairs: tuple[str, ...]) -> dict[str, Any] | None:
    metadata: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        is_json = key.endswith(":")
        key = key[:-1] if is_json else key
        if not key or not equals:
            hint = "KEY=TEXT, or KEY:=JSON for a number: loss:=0.25"
            raise Failure("usage", f"--meta {pair!r:.100} is not KEY=VALUE", hint)
        if key in metadata:
            raise Failure("usage", f"--meta {key} was given twice")
        metadata[key] = _json_value(key, text) if is_json else text
    return metadata or None


def _json_value(key: str, text: str) -> Any:
    import json

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as exc:
        msg = f"--meta {key}:={text:.60} is not JSON: {exc}"
        raise Failure("usage", msg, f"{key}={text:.60} saves it as text") from exc
