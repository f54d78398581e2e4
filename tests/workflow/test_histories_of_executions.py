"""Random histories of executions, deaths among them, against a plain model."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from milepost import CheckpointManager, Key, KeyRing, Policy
from milepost.journal.errors import (
    ApprovalDecided,
    ApprovalPending,
    Conflict,
    ExecutionFinal,
    ExecutionPaused,
    IllegalTransition,
    LeaseLost,
    MilepostError,
    NotAllowed,
    Protected,
    UnknownExecution,
)
from milepost.journal.store import job as replica
from tests.support.clock import Clock
from tests.support.views import whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost import LeaseInfo
    from tests.support.tally import Tally

JOB = "job"
UNFINISHED = {"pending", "running", "waiting", "interrupted"}
ENDED = {"completed", "failed", "cancelled"}
KEYS = KeyRing([Key.new("k1")])

WHO = st.integers(0, 1)
WHICH = st.sampled_from([0, 0, 0, 1, 2])  # an execution: the newest, the one before, …
NAMES = st.sampled_from(["a", "b"])
NTH = st.sampled_from([0, 0, 0, 1])  # an approval of it: the newest, …
YES = st.booleans()
PEOPLE = st.sampled_from(["bob", "bob", "cyd", "ann"])


class Step:
    """A step of the model."""

    def __init__(self, name: str, checkpoint_id: str) -> None:
        self.name, self.checkpoint_id, self.status = name, checkpoint_id, "open"
        self.ask: Ask | None = None


class Ask:
    """An approval of the model."""

    def __init__(self, id_: str, digest: str, required: int, on_reject: str) -> None:
        self.id, self.digest, self.required = id_, digest, required
        self.on_reject, self.status = on_reject, "pending"
        self.votes: list[str] = []
        self.step: Step | None = None
        self.allows_all = False
        self.asked_by = ""


class Run:
    """An execution of the model: a status, and who has the lease."""

    def __init__(self, id_: str, started_by: str) -> None:
        self.id, self.status, self.started_by = id_, "pending", started_by
        self.attempt = 0
        self.is_mine = self.is_removed = False  # this process has the lease
        self.steps: list[Step] = []
        self.asks: list[Ask] = []
        self.ask: Ask | None = None  # what it waits for
        self.signals: list[str] = []

    @property
    def is_gated(self) -> bool:
        return self.ask is not None and self.ask.status == "pending"

    def newest(self, name: str, *statuses: str) -> Step | None:
        named = (s for s in reversed(self.steps) if s.name == name)
        return next((s for s in named if not statuses or s.status in statuses), None)

    def abandon(self) -> None:
        for step in self.steps:
            if step.status == "open":
                step.status = "abandoned"

    def refusal(self) -> type[MilepostError] | None:
        """Return why no attempt may write."""
        if self.is_removed:
            return UnknownExecution
        if self.status in ENDED:
            return ExecutionFinal
        if self.status == "waiting":
            return ApprovalPending if self.is_gated else ExecutionPaused
        return None

    @property
    def shown(self) -> str:
        """The status that everybody sees: the dead are interrupted."""
        is_dead = self.status == "running" and not self.is_mine
        return "interrupted" if is_dead else self.status

    def find_dead(self) -> None:
        """Record that the process of this execution has died, if it has."""
        if self.status == "running" and not self.is_mine:
            self.abandon()
            self.status = "interrupted"

    def enter(self) -> None:
        """Begin the next attempt, unless one of this process runs."""
        if self.status == "running" and self.is_mine:
            return
        if self.status == "running":
            self.abandon()
        self.status, self.is_mine, self.attempt = "running", True, self.attempt + 1

    def end(self, status: str) -> None:
        if self.is_gated:
            assert self.ask is not None
            self.ask.status = "withdrawn"
        self.abandon()
        self.status, self.is_mine, self.ask = status, False, None

    def wait(self, ask: Ask | None) -> None:
        self.status, self.is_mine, self.ask = "waiting", False, ask
        if ask is not None:
            self.asks.append(ask)

    def reject(self, ask: Ask, status: str) -> None:
        ask.status = status
        if ask.step is not None:
            ask.step.status = "skipped"
        if ask.on_reject == "fail":
            self.end("failed")
        elif ask.on_reject == "continue":
            self.status, self.ask = "pending", None


class Histories(RuleBasedStateMachine):
    """Two managers of a process, and a process that dies now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.clock = Clock()
        self.keys: KeyRing | None = None
        self.managers: list[CheckpointManager] = []
        self.runs: list[Run] = []
        self.lease: LeaseInfo | None = None

    @initialize(is_encrypted=YES)
    def begin(self, is_encrypted: bool) -> None:
        self.keys = KEYS if is_encrypted else None
        self.managers = [self.opened(), self.opened()]

    def opened(self) -> CheckpointManager:
        made = CheckpointManager(
            self.root, actor="ann", clock=self.clock, keys=self.keys
        )
        made.trash_seconds = 60
        return made

    def teardown(self) -> None:
        for manager in self.managers:
            manager.close()
        shutil.rmtree(self.root)

    # -- how a call is made --------------------------------------------------------

    def run_at(self, which: int) -> Run | None:
        return self.runs[-1 - which] if which < len(self.runs) else None

    def refused(
        self, kind: type[MilepostError] | None, call: Callable[[], object]
    ) -> bool:
        """Return whether a call was refused, as it must be, and added no event."""
        self.clock.turn(seconds=1)
        before = self.managers[0].seq(JOB)
        if kind is None:
            return False
        with pytest.raises(kind) as refusal:
            call()
        assert refusal.type is kind, refusal.value
        assert self.managers[0].seq(JOB) == before
        return True

    def unchanged(self, answer: object, call: Callable[[], object]) -> None:
        """Make a call that has this answer and adds no event."""
        before = self.managers[0].seq(JOB)
        assert call() == answer
        assert self.managers[0].seq(JOB) == before

    # -- executions ----------------------------------------------------------------

    @rule(who=WHO, pending=YES)
    def start(self, who: int, pending: bool) -> None:
        self.clock.turn(seconds=1)
        started = self.managers[who].start_workflow_execution(
            JOB, "w", {"x": len(self.runs)}, pending=pending
        )
        run = Run(started.execution_id, "ann")
        if not pending:
            run.enter()
        self.runs.append(run)

    @rule(who=WHO, which=WHICH, name=NAMES, gate=YES)
    def create(self, who: int, which: int, name: str, gate: bool) -> None:
        if (run := self.run_at(which)) is None:
            return
        manager = self.managers[who]

        def call() -> Any:
            return manager.create_checkpoint(run.id, name, "agent", {"in": name}, gate)

        if self.refused(run.refusal(), call):
            return
        call()
        run.enter()
        shown = manager.get_checkpoint_history(run.id)[-1]
        step = Step(name, shown["checkpoint_id"])
        run.steps.append(step)
        if gate:
            found = manager.get_approval(shown["approval_id"])
            ask = Ask(found.approval_id, found.subject_digest, 1, "wait")
            ask.step, ask.allows_all = step, True
            step.ask = ask
            run.wait(ask)

    @rule(who=WHO, which=WHICH, name=NAMES, ok=YES, keep=YES)
    def complete(self, who: int, which: int, name: str, ok: bool, keep: bool) -> None:
        if (run := self.run_at(which)) is None:
            return
        mode: Any = "keep" if keep else "fail"

        def call() -> bool:
            return self.managers[who].complete_checkpoint(
                run.id, name, {"out": name}, ok, on_step_failure=mode
            )

        if self.refused(UnknownExecution if run.is_removed else None, call):
            return
        if run.is_gated or run.newest(name) is None:
            self.unchanged(False, call)
            return
        if run.status in {"pending", "running", "interrupted"}:
            run.enter()
        step = run.newest(name, "open")
        assert call() == (step is not None)
        if step is None:
            return
        step.status = "completed" if ok else "failed"
        if not ok and not keep:
            run.end("failed")

    @rule(who=WHO, which=WHICH, reason=NAMES)
    def pause(self, who: int, which: int, reason: str) -> None:
        if (run := self.run_at(which)) is None:
            return
        self.clock.turn(seconds=1)

        def call() -> bool:
            return self.managers[who].pause_execution(run.id, reason=reason)

        if run.is_removed or run.status in {*ENDED, "waiting"}:
            self.unchanged(False, call)
        else:
            assert call()
            run.wait(None)

    @rule(who=WHO, which=WHICH, retry=YES)
    def resume(self, who: int, which: int, retry: bool) -> None:
        if (run := self.run_at(which)) is None:
            return
        self.clock.turn(seconds=1)

        def call() -> bool:
            return self.managers[who].resume_execution(run.id, retry=retry)

        may = run.shown == "interrupted" or (
            run.status == "waiting" and not run.is_gated
        )
        may = may or (retry and run.status in {"failed", "cancelled"})
        if run.is_removed or not may:
            self.unchanged(False, call)
        else:
            assert call()
            run.find_dead()
            run.status, run.ask = "pending", None

    @rule(who=WHO, which=WHICH, how=st.sampled_from(sorted(ENDED)))
    def end(self, who: int, which: int, how: str) -> None:
        if (run := self.run_at(which)) is None:
            return
        manager = self.managers[who]

        def call() -> bool:
            match how:
                case "completed":
                    return manager.complete_execution(run.id, {"result": 1})
                case "failed":
                    return manager.fail_execution(run.id, "no")
                case _:
                    return manager.cancel_execution(run.id, reason="no")

        if self.refused(UnknownExecution if run.is_removed else None, call):
            return
        if run.status == how:
            self.unchanged(False, call)
            return
        needs_lease = how == "completed"
        why = run.refusal() if needs_lease or run.status in ENDED else None
        if self.refused(why, call):
            return
        assert call()
        if needs_lease:
            run.enter()
        run.end(how)

    @rule(who=WHO, which=WHICH)
    def acquire(self, who: int, which: int) -> None:
        if (run := self.run_at(which)) is None:
            return
        manager = self.managers[who]
        why = Conflict if run.is_mine else run.refusal()
        self.clock.turn(seconds=1)
        if why is not None:
            with pytest.raises(why):
                manager.acquire_lease(run.id)
            return
        lease = manager.acquire_lease(run.id)
        run.enter()
        assert lease.attempt == run.attempt
        self.lease = lease

    @rule(who=WHO)
    def release(self, who: int) -> None:
        if (lease := self.lease) is None:
            return
        run = next(r for r in self.runs if r.id == lease.execution_id)
        is_live = run.status == "running" and run.attempt == lease.attempt
        why: type[MilepostError] | None = None
        if not is_live:
            is_stale = lease.attempt < run.attempt or run.status not in {
                "waiting",
                *ENDED,
            }
            why = LeaseLost if is_stale else run.refusal()
            why = UnknownExecution if run.is_removed else why
        manager = self.managers[who]
        if self.refused(why, lambda: manager.release_lease(lease)):
            return
        manager.release_lease(lease)
        run.abandon()
        run.status, run.is_mine = "interrupted", False

    @rule()
    def die(self) -> None:
        """The process of every attempt dies: its leases are free."""
        for manager in self.managers:
            manager.workflows.close()
        for run in self.runs:
            run.is_mine = False

    @rule(who=WHO, which=WHICH)
    def expire(self, who: int, which: int) -> None:
        """The worker finds the dead."""
        run = self.run_at(which)
        if run is None or run.is_removed:
            return
        workflows = self.managers[who].workflows
        why = workflows.why_dead(run.id)
        assert (why is None) == run.is_mine
        if run.is_mine:
            return
        self.clock.turn(seconds=1)
        answer = workflows.expire(run.id, run.attempt, actor="w", reason="x")
        assert answer == (run.shown != run.status)
        run.find_dead()

    # -- signals and approvals -----------------------------------------------------

    @rule(who=WHO, which=WHICH, name=NAMES)
    def signal(self, who: int, which: int, name: str) -> None:
        if (run := self.run_at(which)) is None:
            return
        manager = self.managers[who]
        why = run.refusal() if run.is_removed or run.status in ENDED else None
        if not self.refused(why, lambda: manager.signal(run.id, name, {"n": 1})):
            manager.signal(run.id, name, {"n": 1})
            run.signals.append(name)

    @rule(who=WHO, which=WHICH, name=NAMES)
    def consume(self, who: int, which: int, name: str) -> None:
        if (run := self.run_at(which)) is None:
            return
        manager = self.managers[who]
        if self.refused(run.refusal(), lambda: manager.consume_signal(run.id, name)):
            return
        run.enter()
        is_there = name in run.signals
        assert (manager.consume_signal(run.id, name) is not None) == is_there
        if is_there:
            run.signals.remove(name)

    @rule(
        who=WHO,
        which=WHICH,
        required=st.integers(1, 2),
        on_reject=st.sampled_from(["wait", "fail", "continue"]),
    )
    def ask(self, who: int, which: int, required: int, on_reject: Any) -> None:
        if (run := self.run_at(which)) is None:
            return
        manager = self.managers[who]

        def call() -> Any:
            return manager.request_approval(
                run.id,
                {"subject": len(run.asks)},
                required=required,
                on_reject=on_reject,
                actor="dan",
            )

        if self.refused(run.refusal(), call):
            return
        found = call()
        run.enter()
        ask = Ask(found.approval_id, found.subject_digest, required, on_reject)
        ask.asked_by = "dan"
        run.wait(ask)

    @rule(who=WHO, which=WHICH, nth=NTH, actor=PEOPLE, yes=YES)
    def decide(self, who: int, which: int, nth: int, actor: str, yes: bool) -> None:
        run = self.run_at(which)
        if run is None or nth >= len(run.asks):
            return
        ask = run.asks[-1 - nth]
        manager = self.managers[who]

        def call() -> Any:
            return manager.decide(
                ask.id,
                "approve" if yes else "reject",
                subject_digest=ask.digest,
                actor=actor,
            )

        if run.is_removed:
            self.clock.turn(seconds=1)
            before = manager.seq(JOB)
            with suppress(MilepostError):
                call()
            assert manager.seq(JOB) == before
            return
        has_voted = actor in ask.votes
        if ask.status == "pending":
            is_self = actor == run.started_by and not ask.allows_all
            why: type[MilepostError] | None = NotAllowed if is_self else None
            if has_voted and not yes:
                why = ApprovalDecided
        else:
            has_rejected = ask.status == "rejected" and ask.asked_by == f"-{actor}"
            same = has_voted if yes else has_rejected
            why = None if same else ApprovalDecided
            has_voted = same
        if self.refused(why, call):
            return
        if has_voted:
            before = manager.seq(JOB)
            call()
            assert manager.seq(JOB) == before
            return
        call()
        if not yes:
            ask.asked_by = f"-{actor}"
            run.reject(ask, "rejected")
            return
        ask.votes.append(actor)
        if len(ask.votes) >= ask.required:
            ask.status = "approved"
            run.status, run.ask = "pending", None

    @rule(who=WHO, which=WHICH, name=NAMES, yes=YES)
    def approve(self, who: int, which: int, name: str, yes: bool) -> None:
        if (run := self.run_at(which)) is None:
            return
        self.clock.turn(seconds=1)

        def call() -> bool:
            return self.managers[who].approve_checkpoint(run.id, name, yes, actor="eve")

        gated = [s for s in run.steps if s.name == name and s.ask is not None]
        if run.is_removed and gated:
            with pytest.raises(UnknownExecution):
                call()
            return
        if not gated:
            return
        ask = gated[-1].ask
        assert ask is not None
        if ask.status != "pending":
            self.unchanged(ask.status == ("approved" if yes else "rejected"), call)
            return
        assert call()
        if yes:
            ask.votes.append("eve")
            ask.status, run.status, run.ask = "approved", "pending", None
        else:
            ask.asked_by = "-eve"
            run.reject(ask, "rejected")

    # -- the job beside it ---------------------------------------------------------

    def needed(self) -> set[str]:
        """Return the checkpoints that no policy may remove."""
        found = set()
        for run in self.runs:
            is_newest = run is self.runs[-1]
            if run.status in {"pending", "running", "waiting"} or (
                run.status == "interrupted" and is_newest
            ):
                done = [s for s in run.steps if s.status == "completed"]
                found |= {s.checkpoint_id for s in done[-1:]}
        return found

    @rule(who=WHO)
    def save(self, who: int) -> None:
        self.clock.turn(seconds=1)
        self.managers[who].save(JOB, "s", {"plain": self.clock.now.isoformat()})

    @rule(who=WHO, what=st.sampled_from(["restore", "delete", "purge", "force"]))
    def change_one(self, who: int, what: str) -> None:
        manager = self.managers[who]
        self.clock.turn(seconds=1)
        for info in manager.list(JOB)[:1]:
            id_ = info.checkpoint_id
            if what == "restore":
                manager.restore(JOB, id_)
                for run in self.runs:
                    run.find_dead()
            elif what != "force" and id_ in self.needed():
                with pytest.raises(Protected):
                    manager.delete(JOB, id_, purge=what == "purge")
            else:
                is_purge = what == "purge"
                manager.delete(JOB, id_, purge=is_purge, force=what == "force")

    @rule(who=WHO)
    def undelete(self, who: int) -> None:
        self.clock.turn(seconds=1)
        for run in self.runs:
            for step in run.steps:
                try:
                    if self.managers[who].undelete(JOB, step.checkpoint_id):
                        return
                except Conflict:
                    pass

    @rule(who=WHO, how=st.sampled_from(["cleanup", "plan"]))
    def thin(self, who: int, how: str) -> None:
        manager = self.managers[who]
        self.clock.turn(seconds=1)
        needed = self.needed() & {i.checkpoint_id for i in manager.list(JOB)}
        if how == "cleanup":
            manager.cleanup(JOB, keep_last=1)
        else:
            plan = manager.plan(JOB, Policy(keep_last=1))
            manager.apply(plan, confirm=True, trust_clock=True)
        assert needed <= {i.checkpoint_id for i in manager.list(JOB)}

    @rule(who=WHO)
    def erase(self, who: int) -> None:
        is_live = any(r.status in {"pending", "running", "waiting"} for r in self.runs)
        manager = self.managers[who]
        why = IllegalTransition if is_live else None
        if not self.refused(why, lambda: manager.erase(JOB)):
            manager.erase(JOB)

    @rule(who=WHO, is_later=YES)
    def compact(self, who: int, is_later: bool) -> None:
        self.clock.turn(seconds=61 if is_later else 1)
        self.managers[who].compact(JOB, trust_clock=True)

    @rule(who=WHO)
    def clear(self, who: int) -> None:
        self.clock.turn(seconds=1)
        old = [r for r in self.runs if r.status in ENDED and not r.is_removed]
        assert self.managers[who].cleanup_old_executions(0) == len(old)
        for run in old:
            run.is_removed = True

    @rule(who=WHO)
    def reopen(self, who: int) -> None:
        self.managers[who].close()
        self.managers[who] = self.opened()
        # The leases that were taken through the closed manager have ended.
        known = self.managers[who].workflows.known()
        for run in self.runs:
            run.is_mine = run.is_mine and run.id in known

    # -- what must be seen ---------------------------------------------------------

    @invariant()
    def everybody_sees_the_same(self) -> None:
        if not self.managers:
            return
        fresh = self.opened()
        seen = [self.shown(manager) for manager in (*self.managers, fresh)]
        fresh.close()
        unfinished = [r.id for r in self.runs if r.status in UNFINISHED]
        newest = self.managers[0].get_execution_status(f"exec_{JOB}")
        assert (newest or {}).get("execution_id") == (unfinished or [None])[-1]
        assert seen[0] == seen[2]
        assert seen[1] == seen[2]
        expected = [(r.id, r.shown, r.attempt) for r in self.runs if not r.is_removed]
        listed = seen[0]["list"]
        assert [(f["execution_id"], f["status"], f["attempt"]) for f in listed] == (
            expected
        )
        steps = {r.id: [s.status for s in r.steps] for r in self.runs}
        for id_, history in seen[0]["history"].items():
            assert [step["status"] for step in history] == steps[id_]
        asks = {
            a.id: (a.status, tuple(a.votes))
            for r in self.runs
            for a in r.asks
            if not r.is_removed
        }
        assert {a.approval_id: (a.status, a.votes) for a in seen[0]["asks"]} == asks

    def shown(self, manager: CheckpointManager) -> dict[str, Any]:
        ids = [r.id for r in self.runs if not r.is_removed]
        for verified in manager.verify(JOB):
            assert verified.ok, verified  # I5
        view = manager._reader.view(JOB)  # of a new process, from a snapshot
        assert whole(view) == whole(manager._store.replay(JOB, until_seq=view.seq))
        listed = manager.list_executions(job_id=JOB)
        statuses = [manager.get_execution_status(id_) for id_ in ids]
        for status in (*listed, *statuses):
            if status is not None and status["lease"] is not None:
                del status["lease"]["deadline"]  # it moves on with the time
        return {
            "seq": manager.seq(JOB),
            "list": listed,
            "status": statuses,
            "history": {id_: manager.get_checkpoint_history(id_) for id_ in ids},
            "asks": manager.approvals("all", job_id=JOB),
            "checkpoints": [i.checkpoint_id for i in manager.list(JOB)],
        }

    @invariant()
    def leases_are_those_of_running_executions(self) -> None:
        if not self.managers:
            return
        known = {r.id for r in self.runs if r.is_mine}
        assert {*self.managers[0].workflows.known()} == known


@pytest.mark.parametrize(
    "examples", [10, pytest.param(400, marks=pytest.mark.slow)], ids=["few", "many"]
)
@pytest.mark.timeout(1800)
def test_executions_agree_with_a_plain_model(
    examples: int, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "_SNAPSHOT_EVENTS", 1)
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=examples < 100,
            suppress_health_check=[*HealthCheck],
        ),
    )
    tally("histories of executions", examples)
