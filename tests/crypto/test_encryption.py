"""Encryption at rest: nothing readable on the disk, and no tampering goes unseen."""

from __future__ import annotations

import logging
import random
import re
import signal
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from benchmarks.states import chat, text
from milepost import CheckpointManager, Key, KeyRing, MemoryStorage
from milepost.journal.crypto import envelope
from milepost.journal.crypto.envelope import BodyHeader, DataKey
from milepost.journal.errors import (
    Conflict,
    KeyNeeded,
    MilepostError,
    MissingKey,
    NewerFormat,
    PlaintextRefused,
    UnreadableState,
)
from milepost.journal.states import delta_chain, line_codec
from milepost.journal.states.access import Vault
from milepost.journal.storage.files.storage import FileStorage
from tests.support.faults import FaultyDisk, head_of, journal_of
from tests.support.servers import SERVING, ask, staying

if TYPE_CHECKING:
    from pathlib import Path

    from milepost.journal.states.state_digest import DecodedState
    from tests.support.clock import Clock

JOB = "etl"
K1, K2 = Key("k1", b"\x01" * 32), Key("k2", b"\x02" * 32)
OLD, NEW = KeyRing([K1]), KeyRing([K2, K1])
STATE = {"rows": 1200, "secret": "Zanzibar-state"}
META = {"table": "Zanzibar-metadata"}


def opened(root: Path, keys: KeyRing | None = OLD, **more: Any) -> CheckpointManager:
    return CheckpointManager(root, keys=keys, **more)


def saved(root: Path, job: str = JOB, **more: Any) -> str:
    with opened(root) as manager:
        return manager.save(job, "step", STATE, metadata=META, **more)


def state_lines(root: Path, job: str = JOB) -> list[bytes]:
    lines = journal_of(root, job).read_bytes().splitlines()
    return [line for line in lines if line.startswith(b'{"state"')]


def with_crc(line: bytes) -> bytes:
    """Return a state line with the checksum that it must have."""
    body = line[:-18]
    return b'%b,"crc":"%08x"}' % (body, zlib.crc32(body))


def put_line(root: Path, old: bytes, new: bytes, job: str = JOB) -> None:
    """Put one state line in place of another."""
    journal = journal_of(root, job)
    data = journal.read_bytes()
    assert data.count(old) == 1
    journal.write_bytes(data.replace(old, new))


def refused(root: Path, checkpoint_id: str, job: str = JOB) -> MilepostError:
    with opened(root) as manager, pytest.raises(MilepostError) as caught:
        manager.get(job, checkpoint_id)
    assert isinstance(caught.value, (UnreadableState, NewerFormat))
    return caught.value


# -- what comes back, and what does not lie about --------------------------------------


@pytest.mark.parametrize("codec", ["json", "zstd", "auto"])
def test_every_state_comes_back_under_every_codec(root: Path, codec: Any) -> None:
    states = chat(12, 5000)
    with opened(root, durability="never", codec=codec) as manager:
        ids = [manager.save(JOB, "turn", s, metadata={"n": 1}) for s in states]
    lines = state_lines(root)
    assert all(b'"alg":"A256GCM"' in line for line in lines)
    assert any(b'"zstd-delta"' in line for line in lines) == (codec == "auto")
    with opened(root) as fresh:
        assert [fresh.get(JOB, id_).state for id_ in ids] == states  # I5
        assert all(info.metadata == {"n": 1} for info in fresh.list(JOB))
        assert fresh.verify(JOB, deep=True)[0].ok


def test_a_store_in_memory_is_encrypted_too() -> None:
    storage = MemoryStorage()
    manager = CheckpointManager(storage=storage, keys=OLD)
    checkpoint_id = manager.save(JOB, "step", STATE, metadata=META)
    assert b"Zanzibar" not in b"".join(storage.job(JOB).lines(2))
    assert manager.restore(JOB, checkpoint_id) == STATE


def test_a_state_line_has_no_salt_in_the_clear(root: Path) -> None:
    saved(root)
    (line,) = state_lines(root)
    assert list(orjson.loads(line)) == [
        *("state", "alg", "key", "wrapped", "codec"),
        *("metadata_bytes", "metadata", "body", "crc"),
    ]


def test_equal_states_have_nothing_equal_on_the_disk(root: Path) -> None:
    saved(root)
    saved(root)
    first, second = map(orjson.loads, state_lines(root))
    for field in ("wrapped", "metadata", "body"):
        assert first[field] != second[field]


def test_encrypted_deltas_still_pay_for_changes_only(root: Path) -> None:
    states = chat(100)
    with opened(root, durability="never") as manager:
        for state in states:
            manager.save(JOB, "turn", state)
    raw = sum(len(orjson.dumps(state)) for state in states)
    assert journal_of(root, JOB).stat().st_size < raw / 15


def test_recovery_needs_no_key_to_keep_what_a_stale_head_does_not_know(
    root: Path,
) -> None:
    saved(root)
    head = head_of(root, JOB).read_bytes()
    last = saved(root)
    head_of(root, JOB).write_bytes(head)  # as after a power cut
    with opened(root, None) as manager:
        assert [info.checkpoint_id for info in manager.list(JOB)][-1] == last  # I1
    with opened(root) as manager:
        assert manager.get(JOB, last).state == STATE


def test_a_fork_and_a_repeated_save_work_with_keys(root: Path) -> None:
    first = saved(root, idempotency_key="once")
    assert saved(root, idempotency_key="once") == first
    with opened(root) as manager:
        with pytest.raises(Conflict):
            manager.save(JOB, "step", {"other": 1}, idempotency_key="once")
        copy = manager.fork(JOB, first, "other")
    with opened(root) as fresh:
        assert fresh.get("other", copy).state == STATE
        assert fresh.list("other")[0].metadata == META


def test_nothing_readable_is_left_on_the_disk_or_in_the_log(
    root: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    disk = FaultyDisk(root)
    storage = FileStorage(root, disk=disk)
    manager = CheckpointManager(storage=storage, keys=OLD, clock=clock)
    for n in range(8):
        state = {**STATE, "n": n, "long": "Zanzibar " * (200 * n)}
        ids = [manager.save(JOB, "step", state, metadata=META)]
    for operation in ("append", "sync", "pwrite", "stat", "read"):
        disk.fail(operation)
        with suppress(MilepostError):
            ids.append(manager.save(JOB, "step", STATE, metadata=META))
    with opened(root, clock=clock) as fresh:
        fresh.restore(JOB, ids[0])
        fresh.save(JOB, "again", {**STATE, "n": 9}, metadata=META)
        fresh.cleanup(JOB, keep_last=1)
        clock.turn(days=30)
        fresh.compact(JOB)
        last = fresh.list(JOB)[-1].checkpoint_id
    (tail,) = state_lines(root)[-1:]
    first = tail.index(b'"body":"') + 8
    bad = with_crc(tail[:first] + bytes([tail[first] ^ 1]) + tail[first + 1 :])
    put_line(root, tail, bad)
    refused(root, last)
    put_line(root, bad, tail)
    with journal_of(root, JOB).open("ab") as journal:
        journal.write(tail[:80])  # a torn tail, which recovery keeps aside
    with opened(root) as fresh, suppress(MilepostError):
        fresh.save(JOB, "after", STATE, metadata=META)
    files = [path for path in root.rglob("*") if path.is_file()]
    assert any(path.parent.name == "salvage" for path in files)
    assert not [path for path in files if b"Zanzibar" in path.read_bytes()]
    assert "Zanzibar" not in caplog.text
    for key in (K1, OLD):
        assert key.__repr__().find("0101") < 0


def spoil(root: Path) -> None:
    """Change the first digit of the last state's body; its checksum fits."""
    line = state_lines(root)[-1]
    at = line.index(b'"body":"') + 8
    put_line(root, line, with_crc(line[:at] + bytes([line[at] ^ 1]) + line[at + 1 :]))


def test_a_server_in_trouble_says_nothing_that_is_secret(folder: Path) -> None:
    root, key = folder / "s", K1.material.hex()
    body = {"job_id": JOB, "step_name": "s", "state": STATE, "metadata": META}
    bad = [{**body, "step_name": 7}, {**body, "more": META}, {**body, "state": "x"}]
    environ = {"MILEPOST_KEYS": f"k:{key}", "MILEPOST_STORE_ROOT": str(root)}
    with staying("serve", "--port", "0", **environ) as server:
        port = int(server.wait_for(SERVING)[2])
        told = [ask(port, "POST", "/api/checkpoints", asked) for asked in (body, *bad)]
        assert [status for status, _ in told] == [201, 422, 422, 422]
        spoil(root)
        target = f"/api/checkpoints/{told[0][1]['checkpoint_id']}"
        assert ask(port, "GET", target)[0] == 400
        assert server.stop(signal.SIGTERM) == 0
    assert "does not decrypt" in server.said
    files = [path.read_bytes() for path in root.rglob("*") if path.is_file()]
    for secret in ("Zanzibar", key):
        assert secret not in server.said
        assert not [data for data in files if secret.encode() in data]


# -- tampering -------------------------------------------------------------------------


def test_a_flipped_bit_anywhere_on_a_line_is_refused_though_its_checksum_fits(
    root: Path,
) -> None:
    checkpoint_id = saved(root)
    (line,) = state_lines(root)
    storage = FileStorage(root, disk=FaultyDisk(root, syncs=False))
    manager = CheckpointManager(storage=storage, keys=OLD)
    journal = journal_of(root, JOB)
    data = journal.read_bytes()
    start = data.index(line)
    for at in range(2, len(line) - 18):  # what is no state line damages the journal
        for mask in (0x01, 0x20):
            flipped = bytearray(line)
            flipped[at] ^= mask
            if flipped[at] == ord("\n") or flipped[2] != ord("s"):
                continue
            with journal.open("r+b") as file:
                file.seek(start)
                file.write(with_crc(bytes(flipped)))
            with pytest.raises((UnreadableState, NewerFormat)):
                manager.get(JOB, checkpoint_id)
    journal.write_bytes(data)


def test_a_body_of_another_save_of_the_same_job_is_refused(root: Path) -> None:
    first, second = saved(root), saved(root)
    one, two = state_lines(root)
    put_line(root, two, with_crc(one.replace(b'{"state":2', b'{"state":3')))
    assert "data key" in str(refused(root, second))
    with opened(root) as manager:
        assert manager.get(JOB, first).state == STATE


def test_a_ciphertext_beside_the_data_key_of_another_is_refused(root: Path) -> None:
    saved(root)
    second = saved(root)
    one, two = state_lines(root)
    wrapped = re.search(rb'"wrapped":"[^"]*"', two)
    assert wrapped
    mixed = re.sub(rb'"wrapped":"[^"]*"', wrapped[0], one)
    put_line(root, two, with_crc(mixed.replace(b'{"state":2', b'{"state":3')))
    assert "body" in str(refused(root, second))


def test_a_line_of_another_job_is_refused(root: Path) -> None:
    checkpoint_id = saved(root, "a")
    saved(root, "b")
    put_line(root, state_lines(root, "a")[0], state_lines(root, "b")[0], "a")
    assert "data key" in str(refused(root, checkpoint_id, "a"))


def test_a_line_of_another_store_is_refused(root: Path) -> None:
    other = root.with_name("other")
    checkpoint_id = saved(root)
    saved(other)
    put_line(root, state_lines(root)[0], state_lines(other)[0])
    assert "data key" in str(refused(root, checkpoint_id))


def test_a_line_that_names_another_key_is_refused(root: Path) -> None:
    checkpoint_id = saved(root)
    (line,) = state_lines(root)
    put_line(root, line, with_crc(line.replace(b'"key":"k1"', b'"key":"k2"')))
    with opened(root, NEW) as manager, pytest.raises(UnreadableState, match="data key"):
        manager.get(JOB, checkpoint_id)


def test_bits_that_base64_does_not_use_are_not_free_to_flip() -> None:
    secret, form = DataKey.new(K1), BodyHeader("json", 0, 0, 1)
    for size in range(1, 4):
        text = envelope.seal_body(secret, form, b"x" * size)
        assert envelope.open_body(secret, form, text, 1) == b"x" * size
        end = text.rstrip(b"=")
        others = (end[:-1] + bytes([c]) + text[len(end) :] for c in range(43, 123))
        for other in others:
            if other != text:
                with pytest.raises(UnreadableState):
                    envelope.open_body(secret, form, other, 1)


def test_another_key_of_the_same_id_opens_nothing(root: Path) -> None:
    checkpoint_id = saved(root)
    wrong = KeyRing([Key("k1", b"\x09" * 32)])
    with opened(root, wrong) as manager:
        with pytest.raises(UnreadableState, match="data key"):
            manager.get(JOB, checkpoint_id)
        with pytest.raises(UnreadableState, match="data key"):
            manager.list(JOB)


def opened_by_hand(root: Path, line: bytes) -> DecodedState:
    """Open the only state of the store from `line`, whatever its length.

    In the file a line of another length does not fit what the head says, and the whole
    job is refused before.
    """
    with opened(root) as manager:
        lines = (line, journal_of(root, JOB).read_bytes().splitlines()[-1])
        address = manager._store.view(JOB).address_of
    return delta_chain.open_state(
        2, lambda seq: delta_chain.member(lines, address(seq), Vault(OLD))
    )


def test_an_encrypted_line_with_a_salt_in_the_clear_is_refused(root: Path) -> None:
    saved(root)
    (line,) = state_lines(root)
    salt = b',"salt":"%b","metadata_bytes"' % (b"0" * 32)
    with pytest.raises(NewerFormat):
        opened_by_hand(root, with_crc(line.replace(b',"metadata_bytes"', salt)))


@pytest.mark.parametrize("cut", [1, 4, 30, 60])
def test_a_truncated_body_is_refused(root: Path, cut: int) -> None:
    saved(root)
    (line,) = state_lines(root)
    assert opened_by_hand(root, line).state == STATE
    with pytest.raises(UnreadableState, match="body"):
        opened_by_hand(root, with_crc(line[: -19 - cut] + line[-19:]))


def test_metadata_that_is_taken_away_is_missed(root: Path) -> None:
    saved(root)
    (line,) = state_lines(root)
    gone = re.sub(rb',"metadata_bytes":\d+,"metadata":"[^"]*"', b"", line)
    assert gone != line
    with pytest.raises(UnreadableState, match="digest"):
        opened_by_hand(root, with_crc(gone))


def test_a_plain_line_of_the_same_state_is_refused(root: Path) -> None:
    saved(root)
    encoded = line_codec.encode_state(orjson.dumps(STATE), META)
    with opened(root) as manager:
        address = manager._store.view(JOB).address_of(2)
    with pytest.raises(PlaintextRefused):
        opened_by_hand(root, line_codec.state_line(encoded, address)[:-1])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (rb'"codec":"zstd"', rb'"codec":"json"'),
        (rb'"base":\d+', rb'"base":2'),
        (rb'"depth":\d+', rb'"depth":9'),
    ],
)
def test_a_form_that_is_not_the_one_that_was_encrypted_is_refused(
    root: Path, before: bytes, after: bytes
) -> None:
    with opened(root, durability="never") as manager:
        ids = [manager.save(JOB, "turn", state) for state in chat(4, 5000)]
    lines = state_lines(root)
    at = 0 if b"codec" in before else 3
    changed = re.sub(before, after, lines[at])
    assert changed != lines[at]
    assert len(changed) == len(lines[at])
    put_line(root, lines[at], with_crc(changed))
    assert "body" in str(refused(root, ids[at]))


# -- plaintext, and keys that are not there --------------------------------------------


def test_a_plain_state_in_a_store_with_keys_is_refused_unless_allowed(
    root: Path,
) -> None:
    with opened(root, None) as manager:
        plain = manager.save(JOB, "step", STATE, metadata=META)
    with opened(root) as manager:
        with pytest.raises(PlaintextRefused) as caught:
            manager.get(JOB, plain)
        assert caught.value.code == "plaintext_refused"
        assert "allow_plaintext" in str(caught.value.hint)
        (info,) = manager.list(JOB)
        assert info.metadata == {}
        assert info.metadata_problem is not None
        assert info.metadata_problem.code == PlaintextRefused.code
        (report,) = manager.verify(JOB, deep=True)
        assert not report.ok
    with opened(root, allow_plaintext=True) as manager:
        assert manager.get(JOB, plain).state == STATE
        assert manager.list(JOB)[0].metadata == META
        assert manager.list(JOB)[0].metadata_problem is None


def test_no_encrypted_state_is_told_from_a_plain_one(root: Path) -> None:
    states = chat(3, 5000)
    with opened(root, None) as manager:
        manager.save(JOB, "turn", states[0])
    with opened(root, allow_plaintext=True) as manager:
        ids = [manager.save(JOB, "turn", state) for state in states[1:]]
    with opened(root) as strict:
        assert [strict.get(JOB, id_).state for id_ in ids] == states[1:]


@pytest.mark.parametrize("keys", [None, KeyRing([K2])])
def test_without_its_key_a_state_is_refused_by_name_and_the_rest_goes_on(
    root: Path, keys: KeyRing | None
) -> None:
    checkpoint_id = saved(root)
    with opened(root, keys) as manager:
        for ask in (manager.get, manager.restore):
            with pytest.raises(MissingKey, match="'k1'") as caught:
                ask(JOB, checkpoint_id)
        assert caught.value.code == "missing_key"
        assert caught.value.key_id == "k1"
        (info,) = manager.list(JOB)
        assert (info.step_name, info.metadata) == ("step", {})
        assert info.metadata_problem is not None
        assert info.metadata_problem.code == MissingKey.code
        (report,) = manager.verify(JOB, deep=True)
        assert report.ok
        assert report.notes == ("1 state not checked: key 'k1' is missing",)
        if keys is None:
            with pytest.raises(KeyNeeded, match="encrypted"):
                manager.save(JOB, "step", {"rows": 1})
            return
        newer = manager.save(JOB, "step", {"rows": 1})
        assert manager.get(JOB, newer).state == {"rows": 1}


def test_a_dropped_key_takes_exactly_its_own_states(root: Path) -> None:
    states = chat(8, 5000)
    ids = []
    for keys, part in ((OLD, states[:4]), (NEW, states[4:])):
        with opened(root, keys, durability="never") as manager:
            ids += [manager.save(JOB, "turn", state) for state in part]
            assert manager.get(JOB, ids[0]).state == states[0]
    with opened(root, KeyRing([K2])) as manager:
        for checkpoint_id in ids[:4]:
            with pytest.raises(MissingKey):
                manager.get(JOB, checkpoint_id)
        assert [manager.get(JOB, id_).state for id_ in ids[4:]] == states[4:]
        assert manager.keys_in_use() == {"k1": 4, "k2": 4}


# -- rotation --------------------------------------------------------------------------


def without_wrap(line: bytes) -> bytes:
    line = re.sub(rb'"key":"[^"]*","wrapped":"[^"]*"', b"", line)
    return line[:-18]


def test_a_compaction_rewraps_and_leaves_ciphertext_and_events_as_they_are(
    root: Path, clock: Clock
) -> None:
    states = chat(8, 5000)
    with opened(root, durability="never", clock=clock) as manager:
        gone = manager.save(JOB, "gone", {"x": 1})
        ids = [manager.save(JOB, "turn", s, metadata=META) for s in states]
        manager.delete(JOB, gone)
    before = state_lines(root)
    clock.turn(days=30)
    with opened(root, NEW, clock=clock) as manager:
        events = manager.history(JOB)
        assert manager.compact(JOB) is not None
        assert manager.history(JOB)[: len(events)] == events  # I4
        assert manager.keys_in_use() == {"k2": 8}
    assert [*map(without_wrap, before[1:])] == [*map(without_wrap, state_lines(root))]
    with opened(root, KeyRing([K2])) as manager:
        assert [manager.get(JOB, id_).state for id_ in ids] == states  # I5
        assert manager.list(JOB)[0].metadata == META
        assert manager.verify(JOB, deep=True)[0].ok


def test_a_state_that_a_compaction_reencodes_stays_encrypted(
    root: Path, clock: Clock
) -> None:
    states = chat(8, 5000)
    with opened(root, durability="never", clock=clock) as manager:
        ids = [manager.save(JOB, "turn", s, metadata=META) for s in states]
        manager.delete(JOB, ids[0])
    clock.turn(days=30)
    with opened(root, NEW, clock=clock) as manager:
        done = manager.compact(JOB)
        assert done is not None
        assert done.reencoded > 0
    assert all(b'"key":"k2"' in line for line in state_lines(root))
    with opened(root, KeyRing([K2])) as manager:
        assert [manager.get(JOB, id_).state for id_ in ids[1:]] == states[1:]  # I5
        assert manager.list(JOB)[0].metadata == META


def test_a_compaction_without_keys_copies_what_it_cannot_read(
    root: Path, clock: Clock
) -> None:
    with opened(root, durability="never", clock=clock) as manager:
        gone = manager.save(JOB, "gone", {"x": 1})
        kept = manager.save(JOB, "turn", STATE, metadata=META)
        manager.delete(JOB, gone)
    before = state_lines(root)
    clock.turn(days=30)
    with opened(root, None, clock=clock) as manager:
        assert manager.compact(JOB) is not None
    assert state_lines(root) == before[1:]
    with opened(root) as manager:
        assert manager.get(JOB, kept).state == STATE


def test_a_tampered_line_is_not_rewrapped(root: Path) -> None:
    saved(root)
    (line,) = state_lines(root)
    with opened(root) as manager:
        address = manager._store.view(JOB).address_of
        vault = Vault(NEW)
        assert vault.rewrap(line, address(2)) != line
        assert Vault(OLD).rewrap(line, address(2)) == line
        assert Vault().rewrap(line, address(2)) == line
        with pytest.raises(UnreadableState, match="checksum"):
            vault.rewrap(line.replace(b'"body":"', b'"body":"A'), address(2))
        with pytest.raises(UnreadableState, match="data key"):
            vault.rewrap(line, address(2)._replace(job_id="other"))


def test_large_metadata_is_listed_too(root: Path) -> None:
    meta = {"note": text(random.Random(1), 20_000)}
    with opened(root) as manager:
        manager.save(JOB, "step", STATE, metadata=meta)
        assert manager.list(JOB)[0].metadata == meta
