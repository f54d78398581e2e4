"""What surrounds the decisions of workflows in one process.

Finds the job of an execution, encodes payloads, holds leases, and writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from milepost.journal import ids
from milepost.journal.commands import executions
from milepost.journal.commands.executions import Payload, execution_of
from milepost.journal.commands.requests import NO_KEY, Request
from milepost.journal.errors import MilepostError
from milepost.journal.reading import executions as queries
from milepost.journal.states import json_states, line_codec
from milepost.journal.workflow.attempts import TTL_SECONDS, Attempts, Held
from milepost.journal.workflow.triggers import Triggers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from milepost.journal.batch import Batch
    from milepost.journal.index.executions import Execution, Workflows
    from milepost.journal.index.job_view import JobView
    from milepost.journal.reading.reader import Reader
    from milepost.journal.states.packer import Packer
    from milepost.journal.states.types import Types
    from milepost.journal.storage.leases import Lease

_T = TypeVar("_T")
# An execution with one of these statuses can get a process.
_RUNNABLE = frozenset({"pending", "running", "interrupted"})


class Tenure(NamedTuple):
    """How a lease is held.

    Attributes:
        ttl_seconds: it ends unless it is renewed so often.
        is_renewed: a thread of this process renews it; else its caller does.
        request: a repeat takes no lease.
    """

    ttl_seconds: float = TTL_SECONDS
    is_renewed: bool = True
    request: Request = NO_KEY


USUAL = Tenure()


class Engine:
    """The executions of a store, for one process.

    Args:
        reader: of the store.
        packer: encodes states.
        attempts: the leases that this process holds.

    Attributes:
        directory: finds the job of an execution or an approval.
        triggers: save checkpoints after what is written here.
    """

    def __init__(self, reader: Reader, packer: Packer, attempts: Attempts) -> None:
        self.reader = reader
        self.packer = packer
        self.attempts = attempts
        self.directory = queries.Directory(reader)
        self.triggers = Triggers(reader, packer, attempts)
        self._store = reader.store

    def payload(
        self, value: Mapping[str, Any] | None, types: Types | None = None
    ) -> Payload:
        """Encode a state of an event that saves no checkpoint.

        Args:
            value: the state; None for an empty one.
            types: of values that are not plain JSON.

        Raises:
            InvalidState: it would not round-trip; names the path.
        """
        state = {} if value is None else value
        raw = json_states.to_json(state, self.reader.limits, types=types)
        body = self.packer.whole(raw).body
        key = self.reader.vault.key
        encoded = line_codec.encode_state(raw, None, body, key=key)
        fields = {"state_digest": encoded.digest, "state_bytes": encoded.raw_bytes}
        return Payload(fields, encoded)

    def stored(self, job_id: str, seq: int) -> dict[str, Any]:
        """Return the state of an event that saves no checkpoint.

        Raises:
            UnreadableState: it was purged, or differs from what was written.
        """
        return self.reader.answer(
            job_id, lambda view: queries.payload(self.reader, view, seq)
        )

    def start(
        self,
        job_id: str,
        decide: Callable[[Batch, str], str],
        *,
        actor: str,
        is_leased: bool,
    ) -> str:
        """Start an execution; return its id.

        Args:
            job_id: the job.
            decide: starts the execution with an id.
            actor: who runs it.
            is_leased: this process runs the first attempt.
        """
        execution_id = ids.new_execution_id()
        lease = None
        if is_leased:
            self._store.storage.create()
            lease = self.attempts.take(execution_id, actor)

        def learn(started: str) -> None:
            self.directory.learn(started, job_id)
            if lease is not None and started == execution_id:
                self.attempts.keep(execution_id, Held(lease, 1, TTL_SECONDS))
            elif lease is not None:
                lease.release(forget=True)  # a repeat of a request

        return self._write(
            job_id,
            lambda batch: decide(batch, execution_id),
            (execution_id, lease),
            learn,
        )

    def refuse_live(self, known: Workflows) -> None:
        """Refuse a second start while another process runs an execution of the job.

        Raises:
            LeaseLive: another process runs one.
        """
        for execution in known.live.values():
            if execution.leased:
                self.runs_here(execution)

    def runs_here(self, execution: Execution) -> bool:
        """Return whether this process runs an execution; False if none does.

        Raises:
            LeaseLive: another process runs it, or a caller for whom this one has the
                lease.
        """
        name = execution.execution_id
        held = self.attempts.held(name)
        if held is not None and held.is_renewed:
            return True
        if (holder := self.attempts.holder(name)) is not None:
            raise self.attempts.live(name, holder)
        return False

    def change(self, job_id: str, decide: Callable[[Batch], _T]) -> _T:
        """Run a decision that needs no lease, and give up the leases that it ended."""
        return self._write(job_id, decide)

    def as_attempt(
        self,
        execution_id: str,
        decide: Callable[[Batch, str, int], _T],
        *,
        actor: str,
        request: Request = NO_KEY,
        attempt: int | None = None,
        tenure: Tenure = USUAL,
    ) -> _T:
        """Run a decision as this process's attempt of an execution.

        Uses the lease that this process has, or takes a free one.  An execution that
        waits or has ended has none: the decision gets attempt 0, and refuses.

        Args:
            execution_id: the execution.
            decide: the decision, with the id of the execution and the attempt.
            actor: who runs the attempt, if it begins now.
            request: a repeat of it begins no attempt.
            attempt: only as this one, which this process has.
            tenure: of the lease, if it is taken now.

        Raises:
            UnknownExecution: there is none.
            LeaseLive: another process runs it.
            LeaseLost: this process ran it, and another one may run it now.
        """
        job_id, execution_id = self.directory.execution(execution_id)
        if attempt is not None:
            return self._as_known(job_id, execution_id, attempt, decide, request)
        held = self.attempts.of(execution_id)
        if held is not None and not held.is_renewed:
            raise self.attempts.live(execution_id, self.attempts.holder(execution_id))
        lease = None
        known = execution_of(self.reader.view(job_id), execution_id)
        if held is None and known.status in _RUNNABLE:
            lease = self.attempts.take(execution_id, actor, tenure.ttl_seconds)

        def act(batch: Batch) -> tuple[int, _T]:
            attempt = 0 if held is None else held.attempt
            status = execution_of(batch.view, execution_id).status
            # Paused and resumed elsewhere, while this process kept its lease.
            is_resumed = held is not None and status == "pending"
            if request.admitted(batch) is None and (lease is not None or is_resumed):
                owner = self.attempts.owner(actor)
                attempt = executions.acquire(
                    batch, execution_id, owner, actor=actor, request=tenure.request
                )
            return attempt, decide(batch, execution_id, attempt)

        def keep(found: tuple[int, _T]) -> None:
            attempt, _ = found
            if lease is not None and attempt:
                mine = Held(lease, attempt, tenure.ttl_seconds, tenure.is_renewed)
                self.attempts.keep(execution_id, mine)
            elif lease is not None:
                lease.release(forget=True)  # a repeat of a request
            elif held is not None and attempt != held.attempt:
                self.attempts.keep(execution_id, held._replace(attempt=attempt))

        _, answer = self._write(job_id, act, (execution_id, lease), keep)
        return answer

    def _as_known(
        self,
        job_id: str,
        execution_id: str,
        attempt: int,
        decide: Callable[[Batch, str, int], _T],
        request: Request,
    ) -> _T:
        """Run a decision as an attempt that this process has, or had."""

        def act(batch: Batch) -> _T:
            known = execution_of(batch.view, execution_id)
            if (
                0 < attempt == known.leased
                and not self.attempts.is_mine(execution_id, attempt)
                and request.earlier(batch.view, batch.now) is None
            ):
                raise self.not_mine(known, attempt)
            return decide(batch, execution_id, attempt)

        return self._write(job_id, act)

    def not_mine(self, known: Execution, attempt: int) -> MilepostError:
        """Return why this process may not write as an attempt."""
        holder = self.attempts.holder(known.execution_id)
        if known.leased == attempt and holder is not None:
            return self.attempts.live(known.execution_id, holder)
        return executions.lost(known, attempt)

    def _write(
        self,
        job_id: str,
        request: Callable[[Batch], _T],
        taken: tuple[str, Lease | None] = ("", None),
        then: Callable[[_T], None] | None = None,
    ) -> _T:
        """Write; then give up the leases that have ended, and fire triggers.

        After a refused or interrupted write, whether it is in the journal or not,
        leases are given up too, and with them the one that was `taken` for it: the next
        call takes over.

        Args:
            job_id: the job.
            request: decides what is written.
            taken: an execution, and its lease that was taken for this.
            then: called with the answer of `request`, after the write.
        """
        execution_id, lease = taken
        added: list[tuple[int, str, Mapping[str, Any]]] = []

        def decide(batch: Batch) -> _T:
            before = batch.seq
            answer = request(batch)
            added[:] = batch.since(before)
            return answer

        try:
            answer: _T = self._store.write(job_id, decide)
            if then is not None:
                then(answer)
        except BaseException:
            if lease is not None:
                self.attempts.drop(execution_id)
                lease.release(forget=True)
            self._give_up(job_id, self._fresh)
            raise
        try:
            events = self.triggers.events(job_id, added)  # with the attempts of now
            self._give_up(job_id, self._written)
        except BaseException:
            # The first may be interrupted (docs/adr/0026).
            self._give_up(job_id, self._fresh)
            raise
        self.triggers.fire(events)
        return answer

    def _give_up(self, job_id: str, view_of: Callable[[str], JobView | None]) -> None:
        """Drop the attempts that have ended in a job."""
        attempts = self.attempts.of_process()
        if not attempts:
            return
        view = view_of(job_id) or view_of(job_id)
        known = {} if view is None else view.workflows.executions
        for execution_id in attempts:
            execution = known.get(execution_id)
            if execution is not None and not execution.leased:
                self.attempts.drop(execution_id)

    def _written(self, job_id: str) -> JobView | None:
        """Return a job's view after a write of this thread, without a refresh."""
        view = self._store.glance(job_id)
        return self._fresh(job_id) if view.misfit else view

    def give_up_since(self, job_id: str, before: set[str]) -> None:
        """Give up the leases of a job that this process did not have `before`."""
        view = self._fresh(job_id) or self._fresh(job_id)
        for execution_id in {*self.attempts.known()} - before:
            if view is None or execution_id in view.workflows.executions:
                self.attempts.drop(execution_id)

    def _fresh(self, job_id: str) -> JobView | None:
        """Return a job's view; None after an error, which may be a handler's `OSError`.

        Not the last view: an interrupted fold of the write would hide its events.
        """
        try:
            return self._store.view(job_id)
        except MilepostError:
            return None  # the write is done; the next one finds what has ended
