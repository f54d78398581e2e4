"""Reads, writes, doctor, verify, repair and the worker judge every job alike."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager
from milepost.journal.errors import CannotRepair, LossNotAccepted, MilepostError
from tests.recovery.damages import DAMAGES, JOB, Damage, begin
from tests.support.faults import head_of, journal_of, read_head, write_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

REFUSED = {
    **dict.fromkeys(("damaged", "journal_missing", "foreign"), "damaged"),
    "newer_format": "newer_format",
}


@pytest.fixture(params=DAMAGES, ids=[each.name for each in DAMAGES])
def damage(request: pytest.FixtureRequest) -> Damage:
    found: Damage = request.param
    return found


@pytest.fixture
def ruined(root: Path, damage: Damage) -> Callable[[], Path]:
    """Return what makes a fresh copy of the damaged store."""
    begin(root, damage.durability)
    damage.ruin(root)
    count = iter(range(100))

    def copy() -> Path:
        place = root.with_name(f"copy{next(count)}")
        _copy_with_inodes(root, place)
        return place

    return copy


def _copy_with_inodes(root: Path, place: Path) -> None:
    """Copy a store; where a head speaks of its journal's inode, the copy's does too."""
    shutil.copytree(root, place)
    journal = journal_of(root, JOB)
    try:
        head = read_head(root, JOB)
        is_about_it = head.inode == journal.stat().st_ino
    except (AssertionError, FileNotFoundError):
        return
    if is_about_it and head_of(root, JOB).stat().st_size == 1024:
        inode = journal_of(place, JOB).stat().st_ino
        write_head(place, JOB, head._replace(inode=inode))


def diagnosed(root: Path) -> Any:
    with CheckpointManager(root) as manager:
        (found,) = manager.diagnose(JOB, deep=True)
    return found


def refusal_of(action: Callable[[], object]) -> str | None:
    try:
        action()
    except MilepostError as exc:
        return exc.code
    return None


def doors(root: Path) -> Iterator[tuple[str, str | None]]:
    """Ask at one door after another, each in a process of its own as far as it can."""
    for name in ("list", "latest", "current"):
        with CheckpointManager(root) as manager:
            question = getattr(manager, name)
            yield name, refusal_of(lambda q=question: q(JOB))
    with CheckpointManager(root) as manager:
        found = [each.problem for each in manager.verify(JOB)]
        yield "verify", found[0].code if found and found[0] else None
    with CheckpointManager(root) as manager:
        ill = [each.damage for each in manager.jobs() if each.job_id == JOB]
        yield "jobs", ill[0].code if ill and ill[0] else None
    with CheckpointManager(root) as manager:
        yield "save", refusal_of(lambda: manager.save(JOB, "next", {}))


def test_the_verdict_is_as_expected(damage: Damage, ruined: Callable[[], Path]) -> None:
    found = diagnosed(ruined())
    assert (found.verdict.value, found.treatment.is_lossy) == (
        damage.verdict,
        damage.is_lossy,
    )


@pytest.mark.sampled(every=3)
def test_a_read_and_a_write_refuse_what_doctor_calls_damaged_and_nothing_else(
    damage: Damage, ruined: Callable[[], Path]
) -> None:
    place = ruined()
    for name, refusal in doors(place):
        if damage.verdict in REFUSED:
            assert refusal == REFUSED[damage.verdict], name
        elif damage.verdict == "damaged_states":
            assert (refusal is None) == (name not in {"save", "verify"}), name
        else:
            assert refusal is None, name


@pytest.mark.sampled(every=3)
def test_a_look_settles_what_doctor_says_the_next_look_settles(
    damage: Damage, ruined: Callable[[], Path]
) -> None:
    place = ruined()
    before = diagnosed(place)
    if before.verdict.value not in {"unsettled", "head_missing"}:
        return
    with CheckpointManager(place) as manager:
        manager.list(JOB)
    with CheckpointManager(place) as manager:
        manager.list(JOB)
        kept = len(manager.list(JOB))
        lost = [
            event["data"].get("lost_events", 0)
            for event in manager.history(JOB, types={"job.repaired"})
        ]
    assert kept == damage.kept
    if not kept:
        return  # a creation that was cut: there is no such job
    after = diagnosed(place)
    if before.row != "R21":
        assert sum(lost) == before.lost_events  # the journal says how much went
    if before.row != "R15":  # a leftover goes at the next write
        assert after.verdict.value == "sound"


@pytest.mark.sampled(every=3)
def test_a_repair_does_what_the_verdict_says_and_keeps_all_that_is_proven(
    damage: Damage, ruined: Callable[[], Path]
) -> None:
    place = ruined()
    found = diagnosed(place)
    with CheckpointManager(place) as manager:
        if found.treatment.remedy.value in {"by_hand", "upgrade"}:
            with pytest.raises(CannotRepair):
                manager.repair(JOB, accept_loss=True)
            return
        if damage.is_lossy:
            with pytest.raises(LossNotAccepted):
                manager.repair(JOB)
        done = manager.repair(JOB, accept_loss=damage.is_lossy)
        assert done.after is None or done.after.ok
        if found.exists and manager.job(JOB):
            assert len(manager.list(JOB)) == damage.kept
            manager.save(JOB, "next", {})
            (report,) = manager.verify(JOB, deep=True)
            assert report.ok


def test_white_space_is_taken_back_byte_for_byte(
    damage: Damage, root: Path, ruined: Callable[[], Path]
) -> None:
    if damage.verdict != "damaged" or damage.is_lossy:
        return
    place = ruined()
    with CheckpointManager(place) as manager:
        manager.repair(JOB)
    text = journal_of(place, JOB).read_bytes()
    lines = [line.strip() for line in journal_of(root, JOB).read_bytes().splitlines()]
    written = b"".join(line + b"\n" for line in lines if line)
    assert text == written.removeprefix(b"\xef\xbb\xbf")


@pytest.mark.sampled(every=3)
def test_no_read_shortens_what_it_refuses(
    damage: Damage, ruined: Callable[[], Path]
) -> None:
    if damage.verdict not in REFUSED:
        return
    place = ruined()
    journal = journal_of(place, JOB)
    before = journal.read_bytes() if journal.exists() else None
    for _ in doors(place):
        pass
    assert (journal.read_bytes() if journal.exists() else None) == before
