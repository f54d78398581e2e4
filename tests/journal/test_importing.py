"""Folders with one JSON file per checkpoint: noticed, and taken over."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, Imported, Key, KeyRing, Policy
from milepost.api import create_app
from milepost.journal.errors import NotImported, UnknownCheckpoint
from milepost.journal.ids import file_name
from milepost.journal.storage.files.storage import FileStorage
from tests.support.cli import call
from tests.support.client import client_of
from tests.support.faults import Child, Fault, FaultyDisk, die, journal_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.clock import Clock
    from tests.support.faults import Tell

JOB = "job_123"
BEGUN = datetime(2025, 11, 18, 10, 30, 34, 123456, tzinfo=UTC)


def write(folder: Path, job_id: str, n: int, /, **changes: Any) -> str:
    """Write one checkpoint file as the older system did; return its id."""
    at = BEGUN + timedelta(minutes=n)
    checkpoint_id = f"step_{n}_{int(at.timestamp())}_ghi1357{n % 10}"
    data = {
        "checkpoint_id": checkpoint_id,
        "job_id": job_id,
        "step_name": f"step_{n}",
        "state": {"data": "x" * 50, "iteration": n},
        "timestamp": at.isoformat(),
        "workflow_version": "1.0",
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({k: v for k, v in data.items() if v is not ...}, indent=2)
    (folder / f"{checkpoint_id}.json").write_text(text, encoding="utf-8")
    return checkpoint_id


def write_job(root: Path, job_id: str = JOB, count: int = 3) -> list[str]:
    return [write(root / job_id, job_id, n) for n in range(count)]


def files_of(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return every checkpoint file with what a change of it would change."""
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes())
        for path in root.rglob("*_*_*.json")
    }


def ids(manager: CheckpointManager, job_id: str = JOB) -> list[str]:
    return [info.checkpoint_id for info in manager.list(job_id)]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder of the older system, with two jobs."""
    root = tmp_path / "checkpoints"
    write_job(root)
    write_job(root, "job_456", 1)
    return root


# -- noticed ---------------------------------------------------------------------------

ASKING: dict[str, Callable[[CheckpointManager], object]] = {
    "list": lambda m: m.list(JOB),
    "latest": lambda m: m.latest(JOB),
    "current": lambda m: m.current(JOB),
    "get": lambda m: m.get(JOB, "step_0_1737201234_abc12345"),
    "find": lambda m: m.find("step_0_1737201234_abc12345"),
    "restore": lambda m: m.restore(JOB, "step_0_1737201234_abc12345"),
    "page": lambda m: m.page(JOB, limit=1),
    "seq": lambda m: m.seq(JOB),
    "history": lambda m: m.history(JOB),
    "state_at": lambda m: m.state_at(JOB, 1),
    "save": lambda m: m.save(JOB, "step", {}),
    "fork into it": lambda m: m.fork("fresh", m.save("fresh", "a", {}), JOB),
    "delete": lambda m: m.delete(JOB, "step_0_1737201234_abc12345"),
    "cleanup": lambda m: m.cleanup(JOB),
    "plan": lambda m: m.plan(JOB, Policy(keep_last=1)),
    "compact": lambda m: m.compact(JOB),
    "erase": lambda m: m.erase(JOB),
}


@pytest.mark.parametrize("call_", ASKING)
def test_nothing_takes_a_job_in_files_for_a_job_without_checkpoints(
    old: Path, call_: str
) -> None:
    manager = CheckpointManager(old)
    with pytest.raises(NotImported, match=f"milepost import files {old}") as caught:
        ASKING[call_](manager)
    assert not isinstance(caught.value, (FileNotFoundError, ValueError))
    assert not journal_of(old, JOB).exists()


def test_jobs_lists_those_in_files_with_what_to_do(old: Path) -> None:
    manager = CheckpointManager(old)
    manager.save("fresh", "a", {})
    fresh, *others = manager.jobs()
    assert (fresh.job_id, fresh.damage) == ("fresh", None)
    assert [job.job_id for job in others] == [JOB, "job_456"] == manager.job_ids()[1:]
    for job in others:
        assert job.damage is not None
        assert job.damage.code == "not_imported"
        assert "milepost import files" in job.damage.message


def test_verify_reports_jobs_in_files_too(old: Path) -> None:
    manager = CheckpointManager(old)
    manager.save("fresh", "a", {})
    assert [report.ok for report in manager.verify()] == [True, False, False]
    (report,) = manager.verify(JOB)
    assert report.problem is not None
    assert report.problem.code == "not_imported"


def test_a_plan_for_all_jobs_names_those_in_files(old: Path) -> None:
    plan = CheckpointManager(old).plan("*")
    assert [(job, why.code) for job, why in plan.problems] == [
        (JOB, "not_imported"),
        ("job_456", "not_imported"),
    ]


def test_other_jobs_of_the_folder_go_on(old: Path) -> None:
    manager = CheckpointManager(old)
    saved = manager.save("fresh", "a", {"n": 1})  # I10
    assert manager.restore("fresh", saved) == {"n": 1}
    assert manager.list("nobody") == []
    manager.import_files(old)
    with pytest.raises(UnknownCheckpoint):
        manager.find("nothing")


@pytest.mark.parametrize("job_id", ["a/b", "../up", "a b:c", "ü"])
def test_a_folder_whose_name_was_made_safe_is_noticed_and_imported(
    tmp_path: Path, job_id: str
) -> None:
    folder = tmp_path / job_id.replace("/", "_").replace(" ", "_").replace(":", "_")
    first = write(folder, job_id, 1)
    manager = CheckpointManager(tmp_path)
    with pytest.raises(NotImported):
        manager.list(job_id)
    assert manager.import_files(tmp_path).jobs == ((job_id, 1, 0),)
    assert ids(manager, job_id) == [first]
    assert [job.job_id for job in manager.jobs()] == [job_id]


def test_over_http_a_job_in_files_is_409_and_never_empty(old: Path) -> None:
    client = client_of(create_app(CheckpointManager(old)))
    body = {"job_id": JOB, "step_name": "s", "state": {}}
    for answer in (
        client.get(f"/api/checkpoints?job_id={JOB}"),
        client.get("/api/checkpoints/step_0_1737201234_abc12345"),
        client.post("/api/checkpoints", json=body),
        client.post("/api/checkpoints/cleanup", json={"job_id": JOB}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "not_imported")
        assert "milepost import files" in answer.json()["detail"]
    jobs = client.get("/api/jobs").json()["jobs"]
    assert [job["job_id"] for job in jobs] == [JOB, "job_456"]


@pytest.mark.parametrize("has_store", [False, True])
@pytest.mark.parametrize("verb", [["list", JOB], ["doctor"], ["show", JOB], ["jobs"]])
def test_commands_name_the_command_that_imports(
    old: Path, verb: list[str], has_store: bool
) -> None:
    if has_store:
        CheckpointManager(old).save("fresh", "a", {})
    done = call(*verb, "--store", str(old))
    assert "milepost import files" in done.out + done.err
    assert done.code != 0 or verb == ["jobs"]


def test_doctor_is_content_once_all_is_imported(old: Path) -> None:
    CheckpointManager(old).import_files(old)
    done = call("doctor", "--store", str(old))
    assert "import" not in done.out
    assert "not Milepost's" not in done.out


# -- taken over ------------------------------------------------------------------------


@pytest.mark.parametrize("is_in_place", [True, False])
@pytest.mark.parametrize("keys", [None, KeyRing([Key("k1", b"\x01" * 32)])])
def test_an_import_keeps_ids_times_steps_versions_and_states(
    old: Path, tmp_path: Path, clock: Clock, is_in_place: bool, keys: KeyRing | None
) -> None:
    before = files_of(old)
    root = old if is_in_place else tmp_path / "store"
    with CheckpointManager(root, clock=clock, keys=keys) as manager:
        done = manager.import_files(old)
        assert done == Imported(((JOB, 3, 0), ("job_456", 1, 0)), (), ())
    assert files_of(old) == before
    with CheckpointManager(root, keys=keys) as manager:
        infos = manager.list(JOB)
        for path, info in zip(sorted((old / JOB).iterdir()), infos, strict=True):
            file = json.loads(path.read_bytes())
            assert info[:5] == (
                *(file["checkpoint_id"], JOB, file["step_name"], file["timestamp"]),
                file["workflow_version"],
            )
            assert manager.get(JOB, info.checkpoint_id).state == file["state"]
        current = manager.current(JOB)
        assert current == infos[-1] == manager.latest(JOB)
        assert [i.parent_id for i in infos] == [None, *ids(manager)[:2]]
        assert manager.verify(JOB, deep=True)[0].ok
        event = manager.history(JOB, types={"checkpoint.saved"})[0]
        assert event["at"].startswith("2026-11-23")


def test_a_second_import_takes_only_what_is_new(old: Path) -> None:
    manager = CheckpointManager(old)
    manager.import_files(old)
    seq = manager.seq(JOB)
    assert manager.import_files(old).jobs == ((JOB, 0, 3), ("job_456", 0, 1))
    assert manager.seq(JOB) == seq
    new = write(old / JOB, JOB, 7)
    assert manager.import_files(old).jobs[0] == (JOB, 1, 3)
    assert ids(manager)[-1] == new


def test_what_was_deleted_since_stays_deleted(old: Path, clock: Clock) -> None:
    manager = CheckpointManager(old, clock=clock)
    manager.import_files(old)
    first, second, third = ids(manager)
    manager.delete(JOB, first)
    manager.delete(JOB, second, purge=True)
    clock.turn(days=30)
    manager.compact(JOB)
    manager.delete(JOB, third)
    assert manager.import_files(old).jobs[0] == (JOB, 0, 3)
    assert ids(manager) == []


def test_retention_goes_by_when_they_were_saved(old: Path, clock: Clock) -> None:
    manager = CheckpointManager(old, clock=clock)
    manager.import_files(old)
    plan = manager.plan(JOB, Policy(max_age="30d"))
    assert [v.checkpoint_id for v in plan.remove] == ids(manager)[1::-1]  # I6
    assert manager.cleanup(JOB, keep_last=2) == 1
    assert [i.step_name for i in manager.list(JOB)] == ["step_1", "step_2"]


def test_files_are_in_order_of_time_and_then_of_id(tmp_path: Path) -> None:
    saved = [
        write(tmp_path / JOB, JOB, n, timestamp=(BEGUN - timedelta(n)).isoformat())
        for n in range(3)
    ]
    twins = [write(tmp_path / JOB, JOB, n, timestamp="2026-01-01") for n in (8, 7)]
    manager = CheckpointManager(tmp_path)
    manager.import_files(tmp_path)
    assert ids(manager) == [*reversed(saved), *reversed(twins)]


def test_what_is_older_than_current_does_not_become_current(
    old: Path, tmp_path: Path
) -> None:
    manager = CheckpointManager(tmp_path / "store")
    own = manager.save(JOB, "own", {"n": 1})
    manager.import_files(old)
    current = manager.current(JOB)
    assert current is not None
    assert current.checkpoint_id == own
    assert len(ids(manager)) == 4


def test_an_import_of_many_is_a_few_writes(tmp_path: Path) -> None:
    write_job(tmp_path, count=600)
    disk = FaultyDisk(tmp_path)
    manager = CheckpointManager(storage=FileStorage(tmp_path, disk=disk))
    assert manager.import_files(tmp_path).imported == 600
    assert len(disk.of("append")) <= 5
    assert len(ids(manager)) == 600


def import_and_die(root: Path, nth: int, tell: Tell) -> None:
    disk = FaultyDisk(root)
    disk.set(Fault("append", nth, on="jsonl", action=die))
    manager = CheckpointManager(storage=FileStorage(root, disk=disk))
    manager.import_files(root)
    tell("done")


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_an_import_that_was_killed_is_completed_by_the_next(
    tmp_path: Path, nth: int
) -> None:
    saved = write_job(tmp_path, count=600)
    child = Child(partial(import_and_die, tmp_path, nth))
    assert child.hear_all() == []
    child.wait()
    manager = CheckpointManager(tmp_path)
    (done,) = manager.import_files(tmp_path).jobs
    assert (done.imported, done.known) == (600 - 256 * (nth - 1), 256 * (nth - 1))
    assert ids(manager) == saved  # I1
    assert manager.verify(JOB, deep=True)[0].ok


def test_two_imports_at_once_take_each_file_once(old: Path) -> None:
    disk = FaultyDisk(old)
    one, two = CheckpointManager(storage=FileStorage(old, disk=disk)), []
    # The second does all its work after the first has looked, and before it writes.
    action = lambda: two.append(CheckpointManager(old).import_files(old))  # noqa: E731
    disk.set(Fault("make_folder", action=action))
    done = one.import_files(old)
    assert (two[0].imported, done.imported) == (4, 0)
    assert len(ids(one)) == 3


def test_a_dry_run_writes_nothing(old: Path) -> None:
    manager = CheckpointManager(old)
    assert manager.import_files(old, dry_run=True).imported == 4
    assert not (old / "journals").exists()


def test_one_jobs_folder_can_be_imported_alone(old: Path, tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "store")
    assert manager.import_files(old / JOB).jobs == ((JOB, 3, 0),)


# -- skipped ---------------------------------------------------------------------------

SKIPPED: dict[str, tuple[dict[str, Any] | Callable[[Path], object], str]] = {
    "NaN": ({"state": {"a": [float("nan")]}}, "$.a[0]"),
    "a large integer": ({"state": {"a": 2**65}}, "$.a"),
    "a list for a state": ({"state": [1]}, "'state'"),
    "no state": ({"state": ...}, "'state'"),
    "another job": ({"job_id": "job_9"}, "job_9"),
    "another id": ({"checkpoint_id": "step_1_2_abcdefgh"}, "checkpoint_id"),
    "an id that no job can have": ({"job_id": "a\x00b"}, "job_id"),
    "a number for a version": ({"workflow_version": 2}, "workflow_version"),
    "text for metadata": ({"metadata": "x"}, "metadata"),
    "empty": (lambda p: p.write_bytes(b""), "no valid JSON"),
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:-9]), "no valid JSON"),
    "no UTF-8": (lambda p: p.write_bytes(b'{"a": "\xff\xfe'), "no valid JSON"),
    "deep": (lambda p: p.write_bytes(b'{"a":' * 100_000), "no valid JSON"),
    "a list": (lambda p: p.write_bytes(b"[]"), "no JSON object"),
    "a link": (
        lambda p: (p.rename(p.parent / "real"), p.symlink_to("real")),
        "symbolic link",
    ),
    "a FIFO": (lambda p: (p.unlink(), os.mkfifo(p)), "not a regular file"),
    "too large": (lambda p: os.truncate(p, 2**29), "more than"),
    "a state that is too large": (
        {"state": {"a": "x" * 17_000_000}},
        "max_state_bytes",
    ),
}


@pytest.mark.parametrize("what", SKIPPED)
def test_what_cannot_be_imported_is_skipped_with_a_reason(old: Path, what: str) -> None:
    damage, why = SKIPPED[what]
    changes = damage if isinstance(damage, dict) else {}
    path = old / JOB / f"{write(old / JOB, JOB, 1, **changes)}.json"
    if not isinstance(damage, dict):
        damage(path)
    manager = CheckpointManager(old)
    done = manager.import_files(old)
    notes = {note.path: note.text for note in done.skipped}
    assert why in notes.pop(str(path))
    assert set(notes) <= {str(old / JOB / "real")}
    assert done.jobs == ((JOB, 2, 0), ("job_456", 1, 0))
    assert len(ids(manager)) == 2


def test_other_files_and_links_are_told(old: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    write_job(elsewhere, "linked")
    (old / "linked").symlink_to(elsewhere / "linked")
    (old / JOB / "notes.txt").write_text("x", encoding="utf-8")
    (old / JOB / "linked").symlink_to(elsewhere / "linked")
    (old / "README").write_text("x", encoding="utf-8")
    done = CheckpointManager(old).import_files(old)
    assert sorted(note.path for note in done.skipped) == [
        str(old / JOB / "linked"),
        str(old / JOB / "notes.txt"),
        str(old / "linked"),
    ]
    assert done.imported == 4


def test_an_id_with_other_content_is_told_and_left_as_it_is(old: Path) -> None:
    manager = CheckpointManager(old)
    manager.import_files(old)
    changed = write(old / JOB, JOB, 1, state={"changed": True})
    done = manager.import_files(old)
    assert done.jobs[0] == (JOB, 0, 2)
    (note,) = done.skipped
    assert "other content" in note.text
    assert manager.get(JOB, changed).state["iteration"] == 1


@pytest.mark.parametrize("timestamp", ["soon", None, 7, ..., "0001-01-01T00:00+14:00"])
def test_without_a_timestamp_the_time_in_the_name_counts(
    tmp_path: Path, timestamp: object
) -> None:
    write(tmp_path / JOB, JOB, 1, timestamp=timestamp)
    manager = CheckpointManager(tmp_path)
    done = manager.import_files(tmp_path)
    assert "its name says 2025-11-18 10:31:34" in done.remarks[0].text
    assert manager.list(JOB)[0].timestamp == "2025-11-18T10:31:34.000000+00:00"


@pytest.mark.parametrize(
    ("timestamp", "shown"),
    [
        ("2025-11-18T10:30:34Z", "2025-11-18T10:30:34.000000+00:00"),
        ("2025-11-18T12:30:34.5+02:00", "2025-11-18T10:30:34.500000+00:00"),
        ("2025-11-18T10:30:34.123456", "2025-11-18T10:30:34.123456+00:00"),
    ],
)
def test_times_of_every_zone_are_told_in_utc(
    tmp_path: Path, timestamp: str, shown: str
) -> None:
    write(tmp_path / JOB, JOB, 1, timestamp=timestamp)
    manager = CheckpointManager(tmp_path)
    assert manager.import_files(tmp_path).remarks == ()
    assert manager.list(JOB)[0].timestamp == shown


def test_fields_that_have_no_place_are_told(tmp_path: Path) -> None:
    write(tmp_path / JOB, JOB, 1, metadata={"m": 1}, workflow_name="w", extra=1)
    manager = CheckpointManager(tmp_path)
    (note,) = manager.import_files(tmp_path).remarks
    assert note.text == "not imported: extra"
    (info,) = manager.list(JOB)
    assert (info.metadata, info.workflow_name) == ({"m": 1}, "w")


def test_a_damaged_job_stops_no_other(old: Path) -> None:
    manager = CheckpointManager(old)
    manager.import_files(old)
    path = journal_of(old, JOB)
    path.write_bytes(path.read_bytes().replace(b'"step_1"', b'"step_x"'))
    write(old / "job_456", "job_456", 5)
    done = CheckpointManager(old).import_files(old)
    assert done.jobs == ((JOB, 0, 0), ("job_456", 1, 1))  # I10
    assert any(JOB in note.path for note in done.skipped)


# -- on the command line ---------------------------------------------------------------


def test_the_command_says_one_line_per_job_and_a_summary(old: Path) -> None:
    words = ("import", "files", str(old), "--store", str(old))
    dry = call(*words, "--dry-run")
    assert dry.out.splitlines() == [
        f"{JOB}: would import 3 checkpoints",
        "job_456: would import 1 checkpoint",
        "would import 4 checkpoints of 2 jobs",
    ]
    done = call(*words)
    assert done.code == 0
    assert done.out.splitlines()[-1] == "imported 4 checkpoints of 2 jobs"
    again = call(*words)
    assert again.code == 0
    assert again.out.splitlines() == [
        f"{JOB}: imported 0 checkpoints, 3 already known",
        "job_456: imported 0 checkpoints, 1 already known",
        "nothing to import",
    ]


def test_the_command_says_what_it_skipped_and_exits_with_3(old: Path) -> None:
    (old / JOB / "x_1_abcdefgh.json").write_text("{", encoding="utf-8")
    done = call("import", "files", str(old), "--store", str(old), "--json")
    assert done.code == 3
    data = json.loads(done.out)["data"]
    assert data["imported"] == 4
    assert data["jobs"][0] == {"job_id": JOB, "imported": 3, "known": 0}
    assert data["skipped"][0]["path"].endswith("x_1_abcdefgh.json")


@pytest.mark.parametrize("below", ["", "a", "a/b"])
def test_a_stores_own_files_are_not_called_skipped(tmp_path: Path, below: str) -> None:
    store = tmp_path / "all" / below
    store.mkdir(parents=True)
    with CheckpointManager(store) as manager:
        manager.save("a_1_abcdefgh.json", "step", {})
    journal = store / "journals" / f"{file_name('a_1_abcdefgh.json')}.jsonl"
    with journal.open("ab") as file:
        file.write(b"torn")
    with CheckpointManager(store) as manager:
        manager.save("a_1_abcdefgh.json", "step", {})
    assert [*(store / "salvage").iterdir()]
    assert call("worker", "--once", "--store", str(store)).code == 0
    assert [*(store / "records").iterdir()]
    (store / "snapshots").mkdir()
    (store / "snapshots" / "etl").touch()
    (store / "heads" / "more").mkdir()
    (store / "heads" / "more" / "file").touch()
    (store / "journals" / "link").symlink_to(tmp_path)
    done = call("import", "files", str(tmp_path / "all"), "--store", str(store))
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == ["no checkpoint files found"]


@pytest.mark.parametrize("job_id", ["worker", "salvage", "heads"])
def test_a_job_named_like_a_folder_of_the_store_is_imported(
    tmp_path: Path, job_id: str
) -> None:
    with CheckpointManager(tmp_path) as manager:
        manager.save("etl", "step", {})
        write_job(tmp_path, job_id)
        assert manager.import_files(tmp_path).jobs == ((job_id, 3, 0),)


def test_beside_a_store_other_files_are_skipped_as_ever(tmp_path: Path) -> None:
    with CheckpointManager(tmp_path / "a") as manager:
        manager.save("etl", "step", {})
    (tmp_path / "a" / "job").mkdir()
    (tmp_path / "b").mkdir()
    for name in ("a/job/readme", "b/readme"):
        (tmp_path / name).touch()
    done = CheckpointManager(tmp_path / "c").import_files(tmp_path)
    assert [note.path for note in done.skipped] == [
        str(tmp_path / name) for name in ("a/job/readme", "b/readme")
    ]


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    done = call("import", "files", str(tmp_path / "no"), "--store", str(tmp_path / "s"))
    assert done.code == 2
    assert "is not a folder" in done.err


def test_a_folder_can_be_moved_away_afterwards(old: Path) -> None:
    manager = CheckpointManager(old)
    manager.import_files(old)
    shutil.rmtree(old / JOB)
    assert len(ids(manager)) == 3
