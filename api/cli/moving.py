"""The verbs that change where a job goes on from: restore, fork."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp
from typing import TYPE_CHECKING, BinaryIO

import click

from api.cli.answers import Answer, Document
from api.cli.frame import Frame, expect_seq_option, verb
from api.cli.selectors import Target, resolve
from api.cli.targets import target_argument

if TYPE_CHECKING:
    from collections.abc import Iterator


@verb(
    "restore",
    example="milepost restore etl-daily@latest -o state.json\n"
    "milepost restore etl-daily@first --dry-run",
)
@target_argument()
@click.option("-o", "--output", metavar="FILE", help="Write the state here, whole.")
@click.option("--dry-run", is_flag=True, help="Print the state, restore nothing.")
@expect_seq_option
def restore_verb(
    frame: Frame,
    target: Target,
    output: str | None,
    expect_seq: int | None,
    *,
    dry_run: bool,
) -> Answer:
    """Make a checkpoint current and print its state.

    The latest one, without SELECTOR.  The job's next save becomes a child of it.
    Nothing is removed: newer checkpoints stay.  Nothing is run either.
    """
    with frame.open_to_write() as manager, _replacing(output) as file:
        info = resolve(manager, target)
        if dry_run:
            state = manager.get(info.job_id, info.checkpoint_id).state
        else:
            state = manager.restore(
                info.job_id, info.checkpoint_id, expected_seq=expect_seq
            )
        if file is not None:
            import orjson

            file.write(orjson.dumps(state) + b"\n")
    done = "would restore" if dry_run else "restored"
    note = f"{done} {info.checkpoint_id} (seq {info.seq}) of job {info.job_id}"
    data = {
        "job_id": info.job_id,
        "checkpoint_id": info.checkpoint_id,
        "job_status": "unchanged" if dry_run else "restored",
        "state": state,
    }
    if file is not None:
        return Answer(data | {"output": output}, None, (f"{note} to {output}",))
    return Answer(data, Document(state, is_exact=True), (note,))


@contextmanager
def _replacing(path: str | None) -> Iterator[BinaryIO | None]:
    """Open a temporary file that takes the place of `path` at the end, or not at all.

    Opened before the work starts: a folder that can't be written must not be found
    out when the journal already says "restored".  `None` and `-` mean stdout.
    """
    if path is None or path == "-":
        yield None
        return
    folder = Path(path).parent
    handle, temporary = mkstemp(prefix=f".{Path(path).name}.", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    # A new name lives in its folder: unsynced, a crash may bring the old file back.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@verb("fork", example="milepost fork etl-daily@first etl-daily-retry")
@target_argument()
@click.argument("new_job", metavar="NEW_JOB")
def fork_verb(frame: Frame, target: Target, new_job: str) -> Answer:
    """Begin a new job with a checkpoint of another.

    The latest one, without SELECTOR.  Prints the id of NEW_JOB's first checkpoint.
    """
    with frame.open_to_write() as manager:
        info = resolve(manager, target)
        checkpoint_id = manager.fork(info.job_id, info.checkpoint_id, new_job)
    note = f"job {new_job} begins with {info.checkpoint_id} of job {info.job_id}"
    data = {
        "job_id": new_job,
        "checkpoint_id": checkpoint_id,
        "forked_from": {"job_id": info.job_id, "checkpoint_id": info.checkpoint_id},
    }
    return Answer(data, checkpoint_id, (note,))
