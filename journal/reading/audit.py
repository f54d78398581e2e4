"""Checks of stored data: verification, diagnosis, keys in use."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from milepost.journal import ids
from milepost.journal.crypto.key_record import KeyRecord, marked
from milepost.journal.errors import (
    MilepostError,
    MissingKey,
    NewerFormat,
    Protected,
    StateOverBound,
)
from milepost.journal.events.codec import STATE_MISSING
from milepost.journal.models import ErrorInfo, JobReport
from milepost.journal.states import delta_chain
from milepost.journal.storage.contract import every_job
from milepost.journal.wording import counted, needing

if TYPE_CHECKING:
    from milepost.journal.index.job_view import JobView
    from milepost.journal.reading.reader import Reader
    from milepost.journal.recovery.diagnosis import Diagnosis
    from milepost.journal.storage.contract import OnPiece, Repairer


def verify(
    reader: Reader, job_id: str | None, *, deep: bool, on_piece: OnPiece | None
) -> list[JobReport]:
    """Verify one job or all jobs from the first byte; damage is only reported."""
    if job_id is not None:
        report = _verify(reader, ids.check_job_id(job_id), deep, on_piece)
        return [report] if report.events or not report.ok else []
    return [_verify(reader, job, deep, on_piece) for job in reader.job_ids()]


def _verify(
    reader: Reader, job_id: str, deep: bool, on_piece: OnPiece | None
) -> JobReport:
    def ask(known: JobView) -> tuple[JobView, Counter[str], list[str]]:
        view = reader.store.replay(job_id, until_seq=known.seq, on_piece=on_piece)
        if view.newer_seq:
            reader.store.readable(job_id)
        locked = _check_states(reader, view, deep, on_piece)
        others = delta_chain.damaged_others(view, partial(reader.read, view), deep=deep)
        return view, locked, [*others]

    try:
        view, locked, others = reader.answer(job_id, ask, reader.any_view)
    except MilepostError as exc:
        return JobReport(job_id, False, 0, 0, None, ErrorInfo.of(exc), ())
    notes = others
    notes += (
        f"a repair lost {counted(lost, 'event')}, as event {seq} records"
        for seq, lost in view.losses
    )
    if view.salvage_files:
        kept = counted(len(view.salvage_files), "run")
        notes.append(f"{kept} of cut bytes are in salvage/")
    notes += (
        f"{counted(count, 'state')} not checked: {why}" for why, count in locked.items()
    )
    live = len(view.checkpoints)
    return JobReport(job_id, True, view.seq, live, view.hash, None, tuple(notes))


def _check_states(
    reader: Reader, view: JobView, deep: bool, on_piece: OnPiece | None
) -> Counter[str]:
    """Check live states; return the number that could not be, by reason."""
    locked: Counter[str] = Counter()
    for entry in view.checkpoints.after(0):
        if deep or entry.seq in view.faults:
            try:
                reader.open(view, entry, from_disk=True)
            except MissingKey as exc:
                locked[f"key {exc.key_id!r} is missing"] += 1
            except NewerFormat:
                locked["a newer Milepost wrote them"] += 1
            except StateOverBound as exc:
                locked[f"too large, {exc.hint}"] += 1
            if on_piece is not None:
                on_piece(view.sizes[entry.seq])
    return locked


def diagnose(
    reader: Reader, repairer: Repairer, job_id: str | None, *, deep: bool
) -> list[Diagnosis]:
    """Diagnose one job or all jobs; change nothing, not even a torn tail."""
    storage = reader.store.storage
    jobs = every_job(storage) if job_id is None else [ids.check_job_id(job_id)]
    found = (repairer.diagnose(job, deep=deep) for job in jobs)
    return [each for each in found if each.exists]


def keys_in_use(reader: Reader, job_id: str | None = None) -> dict[str, int]:
    """Return the number of states under each key, by key id."""
    counts: Counter[str] = Counter()
    jobs = every_job(reader.store.storage) if job_id is None else [job_id]
    for job in jobs:
        counts += reader.answer(job, partial(_count_keys, reader))
    return dict(counts)


def _count_keys(reader: Reader, view: JobView) -> Counter[str]:
    trashed = [trashed.entry for trashed in [*view.trash.values()]]
    saves = [entry.seq for entry in (*reader.store.live(view), *trashed)]
    return Counter(
        reader.header(view, seq)[0].key_id
        for seq in (*saves, *view.sizes.others())
        if view.faults.get(seq) != STATE_MISSING
    )


def drop_key(reader: Reader, key_id: str, *, force: bool) -> None:
    """Stop all processes from writing with a key, even those that have it.

    Raises:
        Protected: states need the key, which stays usable.
    """
    storage = reader.store.storage
    if storage.store_id is None:
        return
    dropped = reader.store.dropped_keys
    before = dropped.read()
    if not force:
        _refuse_needed(reader, key_id)
    dropped.change(lambda r: _with_dropped(r, key_id))
    try:
        # Writers that checked the key before the record changed have finished now.
        storage.wait_for_writers()
        if not force:
            _refuse_needed(reader, key_id)
    except BaseException:
        if before is None or key_id not in before.dropped:
            dropped.change(lambda r: _without_dropped(r, key_id))
        raise


def _refuse_needed(reader: Reader, key_id: str) -> None:
    if states := keys_in_use(reader).get(key_id, 0):
        raise Protected(
            f"{needing(states)} key {key_id!r}",
            hint="`milepost compact --rewrap` first; --force gives these states up",
        )


def _with_dropped(record: KeyRecord | None, key_id: str) -> KeyRecord:
    return KeyRecord(marked(record).dropped | {key_id})


def _without_dropped(record: KeyRecord | None, key_id: str) -> KeyRecord:
    return KeyRecord(marked(record).dropped - {key_id})
