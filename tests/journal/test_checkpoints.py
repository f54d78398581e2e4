"""The public calls: the five that users rely on, and what stands beside them."""

from __future__ import annotations

import inspect
import re
import sys
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from milepost import CheckpointInfo, CheckpointManager, MemoryStorage, Policy
from milepost.journal import errors
from milepost.journal.states.diff import Change, diff
from tests.support.clock import NOW
from tests.support.eventually import DEADLINE_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.clock import Clock

    Call = Callable[[CheckpointManager], object]

START_SECONDS = 1795410000
TRASH_SECONDS = 3600.0


@pytest.fixture(params=["memory", "file"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> Iterator[CheckpointManager]:
    where: dict[str, Any] = {"storage": MemoryStorage()}
    if request.param == "file":
        where = {"root": tmp_path / "store"}
    with CheckpointManager(
        **where, clock=clock, actor="lib:etl@host", trash_seconds=TRASH_SECONDS
    ) as manager:
        yield manager


def save(manager: CheckpointManager, *steps: str, job_id: str = "job") -> list[str]:
    return [manager.save(job_id, step, {"step": step}) for step in steps]


def steps(manager: CheckpointManager, job_id: str = "job") -> list[str]:
    return [info.step_name for info in manager.list(job_id)]


def current(manager: CheckpointManager, job_id: str = "job") -> str | None:
    info = manager.current(job_id)
    return None if info is None else info.step_name


def last_event(manager: CheckpointManager, job_id: str = "job") -> dict[str, Any]:
    (event,) = manager.history(job_id, limit=1, reverse=True)
    return {key: event[key] for key in ("type", "actor", "data")}


# -- construction -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["root", "storage_dir", "storage_path"])
@pytest.mark.parametrize("kind", [str, Path])
def test_three_names_for_the_folder_mean_the_same(
    tmp_path: Path, name: str, kind: type
) -> None:
    arguments: dict[str, Any] = {name: kind(tmp_path / "store")}
    with CheckpointManager(**arguments) as manager:
        save(manager, "a")
        assert manager.root == tmp_path / "store"
        assert manager.storage_dir == manager.storage_path == manager.root
    assert steps(CheckpointManager(tmp_path / "store")) == ["a"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"root": "x", "storage_dir": "y"},
        {"root": b"x"},
        {"storage_path": 3},
        {"root": "x", "storage": MemoryStorage()},
        {"root": "x", "durability": "sometimes"},
        {"root": "x", "actor": ""},
    ],
    ids=", ".join,
)
def test_a_manager_without_one_clear_place_is_refused(
    arguments: dict[str, Any],
) -> None:
    with pytest.raises(errors.InvalidArgument):
        CheckpointManager(**arguments)


def test_without_a_folder_it_is_checkpoints_in_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with CheckpointManager() as manager:
        assert manager.storage_dir == manager.storage_path == Path("checkpoints")
        assert (tmp_path / "checkpoints").is_dir()


def test_of_two_folders_storage_path_wins(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for other in ({"storage_dir": one}, {"root": one}):
        with CheckpointManager(**other, storage_path=str(two)) as manager:
            assert manager.storage_dir == manager.storage_path == two
    assert not one.exists()


def test_making_and_closing_a_manager_makes_its_folder_and_nothing_in_it(
    tmp_path: Path,
) -> None:
    with CheckpointManager(tmp_path / "a" / "store") as manager:
        manager.close()
    assert (tmp_path / "a" / "store").is_dir()
    assert not list((tmp_path / "a" / "store").iterdir())


def test_where_no_folder_can_be_made_the_first_write_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    manager = CheckpointManager(tmp_path / "file" / "store")
    with pytest.raises(errors.StorageFailed, match="Not a directory"):
        manager.save("job", "a", {})


def test_extras_are_keyword_only_so_that_they_never_change_the_five_calls() -> None:
    positional = {
        "save": ["job_id", "step_name", "state"],
        "list": ["job_id"],
        "restore": ["job_id", "checkpoint_id"],
        "delete": ["job_id", "checkpoint_id"],
        "cleanup": ["job_id", "keep_last"],
    }
    for name, expected in positional.items():
        parameters = inspect.signature(getattr(CheckpointManager, name)).parameters
        found = [p.name for p in parameters.values() if p.kind != p.KEYWORD_ONLY]
        assert found == ["self", *expected], name
        extras = [p for p in parameters.values() if p.kind == p.KEYWORD_ONLY]
        assert all(p.default is not p.empty for p in extras), name


# -- save and list ------------------------------------------------------------------


def test_an_id_is_the_step_the_second_and_eight_hex_digits(
    manager: CheckpointManager,
) -> None:
    (checkpoint_id,) = save(manager, "Lädt: alles/1")
    assert re.fullmatch(f"L-dt-alles-1_{START_SECONDS}_[0-9a-f]{{8}}", checkpoint_id)


def test_a_list_holds_the_checkpoints_oldest_first_whatever_the_clock_says(
    manager: CheckpointManager, clock: Clock
) -> None:
    for step, seconds in (("a", -3600.0), ("b", 7200.0), ("c", -1.0), ("d", 0.0)):
        save(manager, step)
        clock.turn(seconds=seconds)
    assert steps(manager) == ["a", "b", "c", "d"]


def test_a_listed_checkpoint_says_all_that_was_saved_but_its_state(
    manager: CheckpointManager,
) -> None:
    (first,) = save(manager, "a")
    second = manager.save(
        "job",
        "b",
        {"x": 1},
        metadata={"by": ["me"]},
        tags=["nightly", "ü"],
        pinned=True,
        workflow_name="etl",
        workflow_version="1.4",
    )
    info = manager.list("job")[1]
    assert info == CheckpointInfo(
        checkpoint_id=second,
        job_id="job",
        step_name="b",
        timestamp="2026-11-23T05:00:00.123456+00:00",
        workflow_version="1.4",
        workflow_name="etl",
        metadata={"by": ["me"]},
        seq=3,
        parent_id=first,
        tags=("nightly", "ü"),
        pinned=True,
        stored_bytes=info.stored_bytes,
    )
    assert info.saved_at == NOW
    assert info.saved_at.utcoffset() == timedelta(0)


def test_a_plain_checkpoint_has_none_of_the_extras(manager: CheckpointManager) -> None:
    save(manager, "a")
    (info,) = manager.list("job")
    assert info.workflow_name is info.parent_id is None
    assert info.workflow_version == "1.0"
    assert manager.history("job")[1]["data"].get("workflow_version") == "1.0"
    assert (info.metadata, info.tags, info.pinned) == ({}, (), False)


@pytest.mark.parametrize(
    "extras",
    [
        {"tags": "nightly"},
        {"tags": [1]},
        {"tags": [""]},
        {"workflow_name": ""},
        {"workflow_version": 14},
        {"workflow_version": "\ud800"},
        {"idempotency_key": "x" * 513},
        {"actor": ""},
    ],
    ids=str,
)
def test_a_label_out_of_bounds_is_refused_and_nothing_written(
    manager: CheckpointManager, extras: dict[str, Any]
) -> None:
    with pytest.raises(errors.InvalidArgument):
        manager.save("job", "a", {}, **extras)
    assert manager.seq("job") == 0


def test_events_say_who_did_it(manager: CheckpointManager) -> None:
    (first,) = save(manager, "a")
    assert last_event(manager)["actor"] == "lib:etl@host"
    manager.restore("job", first, actor="token:ops")
    assert last_event(manager)["actor"] == "token:ops"


# -- restore ------------------------------------------------------------------------


def test_restoring_gives_the_state_and_is_on_record(manager: CheckpointManager) -> None:
    first, second = save(manager, "a", "b")
    assert manager.restore("job", first) == {"step": "a"}
    assert last_event(manager) == {
        "type": "checkpoint.restored",
        "actor": "lib:etl@host",
        "data": {"checkpoint_id": first, "previous": second},
    }


def test_an_unknown_checkpoint_is_a_file_not_found(manager: CheckpointManager) -> None:
    save(manager, "a")
    for job_id in ("job", "unknown"):
        for ask in (manager.restore, manager.get):
            with pytest.raises(FileNotFoundError, match="not found") as caught:
                ask(job_id, "nothing")
            assert isinstance(caught.value, errors.UnknownCheckpoint)
            assert caught.value.code == "not_found"
    assert manager.seq("job") == 2


def test_a_checkpoint_of_another_job_is_unknown_here(
    manager: CheckpointManager,
) -> None:
    (mine,) = save(manager, "a")
    save(manager, "b", job_id="other")
    with pytest.raises(errors.UnknownCheckpoint):
        manager.restore("other", mine)
    assert manager.delete("other", mine) is False
    assert steps(manager) == ["a"]


def test_a_deleted_checkpoint_says_when_and_by_whom(manager: CheckpointManager) -> None:
    (first,) = save(manager, "a")
    manager.delete("job", first, actor="token:ops")
    for ask in (manager.restore, manager.get):
        with pytest.raises(errors.UnknownCheckpoint, match=r"not found.*deleted") as e:
            ask("job", first)
        assert e.value.deleted_at == "2026-11-23T05:00:00.123456+00:00"
        assert e.value.deleted_by == "token:ops"


def test_whoever_deleted_it_cannot_write_lines_into_the_error(
    manager: CheckpointManager,
) -> None:
    (first,) = save(manager, "a")
    manager.delete("job", first, actor="ops\n\x1b[31mall is well")
    with pytest.raises(errors.UnknownCheckpoint) as caught:
        manager.restore("job", first)
    assert str(caught.value).isprintable()


def test_reading_never_writes(manager: CheckpointManager) -> None:
    first, second = save(manager, "a", "b")
    before = manager.history("job")
    manager.get("job", first)
    manager.diff("job", first, second)
    manager.state_at("job", 2)
    manager.find(first)
    manager.plan("job", Policy(keep_last=1))
    manager.verify(deep=True)
    assert manager.history("job") == before
    assert current(manager) == "b"


# -- delete, cleanup ----------------------------------------------------------------


def test_deleting_twice_is_true_then_false_and_one_event(
    manager: CheckpointManager,
) -> None:
    first, _ = save(manager, "a", "b")
    assert manager.delete("job", first, reason="wrong branch") is True
    assert last_event(manager)["data"] == {
        "checkpoint_id": first,
        "reason": "wrong branch",
    }
    seq = manager.seq("job")
    assert manager.delete("job", first) is False
    assert manager.seq("job") == seq
    assert steps(manager) == ["b"]


def test_a_cleanup_keeps_the_newest_and_says_how_many_went(
    manager: CheckpointManager,
) -> None:
    save(manager, *"abcdefghijklm")
    assert manager.cleanup("job") == 3
    assert steps(manager) == [*"defghijklm"]
    assert manager.cleanup("job", 4) == 6
    assert manager.cleanup("job", keep_last=1) == 3
    assert steps(manager) == ["m"]  # I6


def test_a_cleanup_with_nothing_to_do_leaves_no_event(
    manager: CheckpointManager,
) -> None:
    save(manager, "a", "b")
    assert manager.cleanup("job", 2) == 0
    assert manager.cleanup("job", 101) == 0
    assert manager.seq("job") == 3


def test_a_cleanup_leaves_the_newest_besides_what_is_pinned_or_held(
    manager: CheckpointManager,
) -> None:
    ids = save(manager, *"abcdef")
    manager.pin("job", ids[0])
    manager.hold("job", ids[5])
    manager.restore("job", ids[2])
    manager.save("job", "g", {}, failed=True)
    assert manager.cleanup("job", 2) == 3
    assert steps(manager) == ["a", "e", "f", "g"]
    last = manager.history("job")[-1]
    assert last["type"] == "checkpoints.cleaned"
    assert last["data"]["kept"] == 4


@pytest.mark.parametrize("keep_last", [0, -1, True, "3", 2.0, None], ids=repr)
def test_a_keep_last_that_is_no_number_above_zero_is_refused(
    manager: CheckpointManager, keep_last: int
) -> None:
    save(manager, "a", "b")
    with pytest.raises(ValueError, match="keep_last") as caught:
        manager.cleanup("job", keep_last)
    assert isinstance(caught.value, errors.InvalidArgument)
    assert steps(manager) == ["a", "b"]


CALLS_ON_UNKNOWN: dict[str, Call] = {
    "list": lambda m: m.list("job") == [],
    "restore": lambda m: m.restore("job", "x"),
    "delete": lambda m: m.delete("job", "x") is False,
    "cleanup": lambda m: m.cleanup("job") == 0,
    "get": lambda m: m.get("job", "x"),
    "find": lambda m: m.find("x"),
    "latest": lambda m: m.latest("job") is None,
    "current": lambda m: m.current("job") is None,
    "page": lambda m: m.page("job", limit=5) == [],
    "jobs": lambda m: m.jobs() == [],
    "job": lambda m: m.job("job") is None,
    "history": lambda m: m.history("job") == [],
    "state_at": lambda m: m.state_at("job", 1),
    "diff": lambda m: m.diff("job", "x", "y"),
    "verify": lambda m: m.verify() == [],
    "seq": lambda m: m.seq("job") == 0,
    "undelete": lambda m: m.undelete("job", "x") is False,
    "pin": lambda m: m.pin("job", "x"),
    "hold": lambda m: m.hold("job", "x"),
    "release": lambda m: m.release("job", "x"),
    "unpin": lambda m: m.unpin("job", "x"),
    "fork": lambda m: m.fork("job", "x", "new"),
    "plan": lambda m: m.plan("job", Policy(keep_last=1)).remove == (),
    "apply": lambda m: m.apply(m.plan("job", Policy(keep_last=1))) == 0,
    "refresh": lambda m: m.refresh() == set(),
    "refresh one": lambda m: m.refresh(["job"]) == set(),
}


@pytest.mark.parametrize("call", CALLS_ON_UNKNOWN.values(), ids=CALLS_ON_UNKNOWN)
def test_asking_about_an_unknown_job_leaves_no_trace_on_disk(
    tmp_path: Path, call: Call
) -> None:
    with CheckpointManager(tmp_path / "store") as manager:
        try:
            assert call(manager) is True
        except (errors.UnknownCheckpoint, errors.InvalidArgument) as exc:
            assert "job" in str(exc) or "not found" in str(exc)  # noqa: PT017 - either way is right
    assert not list((tmp_path / "store").iterdir())


def test_a_refused_first_save_leaves_no_trace_on_disk(tmp_path: Path) -> None:
    with CheckpointManager(tmp_path) as manager:
        save(manager, "a", job_id="other")
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(errors.Conflict):
            manager.save("job", "a", {}, expected_seq=3)
        assert sorted(tmp_path.rglob("*")) == before


# -- idempotency --------------------------------------------------------------------


def test_a_repeated_save_returns_the_first_id_and_writes_nothing(
    manager: CheckpointManager, clock: Clock
) -> None:
    first = manager.save("job", "a", {"x": 1}, metadata={"m": 1}, idempotency_key="k")
    save(manager, "b")
    clock.turn(seconds=60)
    again = manager.save("job", "a", {"x": 1}, metadata={"m": 1}, idempotency_key="k")
    assert again == first
    assert steps(manager) == ["a", "b"]
    assert manager.save("other", "a", {"x": 1}, idempotency_key="k") != first


class Held:
    """A job whose first save is held inside its write until others wait behind it."""

    def __init__(self) -> None:
        self.inside, self.may_go = threading.Event(), threading.Event()
        self.manager = CheckpointManager(storage=MemoryStorage(), clock=self)
        self.answers: dict[str, str] = {}

    def __call__(self) -> datetime:
        """Return the time, but not to the first save before it may go."""
        if threading.current_thread().name == "first":
            self.inside.set()
            assert self.may_go.wait(DEADLINE_SECONDS)
        return NOW

    def begin(self, name: str, step: str, key: str | None = None) -> threading.Thread:
        thread = threading.Thread(target=self._save, args=(name, step, key), name=name)
        thread.start()
        return thread

    def _save(self, name: str, step: str, key: str | None) -> None:
        try:
            self.answers[name] = self.manager.save(
                "job", step, {"step": step}, idempotency_key=key
            )
        except errors.Conflict:
            self.answers[name] = "conflict"

    def wait_for(self, waiting: int) -> None:
        queue = self.manager._store._job("job").queue
        eventually(lambda: len(queue._waiting) >= waiting)


def saved_together(*wanted: str) -> tuple[list[str], CheckpointManager]:
    """Save these steps, all with the key "k", in one write; return the answers."""
    held = Held()
    threads = [held.begin("first", "first")]
    assert held.inside.wait(DEADLINE_SECONDS)
    threads += [held.begin(f"{n}", step, "k") for n, step in enumerate(wanted)]
    held.wait_for(len(wanted))
    held.may_go.set()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    return [held.answers[f"{n}"] for n in range(len(wanted))], held.manager


def test_saves_that_share_one_write_still_conflict_over_a_key() -> None:
    answers, manager = saved_together("a", "b")
    (saved,) = {*answers} - {"conflict"}
    assert "conflict" in answers
    assert [info.checkpoint_id for info in manager.list("job")][1:] == [saved]


def test_repeats_that_share_one_write_get_the_same_id() -> None:
    (one, two), manager = saved_together("a", "a")
    assert one == two
    assert [info.checkpoint_id for info in manager.list("job")][1:] == [one]


# -- expected_seq -------------------------------------------------------------------

WRITES: dict[str, Callable[[CheckpointManager, str, int], object]] = {
    "save": lambda m, _, seq: m.save("job", "c", {}, expected_seq=seq),
    "restore": lambda m, cp, seq: m.restore("job", cp, expected_seq=seq),
    "delete": lambda m, cp, seq: m.delete("job", cp, expected_seq=seq),
    "cleanup": lambda m, _, seq: m.cleanup("job", 1, expected_seq=seq),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("stale", [0, 1, 2, 4])
def test_a_stale_writer_is_refused_and_an_up_to_date_one_is_not(
    manager: CheckpointManager,
    write: Callable[[CheckpointManager, str, int], object],
    stale: int,
) -> None:
    first, _ = save(manager, "a", "b")
    with pytest.raises(errors.Conflict, match=f"at seq 3, not {stale}"):
        write(manager, first, stale)
    assert manager.seq("job") == 3
    write(manager, first, 3)
    assert manager.seq("job") == 4  # I3


def test_an_expected_seq_of_zero_means_that_the_job_must_be_new(
    manager: CheckpointManager,
) -> None:
    manager.save("job", "a", {}, expected_seq=0)
    with pytest.raises(errors.Conflict):
        manager.save("job", "b", {}, expected_seq=0)
    with pytest.raises(errors.Conflict):
        manager.save("other", "b", {}, expected_seq=1)
    assert manager.job("other") is None


# -- current ------------------------------------------------------------------------


def test_a_save_after_a_restore_is_a_child_of_what_was_restored(
    manager: CheckpointManager,
) -> None:
    first, second, third = save(manager, "a", "b", "c")
    manager.restore("job", first)
    latest = manager.latest("job")
    assert latest is not None
    assert (current(manager), latest.step_name) == ("a", "c")
    (fourth,) = save(manager, "d")
    parents = {i.checkpoint_id: i.parent_id for i in manager.list("job")}
    assert parents == {first: None, second: first, third: second, fourth: first}
    assert current(manager) == "d"


def test_deleting_the_current_one_falls_back_to_its_nearest_living_ancestor(
    manager: CheckpointManager,
) -> None:
    first, second, _ = save(manager, "a", "b", "c")
    manager.restore("job", second)
    (fourth,) = save(manager, "d")
    manager.delete("job", fourth)
    assert current(manager) == "b"
    manager.delete("job", second)
    assert current(manager) == "a"
    manager.delete("job", first)
    assert current(manager) == "c"  # no ancestor is left: the newest


def test_ancestors_that_were_deleted_before_are_skipped(
    manager: CheckpointManager,
) -> None:
    first, second, third, fourth = save(manager, "a", "b", "c", "d")
    for checkpoint_id in (second, third, fourth):
        manager.delete("job", checkpoint_id)
    assert current(manager) == "a"
    (fifth,) = save(manager, "e")
    assert manager.get("job", fifth).info.parent_id == first


def test_a_job_of_which_all_is_deleted_begins_anew(manager: CheckpointManager) -> None:
    (first,) = save(manager, "a")
    manager.delete("job", first)
    assert manager.current("job") is manager.latest("job") is None
    assert manager.list("job") == []
    (second,) = save(manager, "b")
    assert manager.get("job", second).info.parent_id is None


def test_a_parent_stays_named_after_its_deletion(manager: CheckpointManager) -> None:
    first, second, third = save(manager, "a", "b", "c")
    manager.delete("job", first)
    assert [info.parent_id for info in manager.list("job")] == [first, second]
    assert manager.get("job", second).info.parent_id == first
    manager.delete("job", third)
    assert [info.parent_id for info in manager.list("job")] == [first]


# -- undelete -----------------------------------------------------------------------


def test_undeleting_brings_it_back_to_its_place(manager: CheckpointManager) -> None:
    _, second, _ = save(manager, "a", "b", "c")
    before = manager.list("job")
    manager.delete("job", second)
    assert manager.undelete("job", second) is True
    assert last_event(manager)["type"] == "checkpoint.undeleted"
    assert manager.list("job") == before
    assert manager.get("job", second).state == {"step": "b"}
    assert manager.undelete("job", second) is False
    assert manager.undelete("job", "unknown") is False


def test_undeleting_what_was_current_makes_it_current_again(
    manager: CheckpointManager,
) -> None:
    _, second = save(manager, "a", "b")
    manager.delete("job", second)
    assert current(manager) == "a"
    manager.undelete("job", second)
    latest = manager.latest("job")
    assert latest is not None
    assert current(manager) == latest.step_name == "b"


def test_undeleting_a_restored_one_makes_it_current_again(
    manager: CheckpointManager,
) -> None:
    first, _ = save(manager, "a", "b")
    manager.restore("job", first)
    manager.delete("job", first)
    manager.undelete("job", first)
    assert current(manager) == "a"


def test_undeleting_does_not_undo_what_was_restored_since(
    manager: CheckpointManager,
) -> None:
    first, second = save(manager, "a", "b")
    manager.delete("job", second)
    manager.restore("job", first)
    manager.undelete("job", second)
    assert current(manager) == "a"


def test_undeleting_does_not_undo_what_was_saved_since(
    manager: CheckpointManager,
) -> None:
    _, second = save(manager, "a", "b")
    manager.delete("job", second)
    save(manager, "c")
    manager.undelete("job", second)
    assert current(manager) == "c"


def test_the_order_of_undeleting_does_not_matter(manager: CheckpointManager) -> None:
    _, second, third = save(manager, "a", "b", "c")
    manager.delete("job", third)
    manager.delete("job", second)
    manager.undelete("job", third)
    assert current(manager) == "c"
    manager.undelete("job", second)
    assert current(manager) == "c"


def test_undeleting_ends_with_the_trash_period(
    manager: CheckpointManager, clock: Clock
) -> None:
    first, second = save(manager, "a", "b")
    manager.delete("job", first)
    manager.delete("job", second)
    clock.turn(seconds=TRASH_SECONDS - 1)
    assert manager.undelete("job", first) is True
    clock.turn(seconds=1)
    with pytest.raises(errors.Conflict, match="trash period ended"):
        manager.undelete("job", second)
    manager.trash_seconds = 2 * TRASH_SECONDS  # a reloaded configuration
    assert manager.undelete("job", second) is True


# -- pins ---------------------------------------------------------------------------


def test_a_pinned_checkpoint_needs_force_to_be_deleted(
    manager: CheckpointManager,
) -> None:
    pinned = manager.save("job", "a", {}, pinned=True)
    with pytest.raises(errors.Protected, match="pinned"):
        manager.delete("job", pinned)
    assert steps(manager) == ["a"]
    assert manager.delete("job", pinned, force=True) is True
    assert steps(manager) == []


def test_pinning_is_on_record_once_and_can_be_undone(
    manager: CheckpointManager,
) -> None:
    (first,) = save(manager, "a")
    assert manager.pin("job", first, reason="audit") is True
    data = {"checkpoint_id": first, "reason": "audit"}
    assert last_event(manager)["data"] == data
    assert manager.pin("job", first) is False
    assert manager.list("job")[0].pinned is True
    assert manager.unpin("job", first) is True
    assert manager.unpin("job", first) is False
    assert [e["type"] for e in manager.history("job", after_seq=2)] == [
        "checkpoint.pinned",
        "checkpoint.unpinned",
    ]
    assert manager.delete("job", first) is True


def test_only_what_is_there_can_be_pinned(manager: CheckpointManager) -> None:
    first, _ = save(manager, "a", "b")
    manager.delete("job", first)
    for change in (manager.pin, manager.unpin):
        for checkpoint_id in (first, "unknown"):
            with pytest.raises(errors.UnknownCheckpoint):
                change("job", checkpoint_id)
    assert manager.seq("job") == 4


# -- fork ---------------------------------------------------------------------------


def test_a_fork_begins_a_job_with_a_copy_and_says_where_it_came_from(
    manager: CheckpointManager,
) -> None:
    first = manager.save("job", "a", {"x": [1]}, metadata={"m": 1}, tags=["t"])
    save(manager, "b")
    forked = manager.fork("job", first, "new", actor="token:ops")
    found = manager.get("new", forked)
    assert (found.state, found.info.metadata, found.info.tags) == (
        {"x": [1]},
        {"m": 1},
        ("t",),
    )
    opened = manager.history("new")[0]
    saved = manager.history("job")[1]
    assert opened["type"] == "job.opened"
    assert opened["data"]["forked_from"] == {
        "job": "job",
        "checkpoint_id": first,
        "seq": 2,
        "hash": saved["hash"],
    }
    assert (current(manager, "new"), manager.seq("job")) == ("a", 3)


def test_a_fork_outlives_its_source(tmp_path: Path) -> None:
    with CheckpointManager(tmp_path) as manager:
        source = manager.save("job", "a", {"x": [1, None, "é"]}, metadata={"m": 1})
        forked = manager.fork("job", source, "new")
        manager.delete("job", source)
        assert manager.get("new", forked).state == {"x": [1, None, "é"]}
    (tmp_path / "journals" / "job.jsonl").unlink()
    (tmp_path / "heads" / "job").unlink()
    with CheckpointManager(tmp_path) as manager:
        assert manager.restore("new", forked) == {"x": [1, None, "é"]}  # I5
        assert manager.verify("new", deep=True)[0].ok


def test_a_fork_never_writes_into_a_job_that_exists(manager: CheckpointManager) -> None:
    (first,) = save(manager, "a")
    save(manager, "b", job_id="other")
    for target in ("other", "job"):
        with pytest.raises(errors.Conflict, match="already exists"):
            manager.fork("job", first, target)
    with pytest.raises(errors.UnknownCheckpoint):
        manager.fork("job", "unknown", "new")
    assert [job.job_id for job in manager.jobs()] == ["job", "other"]


# -- reading ------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
def test_history_is_read_from_any_place_to_any_limit(reverse: bool) -> None:
    manager = CheckpointManager(storage=MemoryStorage())
    (only,) = save(manager, "a")
    for _ in range(1100):  # more than two marks
        manager.restore("job", only)
    everything = manager.history("job")
    assert [event["seq"] for event in everything] == [*range(1, 1103)]  # I3
    for after in (0, 1, 511, 512, 513, 1023, 1024, 1101, 1102, 5000):
        for limit in (None, 0, 1, 600):
            expected = [e for e in everything if e["seq"] > after]
            expected = (expected[::-1] if reverse else expected)[:limit]
            found = manager.history(
                "job", after_seq=after, limit=limit, reverse=reverse
            )
            assert found == expected, (after, limit)


def test_history_can_be_limited_to_types(manager: CheckpointManager) -> None:
    first, _ = save(manager, "a", "b")
    manager.delete("job", first)
    types = {"job.opened", "checkpoint.deleted"}
    found = manager.history("job", types=types)
    assert [event["seq"] for event in found] == [1, 4]
    newest = manager.history("job", types=types, limit=1, reverse=True)
    assert [event["seq"] for event in newest] == [4]


def test_the_state_at_an_event_is_the_one_that_was_current_then(
    manager: CheckpointManager,
) -> None:
    first, second = save(manager, "a", "b")
    manager.restore("job", first)
    save(manager, "c")
    manager.delete("job", second)
    manager.cleanup("job", 1)
    found = [manager.state_at("job", seq) for seq in range(1, manager.seq("job") + 1)]
    expected = [None, "a", "b", "a", "c", "c", "c"]
    assert [state and state["step"] for state in found] == expected
    for seq in (0, -1, len(expected) + 1):
        with pytest.raises(errors.InvalidArgument, match="events 1 to 7"):
            manager.state_at("job", seq)


def test_a_diff_names_what_was_added_removed_and_replaced(
    manager: CheckpointManager,
) -> None:
    one = manager.save(
        "job", "a", {"same": 1, "old": 1, "n": 1, "m": 1, "l": [{"x": 2}]}
    )
    two = manager.save(
        "job", "b", {"same": 1, "new": 2, "n": True, "m": 2, "l": [{}, 3]}
    )
    assert manager.diff("job", one, two) == [
        Change("remove", "$.old", 1, None),
        Change("replace", "$.n", 1, True),
        Change("replace", "$.m", 1, 2),
        Change("remove", "$.l[0].x", 2, None),
        Change("add", "$.l[1]", None, 3),
        Change("add", "$.new", None, 2),
    ]
    with pytest.raises(errors.UnknownCheckpoint):
        manager.diff("job", one, "unknown")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.just(1.0),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner)
    ),
    max_leaves=8,
)


@given(VALUES, VALUES)
@example(1, 2)
@example(1, 1.0)
@example(0, False)
@example({"a": [1]}, {"a": [2]})
def test_two_states_differ_exactly_if_there_is_a_change(one: Any, two: Any) -> None:
    assert diff(one, one) == []
    is_same = repr_sorted(one) == repr_sorted(two)
    assert (diff(one, two) == []) is is_same
    assert len(diff(one, two)) == len(diff(two, one))


def repr_sorted(value: Any) -> str:
    """Return a text that is the same for equal JSON, whatever the order of keys."""
    if isinstance(value, dict):
        return repr({key: repr_sorted(value[key]) for key in sorted(value)})
    if isinstance(value, list):
        return repr([repr_sorted(inner) for inner in value])
    return repr(value)


def test_a_checkpoint_is_found_in_whichever_job_it_is(tmp_path: Path) -> None:
    with CheckpointManager(tmp_path) as manager:
        (mine,) = save(manager, "a")
        (gone, other) = save(manager, "b", "c", job_id="other")
        manager.delete("other", gone, actor="token:ops")
    with CheckpointManager(tmp_path) as manager:
        for checkpoint_id, job_id in ((mine, "job"), (other, "other")):
            assert manager.find(checkpoint_id).job_id == job_id
        with pytest.raises(errors.UnknownCheckpoint, match="by token:ops"):
            manager.find(gone)
        with pytest.raises(FileNotFoundError, match="not found"):
            manager.find("unknown")


def test_one_damaged_job_neither_hides_nor_stops_the_others(tmp_path: Path) -> None:
    with CheckpointManager(tmp_path) as manager:
        (lost,) = save(manager, "a", job_id="bad")
        (mine,) = save(manager, "a", job_id="good")
    (tmp_path / "journals" / "bad.jsonl").write_bytes(b"rot\n")
    with CheckpointManager(tmp_path) as manager:
        bad, good = manager.jobs()  # I10
        assert (bad.job_id, good.damage) == ("bad", None)
        assert bad.damage is not None
        assert bad.damage.code == "damaged"
        for ask in (manager.list, manager.latest, manager.current, manager.history):
            with pytest.raises(ValueError, match="'bad' is damaged at line"):
                ask("bad")
        with pytest.raises(errors.DamagedJournal):
            manager.restore("bad", lost)
        assert manager.find(mine).job_id == "good"
        assert save(manager, "b", job_id="good")
        assert manager.refresh() <= {"good"}


def test_jobs_are_sorted_filtered_by_case_and_read_in_pages(
    manager: CheckpointManager,
) -> None:
    names = ["B-1", "a-1", "a-2", "a[3]", "b-1", "é"]
    for name in reversed(names):
        save(manager, "a", job_id=name)

    def found(**arguments: Any) -> list[str]:
        return [job.job_id for job in manager.jobs(**arguments)]

    assert found() == names
    assert found(match="a-*") == ["a-1", "a-2"]
    assert found(match="b-?") == ["b-1"]
    assert found(match="a[[]3]") == ["a[3]"]
    assert found(limit=2) == names[:2]
    assert found(limit=2, after="a-1") == names[2:4]
    assert found(match="*-1", limit=2, after="B-1") == ["a-1", "b-1"]
    assert found(limit=0) == []


def test_a_job_counts_over_its_whole_history(
    manager: CheckpointManager, clock: Clock
) -> None:
    first, second, third = save(manager, "a", "b", "c")
    clock.turn(seconds=60)
    manager.restore("job", second)
    manager.delete("job", first)
    job = manager.job("job")
    assert job is not None
    assert (job.seq, job.checkpoints, job.saved, job.deleted, job.restored) == (
        *(6, 2, 3, 1, 1),
    )
    assert (job.current_id, job.latest_id, job.damage) == (second, third, None)
    assert job.created_at == "2026-11-23T05:00:00.123456+00:00"
    assert job.last_activity == "2026-11-23T05:01:00.123456+00:00"
    assert job.size_bytes > 0
    assert manager.jobs() == [job]


def test_pages_of_checkpoints_follow_one_another_by_seq(
    manager: CheckpointManager,
) -> None:
    ids = save(manager, *"abcdefg")
    manager.delete("job", ids[3])
    pages, after = [], 0
    while page := manager.page("job", limit=2, after_seq=after):
        pages.append([info.step_name for info in page])
        after = page[-1].seq
    assert pages == [["a", "b"], ["c", "e"], ["f", "g"]]


def test_what_another_process_wrote_is_seen_without_asking(tmp_path: Path) -> None:
    with CheckpointManager(tmp_path) as one, CheckpointManager(tmp_path) as two:
        (first,) = save(one, "a")
        assert steps(two) == ["a"]
        two.delete("job", first)
        assert steps(one) == []
        save(two, "b", job_id="other")
        assert one.refresh() == {"other"}
        assert one.refresh() == set()


# -- threads ------------------------------------------------------------------------

READS: dict[str, Call] = {
    "list": lambda m: m.list("job"),
    "page": lambda m: m.page("job", limit=5),
    "plan": lambda m: m.plan("job", Policy(keep_last=5)),
    "job": lambda m: m.job("job"),
    "latest": lambda m: m.latest("job"),
    "current": lambda m: m.current("job"),
}


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let threads take turns as often as they can, so that races show."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_reading_never_stumbles_over_a_save_in_another_thread() -> None:
    manager = CheckpointManager(storage=MemoryStorage())
    save(manager, *["a"] * 300)
    failures: list[str] = []
    is_over = threading.Event()

    def read(name: str) -> None:
        while not is_over.is_set():
            try:
                READS[name](manager)
            except RuntimeError as exc:
                failures.append(f"{name}: {exc}")

    threads = [threading.Thread(target=read, args=(name,)) for name in READS]
    for thread in threads:
        thread.start()
    save(manager, *["b"] * 300)
    is_over.set()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert not failures


# -- the index and the disk ---------------------------------------------------------

OPERATIONS: list[Callable[[CheckpointManager, str, int], object]] = [
    lambda m, _, n: m.save("job", f"s{n}", {"n": n}, pinned=n == 7),
    lambda m, _, n: m.save("job", f"s{n}", {"n": n}, metadata={"n": n}, tags=["t"]),
    lambda m, cp, _: m.restore("job", cp),
    lambda m, cp, n: m.delete("job", cp, force=n > 5),
    lambda m, cp, _: m.undelete("job", cp),
    lambda m, cp, _: m.pin("job", cp),
    lambda m, cp, _: m.unpin("job", cp),
    lambda m, cp, _: m.hold("job", cp),
    lambda m, cp, _: m.release("job", cp),
    lambda m, _, n: m.cleanup("job", n + 1),
    lambda m, cp, n: m.fork("job", cp, f"fork-{n}"),
]


def seen(manager: CheckpointManager) -> list[object]:
    """Return all that a manager says about its jobs."""
    return [
        (job, manager.list(job.job_id), manager.history(job.job_id))
        for job in manager.jobs()
    ]


@given(st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 9))))
@settings(deadline=None, max_examples=60)
def test_whatever_is_done_a_fresh_replay_says_the_same(
    plan: list[tuple[Callable[[CheckpointManager, str, int], object], int]],
) -> None:
    storage = MemoryStorage()
    manager = CheckpointManager(storage=storage)
    known = save(manager, "first")
    for operation, number in plan:
        try:
            answer = operation(manager, known[number % len(known)], number)
        except (errors.UnknownCheckpoint, errors.Protected, errors.Conflict):
            continue
        known += [answer] if isinstance(answer, str) else []
        live = {info.checkpoint_id for info in manager.list("job")}
        now = manager.current("job")
        assert (now.checkpoint_id in live) if now else not live
    assert seen(manager) == seen(CheckpointManager(storage=storage))  # I2
    seqs = [event["seq"] for event in manager.history("job")]
    assert seqs == [*range(1, len(seqs) + 1)]  # I3
    assert all(report.ok for report in manager.verify(deep=True))


def test_nothing_that_is_done_ever_changes_what_was_written(tmp_path: Path) -> None:
    journal = tmp_path / "journals" / "job.jsonl"
    with CheckpointManager(tmp_path) as manager:
        ids, before = save(manager, *"abcdef"), b""
        for change in (
            lambda: manager.delete("job", ids[0]),
            lambda: manager.undelete("job", ids[0]),
            lambda: manager.restore("job", ids[1]),
            lambda: manager.pin("job", ids[2]),
            lambda: manager.cleanup("job", 1),
            lambda: manager.fork("job", ids[2], "new"),
        ):
            before = journal.read_bytes()
            change()
            assert journal.read_bytes().startswith(before)  # I4
        assert manager.get("job", ids[2]).state == {"step": "c"}  # I5
