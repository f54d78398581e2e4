"""What a look at a job says, row by row, and that it changes nothing."""

from __future__ import annotations

import zlib
from random import Random
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager, Diagnosis, Key, KeyRing, MemoryStorage
from milepost.journal.events.codec import CorruptLine
from milepost.journal.recovery.diagnosis import TREATMENTS, Condition, Remedy
from milepost.journal.recovery.steps import steps_of
from milepost.journal.storage.files.recovery.facts import Action
from milepost.journal.storage.files.recovery.head import Extent, Head
from milepost.journal.storage.files.recovery.judgement import Facts, judge
from tests.recovery.spoiling import JOB, begin, change, cut, look, unheaded
from tests.support.faults import (
    forged,
    head_of,
    journal_of,
    last_hash,
    put,
    read_head,
    replace,
    write_head,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

S = Extent(7, "7" * 64, 700)
BEFORE, BEYOND = Extent(5, "5" * 64, 500), Extent(9, "9" * 64, 900)
HEAD = Head(1, S, 4242, "always", S)
LAZY = Head(1, S, 4242, "interval", BEFORE)
POISONED = HEAD._replace(is_poisoned=True)
BAD = CorruptLine(500, "a line", "another")
FINE = Facts(HEAD, size=700, proven=S, base=S)

TABLE: list[tuple[Facts, Condition, str]] = [
    (Facts(None, has_head=False), Condition.SOUND, "R2"),
    (Facts(Head()), Condition.SOUND, "R2"),
    (Facts(Head(1, S, 0, "interval")), Condition.UNSETTLED, "R2"),
    (Facts(HEAD), Condition.JOURNAL_MISSING, "R3"),
    (Facts(LAZY), Condition.JOURNAL_MISSING, "R3"),
    (FINE._replace(head=POISONED), Condition.POISONED, "R4"),
    (FINE._replace(head=POISONED, unreadable=1), Condition.POISONED, "R4"),
    (FINE._replace(is_foreign=True), Condition.FOREIGN, "R5"),
    (FINE._replace(head=None, has_head=False), Condition.HEAD_MISSING, "R6"),
    (
        FINE._replace(head=None, has_head=False, tail=Action.CUT),
        Condition.DAMAGED,
        "R7",
    ),
    (
        FINE._replace(head=None, has_head=False, tail=Action.FINISH_LINE),
        Condition.DAMAGED,
        "R7",
    ),
    (
        Facts(HEAD, size=700, proven=BEFORE, problem=BAD),
        Condition.DAMAGED,
        "R8",
    ),
    (
        Facts(POISONED, size=700, proven=BEFORE, problem=BAD),
        Condition.DAMAGED,
        "R8",
    ),
    (Facts(HEAD, size=900, proven=BEYOND), Condition.DAMAGED, "R9"),
    (FINE, Condition.SOUND, "R10"),
    (FINE._replace(proven=BEYOND), Condition.UNSETTLED, "R11"),
    (FINE._replace(tail=Action.FINISH_LINE), Condition.UNSETTLED, "R12"),
    (FINE._replace(tail=Action.QUARANTINE), Condition.DAMAGED, "R13"),
    (FINE._replace(tail=Action.CUT), Condition.UNSETTLED, "R14"),
    (
        Facts(LAZY, size=500, proven=BEFORE, base=BEFORE),
        Condition.UNSETTLED,
        "R14",
    ),
    (FINE._replace(owes=True), Condition.UNSETTLED, "R15"),
    (FINE._replace(unreadable=1), Condition.DAMAGED_STATES, "R18"),
    (
        FINE._replace(unreadable=1, tail=Action.CUT),
        Condition.DAMAGED_STATES,
        "R18",
    ),
    (FINE._replace(newer_seq=7), Condition.NEWER, "R20"),
    (
        Facts(Head(), size=900, proven=BEYOND, is_removed=True),
        Condition.UNSETTLED,
        "R23",
    ),
    (
        Facts(HEAD, size=600, proven=BEFORE, base=BEFORE, is_given_up=True),
        Condition.UNSETTLED,
        "R21",
    ),
]


@pytest.mark.parametrize(("facts", "condition", "row"), TABLE)
def test_a_row_of_the_table(facts: Facts, condition: Condition, row: str) -> None:
    assert judge(facts) == (condition, row)


def test_only_what_gives_something_up_needs_consent() -> None:
    assert TREATMENTS.keys() == set(Condition)
    lossy = {each for each, treatment in TREATMENTS.items() if treatment.is_lossy}
    assert lossy == {
        *(Condition.DAMAGED, Condition.JOURNAL_MISSING, Condition.DAMAGED_STATES)
    }
    for condition in Condition:
        found = Diagnosis(JOB, condition, "R14", unreadable=("a",))
        is_lossy = any(step.is_lossy for step in steps_of(found))
        assert is_lossy or condition not in lossy


def _rot_behind_the_head(root: Path) -> None:
    unheaded(root)
    change(root, b'"step_name":"late"', b'"step_name":"Late"')


def _tear(root: Path) -> None:
    unheaded(root)
    cut(root, 30)


def _behead_and_tear(root: Path) -> None:
    head_of(root, JOB).unlink()
    cut(root, 30)


def _unfinished(root: Path) -> None:
    unheaded(root)
    cut(root, 1)


def _poison(root: Path) -> None:
    head = read_head(root, JOB)
    write_head(root, JOB, head._replace(writing=head.writing + 1, is_poisoned=True))


def _another_history(root: Path) -> None:
    head = read_head(root, JOB)
    other = head.shown._replace(hash="0" * 64)
    write_head(
        root, JOB, head._replace(writing=head.writing + 1, shown=other, synced=other)
    )


def _newer(root: Path) -> None:
    journal = journal_of(root, JOB).read_bytes()
    line = forged(last_hash(journal), v=2, seq=8, type="job.noted", data={})
    put(journal_of(root, JOB), journal + line)


ROWS: list[tuple[str, Callable[[Path], object], str, Condition]] = [
    ("nothing", lambda _: None, "R10", Condition.SOUND),
    (
        "journal gone",
        lambda root: journal_of(root, JOB).unlink(),
        "R3",
        Condition.JOURNAL_MISSING,
    ),
    ("poisoned", _poison, "R4", Condition.POISONED),
    (
        "head gone",
        lambda root: head_of(root, JOB).unlink(),
        "R6",
        Condition.HEAD_MISSING,
    ),
    ("head gone, torn", _behead_and_tear, "R7", Condition.DAMAGED),
    ("a cut", lambda root: cut(root, 30), "R8", Condition.DAMAGED),
    (
        "a flip",
        lambda root: change(root, b'"step_name":"s3"', b'"step_name":"S3"'),
        "R8",
        Condition.DAMAGED,
    ),
    ("another history", _another_history, "R9", Condition.DAMAGED),
    ("unheaded", unheaded, "R11", Condition.UNSETTLED),
    ("no newline", _unfinished, "R12", Condition.UNSETTLED),
    ("rot behind the head", _rot_behind_the_head, "R13", Condition.DAMAGED),
    ("torn", _tear, "R14", Condition.UNSETTLED),
    (
        "a leftover",
        lambda root: (root / "journals" / "etl.tmp").write_bytes(b"x"),
        "R15",
        Condition.UNSETTLED,
    ),
    (
        "a state",
        lambda root: change(root, b'{"n":3}', b'{"n":8}'),
        "R18",
        Condition.DAMAGED_STATES,
    ),
    ("a newer version", _newer, "R20", Condition.NEWER),
]


@pytest.mark.parametrize(("_name", "ruin", "row", "condition"), ROWS)
def test_a_look_finds_what_is_wrong_and_changes_nothing(
    root: Path,
    _name: str,
    ruin: Callable[[Path], object],
    row: str,
    condition: Condition,
) -> None:
    begin(root)
    ruin(root)
    found = look(root)
    assert (found.row, found.verdict) == (row, condition)
    assert found.message
    assert found.ok == TREATMENTS[condition].is_fine


def test_damage_is_told_with_its_place_and_what_is_safe_and_lost(root: Path) -> None:
    ids = begin(root)
    change(root, b'"step_name":"s3"', b'"step_name":"S3"')
    found = look(root)
    journal = journal_of(root, JOB).read_bytes()
    assert found.offset == journal.index(b'{"v":1,"seq":5,')
    assert found.line == journal[: found.offset].count(b"\n") + 1
    assert (found.proven_seq, found.checkpoints, found.newest) == (4, 3, ids[2])
    assert (found.acknowledged_seq, found.lost_events) == (7, 3)
    assert found.lost_checkpoints == tuple(ids[3:])
    assert found.proven_bytes + found.cut_bytes == len(journal)


def test_half_a_write_is_not_proven(root: Path) -> None:
    with CheckpointManager(root) as manager:
        manager.save(JOB, "one", {"n": 1})
    change(root, b'"seq":2,', b'"seq":3,')
    found = look(root)
    # job.opened is intact, but it went out in one write with the save.
    assert (found.proven_seq, found.proven_bytes, found.lost_events) == (0, 0, 2)


def test_a_delta_whose_base_rotted_is_told_too(root: Path) -> None:
    text = Random(5).randbytes(4000).hex()
    with CheckpointManager(root) as manager:
        ids = [manager.save(JOB, "s", {"n": n, "text": text}) for n in range(3)]
    lines = journal_of(root, JOB).read_bytes().split(b"\n")
    (whole,) = (line for line in lines if line.startswith(b'{"state":2,'))
    assert sum(b'"base":' in line for line in lines) == 2
    change(root, whole, whole.replace(b'"body":"KLU', b'"body":"KLV'))
    assert look(root).unreadable == tuple(ids)


def test_a_state_that_lies_with_a_right_checksum_takes_a_deep_look(root: Path) -> None:
    ids = begin(root)
    lines = journal_of(root, JOB).read_bytes().split(b"\n")
    (line,) = (line for line in lines if line.startswith(b'{"state":5,'))
    body = line.replace(b'{"n":3}', b'{"n":8}').partition(b',"crc":"')[0]
    change(root, line, body + b',"crc":"%08x"}' % zlib.crc32(body))
    assert look(root).verdict is Condition.SOUND
    deep = look(root, deep=True)
    assert (deep.verdict, deep.unreadable) == (Condition.DAMAGED_STATES, (ids[3],))


def test_what_an_interval_lost_to_a_power_cut_is_told_and_no_damage(root: Path) -> None:
    begin(root, "interval")
    head = read_head(root, JOB)
    early = Extent(0, "", 0)
    write_head(root, JOB, head._replace(writing=head.writing + 1, synced=early))
    cut(root, 30)
    found = look(root)
    assert (found.verdict, found.row, found.lost_events) == (
        *(Condition.UNSETTLED, "R14"),
        1,
    )


def test_a_write_on_its_way_is_not_taken_for_a_torn_tail(root: Path) -> None:
    begin(root)
    unheaded(root)
    with CheckpointManager(root) as writer:
        held = writer._store.storage.job(JOB).unsettled()
        with held:
            assert look(root).verdict is Condition.BUSY
    assert look(root).verdict is Condition.UNSETTLED


def test_a_journal_of_another_job_is_foreign(root: Path) -> None:
    begin(root)
    with CheckpointManager(root) as manager:
        manager.save("other", "s", {})
    replace(journal_of(root, JOB), journal_of(root, "other").read_bytes())
    assert look(root).verdict is Condition.FOREIGN


def test_a_symbolic_link_is_unreadable_and_other_jobs_are_looked_at(
    root: Path,
) -> None:
    begin(root)  # I10
    with CheckpointManager(root) as manager:
        manager.save("other", "s", {})
        journal_of(root, JOB).rename(root / "elsewhere")
        journal_of(root, JOB).symlink_to(root / "elsewhere")
        found = {each.job_id: each for each in manager.diagnose()}
    assert found[JOB].verdict is Condition.UNREADABLE
    assert "symbolic link" in found[JOB].message
    assert found["other"].verdict is Condition.SOUND


def test_keys_that_states_need_are_told_without_having_them(root: Path) -> None:
    key = Key.new("k1")
    with CheckpointManager(root, keys=KeyRing([key])) as manager:
        manager.save(JOB, "s", {"n": 1})
        manager.save(JOB, "s", {"n": 2})
    found = look(root, deep=True)
    assert (found.verdict, found.keys) == (Condition.SOUND, (("k1", 2),))


def test_an_unknown_job_has_no_diagnosis_and_leaves_no_trace(root: Path) -> None:
    with CheckpointManager(root) as manager:
        assert manager.diagnose("nope") == []
        assert manager.diagnose() == []
    assert not list(root.iterdir())


def test_a_job_in_memory_is_sound() -> None:
    manager = CheckpointManager(storage=MemoryStorage())
    manager.save(JOB, "s", {})
    (found,) = manager.diagnose()
    assert (found.verdict, found.proven_seq) == (Condition.SOUND, 2)
    assert manager.repair(JOB).steps == ()


def test_what_a_remedy_is_called_stays() -> None:
    assert {each.value for each in Remedy} == {
        *("nothing", "settle", "cut", "restart", "drop_states"),
        *("by_hand", "upgrade", "wait"),
    }
    assert {each.value for each in Condition} == {
        *("sound", "unsettled", "busy", "head_missing", "poisoned", "damaged"),
        *("journal_missing", "damaged_states", "foreign", "newer_format"),
        "unreadable_files",
    }
