"""A state line may stand above any event: its data says so, not its type."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager
from milepost.journal.crypto.keys import Key, KeyRing
from milepost.journal.states import line_codec

if TYPE_CHECKING:
    from pathlib import Path

    from milepost.journal.batch import Batch

JOB = "etl"
RAW = b'["a result",1]'  # no object, as a checkpoint's state is
OLD, NEW = Key("old", bytes(32)), Key("new", bytes(range(32)))


def note(manager: CheckpointManager, key: Key | None = None) -> int:
    """Write, as a newer version would, an event of an unknown type with a state."""
    encoded = line_codec.encode_state(RAW, None, key=key)
    data = {"state_digest": encoded.digest, "state_bytes": encoded.raw_bytes, "n": 1}

    def request(batch: Batch) -> int:
        return batch.add("task.noted", "next", data, encoded)

    return manager._store.write(JOB, request)


def lines_of(root: Path, seq: int) -> tuple[bytes, bytes]:
    """Return the state line and the event line of event `seq`."""
    lines = (root / "journals" / f"{JOB}.jsonl").read_bytes().splitlines()
    (at,) = (n for n, x in enumerate(lines) if x.startswith(b'{"state":%d,' % seq))
    return lines[at], lines[at + 1]


@pytest.mark.parametrize("key", [None, OLD], ids=["plain", "encrypted"])
def test_the_state_of_an_unknown_event_survives_writes_compaction_and_new_keys(
    root: Path, key: Key | None
) -> None:
    keys = None if key is None else KeyRing([key])
    with CheckpointManager(root, keys=keys) as manager:
        gone = manager.save(JOB, "a", {"n": 1})
        seq = note(manager, key)
        manager.save(JOB, "b", {"n": 2})
        state, event = lines_of(root, seq)
        manager.delete(JOB, gone, purge=True)
        assert lines_of(root, seq) == (state, event)  # I4
    keys = None if key is None else KeyRing([NEW, OLD])
    with CheckpointManager(root, keys=keys) as manager:
        assert manager.compact(JOB, rewrap=True) is not None
        rekeyed, same = lines_of(root, seq)
        assert (rekeyed == state, same) == (key is None, event)
        assert manager.verify(JOB, deep=True)[0].notes == ()
        assert manager.diagnose(JOB, deep=True)[0].verdict.value == "sound"
        assert manager.diagnose(JOB, deep=True)[0].notes == ()
        assert sum(manager.keys_in_use().values()) == 2
        assert set(manager.keys_in_use()) == {"" if key is None else "new"}
        assert manager.save(JOB, "c", {"n": 3})
        assert [info.step_name for info in manager.list(JOB)] == ["b", "c"]


@pytest.mark.parametrize("deep", [False, True])
def test_a_damaged_state_of_an_unknown_event_is_reported_and_stops_no_write(
    root: Path, deep: bool
) -> None:
    with CheckpointManager(root) as manager:
        manager.save(JOB, "a", {"n": 1})
        seq = note(manager)
        manager.save(JOB, "b", {"n": 2})
    journal = root / "journals" / f"{JOB}.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"a result", b"A result"))
    with CheckpointManager(root) as manager:
        for found in (
            manager.verify(JOB, deep=deep)[0],
            manager.diagnose(JOB, deep=deep)[0],
        ):
            assert (
                f"the state of event {seq} (no checkpoint) is damaged" in found.notes[0]
            )
        assert manager.save(JOB, "c", {"n": 3})


def test_a_state_of_an_unknown_event_counts_as_no_save_for_keep_rules(
    root: Path,
) -> None:
    with CheckpointManager(root) as manager:
        manager.save(JOB, "a", {"n": 1})
        note(manager)
        manager.save(JOB, "b", {"n": 2})
        view = manager._reader.view(JOB)
        saves = [entry.seq for entry in view.checkpoints.after(0)]
        assert [*map(view.sizes.number_of, saves)] == [1, 2]
