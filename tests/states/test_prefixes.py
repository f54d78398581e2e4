"""Deltas whose prefix has other states before the base: each message is stored once."""

from __future__ import annotations

import binascii
import random
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from milepost import CheckpointManager, Key, KeyRing
from milepost.journal.crypto.envelope import StateAddress
from milepost.journal.errors import NewerFormat, UnreadableState
from milepost.journal.states import (
    delta,
    delta_chain,
    line_codec,
    state_digest,
    zstd,
)
from milepost.journal.states.encoding import Body
from milepost.journal.storage.files.storage import FileStorage
from tests.support.faults import FaultyDisk, journal_of
from tests.support.lines import Draft as Forged
from tests.support.lines import append_as_newer
from tests.support.threads import JOB, TYPE, Thread

if TYPE_CHECKING:
    from pathlib import Path

    from milepost.journal.states.line_codec import Parts

OLD, NEW = Key("old", bytes(32)), Key("new", bytes(range(32)))
KEYS = KeyRing([OLD])
SECRET = pytest.mark.parametrize("keys", [None, KEYS], ids=["plain", "encrypted"])


def parts_of(manager: CheckpointManager, checkpoint_id: str) -> Parts:
    reader = manager._reader
    view = reader.view(JOB)
    return reader.read(view, view.checkpoints[checkpoint_id].seq).parts


def seq_of(manager: CheckpointManager, checkpoint_id: str) -> int:
    return manager._reader.view(JOB).checkpoints[checkpoint_id].seq


def stored(manager: CheckpointManager, checkpoint_id: str) -> Any:
    """Return a state as the journal has it, proved by its digest.

    Check that not much more is read for it than may be.
    """
    reader = manager._reader
    seq, view = seq_of(manager, checkpoint_id), reader.view(JOB)
    found = delta_chain.prove(seq, partial(reader.read, view))
    assert found.stored_bytes < 1.3 * delta.most_to_read(len(found.raw))
    return orjson.loads(found.raw)


def check(root: Path, thread: Thread, keys: KeyRing | None = None) -> None:
    """Check all live states of a thread in a new process."""
    with CheckpointManager(root, keys=keys) as fresh:
        for info in fresh.list(JOB):
            state = thread.states[info.checkpoint_id]
            assert stored(fresh, info.checkpoint_id) == state  # I5
        assert fresh.verify(JOB, deep=True)[0].ok
        assert fresh.diagnose(JOB, deep=True)[0].verdict.value == "sound"


def fill(thread: Thread, steps: int) -> list[tuple[str, str]]:
    """Append a long message and its state, then the same of short ones."""
    thread.say(3000)
    thread.put()
    return [(thread.say(), thread.put()) for _ in range(steps)]


@SECRET
@pytest.mark.parametrize("typed", [{}, TYPE], ids=["JSON", "opaque"])
def test_each_message_is_stored_once(
    root: Path, keys: KeyRing | None, typed: dict[str, str]
) -> None:
    with CheckpointManager(root, keys=keys, durability="never") as manager:
        thread = Thread(manager, typed=typed)
        states = [parts_of(manager, state) for _, state in fill(thread, 70)]
    assert sum(len(parts.content) for parts in states) < 70 * 100
    assert {len(parts.plus) for parts in states} == {1, 4, 16, 64}
    check(root, thread, keys)


@SECRET
def test_messages_count_in_what_a_state_depends_on(
    root: Path, keys: KeyRing | None
) -> None:
    with CheckpointManager(root, keys=keys, durability="never") as manager:
        thread = Thread(manager, window=3)
        for _ in range(90):
            said = thread.say(1500)
            thread.put()
        check(root, thread, keys)
        manager.delete(JOB, said, purge=True)
    check(root, thread, keys)


def test_a_put_reads_nothing_in_the_process_that_wrote_the_thread(root: Path) -> None:
    disk = FaultyDisk(root)
    with CheckpointManager(storage=FileStorage(root, disk=disk)) as manager:
        thread = Thread(manager, typed=TYPE)
        fill(thread, 3)
        before = len(disk.of("read"))
        thread.say()
        latest = thread.put()
        assert {call.path for call in disk.of("read")[before:]} == {f"heads/{JOB}"}
        assert len(parts_of(manager, latest).plus) == 4


@SECRET
def test_a_new_process_goes_on_with_the_messages_that_it_reads(
    root: Path, keys: KeyRing | None
) -> None:
    with CheckpointManager(root, keys=keys) as manager:
        thread = Thread(manager, typed=TYPE)
        fill(thread, 14)
        thread.say()
    with CheckpointManager(root, keys=keys) as thread.manager:
        thread.put()
        thread.say()
        assert len(parts_of(thread.manager, thread.put()).plus) == 16
    check(root, thread, keys)


def test_messages_under_another_key_are_in_no_prefix(root: Path) -> None:
    with CheckpointManager(root, keys=KEYS) as manager:
        thread = Thread(manager)
        fill(thread, 3)
    with CheckpointManager(root, keys=KeyRing([NEW, OLD])) as thread.manager:
        assert parts_of(thread.manager, thread.put()).base == 0
        thread.say()
        assert len(parts_of(thread.manager, thread.put()).plus) == 1
        thread.manager.compact(JOB, rewrap=True)
    check(root, thread, KeyRing([NEW]))


def test_the_newest_messages_are_taken_if_they_are_too_many(root: Path) -> None:
    with CheckpointManager(root, durability="never") as manager:
        thread = Thread(manager)
        fill(thread, 1)
        said = [thread.say(20) for _ in range(delta.MAX_PLUS + 5)]
        parts = parts_of(manager, thread.put())
        assert [*parts.plus] == [seq_of(manager, each) for each in said[5:]]
    check(root, thread)


def test_the_newest_messages_are_taken_if_they_are_too_large(root: Path) -> None:
    def compressible(manager: CheckpointManager, text: str) -> str:
        packed = manager._packer.whole(orjson.dumps({"message": text}))
        return thread.save({"message": text}, packed, aside=True)

    with CheckpointManager(root) as manager:
        thread = Thread(manager)
        fill(thread, 0)
        said = [compressible(manager, letter * 30_000) for letter in "abcd"]
        parts = parts_of(manager, thread.put())
        assert [*parts.plus] == [seq_of(manager, each) for each in said[2:]]
    check(root, thread)


# -- what another process removes ------------------------------------------------------


@SECRET
@pytest.mark.parametrize("gone", [["base"], [0], [1, 2], [3], ["base", 0, 1, 2, 3]])
def test_a_compaction_drops_any_state_of_a_prefix(
    root: Path, keys: KeyRing | None, gone: list[str | int]
) -> None:
    with CheckpointManager(root, keys=keys, durability="never") as manager:
        thread = Thread(manager)
        thread.say(3000)
        base = thread.put()
        steps = [(thread.say(), thread.put()) for _ in range(20)]
        of_stride_4 = parts_of(manager, steps[3][1])
        assert of_stride_4.base == seq_of(manager, base)
        ids = {"base": base, **dict(enumerate(said for said, _ in steps))}
        assert [*of_stride_4.plus] == [seq_of(manager, ids[n]) for n in range(4)]
        dropped = {seq_of(manager, ids[name]) for name in gone}
        manager.trash_seconds = 0
        for name in gone:  # a purge compacts in any case
            manager.delete(JOB, ids[name], purge=name == gone[-1])
        for info in manager.list(JOB):
            parts = parts_of(manager, info.checkpoint_id)
            assert dropped.isdisjoint({parts.base, *parts.plus})
        left = parts_of(manager, steps[3][1]).plus
        assert len(left) == sum(n not in gone for n in range(4))
        thread.say()
        thread.put()
    check(root, thread, keys)


@pytest.mark.parametrize("typed", [{}, TYPE], ids=["JSON", "opaque"])
@pytest.mark.parametrize("how", ["deleted", "purged", "compacted"])
def test_a_state_is_stored_whole_if_a_message_of_its_prefix_left_meanwhile(
    root: Path, how: str, typed: dict[str, str]
) -> None:
    with CheckpointManager(root) as manager, CheckpointManager(root) as other:
        thread = Thread(manager, typed=typed)
        fill(thread, 2)
        said = thread.say()
        state, packed = thread.packed()
        assert packed.body.plus
        if how == "compacted":  # a message that came after the state was packed
            said = thread.say()
        other.delete(JOB, said, purge=how != "deleted")
        parts = parts_of(manager, thread.save(state, packed))
        assert parts.codec == ("zstd" if typed else "json")
    check(root, thread)


def test_a_prefix_of_another_fold_is_not_used(root: Path) -> None:
    with CheckpointManager(root) as manager, CheckpointManager(root) as other:
        thread = Thread(manager)
        fill(thread, 2)
        thread.say()
        _, packed = thread.packed()
        packer = manager._packer
        assert packer.is_usable(packed, manager._reader.view(JOB))
        assert not packer.is_usable(packed, other._reader.view(JOB))


@SECRET
@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_deleted_and_compacted_all_that_is_live_restores(
    root: Path, keys: KeyRing | None, seed: int
) -> None:
    source = random.Random(seed)
    manager = CheckpointManager(root, keys=keys, durability="never")
    typed, window = source.choice([{}, TYPE]), source.choice([0, 4])
    thread = Thread(manager, typed=typed, window=window, seed=seed)
    fill(thread, 5)
    trash: list[str] = []
    used = 0
    for _ in range(60):
        live = [info.checkpoint_id for info in manager.list(JOB)]
        match source.choice("ssppppddducr"):
            case "s":
                thread.say(source.choice([20, 700, 3000]))
            case "p":
                used += len(parts_of(manager, thread.put()).plus)
            case "d" if len(live) > 1:
                trash.append(source.choice(live))
                manager.delete(JOB, trash[-1])
            case "u" if trash:
                manager.undelete(JOB, trash.pop(source.randrange(len(trash))))
            case "c":
                manager.trash_seconds = 0
                manager.compact(JOB)
                manager.trash_seconds = 1000
                trash.clear()
            case "r":
                manager.close()
                manager = CheckpointManager(root, keys=keys, durability="never")
                thread.manager = manager
    manager.close()
    assert used
    check(root, thread, keys)


# -- damage and other programs ---------------------------------------------------------


@SECRET
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"plus":[5,6]', b'"plus":[3,6]'),
        (b'"plus":[5,6]', b'"plus":[6,5]'),
        (b'"plus":[5,6]', b'"plus":[6]'),
        (b'"plus":[5,6]', b'"plus":[5,6,6]'),
        (b',"plus":[5,6]', b""),
    ],
    ids=["another", "swapped", "one missing", "one more", "all missing"],
)
def test_a_prefix_that_is_not_the_one_that_was_written_is_refused(
    root: Path, keys: KeyRing | None, before: bytes, after: bytes
) -> None:
    def read(seq: int) -> delta_chain.Member:
        state, event = reader.stored(view).lines(seq)
        if seq == latest:
            assert before in state
            body = state.replace(before, after)[:-18]
            state = b'%b,"crc":"%08x"}' % (body, zlib.crc32(body))
        return delta_chain.member((state, event), view.address_of(seq), reader.vault)

    with CheckpointManager(root, keys=keys) as manager:
        thread = Thread(manager)
        thread.say(3000)
        thread.say(3000)
        thread.put()
        thread.say()
        thread.say()
        latest = seq_of(manager, thread.put())
        reader = manager._reader
        view = reader.view(JOB)
        with pytest.raises(UnreadableState, match="body" if keys else "digest|state 7"):
            delta_chain.prove(latest, read)


@pytest.mark.parametrize(
    ("plus", "problem"),
    [
        ([8], "which is later"),
        ([9], "which is later"),
        ([1], "event 1 is missing, or has no state"),
        ([5], "which is a delta or too large"),
        ([6], "which is a delta or too large"),
        ([7, 7], "which is a delta or too large"),
    ],
    ids=["itself", "later", "no state", "a delta", "too large", "too large together"],
)
def test_a_state_that_no_prefix_may_have_is_refused(
    root: Path, plus: list[int], problem: str
) -> None:
    with CheckpointManager(root) as manager:
        thread = Thread(manager, "job")
        fill(thread, 1)
        for size_bytes in (70_000, 40_000):
            message = {"message": "x" * size_bytes}
            packed = manager._packer.whole(orjson.dumps(message))
            thread.save(message, packed, aside=True)
        live = manager.list("job")
    raw, salt = b'{"n":1}', bytes(16)
    frame = binascii.b2a_base64(zstd.compress(raw, bytes(8)), newline=False)
    state = b'"codec":"zstd-delta","base":3,"depth":1,"plus":%b,"salt":"%b","body":"%b"'
    state %= orjson.dumps(plus), salt.hex().encode(), frame
    data = {"checkpoint_id": "forged_1", "step_name": "s", "parent": 3}
    data |= {"state_digest": state_digest.digest(salt, b"", raw), "state_bytes": 7}
    append_as_newer(root, Forged("checkpoint.saved", data=data, state=state))
    with CheckpointManager(root) as manager:
        with pytest.raises(UnreadableState, match=problem):
            manager.get("job", "forged_1")
        assert "forged_1" in str(manager.verify("job", deep=True)[0].problem)
        for info in live:
            assert manager.get("job", info.checkpoint_id).state
        manager.delete("job", "forged_1", purge=True)
        thread.manager = manager
        thread.say()
        thread.put()
        assert manager.verify("job", deep=True)[0].ok


@pytest.mark.parametrize("needed", [2, 3])
def test_a_compaction_that_drops_what_a_newer_codec_needs_is_refused(
    root: Path, needed: int
) -> None:
    with CheckpointManager(root) as manager:
        ids = [manager.save("job", "s", {"n": n}) for n in range(3)]
    state = (
        b'"codec":"zstd-next","base":2,"depth":1,"plus":[3],"salt":"%032x","body":"A"'
    )
    data = {"state_digest": "0" * 64, "state_bytes": 5}
    append_as_newer(root, Forged("task.done", data=data, state=state % 0))
    with (
        CheckpointManager(root) as manager,
        pytest.raises(NewerFormat, match="zstd-next"),
    ):
        manager.delete("job", ids[needed - 2], purge=True)
    with CheckpointManager(root) as manager:
        assert b'{"state":%d,' % needed in journal_of(root, "job").read_bytes()
        assert manager.get("job", ids[2]).state == {"n": 2}


def test_a_delta_is_in_no_prefix(root: Path) -> None:
    with CheckpointManager(root) as manager:
        thread = Thread(manager)
        fill(thread, 1)
        reader = manager._reader
        view = reader.view(JOB)
        message, state = [*view.checkpoints.after(0)][-2:]
        for candidates, taken in (
            ([message.seq], (message.seq,)),
            ([message.seq, state.seq], ()),
        ):
            packed = manager._packer.pack(
                view,
                orjson.dumps(thread.states[state.checkpoint_id]),
                reader.read,
                bases=[state],
                plus=lambda *_, found=candidates: found,
            )
            assert packed.body.plus == taken


def test_all_that_was_read_counts_as_read(root: Path) -> None:
    with CheckpointManager(root) as manager:
        thread = Thread(manager)
        fill(thread, 2)
        view = manager._reader.view(JOB)
        members = {seq: manager._reader.read(view, seq) for seq in range(2, 8)}
    of_plus = members[6]
    members[6] = of_plus._replace(parts=of_plus.parts._replace(key_id="old"))
    found = delta_chain.unpack(7, members.__getitem__)
    read = [7, 5, 6, 4, 3]  # the chain, and its messages
    assert found.stored_bytes == sum(members[seq].stored_bytes for seq in read)
    assert found.key_ids == {"", "old"}


def test_the_longest_header_is_within_its_bound() -> None:
    last = 10**19 - 1
    body = Body("zstd-delta", b"", last, last, (last,) * delta.MAX_PLUS)
    key, address = Key("k" * 32, bytes(32)), StateAddress("s", "j", last)
    encoded = line_codec.encode_state(b"{}", {"n": 1}, body, key=key)
    line = line_codec.state_line(encoded, address)
    header = line_codec.read_header(line[: line_codec.HEADER_BYTES], seq=last)
    assert header == line_codec.read_header(line, seq=last)
    assert line.startswith(b'"', header.start)
