"""Holds: nothing removes what is held, whoever asks and however hard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, Hold, Policy
from milepost.api.http.app import create_app
from milepost.journal import errors
from milepost.journal.events.codec import STATE_MISSING
from milepost.journal.index import job_view
from milepost.journal.index.job_view import JobView
from milepost.journal.retention.plans import plan_of
from tests.support.cli import JOB, call, types_of
from tests.support.client import client_of
from tests.support.lines import Draft, append_as_newer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.clock import Clock

BY = "token:legal"
AT = "2026-11-23T05:00:00.123456+00:00"
REMOVALS: dict[str, Callable[[CheckpointManager, str], object]] = {
    "delete": lambda m, c: m.delete("job", c),
    "delete with force": lambda m, c: m.delete("job", c, force=True),
    "purge": lambda m, c: m.delete("job", c, force=True, purge=True),
    "erase": lambda m, _: m.erase("job"),
}


@pytest.fixture
def ids(manager: CheckpointManager) -> list[str]:
    """The ids of five checkpoints of "job"; the second is held, and pinned too."""
    made = [manager.save("job", step, {"step": step}) for step in "abcde"]
    manager.pin("job", made[1])
    manager.hold("job", made[1], reason="case 4711", actor=BY)
    return made


def steps(manager: CheckpointManager) -> str:
    return "".join(info.step_name for info in manager.list("job"))


@pytest.mark.parametrize("remove", REMOVALS.values(), ids=REMOVALS)
def test_nobody_removes_what_is_held_and_is_told_who_holds_it(
    manager: CheckpointManager,
    ids: list[str],
    remove: Callable[[CheckpointManager, str], object],
) -> None:
    seq = manager.seq("job")
    with pytest.raises(errors.Protected, match="held by token:legal since") as caught:
        remove(manager, ids[1])
    assert caught.value.code == "held"
    assert caught.value.details == {
        "checkpoint_id": ids[1],
        "held_by": BY,
        "held_since": "2026-11-23T05:00:00.123456+00:00",
        "reason": "case 4711",
    }
    assert str(caught.value).endswith(": case 4711")
    assert (steps(manager), manager.seq("job")) == ("abcde", seq)


def test_a_hold_is_on_record_once_and_lists_say_who_since_when_and_why(
    manager: CheckpointManager, ids: list[str], clock: Clock
) -> None:
    clock.turn(seconds=60)
    assert manager.hold("job", ids[1], reason="again", actor="me") is False
    assert manager.list("job")[1].held == Hold(BY, AT, "case 4711")
    assert manager.get("job", ids[1]).info.held == Hold(BY, AT, "case 4711")
    assert manager.list("job")[0].held is None
    (event,) = manager.history("job", types={"checkpoint.held"})
    assert event["data"] == {"checkpoint_id": ids[1], "reason": "case 4711"}


def test_what_was_released_goes_like_any_other(
    manager: CheckpointManager, ids: list[str]
) -> None:
    assert manager.release("job", ids[1], reason="closed", actor=BY) is True
    assert manager.release("job", ids[1]) is False
    assert manager.list("job")[1].held is None
    assert manager.history("job")[-1]["data"]["reason"] == "closed"
    with pytest.raises(errors.Protected, match="pinned"):
        manager.delete("job", ids[1])
    assert manager.delete("job", ids[1], force=True) is True


def test_only_what_is_there_can_be_held_or_released(
    manager: CheckpointManager, ids: list[str]
) -> None:
    manager.delete("job", ids[0])
    for change in (manager.hold, manager.release):
        for checkpoint_id in (ids[0], "unknown"):
            with pytest.raises(errors.UnknownCheckpoint):
                change("job", checkpoint_id)


def test_no_policy_removes_what_is_held_and_plans_say_so(
    manager: CheckpointManager, ids: list[str]
) -> None:
    manager.unpin("job", ids[1])
    plan = manager.plan("job", Policy(keep_last=1))
    reasons = {verdict.checkpoint_id: verdict.reasons for verdict in plan.keep}
    assert reasons[ids[1]] == ("held",)
    assert manager.apply(plan) == 3
    assert steps(manager) == "be"
    assert manager.cleanup("job", keep_last=1) == 0


def test_a_plan_that_names_what_is_held_is_refused(
    manager: CheckpointManager, ids: list[str]
) -> None:
    manager.unpin("job", ids[1])
    plan = manager.plan("job", Policy(keep_last=1))
    (held,) = (verdict for verdict in plan.keep if verdict.checkpoint_id == ids[1])
    job = plan.jobs[0]._replace(remove=(*plan.remove, held))
    with pytest.raises(errors.OnHold, match="case 4711"):
        manager.apply(plan_of([job]))
    assert steps(manager) == "abcde"


def test_a_hold_survives_a_restart_and_a_compaction(
    manager: CheckpointManager, ids: list[str], root: Path, clock: Clock
) -> None:
    manager.delete("job", ids[0])
    clock.turn(days=8)
    assert manager.compact("job") is not None
    with CheckpointManager(root, clock=clock) as fresh:
        assert fresh.list("job")[0].held == Hold(BY, AT, "case 4711")
        with pytest.raises(errors.OnHold):
            fresh.delete("job", ids[1], force=True)


def test_deleted_by_a_version_that_knows_no_holds_its_bytes_stay_until_released(
    manager: CheckpointManager, ids: list[str], root: Path, clock: Clock
) -> None:
    data = {"checkpoint_id": ids[1]}
    append_as_newer(root, Draft("checkpoint.deleted", data=data))
    assert steps(manager) == "acde"
    clock.turn(days=3000)
    assert manager.compact("job") is None
    with pytest.raises(errors.OnHold):
        manager.delete("job", ids[1], purge=True)
    assert manager.release("job", ids[1]) is True
    assert manager.compact("job", trust_clock=True) is not None  # I9
    with CheckpointManager(root, clock=clock) as fresh:
        assert fresh.verify("job", deep=True)[0].ok


def test_undeleted_it_is_held_as_before(
    manager: CheckpointManager, ids: list[str], root: Path, clock: Clock
) -> None:
    append_as_newer(root, Draft("checkpoint.deleted", data={"checkpoint_id": ids[1]}))
    clock.now = clock.now.replace(year=2030, month=1, day=1)
    assert manager.undelete("job", ids[1]) is True
    assert manager.list("job")[1].held == Hold(BY, AT, "case 4711")


def test_a_hold_ends_with_the_state_that_a_version_without_holds_deleted(
    manager: CheckpointManager, ids: list[str], root: Path
) -> None:
    append_as_newer(root, Draft("checkpoint.deleted", data={"checkpoint_id": ids[1]}))
    view = JobView("job", None)
    for event in manager.history("job"):
        is_gone = event["seq"] == 3
        job_view.apply(view, event, 0, STATE_MISSING if is_gone else None)
    assert [*view.held] == [ids[1]]
    compacted: Any = {"v": 1, "seq": view.seq + 1, "at": "", "hash": ""}
    data = {"erased": [[3, 3]]}
    job_view.apply(view, {**compacted, "type": "job.compacted", "data": data}, 0)
    assert view.held == {}


# -- over HTTP ----------------------------------------------------------------------


def test_deleting_what_is_held_is_409_and_says_who_holds_it(
    manager: CheckpointManager, ids: list[str]
) -> None:
    answer = client_of(create_app(manager)).delete(f"/api/checkpoints/{ids[1]}")
    assert answer.status_code == 409
    assert answer.json()["code"] == "held"
    assert "held by token:legal since 2026-11-23T05:00" in answer.json()["detail"]
    assert answer.json()["details"] == {
        "checkpoint_id": ids[1],
        "held_by": BY,
        "held_since": "2026-11-23T05:00:00.123456+00:00",
        "reason": "case 4711",
    }
    body = {"job_id": "job", "keep_last": 1}
    cleaned = client_of(create_app(manager)).post("/api/checkpoints/cleanup", json=body)
    assert (cleaned.json()["deleted_count"], steps(manager)) == (3, "be")


# -- on the command line ------------------------------------------------------------


@pytest.mark.usefixtures("store")
def test_a_hold_protects_until_release_even_from_force() -> None:
    done = call("hold", f"{JOB}@3", "--reason", "case 4711", "--json")
    assert (done.code, done.json["data"]["held"]) == (0, True)
    for words in ((), ("--force",), ("--force", "--purge"), ("--force", "--dry-run")):
        refused = call("delete", f"{JOB}@3", *words, "--json")
        assert refused.code == 6
        assert refused.json["error"]["code"] == "held"
        details = refused.json["error"]["details"]
        assert details["held_by"].startswith("cli:")
        assert details["reason"] == "case 4711"
    assert call("erase", JOB, "--yes").code == 6
    assert call("release", f"{JOB}@3").code == 0
    assert call("delete", f"{JOB}@3").code == 0


def test_holding_twice_is_fine_and_journaled_once(store: Path) -> None:
    call("hold", f"{JOB}@3")
    again = call("hold", f"{JOB}@3", "--json")
    assert again.json["data"]["changed"] is False
    assert types_of(store).count("checkpoint.held") == 1
    call("release", f"{JOB}@3")
    assert call("release", f"{JOB}@3", "--json").json["data"]["changed"] is False
    assert types_of(store).count("checkpoint.released") == 1


@pytest.mark.usefixtures("store")
def test_lists_show_what_is_held() -> None:
    call("hold", f"{JOB}@3", "--reason", "audit")
    header, *rows = (line.split("\t") for line in call("list", JOB).out.splitlines())
    held = header.index("held")
    assert [row[held] for row in rows] == ["no", "yes", "no"]
    first, second, _ = call("list", JOB, "--json").json["data"]["checkpoints"]
    assert first["held"] is None
    assert second["held"].keys() == {"actor", "since", "reason"}
    assert second["held"]["reason"] == "audit"


@pytest.mark.parametrize("verb", ["hold", "release"])
@pytest.mark.usefixtures("store")
def test_a_hold_wants_to_know_which_checkpoint(verb: str) -> None:
    assert call(verb, JOB).code == 2
    assert call(verb, f"{JOB}@99").code == 4
