"""The bodies of requests, validated by pydantic."""

from typing import Annotated, Any, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from milepost.worker.config.retention import CompletedRule

Count = Annotated[int, Field(ge=0)]
Label = Annotated[str, Field(min_length=1, max_length=512)]
# The id of a plan for many jobs has 17 characters for each of them.
PlanId = Annotated[str, Field(min_length=1, max_length=1 << 22)]
Time = Annotated[AwareDatetime, Field(strict=False)]


class Asked(BaseModel):
    """A request body.  Unknown keys are refused: ignoring one could delete too much."""

    model_config = ConfigDict(extra="forbid", strict=True)


class AskedAsBefore(BaseModel):
    """A body of the original endpoints, whose clients rely on lenient parsing.

    Unknown fields are ignored, and values are coerced: ``"3"`` is 3, ``"true"`` is
    true.
    """

    model_config = ConfigDict(extra="ignore")


class RestoreRequest(AskedAsBefore):
    """Options of a restore; null is false."""

    resume: bool | None = False


class CleanupRequest(AskedAsBefore):
    """The job to clean up, and how many of its newest checkpoints to keep.

    With `plan_id` and `as_of` of a preview with the same `job_id` and `keep_last`,
    exactly what the preview showed is deleted, or nothing.
    """

    job_id: Label
    keep_last: int = Field(default=10, ge=1, le=100)
    plan_id: PlanId | None = None
    as_of: Time | None = None

    @field_validator("keep_last", mode="before")
    @classmethod
    def _is_no_boolean(cls, value: object) -> object:
        if isinstance(value, bool):  # true would count as 1
            raise ValueError("a boolean is not a number")  # noqa: TRY004 - for pydantic
        return value


class MarkRequest(Asked):
    """The reason of a change of protection; it is journaled."""

    reason: Label | None = None


class UndeleteRequest(Asked):
    """An empty body."""


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
    """The job to mark as complete, whether it failed, and why."""

    job_id: Label
    failed: bool = False
    reason: Label | None = None


class PolicyToTry(CompletedRule):
    """A policy with the keys of config.toml's `[[retention.rule]]`.

    With `inherit`, unset keys are taken from `[retention.default]`.
    """


class PreviewRequest(Asked):
    """One job, or a glob for several; optionally a policy to try instead.

    `keep_last` previews the cleanup of one job by count.
    """

    job_id: Label | None = None
    match: Label | None = None
    policy: PolicyToTry | None = None
    keep_last: Annotated[int, Field(ge=1, le=100)] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.job_id is None) == (self.match is None):
            raise ValueError("give either job_id or match")
        if self.keep_last is not None and (self.job_id is None or self.policy):
            raise ValueError("keep_last takes a job_id and no policy")
        return self


class ApplyRequest(PreviewRequest):
    """The plan to apply: what a preview was asked for, and what it answered.

    `as_of` is at most one hour ago.  `confirm` confirms a plan that requires it.
    """

    plan_id: PlanId
    as_of: Time
    confirm: bool = False
