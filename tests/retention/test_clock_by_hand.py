"""The guard against a clock that jumped holds for the library and the command line."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager, MemoryStorage, Policy
from milepost.journal import errors
from milepost.journal.clock import utc_now
from milepost.journal.disk.boot import boot_id
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.store.clock_memory import ClockMemory
from milepost.journal.store.clock_watch import Seen, steady_seconds
from tests.support.cli import call

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.clock import Clock

YEARS = 3 * 365
AGED = Policy(name="aged", keep_last="all", max_age="30d")


@pytest.fixture(params=["folder", "memory"])
def jobs(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> CheckpointManager:
    """Return a store with a job of three checkpoints, one of them deleted."""
    where = {"root": tmp_path} if request.param == "folder" else {}
    storage = None if where else MemoryStorage()
    manager = CheckpointManager(**where, storage=storage, clock=clock)
    ids = [manager.save("a", f"s{number}", {"n": number}) for number in range(4)]
    manager.delete("a", ids[0])
    return manager


@pytest.mark.parametrize(
    "remove",
    [
        lambda m, **trust: m.compact("a", **trust),
        lambda m, **trust: m.apply(m.plan("a", AGED), confirm=True, **trust),
        lambda m, **trust: m.apply(m.plan("*", AGED), confirm=True, **trust),
    ],
    ids=["compact", "apply to a job", "apply to all"],
)
def test_what_goes_because_it_is_old_waits_where_the_clock_is_years_ahead(
    jobs: CheckpointManager, clock: Clock, remove: Callable[..., object]
) -> None:
    clock.turn(days=YEARS)
    for _ in range(2):
        with pytest.raises(errors.ClockJumped, match="jumped forward by") as caught:
            remove(jobs)
        assert caught.value.code == "clock_jump"
        assert "trust_clock=True" in str(caught.value.hint)
    assert len(jobs.list("a")) == 3
    clock.turn(days=-YEARS)
    (gone,) = (e["data"] for e in jobs.history("a", types={"checkpoint.deleted"}))
    assert jobs.undelete("a", gone["checkpoint_id"])
    clock.turn(days=YEARS)
    with pytest.raises(errors.ClockJumped):
        jobs.apply(jobs.plan("a", AGED))
    assert jobs.apply(jobs.plan("a", AGED), trust_clock=True) == 3
    clock.turn(days=8)
    assert jobs.compact("a") is not None  # the clock has been trusted since


@pytest.mark.parametrize("days", [8, 29])
def test_a_store_that_rested_for_less_than_a_month_is_cleaned_up(
    jobs: CheckpointManager, clock: Clock, days: int
) -> None:
    clock.turn(days=days)
    assert jobs.compact("a") is not None


def test_a_job_that_rested_for_years_beside_a_busy_one_is_cleaned_up(
    jobs: CheckpointManager, clock: Clock, tmp_path: Path
) -> None:
    for _ in range(YEARS // 20):
        clock.turn(days=20)
        jobs.save("busy", "s", {})
    fresh = CheckpointManager(jobs.root or tmp_path / "none", clock=clock)
    assert jobs.root is None or fresh.compact("a") is not None


def test_what_counts_no_ages_needs_no_clock(
    jobs: CheckpointManager, clock: Clock
) -> None:
    clock.turn(days=YEARS)
    assert jobs.cleanup("a", keep_last=2) == 1
    newest = jobs.list("a")[-1].checkpoint_id
    jobs.save("a", "more", {})
    assert jobs.delete("a", newest, purge=True)
    assert jobs.apply(jobs.plan("a", Policy(keep_last=1))) == 1


def test_a_purge_under_a_clock_that_jumped_erases_only_what_was_purged(
    jobs: CheckpointManager, clock: Clock
) -> None:
    first = jobs.history("a", types={"checkpoint.deleted"})[0]["data"]
    kept = jobs.list("a")[0].checkpoint_id
    clock.turn(days=YEARS)
    assert jobs.delete("a", kept, purge=True)
    clock.turn(days=-YEARS)
    assert jobs.undelete("a", first["checkpoint_id"])
    assert jobs.get("a", first["checkpoint_id"]).state == {"n": 0}


# -- the machine's own clock -----------------------------------------------------------


def seen_ahead(by: timedelta, boot: str) -> Seen:
    """Return what was seen an hour ago, if the clock has been set by `by` since."""
    return Seen(utc_now() - timedelta(hours=1) - by, steady_seconds() - 3600, boot)


@pytest.mark.parametrize(
    ("by", "boot", "is_trusted"),
    [
        (timedelta(0), boot_id(), True),
        (timedelta(minutes=50), boot_id(), True),
        (timedelta(hours=2), boot_id(), False),
        (timedelta(days=20), "an earlier start", True),
        (timedelta(days=40), "an earlier start", False),
        (timedelta(days=-40), "an earlier start", True),
    ],
)
@pytest.mark.skipif(not boot_id(), reason="this kernel tells no boot id")
def test_the_command_line_goes_on_from_what_another_process_saw(
    folder: Path, by: timedelta, boot: str, is_trusted: bool
) -> None:
    old = utc_now() - timedelta(days=9)
    with CheckpointManager("checkpoints", clock=lambda: old) as manager:
        manager.delete("a", manager.save("a", "s", {}))
        manager.save("a", "s", {})
    ClockMemory(FileStorage(folder / "checkpoints")).write_seen(seen_ahead(by, boot))

    done = call("compact", "a", "--json")

    assert done.code == (0 if is_trusted else 6)
    if not is_trusted:
        assert done.json["error"]["code"] == "clock_jump"
        assert "--trust-clock" in done.json["error"]["hint"]
        assert call("compact", "--json").json["error"]["code"] == "clock_jump"
        assert call("compact", "--trust-clock").code == 0
        assert "dropped" not in call("compact").err


def test_a_cleanup_by_age_waits_where_the_newest_event_is_years_old(
    folder: Path,
) -> None:
    (folder / "config.toml").write_text(
        '[retention]\nmin_age = "0s"\nmin_keep = 1\n'
        '[retention.default]\nmax_age = "30d"\n'
    )
    old = utc_now() - timedelta(days=YEARS)
    with CheckpointManager("checkpoints", clock=lambda: old) as manager:
        for number in range(5):  # no more than ten: the other guard is silent
            manager.save("a", "s", {"n": number})

    for words in (("a",), ("--all",)):
        held = call("cleanup", *words, "--json")
        assert (held.code, held.json["error"]["code"]) == (6, "clock_jump")
    plan = call("cleanup", "--all", "--dry-run", "--json").json["data"]["plan_id"]
    assert call("cleanup", "--plan", plan).code == 6
    ran = call("worker", "task", "cleanup", "--json").json["data"]["runs"][0]
    assert ran["outcome"] == "waiting"
    done = call("cleanup", "a", "--trust-clock", "--json")
    assert done.json["data"]["deleted_count"] == 4


@pytest.mark.parametrize("raw", [b"", b"\0", b"[]", b"{}", b"1", b'{"at": 1}'])
def test_a_damaged_memory_of_the_clocks_is_none(tmp_path: Path, raw: bytes) -> None:
    storage = FileStorage(tmp_path)
    storage.create()
    for name in ("clock-jump", "clock-seen"):
        storage.record(name).compare_and_set(None, raw)
    memory = ClockMemory(storage)
    assert memory.jump() is None
    assert memory.seen() is None


def test_looking_at_the_clock_makes_no_store(tmp_path: Path) -> None:
    assert not CheckpointManager(tmp_path / "typo").delete("job", "none")
    assert [*(tmp_path / "typo").iterdir()] == []
