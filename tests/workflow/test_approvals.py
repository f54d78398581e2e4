"""Approvals: bound to what was shown, decided once, by the right people."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from milepost import ApprovalInfo, CheckpointManager, KeyRing, Terms, errors
from tests.support.workflows import JOB

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.clock import Clock

SUBJECT = {"rows": 7, "target": "prod"}


def ask(manager: CheckpointManager, run: str, **terms: Any) -> ApprovalInfo:
    return manager.request_approval(run, SUBJECT, **terms)


def approve(
    manager: CheckpointManager, asked: ApprovalInfo, actor: str
) -> ApprovalInfo:
    digest = asked.subject_digest
    return manager.decide(
        asked.approval_id, "approve", subject_digest=digest, actor=actor
    )


def reject(manager: CheckpointManager, asked: ApprovalInfo, actor: str) -> ApprovalInfo:
    digest = asked.subject_digest
    return manager.decide(
        asked.approval_id, "reject", subject_digest=digest, actor=actor, comment="no"
    )


def status(manager: CheckpointManager, run: str) -> str:
    found = manager.get_execution_status(run)
    assert found is not None
    return str(found["status"])


def test_who_has_approved_cannot_reject_in_its_place(
    manager: CheckpointManager, run: str
) -> None:
    asked = manager.request_approval(run, {"v": 1}, required=2)
    digest = asked.subject_digest
    manager.decide(asked.approval_id, "approve", subject_digest=digest, actor="bob")
    before = manager.seq(JOB)
    with pytest.raises(errors.ApprovalDecided, match="was approved by bob"):
        manager.decide(asked.approval_id, "reject", subject_digest=digest, actor="bob")
    assert manager.seq(JOB) == before


def test_a_waiting_execution_holds_neither_lease_nor_file(
    manager: CheckpointManager, run: str, tmp_path: Path
) -> None:
    asked = ask(manager, run)
    found = manager.get_execution_status(run)
    assert found is not None
    assert (found["status"], found["waiting_on"], found["lease"]) == (
        "waiting",
        asked.approval_id,
        None,
    )
    assert not [*(tmp_path / "records").glob("exec_*")]


def test_the_subject_is_what_was_shown_and_its_digest_is_stored(
    manager: CheckpointManager, run: str
) -> None:
    asked = ask(manager, run)
    shown = manager.get_approval(asked.approval_id)
    assert shown.subject == SUBJECT
    events = manager.history(JOB, types=["approval.requested"])
    assert [e["data"]["subject_digest"] for e in events] == [shown.subject_digest]
    # The inbox names the request, and leaves the subject to the one who opens it.
    assert manager.approvals() == [shown._replace(subject=None)]


def test_the_subject_of_a_gate_is_the_input_of_its_step(
    manager: CheckpointManager, run: str
) -> None:
    manager.create_checkpoint(run, "publish", "writer", SUBJECT, True)
    (asked,) = manager.approvals()
    shown = manager.get_approval(asked.approval_id)
    assert (shown.subject, shown.step_name) == (SUBJECT, "publish")


def test_a_decision_on_another_subject_is_refused(
    manager: CheckpointManager, run: str
) -> None:
    first = ask(manager, run)
    reject(manager, first, "bob")
    manager.resume_execution(run)
    second = ask(manager, run)
    assert second.subject_digest != first.subject_digest  # salted
    with pytest.raises(errors.StaleSubject, match="look at the subject again"):
        approve(manager, second._replace(subject_digest=first.subject_digest), "bob")
    assert manager.get_approval(second.approval_id).status == "pending"


def test_a_quorum_is_made_of_distinct_actors(
    manager: CheckpointManager, run: str
) -> None:
    asked = ask(manager, run, required=2)
    assert approve(manager, asked, "bob").votes == ("bob",)
    before = manager.history(JOB)
    assert approve(manager, asked, "bob").votes == ("bob",)
    assert manager.history(JOB) == before
    assert status(manager, run) == "waiting"
    found = approve(manager, asked, "eve")
    assert (found.status, found.votes, found.decided_by) == (
        "approved",
        ("bob", "eve"),
        "eve",
    )
    assert status(manager, run) == "pending"


def test_one_rejection_ends_a_quorum(manager: CheckpointManager, run: str) -> None:
    asked = ask(manager, run, required=3)
    approve(manager, asked, "bob")
    found = reject(manager, asked, "eve")
    assert (found.status, found.decided_by, found.comment) == ("rejected", "eve", "no")
    with pytest.raises(errors.ApprovalDecided, match="rejected by eve"):
        approve(manager, asked, "dan")


@pytest.mark.parametrize(
    ("terms", "actor", "why"),
    [
        ({}, "ann", "started the execution or asked"),
        ({"actor": "dan"}, "dan", "started the execution or asked"),
        ({"approvers": ["bob"]}, "eve", "its approvers are bob"),
        ({"approvers": ["ann"]}, "ann", "started the execution or asked"),
    ],
)
def test_who_may_not_decide_is_told_why(
    manager: CheckpointManager, run: str, terms: dict[str, Any], actor: str, why: str
) -> None:
    asked = ask(manager, run, **terms)
    for decide in (approve, reject):
        with pytest.raises(errors.NotAllowed, match=why):
            decide(manager, asked, actor)
    with pytest.raises(PermissionError):
        approve(manager, asked, actor)
    assert asked not in manager.approvals(approver=actor)
    assert manager.get_approval(asked.approval_id).status == "pending"


def test_self_approval_is_allowed_if_the_terms_say_so(
    manager: CheckpointManager, run: str
) -> None:
    asked = ask(manager, run, allow_self=True)
    assert manager.approvals(approver="ann") == [asked._replace(subject=None)]
    assert approve(manager, asked, "ann").status == "approved"


def test_a_decision_stands(manager: CheckpointManager, run: str) -> None:
    asked = ask(manager, run)
    approve(manager, asked, "bob")
    before = manager.history(JOB)
    assert approve(manager, asked, "bob").status == "approved"
    for decide, actor in ((reject, "bob"), (approve, "eve"), (reject, "eve")):
        with pytest.raises(errors.ApprovalDecided, match="approved by bob"):
            decide(manager, asked, actor)
    assert manager.history(JOB) == before


@pytest.mark.parametrize(
    ("on_reject", "expected"),
    [("wait", "waiting"), ("fail", "failed"), ("continue", "pending")],
)
@pytest.mark.parametrize("is_gate", [True, False])
def test_a_rejection_does_what_the_terms_say(
    manager: CheckpointManager, run: str, on_reject: str, expected: str, is_gate: bool
) -> None:
    if is_gate:
        gate = Terms(allow_self=True, on_reject=on_reject)  # type: ignore[arg-type] # a word
        step = manager.create_checkpoint(run, "publish", "w", SUBJECT, approval=gate)
        (asked,) = manager.approvals()
    else:
        asked = ask(manager, run, on_reject=on_reject)
    reject(manager, asked, "bob")
    assert status(manager, run) == expected
    if is_gate:
        assert step.state == "skipped"
    if on_reject == "fail":
        found = manager.get_execution_status(run)
        assert found is not None
        assert found["reason"] == "rejected"


def test_a_late_decision_is_refused_and_the_end_recorded(
    manager: CheckpointManager, run: str, clock: Clock
) -> None:
    asked = ask(manager, run, deadline=clock.now + timedelta(hours=1))
    clock.turn(hours=1)
    with pytest.raises(errors.ApprovalDecided, match="expired"):
        approve(manager, asked, "bob")
    assert manager.get_approval(asked.approval_id).status == "expired"
    assert manager.history(JOB)[-1]["type"] == "approval.expired"
    assert status(manager, run) == "waiting"


@pytest.mark.parametrize("how", ["rejected", "expired"])
def test_an_execution_whose_approval_was_refused_is_paused(
    manager: CheckpointManager, run: str, clock: Clock, how: str
) -> None:
    asked = ask(manager, run, deadline=clock.now + timedelta(hours=1))
    if how == "rejected":
        reject(manager, asked, "bob")
    else:
        clock.turn(hours=1)
        with pytest.raises(errors.ApprovalDecided):
            approve(manager, asked, "bob")
    before = manager.seq(JOB)
    assert not manager.pause_execution(run)
    assert manager.seq(JOB) == before
    assert manager.resume_execution(run)


@pytest.mark.parametrize(
    "end",
    [
        lambda m, x: m.cancel_execution(x),
        lambda m, x: m.fail_execution(x, "why"),
    ],
)
def test_the_end_of_an_execution_withdraws_its_approval(
    manager: CheckpointManager,
    run: str,
    end: Callable[[CheckpointManager, str], object],
) -> None:
    asked = ask(manager, run)
    end(manager, run)
    assert manager.get_approval(asked.approval_id).status == "withdrawn"
    assert manager.approvals() == []
    with pytest.raises(errors.ApprovalDecided, match="withdrawn"):
        approve(manager, asked, "bob")


@pytest.mark.parametrize(
    "terms",
    [
        {"required": 0},
        {"required": 2, "approvers": ["bob"]},
        {"approvers": ["bob", "bob"]},
        {"approvers": [""]},
        {"on_timeout": "approve"},
        {"on_reject": "retry"},
        {"deadline": timedelta(0)},
        {"remind_at": timedelta(hours=1)},
        {"deadline": timedelta(hours=1), "remind_at": timedelta(hours=1)},
    ],
    ids=str,
)
def test_terms_that_cannot_be_met_are_refused(
    manager: CheckpointManager, run: str, clock: Clock, terms: dict[str, Any]
) -> None:
    terms = {
        name: clock.now + value if isinstance(value, timedelta) else value
        for name, value in terms.items()
    }
    before = manager.history(JOB)
    with pytest.raises(errors.InvalidArgument):
        ask(manager, run, **terms)
    assert manager.history(JOB) == before


def test_a_repeated_request_is_answered_from_its_event(
    manager: CheckpointManager, run: str
) -> None:
    first = ask(manager, run, idempotency_key="k")
    assert ask(manager, run, idempotency_key="k") == first
    with pytest.raises(errors.Conflict, match="another request"):
        manager.request_approval(run, {"other": 1}, idempotency_key="k")


def test_an_unknown_approval_is_named(manager: CheckpointManager, run: str) -> None:
    for name in ("appr_" + "0" * 20, "nothing", run):
        with pytest.raises(errors.UnknownApproval, match="does not exist"):
            manager.get_approval(name)
        with pytest.raises(errors.UnknownApproval, match="does not exist"):
            manager.decide(name, "approve", subject_digest="x")


def test_the_inbox_is_filtered(manager: CheckpointManager, run: str) -> None:
    asked = ask(manager, run, approvers=["bob"])
    other = manager.start_workflow_execution("other", "w").execution_id
    decided = manager.request_approval(other, {})
    approve(manager, decided, "bob")

    def ids(**how: Any) -> list[str]:
        return [found.approval_id for found in manager.approvals(**how)]

    assert ids() == [asked.approval_id]
    assert ids(status="all") == [asked.approval_id, decided.approval_id]  # job, other
    assert ids(status="approved") == [decided.approval_id]
    assert ids(status="all", job_id="other") == [decided.approval_id]
    assert ids(approver="eve") == []
    assert ids(status="all", limit=1) == [asked.approval_id]
    with pytest.raises(errors.InvalidArgument, match="status must be one of"):
        ids(status="open")


def test_subjects_of_an_encrypted_store_are_encrypted(tmp_path: Path) -> None:
    keys = KeyRing.from_text("a:" + "ab" * 32)
    with CheckpointManager(tmp_path, keys=keys) as manager:
        run = manager.start_workflow_execution(JOB, "w", {"secret": 1}).execution_id
        manager.create_checkpoint(run, "s", "a", {"secret": 2})
        asked = manager.request_approval(run, {"secret": 3})
        assert manager.get_approval(asked.approval_id).subject == {"secret": 3}
    assert b"secret" not in (tmp_path / "journals" / "job.jsonl").read_bytes()


# -- who wins: retention, deletion, erasure against executions -------------------------


def resumable(manager: CheckpointManager, run: str) -> str:
    """Return the checkpoint that an execution continues after; it is not current."""
    manager.create_checkpoint(run, "load", "a", {})
    manager.complete_checkpoint(run, "load", {"rows": 5})
    (info,) = manager.list(JOB)
    for number in range(4):
        manager.save(JOB, "other", {"n": number})
    return info.checkpoint_id


STATES: dict[str, Callable[[CheckpointManager, str], object]] = {
    "running": lambda *_: None,
    "waiting for an approval": lambda m, x: m.request_approval(x, {}),
    "paused": lambda m, x: m.pause_execution(x),
    "interrupted": lambda m, x: m.workflows.expire(x, 1, actor="w", reason="gone"),
    "completed": lambda m, x: m.complete_execution(x),
    "failed": lambda m, x: m.fail_execution(x, "why"),
    "cancelled": lambda m, x: m.cancel_execution(x),
}
NEEDED = {"running", "waiting for an approval", "paused", "interrupted"}
LIVE = {"running", "waiting for an approval", "paused"}


@pytest.mark.parametrize("state", STATES)
def test_no_cleanup_removes_what_an_execution_needs(
    manager: CheckpointManager, run: str, state: str
) -> None:
    needed = resumable(manager, run)
    STATES[state](manager, run)
    manager.cleanup(JOB, keep_last=1)
    left = {info.checkpoint_id for info in manager.list(JOB)}
    assert (needed in left) == (state in NEEDED)
    assert len(left - {needed}) == 1


@pytest.mark.parametrize("state", STATES)
def test_a_needed_checkpoint_is_deleted_by_force_only(
    manager: CheckpointManager, run: str, state: str
) -> None:
    needed = resumable(manager, run)
    STATES[state](manager, run)
    if state in NEEDED:
        with pytest.raises(errors.Protected, match="needed by"):
            manager.delete(JOB, needed)
        assert manager.delete(JOB, needed, force=True)
    else:
        assert manager.delete(JOB, needed)
    # Undeleting, compacting and resuming go together (I5).
    assert manager.undelete(JOB, needed)
    manager.compact(JOB)
    assert manager.get(JOB, needed).state == {"rows": 5}


@pytest.mark.parametrize("state", STATES)
def test_a_job_with_a_live_execution_is_not_erased(
    manager: CheckpointManager, run: str, state: str
) -> None:
    resumable(manager, run)
    STATES[state](manager, run)
    if state in LIVE:
        with pytest.raises(errors.IllegalTransition, match="cannot erase job"):
            manager.erase(JOB)
        manager.cancel_execution(run)
    manager.erase(JOB)
    assert manager.list(JOB) == []
    assert manager.root is not None
    assert b'"rows":5' not in (manager.root / "journals" / "job.jsonl").read_bytes()
    (step,) = manager.get_checkpoint_history(run)
    assert (step["input_data"], step["output_data"]) == (None, None)
    assert step["problem"]


def test_a_hold_outlives_the_removal_of_an_execution(
    manager: CheckpointManager, run: str, clock: Clock
) -> None:
    held = resumable(manager, run)
    manager.hold(JOB, held, reason="case 7")
    manager.complete_execution(run)
    clock.turn(days=40)
    assert manager.cleanup_old_executions(30) == 1
    assert held in {info.checkpoint_id for info in manager.list(JOB)}
