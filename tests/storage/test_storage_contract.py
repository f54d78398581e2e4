"""`Storage`'s docstring made executable: every implementation runs the same tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager
from milepost.journal.clock import utc_now
from milepost.journal.disk.disk import Busy
from milepost.journal.errors import (
    Conflict,
    DamagedJournal,
    NestedCall,
    UnreadableState,
)
from milepost.journal.events import codec
from milepost.journal.events.codec import Mark
from milepost.journal.states.access import Vault
from milepost.journal.storage import removals
from milepost.journal.storage.contract import Position, Snapshot, Storage
from milepost.journal.storage.removals import Removal
from tests.support.appending import JOB, append, lines, run
from tests.support.faults import forged, last_hash

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.storage.contract import JobStorage


@pytest.fixture
def job(storage: Storage) -> JobStorage:
    return storage.job(JOB)


def stored(job: JobStorage, after: int = 0) -> list[int]:
    """Return the seqs of the events after one, as a reader gets them."""
    until = job.position().last.seq
    return [event["seq"] for event, _, _ in job.events(Mark(after), until)]


def test_a_store_has_an_id_from_its_creation_on(storage: Storage) -> None:
    assert storage.store_id is None
    made = storage.create()
    assert storage.create() == made == storage.store_id


def test_an_unknown_job_is_empty_and_not_listed(
    storage: Storage, job: JobStorage
) -> None:
    assert job.version() is None
    assert job.position() == Position()
    assert [*job.events(Mark(), 0)] == []
    with job.hold() as held:
        assert held.position == Position()
        assert held.repairs() == []
    assert storage.jobs() == []


def test_a_job_that_was_locked_but_not_written_is_still_unknown(
    storage: Storage, job: JobStorage
) -> None:
    with job.hold():
        pass
    assert job.version() is None
    assert job.position() == Position()
    assert storage.jobs() == []


def test_what_was_appended_can_be_read(storage: Storage, job: JobStorage) -> None:
    whole = append(storage, count=2) + append(storage)
    read = [*job.events(Mark(), 3)]
    assert [event["seq"] for event, _, _ in read] == [1, 2, 3]
    assert [size for _, size, _ in read] == [len(each) for each in whole]
    assert [job.lines(seq) for seq in (1, 2, 3)] == [(b"", w[:-1]) for w in whole]
    for first, last, most in ((1, 3, 10**6), (1, 3, 1), (2, 3, 10**6), (3, 3, 0)):
        run = job.run(first, last, most)
        assert run == [
            (b"", w[:-1]) for w in whole[first - 1 : last if most > 1 else first]
        ]
    two = len(whole[0]) + len(whole[1])
    assert [len(job.run(1, 3, most)) for most in (two - 1, two, two + 1)] == [1, 2, 2]
    assert job.first_bytes(2, 10) == whole[1][:10]
    assert job.first_bytes(2, 10_000) == whole[1]


def test_events_are_read_from_any_one_on_and_up_to_any_one(
    storage: Storage, job: JobStorage
) -> None:
    append(storage, count=6)
    for after in range(7):
        for until in range(7):
            found = [e["seq"] for e, _, _ in job.events(Mark(after), until)]
            assert found == [*range(after + 1, until + 1)]


def test_reading_on_from_an_event_that_is_another_one_now_is_damage(
    storage: Storage, job: JobStorage
) -> None:
    append(storage, count=4)
    with pytest.raises(DamagedJournal):
        [*job.events(Mark(2, "0" * 64), 4)]


@pytest.mark.parametrize("seq", [-1, 0, 3, 10])
def test_an_event_that_does_not_exist_has_no_lines(
    storage: Storage, job: JobStorage, seq: int
) -> None:
    append(storage, count=2)
    with pytest.raises(UnreadableState):
        job.lines(seq)
    with pytest.raises(UnreadableState):
        job.first_bytes(seq, 1)
    with pytest.raises(UnreadableState):
        job.run(seq, max(seq, 1), 1)


def test_reading_tells_how_many_bytes_it_read(
    storage: Storage, job: JobStorage
) -> None:
    whole = append(storage, count=5)
    told: list[int] = []
    assert len([*job.events(Mark(), 5, told.append)]) == 5
    assert sum(told) == sum(map(len, whole))


def test_appending_answers_with_the_version_that_readers_see(
    storage: Storage, job: JobStorage
) -> None:
    append(storage)
    with job.hold() as held:
        made = lines(storage, JOB, held.position.last)
        answer = held.append(*made)
        assert held.position == Position(made.last, answer)
        assert held.version == answer
    assert job.position() == Position(made.last, answer)
    with job.hold() as held:
        assert held.position == job.position()


def test_the_version_changes_with_every_append_and_its_generation_does_not(
    storage: Storage, job: JobStorage
) -> None:
    versions = [job.version()]
    for _ in range(3):
        append(storage)
        versions.append(job.version())
    assert len(set(versions)) == 4
    assert job.version() == versions[-1] == job.position().version
    assert len({version.generation for version in versions if version}) == 1


@pytest.mark.parametrize(
    "after", [Mark(), Mark(1, "1" * 64), Mark(2, "2" * 64), Mark(3, "3" * 64)]
)
def test_appending_behind_another_event_than_the_last_is_refused(
    storage: Storage, job: JobStorage, after: Mark
) -> None:
    append(storage, count=2)
    before = job.position()
    with job.hold() as held:
        made = lines(storage, JOB, held.position.last)
        with pytest.raises(Conflict):  # I3
            held.append(after, made.lines, made.last)
    assert job.position() == before
    assert stored(job) == [1, 2]


def test_sixteen_writers_never_take_the_same_number(
    storage: Storage, job: JobStorage
) -> None:
    append(storage)
    threads = [run(lambda: [append(storage) for _ in range(3)]) for _ in range(16)]
    for thread in threads:
        thread.join(60)
    assert stored(job) == [*range(1, 2 + 16 * 3)]  # I3


def test_a_job_that_is_held_is_busy_for_who_would_not_wait(storage: Storage) -> None:
    outcome: list[str] = []

    def ask(job_id: str) -> None:
        try:
            with storage.job(job_id).hold(wait=False):
                outcome.append("got")
        except Busy:
            outcome.append("busy")

    append(storage)
    append(storage, "other")
    with storage.job(JOB).hold():
        run(lambda: ask(JOB)).join(10)
        run(lambda: ask("other")).join(10)  # I10
    run(lambda: ask(JOB)).join(10)
    assert outcome == ["busy", "got", "got"]


def test_who_waits_gets_the_job_once_it_is_free(
    storage: Storage, job: JobStorage
) -> None:
    append(storage)
    with job.hold() as held:
        waiter = run(lambda: append(storage))
        assert job.position() == held.position
        held.append(*lines(storage, JOB, held.position.last))
    waiter.join(10)
    assert job.position().last.seq == 3


def test_an_error_inside_lets_go_of_the_job(storage: Storage, job: JobStorage) -> None:
    append(storage)
    with pytest.raises(ZeroDivisionError), job.hold():
        _ = 1 / 0
    with job.hold(wait=False) as held:
        assert held.position.last.seq == 1


def test_a_thread_that_holds_a_job_is_refused_at_once_and_goes_on_holding_it(
    storage: Storage, job: JobStorage
) -> None:
    outcome: list[str] = []

    def ask() -> None:
        try:
            with job.hold(wait=False):
                outcome.append("got")
        except Busy:
            outcome.append("busy")

    append(storage)
    with job.hold():
        with pytest.raises(NestedCall), job.hold():
            pass
        run(ask).join(10)
    run(ask).join(10)
    assert outcome == ["busy", "got"]


def taken(job: JobStorage) -> Position | None:
    """Take a job at once, if that is possible, and let go of it."""
    try:
        held = job.take()
        return None if held is None else held.position
    finally:
        job.let_go()


def test_a_job_is_taken_at_once_while_it_is_as_its_last_writer_left_it(
    storage: Storage, job: JobStorage
) -> None:
    append(storage)
    assert taken(job) == job.position()._replace(is_settled=True)
    with_it = job.take()
    assert with_it is not None
    made = lines(storage, JOB, with_it.position.last)
    assert with_it.append(*made) == job.version()
    job.let_go()
    job.let_go()
    assert stored(job) == [1, 2]
    with job.hold(wait=False) as held:
        assert held.position.last == made.last


def test_a_job_that_another_thread_has_is_not_taken(
    storage: Storage, job: JobStorage
) -> None:
    outcome: list[Position | None] = []
    append(storage)
    assert job.take() is not None
    run(lambda: outcome.append(taken(job))).join(10)
    with pytest.raises(NestedCall):
        job.refuse_nested()
    with pytest.raises(NestedCall), job.hold():
        pass
    run(lambda: outcome.append(taken(job))).join(10)
    job.let_go()
    job.refuse_nested()
    run(lambda: outcome.append(taken(job))).join(10)
    assert outcome == [None, None, job.position()]


def test_readers_are_never_kept_waiting_by_a_writer(
    storage: Storage, job: JobStorage
) -> None:
    append(storage)
    read: list[object] = []
    with job.hold():
        run(lambda: read.append((job.position().last.seq, job.version()))).join(10)
        run(lambda: read.append(stored(job))).join(10)
    assert read == [(1, job.version()), [1]]


def test_jobs_are_listed_in_order_and_do_not_mix(storage: Storage) -> None:
    for job_id in ("b", "ä", "a/../b", "B", "x" * 512):
        append(storage, job_id)
    append(storage, "b")
    assert storage.jobs() == sorted(["b", "ä", "a/../b", "B", "x" * 512])
    assert storage.job("b").position().last.seq == 2
    assert storage.job("B").position().last.seq == 1


def test_what_was_appended_is_still_there_after_closing(
    storage: Storage, job: JobStorage
) -> None:
    append(storage)
    storage.flush()
    for _ in range(2):
        storage.close()
    assert stored(job) == stored(storage.job(JOB)) == [1]
    append(storage)
    assert storage.job(JOB).position().last.seq == 2


# -- rewriting -------------------------------------------------------------------------


def noted(storage: Storage, count: int) -> list[bytes]:
    """Append events that have states."""
    with storage.job(JOB).hold() as held:
        seq, prev = held.position.last
        made: list[bytes] = []
        for number in range(seq + 1, seq + 1 + count):
            data = {"state_digest": "d"}
            line = forged(prev, seq=number, type="test.noted", data=data)
            made.append(b'{"state":%d}\n' % number + line)
            prev = last_hash(line)
        held.append(Mark(*held.position.last), made, Mark(seq + count, prev))
    return made


def without(seqs: set[int]) -> Callable[[int, bytes], bytes]:
    """Return a function that drops the state lines of these events."""
    return lambda seq, both: both[both.index(b"\n") + 1 :] if seq in seqs else both


def test_a_rewrite_drops_states_keeps_events_and_adds_its_own(
    storage: Storage, job: JobStorage
) -> None:
    append(storage)
    noted(storage, 3)
    before = job.version()
    with job.rewriting() as rewrite:
        rewrite.copy(4, without({2, 3}))
        append(storage)  # a writer is not kept waiting
        rewrite.follow()
        with job.hold() as held:
            sizes = held.finish(rewrite)
            made = lines(storage, JOB, held.position.last)
            held.replace(rewrite, made.lines, made.last)
    assert sizes[0] - sizes[1] == len(b'{"state":2}\n{"state":3}\n')
    assert stored(job) == [1, 2, 3, 4, 5, 6]
    assert job.position().last == made.last
    assert [job.lines(seq)[0] for seq in (2, 3, 4)] == [b"", b"", b'{"state":4}']
    after = job.version()
    assert before
    assert after
    assert after.generation != before.generation
    append(storage)
    assert stored(job, 5) == [6, 7]


def test_a_rewrite_that_replaces_nothing_changes_nothing(
    storage: Storage, job: JobStorage
) -> None:
    append(storage)
    noted(storage, 2)
    before = job.position()
    with job.rewriting() as rewrite:
        rewrite.copy(3, without({2}))
        with pytest.raises(Busy), job.rewriting():
            pass
    job.sweep()
    assert job.position() == before
    assert job.lines(2)[0] == b'{"state":2}'
    with job.rewriting():
        pass


def test_an_error_while_lines_are_replaced_leaves_the_old_ones(
    storage: Storage, job: JobStorage
) -> None:
    append(storage)
    noted(storage, 2)

    def fails(seq: int, both: bytes) -> bytes:
        raise UnreadableState(f"{seq} {len(both)}")

    with pytest.raises(UnreadableState), job.rewriting() as rewrite:
        rewrite.copy(3, fails)
    assert stored(job) == [1, 2, 3]


def test_damage_names_the_place_after_an_event(
    storage: Storage, job: JobStorage
) -> None:
    first, second = append(storage, count=2)
    assert stored(job) == [1, 2]
    error = job.damage(1, "this", "that")
    assert isinstance(error, DamagedJournal)
    assert (error.job_id, error.offset, error.line) == (JOB, len(first), 2)
    assert job.damage(2, "this", "that").offset == len(first) + len(second)


def test_a_sound_job_is_diagnosed_as_sound_and_needs_no_repair(
    storage: Storage,
) -> None:
    append(storage, count=3)
    repairer = storage.repairer(Vault(), utc_now, "test")
    found = repairer.diagnose(JOB, deep=True)
    assert (found.ok, found.proven_seq) == (True, 3)
    assert repairer.diagnose("unknown", deep=False).exists is False
    assert repairer.repair(JOB, accept_loss=True, dry_run=False).steps == ()


# -- removing --------------------------------------------------------------------------


def origin_of(job: JobStorage) -> str:
    opened = codec.peek(job.lines(1)[1])
    assert opened is not None
    return codec.origin_of(opened)


def remove(job: JobStorage) -> Removal:
    """Remove a job; return what its tombstone has to say."""
    with job.hold() as held:
        removal = Removal(held.position.last, "2026-11-27T05:00:00Z", "me", "asked to")
        held.remove(removal)
    return removal


def test_a_removed_job_is_unknown_and_leaves_a_tombstone(
    storage: Storage, job: JobStorage
) -> None:
    append(storage, count=3)
    append(storage, "other")
    origin, cursor = origin_of(job), storage.changed(None).cursor

    removal = remove(job)

    assert removals.find(storage, origin) == removal
    assert (job.version(), job.position()) == (None, Position())
    assert storage.jobs() == ["other"]
    assert JOB in storage.changed(cursor).job_ids
    assert not storage.repairer(Vault(), utc_now, "me").diagnose(JOB, deep=True).exists


def test_the_job_after_a_removed_one_is_another_of_the_same_id(
    storage: Storage, job: JobStorage
) -> None:
    append(storage, count=3)
    before = job.version()
    remove(job)
    whole = append(storage, count=2)
    assert stored(job) == [1, 2]  # I3
    assert job.version() not in (None, before)
    assert [job.lines(seq)[1] + b"\n" for seq in (1, 2)] == whole
    assert storage.jobs() == [JOB]
    remove(job)
    assert storage.jobs() == []


def test_a_job_may_begin_anew_under_the_lock_that_removed_it(
    storage: Storage, job: JobStorage
) -> None:
    append(storage, count=3)
    with job.hold() as held:
        held.remove(Removal(held.position.last, "now", "me"))
        assert held.position == Position()
        made = lines(storage, JOB, Mark())
        held.append(*made)
    with job.hold() as held:
        assert held.repairs() == []
        assert held.position.last == made.last
    append(storage)
    assert stored(job) == [1, 2]


def test_a_removal_after_another_event_than_the_last_is_refused(
    storage: Storage, job: JobStorage
) -> None:
    append(storage, count=2)
    before = job.position()
    for last in (Mark(), Mark(1, "1" * 64), Mark(2, "2" * 64), Mark(3, "3" * 64)):
        with job.hold() as held, pytest.raises(Conflict):
            held.remove(Removal(last, "now", "me"))
    assert job.position() == before
    assert removals.find(storage, origin_of(job)) is None


def test_a_job_that_is_being_rewritten_is_not_removed(
    storage: Storage, job: JobStorage
) -> None:
    append(storage, count=2)
    with job.rewriting(), job.hold() as held, pytest.raises(Busy):
        held.remove(Removal(held.position.last, "now", "me"))
    assert stored(job) == [1, 2]
    assert removals.find(storage, origin_of(job)) is None
    remove(job)


def test_who_waits_for_a_job_that_is_removed_begins_a_new_one(
    storage: Storage, job: JobStorage
) -> None:
    append(storage, count=3)
    with job.hold() as held:
        waiters = [run(lambda: append(storage)) for _ in range(4)]
        held.remove(Removal(held.position.last, "now", "me"))
    for waiter in waiters:
        waiter.join(60)
    assert stored(job) == [1, 2, 3, 4]  # I3


def test_a_process_that_has_seen_a_removed_job_knows_what_happened(
    storage: Storage, job: JobStorage
) -> None:
    reader, writer = (CheckpointManager(storage=storage) for _ in range(2))
    writer.save(JOB, "one", {})
    assert len(reader.list(JOB)) == 1
    remove(job)
    assert reader.list(JOB) == []
    assert reader.jobs() == []
    assert reader.verify() == []
    new = writer.save(JOB, "two", {"n": 2})
    assert [info.checkpoint_id for info in reader.list(JOB)] == [new]
    assert reader.restore(JOB, new) == {"n": 2}
    assert reader.verify(JOB, deep=True)[0].ok


@pytest.mark.parametrize("saves", [1, 2, 5])
def test_a_new_job_is_told_from_the_removed_one_however_long_it_is(
    storage: Storage, job: JobStorage, saves: int
) -> None:
    reader, writer = (CheckpointManager(storage=storage) for _ in range(2))
    for n in range(2):
        writer.save(JOB, "one", {"n": n})
    assert len(reader.list(JOB)) == 2
    remove(job)
    made = [writer.save(JOB, "two", {"n": n}) for n in range(saves)]
    assert [info.checkpoint_id for info in reader.list(JOB)] == made
    made.append(reader.save(JOB, "three", {}))
    assert [info.checkpoint_id for info in writer.list(JOB)] == made


def keep(job: JobStorage, parts: list[bytes]) -> Snapshot:
    position = job.position()
    snapshot = Snapshot(position.last, parts)
    assert position.version is not None
    job.keep_snapshot(snapshot, position.version)
    return snapshot


def test_a_kept_snapshot_is_returned_as_long_as_its_events_are_there(
    opened: Callable[[], Storage], storage: Storage
) -> None:
    append(storage, count=3)
    keep(storage.job(JOB), [b"an earlier one"])
    kept = keep(storage.job(JOB), [b"one", b"", b"three"])
    append(storage, count=2)
    other = opened()
    job = other.job(JOB)
    at = job.position()
    assert job.snapshot(at) in (kept, None)
    assert stored(job, after=3) == [4, 5]
    assert job.snapshot(at._replace(last=Mark(2))) is None  # it is of 3 events
    assert job.snapshot(Position()) is None
    job.drop_snapshot()
    job.drop_snapshot()
    assert job.snapshot(at) is None
    other.close()


def test_a_snapshot_goes_when_the_lines_are_replaced_or_removed(
    storage: Storage, job: JobStorage
) -> None:
    append(storage, count=3)
    keep(job, [b"of the old lines"])
    before = job.version()
    with job.rewriting() as rewrite:
        rewrite.copy(3, without(set()))
        with job.hold() as held:
            held.finish(rewrite)
            made = lines(storage, JOB, held.position.last)
            held.replace(rewrite, made.lines, made.last)
    assert job.snapshot(job.position()) is None
    assert before is not None
    job.keep_snapshot(Snapshot(job.position().last, [b"too late"]), before)
    assert job.snapshot(job.position()) is None
    keep(job, [b"of the new lines"])
    with job.hold() as held:
        held.remove(Removal(held.position.last, "2026-11-23T05:00:00+00:00", "me", ""))
    append(storage, count=4)
    assert job.snapshot(job.position()) is None
