"""Cursors over the changes of all jobs, made of one fingerprint per job.

A storage that keeps an order of its writes needs none of this: its cursor is a place in
that order.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Changes(NamedTuple):
    """The answer of `Storage.changed`.

    Attributes:
        job_ids: the jobs that may have changed, sorted.
        cursor: for the next call, also by another process.
    """

    job_ids: list[str]
    cursor: str


def since(
    cursor: str | None, store_id: str | None, jobs: Mapping[str, str | None]
) -> Changes:
    """Return the jobs whose fingerprint differs from the one in `cursor`.

    Args:
        cursor: of an earlier call.  That of another store, or text that is no cursor,
            counts as None.
        store_id: of the store.
        jobs: the fingerprint of each job, by id.  None: the fingerprint could stay the
            same at the next change, so the next call names the job again, also if it
            was removed.
    """
    before = {} if cursor is None else _fingerprints(cursor, store_id)
    same = {job for job, now in jobs.items() if now and now == before.get(job)}
    text = json.dumps({"store": store_id, "jobs": dict(jobs)})
    return Changes(sorted({*jobs, *before} - same), text)


def _fingerprints(cursor: str, store_id: str | None) -> dict[str, str | None]:
    try:
        values = json.loads(cursor)
        jobs = values["jobs"] if values["store"] == store_id else {}
    except (ValueError, TypeError, LookupError):
        return {}
    return jobs if isinstance(jobs, dict) else {}
