"""The files of a store: what they may be, whose they are, and who else shows them."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import stat
import struct
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager
from milepost.journal.errors import (
    Conflict,
    MilepostError,
    NoSpace,
    ReadOnlyStore,
    StorageFailed,
)
from milepost.journal.storage.files.storage import FileStorage
from milepost.worker.config.settings import ConfigError, load
from milepost.worker.schedule.last_runs import LastRuns, TaskRecord
from milepost.worker.status import LEASE
from tests.support.cli import call
from tests.support.faults import head_of, in_child, journal_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JOB = "etl"
USER, GROUP, OTHER = 2001, 2002, 2003
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes owners")


@pytest.fixture
def root(entered_by_all: Path) -> Path:
    return entered_by_all / "store"


def saved(root: Path, job: str = JOB, **more: object) -> str:
    with CheckpointManager(root) as manager:
        return manager.save(job, "step", {"rows": 1, **more})


def as_user(uid: int, gid: int, work: Callable[[], object]) -> object:
    """Return what `work` returns as that user, or the text of its error."""

    def become_and_work() -> object:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        try:
            return work()
        except MilepostError as exc:
            return f"{exc.code}: {exc}; {exc.hint}"

    return in_child(become_and_work)


def owned_store(root: Path, *, mode: int = 0o700) -> None:
    """Make a store of `USER` with two checkpoints."""
    root.mkdir()
    root.chmod(mode)
    os.chown(root, USER, GROUP)
    as_user(USER, GROUP, lambda: [saved(root), saved(root)])


def access_of(path: Path) -> tuple[int, int, int, bytes]:
    found = path.stat()
    try:
        acl = os.getxattr(path, "system.posix_acl_access")
    except OSError:
        acl = b""
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode), acl


# -- who may use them ------------------------------------------------------------------


def rewrite_by_compaction(root: Path) -> None:
    with CheckpointManager(root) as manager:
        first = manager.list(JOB)[0].checkpoint_id
        manager.delete(JOB, first, purge=True)


def rewrite_by_unsharing(root: Path) -> None:
    os.link(journal_of(root, JOB), root.parent / "journal")
    os.link(head_of(root, JOB), root.parent / "head")
    saved(root)


def rewrite_by_repair(root: Path) -> None:
    path = journal_of(root, JOB)
    with path.open("r+b") as file:
        file.seek(-40, os.SEEK_END)
        file.write(b"#")
    with CheckpointManager(root) as manager:
        manager.repair(JOB, accept_loss=True)


REWRITES = [rewrite_by_compaction, rewrite_by_unsharing, rewrite_by_repair]


@needs_root
@pytest.mark.parametrize("rewrite", REWRITES)
def test_a_rewrite_by_root_leaves_every_file_to_its_owner(
    root: Path, rewrite: Callable[[Path], None]
) -> None:
    owned_store(root)
    files = [journal_of(root, JOB), head_of(root, JOB)]
    for path in files:
        path.chmod(0o640)
    before = [access_of(path) for path in files]
    inode = files[0].stat().st_ino
    rewrite(root)
    assert files[0].stat().st_ino != inode
    assert [access_of(path) for path in files] == before
    assert before[0][:3] == (USER, GROUP, 0o640)
    assert "step_" in str(as_user(USER, GROUP, lambda: saved(root)))


@needs_root
@pytest.mark.parametrize("rewrite", REWRITES)
def test_an_acl_and_labels_survive_a_rewrite(
    root: Path, rewrite: Callable[[Path], None]
) -> None:
    owned_store(root)
    path = journal_of(root, JOB)
    entries = [(1, 6, -1), (2, 4, OTHER), (4, 0, -1), (16, 4, -1), (32, 0, -1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *e) for e in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", acl)
        os.setxattr(path, "user.origin", b"here")
    except OSError as exc:
        pytest.skip(f"no ACL or no user attributes here: {exc}")
    before = access_of(path)
    rewrite(root)
    assert access_of(path) == before
    assert os.getxattr(path, "user.origin") == b"here"


@needs_root
@pytest.mark.parametrize("rewrite", REWRITES[:2])
def test_who_cannot_keep_the_owner_puts_nothing_in_place(
    root: Path, rewrite: Callable[[Path], None]
) -> None:
    owned_store(root)
    root.parent.chmod(0o777)
    for path in [root, *root.rglob("*")]:  # OTHER is in the group, and may write
        path.chmod(0o770 if path.is_dir() else 0o660)
    before = journal_of(root, JOB).stat().st_ino
    said = str(as_user(OTHER, GROUP, lambda: rewrite(root)))
    assert "cannot replace" in said
    assert f"{USER}:{GROUP}" in said
    assert journal_of(root, JOB).stat().st_ino == before
    assert sorted(p.name for p in (root / "journals").iterdir()) == ["etl.jsonl"]
    assert sorted(p.name for p in (root / "heads").iterdir()) == ["etl"]


@needs_root
def test_what_root_makes_in_a_users_store_is_the_users(root: Path) -> None:
    owned_store(root)
    saved(root, "new")
    made = [root, *root.rglob("*")]
    assert {(p.stat().st_uid, p.stat().st_gid) for p in made} == {(USER, GROUP)}
    said = as_user(USER, GROUP, lambda: [saved(root, "new"), saved(root)])
    assert isinstance(said, list), said


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_store_is_private_unless_it_is_said_to_be_shared(
    root: Path, umask: int
) -> None:
    def make() -> None:
        os.umask(umask)
        root.mkdir(mode=0o777)
        root.chmod(0o775)
        saved(root)

    in_child(make)
    for path in root.rglob("*"):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


@needs_root
def test_two_users_of_a_group_share_a_store_that_was_made_for_them(root: Path) -> None:
    def make() -> str:
        os.umask(0o007)
        with CheckpointManager(root, shared="group") as manager:
            return manager.save(JOB, "step", {})

    root.parent.chmod(0o777)
    assert "step_" in str(as_user(USER, GROUP, make))
    assert stat.S_IMODE((root / "journals").stat().st_mode) == 0o2770
    assert stat.S_IMODE((root / "store.json").stat().st_mode) == 0o660

    def go_on() -> list[str]:
        os.umask(0o007)
        return [saved(root), saved(root, "second")]

    assert isinstance(as_user(OTHER, GROUP, go_on), list)
    assert isinstance(as_user(USER, GROUP, go_on), list)
    said = str(as_user(OTHER, OTHER, lambda: saved(root)))
    assert said.startswith("read_only"), said


# -- what they may be ------------------------------------------------------------------


def _fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(path.parent, os.O_RDONLY)
        try:
            listener.bind(f"/proc/self/fd/{here}/{path.name}")
        finally:
            os.close(here)


def _folder(path: Path) -> None:
    path.mkdir()


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 7))  # /dev/full
    except PermissionError as exc:
        pytest.skip(f"no devices here: {exc}")


@pytest.mark.parametrize("make", [_fifo, _socket, _folder, _loop, _device])
@pytest.mark.parametrize("which", [journal_of, head_of])
def test_what_is_no_file_stops_its_own_job_only(
    root: Path,
    make: Callable[[Path], None],
    which: Callable[[Path, str], Path],
) -> None:
    saved(root)
    saved(root, "other")
    path = which(root, JOB)
    path.unlink()
    make(path)
    with CheckpointManager(root) as manager:
        with pytest.raises(MilepostError, match=r"etl"):
            manager.save(JOB, "step", {})
        with pytest.raises(MilepostError, match=r"etl"):
            manager.list(JOB)
        assert manager.save("other", "step", {})
        found = {each.job_id: each.ok for each in manager.diagnose()}
        assert found == {JOB: False, "other": True}


@pytest.mark.parametrize("make", [_fifo, _socket, _folder, _loop, _device])
def test_a_store_json_that_is_no_file_is_refused(
    root: Path, make: Callable[[Path], None]
) -> None:
    saved(root)
    (root / "store.json").unlink()
    make(root / "store.json")
    with pytest.raises(StorageFailed, match=r"store\.json"):
        FileStorage(root).create()


# -- short writes ----------------------------------------------------------------------


@pytest.mark.parametrize("room", range(0, 56, 5))
def test_a_store_without_room_for_its_first_file_is_made_once_there_is(
    root: Path, room: int
) -> None:
    def without_room() -> str:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        with pytest.raises(NoSpace) as caught:
            saved(root)
        return caught.value.code

    assert in_child(without_room) == "no_space"
    assert [path for path in root.rglob("*") if path.is_file()] == []
    assert saved(root)


# -- other names -----------------------------------------------------------------------


def test_a_copy_by_hard_links_stays_what_it_is_and_both_stores_go_on(
    root: Path,
) -> None:
    ids = [saved(root, n=n) for n in range(3)]
    with CheckpointManager(root) as manager, CheckpointManager(root) as rival:
        assert len(rival.list(JOB)) == 3  # both have its files open
        copy = root.parent / "copy"
        shutil.copytree(root, copy, copy_function=os.link)
        before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
        ids += [manager.save(JOB, "s", {}), rival.save(JOB, "s", {})]
        manager.delete(JOB, ids[0], purge=True)
        ids.append(rival.save(JOB, "s", {}))
        assert {p: p.read_bytes() for p in before} == before
        assert [c.checkpoint_id for c in manager.list(JOB)] == ids[1:]
    with CheckpointManager(copy) as snapshot:
        assert [c.checkpoint_id for c in snapshot.list(JOB)] == ids[:3]
        assert snapshot.restore(JOB, ids[0]) == {"rows": 1, "n": 0}
        snapshot.save(JOB, "s", {})
    for each in (root, copy):
        with CheckpointManager(each) as again:
            assert again.verify(JOB, deep=True)[0].ok


@pytest.mark.parametrize("which", [journal_of, head_of])
def test_reading_replaces_no_file_that_has_other_names(
    root: Path, which: Callable[[Path, str], Path]
) -> None:
    saved(root)
    os.link(which(root, JOB), root.parent / "copy")
    before = which(root, JOB).stat().st_ino
    with CheckpointManager(root) as manager:
        assert len(manager.list(JOB)) == 1
    assert which(root, JOB).stat().st_ino == before


# -- the other files -------------------------------------------------------------------


def run_once(root: Path, task: str = "cleanup") -> None:
    storage = FileStorage(root)
    runs = LastRuns(storage)
    runs.write(task, TaskRecord(datetime(2026, 11, 23, tzinfo=UTC)))
    lease = storage.lease(LEASE)
    assert lease.acquire(LEASE)
    lease.release()


RECORDS = ["last-runs", "worker.lease", "worker.lock"]


@needs_root
def test_what_a_workers_run_by_root_leaves_is_the_owners(root: Path) -> None:
    owned_store(root)
    run_once(root)
    made = [*(root / "records").rglob("*"), root / "records"]
    assert {(p.stat().st_uid, p.stat().st_gid) for p in made} == {(USER, GROUP)}
    as_user(USER, GROUP, lambda: run_once(root))
    assert sorted(path.name for path in (root / "records").iterdir()) == RECORDS


@needs_root
def test_in_a_shared_store_every_member_of_the_group_works(root: Path) -> None:
    owned_store(root)
    for path in (root, *root.rglob("*")):
        path.chmod(0o2770 if path.is_dir() else 0o660)

    def work(task: str) -> None:
        os.umask(0o007)
        run_once(root, task)

    assert as_user(USER, GROUP, lambda: work("cleanup")) is None
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (root / "records").iterdir()}
    assert modes == {0o660}
    assert as_user(USER + 1, GROUP, lambda: work("purge")) is None
    assert as_user(USER, GROUP, lambda: work("compact")) is None
    assert LastRuns(FileStorage(root)).read().keys() == {"cleanup", "purge", "compact"}


@needs_root
def test_who_may_only_read_a_store_sees_its_records_and_changes_none(
    root: Path,
) -> None:
    owned_store(root)
    for path in (root, *root.rglob("*")):
        path.chmod(0o750 if path.is_dir() else 0o640)
    run_once(root)
    storage = FileStorage(root)
    lease = storage.lease(LEASE)
    assert lease.acquire(LEASE)

    def look() -> list[object]:
        here = FileStorage(root)
        found: list[object] = [[*LastRuns(here).read()]]
        holder = here.lease(LEASE).holder()
        assert holder is not None
        found.append(holder.fence)
        for attempt in (
            lambda: here.record("last-runs").compare_and_set(None, b""),
            lambda: run_once(root),
            lambda: here.lease("other").acquire("work"),
        ):
            try:
                attempt()
            except (ReadOnlyStore, Conflict) as exc:
                found.append(exc.code)
        return found

    wanted = [["cleanup"], 2, "conflict", "read_only", "read_only"]
    assert as_user(USER + 1, GROUP, look) == wanted


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("make", [_fifo, _socket, _folder, _loop])
def test_a_record_that_is_no_file_is_refused(
    root: Path, make: Callable[[Path], None], name: str
) -> None:
    saved(root)
    (root / "records").mkdir()
    make(root / "records" / name)
    with pytest.raises(StorageFailed, match=name):
        run_once(root)
    assert FileStorage(root).lease(LEASE).holder() is None


def test_records_are_not_written_through_their_other_names(root: Path) -> None:
    saved(root)
    run_once(root)
    copies = root.parent / "copies"
    shutil.copytree(root / "records", copies, copy_function=os.link)
    before = {path: path.read_bytes() for path in copies.iterdir()}
    run_once(root, "purge")
    assert {path: path.read_bytes() for path in copies.iterdir()} == before
    shared = (copies / "worker.lock").stat().st_ino
    assert (root / "records/worker.lock").stat().st_ino != shared


def test_a_config_file_that_is_a_fifo_is_refused_and_not_waited_for(
    tmp_path: Path,
) -> None:
    _fifo(tmp_path / "config.toml")
    with pytest.raises(ConfigError, match="a FIFO"):
        load(tmp_path / "config.toml", environ={})


def test_an_output_file_keeps_its_mode_and_is_replaced_whole(
    folder: Path,
) -> None:
    saved(folder / "checkpoints")
    goal = folder / "out.json"
    goal.touch()
    goal.chmod(0o604)
    os.link(goal, folder / "copy")
    assert call("restore", JOB, "-o", str(goal)).code == 0
    assert goal.read_bytes() == b'{"rows":1}\n'
    assert stat.S_IMODE(goal.stat().st_mode) == 0o604
    assert (folder / "copy").read_bytes() == b""
