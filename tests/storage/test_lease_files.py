"""The files of leases with a ttl: real processes, interruptions at every step."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from milepost.journal.clock import boot_seconds
from milepost.journal.disk.disk import PosixDisk
from milepost.journal.errors import NewerFormat
from milepost.journal.storage.files import expiring_lease_file
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.storage.leases import Tenure, encode_tenure
from tests.support.appending import run
from tests.support.eventually import eventually
from tests.support.faults import Child, Fault, FaultyDisk, children

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from milepost.journal.storage.leases import Lease
    from tests.support.clock import Clock

    Tell = Callable[[Any], None]

NAME = "exec_1"
TTL = 30.0


@pytest.fixture
def storage(root: Path) -> FileStorage:
    made = FileStorage(root)
    made.create()
    return made


def at(root: Path, clock: Callable[[], float] = boot_seconds) -> Lease:
    """Return a contender of another process."""
    return FileStorage(root, steady=clock).lease(NAME, TTL)


def later() -> float:
    return boot_seconds() + TTL


def files(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "records").iterdir())


# -- processes -------------------------------------------------------------------------


def test_a_holder_that_is_killed_is_followed_at_once(
    root: Path, storage: FileStorage
) -> None:
    def hold(tell: Tell) -> None:
        lease = at(root)
        tell([lease.acquire("work"), os.getpid()])
        signal.pause()

    lease = storage.lease(NAME, TTL)
    child = Child(hold)
    try:
        held, pid = child.hear()
        found = lease.holder()
        assert held
        assert found is not None
        assert (found.pid, lease.is_live(), lease.acquire("early")) == (
            *(pid, True),
            False,
        )
    finally:
        child.signal()
        assert child.wait() == -signal.SIGKILL
    assert (lease.is_live(), lease.holder()) == (False, None)
    assert lease.acquire("rescue")
    assert lease.fence == 2


def test_a_holder_that_is_stopped_loses_its_lease_after_the_ttl(
    root: Path, storage: FileStorage
) -> None:
    def hold(tell: Tell) -> None:
        lease = at(root)
        tell(lease.acquire("work"))
        signal.raise_signal(signal.SIGSTOP)
        tell([lease.is_held(), lease.renew(), lease.fence])

    with children(hold) as (child,):
        assert child.hear()
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        assert not at(root).acquire("early")
        rescuer = at(root, later)
        found = rescuer.holder()
        assert found is not None
        assert (found.pid, found.is_expired) == (child.pid, True)
        assert rescuer.acquire("rescue")
        child.signal(signal.SIGCONT)
        assert child.hear() == [False, False, None]
        assert rescuer.is_held()
    assert storage.lease(NAME, TTL).is_live()


def test_of_processes_that_find_an_expired_lease_one_takes_it(
    root: Path, storage: FileStorage
) -> None:
    def contend(tell: Tell) -> None:
        lease = at(root, later)
        for number in range(50):
            while not (root / f"start{number}").exists():
                time.sleep(0)
            tell([lease.acquire("race"), lease.fence])
            while not (root / f"end{number}").exists():
                time.sleep(0)
            lease.release()

    with children(*[contend] * 3) as contenders:
        for number in range(50):
            lease = storage.lease(NAME, TTL)
            eventually(lambda lease=lease: lease.acquire("before"))
            fence = lease.fence
            (root / f"start{number}").touch()
            told = [each.hear() for each in contenders]
            assert sorted(told, key=str)[:2] == [[False, None]] * 2, told
            assert [True, (fence or 0) + 1] in told
            assert not lease.is_held()
            (root / f"end{number}").touch()
    assert files(root) == [f"{NAME}.lock"]


def test_a_lease_that_is_removed_under_contention_has_one_holder_at_a_time(
    root: Path, storage: FileStorage
) -> None:
    mark = root / "held"

    def work(tell: Tell) -> None:
        tenures = 0
        while tenures < 200:
            lease = at(root)
            if lease.acquire("work"):
                os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
                mark.unlink()
                lease.release(forget=tenures % 3 > 0)
                tenures += 1
        tell(tenures)

    with children(*[work] * 4) as workers:
        assert [each.hear() for each in workers] == [200] * 4
    lease = storage.lease(NAME, TTL)
    assert lease.acquire("last")
    lease.release(forget=True)
    assert files(root) == []


def test_who_only_looks_never_makes_a_contender_fail(
    root: Path, storage: FileStorage
) -> None:
    def look(tell: Tell) -> None:
        lease = at(root)
        tell("ready")
        while not (root / "end").exists():
            lease.is_live()
            lease.holder()

    lease = storage.lease(NAME, TTL)
    with children(look, look) as lookers:
        assert [each.hear() for each in lookers] == ["ready"] * 2
        for number in range(1000):
            assert lease.acquire("work")
            lease.release(forget=number % 2 > 0)
        (root / "end").touch()


def test_a_forked_child_neither_holds_nor_keeps_the_lease_of_its_parent(
    root: Path, storage: FileStorage
) -> None:
    lease = storage.lease(NAME, TTL)
    assert lease.acquire("work")

    def outlive(tell: Tell) -> None:
        tell([lease.is_held(), lease.renew(), lease.fence])
        lease.release(forget=True)
        tell(at(root).acquire("work"))
        while at(root).is_live():
            time.sleep(0)
        tell("free")

    with children(outlive) as (child,):
        assert child.hear() == [False, False, None]
        assert child.hear() is False, "the parent still holds it"
        assert lease.renew()
        lease.release()
        assert child.hear() == "free"


# -- every interleaving of two ---------------------------------------------------------

STATES = ("new", "free", "live", "expired", "old", "copied")
DEEDS = ("acquire", "renew", "release", "forget", "again", "look")


class Meeting:
    """The holder `first`, `second` and `third` meet at one lease."""

    def __init__(self, root: Path, clock: Clock, state: str) -> None:
        self.root = root
        self.disk = FaultyDisk(root, syncs=False)
        self.first, self.third = at(root, clock.steady), at(root, clock.steady)
        self.second = FileStorage(root, steady=clock.steady, disk=self.disk).lease(
            NAME, TTL
        )
        if state != "new":
            assert self.first.acquire("first")
        if state in ("free", "old", "copied"):
            self.first.release()
        if state in ("expired", "old", "copied"):
            clock.turn(seconds=TTL)
        if state == "copied":
            (root / "copy").unlink(missing_ok=True)
            os.link(root / "records" / f"{NAME}.lock", root / "copy")
        self.told: dict[str, bool] = {}

    def do(self, deed: str) -> None:
        match deed:
            case "acquire":
                self.told["third"] = self.third.acquire("third")
            case "renew":
                self.told["first"] = self.first.renew()
            case "again":
                self.told["first"] = self.first.acquire("first")
            case "release" | "forget":
                self.first.release(forget=deed == "forget")
            case "look":
                self.third.holder()

    def check(self) -> None:
        leases = {"first": self.first, "second": self.second, "third": self.third}
        holding = {name for name, lease in leases.items() if lease.is_held()}
        assert len(holding) <= 1
        assert {name for name, told in self.told.items() if told} <= holding
        fences = {lease.fence for lease in leases.values()} - {None}
        assert len(fences) == len(holding)
        assert f"{NAME}.lock.tmp" not in files(self.root)

    def end(self, clock: Clock) -> None:
        """Let somebody else take over and end, whatever the three do."""
        clock.turn(seconds=TTL)
        last = at(self.root, clock.steady)
        assert last.acquire("last")
        for lease in (self.first, self.second, self.third):
            lease.release(forget=True)
        assert last.is_held()
        last.release(forget=True)


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("state", STATES)
def test_whatever_happens_while_a_lease_is_taken_it_has_one_holder(
    root: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    deed: str,
) -> None:
    monkeypatch.setattr(expiring_lease_file, "_GRACE_SECONDS", 0.01)
    storage = FileStorage(root)
    storage.create()
    has_struck = True
    nth = 0
    while has_struck:
        nth += 1
        meeting = Meeting(root, clock, state)

        def strike(meeting: Meeting = meeting) -> None:
            meeting.do(deed)

        fault = meeting.disk.set(Fault("", nth, "records", action=strike))
        meeting.told["second"] = meeting.second.acquire("second")
        has_struck, fault.nth = fault.has_fired, 0  # none strikes later
        meeting.check()
        meeting.end(clock)
        assert files(root) == []
    assert nth > 4


@pytest.mark.parametrize("deed", ["acquire", "renew", "forget"])
@pytest.mark.parametrize("state", ["live", "expired"])
def test_whatever_happens_while_a_lease_is_renewed_or_removed_it_has_one_holder(
    root: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    deed: str,
) -> None:
    monkeypatch.setattr(expiring_lease_file, "_GRACE_SECONDS", 0.01)
    storage = FileStorage(root)
    storage.create()
    for ending in (lambda x: x.renew(), lambda x: x.release(forget=True)):
        has_struck = True
        nth = 0
        while has_struck:
            nth += 1
            meeting = Meeting(root, clock, "new")
            assert meeting.second.acquire("second")
            if state == "expired":
                clock.turn(seconds=TTL)

            def strike(meeting: Meeting = meeting) -> None:
                clock.turn(seconds=TTL)
                meeting.do(deed)

            fault = meeting.disk.set(Fault("", nth, "records", action=strike))
            told = ending(meeting.second)
            if deed == "acquire":
                meeting.told["second"] = bool(told)
            has_struck, fault.nth = fault.has_fired, 0  # none strikes later
            meeting.check()
            meeting.end(clock)
            assert files(root) == []


# -- the file --------------------------------------------------------------------------


def test_a_tenure_and_each_renewal_are_one_write_in_place_without_a_sync(
    root: Path, storage: FileStorage
) -> None:
    assert storage.lease("other", TTL).acquire("work"), "makes the folder"
    disk = FaultyDisk(root)
    lease = FileStorage(root, disk=disk).lease(NAME, TTL)
    assert lease.acquire("work")
    for _ in range(3):
        assert lease.renew()
    changing = ("create", "append", "pwrite", "truncate", "rename", "unlink")
    changes = disk.of(*changing, "sync", "sync_folder")
    assert [call.operation for call in changes] == ["create", *["pwrite"] * 4]


@pytest.mark.parametrize("raw", [b"", b"\0" * 512, b"{}\n", b"x" * 99_999])
def test_what_a_crash_left_in_the_files_of_a_lease_stops_nobody(
    root: Path, storage: FileStorage, raw: bytes
) -> None:
    (root / "records").mkdir()
    for ending in ("lock", "lock.tmp"):
        (root / "records" / f"{NAME}.{ending}").write_bytes(raw)
    lease = storage.lease(NAME, TTL)
    assert (lease.holder(), lease.is_live()) == (None, False)
    assert lease.acquire("work")
    assert lease.fence == 1
    assert at(root, later).acquire("rescue")
    assert files(root) == [f"{NAME}.lock"]


def test_a_process_that_locked_the_file_and_wrote_nothing_is_replaced(
    root: Path, storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiring_lease_file, "_GRACE_SECONDS", 0.01)
    assert storage.store_id
    disk = FaultyDisk(root)
    stopped = FileStorage(root, disk=disk).lease(NAME, TTL)
    rescuer = at(root)

    def meanwhile() -> None:
        assert (rescuer.holder(), rescuer.is_live()) == (None, False)
        assert rescuer.acquire("rescue")

    disk.set(Fault("pwrite", action=meanwhile))
    assert not stopped.acquire("work")
    assert rescuer.is_held()


@pytest.mark.parametrize(("boot", "is_live"), [("", True), ("of another day", False)])
def test_a_deadline_of_another_boot_has_passed_unless_the_boot_is_unknown(
    root: Path, storage: FileStorage, boot: str, is_live: bool
) -> None:
    lease, looking = storage.lease(NAME, TTL), at(root)
    assert lease.acquire("work")
    found = lease.holder()
    assert found is not None
    tenure = Tenure(found._replace(deadline=None), boot, boot_seconds() + TTL)
    path = root / "records" / f"{NAME}.lock"
    path.write_bytes(encode_tenure(tenure))
    assert looking.is_live() is is_live
    assert looking.acquire("rescue") is not is_live


def test_a_holder_that_is_about_to_write_its_tenure_is_waited_for(
    root: Path, storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiring_lease_file, "_GRACE_SECONDS", 30)
    assert storage.store_id
    disk, others = FaultyDisk(root), FaultyDisk(root)
    lease = FileStorage(root, disk=disk).lease(NAME, TTL)
    other = FileStorage(root, disk=others).lease(NAME, TTL)
    has_looked = threading.Event()
    others.set(Fault("read", 5, action=has_looked.set))  # in its third look
    contending: list[threading.Thread] = []

    def meanwhile() -> None:
        contending.append(run(lambda: other.acquire("theft")))
        assert has_looked.wait(30)

    disk.set(Fault("pwrite", action=meanwhile))
    assert lease.acquire("work")
    contending[0].join(30)
    assert (lease.is_held(), other.is_held()) == (True, False)


def test_who_is_interrupted_after_a_takeover_leaves_the_draft_of_another_process(
    root: Path, storage: FileStorage
) -> None:
    lease, draft = storage.lease(NAME, TTL), root / "records" / f"{NAME}.lock.tmp"
    assert lease.acquire("work")

    class Interrupted(PosixDisk):
        def rename(self, source: Path, target: Path) -> None:
            super().rename(source, target)
            draft.touch()
            raise KeyboardInterrupt

    rescuer = FileStorage(root, steady=later, disk=Interrupted()).lease(NAME, TTL)
    with pytest.raises(KeyboardInterrupt):
        rescuer.acquire("rescue")
    assert not rescuer.is_held()
    assert draft.exists()


def test_a_takeover_that_another_process_gave_up_is_tried_again(
    root: Path, storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiring_lease_file, "_GRACE_SECONDS", 30)
    lease = storage.lease(NAME, TTL)
    assert lease.acquire("work")
    disk = FaultyDisk(root)
    draft = PosixDisk().open(
        root / "records" / f"{NAME}.lock.tmp", "update", create=True
    )
    assert draft.try_lock()
    disk.set(Fault("lock", 2, "lock.tmp", action=draft.close))
    rescuer = FileStorage(root, disk=disk, steady=later).lease(NAME, TTL)
    assert rescuer.acquire("rescue")
    assert files(root) == [f"{NAME}.lock"]


def test_a_process_that_is_stopped_while_it_looks_makes_no_contender_fail(
    root: Path, storage: FileStorage
) -> None:
    lease = storage.lease(NAME, TTL)
    assert lease.acquire("before")
    lease.release()
    looking = PosixDisk().open(root / "records" / f"{NAME}.lock", "read")
    assert looking.try_lock(shared=True)
    assert lease.acquire("work")
    assert lease.fence == 2
    assert not at(root).acquire("theft")


def test_a_lease_of_a_newer_format_is_not_taken(
    root: Path, storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = storage.lease(NAME, TTL)
    with monkeypatch.context() as newer:
        newer.setattr("milepost.journal.storage.leases.FORMAT", 2)
        assert lease.acquire("work")
    for ask in (at(root, later).acquire, lambda _: at(root).is_live()):
        with pytest.raises(NewerFormat, match="format 2"):
            ask("work")
    lease.release()
    with pytest.raises(NewerFormat, match="format 2"):
        at(root).acquire("work")


def test_of_leases_that_are_forgotten_nothing_is_left(
    root: Path, storage: FileStorage
) -> None:
    leases = [storage.lease(f"exec_{number}", TTL) for number in range(200)]
    for lease in leases:
        assert lease.acquire("x" * 1000)
        assert lease.is_live()
    for lease in leases:
        lease.release(forget=True)
    assert files(root) == []
