"""Keys that change: rotations, drops and generations against each other and kills."""

from __future__ import annotations

import os
import signal
import struct
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, Key, KeyRing
from milepost.api import create_app
from milepost.journal.crypto.key_record import KeyRecord
from milepost.journal.errors import (
    DroppedKey,
    KeyNeeded,
    MilepostError,
    Protected,
    UnusableKeys,
)
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.storage.memory import MemoryStorage
from milepost.journal.store.dropped_keys import DroppedKeys
from tests.support.cli import call
from tests.support.client import client_of
from tests.support.faults import Fault, FaultyDisk, children, in_child

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.storage.contract import Storage

JOB = "etl"
OLD, NEW = Key("old", bytes(32)), Key("new", bytes([1]) * 32)
GROUP = 2002
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes owners")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def opened(root: Path, *keys: Key, **more: Any) -> CheckpointManager:
    return CheckpointManager(root, keys=KeyRing(keys) if keys else None, **more)


def saved(root: Path, *keys: Key, **more: Any) -> str:
    with opened(root, *keys, **more) as manager:
        return manager.save(JOB, "step", {"secret": "hunter2"})


# -- an encrypted store says so --------------------------------------------------------


def _by_library(root: Path) -> str:
    try:
        return saved(root)
    except KeyNeeded as exc:
        return f"{exc.code} {exc.hint}"


def _by_fork(root: Path) -> str:
    with opened(root, OLD) as manager:
        origin = manager.list(JOB)[0].checkpoint_id
    with opened(root, allow_plaintext=True) as manager:
        reader = manager._reader
        reader.vault = reader.vault._replace(keys=KeyRing([OLD]))  # it reads
        manager._store.key_id = ""  # and writes without
        try:
            return manager.fork(JOB, origin, "copy")
        except KeyNeeded as exc:
            return f"{exc.code} {exc.hint}"


def _by_command(root: Path) -> str:
    done = call("--store", str(root), "save", JOB, "--step", "s", stdin="{}")
    assert done.code == 1
    assert done.out == ""
    return f"key_needed {done.err}"


def _by_http(root: Path) -> str:
    with opened(root) as manager:
        body = {"job_id": JOB, "step_name": "s", "state": {"secret": "hunter2"}}
        answer = client_of(create_app(manager)).post("/api/checkpoints", json=body)
        assert answer.status_code == 500
        return str(answer.json())


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("write", [_by_library, _by_fork, _by_command, _by_http])
def test_an_encrypted_store_takes_no_state_of_a_writer_without_a_key(
    root: Path, write: Callable[[Path], str]
) -> None:
    checkpoint_id = saved(root, OLD)
    said = write(root)
    assert "key_needed" in said
    assert "store.key_file" in said or "encrypted" in said
    assert b"hunter2" not in b"".join(
        path.read_bytes() for path in root.rglob("*") if path.is_file()
    )
    with opened(root) as manager:  # what needs no key goes on
        assert [c.checkpoint_id for c in manager.list(JOB)] == [checkpoint_id]
        assert manager.verify(JOB)[0].ok
        assert manager.delete(JOB, checkpoint_id)
    with opened(root, OLD) as manager:
        assert manager.undelete(JOB, checkpoint_id)
        assert manager.get(JOB, checkpoint_id).state == {"secret": "hunter2"}


def test_a_plain_store_is_marked_by_the_first_state_that_is_encrypted(
    root: Path,
) -> None:
    plain = saved(root)
    assert DroppedKeys(FileStorage(root)).read() is None
    with opened(root) as old, opened(root, OLD, allow_plaintext=True) as manager:
        old.list(JOB)
        manager.save(JOB, "step", {})
        assert DroppedKeys(FileStorage(root)).read() == KeyRecord()
        with pytest.raises(KeyNeeded):
            old.save(JOB, "step", {})
        assert manager.get(JOB, plain).state == {"secret": "hunter2"}


# -- a dropped key ---------------------------------------------------------------------


def storages(tmp_path: Path) -> dict[str, Storage]:
    return {"files": FileStorage(tmp_path / "s"), "memory": MemoryStorage()}


@pytest.mark.parametrize("kind", ["files", "memory"])
def test_no_process_that_was_there_before_writes_with_a_dropped_key(
    tmp_path: Path, kind: str
) -> None:
    storage = storages(tmp_path)[kind]

    def with_keys(*keys: Key) -> CheckpointManager:
        return CheckpointManager(storage=storage, keys=KeyRing(keys), trash_seconds=0)

    running, newer = with_keys(OLD), with_keys(NEW, OLD)
    origin = running.save(JOB, "step", {"n": 1})
    assert newer.compact(JOB, rewrap=True) is not None
    newer.drop_key("old")
    for write in (
        lambda: running.save(JOB, "step", {}),
        lambda: running.save("new job", "step", {}),
    ):
        with pytest.raises(DroppedKey, match="'old'") as caught:
            write()
        assert "restart this process" in str(caught.value.hint)
    assert newer.keys_in_use() == {"new": 1}
    with with_keys(NEW) as alone:
        assert alone.get(JOB, origin).state == {"n": 1}
        assert alone.save(JOB, "step", {})


def test_a_compaction_wraps_nothing_under_a_dropped_key(root: Path) -> None:
    saved(root, NEW)
    with opened(root, OLD, NEW, trash_seconds=0) as running:
        gone = running.save(JOB, "step", {})
        running.delete(JOB, gone, purge=True)
        with opened(root, NEW, OLD) as newer:
            newer.compact(JOB, rewrap=True)
            newer.drop_key("old")
        with pytest.raises(DroppedKey):
            running.compact(JOB, rewrap=True)
        assert running.keys_in_use() == {"new": 1}


def test_a_key_that_states_need_is_kept_and_still_written_with(root: Path) -> None:
    saved(root, OLD)
    with opened(root, NEW, OLD) as manager:
        with pytest.raises(Protected, match="1 state needs"):
            manager.drop_key("old")
        assert manager.keys_in_use() == {"old": 1}
    assert saved(root, OLD)
    with opened(root, NEW, OLD) as manager:
        manager.drop_key("old", force=True)
    with pytest.raises(DroppedKey):
        saved(root, OLD)


@pytest.mark.parametrize(("job", "operation"), [(JOB, "append"), ("new", "create")])
def test_a_drop_waits_for_a_write_that_had_looked_before(
    root: Path, job: str, operation: str
) -> None:
    saved(root, NEW)
    outcome: list[object] = []

    def drop() -> None:
        with opened(root, NEW, OLD) as manager:
            try:
                manager.drop_key("old")
            except MilepostError as exc:
                outcome.append(exc)
            else:
                outcome.append("dropped")

    dropping = threading.Thread(target=drop)

    def meanwhile() -> None:  # the write has asked, and has its lock
        dropping.start()
        while DroppedKeys(FileStorage(root)).read() != KeyRecord(frozenset({"old"})):
            time.sleep(0)
        dropping.join(timeout=0.3)  # only who does not wait ends here

    disk = FaultyDisk(root)
    storage = FileStorage(root, disk=disk)
    with CheckpointManager(storage=storage, keys=KeyRing([OLD])) as manager:
        disk.set(Fault(operation, on=f"journals/{job}.jsonl", action=meanwhile))
        checkpoint_id = manager.save(job, "step", {"n": 1})
        dropping.join()
        assert isinstance(outcome[0], Protected), outcome
        assert manager.get(job, checkpoint_id).state == {"n": 1}
        assert manager.save(job, "step", {}), "the drop has taken itself back"


@pytest.mark.usefixtures("folder")
def test_a_server_with_an_old_ring_is_refused_after_rotate_rewrap_and_drop(
    folder: Path,
) -> None:
    (folder / "config.toml").write_text('[store]\nkey_file = "k.keys"\n')
    old = call("keys", "generate").out.strip()
    assert call("save", JOB, "--step", "s", stdin="{}").code == 0
    ring = KeyRing.from_file(folder / "k.keys")
    with CheckpointManager(folder / "checkpoints", keys=ring) as running:
        running.save(JOB, "step", {})
        new = call("keys", "rotate").out.strip()
        assert call("compact", "--rewrap").code == 0
        assert call("keys", "drop", old).code == 0
        with pytest.raises(DroppedKey):
            running.save(JOB, "step", {})
    assert KeyRing.from_file(folder / "k.keys").ids == (new,)
    assert call("show", f"{JOB}@latest").code == 0
    assert call("keys", "drop", old).code == 4


# -- the file --------------------------------------------------------------------------


def at_every_line(work: Callable[[], object], check: Callable[[], None]) -> int:
    """Kill a process that does `work` before each line of ours in turn."""
    for nth in range(1, 2000):

        def run(tell: Callable[[Any], None], nth: int = nth) -> None:
            left = nth

            def trace(frame: Any, event: str, arg: object) -> Any:
                nonlocal left
                del arg
                if "/journal/" not in frame.f_code.co_filename:
                    return None
                if event == "line":
                    left -= 1
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                return trace

            sys.settrace(trace)
            work()
            sys.settrace(None)
            tell("done")

        done: list[Any] = []
        try:
            with children(run) as (child,):
                done = child.hear_all()
        except AssertionError:
            pass  # it was killed
        check()
        if done:
            return nth
    raise AssertionError("it never ends")


@pytest.mark.slow
def test_a_kill_at_any_line_of_a_generation_leaves_a_whole_file_or_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "k.keys"
    monkeypatch.setenv("MILEPOST_STORE_KEY_FILE", str(path))

    def check() -> None:
        if path.exists():
            (made,) = KeyRing.from_file(path).ids
            done = call("keys", "rotate")
            assert done.code == 0, done.err
            assert KeyRing.from_file(path).ids == (done.out.strip(), made)
        else:
            assert call("keys", "generate", str(path)).code == 0
        assert [each.name for each in folder.iterdir()] == ["k.keys"]
        path.unlink()

    assert at_every_line(lambda: call("keys", "generate", str(path)), check) > 50


@pytest.mark.slow
def test_a_kill_at_any_line_of_a_rotation_loses_no_key_and_leaves_no_copy(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "k.keys"
    monkeypatch.setenv("MILEPOST_STORE_KEY_FILE", str(path))
    first = call("keys", "generate", str(path)).out.strip()
    before = path.read_text()

    def check() -> None:
        ids = KeyRing.from_file(path).ids
        assert ids[-1] == first
        assert len(ids) <= 2
        assert path.stat().st_mode & 0o777 == 0o600
        new = call("keys", "rotate").out.strip()
        assert KeyRing.from_file(path).ids == (new, *ids)
        assert [each.name for each in folder.iterdir()] == ["k.keys"]
        path.write_text(before)

    assert at_every_line(lambda: call("keys", "rotate"), check) > 50


def test_rotations_at_once_lose_no_key_that_was_announced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "k.keys"
    monkeypatch.setenv("MILEPOST_STORE_KEY_FILE", str(path))
    announced = [call("keys", "generate", str(path)).out.strip()]

    def rotate(tell: Callable[[Any], None]) -> None:
        for _ in range(5):
            tell(call("keys", "rotate").out.strip())

    with children(rotate, rotate, rotate, rotate) as running:
        for child in running:
            announced += child.hear_all()
    assert "" not in announced
    assert sorted(KeyRing.from_file(path).ids) == sorted(announced)


def test_of_generations_at_once_one_makes_the_file(folder: Path) -> None:
    def generate(tell: Callable[[Any], None]) -> None:
        tell(call("keys", "generate", "k.keys").out.strip())

    with children(*[generate] * 6) as running:
        said = [child.hear() for child in running]
    assert KeyRing.from_file(folder / "k.keys").ids == tuple(filter(None, said))


@needs_root
@pytest.mark.parametrize(
    ("mode", "gid", "why"),
    [
        (0o400, 0, None),
        (0o600, 0, None),
        (0o440, GROUP, None),
        (0o640, GROUP, None),
        (0o440, GROUP + 1, "none of ours"),
        (0o460, GROUP, "may write"),
        (0o444, GROUP, "others"),
        (0o442, GROUP, "others"),
    ],
)
def test_a_key_file_as_kubernetes_mounts_it_is_accepted(
    entered_by_all: Path, mode: int, gid: int, why: str | None
) -> None:
    real = entered_by_all / "..2026" / "k.keys"
    real.parent.mkdir()
    (entered_by_all / "..data").symlink_to("..2026")
    (entered_by_all / "k.keys").symlink_to("..data/k.keys")
    real.write_text(KeyRing([OLD]).to_text())
    os.chown(real, 0, gid)
    real.chmod(mode)

    def read() -> str:
        os.setgroups([GROUP])
        os.setgid(2001)
        if mode & 0o040:
            os.setuid(2001)
        try:
            return ",".join(KeyRing.from_file(entered_by_all / "k.keys").ids)
        except UnusableKeys as exc:
            return str(exc)

    said = in_child(read)
    if why is None:
        assert said == "old"
    elif gid == GROUP + 1:
        assert "Permission denied" in said or why in said
    else:
        assert why in said
        assert f"{mode:04o}" in said


def test_an_acl_that_names_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k.keys"
    path.touch(0o600)
    path.write_text(KeyRing([OLD]).to_text())
    entries = [(1, 6, -1), (2, 4, 4711), (4, 0, -1), (16, 4, -1), (32, 0, -1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *e) for e in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", acl)
    except OSError as exc:
        pytest.skip(f"no ACL here: {exc}")
    with pytest.raises(UnusableKeys, match="ACL"):
        KeyRing.from_file(path)


@pytest.mark.parametrize("verb", [("rotate",), ("drop", "old")])
def test_a_read_only_key_file_is_refused_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...]
) -> None:
    path = folder / "k.keys"
    path.touch(0o600)
    path.write_text(KeyRing([NEW, OLD]).to_text())
    path.chmod(0o400)
    before = path.stat(), path.read_bytes()
    monkeypatch.setenv("MILEPOST_STORE_KEY_FILE", str(path))
    done = call("keys", *verb)
    assert done.code == 1
    assert "read-only (mode 0400)" in done.err.splitlines()[0]
    assert (path.stat().st_ino, path.read_bytes()) == (before[0].st_ino, before[1])
    assert [each.name for each in folder.iterdir()] == ["k.keys"]


def test_a_rotation_keeps_the_mode_and_leaves_a_hard_linked_copy_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "k.keys"
    monkeypatch.setenv("MILEPOST_STORE_KEY_FILE", str(path))
    call("keys", "generate", str(path))
    path.chmod(0o640)
    os.link(path, folder / "copy")
    before = (folder / "copy").read_bytes()
    assert call("keys", "rotate").code == 0
    assert path.stat().st_mode & 0o777 == 0o640
    assert (folder / "copy").read_bytes() == before
