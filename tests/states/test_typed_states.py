"""States that are no JSON, of a version to come: kept whole, and never read as JSON."""

from __future__ import annotations

import binascii
import random
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager
from milepost.journal.errors import NewerFormat, UnreadableState
from milepost.journal.states import delta_chain, state_digest, zstd
from milepost.journal.states.access import Vault
from tests.support.faults import journal_of
from tests.support.lines import Draft, append_as_newer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.clock import Clock

BASE = {"words": "one two three four five six seven " * 90}
MSGPACK = b"\x81\xa1n" + random.Random(1).randbytes(2000)


def append(
    root: Path, raw: bytes, *, base: bytes = b"", bound: bytes = b"", **more: Any
) -> None:
    """Append a save of bytes that only a newer version can read, behind one of ours.

    `bound` is what its digest is of, if not of `raw`.
    """
    salt = bytes(16)
    frame = binascii.b2a_base64(zstd.compress(raw, base), newline=False)
    codec = b'"zstd-delta","base":2,"depth":1' if base else b'"zstd"'
    state = b'"codec":%b,"salt":"%b","body":"%b"' % (codec, salt.hex().encode(), frame)
    data = {"checkpoint_id": "typed_1", "step_name": "s", "parent": 2}
    data |= {"state_digest": state_digest.digest(salt, b"", bound or raw)}
    data |= {"state_bytes": len(raw), "state_type": "msgpack"}
    append_as_newer(root, Draft("checkpoint.saved", data=data, state=state), **more)


def raw_of(manager: CheckpointManager, seq: int) -> bytes:
    view = manager._store.readable("job")

    def read(wanted: int) -> delta_chain.Member:
        lines = manager._reader.stored(view).lines(wanted)
        return delta_chain.member(lines, view.address_of(wanted), Vault())

    return delta_chain.unpack(seq, read).raw


@pytest.fixture
def first(root: Path) -> str:
    """The id of a checkpoint of ours, seq 2 of "job"."""
    with CheckpointManager(root) as manager:
        return manager.save("job", "s", BASE)


@pytest.mark.usefixtures("first")
def test_it_is_listed_and_never_read_as_json(root: Path) -> None:
    append(root, b'{"looks":"like JSON"}')
    with CheckpointManager(root) as manager:
        with pytest.raises(NewerFormat, match="'msgpack', which this version"):
            manager.restore("job", "typed_1")
        assert [info.step_name for info in manager.list("job")] == ["s", "s"]
        last = manager.save("job", "s", {**BASE, "n": 2})
        assert manager.get("job", last).state == {**BASE, "n": 2}


@pytest.mark.usefixtures("first")
def test_it_is_proved_all_the_same(root: Path) -> None:
    append(root, MSGPACK, bound=MSGPACK[::-1])
    with (
        CheckpointManager(root) as manager,
        pytest.raises(UnreadableState, match="digest"),
    ):
        manager.restore("job", "typed_1")


@pytest.mark.usefixtures("first")
def test_a_tail_that_holds_one_is_kept(root: Path) -> None:
    append(root, MSGPACK, is_acknowledged=False)
    with CheckpointManager(root) as manager:
        assert manager.list("job")[-1].checkpoint_id == "typed_1"
        assert manager.verify("job")[0].ok


def test_a_compaction_tells_it_anew_and_not_as_json(
    root: Path, first: str, clock: Clock
) -> None:
    with CheckpointManager(root) as manager:
        base = raw_of(manager, 2)
    append(root, MSGPACK, base=base)
    with CheckpointManager(root, clock=clock) as manager:
        manager.delete("job", first, purge=True)
        assert raw_of(manager, 3) == MSGPACK  # I5
    assert b'"codec":"json"' not in journal_of(root, "job").read_bytes()
