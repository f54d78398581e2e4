"""Append events to a storage, as a store would."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.events.codec import Mark, genesis
from tests.support.faults import forged, last_hash

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.storage.contract import Storage

JOB = "etl"


class Lines(NamedTuple):
    """Events to append: after which, their lines, and the last of them."""

    expected: Mark
    lines: list[bytes]
    last: Mark


def lines(storage: Storage, job_id: str, after: Mark, count: int = 1) -> Lines:
    """Return the next `count` events of a job."""
    made: list[bytes] = []
    seq, prev = after
    if seq == 0:
        store_id = storage.create()
        opened = {"store": store_id, "job": job_id, "nonce": "n"}
        prev = genesis(store_id, job_id, "n")
        made.append(forged(prev, seq=1, type="job.opened", data=opened))
        seq, prev = 1, last_hash(made[-1])
    while len(made) < count:
        seq += 1
        made.append(forged(prev, seq=seq, type="test.noted"))
        prev = last_hash(made[-1])
    return Lines(after, made, Mark(seq, prev))


def append(storage: Storage, job_id: str = JOB, count: int = 1) -> list[bytes]:
    """Append events as the store would; return their lines."""
    with storage.job(job_id).hold() as held:
        made = lines(storage, job_id, held.position.last, count)
        held.append(*made)
    return made.lines


def run(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
