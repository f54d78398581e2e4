"""Queries about jobs and their checkpoints; they never write to a journal."""

from __future__ import annotations

import copy
import fnmatch
from bisect import bisect_right
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from milepost.journal import ids
from milepost.journal.clock import stamped
from milepost.journal.errors import (
    InvalidArgument,
    MilepostError,
    NestedCall,
    NoCheckpoint,
    UnknownCheckpoint,
    WrongKind,
)
from milepost.journal.index.answers import LIFETIME
from milepost.journal.models import Checkpoint, CheckpointInfo, ErrorInfo, JobInfo
from milepost.journal.process import gc_pause
from milepost.journal.reading import summaries
from milepost.journal.reading.reader import check_limit, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from datetime import datetime

    from milepost.journal.events.vocabulary import Event
    from milepost.journal.index.entries import Entry
    from milepost.journal.index.job_view import JobView
    from milepost.journal.reading.reader import Reader
    from milepost.journal.states.migrations import Migrated
    from milepost.journal.states.state_digest import DecodedState
    from milepost.journal.states.types import Types

NO_DEFAULT = object()


def live(reader: Reader, job_id: str) -> list[CheckpointInfo]:
    """Return the job's checkpoints, oldest first."""

    def ask(view: JobView) -> list[CheckpointInfo]:
        return reader.infos(view, reader.store.live(view))

    # The collector would traverse a long list again and again while it grows.
    return gc_pause.at_rest(partial(reader.answer, job_id, ask))


def page(
    reader: Reader, job_id: str, *, limit: int, after_seq: int
) -> list[CheckpointInfo]:
    """Return up to `limit` checkpoints saved after event `after_seq`."""
    check_limit(limit)

    def ask(view: JobView) -> list[CheckpointInfo]:
        return reader.infos(view, reader.store.live(view, after_seq, limit))

    return reader.answer(job_id, ask)


def latest(reader: Reader, job_id: str) -> CheckpointInfo | None:
    """Return the newest checkpoint, None if there is none."""
    return reader.answer(job_id, lambda view: reader.info_of(view, view.latest))


def current(reader: Reader, job_id: str) -> CheckpointInfo | None:
    """Return the checkpoint that a resumed job continues from, if there is one."""
    return reader.answer(job_id, lambda view: reader.info_of(view, view.current))


def get(
    reader: Reader, job_id: str, checkpoint_id: str, types: Types | None = None
) -> Checkpoint:
    """Return a checkpoint with its state, migrated."""
    opened = reader.answer(job_id, partial(reader.opened, checkpoint_id))
    return checkpoint(reader, types, *opened)


def with_state(
    reader: Reader,
    job_id: str,
    choose: Callable[[JobView], Entry | None],
    types: Types | None = None,
) -> Checkpoint | None:
    """Return the chosen checkpoint and its state, migrated, both from one view."""

    def ask(view: JobView) -> tuple[CheckpointInfo, DecodedState] | None:
        entry = choose(view)
        return None if entry is None else reader.opened(entry.checkpoint_id, view)

    found = reader.answer(job_id, ask)
    return None if found is None else checkpoint(reader, types, *found)


def load(
    reader: Reader, job_id: str, default: object, types: Types | None = None
) -> object:
    """Return the state of the current checkpoint, or `default` if there is none.

    Raises:
        NoCheckpoint: there is none, and `default` is `NO_DEFAULT`.
    """
    found = with_state(reader, job_id, lambda view: view.current, types)
    if found is not None:
        return found.state
    if default is NO_DEFAULT:
        raise NoCheckpoint(job_id)
    # The job may change the result, which must not change the caller's default.
    return copy.deepcopy(default) if isinstance(default, dict) else default


def state_at(
    reader: Reader, job_id: str, seq: int, types: Types | None = None
) -> dict[str, Any] | None:
    """Return the state that was current after event `seq`, if there was one.

    Raises:
        InvalidArgument: there is no such event.
    """
    known = reader.view(job_id)
    if not 1 <= seq <= known.seq:
        raise InvalidArgument(f"job {job_id!r} has events 1 to {known.seq}: {seq}")

    def ask(_: JobView) -> dict[str, Any] | None:
        view = reader.store.replay(job_id, until_seq=seq)
        if view.current is None:
            return None
        return reader.open(view, view.current).state

    state = reader.answer(job_id, ask)
    whose = f"the state of job {job_id!r} after event {seq}"
    return None if state is None else reader.decoded(state, types, whose)


def history(
    reader: Reader,
    job_id: str,
    *,
    after_seq: int,
    types: Collection[str] | None,
    limit: int | None,
    reverse: bool,
    request: tuple[str, datetime] | None = None,
) -> list[Event]:
    """Return the job's events, verified, oldest first or newest first.

    `request`: an idempotency key and the current time; only its events.
    """
    check_limit(limit)
    ids.check_job_id(job_id)
    read = reader.store.newest_first if reverse else reader.store.history

    def ask(view: JobView) -> list[Event]:
        if request is None:
            found = read(view, after_seq)
        else:
            later = [
                e for e in _recorded(reader, view, *request) if e["seq"] > after_seq
            ]
            found = reversed(later) if reverse else iter(later)
        events = map(_shown, found)
        wanted = (e for e in events if types is None or e["type"] in types)
        return [*islice(wanted, limit)]

    return reader.answer(job_id, ask, reader.any_view)


def find(reader: Reader, checkpoint_id: str) -> CheckpointInfo:
    """Return the checkpoint with this id, in any job.

    Raises:
        UnknownCheckpoint: no job has it; says when and by whom if it was deleted.
        NotImported: no job has it, but some jobs are not imported yet.
    """
    deleted: UnknownCheckpoint | None = None
    for view in reader.store.having(
        lambda view: checkpoint_id in view.checkpoints or checkpoint_id in view.trash
    ):
        if checkpoint_id in view.checkpoints:
            return reader.answer(view.job_id, partial(reader.one, checkpoint_id))
        deleted = unknown(view, checkpoint_id)
    for job_id in [] if deleted else reader.not_imported():
        reader.view(job_id)  # raises: the checkpoint may be in this job
    raise deleted or UnknownCheckpoint(checkpoint_id)


def jobs(
    reader: Reader, *, match: str | None, limit: int | None, after: str | None
) -> list[JobInfo]:
    """Return the jobs that match, sorted by id, including damaged ones."""
    job_ids = reader.job_ids()
    if after is not None:
        job_ids = job_ids[bisect_right(job_ids, after) :]
    if match is not None:
        job_ids = fnmatch.filter(job_ids, match)
    look = partial(job, reader)

    def collect() -> list[JobInfo]:
        if limit is None:
            return summaries.of(reader.store, job_ids, look)
        infos = (info for job_id in job_ids if (info := look(job_id)) is not None)
        return [*islice(infos, limit)]

    return gc_pause.at_rest(collect)


def job(reader: Reader, job_id: str) -> JobInfo | None:
    """Return the summary of one job, None if it does not exist."""
    ids.check_job_id(job_id)
    try:
        view = reader.view(job_id)
        return None if view.seq == 0 else _job_info(view)
    except NestedCall:
        raise  # not caused by the job
    except MilepostError as exc:
        return JobInfo(job_id, damage=ErrorInfo.of(exc))


def recorded(reader: Reader, job_id: str, key: str, now: datetime) -> list[Event]:
    """Return the events of the request with an idempotency key, if it still counts."""
    return reader.answer(job_id, lambda v: [*_recorded(reader, v, key, now)])


def _recorded(
    reader: Reader, view: JobView, key: str, now: datetime
) -> Iterator[Event]:
    answered = view.answered.get(key)
    if answered is None or now - answered.at >= LIFETIME:
        return iter(())
    return reader.store.history(view, answered.first - 1, until_seq=answered.last)


def restorable(
    reader: Reader, job_id: str, checkpoint_id: str, types: Types | None
) -> tuple[Migrated, dict[str, Any]]:
    """Return a state for a restore: migrated, and then decoded."""
    if (view := reader.view(job_id)).kind == "thread":
        hint = f"invoke the graph with checkpoint_id {checkpoint_id}, or update_state"
        raise WrongKind(view.job_id, view.kind, "", hint)
    info, opened = reader.answer(job_id, partial(reader.opened, checkpoint_id))
    migrated = reader.migrated(info, opened)
    return migrated, reader.decoded(migrated.state, types, _whose(info))


def checkpoint(
    reader: Reader, types: Types | None, info: CheckpointInfo, opened: DecodedState
) -> Checkpoint:
    """Return a checkpoint with its state, migrated and decoded."""
    state = reader.migrated(info, opened).state
    return Checkpoint(info, reader.decoded(state, types, _whose(info)))


def _whose(info: CheckpointInfo) -> str:
    return f"checkpoint {info.checkpoint_id!r} of job {info.job_id!r}"


def _stamped_if(at: str | None) -> str | None:
    return None if at is None else stamped(at)


def _shown(event: Event) -> Event:
    """Return an event, not shared with other code, with its time normalized.

    Development versions before the first release wrote ``Z`` for ``+00:00``.
    """
    if isinstance(at := event["at"], str) and at.endswith("Z"):
        event["at"] = f"{at[:-1]}+00:00"
    return event


def _job_info(view: JobView) -> JobInfo:
    end = view.completion
    return JobInfo(
        view.job_id,
        view.seq,
        len(view.checkpoints),
        view.saved,
        view.deleted,
        view.restored,
        _stamped_if(view.created_at),
        _stamped_if(view.last_at),
        None if view.current is None else view.current.checkpoint_id,
        None if view.latest is None else view.latest.checkpoint_id,
        view.stored_bytes,
        completed_at=_stamped_if(end and end.at),
        failed=end is not None and end.failed,
        reason=end and end.reason,
    )
