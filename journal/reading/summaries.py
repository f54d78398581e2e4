"""The summaries of all jobs, from a cache of the store where no job has changed since.

A process that starts has no views, and a summary needs the fold of a whole journal.
The cache has the summaries of jobs, and a cursor of `Storage.changed` from before they
were made: the summaries of jobs that the storage does not name are still right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import orjson

from milepost.journal.index.snapshot import FOLD
from milepost.journal.models import JobInfo
from milepost.journal.storage.contract import every_job

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from milepost.journal.store.store import Store

# A version with another fold (`snapshot.FOLD`) or other fields gives other summaries.
_RULES = [FOLD, *JobInfo._fields]
# The cache is written after the fold of at least this number of events it lacked.
_LEAST_EVENTS = 1000


class _Cache(NamedTuple):
    """The content of the cache.

    Attributes:
        cursor: of a call of `Storage.changed` before the summaries were made.
        infos: the summaries, by job id.
    """

    cursor: str | None = None
    infos: dict[str, JobInfo] = {}  # noqa: RUF012 - never changed


def of(
    store: Store, job_ids: Collection[str], look: Callable[[str], JobInfo | None]
) -> list[JobInfo]:
    """Return the summaries of jobs, in order, without those that do not exist.

    Args:
        store: the open store.
        job_ids: the jobs.
        look: returns the summary of one job, from its view.
    """
    if 2 * sum(map(store.knows, job_ids)) >= len(job_ids):
        # Quicker than to ask the storage about every job.
        return [info for job_id in job_ids if (info := look(job_id)) is not None]
    cache = _load(store)
    changed, cursor = store.storage.changed(cache.cursor)
    infos = {**cache.infos}
    for job_id in changed:
        infos.pop(job_id, None)
    found: list[JobInfo] = []
    folded = 0
    for job_id in job_ids:
        info, is_known = infos.get(job_id), store.knows(job_id)
        if info is None or is_known:
            info = look(job_id)
            # A summary that a recovery may still change, or an error, is not kept.
            if info is not None and not is_known and store.is_settled(job_id):
                folded += info.seq
                infos[job_id] = info
        if info is not None:
            found.append(info)
    if folded >= _LEAST_EVENTS:
        _keep(store, _Cache(cursor, infos))
    return found


def _load(store: Store) -> _Cache:
    raw = store.storage.recall()
    if raw is None:
        return _Cache()
    rules, *values = orjson.loads(raw)
    if rules != _RULES:
        return _Cache()
    cursor, rows = values
    return _Cache(cursor, {row[0]: JobInfo(*row) for row in rows})


def _keep(store: Store, cache: _Cache) -> None:
    rows = [[*info] for info in cache.infos.values()]
    store.storage.keep(orjson.dumps([_RULES, cache.cursor, rows]))
    # A removal drops the cache, but it may have been written just after.
    if not cache.infos.keys() <= {*every_job(store.storage)}:
        store.storage.keep(b"")
