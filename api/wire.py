"""What crosses the wire: requests that pydantic validates, answers that it describes.

Answers are built as plain dicts and written by orjson; their models here exist for the
OpenAPI document.  A thousand checkpoints validated one by one would cost more than
everything else in a request.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from journal import CheckpointInfo, JobInfo
from worker.retention_settings import CompletedRule

Count = Annotated[int, Field(ge=0)]
Label = Annotated[str, Field(min_length=1, max_length=512)]


class Asked(BaseModel):
    """A request body.  A misspelt key is refused: ignoring it could delete too much."""

    model_config = ConfigDict(extra="forbid", strict=True)


class AskedAsBefore(BaseModel):
    """A body of the original endpoints: its callers rely on it being lenient.

    Unknown fields are ignored, and values are coerced: ``"3"`` is 3, ``"true"`` is
    true.
    """

    model_config = ConfigDict(extra="ignore")


class RestoreRequest(AskedAsBefore):
    """What to do besides restoring; null is false."""

    resume: bool | None = False


class CleanupRequest(AskedAsBefore):
    """Which job to clean up, and how many of its newest checkpoints stay."""

    job_id: Label
    keep_last: int = Field(default=10, ge=1, le=100)

    @field_validator("keep_last", mode="before")
    @classmethod
    def _is_no_boolean(cls, value: object) -> object:
        if isinstance(value, bool):  # as a number, true would leave one checkpoint
            raise ValueError("a boolean is no number")  # noqa: TRY004 - for pydantic
        return value


class MarkRequest(Asked):
    """Why a checkpoint is protected, or no longer; the journal keeps it."""

    reason: Label | None = None


class UndeleteRequest(Asked):
    """Nothing has to be said."""


class SaveRequest(Asked):
    """A new checkpoint."""

    job_id: Label
    step_name: Label
    state: dict[str, Any]
    metadata: dict[str, Any] | None = None
    tags: list[str] = Field(default=[], max_length=100)
    pinned: bool = False
    failed: bool = False
    workflow_name: Label | None = None
    workflow_version: Label | None = None
    expected_seq: Count | None = None


class CompleteRequest(Asked):
    """Which job has come to its end, whether well, and why."""

    job_id: Label
    failed: bool = False
    reason: Label | None = None


class PolicyToTry(CompletedRule):
    """A policy with the keys of config.toml's `[[retention.rule]]`.

    With `inherit` it takes what it leaves unset from `[retention.default]`.
    """


class PreviewRequest(Asked):
    """One job, or a glob for many; and a policy to try instead of their own."""

    job_id: Label | None = None
    match: Label | None = None
    policy: PolicyToTry | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.job_id is None) == (self.match is None):
            raise ValueError("give either job_id or match")
        return self


class ApplyRequest(Asked):
    """Which plan to carry out, and whether though it waits for approval."""

    plan_id: Label
    approve: bool = False


class Damage(BaseModel):
    """Why a job is quarantined, or a checkpoint's metadata is not shown."""

    code: str
    detail: str


class Holding(BaseModel):
    """Who keeps a checkpoint from being removed, since when and why."""

    actor: str
    since: datetime
    reason: str | None


class ListedCheckpoint(BaseModel):
    """A checkpoint without its state.

    `held` is null unless it is held.  `failed`: it was saved as such.  `parent_id`: the
    checkpoint that it continued from.  `metadata_problem` is there only if `metadata`
    cannot be shown.
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
    held: Holding | None
    failed: bool
    stored_bytes: int
    metadata_problem: Damage | None = None


class CheckpointWithState(ListedCheckpoint):
    """A checkpoint and the state that it restores."""

    state_snapshot: dict[str, Any]


class CheckpointList(BaseModel):
    """The live checkpoints of a job, oldest first.

    `total` counts them all.  `next_cursor` is there only if `limit` or `cursor` was
    given; null means that this was the last page.
    """

    job_id: str
    checkpoints: list[ListedCheckpoint]
    total: int
    timestamp: datetime
    next_cursor: str | None = None


class RestoreAnswer(BaseModel):
    """The restored state; the checkpoint is current now."""

    checkpoint_id: str
    job_id: str
    state: dict[str, Any]
    job_status: Literal["restored", "resumed"]
    message: str
    timestamp: datetime


class CleanupAnswer(BaseModel):
    """How many checkpoints went and how many are left."""

    job_id: str
    deleted_count: int
    kept_count: int
    timestamp: datetime


class MarkAnswer(BaseModel):
    """What protects a checkpoint now; `changed` is false if it was so before."""

    checkpoint_id: str
    job_id: str
    changed: bool
    pinned: bool
    held: Holding | None
    timestamp: datetime


class SaveAnswer(BaseModel):
    """The new checkpoint; `timestamp` is when it was saved, `seq` its event."""

    checkpoint_id: str
    job_id: str
    step_name: str
    timestamp: datetime
    seq: int


class PlannedCheckpoint(BaseModel):
    """A checkpoint that would stay or go, and why."""

    checkpoint_id: str
    seq: int
    timestamp: datetime
    stored_bytes: int
    reasons: list[str]


class PlannedJob(BaseModel):
    """What a policy would do to one job, as of event `head_seq`."""

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
    """A job that was left out of a plan or of its application, and why."""

    job_id: str
    code: str
    detail: str


class PlanAnswer(BaseModel):
    """What would stay and what would go; nothing has been removed.

    Counts tell of everything, lists of a part.  Of many jobs only those are listed that
    would lose something.  `waits` says why somebody has to approve it first.
    """

    plan_id: str
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
    """How many checkpoints of a job went and how many are left."""

    job_id: str
    deleted_count: int
    kept_count: int


class ApplyAnswer(BaseModel):
    """A plan was carried out, but for the jobs that were `skipped`."""

    plan_id: str
    deleted_count: int
    job_count: int
    jobs: list[AppliedJob]
    skipped_count: int
    skipped: list[JobProblem]
    timestamp: datetime


class PolicyValue(BaseModel):
    """One value of a policy, and who set it."""

    value: Any
    origin: str


class PolicyInForce(BaseModel):
    """The policy of jobs whose id fits `match`; of completed ones, if it says so."""

    match: str
    completed: bool
    dry_run: bool
    name: str
    hash: str
    values: dict[str, PolicyValue]


class PoliciesAnswer(BaseModel):
    """Policies in the order in which a job's is looked for, or that of `job_id`."""

    job_id: str | None
    policies: list[PolicyInForce]
    timestamp: datetime


class CompleteAnswer(BaseModel):
    """The job is complete, until it saves or is restored again."""

    job_id: str
    completed_at: datetime | None
    failed: bool
    timestamp: datetime


class Job(BaseModel):
    """A job: live checkpoints, counters over its whole history, where it stands.

    `failed` and `reason` tell how it was completed, if it is.
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
    """Jobs by id; `next_cursor` null means that this was the last page."""

    jobs: list[Job]
    next_cursor: str | None
    timestamp: datetime


class JournalEvent(BaseModel):
    """One event of a journal, as it stands there."""

    v: int
    seq: int
    at: datetime
    type: str
    actor: str
    data: dict[str, Any]
    span: list[int] | None = None
    hash: str


class EventList(BaseModel):
    """Events of a job in order; ask on with `after_seq` set to `next_after_seq`."""

    job_id: str
    events: list[JournalEvent]
    next_after_seq: int


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class WorkerHealth(BaseModel):
    """The attached worker; a second one of a store stands by until the first ends.

    `restart_needed` names tables of the config file whose edits wait for a restart.
    """

    leader: bool
    scheduler_alive: bool
    problem: str | None
    restart_needed: list[str]


class LastRunOfTask(BaseModel):
    """How the last run of a task ended, whichever process ran it.

    `outcome`: ok; partly (some jobs were left out, `error` is the first); failed (it is
    retried); stopped (it is made up); waiting (it needs somebody's word).
    """

    at: datetime
    outcome: Literal["ok", "partly", "failed", "stopped", "waiting"]
    duration_seconds: float
    line: str
    counts: dict[str, int]
    error: str | None


class TaskOfWorker(BaseModel):
    """One task: when it runs, and how it went.

    `next_run` is null if the schedule is off, in the past if a run was missed.
    `failures` counts the runs in a row that raised.  `resume_after` is the job before
    the one the next run begins with, if the last one could not do all.
    """

    task: str
    schedule: str
    next_run: datetime | None
    running_since: datetime | None
    last: LastRunOfTask | None
    failures: int
    resume_after: str | None


class ClockJumped(BaseModel):
    """The clock was set forward by so much while a worker looked on."""

    at: datetime
    by_seconds: float


class WorkerAnswer(BaseModel):
    """The background work of the store.

    `leader`: whether this server's own worker does it; `leader_pid`: the process that
    does.  What only a worker of this server could know is null if it has none.
    """

    leader: bool
    leader_pid: int | None
    scheduler_alive: bool | None
    tasks: list[TaskOfWorker]
    watcher: Literal["inotify", "poll", "off"] | None
    config_problem: str | None
    restart_needed: list[str]
    problem: str | None
    clock_jump: ClockJumped | None
    timestamp: datetime


class Readiness(BaseModel):
    """Whether answers are complete and retention runs; `reasons` say why not."""

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

    `details` are there with some codes only: `held` has who, since when and why.
    """

    detail: str
    code: str
    errors: list[FieldError] | None = None
    details: dict[str, str | None] | None = None


def listed(info: CheckpointInfo, **state: Any) -> dict[str, Any]:
    """Return a checkpoint as `ListedCheckpoint` has it, with its `state` if given.

    The fields that callers have always had come first.
    """
    problem = info.metadata_problem
    shown = {"code": problem.code, "detail": str(problem)} if problem else None
    return {
        "checkpoint_id": info.checkpoint_id,
        "job_id": info.job_id,
        "step_name": info.step_name,
        "timestamp": info.timestamp,
        "workflow_version": info.workflow_version,
        "workflow_name": info.workflow_name,
        "metadata": info.metadata,
        **state,
        "seq": info.seq,
        "parent_id": info.parent_id,
        "tags": info.tags,
        **protection(info),
        "failed": info.failed,
        "stored_bytes": info.stored_bytes,
        **({"metadata_problem": shown} if shown else {}),
    }


def protection(info: CheckpointInfo) -> dict[str, Any]:
    """Return what protects a checkpoint, as `MarkAnswer` describes it."""
    held = info.held
    return {
        "pinned": info.pinned,
        "held": held and held._asdict(),
    }


def job(info: JobInfo) -> dict[str, Any]:
    """Return a job as `Job` describes it."""
    damage = info.damage
    return {
        "job_id": info.job_id,
        "seq": info.seq,
        "checkpoints": info.checkpoints,
        "saved": info.saved,
        "deleted": info.deleted,
        "restored": info.restored,
        "created_at": info.created_at,
        "last_activity": info.last_activity,
        "completed_at": info.completed_at,
        "current_checkpoint_id": info.current_id,
        "latest_checkpoint_id": info.latest_id,
        "size_bytes": info.size_bytes,
        "damage": damage and {"code": damage.code, "detail": str(damage)},
        "failed": info.failed,
        "reason": info.reason,
    }
