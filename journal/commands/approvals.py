"""Approvals: ask for a decision on an exact subject, vote, remind, expire.  Pure.

An approval is bound to the digest of what was shown.  It is decided once, by distinct
actors, and never by the passage of time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from milepost.journal import ids
from milepost.journal.clock import moment, stamp
from milepost.journal.commands.executions import (
    End,
    Payload,
    end,
    execution_of,
    leased,
    release,
)
from milepost.journal.commands.requests import NO_KEY, Request, answers_repeats
from milepost.journal.errors import (
    ApprovalDecided,
    InvalidArgument,
    NotAllowed,
    StaleSubject,
    UnknownApproval,
)
from milepost.journal.index.executions import objection

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from milepost.journal.batch import Batch
    from milepost.journal.index.executions import Approval, Execution
    from milepost.journal.index.job_view import JobView

Decision = Literal["approve", "reject"]
OnTimeout = Literal["reject", "fail"]
OnReject = Literal["wait", "fail", "continue"]
_MAX_APPROVERS = 64


class Terms(NamedTuple):
    """The terms of an approval.

    Attributes:
        approvers: the actors who may decide; anybody if empty.
        required: how many distinct actors have to approve; one rejection ends it.
        allow_self: the actor who started the execution, or asked, may decide too.
        deadline: it expires then.
        remind_at: a reminder is recorded then.
        on_timeout: an expired one counts as rejected, or fails the execution.
        on_reject: the execution stays paused, fails, or continues without the step.
    """

    approvers: Sequence[str] = ()
    required: int = 1
    allow_self: bool = False
    deadline: datetime | None = None
    remind_at: datetime | None = None
    on_timeout: OnTimeout = "reject"
    on_reject: OnReject = "wait"

    def check(self, now: datetime) -> None:
        """Refuse terms that cannot be met.

        Raises:
            InvalidArgument: they contradict each other.
        """
        approvers = [ids.check_label("an approver", name) for name in self.approvers]
        if len(approvers) > _MAX_APPROVERS or len({*approvers}) < len(approvers):
            raise InvalidArgument(
                f"approvers must be at most {_MAX_APPROVERS} distinct names, got "
                f"{approvers!r:.200}"
            )
        most = len(approvers) or _MAX_APPROVERS
        if not 1 <= self.required <= most:
            raise InvalidArgument(f"required must be 1 to {most}, got {self.required}")
        if self.on_timeout not in ("reject", "fail"):
            raise InvalidArgument(
                f"on_timeout must be reject or fail, got {self.on_timeout!r}"
            )
        if self.on_reject not in ("wait", "fail", "continue"):
            raise InvalidArgument(
                f"on_reject must be wait, fail or continue, got {self.on_reject!r}"
            )
        if self.deadline is not None and self.deadline <= now:
            raise InvalidArgument(f"the deadline {self.deadline} is not in the future")
        if self.remind_at is not None and (
            self.deadline is None or self.remind_at >= self.deadline
        ):
            raise InvalidArgument("a reminder needs a deadline after it")

    @property
    def fields(self) -> dict[str, object]:
        """The fields of the event; defaults are left out."""
        data: dict[str, object] = {}
        if self.approvers:
            data["approvers"] = [*self.approvers]
        if self.required != 1:
            data["required"] = self.required
        if self.allow_self:
            data["allow_self"] = True
        if self.deadline is not None:
            data["deadline"] = stamp(self.deadline)
        if self.remind_at is not None:
            data["remind_at"] = stamp(self.remind_at)
        if self.on_timeout != "reject":
            data["on_timeout"] = self.on_timeout
        if self.on_reject != "wait":
            data["on_reject"] = self.on_reject
        return data


# Those of `create_checkpoint(approval_required=True)`: one vote of anybody.
GATE = Terms(allow_self=True)


class Subject(NamedTuple):
    """What is decided on: the digest of the state of event `seq`."""

    digest: str
    seq: int
    checkpoint_id: str


def approval_of(view: JobView, approval_id: str) -> Approval:
    """Return an approval.

    Raises:
        UnknownApproval: there is none.
    """
    found = view.workflows.approvals.get(approval_id)
    if found is None:
        raise UnknownApproval(approval_id)
    return found


def ask(
    batch: Batch,
    execution: Execution,
    subject: Subject | Payload,
    terms: Terms,
    *,
    actor: str,
    request: Request = NO_KEY,
    key: str | None = None,
) -> str:
    """Ask for a decision; the execution waits and gives its lease back.

    `key`: of the durable step that asks.

    Raises:
        InvalidArgument: the terms cannot be met.
    """
    terms.check(batch.now)
    approval_id = ids.new_approval_id()
    data: dict[str, object] = {
        "execution_id": execution.execution_id,
        "approval_id": approval_id,
        **terms.fields,
    }
    if key is not None:
        data["key"] = key
    if isinstance(subject, Subject):
        data["subject_digest"] = subject.digest
        data["subject_seq"] = subject.seq
        data["checkpoint_id"] = subject.checkpoint_id
        batch.add("approval.requested", actor, request.recorded(data))
    else:
        data["subject_digest"] = subject.fields["state_digest"]
        data = request.recorded(data | subject.fields)
        batch.add("approval.requested", actor, data, subject.encoded)
    waiting = {"execution_id": execution.execution_id, "approval_id": approval_id}
    batch.add("execution.waiting", actor, waiting)
    release(batch, execution, actor)
    return approval_id


def request_approval(
    batch: Batch,
    execution_id: str,
    attempt: int,
    payload: Payload,
    terms: Terms,
    *,
    actor: str,
    request: Request = NO_KEY,
) -> str:
    """Ask for a decision between two steps; return the id of the approval.

    Raises:
        UnknownExecution, LeaseLost, ApprovalPending, ExecutionPaused, ExecutionFinal:
            the attempt may not write to the execution.
        InvalidArgument: the terms cannot be met.
    """
    if (earlier := request.earlier(batch.view, batch.now)) is not None:
        made = batch.view.workflows.approvals.values()
        return next((a.approval_id for a in made if a.seq >= earlier.first), "")
    execution = leased(batch, execution_id, attempt, "ask for an approval in")
    return ask(batch, execution, payload, terms, actor=actor, request=request)


class Ballot(NamedTuple):
    """One decision: what was decided on, by its digest, and why."""

    decision: Decision
    digest: str
    comment: str | None = None


@answers_repeats(False)
def decide(
    batch: Batch,
    approval_id: str,
    ballot: Ballot,
    *,
    actor: str,
    request: Request = NO_KEY,
) -> bool:
    """Record a decision; return False if the same actor decided the same before.

    The last required approval makes the execution pending again.  If the deadline has
    passed, that is recorded instead.

    Raises:
        UnknownApproval: there is no such approval.
        StaleSubject: the decision is on another subject.
        ApprovalDecided: it has ended, or was decided otherwise by this actor.
        NotAllowed: this actor may not decide it.
        InvalidArgument: the decision is neither approve nor reject.
    """
    approval = approval_of(batch.view, approval_id)
    if ballot.decision not in ("approve", "reject"):
        raise InvalidArgument(
            f"decision must be approve or reject, got {ballot.decision!r}"
        )
    if ballot.digest != approval.digest:
        raise StaleSubject(
            f"approval {approval_id}: the decision is on {ballot.digest!r:.80}, but "
            f"the subject is {approval.digest}",
            hint="look at the subject again, then decide",
        )
    if _is_repeat(approval, ballot.decision, actor):
        return False
    if approval.status != "pending" or _has_voted(approval, actor):
        raise _decided(approval, actor)
    execution = execution_of(batch.view, approval.execution_id)
    if (reason := objection(approval, execution, actor)) is not None:
        raise NotAllowed(
            f"{actor!r:.80} may not decide approval {approval_id}: {reason}"
        )
    if is_over(approval, batch.now):
        expire(batch, approval_id, actor=actor)
        return True
    data: dict[str, object] = {
        "execution_id": approval.execution_id,
        "approval_id": approval_id,
    }
    if ballot.comment is not None:
        data["comment"] = ids.check_label("comment", ballot.comment)
    data = request.recorded(data)
    if ballot.decision == "reject":
        batch.add("approval.rejected", actor, data)
        _after_rejection(batch, approval, execution, "rejected", actor)
    elif len(approval.votes) + 1 < approval.required:
        batch.add("approval.voted", actor, data)
    else:
        batch.add("approval.approved", actor, data)
        batch.add("execution.ready", actor, _about(approval))
    return True


def _is_repeat(approval: Approval, decision: Decision, actor: str) -> bool:
    if decision == "approve":
        return _has_voted(approval, actor)
    ended = approval.ended
    return approval.status == "rejected" and ended is not None and ended.actor == actor


def _has_voted(approval: Approval, actor: str) -> bool:
    return any(vote.actor == actor for vote in approval.votes)


def _decided(approval: Approval, actor: str) -> ApprovalDecided:
    ended = approval.ended
    if ended is None:
        ended = next(vote for vote in approval.votes if vote.actor == actor)
    word = "approved" if approval.status == "pending" else approval.status
    return ApprovalDecided(
        f"approval {approval.approval_id} was {word} by {ended.actor} at {ended.at}",
        hint="a decision stands; ask for a new one",
    )


def is_over(approval: Approval, now: datetime) -> bool:
    """Return whether the deadline has passed."""
    return approval.deadline is not None and now >= moment(approval.deadline)


def expire(batch: Batch, approval_id: str, *, actor: str) -> bool:
    """Record that the deadline has passed; return False if it has not, or is known."""
    approval = approval_of(batch.view, approval_id)
    if approval.status != "pending" or not is_over(approval, batch.now):
        return False
    execution = execution_of(batch.view, approval.execution_id)
    batch.add("approval.expired", actor, _about(approval))
    if approval.on_timeout == "fail":
        _skip(batch, approval, actor)
        how = End("execution.failed", "fail", data={"reason": "expired"})
        end(batch, execution.execution_id, how, actor=actor)
    else:
        _after_rejection(batch, approval, execution, "expired", actor)
    return True


def remind(batch: Batch, approval_id: str, *, actor: str) -> bool:
    """Record that the reminder is due; return False if it is not, or is known."""
    approval = approval_of(batch.view, approval_id)
    due = approval.remind_at
    if approval.status != "pending" or approval.is_reminded or due is None:
        return False
    if batch.now < moment(due):
        return False
    batch.add("approval.reminded", actor, _about(approval))
    return True


def _after_rejection(
    batch: Batch, approval: Approval, execution: Execution, reason: str, actor: str
) -> None:
    _skip(batch, approval, actor)
    if approval.on_reject == "fail":
        how = End("execution.failed", "fail", data={"reason": reason})
        end(batch, execution.execution_id, how, actor=actor)
    elif approval.on_reject == "continue":
        batch.add("execution.ready", actor, _about(approval))


def _skip(batch: Batch, approval: Approval, actor: str) -> None:
    if approval.checkpoint_id is not None:
        data = _about(approval) | {"checkpoint_id": approval.checkpoint_id}
        batch.add("checkpoint.skipped", actor, data)


def _about(approval: Approval) -> dict[str, Any]:
    return {
        "execution_id": approval.execution_id,
        "approval_id": approval.approval_id,
    }
