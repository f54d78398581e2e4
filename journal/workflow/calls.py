"""The calls of workflows: each makes one write, then calls back.

Callbacks run after the event is durable, outside every lock, in this process only.
What they raise is logged and counted, and changes neither the result nor the record.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

from milepost.journal import ids
from milepost.journal.commands import (
    approvals,
    durable,
    executions,
    restoring,
    saving,
    steps,
)
from milepost.journal.commands.executions import (
    End,
    Payload,
    Workflow,
    execution_of,
)
from milepost.journal.commands.requests import NO_KEY, Request
from milepost.journal.errors import (
    ApprovalDecided,
    IllegalTransition,
    MilepostError,
    UnknownExecution,
    UnreadableState,
)
from milepost.journal.events.workflow_events import StepOrigin
from milepost.journal.execution_models import (
    ApprovalInfo,
    CheckpointExecution,
    LeaseInfo,
    LiveExecution,
    LiveStep,
    Outcome,
    StepRecord,
    Unfinished,
    WorkflowExecution,
    live,
)
from milepost.journal.ids import EXECUTION, is_new_form
from milepost.journal.index.transitions import UNFINISHED
from milepost.journal.reading import executions as queries

if TYPE_CHECKING:
    from collections.abc import Mapping
    from signal import Signals

    from milepost.journal.batch import Batch
    from milepost.journal.commands.approvals import Ballot, Terms
    from milepost.journal.execution_models import Continuation
    from milepost.journal.index.executions import Execution, Step, Workflows
    from milepost.journal.index.job_view import JobView
    from milepost.journal.states.migrations import Migrated
    from milepost.journal.states.types import Types
    from milepost.journal.workflow.engine import Engine, Tenure
    from milepost.journal.workflow.triggers import Rule

OnCheckpoint = Callable[[CheckpointExecution], object]
OnApproval = Callable[[str, CheckpointExecution], object]

_log = logging.getLogger("milepost.workflow")
_UNKNOWN_ERROR = "Unknown error"


class Calls:
    """What a manager offers for workflows.

    Args:
        engine: finds jobs, holds leases, writes.

    Attributes:
        directory: finds the job of an execution or an approval.
        callback_failures: callbacks that raised.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._reader = engine.reader
        self.directory = engine.directory
        self._on_checkpoint: dict[str, OnCheckpoint] = {}
        self._on_approval: OnApproval | None = None
        self.callback_failures = 0

    @property
    def trigger_failures(self) -> int:
        """Automatic checkpoints that could not be saved."""
        return self.engine.triggers.failures

    def close(self) -> None:
        """Give up the leases that were taken here."""
        self.engine.attempts.close()

    # -- executions --------------------------------------------------------------------

    def start(
        self,
        job_id: str,
        workflow: Workflow,
        data: Mapping[str, Any] | None,
        *,
        actor: str,
        is_leased: bool,
        request: Request,
        refuse: Callable[[Workflows], None] | None = None,
    ) -> WorkflowExecution:
        """Start an execution; see `CheckpointManager.start_workflow_execution`.

        `refuse` is called under the job's lock, and may raise; by default it refuses
        while another process runs an execution of the job.
        """
        decide = partial(
            executions.start,
            workflow=workflow,
            payload=self.engine.payload(data),
            actor=actor,
            owner=self.engine.attempts.owner(actor) if is_leased else None,
            refuse_live=refuse or self.engine.refuse_live,
            request=request,
        )
        started = self.engine.start(job_id, decide, actor=actor, is_leased=is_leased)
        return self.execution(started)

    def payload(self, value: Mapping[str, Any]) -> Payload:
        """Encode a state of an event that saves no checkpoint."""
        return self.engine.payload(value)

    def start_if_none(self, execution_id: str, *, actor: str) -> None:
        """Start an execution if ``exec_<job id>`` names none.

        Its workflow has the name of the job.
        """
        try:
            self.directory.execution(execution_id)
        except UnknownExecution:
            job_id = execution_id.removeprefix(EXECUTION)
            if is_new_form(EXECUTION, execution_id) or job_id in ("", execution_id):
                raise
            self.start(
                ids.check_job_id(job_id),
                Workflow(job_id),
                None,
                actor=actor,
                is_leased=True,
                request=NO_KEY,
            )

    def pause(self, execution_id: str, step_name: str | None, **how: Any) -> bool:
        """Pause an execution; see `CheckpointManager.pause_execution`."""
        return self._transition(
            execution_id, executions.pause, step_name=step_name, **how
        )

    def resume(self, execution_id: str, **how: Any) -> bool:
        """Resume an execution; see `CheckpointManager.resume_execution`."""
        return self._transition(
            execution_id, executions.resume, why_dead=self._why_interrupted, **how
        )

    def _why_interrupted(self, execution: Execution) -> str | None:
        """Return why a running execution has no process; None for all others."""
        if execution.status != "running":
            return None
        return self.engine.attempts.why_dead(execution.execution_id)

    def _status_of(self, view: JobView, execution: Execution) -> str:
        """Return the status of an execution, even if its death is not recorded yet."""
        if self._why_interrupted(execution) is None:
            return execution.status
        # A lease is given up after the end is recorded: look at the journal once more.
        known = self._reader.view(view.job_id).workflows.executions
        found = known.get(execution.execution_id)
        if found is None or found.status == "running":
            return "interrupted"
        return found.status

    def _transition(
        self,
        execution_id: str,
        decide: Callable[..., bool],
        *,
        strict: bool = False,
        **how: Any,
    ) -> bool:
        try:
            job_id, execution_id = self.directory.execution(execution_id)
            return self.engine.change(
                job_id, partial(decide, execution_id=execution_id, **how)
            )
        except (UnknownExecution, IllegalTransition):
            if strict:
                raise
            return False

    def end(
        self,
        execution_id: str,
        how: End,
        *,
        actor: str,
        request: Request,
        attempt: int | None = None,
    ) -> bool:
        """End an execution without its lease, or as this process's attempt."""
        if how.attempt is None:
            job_id, execution_id = self.directory.execution(execution_id)
            if how.event == "execution.cancelled":
                self._cancel_children(job_id, execution_id, how, actor)
            decide = partial(
                executions.end,
                execution_id=execution_id,
                how=how,
                actor=actor,
                request=request,
            )
            return self.engine.change(job_id, decide)

        def as_attempt(batch: Batch, execution_id: str, attempt: int) -> bool:
            mine = how._replace(attempt=attempt)
            again = request._replace(expected_seq=None)  # checked before the lease
            return executions.end(batch, execution_id, mine, actor=actor, request=again)

        return self.engine.as_attempt(
            execution_id, as_attempt, actor=actor, request=request, attempt=attempt
        )

    def _cancel_children(
        self, job_id: str, execution_id: str, how: End, actor: str
    ) -> None:
        """Cancel the children of an execution, before itself: a crash leaves none."""
        parent = execution_of(self._reader.view(job_id), execution_id)
        if parent.status not in UNFINISHED:
            return
        for key, known in parent.durable.children.items():
            origin = StepOrigin(job_id=job_id, execution_id=execution_id, key=key)
            child = self.child(known.job_id, origin)
            if known.on_cancel == "cancel" and child and child.status in UNFINISHED:
                self.end(child.execution_id, how, actor=actor, request=NO_KEY)

    def acquire(self, execution_id: str, tenure: Tenure, *, actor: str) -> LeaseInfo:
        """Begin the next attempt in this process."""
        job_id, execution_id = self.directory.execution(execution_id)
        if (first := self._begun(job_id, tenure.request)) is not None:
            return LeaseInfo(execution_id, first, tenure.ttl_seconds)
        attempts = self.engine.attempts
        if attempts.is_lost(execution_id):
            attempts.drop(execution_id)
        elif attempts.has(execution_id):
            raise attempts.live(execution_id, attempts.holder(execution_id))

        def begun(batch: Batch, execution_id: str, attempt: int) -> int:
            executions.leased(batch, execution_id, attempt, "run")
            return attempt

        attempt = self.engine.as_attempt(
            execution_id, begun, actor=actor, request=tenure.request, tenure=tenure
        )
        return LeaseInfo(execution_id, attempt, tenure.ttl_seconds)

    def _begun(self, job_id: str, request: Request) -> int | None:
        """Return the attempt that an earlier call of the same request began."""
        if request.key is None:
            return None
        earlier = self.engine.change(job_id, lambda b: request.earlier(b.view, b.now))
        if earlier is None:
            return None
        view, seq = self._reader.view(job_id), earlier.first
        (event,) = self._reader.store.history(view, seq - 1, until_seq=seq)
        attempt: int = event["data"]["attempt"]  # type: ignore[typeddict-item] # a lease.acquired
        return attempt

    def heartbeat(self, lease: LeaseInfo) -> None:
        """Renew a lease."""
        execution_id, attempt = lease.execution_id, lease.attempt
        if not self.engine.attempts.renew(execution_id, attempt):
            job_id, execution_id = self.directory.execution(execution_id)
            known = execution_of(self._reader.view(job_id), execution_id)
            raise self.engine.not_mine(known, attempt)

    def release(self, lease: LeaseInfo, *, actor: str) -> None:
        """Give a lease back; the execution is interrupted."""
        job_id, execution_id = self.directory.execution(lease.execution_id)
        decide = partial(
            executions.hand_back,
            execution_id=execution_id,
            attempt=lease.attempt,
            actor=actor,
        )
        self.engine.change(job_id, decide)

    def clear(self, max_age: timedelta, trash: timedelta, *, actor: str) -> int:
        """Remove executions that ended long ago, in every job; return how many."""
        removed = 0
        for view in queries.jobs_with_executions(self._reader, None):

            def decide(batch: Batch) -> int:
                return executions.clear(
                    batch,
                    before=batch.now - max_age,
                    trash_until=batch.now + trash,
                    actor=actor,
                )

            removed += self.engine.change(view.job_id, decide)
        return removed

    # -- triggers ----------------------------------------------------------------------

    def add_trigger(self, rule: Rule) -> None:
        """Save checkpoints by a rule; see `CheckpointManager.add_trigger`."""
        self.engine.triggers.add(rule)

    def stop(self, signal: Signals) -> None:
        """Save the automatic checkpoints of a process that was asked to stop."""
        self.engine.triggers.stop(signal, self.engine.directory)

    # -- what the worker does ----------------------------------------------------------

    def unfinished(self, job_id: str) -> list[Unfinished]:
        """Return the unfinished executions of a job, oldest first."""
        view = self._reader.view(job_id)
        known = view.workflows
        found = []
        for execution in sorted(known.live.values(), key=attrgetter("seq")):
            approval = known.open_approval(execution)
            found.append(
                Unfinished(
                    job_id,
                    execution.execution_id,
                    execution.workflow_name,
                    execution.status,
                    execution.attempt,
                    execution.failures,
                    execution.changed_at,
                    execution.changed_seq,
                    None if approval is None else approval.approval_id,
                    execution.wake_at if approval is None else approval.due_at,
                    queries.awaited_job(execution),
                )
            )
        return found

    def why_dead(self, execution_id: str) -> str | None:
        """Return why a running execution has no process; None if it has one."""
        return self.engine.attempts.why_dead(execution_id)

    def known(self) -> list[str]:
        """Return the executions that this process has, or lost, an attempt of."""
        return self.engine.attempts.known()

    def park(self, execution_id: str, *, reason: str, actor: str) -> bool:
        """Pause an interrupted or pending execution that is not resumed any more."""
        return self._transition(
            execution_id, executions.park, reason=reason, actor=actor
        )

    def expire(
        self, execution_id: str, attempt: int, *, actor: str, reason: str
    ) -> bool:
        """Record that an attempt is over; False if the journal knows better."""
        job_id, execution_id = self.directory.execution(execution_id)
        decide = partial(
            executions.expire,
            execution_id=execution_id,
            attempt=attempt,
            actor=actor,
            reason=reason,
        )
        return self.engine.change(job_id, decide)

    def fail(self, execution_id: str, *, reason: str, error: str, actor: str) -> bool:
        """Fail an execution that cannot be resumed."""
        data = {"reason": reason, "error": error}
        how = End("execution.failed", "fail", data=data)
        return self.end(execution_id, how, actor=actor, request=NO_KEY)

    def wake(self, execution_id: str, *, actor: str) -> bool:
        """Let an execution go on whose wait is over; False if it is not."""
        job_id, execution_id = self.directory.execution(execution_id)
        execution = execution_of(self._reader.view(job_id), execution_id)
        is_over = self._is_child_over(job_id, execution)
        if not is_over and execution.wake_at is None:
            return False
        decide = partial(
            durable.wake, execution_id=execution_id, actor=actor, is_over=is_over
        )
        return self.engine.change(job_id, decide)

    def durable_steps(self, execution_id: str) -> list[StepRecord]:
        """Return the durable steps of an execution."""
        job_id, execution_id = self.directory.execution(execution_id)

        def ask(view: JobView) -> list[StepRecord]:
            execution = execution_of(view, execution_id)
            return queries.durable_steps(self._reader, view, execution)

        return self._reader.answer(job_id, ask)

    def outcome(self, job_id: str, execution_id: str, types: Types) -> Outcome:
        """Return how far an execution came."""
        view = self._reader.view(job_id)
        execution = execution_of(view, execution_id)
        result = None
        if execution.result_seq:
            stored = self.engine.stored(job_id, execution.result_seq)
            result = types.decode(stored["value"])
        return Outcome(
            execution_id,
            self._status_of(view, execution),
            result,
            execution.waiting_on,
            execution.error,
        )

    def _is_child_over(self, job_id: str, execution: Execution) -> bool:
        """Return whether an execution waits for a child that has ended."""
        child_job, key = queries.awaited_job(execution), execution.waiting_on
        if child_job is None or key is None:
            return False
        origin = StepOrigin(job_id=job_id, execution_id=execution.execution_id, key=key)
        return self.ended_child(child_job, origin) is not None

    def child(self, job_id: str, parent: StepOrigin) -> Execution | None:
        """Return the execution that a step of another job started, if it is there."""
        known = self._reader.view(job_id).workflows.executions.values()
        return next((e for e in known if e.parent == parent), None)

    def ended_child(self, job_id: str, parent: StepOrigin) -> Execution | None:
        """Return the execution that a step of another job started, if it has ended."""
        found = self.child(job_id, parent)
        return None if found is None or found.status in UNFINISHED else found

    def remind(self, approval_id: str, *, actor: str) -> bool:
        """Record a reminder that is due; False if it is not."""
        job_id = self.directory.approval(approval_id)
        decide = partial(approvals.remind, approval_id=approval_id, actor=actor)
        return self.engine.change(job_id, decide)

    def expire_approval(self, approval_id: str, *, actor: str) -> bool:
        """Record a deadline that has passed; False if it has not."""
        job_id = self.directory.approval(approval_id)
        decide = partial(approvals.expire, approval_id=approval_id, actor=actor)
        return self.engine.change(job_id, decide)

    # -- steps -------------------------------------------------------------------------

    def create(
        self,
        execution_id: str,
        name: str,
        agent_id: str,
        data: Mapping[str, Any] | None,
        *,
        gate: Terms | None,
        actor: str,
        request: Request,
        attempt: int | None = None,
    ) -> LiveStep:
        """Begin a step; see `CheckpointManager.create_checkpoint`."""
        step = steps.NewStep(name, agent_id, self.engine.payload(data), gate)

        decide = partial(steps.create, step=step, actor=actor, request=request)
        # Resolved first: a gate may end the alias of an unfinished execution.
        job_id, execution_id = self.directory.execution(execution_id)
        made = self.engine.as_attempt(
            execution_id, decide, actor=actor, request=request, attempt=attempt
        )
        # A repeat with the job's alias may show a step of an earlier execution.
        begun = self._reader.view(job_id).workflows.steps
        execution_id = begun[made].execution_id
        shown = self._step(job_id, execution_id, made)
        if gate is not None:
            self._call_back(self._on_approval, execution_id, shown)
        return shown

    def complete(
        self,
        execution_id: str,
        name: str,
        output: Mapping[str, Any] | None,
        *,
        actor: str,
        request: Request,
        attempt: int | None = None,
    ) -> bool:
        """Complete a step with its output; False if there is no such open step."""
        try:
            job_id, execution_id = self.directory.execution(execution_id)
        except UnknownExecution:
            return False
        known = execution_of(self._reader.view(job_id), execution_id)
        draft = saving.draft_of(
            self._reader,
            self.engine.packer,
            job_id,
            saving.Fields(
                name,
                workflow_name=known.workflow_name,
                workflow_version=known.workflow_version,
            ),
            {} if output is None else output,
            None,
        )

        decide = partial(
            steps.complete,
            step_name=name,
            draft=draft,
            packer=self.engine.packer,
            is_saved_as=self._reader.is_saved_as,
            actor=actor,
            request=request,
        )
        how = {"actor": actor, "request": request, "attempt": attempt}
        saved = self._finish(job_id, execution_id, name, decide, **how)
        if saved is None:
            return False
        saving.remember(self.engine.packer, draft, saved)
        self._ended(job_id, execution_id, saved.checkpoint_id, name)
        return True

    def fail_step(
        self,
        execution_id: str,
        name: str,
        output: Mapping[str, Any] | None,
        *,
        fails_execution: bool,
        actor: str,
        request: Request,
        attempt: int | None = None,
    ) -> bool:
        """Fail a step; False if there is no such open step."""
        try:
            job_id, execution_id = self.directory.execution(execution_id)
        except UnknownExecution:
            return False
        error = str((output or {}).get("error") or _UNKNOWN_ERROR)
        failure = steps.Failure(
            error, self.engine.payload(output), fails_execution=fails_execution
        )

        decide = partial(
            steps.fail, step_name=name, failure=failure, actor=actor, request=request
        )
        how = {"actor": actor, "request": request, "attempt": attempt}
        failed = self._finish(job_id, execution_id, name, decide, **how)
        if failed is None:
            return False
        self._ended(job_id, execution_id, failed, name)
        return True

    def _finish(
        self,
        job_id: str,
        execution_id: str,
        name: str,
        decide: Callable[[Batch, str, int], Any],
        **how: Any,
    ) -> Any:
        """End an open step as this process's attempt; None if there is none."""
        view = self._reader.view(job_id)
        execution = execution_of(view, execution_id)
        approval = view.workflows.open_approval(execution)
        is_known = how["request"].key in view.answered
        if approval is not None and not is_known:
            _log.warning(
                "step %r of execution %s is not completed: it waits for approval %s",
                name,
                execution_id,
                approval.approval_id,
            )
            return None
        if execution.newest(name) is None and not is_known:
            return None
        return self.engine.as_attempt(execution_id, decide, **how)

    def _ended(self, job_id: str, execution_id: str, made: str, name: str) -> None:
        if name in self._on_checkpoint:
            shown = self._step(job_id, execution_id, made)
            self._call_back(self._on_checkpoint[name], shown)

    # -- restores ----------------------------------------------------------------------

    def restored(
        self,
        job_id: str,
        checkpoint_id: str,
        migrated: Migrated,
        *,
        is_resumed: bool,
        actor: str,
        expected_seq: int | None,
        request: Request,
    ) -> Continuation | None:
        """Make a checkpoint current; None for a repeat.

        See `CheckpointManager.resume_from`.
        """
        decide = partial(
            restoring.restore,
            checkpoint_id=checkpoint_id,
            migrated=migrated,
            actor=actor,
            expected_seq=expected_seq,
            runs_here=self.engine.runs_here,
            resume=self._initial(job_id, checkpoint_id) if is_resumed else None,
            request=request,
        )
        return self.engine.change(job_id, decide)

    def owner_of(self, job_id: str, checkpoint_id: str) -> str | None:
        """Return the execution that a checkpoint belongs to, if it belongs to one."""
        owner = restoring.execution_with(self._reader.view(job_id), checkpoint_id)
        return None if owner is None else owner.execution_id

    def _initial(self, job_id: str, checkpoint_id: str) -> Payload:
        """Return the initial data of an execution that branches from a checkpoint."""

        def ask(view: JobView) -> dict[str, Any]:
            owner = restoring.execution_with(view, checkpoint_id)
            if owner is None:
                return {}
            return queries.payload_if(self._reader, view, owner.seq)[0] or {}

        return self.engine.payload(self._reader.answer(job_id, ask))

    # -- signals -----------------------------------------------------------------------

    def signal(
        self,
        execution_id: str,
        name: str,
        data: Mapping[str, Any] | None,
        *,
        actor: str,
        request: Request,
    ) -> int:
        """Record a signal; return its seq."""
        job_id, execution_id = self.directory.execution(execution_id)
        decide = partial(
            steps.signal,
            execution_id=execution_id,
            name=name,
            payload=self.engine.payload(data),
            actor=actor,
            request=request,
        )
        return self.engine.change(job_id, decide)

    def consume(
        self, execution_id: str, name: str, *, actor: str
    ) -> dict[str, Any] | None:
        """Consume the oldest signal of a name; None if there is none."""
        job_id, execution_id = self.directory.execution(execution_id)
        decide = partial(steps.consume, name=name, actor=actor)
        seq = self.engine.as_attempt(execution_id, decide, actor=actor)
        return None if seq is None else self.engine.stored(job_id, seq)

    # -- approvals ---------------------------------------------------------------------

    def request_approval(
        self,
        execution_id: str,
        subject: Mapping[str, Any],
        terms: Terms,
        *,
        actor: str,
        request: Request,
        attempt: int | None = None,
    ) -> ApprovalInfo:
        """Ask for a decision between two steps; the execution waits."""
        decide = partial(
            approvals.request_approval,
            payload=self.engine.payload(subject),
            terms=terms,
            actor=actor,
            request=request,
        )
        made = self.engine.as_attempt(
            execution_id, decide, actor=actor, request=request, attempt=attempt
        )
        return self.approval(made)

    def decide(
        self, approval_id: str, ballot: Ballot, *, actor: str, request: Request
    ) -> ApprovalInfo:
        """Record a decision; return the approval."""
        job_id = self.directory.approval(approval_id)
        decide = partial(
            approvals.decide,
            approval_id=approval_id,
            ballot=ballot,
            actor=actor,
            request=request,
        )
        self.engine.change(job_id, decide)
        found = self.approval(approval_id)
        if found.status == "expired":
            raise ApprovalDecided(
                f"approval {approval_id} expired at {found.deadline}",
                hint="ask for a new one",
            )
        return found

    def approve(
        self, execution_id: str, name: str, *, approved: bool, actor: str
    ) -> bool:
        """Decide on the newest gate of a step; False if there is none to decide."""
        try:
            job_id, execution_id = self.directory.execution(execution_id)
        except UnknownExecution:
            return False
        view = self._reader.view(job_id)
        found = execution_of(view, execution_id)
        gated = (s for s in reversed(found.steps) if s.name == name and s.approval_id)
        step = next(gated, None)
        if step is None or step.approval_id is None:
            return False
        approval = view.workflows.approvals[step.approval_id]
        decided = "approved" if approved else "rejected"
        if approval.status != "pending":
            return approval.status == decided
        ballot = approvals.Ballot("approve" if approved else "reject", approval.digest)
        try:
            self.decide(approval.approval_id, ballot, actor=actor, request=NO_KEY)
        except ApprovalDecided:
            return False
        return True

    def approval(self, approval_id: str) -> ApprovalInfo:
        """Return an approval with its subject."""

        def ask(view: JobView) -> ApprovalInfo:
            approval = approvals.approval_of(view, approval_id)
            subject = None
            try:
                subject = queries.payload(self._reader, view, approval.subject_seq)
            except UnreadableState:
                if approval.status == "pending":
                    raise
            return queries.approval_info(view, approval, subject)

        return self._reader.answer(self.directory.approval(approval_id), ask)

    # -- answers -----------------------------------------------------------------------

    def execution(self, execution_id: str) -> WorkflowExecution:
        """Return an execution whose fields are always up to date."""
        job_id, execution_id = self.directory.execution(execution_id)

        def read() -> dict[str, Any] | None:
            view = self._reader.view(job_id)
            execution = view.workflows.executions[execution_id]
            return queries.execution_fields(
                self._reader,
                view,
                execution,
                self._status_of(view, execution),
                lambda step: self._step(job_id, execution_id, step.checkpoint_id),
            )

        found: WorkflowExecution = live(LiveExecution, read)
        return found

    def step(self, execution_id: str, checkpoint_id: str) -> Step:
        """Return a step of an execution, as the index has it."""
        job_id, _ = self.directory.execution(execution_id)
        return self._reader.view(job_id).workflows.steps[checkpoint_id]

    def not_open(self, execution_id: str, name: str) -> MilepostError:
        """Return why no step of a name can be ended."""
        job_id, execution_id = self.directory.execution(execution_id)
        view = self._reader.view(job_id)
        execution = execution_of(view, execution_id)
        if view.workflows.open_approval(execution) is not None:
            return executions.refusal(view, execution, f"end step {name!r:.80} of")
        return UnknownExecution(f"{execution_id}, open step {name}")

    def _step(self, job_id: str, execution_id: str, checkpoint_id: str) -> LiveStep:
        def read() -> dict[str, Any]:
            view = self._reader.view(job_id)
            found = view.workflows
            execution = found.executions[execution_id]
            step = found.steps[checkpoint_id]
            fields = queries.step_fields(self._reader, view, execution, step)
            del fields["problem"]
            return fields

        shown: LiveStep = live(LiveStep, read)
        shown.__dict__["checkpoint_id"] = checkpoint_id
        return shown

    def status(self, execution_id: str) -> dict[str, Any] | None:
        """Return the status of an execution, None if there is none."""
        try:
            job_id, execution_id = self.directory.execution(execution_id)
            view = self._reader.view(job_id)
            return self._status(view, execution_of(view, execution_id))
        except UnknownExecution:
            return None

    def _status(
        self, view: JobView, execution: Execution, word: str | None = None
    ) -> dict[str, Any]:
        """Return an execution as plain JSON; `word` is its status, if it is known."""
        word = word or self._status_of(view, execution)
        found = queries.status(view, execution, word)
        if found["lease"] is not None:
            holder = self.engine.attempts.holder(execution.execution_id)
            deadline = holder and holder.deadline
            found["lease"] |= {
                "is_live": holder is not None,
                "deadline": deadline and deadline.isoformat(timespec="seconds"),
            }
        return found

    def listed(
        self,
        states: set[str] | None,
        job_id: str | None,
        limit: int | None,
        after: str | None,
    ) -> list[dict[str, Any]]:
        """Return executions, oldest first."""
        start = queries.FIRST
        if after is not None:
            home, _ = self.directory.execution(after)
            last = self._reader.view(home).workflows.executions[after]
            start = queries.Place(last.started_at, home, last.seq)
        found = []
        for view in queries.jobs_with_executions(self._reader, job_id):
            for execution in queries.shown(view):
                at = execution.started_at
                place = queries.Place(at, view.job_id, execution.seq)
                if place <= start:
                    continue
                word = None if states is None else self._status_of(view, execution)
                if states is None or word in states:
                    found.append((place, view, execution, word))
        found.sort(key=itemgetter(0))
        return [self._status(view, item, word) for _, view, item, word in found[:limit]]

    def asked(
        self,
        status: str,
        job_id: str | None,
        approver: str | None,
        limit: int,
        after: str | None,
    ) -> list[ApprovalInfo]:
        """Return approvals without their subjects, oldest first."""
        start = queries.FIRST
        if after is not None:
            home = self.directory.approval(after)
            last = approvals.approval_of(self._reader.view(home), after)
            start = queries.Place(last.requested_at, home, last.seq)
        return queries.approvals(
            self._reader,
            status=status,
            job_id=job_id,
            approver=approver,
            limit=limit,
            after=start,
        )

    def history(self, execution_id: str) -> list[dict[str, Any]]:
        """Return the steps of an execution, oldest first; empty if there is none."""
        try:
            job_id, execution_id = self.directory.execution(execution_id)
        except UnknownExecution:
            return []
        return self._reader.answer(
            job_id, lambda view: queries.steps(self._reader, view, execution_id)
        )

    # -- callbacks ---------------------------------------------------------------------

    def on_checkpoint(self, name: str, callback: OnCheckpoint) -> None:
        """Call `callback` after a step of this name has ended; one per name."""
        self._on_checkpoint[name] = callback

    def on_approval(self, callback: OnApproval) -> None:
        """Call `callback` when a decision is wanted; the last one counts."""
        self._on_approval = callback

    def _call_back(self, callback: Callable[..., object] | None, *args: object) -> None:
        if callback is None:
            return
        try:
            callback(*args)
        except Exception:  # noqa: BLE001 - whatever the caller's function raises
            self.callback_failures += 1
            _log.exception("a callback raised; its event is recorded")
