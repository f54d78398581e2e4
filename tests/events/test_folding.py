"""Folding is a function of the events alone, whichever states are stored now (I5)."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from milepost import CheckpointManager, Key, KeyRing
from milepost.journal.errors import (
    CannotRepair,
    Conflict,
    LossNotAccepted,
    MissingKey,
    NewerFormat,
    UnreadableState,
)
from milepost.journal.events import codec
from milepost.journal.recovery.diagnosis import Condition
from milepost.journal.storage.files.recovery.head import Extent
from tests.support.clock import Clock
from tests.support.faults import journal_of, put, read_head, replace, write_head
from tests.support.lines import Draft, append_as_newer

if TYPE_CHECKING:
    from collections.abc import Callable

JOB = "job"
DAY = 86400.0


class Life:
    """A job whose steps are checked, each of them, by a process that begins with it."""

    def __init__(self, root: Path, clock: Clock, **options: Any) -> None:
        self.root = root
        self.clock = clock
        self.options: Any = options
        self.manager = self.opened()
        self.ids: list[str] = []

    def opened(self) -> CheckpointManager:
        return CheckpointManager(self.root, clock=self.clock, **self.options)

    def do(self, step: str) -> None:
        """Do one step: its first word, the number of a save, days that pass."""
        verb, _, rest = step.partition(" ")
        target = self.ids[int(rest)] if rest and verb != "wait" else ""
        match verb:
            case "save":
                n = len(self.ids)
                self.ids.append(self.manager.save(JOB, f"s{n}", {"n": n}))
            case "wait":
                self.clock.turn(days=float(rest))
            case "purge":
                assert self.manager.delete(JOB, target, purge=True)
            case "compact":
                self.manager.compact(JOB)
            case "erase":
                self.manager.erase(JOB)
            case "reopen":
                self.manager.close()
                self.manager = self.opened()
            case _:
                assert getattr(self.manager, verb)(JOB, target) is not False
        self.check()

    def check(self) -> None:
        """Every process answers the same, and nothing is wrong with the job."""
        with self.opened() as fresh:
            assert answers(fresh) == answers(self.manager)  # I2
            assert [report.ok for report in fresh.verify(JOB, deep=True)] == [True]
            (found,) = fresh.diagnose(JOB, deep=True)
            assert found.verdict is Condition.SOUND


def answers(manager: CheckpointManager) -> list[object]:
    current = manager.current(JOB)
    states = [manager.get(JOB, i.checkpoint_id).state for i in manager.list(JOB)]  # I5
    return [manager.list(JOB), current, states, manager.history(JOB)]


LIVES = {
    "deleted, another purged, undeleted, purged": "save save delete_0 purge_1"
    " undelete_0 save purge_0 reopen save",
    "deleted, a compaction, undeleted, deleted, compacted": "save save save delete_0"
    " wait_8 delete_1 compact wait_2 undelete_1 save wait_1 delete_1 wait_8 compact",
    "undeleted three times, each behind a compaction": "save save save save save"
    " delete_0 purge_1 undelete_0 delete_0 purge_2 undelete_0 delete_0 purge_3"
    " undelete_0 delete_0 wait_8 compact save",
    "undeleted, then erased": "save save save delete_0 purge_1 undelete_0 erase"
    " save reopen save",
    "pinned and held on the way": "save save save pin_0 unpin_0 hold_0 release_0"
    " delete_0 purge_1 undelete_0 hold_0 release_0 pin_0 unpin_0 purge_0 purge_2",
    "current, deleted, undeleted, restored, purged": "save save save restore_0"
    " delete_0 purge_1 undelete_0 restore_0 save purge_0 delete_2 undelete_2",
    "deleted twice, purged from the trash": "save save save delete_0 delete_1 purge_2"
    " undelete_1 purge_0 delete_1 purge_1 save",
    "everything purged and erased again": "save save delete_0 purge_1 undelete_0"
    " purge_0 erase erase save erase",
}


@pytest.mark.parametrize("codec", ["auto", "json"])
@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES)
def test_a_job_opens_in_every_process_before_and_after_each_step(
    root: Path, clock: Clock, life: str, codec: str
) -> None:
    lived = Life(root, clock, codec=codec)
    for step in life.split():
        lived.do(step.replace("_", " "))


def forget_what_was_erased(root: Path) -> None:
    """Rewrite the chain as an earlier version wrote it, which said only how many."""
    journal, head = journal_of(root, JOB), read_head(root, JOB)
    lines, prev, seq = [], "", 0
    for line in journal.read_bytes().splitlines(keepends=True):
        if line.startswith(b'{"state":'):
            lines.append(line)
            continue
        event = orjson.loads(line)
        data = event["data"]
        data.pop("erased", None)
        if not prev:
            prev = codec.genesis(data["store"], data["job"], data["nonce"])
        seq += 1
        encoded, event = codec.encode(
            prev,
            **{k: event[k] for k in ("seq", "at", "actor", "data")},
            type_=event["type"],
            span=event.get("span"),
        )
        lines.append(encoded)
        prev = event["hash"]
    put(journal, b"".join(lines))
    shown = Extent(seq, prev, journal.stat().st_size)
    head = head._replace(writing=head.writing + 1, shown=shown, synced=shown)
    for writing in (head.writing, head.writing + 1):  # both of its slots
        write_head(root, JOB, head._replace(writing=writing))


@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES)
def test_a_journal_of_a_version_that_did_not_say_what_it_erased_opens(
    root: Path, clock: Clock, life: str
) -> None:
    lived = Life(root, clock)
    for step in life.split():
        lived.do(step.replace("_", " "))
    lived.manager.close()
    before = answers(lived.opened())[:3]
    forget_what_was_erased(root)
    lived.manager = lived.opened()
    assert answers(lived.manager)[:3] == before
    lived.check()
    for checkpoint_id in {*lived.ids} - {i.checkpoint_id for i in before[0]}:  # type: ignore[attr-defined]
        with contextlib.suppress(Conflict):  # its state is gone, whatever else is
            assert lived.manager.undelete(JOB, checkpoint_id)
        lived.check()
    for step in ("save", "save", "purge -1", "save", "erase", "save"):
        lived.do(step)


def test_what_an_earlier_version_erased_cannot_come_back(
    root: Path, clock: Clock
) -> None:
    lived = Life(root, clock, trash_seconds=DAY)
    for step in ("save", "save", "save", "delete 0", "wait 2", "compact"):
        lived.do(step)
    lived.manager.close()
    forget_what_was_erased(root)
    lived.options = {"trash_seconds": 9 * DAY}  # it could come back, by the clock
    lived.manager = lived.opened()
    seq = lived.manager.seq(JOB)
    with pytest.raises(Conflict, match="state is erased"):
        lived.manager.undelete(JOB, lived.ids[0])
    assert lived.manager.seq(JOB) == seq
    assert lived.manager.list(JOB)[0].parent_id is None  # as that version said
    lived.do("purge 1")  # whose compaction says for both what is erased
    assert lived.manager.history(JOB)[-1]["data"]["erased"] == [[2, 3]]
    with pytest.raises(Conflict, match="state is erased"):
        lived.manager.undelete(JOB, lived.ids[0])


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Life:
    """A job with live, deleted, undeleted and erased checkpoints."""
    lived = Life(tmp_path_factory.mktemp("folding") / "store", Clock())
    steps = "save save save save save save save delete_0 purge_1 undelete_0 delete_2"
    for step in f"{steps} restore_3 save delete_4 purge_5 undelete_2 pin_3".split():
        lived.do(step.replace("_", " "))
    lived.manager.close()
    return lived


@settings(
    deadline=None, max_examples=60, suppress_health_check=[*HealthCheck], database=None
)
@given(gone=st.sets(st.integers(2, 20)), says=st.booleans(), repairs=st.booleans())
def test_whichever_states_are_missing_the_same_events_fold_to_the_same_job(
    lived_in: Life, gone: set[int], says: bool, repairs: bool
) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        shutil.copytree(lived_in.root, root)
        if not says:
            forget_what_was_erased(root)
        lived = Life(root, lived_in.clock)
        with lived.opened() as whole:
            infos, history = whole.list(JOB), whole.history(JOB)
            current = whole.current(JOB)
        cut = tuple(b'{"state":%d,' % seq for seq in gone)
        lines = journal_of(root, JOB).read_bytes().splitlines(keepends=True)
        kept = b"".join(line for line in lines if not line.startswith(cut))
        replace(journal_of(root, JOB), kept)
        check_missing(lived, gone, infos, history, current, repairs=repairs)


def told(info: Any) -> Any:
    """What events tell of a checkpoint; an ancestor without a state is passed over."""
    return info._replace(stored_bytes=0, parent_id=None)


def check_missing(
    lived: Life,
    gone: set[int],
    infos: list[Any],
    history: list[Any],
    current: Any,
    *,
    repairs: bool,
) -> None:
    """The job is what it was; a live checkpoint without its state is reported."""
    with lived.opened() as manager:
        assert [*map(told, manager.list(JOB))] == [*map(told, infos)]
        assert manager.history(JOB) == history
        assert told(manager.current(JOB)) == told(current)
        lost = [i.checkpoint_id for i in infos if i.seq in gone]
        for info in infos:
            if info.checkpoint_id in lost:
                with pytest.raises(UnreadableState, match="state line is missing"):
                    manager.get(JOB, info.checkpoint_id)
            else:
                assert manager.get(JOB, info.checkpoint_id).state  # I5
        assert manager.verify(JOB)[0].ok == (not lost)
        (found,) = manager.diagnose(JOB)
        assert found.unreadable == tuple(lost)
        assert found.proven_seq == len(history)
        expected = Condition.DAMAGED_STATES if lost else Condition.SOUND
        assert found.verdict is expected
        if repairs:
            manager.repair(JOB, accept_loss=True)
            after = manager.history(JOB)
            assert after[: len(history)] == history  # I4, I7
            types = {event["type"] for event in after[len(history) :]}
            assert types <= {"checkpoint.deleted"}
            assert manager.save(JOB, "on", {})


def flips(line: bytes) -> list[bytes]:
    """A state line with one byte of it changed, each in several ways, or gone."""
    found = []
    for at, byte in enumerate(line):
        others = [byte ^ 0x01, byte ^ 0x20, byte ^ 0x80, ord("\n"), 0]
        changes = [*(bytes([other]) for other in others), b""]
        found += [line[:at] + change + line[at + 1 :] for change in changes]
    return [each for each in found if each != line]


ODD_STATES: list[Callable[[bytes], bytes]] = [
    lambda line: line + b"\n" + line,  # twice
    lambda line: line[:40] + b"\n\n" + line[40:],
    lambda _: b"\n\n\n",
    lambda line: bytes(len(line)),
    lambda _: b"not JSON\nof any kind",
    lambda line: line.replace(b'"state":3', b'"state":4'),
]


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["always", "never"])
def test_whatever_a_state_line_rots_to_the_events_stay(
    tmp_path: Path, durability: Any
) -> None:
    with CheckpointManager(tmp_path / "whole", durability=durability) as manager:
        ids = [manager.save(JOB, f"s{n}", {"n": n}) for n in range(3)]
        manager.restore(JOB, ids[0])
        history = manager.history(JOB)
    whole = journal_of(tmp_path / "whole", JOB).read_bytes()
    (line,) = (x for x in whole.splitlines() if x.startswith(b'{"state":3,'))
    ruined = [*flips(line), *(ruin(line) for ruin in ODD_STATES)]
    for number, bad in enumerate(ruined):
        root = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", root)
        replace(journal_of(root, JOB), whole.replace(line, bad))
        with CheckpointManager(root, durability=durability) as manager:
            (found,) = manager.diagnose(JOB)
            assert (found.proven_seq, found.lost_events) == (len(history), 0), bad
            if found.row == "R22":  # white space is taken away first
                with contextlib.suppress(LossNotAccepted):  # of the state
                    manager.repair(JOB)
                (found,) = manager.diagnose(JOB)
            if found.verdict is Condition.SOUND:  # it was nothing else
                shutil.rmtree(root)
                continue
            assert found.verdict is Condition.DAMAGED_STATES, bad
            assert found.unreadable == (ids[1],)
            assert manager.history(JOB)[: len(history)] == history  # I4, I7
            for n in (0, 2):
                assert manager.get(JOB, ids[n]).state == {"n": n}  # I5
            with pytest.raises(UnreadableState, match=ids[1]):
                manager.get(JOB, ids[1])
            assert not manager.verify(JOB)[0].ok
            if number % 50 == 0 or number >= len(ruined) - len(ODD_STATES):
                manager.repair(JOB, accept_loss=True)
                assert manager.history(JOB)[: len(history)] == history
                assert manager.save(JOB, "on", {})
                manager.delete(JOB, ids[1], purge=True)
                assert not bad.strip() or bad not in journal_of(root, JOB).read_bytes()
                assert manager.verify(JOB, deep=True)[0].ok
        shutil.rmtree(root)


RUINED: dict[str, Callable[[bytes], bytes]] = {
    "missing": lambda data: b"".join(
        line
        for line in data.splitlines(keepends=True)
        if not line.startswith(b'{"state":2,')
    ),
    "rotten": lambda data: data.replace(b'"body":{"n":0}', b'"body":{"n":7}'),
}


@pytest.mark.parametrize("ruin", RUINED.values(), ids=RUINED)
def test_what_would_not_restore_is_not_undeleted(
    root: Path, clock: Clock, ruin: Callable[[bytes], bytes]
) -> None:
    lived = Life(root, clock, codec="json")
    for step in ("save", "save", "delete 0"):
        lived.do(step)
    lived.manager.close()
    replace(journal_of(root, JOB), ruin(journal_of(root, JOB).read_bytes()))
    with lived.opened() as manager:
        with pytest.raises((Conflict, UnreadableState), match=lived.ids[0]):
            manager.undelete(JOB, lived.ids[0])
        assert manager.seq(JOB) == 4
        assert manager.save(JOB, "on", {})


def test_a_deleted_state_keeps_its_base_until_someone_with_its_key_compacts(
    root: Path, clock: Clock
) -> None:
    """Else who undeletes it gets a checkpoint that cannot be read."""
    text = "".join(chr(33 + n * n % 89) for n in range(4000))
    keys = KeyRing([Key.new("k")])
    with CheckpointManager(root, clock=clock, keys=keys) as manager:
        ids = [manager.save(JOB, "s", {"n": n, "text": text}) for n in range(3)]
        manager.delete(JOB, ids[0])
        clock.turn(days=5)
        manager.delete(JOB, ids[1])
        manager.delete(JOB, ids[2])
        clock.turn(days=3)
    with CheckpointManager(root, clock=clock) as keyless, pytest.raises(MissingKey):
        keyless.compact(JOB)
    with CheckpointManager(root, clock=clock, keys=keys) as manager:
        assert manager.compact(JOB) is not None
        assert manager.undelete(JOB, ids[1])
        assert manager.get(JOB, ids[1]).state == {"n": 1, "text": text}  # I5


MISFITS = [
    Draft("checkpoint.held", data={"checkpoint_id": "x"}),
    Draft("checkpoint.undeleted", data={"checkpoint_id": "x"}),
    Draft("checkpoints.cleaned", data={"removed": ["x"]}),
    Draft("job.compacted", data={"erased": 5}),
    Draft("checkpoint.deleted", data={}),
]


@pytest.mark.parametrize("misfit", MISFITS, ids=lambda draft: draft.type)
def test_an_intact_event_that_does_not_follow_leaves_a_history_and_every_byte(
    root: Path, misfit: Draft
) -> None:
    with CheckpointManager(root) as manager:
        one = manager.save(JOB, "one", {"n": 1})
    append_as_newer(root, misfit, Draft("job.noted", data={}))
    before = journal_of(root, JOB).read_bytes()
    with CheckpointManager(root) as fresh:
        for ask in (fresh.list, fresh.current):
            with pytest.raises(NewerFormat, match="event 3 is intact, but does not"):
                ask(JOB)
        with pytest.raises(NewerFormat, match="nothing was written"):
            fresh.save(JOB, "two", {})
        with pytest.raises(NewerFormat):
            fresh.delete(JOB, one)
        assert len(fresh.history(JOB)) == 4
        (found,) = fresh.diagnose(JOB)
        assert (found.verdict, found.row) == (Condition.NEWER, "R20")
        assert "event 3 is intact, but does not follow" in found.message
        assert found.lost_events == 0
        with pytest.raises(CannotRepair):
            fresh.repair(JOB, accept_loss=True)
        assert not fresh.verify(JOB)[0].ok
    assert journal_of(root, JOB).read_bytes() == before  # I4, I7
