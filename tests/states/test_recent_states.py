"""Restores with a state at hand: quick, and proved as if all had been read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.states import chat
from milepost import CheckpointManager, Key, KeyRing
from milepost.journal.errors import UnknownCheckpoint, UnreadableState
from milepost.journal.states.delta import Link
from milepost.journal.states.recent_states import Known
from milepost.journal.storage.contract import during
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.storage.removals import Removal
from tests.support.faults import FaultyDisk, journal_of

if TYPE_CHECKING:
    from pathlib import Path

    from milepost.journal.storage.contract import HeldJob

JOB = "chat"
STATES = chat(30, 5000)
BASE = 10  # some of the later states are deltas of this one, through others


def fill(manager: CheckpointManager) -> list[str]:
    return [manager.save(JOB, "turn", state) for state in STATES]


def flip_a_byte(root: Path, seq: int) -> None:
    """Change the state line of save `seq` in place, as rot does."""
    at = journal_of(root, JOB).read_bytes().index(b'{"state":%d,' % seq)
    with journal_of(root, JOB).open("r+b") as journal:
        journal.seek(at + 200)
        byte = journal.read(1)
        journal.seek(at + 200)
        journal.write(b"A" if byte != b"A" else b"B")


def test_a_state_that_this_process_saved_or_read_takes_one_read(root: Path) -> None:
    disk = FaultyDisk(root)
    with CheckpointManager(storage=FileStorage(root, disk=disk)) as manager:
        ids = fill(manager)
        for n in (29, 15, 0):
            before = len(disk.of("read"))
            assert manager.get(JOB, ids[n]).state == STATES[n]
            assert len(disk.of("read")) == before + 1
    with CheckpointManager(storage=FileStorage(root, disk=disk)) as manager:
        manager.list(JOB)
        counts = []
        for _ in range(2):
            before = len(disk.of("read"))
            assert manager.get(JOB, ids[29]).state == STATES[29]
            counts.append(len(disk.of("read")) - before)
    assert counts[0] > 2
    assert counts[1] == 1


@pytest.mark.parametrize("wrong", ["the state", "its base"])
def test_what_is_at_hand_but_is_another_state_is_read_from_the_journal(
    root: Path, wrong: str
) -> None:
    with CheckpointManager(root) as manager:
        ids = fill(manager)
    with CheckpointManager(root) as manager:
        event = manager.history(JOB, types=["checkpoint.saved"])[29]
        parts = manager._reader.read(manager._reader.view(JOB), event["seq"]).parts
        assert parts.base
        seq = event["seq"] if wrong == "the state" else parts.base
        other = Known(b'{"messages":[]}', (Link(seq, 0, "another"),), 100)
        manager._reader.recent.put(manager._reader.view(JOB).fold, other)
        assert manager.get(JOB, ids[29]).state == STATES[29]


def test_a_job_that_was_created_again_has_no_states_of_the_one_before(
    root: Path,
) -> None:
    def remove(held: HeldJob) -> None:
        held.remove(Removal(held.position.last, "2026-11-28T05:00:00Z", "me"))

    with CheckpointManager(root) as manager:
        fill(manager)
        during(FileStorage(root).job(JOB).hold(), remove)
        with CheckpointManager(root) as other:
            for state in chat(29, 6000):
                other.save(JOB, "turn", state)
        assert len(manager.list(JOB)) == 29
        latest = manager.save(JOB, "turn", STATES[29])
    with CheckpointManager(root) as fresh:
        assert fresh.get(JOB, latest).state == STATES[29]


def test_rot_of_a_base_is_found_though_it_is_at_hand(root: Path) -> None:
    with CheckpointManager(root) as manager:
        ids = fill(manager)
        view = manager._reader.view(JOB)
        base = manager._reader.read(view, 31).parts.base
        manager.delete(JOB, ids[base - 2])  # only what needs it shows its rot
        flip_a_byte(root, base)
        assert manager.get(JOB, ids[29]).state == STATES[29]
        with pytest.raises(UnreadableState, match=f"state {base} fails its checksum"):
            manager._reader.open(view, view.checkpoints[ids[29]], from_disk=True)
        assert not manager.verify(JOB, deep=True)[0].ok


def test_rot_of_the_state_itself_is_found_though_it_is_at_hand(root: Path) -> None:
    with CheckpointManager(root) as manager:
        ids = fill(manager)
        flip_a_byte(root, 31)
        with pytest.raises(UnreadableState, match="checksum"):
            manager.get(JOB, ids[29])


@pytest.mark.parametrize("gone", ["deleted", "purged", "erased"])
def test_a_state_at_hand_that_another_process_removed_is_refused(
    root: Path, gone: str
) -> None:
    with CheckpointManager(root) as manager, CheckpointManager(root) as other:
        ids = fill(manager)
        assert manager.get(JOB, ids[BASE]).state == STATES[BASE]
        if gone == "erased":
            other.erase(JOB)
        else:
            other.delete(JOB, ids[BASE], purge=gone == "purged")
        with pytest.raises(UnknownCheckpoint):
            manager.get(JOB, ids[BASE])
        if gone != "erased":
            assert manager.get(JOB, ids[29]).state == STATES[29]  # I5


def test_a_state_that_was_read_under_an_old_key_is_no_base_of_a_new_one(
    root: Path,
) -> None:
    old, new = Key.new("old"), Key.new("new")
    with CheckpointManager(root, keys=KeyRing([old])) as manager:
        ids = fill(manager)
    with CheckpointManager(root, keys=KeyRing([new, old])) as manager:
        assert manager.get(JOB, ids[29]).state == STATES[29]
        latest = manager.save(JOB, "turn", STATES[29])
    with CheckpointManager(root, keys=KeyRing([new])) as manager:
        assert manager.get(JOB, latest).state == STATES[29]
