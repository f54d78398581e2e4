"""Deltas whose prefix has other states before the base: each new part is stored once.

A thread appends a message as a state of its own, and then a state that has all of them.
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, Key, KeyRing
from milepost.journal.commands import saving
from milepost.journal.commands.saving import Draft
from milepost.journal.states import delta_chain, line_codec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from milepost.journal.index.job_view import JobView
    from milepost.journal.states.delta import Link
    from milepost.journal.states.packer import Packed

JOB = "thread"
OLD, NEW = Key("old", bytes(32)), Key("new", bytes(range(32)))


def messages_since(view: JobView, base: Link) -> Sequence[int]:
    """Return the messages after a state."""
    return [e.seq for e in view.checkpoints.after(base.seq) if e.labels.is_aside]


class Thread:
    """A thread whose states are opaque bytes; its messages are checkpoints aside."""

    def __init__(self, manager: CheckpointManager) -> None:
        self.manager = manager
        self.raws: dict[str, bytes] = {}
        self.whole = b""
        self._rng = random.Random(3)

    def say(self, size_bytes: int = 700) -> str:
        """Append a message."""
        raw = self._rng.randbytes(size_bytes)
        self.whole += raw
        packed = self.manager._packer.whole(raw, is_json=False)
        return self._save(raw, packed, "message", aside=True)

    def put(self) -> str:
        """Append the state that has all messages."""
        return self._save(self.whole, self.pack(), "state")

    def pack(self) -> Packed:
        reader = self.manager._reader
        view = reader.view(JOB)
        states = view.checkpoints.newest_first()
        return self.manager._packer.pack(
            view,
            self.whole,
            reader.read,
            bases=[entry for entry in states if not entry.labels.is_aside][:1],
            plus=messages_since,
            is_json=False,
        )

    def _save(self, raw: bytes, packed: Packed, step: str, **data: Any) -> str:
        reader, packer = self.manager._reader, self.manager._packer
        key = reader.vault.key
        encoded = line_codec.encode_state(raw, None, packed.body, key=key)
        data |= {"checkpoint_id": "", "step_name": step, "state_type": "bytes"}
        data |= {"state_digest": encoded.digest, "state_bytes": len(raw)}
        draft = Draft(data, raw, packed, encoded)
        save = partial(saving.save, draft=draft, packer=packer, expected_seq=None)
        request = partial(save, is_saved_as=reader.is_saved_as, actor="test")
        saved = self.manager._store.write(JOB, request)
        self.raws[saved.checkpoint_id] = raw
        return saving.remember(packer, draft, saved)


def seq_of(manager: CheckpointManager, checkpoint_id: str) -> int:
    return manager._reader.view(JOB).checkpoints[checkpoint_id].seq


def parts_of(manager: CheckpointManager, checkpoint_id: str) -> line_codec.Parts:
    reader = manager._reader
    view = reader.view(JOB)
    return reader.read(view, view.checkpoints[checkpoint_id].seq).parts


def raw_of(manager: CheckpointManager, checkpoint_id: str) -> bytes:
    """Return a state as the journal has it, proved by its digest."""
    reader = manager._reader
    view = reader.view(JOB)
    seq = view.checkpoints[checkpoint_id].seq
    return delta_chain.prove(seq, partial(reader.read, view)).raw


def fill(thread: Thread, steps: int) -> list[tuple[str, str]]:
    thread.say(3000)
    thread.put()
    return [(thread.say(), thread.put()) for _ in range(steps)]


@pytest.mark.parametrize("keys", [None, KeyRing([OLD])], ids=["plain", "encrypted"])
def test_each_message_is_stored_once(root: Path, keys: KeyRing | None) -> None:
    with CheckpointManager(root, keys=keys) as manager:
        thread = Thread(manager)
        states = [parts_of(manager, put) for _, put in fill(thread, 70)]
    sizes = {len(parts.plus): len(parts.content) for parts in states}
    assert sum(len(parts.content) for parts in states) < 4000, sizes
    assert {*sizes} == {1, 4, 16, 64}
    with CheckpointManager(root, keys=keys) as fresh:
        for checkpoint_id, raw in thread.raws.items():
            assert raw_of(fresh, checkpoint_id) == raw  # I5
        assert fresh.verify(JOB, deep=True)[0].ok
        assert fresh.diagnose(JOB, deep=True)[0].verdict.value == "sound"
