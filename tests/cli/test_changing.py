"""The verbs that change a job: restore, fork, delete, undelete, pin, cleanup."""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from milepost import CheckpointManager
from tests.support.cli import JOB, call, ids_of, types_of
from tests.support.eventually import DEADLINE_SECONDS


def test_one_job_that_cannot_be_compacted_keeps_no_other_from_it(store: Path) -> None:
    call("save", "another", "-", "--step", "one", stdin='{"text": "x"}')
    for job in (JOB, "another"):
        call("delete", f"{job}@latest", "--force")
    journal = store / "journals" / "another.jsonl"
    journal.write_bytes(b"x" + journal.read_bytes()[1:])
    (store.parent / "config.toml").write_text('[retention]\ntrash_period = "0s"\n')

    done = call("compact", "--json")

    assert done.code == 3
    assert [job["job_id"] for job in done.json["data"]["jobs"]] == [JOB]
    assert done.json["data"]["left_out"] == {"another": "damaged"}  # I10


def test_a_compaction_that_was_skipped_is_shown_with_its_reason(store: Path) -> None:
    blocks = [random.Random(n).randbytes(2000).hex() for n in range(8)]
    with CheckpointManager(store) as manager:
        first = manager.save("parts", "all", {"of": blocks})
        for mask in range(1, 256, 9):
            manager.restore("parts", first)
            some = [block * (mask >> n & 1) for n, block in enumerate(blocks)]
            manager.save("parts", "some", {"of": some})
        manager.delete("parts", first)
    (store.parent / "config.toml").write_text('[retention]\ntrash_period = "0s"\n')

    done = call("compact", "parts")
    assert "skipped job parts: its journal would grow by" in done.err
    found = call("compact", "parts", "--json").json["data"]
    assert (found["jobs"], found["bytes_freed"]) == ([], 0)
    assert found["skipped"][0]["growth_bytes"] > 0


def test_restore_prints_the_bytes_that_the_store_has_and_moves_current(
    store: Path,
) -> None:
    done = call("restore", f"{JOB}@first")

    assert done.out == '{"rows":0,"files":["a"]}\n'
    assert types_of(store)[-1] == "checkpoint.restored"
    assert call("show", f"{JOB}@current", "--json").json["data"]["seq"] == 2


def test_a_dry_run_restores_nothing(store: Path) -> None:
    before = types_of(store)

    done = call("restore", f"{JOB}@first", "--dry-run", "--json")

    assert done.json["data"]["state"]["rows"] == 0
    assert types_of(store) == before


@pytest.mark.usefixtures("store")
def test_what_is_restored_to_a_file_can_be_saved_again(folder: Path) -> None:
    done = call("restore", f"{JOB}@3", "-o", "state.json")
    call("save", "copy", "state.json", "--step", "again")

    assert done.out == ""
    assert call("show", "copy").json == call("show", f"{JOB}@3").json
    assert {path.name for path in folder.iterdir()} == {"checkpoints", "state.json"}


@pytest.mark.usefixtures("store")
def test_a_restore_that_fails_leaves_the_old_file_alone(folder: Path) -> None:
    (folder / "state.json").write_text("old")

    assert call("restore", f"{JOB}@99", "-o", "state.json").code == 4
    assert (folder / "state.json").read_text() == "old"
    assert {path.name for path in folder.iterdir()} == {"checkpoints", "state.json"}


def test_a_restore_that_is_refused_leaves_the_old_file_alone(
    store: Path, folder: Path
) -> None:
    (folder / "state.json").write_text("old")

    words = ("restore", f"{JOB}@3", "-o", "state.json", "--expect-seq", "1")

    assert call(*words).code == 5
    assert (folder / "state.json").read_text() == "old"
    assert {path.name for path in folder.iterdir()} == {"checkpoints", "state.json"}
    assert types_of(store)[-1] == "checkpoint.saved"


@pytest.mark.usefixtures("store")
def test_a_file_is_written_and_synced_before_it_takes_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    fsync, rename = os.fsync, os.rename

    def tell_sync(handle: int) -> None:
        told.append(f"sync {Path(f'/proc/self/fd/{handle}').readlink().name}")
        fsync(handle)

    def tell_rename(source: str, goal: str) -> None:
        told.append("rename")
        rename(source, goal)

    monkeypatch.setattr(os, "fsync", tell_sync)
    monkeypatch.setattr(os, "rename", tell_rename)
    call("restore", f"{JOB}@3", "-o", "state.json", "--dry-run")

    sync, *rest = told
    assert sync.startswith("sync .state.json.")
    assert rest == ["rename", f"sync {folder.name}"]


@pytest.mark.usefixtures("store")
def test_a_link_is_written_through_and_rights_are_the_umasks(folder: Path) -> None:
    (folder / "link.json").symlink_to("state.json")

    call("restore", f"{JOB}@3", "-o", "link.json")

    assert (folder / "link.json").is_symlink()
    umask = os.umask(0)
    os.umask(umask)
    assert (folder / "state.json").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.usefixtures("store")
def test_a_named_pipe_is_written_to_and_not_replaced(folder: Path) -> None:
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        try:
            call("restore", f"{JOB}@first", "-o", "pipe")
            assert pipe.is_fifo()
            read, _ = reader.communicate(timeout=DEADLINE_SECONDS)
        finally:
            reader.kill()

    assert read == b'{"rows":0,"files":["a"]}\n'


def test_a_file_that_cannot_be_written_is_found_out_before_anything_is_journaled(
    store: Path,
) -> None:
    before = types_of(store)

    done = call("restore", f"{JOB}@first", "-o", "no/such/folder/state.json")

    assert done.code == 1
    assert done.err.endswith("No such file or directory\n")
    assert types_of(store) == before


def test_a_fork_begins_a_new_job_once(store: Path) -> None:
    done = call("fork", f"{JOB}@3", "retry")

    assert ids_of(store, "retry") == [done.out.strip()]
    assert call("show", "retry").json == call("show", f"{JOB}@3").json
    assert call("fork", f"{JOB}@3", "retry").code == 5


def test_a_deleted_checkpoint_comes_back_by_its_seq_or_id(store: Path) -> None:
    before = ids_of(store)
    for selector in ("3", before[1]):
        assert call("delete", f"{JOB}@{selector}").code == 0
        assert len(ids_of(store)) == 2
        assert call("undelete", f"{JOB}@{selector}").code == 0
        assert ids_of(store) == before


@pytest.mark.usefixtures("store")
def test_undelete_says_when_there_is_nothing_to_bring_back() -> None:
    assert call("undelete", f"{JOB}@99").code == 4
    assert call("undelete", f"{JOB}@1").code == 4
    assert call("undelete", f"{JOB}@no_such_1a2b3c4d").code == 4
    assert call("undelete", f"{JOB}@latest").code == 2
    assert call("undelete", f"{JOB}@3", "--json").json["data"]["changed"] is False


@pytest.mark.usefixtures("store")
def test_a_pin_protects_until_force_or_unpin() -> None:
    assert call("pin", f"{JOB}@3").code == 0
    assert call("delete", f"{JOB}@3").code == 6
    assert call("delete", f"{JOB}@3", "--dry-run").code == 6
    assert call("unpin", f"{JOB}@3").code == 0
    assert call("delete", f"{JOB}@3").code == 0
    assert call("delete", f"{JOB}@4", "--force").code == 0


def test_pinning_twice_is_fine_and_journaled_once(store: Path) -> None:
    call("pin", f"{JOB}@3")

    done = call("pin", f"{JOB}@3", "--json")

    assert done.json["data"]["changed"] is False
    assert types_of(store).count("checkpoint.pinned") == 1


def test_a_dry_delete_says_would_and_deletes_nothing(store: Path) -> None:
    before = types_of(store)

    done = call("delete", f"{JOB}@3", "--dry-run")

    assert done.err.startswith("would delete load_")
    assert types_of(store) == before


@pytest.mark.parametrize("verb", ["delete", "undelete", "pin", "unpin"])
@pytest.mark.usefixtures("store")
def test_what_changes_a_checkpoint_wants_to_know_which(verb: str) -> None:
    assert call(verb, JOB).code == 2
    assert call(verb).code == 2


def test_a_dry_cleanup_names_exactly_what_the_cleanup_removes(store: Path) -> None:
    for n in range(5):
        call("save", JOB, "--step", "more", stdin=json.dumps({"n": n}))
    before = ids_of(store)

    dry = call("cleanup", JOB, "--keep-last", "2", "--dry-run")
    assert ids_of(store) == before
    done = call("cleanup", JOB, "--keep-last", "2", "--json")

    would = {row[0] for row in dry.rows if row[2] == "would delete"}
    assert would == set(before) - set(ids_of(store))
    assert done.json["data"] == {"job_id": JOB, "deleted_count": 5, "kept_count": 3}
    assert any(row[3].startswith("pinned") for row in dry.rows)


@pytest.mark.usefixtures("store")
def test_a_cleanup_with_nothing_to_delete_can_fail() -> None:
    assert call("cleanup", JOB).code == 0
    assert call("cleanup", JOB, "--fail-if-empty").code == 8
    assert call("cleanup", JOB, "--fail-if-empty", "--dry-run").code == 8


@pytest.mark.parametrize("keep_last", ["0", "-1", "three", "1.5", ""])
def test_a_keep_last_that_cannot_be_is_a_usage_error(
    store: Path, keep_last: str
) -> None:
    assert call("cleanup", JOB, f"--keep-last={keep_last}").code == 2
    assert len(ids_of(store)) == 3
