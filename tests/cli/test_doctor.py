"""`doctor` and `repair`: what a person sees, and the codes that scripts rely on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager, Key, KeyRing
from milepost.journal.storage.files.storage import FileStorage
from milepost.worker.schedule.last_runs import LastRun, LastRuns, TaskRecord
from milepost.worker.status import LEASE
from tests.support.cli import JOB, START, call, damage, ids_of, reader, run
from tests.support.stores import files

if TYPE_CHECKING:
    from milepost.worker.schedule.report import Outcome


def tear(store: Path) -> None:
    """Leave half a write behind the head."""
    with (store / "journals" / f"{JOB}.jsonl").open("ab") as file:
        file.write(b'{"state":5,"codec"')


def test_a_sound_store_is_fine_and_left_as_it_is(store: Path) -> None:
    before = files(store)
    done = call("doctor")
    assert (done.code, done.err) == (0, "")
    assert "jobs 1: 1 sound" in done.out
    assert "no worker is running" in done.out
    assert "cleanup '0 3 * * *': next " in done.out
    assert JOB not in done.out  # only a summary of what is sound
    assert JOB in call("doctor", "--all").out
    assert files(store) == before


def test_damage_is_told_with_its_place_and_what_to_do(store: Path) -> None:
    ids = ids_of(store)
    damage(store)
    before = files(store)
    done = call("doctor")
    assert done.code == 7
    assert "1 of 1 job needs repair" in done.err
    for text in (
        f"WRONG  {JOB}: damaged",
        "where  line 5, byte ",
        "safe   2 events proven; 1 checkpoint restorable",
        "lost   2 acknowledged events (3 to 4)",
        ids[2],
        f"milepost repair --dry-run {JOB}",
    ):
        assert text in done.out, text
    assert files(store) == before


def test_the_error_of_a_damaged_job_names_both_commands(store: Path) -> None:
    damage(store)
    said = call("list", JOB).err
    assert "`milepost doctor`" in said
    assert f"`milepost repair {JOB} --dry-run`" in said


def test_json_has_stable_codes(store: Path) -> None:
    damage(store)
    done = call("doctor", "--json")
    data = done.json["data"]
    assert (done.code, done.json["error"]["code"]) == (7, "needs_repair")
    (job,) = data["jobs"]
    assert (job["verdict"], job["remedy"], job["is_lossy"]) == ("damaged", "cut", True)
    assert (job["row"], job["line"], job["lost_events"]) == ("R8", 5, 2)
    assert data["verdicts"] == {"damaged": 1}
    codes = {each["code"] for each in (*data["store"], *data["worker"])}
    assert codes >= {
        "store",
        "file_system",
        "free_space",
        "access",
        "leader",
        "watcher",
    }


def test_a_torn_tail_is_fine_for_the_next_look_settles_it(store: Path) -> None:
    tear(store)
    before = files(store)
    done = call("doctor")
    assert done.code == 0
    assert "the next read or write recovers it" in done.out
    assert files(store) == before


def test_what_lies_about_is_named(store: Path) -> None:
    (store / "notes.txt").write_text("mine")
    (store / "journals" / "link.jsonl").symlink_to("/etc/hostname")
    (store / "journals").chmod(0o755)
    done = call("doctor")
    assert done.code == 7
    assert "not Milepost's: notes.txt" in done.out
    assert "symbolic links, which are not followed: journals/link.jsonl" in done.out
    assert "is open to other users (mode 755)" in done.out


def test_a_missing_store_json_can_be_written_anew(store: Path) -> None:
    text = (store / "store.json").read_text()
    (store / "store.json").unlink()
    done = call("doctor")
    assert done.code == 7
    assert text.strip() in done.out
    (store / "store.json").write_text(text)
    assert call("doctor").code == 0


@pytest.mark.parametrize("text", ["", "{}", '{"format":2,"store":"x"}'])
def test_a_store_json_that_makes_no_sense_is_wrong_and_jobs_are_looked_at(
    store: Path, text: str
) -> None:
    (store / "store.json").write_text(text)
    done = call("doctor", "--all")
    assert done.code == 7
    assert f"ok     {JOB}" in done.out


def test_whoever_works_is_named(store: Path) -> None:
    lease = FileStorage(store).lease(LEASE)
    assert lease.acquire(LEASE)
    try:
        assert "is the worker" in call("doctor").out
    finally:
        lease.release()
    assert "no worker is running" in call("doctor").out


def test_settings_that_are_wrong_are_told_beside_the_rest(store: Path) -> None:
    Path("config.toml").write_text("[worker]\nsweeep = '5s'\n")
    done = call("doctor", "--store", str(store))
    assert done.code == 7
    assert "sweeep" in done.out
    assert "jobs 1: 1 sound" in done.out


@pytest.mark.usefixtures("folder")
def test_a_key_that_is_not_at_hand_is_told() -> None:
    with CheckpointManager("checkpoints", keys=KeyRing([Key.new("k1")])) as manager:
        manager.save(JOB, "s", {})
    done = call("doctor")
    assert done.code == 7
    assert "key 'k1' is missing, and 1 state needs it" in done.out


@pytest.mark.usefixtures("folder")
def test_no_store_and_no_job_have_codes_of_their_own() -> None:
    assert call("doctor").code == 10
    assert call("repair", JOB).code == 10


def test_an_unknown_job_is_not_found(store: Path) -> None:
    assert call("doctor", "nope").code == 4
    assert call("repair", "nope").code == 4
    assert call("repair", "nope", "--accept-loss").code == 4
    assert not (store / "heads" / "nope").exists()


def test_a_long_list_is_bounded_unless_all_are_asked_for(store: Path) -> None:
    with reader(store) as manager:
        for number in range(60):
            manager.save(f"job-{number:02}", "s", {})
    for path in (store / "heads").glob("job-*"):
        path.unlink()
    short, whole = call("doctor"), call("doctor", "--all")
    assert "… and 10 more; --all lists them" in short.out
    assert short.out.count("WRONG") == 50
    assert whole.out.count("WRONG") == 60


def test_repair_without_consent_changes_nothing(store: Path) -> None:
    damage(store)
    before = files(store)
    done = call("repair", JOB)
    assert done.code == 7
    assert "would give up 2 acknowledged events (3 to 4)" in done.err
    assert "--accept-loss" in done.err
    assert files(store) == before


@pytest.mark.parametrize(("words", "code"), [((), 7), (("--accept-loss",), 0)])
def test_a_dry_run_tells_all_and_changes_nothing(
    store: Path, words: tuple[str, ...], code: int
) -> None:
    damage(store)
    before = files(store)
    done = call("repair", "--dry-run", JOB, *words)
    assert done.code == code
    told = [line for line in done.out.splitlines() if line.startswith("  would ")]
    assert [line.split()[1] for line in told] == ["keep", "give", "cut", "journal"]
    assert files(store) == before


def test_a_repair_with_consent_is_told_logged_and_done(store: Path) -> None:
    ids = ids_of(store)
    damage(store)
    done = call("repair", JOB, "--accept-loss")
    assert done.code == 0
    assert "gave up 2 acknowledged events (3 to 4), with 2 checkpoints" in done.out
    assert ids_of(store) == ids[:1]
    last = call("log", JOB, "--reverse", "--limit", "1").out
    assert (
        "an operator accepted the loss of damaged data; 2 acknowledged events lost; "
        in last
    )
    assert "\tcli:" in last
    assert call("verify").code == 0
    assert call("save", JOB, "--step", "s", stdin="{}").code == 0
    again = call("repair", JOB, "--accept-loss")
    assert (again.code, again.out.splitlines()[-1]) == (0, "nothing to do")


def test_a_repair_that_loses_nothing_needs_no_consent(store: Path) -> None:
    tear(store)
    done = call("repair", JOB, "--json")
    assert done.code == 0
    data = done.json["data"]
    assert (data["before"]["verdict"], data["after"]["verdict"]) == (
        *("unsettled", "sound"),
    )
    assert data["steps"][0]["text"].startswith("kept 18 bytes from byte ")


def test_a_job_that_cannot_be_repaired_is_an_error(store: Path) -> None:
    (store / "journals" / "other.jsonl").write_bytes(
        (store / "journals" / f"{JOB}.jsonl").read_bytes()
    )
    done = call("repair", "other", "--accept-loss", "--json")
    assert (done.code, done.json["error"]["code"]) == (1, "cannot_repair")


def test_the_real_command_says_what_to_type_for_odd_names(store: Path) -> None:
    with reader(store) as manager:
        manager.save("-a job", "s", {})
    (store / "heads" / "-a%20job").unlink()
    done = run("doctor", "--json", MILEPOST_STORE_ROOT=str(store))
    assert done.code == 7
    (job,) = json.loads(done.out)["data"]["jobs"]
    assert job["command"] == "milepost repair --dry-run -- '-a job'"
    assert run("repair", "--", "-a job", MILEPOST_STORE_ROOT=str(store)).code == 0


# -- what ran last, and what a repair prints -------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "is_fine"),
    [
        ("ok", True),
        ("waiting", True),
        ("stopped", True),
        ("partly", False),
        ("failed", False),
    ],
)
def test_doctor_says_how_each_task_last_ran(
    store: Path, outcome: Outcome, is_fine: bool
) -> None:
    last = LastRun(START, outcome, line="3 removed, 1 job", error="no space")
    LastRuns(FileStorage(store)).write("cleanup", TaskRecord(START, last))
    done = call("doctor", "--json")
    (found,) = [f for f in done.json["data"]["worker"] if f["code"] == "last_run"]
    assert found["ok"] is is_fine
    assert found["message"] == (
        f"cleanup ran at 2026-11-20 10:00:00Z: {outcome}, 3 removed, 1 job, no space"
    )


def test_a_dry_run_of_a_repair_prints_what_is_wrong_and_what_it_would_do(
    store: Path,
) -> None:
    damage(store)
    lines = call("repair", JOB, "--dry-run").out.splitlines()
    assert lines[0].startswith(f"  WRONG  {JOB}: damaged")
    assert not any(line.startswith("         do ") for line in lines)
    would = [number for number, line in enumerate(lines) if line[:8] == "  would "]
    assert would == [*range(would[0], len(lines))]


def test_a_repair_prints_what_was_wrong_what_it_did_and_what_is_there_now(
    store: Path,
) -> None:
    damage(store)
    lines = call("repair", JOB, "--accept-loss").out.splitlines()
    assert lines[0].startswith(f"  WRONG  {JOB}: damaged")
    did = [line.split()[0] for line in lines if line[:2] == "  " != line[1:3]]
    assert did == ["WRONG", "kept", "gave", "cut", "journaled", "ok"]
    assert any(line.startswith(f"  ok     {JOB}: sound") for line in lines)
    assert "would" not in "".join(lines)
    sound = call("repair", JOB).out.splitlines()
    assert sound[0].startswith(f"  ok     {JOB}: sound")
    assert sound[-1] == "nothing to do"
