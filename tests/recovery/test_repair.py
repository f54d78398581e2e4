"""What repairs do, keep and refuse; crashes inside of them are in tests/crash."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager
from milepost.journal.errors import (
    CannotRepair,
    DamagedJournal,
    InvalidArgument,
    LossNotAccepted,
    MilepostError,
    NoSpace,
    ReadOnlyStore,
    StorageFailed,
)
from milepost.journal.recovery.diagnosis import Condition
from milepost.journal.storage.files.storage import FileStorage
from tests.recovery.spoiling import JOB, begin, change, cut, look, unheaded
from tests.support.faults import (
    Call,
    Fault,
    FaultyDisk,
    forged,
    head_of,
    journal_of,
    last_hash,
    put,
    read_head,
    replace,
    write_head,
)
from tests.support.stores import files

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost import CheckpointInfo
    from tests.support.clock import Clock

_MOST_CALLS = 500


def again(root: Path, disk: FaultyDisk | None = None) -> CheckpointManager:
    return CheckpointManager(storage=FileStorage(root, disk=disk), actor="ann")


def flip(root: Path, step: str = "s3") -> None:
    change(root, b'"step_name":"%b"' % step.encode(), b'"step_name":"??"')


def repairs(manager: CheckpointManager) -> list[Any]:
    return [e["data"] for e in manager.history(JOB, types={"job.repaired"})]


def salvaged(root: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (root / "salvage").iterdir()}


def test_a_sound_job_is_left_alone(root: Path) -> None:
    begin(root)
    before = files(root)
    done = again(root).repair(JOB, accept_loss=True)
    assert (done.steps, done.before) == ((), done.after)
    assert files(root) == before


def test_a_loss_is_not_taken_without_consent(root: Path) -> None:
    begin(root)
    flip(root)
    before = files(root)
    with pytest.raises(LossNotAccepted, match="3 acknowledged events") as caught:
        again(root).repair(JOB)
    assert "--accept-loss" in str(caught.value.hint)
    assert files(root) == before  # I4, I7


def test_what_is_proven_stays_byte_for_byte_and_the_rest_is_kept(root: Path) -> None:
    ids = begin(root)  # I4, I5
    flip(root)
    damaged, proven = journal_of(root, JOB).read_bytes(), look(root).proven_bytes
    manager = again(root)
    done = manager.repair(JOB, accept_loss=True)
    repaired = journal_of(root, JOB).read_bytes()
    assert repaired[:proven] == damaged[:proven]
    assert repaired[proven:].count(b"\n") == 1
    assert list(salvaged(root).values()) == [damaged[proven:]]
    assert done.after is not None
    assert done.after.verdict is Condition.SOUND
    assert [manager.get(JOB, each).state for each in ids[:3]] == [
        {"n": n} for n in range(3)
    ]


def test_the_journal_says_who_gave_up_what_and_where_it_is(root: Path) -> None:
    begin(root)
    lost_hash = read_head(root, JOB).shown.hash
    flip(root)
    manager = again(root)
    found = manager.repair(JOB, accept_loss=True).before
    (event,) = manager.history(JOB, types={"job.repaired"})
    assert (event["seq"], event["actor"]) == (5, "ann")
    assert event["data"] == {
        "reason": "damaged",
        "offset": found.proven_bytes,
        "cut_bytes": found.cut_bytes,
        "salvage_file": found.salvage_file,
        "lost_events": 3,
        "lost_hash": lost_hash,
    }
    assert [*salvaged(root)] == [found.salvage_file]
    (report,) = manager.verify(JOB, deep=True)
    assert report.ok
    assert "lost 3 events" in report.notes[0]


def test_a_repaired_job_takes_writes_again_here_and_elsewhere(root: Path) -> None:
    begin(root)
    mine, other = again(root), again(root)
    assert len(other.list(JOB)) == 6
    flip(root)
    mine.repair(JOB, accept_loss=True)
    # It had read what is gone; that was given up, so it goes on.
    assert len(other.list(JOB)) == 3
    other.save(JOB, "next", {"n": 9})
    assert [info.step_name for info in mine.list(JOB)] == ["s0", "s1", "s2", "next"]
    assert again(root).verify(JOB, deep=True)[0].ok


def test_a_loss_that_nobody_gave_up_is_still_refused(root: Path) -> None:
    begin(root)  # I1
    reader = again(root)
    with CheckpointManager(root) as manager:
        first = journal_of(root, JOB).read_bytes(), head_of(root, JOB).read_bytes()
        manager.save(JOB, "late", {})
        assert len(reader.list(JOB)) == 7
    replace(journal_of(root, JOB), first[0])
    put(head_of(root, JOB), first[1])
    with pytest.raises(DamagedJournal, match="seen before"):
        reader.list(JOB)


@pytest.mark.parametrize("accept_loss", [False, True])
@pytest.mark.parametrize(
    "ruin",
    [
        flip,
        unheaded,
        lambda root: cut(root, 30),
        lambda root: change(root, b'{"n":3}', b'{"n":8}'),
        lambda root: journal_of(root, JOB).unlink(),
        lambda root: head_of(root, JOB).unlink(),
    ],
)
def test_a_dry_run_changes_nothing_and_tells_what_is_then_done(
    root: Path, *, ruin: Callable[[Path], object], accept_loss: bool
) -> None:
    begin(root)
    ruin(root)
    before = files(root)
    with again(root) as manager:
        told = manager.repair(JOB, accept_loss=accept_loss, dry_run=True)
    assert files(root) == before
    assert told.after is None
    assert all(step.would.startswith("would ") for step in told.steps)
    assert again(root).repair(JOB, accept_loss=True).steps == told.steps


def test_a_cut_takes_whole_writes(root: Path) -> None:
    begin(root)
    with CheckpointManager(root) as manager:
        manager.cleanup(JOB, keep_last=5)
        before = manager.seq(JOB)
    put(
        journal_of(root, JOB),
        journal_of(root, JOB).read_bytes() + _two_in_one_write(root, before),
    )
    again(root).list(JOB)  # acknowledges them
    change(root, b'"text":"second"', b'"text":"SECOND"')
    manager = again(root)
    manager.repair(JOB, accept_loss=True)
    assert manager.seq(JOB) == before + 1
    assert repairs(manager)[0]["lost_events"] == 2


def _two_in_one_write(root: Path, seq: int) -> bytes:
    span = [seq + 1, seq + 2]
    prev = last_hash(journal_of(root, JOB).read_bytes())
    first = forged(prev, seq=seq + 1, type="a.note", data={"text": "first"}, span=span)
    second = forged(
        last_hash(first), seq=seq + 2, type="a.note", data={"text": "second"}, span=span
    )
    return first + second


@pytest.mark.parametrize("ruined", ["missing", "first line"])
def test_a_journal_begins_anew_and_says_so(root: Path, ruined: str) -> None:
    begin(root)
    if ruined == "missing":
        journal_of(root, JOB).unlink()
    else:
        change(root, b"job.opened", b"job.openeD")
    manager = again(root)
    manager.repair(JOB, accept_loss=True)
    (repair,) = repairs(manager)
    reason = "journal_missing" if ruined == "missing" else "damaged"
    assert (repair["reason"], repair["lost_events"]) == (reason, 7)
    assert manager.list(JOB) == []
    manager.save(JOB, "again", {})
    assert [e["seq"] for e in again(root).history(JOB)] == [1, 2, 3]  # I3


def test_states_that_cannot_be_read_are_deleted_and_their_events_stay(
    root: Path,
) -> None:
    ids = begin(root)
    with CheckpointManager(root) as manager:
        manager.hold(JOB, ids[3], reason="audit")
    change(root, b'{"n":3}', b'{"n":8}')
    before = journal_of(root, JOB).read_bytes()
    manager = again(root)
    with pytest.raises(LossNotAccepted, match=ids[3]):
        manager.repair(JOB)
    manager.repair(JOB, accept_loss=True)
    assert journal_of(root, JOB).read_bytes().startswith(before)  # I4
    assert [e["type"] for e in manager.history(JOB, after_seq=8)] == [
        *("checkpoint.released", "checkpoint.deleted")
    ]
    manager.save(JOB, "again", {})
    assert manager.verify(JOB, deep=True)[0].ok
    assert [info.checkpoint_id for info in manager.list(JOB)][:5] == [
        *(each for each in ids if each != ids[3])
    ]


def test_damage_and_unreadable_states_are_mended_in_one_go(root: Path) -> None:
    begin(root)
    change(root, b'{"n":1}', b'{"n":8}')
    flip(root, "s4")
    manager = again(root)
    done = manager.repair(JOB, accept_loss=True)
    assert done.after is not None
    assert done.after.ok
    assert [info.step_name for info in manager.list(JOB)] == ["s0", "s2", "s3"]


def test_a_tail_is_settled_without_consent(root: Path) -> None:
    begin(root)
    unheaded(root)
    cut(root, 30)
    manager = again(root)
    (kept, *_) = manager.repair(JOB).steps
    assert kept.did.startswith("kept ")
    assert repairs(manager)[0]["reason"] == "torn_tail"
    assert manager.repair(JOB).steps == ()


def test_a_missing_head_is_made_without_consent(root: Path) -> None:
    begin(root)
    head_of(root, JOB).unlink()
    manager = again(root)
    manager.repair(JOB)
    assert repairs(manager) == [{"reason": "head_missing"}]
    assert read_head(root, JOB).shown.seq == 8


def test_a_bad_tail_without_a_head_takes_consent(root: Path) -> None:
    begin(root)
    head_of(root, JOB).unlink()
    cut(root, 30)
    with pytest.raises(LossNotAccepted):
        again(root).repair(JOB)
    assert not head_of(root, JOB).exists()  # else it looked like a creation cut short
    manager = again(root)
    manager.repair(JOB, accept_loss=True)
    assert len(manager.list(JOB)) == 5


def test_a_poison_mark_is_cleared_by_a_rewrite(root: Path) -> None:
    begin(root)
    head = read_head(root, JOB)
    write_head(root, JOB, head._replace(writing=head.writing + 1, is_poisoned=True))
    inode = journal_of(root, JOB).stat().st_ino
    manager = again(root)
    manager.repair(JOB)
    assert journal_of(root, JOB).stat().st_ino != inode
    assert not read_head(root, JOB).is_poisoned
    assert repairs(manager) == [{"reason": "sync_failed"}]


def test_another_history_than_the_acknowledged_one_is_adopted_with_consent(
    root: Path,
) -> None:
    begin(root)
    head = read_head(root, JOB)
    other = head.shown._replace(hash="0" * 64)
    write_head(
        root, JOB, head._replace(writing=head.writing + 1, shown=other, synced=other)
    )
    manager = again(root)
    manager.repair(JOB, accept_loss=True)
    assert len(manager.list(JOB)) == 6
    assert repairs(manager)[0]["lost_hash"] == "0" * 64


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_a_head_older_than_a_repair_is_settled_and_synced_before_it_shows(
    root: Path, is_elsewhere: bool
) -> None:
    begin(root)
    if is_elsewhere:  # then the repair is told further down than what it gives up
        head = read_head(root, JOB)
        shown = head.shown._replace(seq=head.shown.seq - 1, hash="0" * 64)
        lost = head._replace(writing=head.writing + 1, shown=shown, synced=shown)
        write_head(root, JOB, lost)
    else:
        flip(root)
    before = head_of(root, JOB).read_bytes()
    ids = [info.checkpoint_id for info in _repaired(root)]
    head_of(root, JOB).write_bytes(before)  # a power cut took the head's last move

    disk = FaultyDisk(root)
    assert [info.checkpoint_id for info in again(root, disk).list(JOB)] == ids  # I4

    calls = disk.of("sync_folder", "pwrite", "sync")
    synced = calls.index(Call("sync_folder", "journals"))
    moved = calls.index(Call("pwrite", "heads/etl"), synced)
    # What the next write overwrites still acknowledges what was given up.
    assert calls[moved + 1] == Call("sync", "heads/etl")
    assert read_head(root, JOB).shown.hash == last_hash(
        journal_of(root, JOB).read_bytes()
    )


def test_who_comes_after_a_repairer_that_died_syncs_its_head_first(root: Path) -> None:
    begin(root)
    flip(root)
    _repaired(root)  # one slot is about the new journal, the other about the old one
    disk = FaultyDisk(root)
    with again(root, disk) as manager:
        manager.save(JOB, "more", {})
        calls = disk.of("pwrite", "sync")
        assert calls[0] == Call("sync", "heads/etl")  # I1, I4
        disk.calls.clear()
        manager.save(JOB, "more", {})
        assert Call("sync", "heads/etl") not in disk.calls  # both are about it by now


def _repaired(root: Path) -> list[CheckpointInfo]:
    manager = again(root)
    manager.repair(JOB, accept_loss=True)
    return manager.list(JOB)


def test_a_repair_that_is_under_way_is_not_shown(root: Path) -> None:
    begin(root)
    flip(root)
    disk = FaultyDisk(root)
    with again(root, disk) as manager:
        disk.fail("pwrite", on="heads/etl")
        with pytest.raises(StorageFailed):
            manager.repair(JOB, accept_loss=True)
        with (
            manager._store.storage.job(
                JOB
            ).unsettled(),  # its writer lives, and holds on
            pytest.raises(DamagedJournal),
        ):
            again(root).list(JOB)  # I4
    assert len(again(root).list(JOB)) == 3


def test_another_jobs_journal_is_refused(root: Path) -> None:
    begin(root)
    with CheckpointManager(root) as manager:
        manager.save("other", "s", {})
    replace(journal_of(root, JOB), journal_of(root, "other").read_bytes())
    before = files(root)
    with pytest.raises(CannotRepair) as caught:
        again(root).repair(JOB, accept_loss=True)
    assert "move its files" in str(caught.value.hint)
    assert files(root) == before


def test_a_newer_versions_journal_is_refused(root: Path) -> None:
    begin(root)
    journal = journal_of(root, JOB)
    raw = journal.read_bytes()
    put(journal, raw + forged(last_hash(raw), v=2, seq=8, type="a.note", data={}))
    before = files(root)
    with pytest.raises(CannotRepair) as caught:
        again(root).repair(JOB, accept_loss=True)
    assert caught.value.hint == "upgrade"
    assert files(root) == before


def test_an_unknown_job_cannot_be_repaired(root: Path) -> None:
    with pytest.raises(InvalidArgument, match="no job"):
        again(root).repair("nope", accept_loss=True)
    assert not root.exists()


def test_other_jobs_are_not_disturbed(root: Path) -> None:
    begin(root)  # I10
    with CheckpointManager(root) as manager:
        manager.save("other", "s", {})
        flip(root)
        before = journal_of(root, "other").read_bytes(), read_head(root, "other")
        manager.repair(JOB, accept_loss=True)
        assert (journal_of(root, "other").read_bytes(), read_head(root, "other")) == (
            before
        )
        manager.save("other", "s", {})


@pytest.mark.parametrize(
    "error", [errno.EIO, pytest.param(errno.ENOSPC, marks=pytest.mark.slow)]
)
def test_whichever_call_fails_a_second_try_mends_it(root: Path, error: int) -> None:
    ids = begin(root)
    flip(root)
    damaged = journal_of(root, JOB).read_bytes(), head_of(root, JOB).read_bytes()
    for nth in range(1, _MOST_CALLS):
        replace(journal_of(root, JOB), damaged[0])
        put(head_of(root, JOB), damaged[1])
        disk = FaultyDisk(root, syncs=False)
        fault = disk.fail("", nth, error=error)
        with suppress(MilepostError, OSError), again(root, disk) as unlucky:
            unlucky.repair(JOB, accept_loss=True)
        manager = again(root)
        manager.repair(JOB, accept_loss=True)
        assert [info.checkpoint_id for info in manager.list(JOB)] == ids[:3]
        lost = [each.get("lost_events", 0) for each in repairs(manager)]
        assert (lost[0], sum(lost)) == (3, 3)
        assert len(salvaged(root)) == 1
        if not fault.has_fired:
            return
    raise AssertionError("the repair never ends")


def test_a_full_disk_changes_nothing(root: Path) -> None:
    begin(root)
    flip(root)
    before = journal_of(root, JOB).read_bytes(), head_of(root, JOB).read_bytes()
    disk = FaultyDisk(root)
    disk.fail("append", error=errno.ENOSPC)
    with pytest.raises(NoSpace):
        again(root, disk).repair(JOB, accept_loss=True)
    assert before == (
        journal_of(root, JOB).read_bytes(),
        head_of(root, JOB).read_bytes(),
    )
    assert not [*(root / "journals").glob("*.copy")]


def test_a_repair_that_failed_leaves_no_head_that_says_nothing(root: Path) -> None:
    begin(root)
    head_of(root, JOB).unlink()
    cut(root, 30)
    disk = FaultyDisk(root)
    disk.fail("append", error=errno.ENOSPC)
    with pytest.raises(NoSpace):
        again(root, disk).repair(JOB, accept_loss=True)
    assert not head_of(root, JOB).exists()


def test_what_a_failed_repair_kept_is_not_told_as_cut(root: Path) -> None:
    begin(root)
    sound = journal_of(root, JOB).read_bytes()
    flip(root)
    disk = FaultyDisk(root)
    disk.fail("rename", on=".jsonl")
    with pytest.raises(StorageFailed):
        again(root, disk).repair(JOB, accept_loss=True)
    assert salvaged(root)
    put(journal_of(root, JOB), sound)  # from a backup
    (note,) = look(root).notes
    assert "is from an unfinished repair" in note
    manager = again(root)
    manager.save(JOB, "next", {})
    assert repairs(manager) == []


def test_what_was_given_up_leaves_the_disk_after_the_trash_period(
    root: Path, clock: Clock
) -> None:
    begin(root)  # I9
    flip(root)
    manager = CheckpointManager(root, clock=clock)
    manager.repair(JOB, accept_loss=True)
    assert salvaged(root)
    clock.turn(days=8)
    assert manager.compact(JOB) is not None
    assert not salvaged(root)
    assert look(root).ok


def test_a_store_that_may_only_be_read_is_left_alone(root: Path) -> None:
    begin(root)
    flip(root)
    before = files(root)
    disk = FaultyDisk(root)
    disk.set(Fault("make_folder", error=errno.EROFS))
    with pytest.raises(ReadOnlyStore):
        again(root, disk).repair(JOB, accept_loss=True)
    assert {path: value[2] for path, value in files(root).items()} == {
        path: value[2] for path, value in before.items()
    }
