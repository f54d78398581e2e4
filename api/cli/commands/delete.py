"""The verbs that let checkpoints go, and those that protect them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from milepost.api.cli.context import Frame, expect_seq_option, verb
from milepost.api.cli.exits import Failure
from milepost.api.cli.results import Answer
from milepost.api.cli.selectors import AtSeq, WithId, parse_selector, resolve
from milepost.api.cli.targets import Target, require_job, target_argument

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.manager import CheckpointManager
    from milepost.journal.models import CheckpointInfo

_reason_option: Callable[..., Callable[..., Answer]] = click.option(
    "--reason", metavar="TEXT", help="Why; the journal keeps it."
)


@verb("delete", example="milepost delete etl-daily@first --reason 'wrong input'")
@target_argument(needs_selector=True)
@_reason_option
@click.option("--force", is_flag=True, help="Even if it is pinned.")
@click.option("--purge", is_flag=True, help="Erase its state at once; no undelete.")
@click.option("--dry-run", is_flag=True, help="Say what would go, delete nothing.")
@expect_seq_option
def delete_verb(
    frame: Frame,
    target: Target,
    reason: str | None,
    expect_seq: int | None,
    *,
    force: bool,
    purge: bool,
    dry_run: bool,
) -> Answer:
    """Delete one checkpoint.

    `undelete` brings it back until its trash period ends.  The journal
    keeps that it existed, who deleted it, and why.  One that is held stays.
    """
    with frame.open_to_write() as manager:
        info = resolve(manager, target)
        if dry_run:
            _refuse_protected(info, force=force)
        if not dry_run and not manager.delete(
            info.job_id,
            info.checkpoint_id,
            reason=reason,
            force=force,
            purge=purge,
            expected_seq=expect_seq,
        ):
            # Somebody deleted it between our look and our deed.
            raise Failure("not_found", f"checkpoint {info.checkpoint_id!r} is gone")
    data = {
        "job_id": info.job_id,
        "checkpoint_id": info.checkpoint_id,
        "deleted": not dry_run,
        "purged": purge and not dry_run,
    }
    word = "purge" if purge else "delete"
    done = f"would {word}" if dry_run else f"{word}d"
    return Answer(data, None, (f"{done} {info.checkpoint_id} of job {info.job_id}",))


def _refuse_protected(info: CheckpointInfo, *, force: bool) -> None:
    """Refuse what `delete` would refuse.

    Raises:
        OnHold: held, by whom, since when and why.
        Failure: protected.
    """
    from milepost.journal.errors import OnHold

    if (hold := info.held) is not None:
        raise OnHold(
            info.checkpoint_id,
            held_by=hold.actor,
            held_since=hold.since,
            reason=hold.reason,
        )
    if info.pinned and not force:
        msg = f"{info.checkpoint_id} of job {info.job_id!r} is pinned"
        raise Failure("protected", msg, "--force would delete it all the same")


@verb("undelete", example="milepost undelete etl-daily@3")
@target_argument(needs_selector=True)
def undelete_verb(frame: Frame, target: Target) -> Answer:
    """Bring a deleted checkpoint back.  SELECTOR is its id or its seq."""
    with frame.open_to_write() as manager:
        require_job(manager, target)
        checkpoint_id = _deleted_id(manager, target)
        is_back = manager.undelete(target.job_id, checkpoint_id)
        if not is_back:
            # Either it is there, and all is well, or it never was, and `get` says so.
            manager.get(target.job_id, checkpoint_id)
    data = {
        "job_id": target.job_id,
        "checkpoint_id": checkpoint_id,
        "changed": is_back,
    }
    done = "is back in" if is_back else "was not deleted from"
    return Answer(data, None, (f"{checkpoint_id} {done} job {target.job_id}",))


def _deleted_id(manager: CheckpointManager, target: Target) -> str:
    """Return the id of a checkpoint that no list shows any more.

    Raises:
        Failure: usage or not_found.
    """
    assert target.selector is not None
    match parse_selector(target.selector):
        case WithId(checkpoint_id):
            return checkpoint_id
        case AtSeq(seq):
            events = manager.history(
                target.job_id, after_seq=seq - 1, types={"checkpoint.saved"}, limit=1
            )
            for event in events:
                if event["type"] == "checkpoint.saved" and event["seq"] == seq:
                    return event["data"]["checkpoint_id"]
            msg = f"event {seq} of job {target.job_id!r} saved no checkpoint"
            raise Failure("not_found", msg, "`milepost log` shows what was deleted")
        case _:
            msg = f"@{target.selector} picks among those that are still there"
            raise Failure("usage", msg, "undelete takes an id or a seq")


@verb("pin", example="milepost pin etl-daily@latest --reason 'release 1.4'")
@target_argument(needs_selector=True)
@_reason_option
def pin_verb(frame: Frame, target: Target, reason: str | None) -> Answer:
    """Protect a checkpoint.

    No policy removes it, and deleting it needs --force.
    """
    with frame.open_to_write() as manager:
        info = resolve(manager, target)
        has_changed = manager.pin(info.job_id, info.checkpoint_id, reason=reason)
    return _pinned(info.job_id, info.checkpoint_id, "pinned", has_changed=has_changed)


@verb("unpin", example="milepost unpin etl-daily@latest")
@target_argument(needs_selector=True)
@_reason_option
def unpin_verb(frame: Frame, target: Target, reason: str | None) -> Answer:
    """Take a checkpoint's protection away."""
    with frame.open_to_write() as manager:
        info = resolve(manager, target)
        has_changed = manager.unpin(info.job_id, info.checkpoint_id, reason=reason)
    return _pinned(info.job_id, info.checkpoint_id, "unpinned", has_changed=has_changed)


def _pinned(job_id: str, checkpoint_id: str, word: str, *, has_changed: bool) -> Answer:
    data = {
        "job_id": job_id,
        "checkpoint_id": checkpoint_id,
        "pinned": word == "pinned",
        "changed": has_changed,
    }
    return Answer(data, None, (_said(word, data),))


@verb("hold", example="milepost hold etl-daily@latest --reason 'case 4711'")
@target_argument(needs_selector=True)
@_reason_option
def hold_verb(frame: Frame, target: Target, reason: str | None) -> Answer:
    """Keep a checkpoint from being removed.

    No policy removes it, and nobody can delete it, not even with --force,
    until it is released.  The journal keeps who holds it, and why.
    """
    with frame.open_to_write() as manager:
        info = resolve(manager, target)
        has_changed = manager.hold(info.job_id, info.checkpoint_id, reason=reason)
    return _held(info.job_id, info.checkpoint_id, "held", has_changed=has_changed)


@verb("release", example="milepost release etl-daily@latest")
@target_argument(needs_selector=True)
@_reason_option
def release_verb(frame: Frame, target: Target, reason: str | None) -> Answer:
    """End the hold on a checkpoint, whoever began it."""
    with frame.open_to_write() as manager:
        info = resolve(manager, target)
        has_changed = manager.release(info.job_id, info.checkpoint_id, reason=reason)
    return _held(info.job_id, info.checkpoint_id, "released", has_changed=has_changed)


def _held(job_id: str, checkpoint_id: str, word: str, *, has_changed: bool) -> Answer:
    data = {
        "job_id": job_id,
        "checkpoint_id": checkpoint_id,
        "held": word == "held",
        "changed": has_changed,
    }
    return Answer(data, None, (_said(word, data),))


def _said(word: str, data: dict[str, object]) -> str:
    done = word if data["changed"] else f"was {word} already:"
    return f"{done} {data['checkpoint_id']} of job {data['job_id']}"
