"""The models of answers, for the OpenAPI document.

Handlers return plain dicts, built by `milepost.api.fields.checkpoints` and written by
orjson: validating a thousand checkpoints would cost more than the rest of a request.
"""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel


class Damage(BaseModel):
    """Why a job is quarantined, or a checkpoint's metadata is not shown."""

    code: str
    detail: str


class LegalHold(BaseModel):
    """Who placed the legal hold, when and why."""

    actor: str
    since: datetime
    reason: str | None


class ListedCheckpoint(BaseModel):
    """A checkpoint without its state.

    `held` is null without a legal hold.  `failed`: it was saved as failed.
    `parent_id`: the checkpoint that it continued from.  `metadata_problem` is present
    only if `metadata` cannot be shown.
    """

    checkpoint_id: str
    job_id: str
    step_name: str
    timestamp: datetime
    workflow_version: str
    workflow_name: str | None
    metadata: dict[str, Any]
    seq: int
    parent_id: str | None
    tags: list[str]
    pinned: bool
    held: LegalHold | None
    failed: bool
    stored_bytes: int
    metadata_problem: Damage | None = None


class CheckpointWithState(ListedCheckpoint):
    """A checkpoint and the state that it restores."""

    state_snapshot: dict[str, Any]


class CheckpointList(BaseModel):
    """The live checkpoints of a job, oldest first.

    `total` counts them all.  `next_cursor` is present only if `limit` or `cursor` was
    given; null means that this is the last page.
    """

    job_id: str
    checkpoints: list[ListedCheckpoint]
    total: int
    timestamp: datetime
    next_cursor: str | None = None


class RestoreAnswer(BaseModel):
    """The restored state; the checkpoint is current now.

    `execution_id` and `mode` are present if it belongs to an execution.
    """

    checkpoint_id: str
    job_id: str
    state: dict[str, Any]
    job_status: Literal["restored", "resumed"]
    message: str
    timestamp: datetime
    execution_id: str | None = None
    mode: Literal["restored", "resumed", "branched"] | None = None


class CleanupAnswer(BaseModel):
    """How many checkpoints were removed and how many remain."""

    job_id: str
    deleted_count: int
    kept_count: int
    timestamp: datetime


class MarkAnswer(BaseModel):
    """The protection of a checkpoint; `changed` is false if it was the same before."""

    checkpoint_id: str
    job_id: str
    changed: bool
    pinned: bool
    held: LegalHold | None
    timestamp: datetime


class SaveAnswer(BaseModel):
    """The new checkpoint; `timestamp` is when it was saved, `seq` its event."""

    checkpoint_id: str
    job_id: str
    step_name: str
    timestamp: datetime
    seq: int


class PlannedCheckpoint(BaseModel):
    """The decision on one checkpoint, with reasons."""

    checkpoint_id: str
    seq: int
    timestamp: datetime
    stored_bytes: int
    reasons: list[str]


class PlannedJob(BaseModel):
    """The plan for one job, as of event `head_seq`."""

    job_id: str
    policy: dict[str, Any]
    head_seq: int
    head_hash: str
    keep_count: int
    keep_bytes: int
    remove_count: int
    remove_bytes: int
    waits: list[str]
    idle_rules: list[str]
    remove: list[PlannedCheckpoint]
    keep: list[PlannedCheckpoint]


class JobProblem(BaseModel):
    """A job that was left out of a plan or of its application, with the reason."""

    job_id: str
    code: str
    detail: str


class PlanAnswer(BaseModel):
    """A plan; nothing has been removed.

    `plan_id` and `as_of`, the time that ages are counted from, are what
    `/api/retention/apply` takes, with the same selection and policy.  Counts cover
    everything, lists may be shortened.  Of several jobs only those that would lose
    checkpoints are listed.  `waits`: why the plan requires confirmation.
    """

    plan_id: str
    as_of: datetime
    job_count: int
    keep_count: int
    keep_bytes: int
    remove_count: int
    remove_bytes: int
    waits: list[str]
    jobs: list[PlannedJob]
    problem_count: int
    problems: list[JobProblem]
    timestamp: datetime


class AppliedJob(BaseModel):
    """How many checkpoints of a job were removed and how many remain."""

    job_id: str
    deleted_count: int
    kept_count: int


class ApplyAnswer(BaseModel):
    """A plan was applied, except for the jobs in `skipped`."""

    plan_id: str
    deleted_count: int
    job_count: int
    jobs: list[AppliedJob]
    skipped_count: int
    skipped: list[JobProblem]
    timestamp: datetime


class PolicyValue(BaseModel):
    """One value of a policy, and its origin."""

    value: Any
    origin: str


class PolicyInForce(BaseModel):
    """The policy of jobs, or of completed jobs, whose id matches `match`."""

    match: str
    completed: bool
    dry_run: bool
    name: str
    hash: str
    values: dict[str, PolicyValue]


class PoliciesAnswer(BaseModel):
    """Policies in the order of precedence, or the policy of `job_id`."""

    job_id: str | None
    policies: list[PolicyInForce]
    timestamp: datetime


class CompleteAnswer(BaseModel):
    """The job is complete, until its next save or restore."""

    job_id: str
    completed_at: datetime | None
    failed: bool
    timestamp: datetime


class Job(BaseModel):
    """A job: live checkpoints, counters over its whole history, its position.

    `failed` and `reason` are those of its completion, if it is complete.
    """

    job_id: str
    seq: int
    checkpoints: int
    saved: int
    deleted: int
    restored: int
    created_at: datetime | None
    last_activity: datetime | None
    completed_at: datetime | None
    current_checkpoint_id: str | None
    latest_checkpoint_id: str | None
    size_bytes: int
    damage: Damage | None
    failed: bool
    reason: str | None


class JobList(BaseModel):
    """Jobs by id; `next_cursor` null means that this is the last page."""

    jobs: list[Job]
    next_cursor: str | None
    timestamp: datetime


class JournalEvent(BaseModel):
    """One event, as it is in the journal."""

    v: int
    seq: int
    at: datetime
    type: str
    actor: str
    data: dict[str, Any]
    span: list[int] | None = None
    hash: str


class EventList(BaseModel):
    """Events of a job in order; continue with `after_seq` = `next_after_seq`."""

    job_id: str
    events: list[JournalEvent]
    next_after_seq: int


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class WorkerHealth(BaseModel):
    """The attached worker; a second worker of a store waits until the first ends.

    `restart_needed`: tables of config.toml whose edits need a restart.
    """

    leader: bool
    scheduler_alive: bool
    problem: str | None
    restart_needed: list[str]


class LastRunOfTask(BaseModel):
    """The last run of a task, in any process.

    `outcome`: ok; partly (some jobs were left out, `error` is the first); failed (it is
    retried); stopped (it runs again soon); waiting (it needs confirmation).
    """

    at: datetime
    outcome: Literal["ok", "partly", "failed", "stopped", "waiting"]
    duration_seconds: float
    line: str
    counts: dict[str, int]
    error: str | None


class TaskOfWorker(BaseModel):
    """One task: its schedule and its last run.

    `next_run` is null if the schedule is off, in the past if a run was missed.
    `failures` counts consecutive failed runs.  `resume_after`: the next run starts
    after this job, if the last run did not reach all jobs.
    """

    task: str
    schedule: str
    next_run: datetime | None
    running_since: datetime | None
    last: LastRunOfTask | None
    failures: int
    resume_after: str | None


class ClockJumped(BaseModel):
    """A jump of the system clock that a worker detected."""

    at: datetime
    by_seconds: float


class SlotOfSchedule(BaseModel):
    """The execution of a slot; `slot` is a time of the wall, without a zone."""

    slot: str
    job_id: str
    execution_id: str


class ScheduleOfWorker(BaseModel):
    """One schedule; `late` slots are due and not started yet, `skipped` never will."""

    name: str
    workflow: str
    cron: str
    next_run: datetime | None
    last: SlotOfSchedule | None
    late: int
    unfinished: int
    started: int
    skipped: int


class WorkerAnswer(BaseModel):
    """The background work of the store.

    `leader`: whether this server's own worker is active; `leader_pid`: the process of
    the active worker.  Fields that only a worker of this server knows are null without
    one.
    """

    leader: bool
    leader_pid: int | None
    scheduler_alive: bool | None
    tasks: list[TaskOfWorker]
    schedules: list[ScheduleOfWorker]
    watcher: Literal["inotify", "poll", "off"] | None
    config_problem: str | None
    restart_needed: list[str]
    problem: str | None
    clock_jump: ClockJumped | None
    timestamp: datetime


class Readiness(BaseModel):
    """Whether answers are complete and retention runs; if not, `reasons`."""

    ready: bool
    reasons: list[str]
    jobs: int | None
    damaged_jobs: int | None
    config_problem: str | None
    worker: WorkerHealth | None
    timestamp: datetime


class FieldError(BaseModel):
    """One field that is wrong."""

    loc: list[str | int]
    msg: str
    type: str


class ErrorAnswer(BaseModel):
    """Any answer of 400 and above: `detail` for people, `code` for programs.

    Some codes have `details`: `held` has who, since when and why.
    """

    detail: str
    code: str
    errors: list[FieldError] | None = None
    details: dict[str, str | None] | None = None
