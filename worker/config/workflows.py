"""`[[workflows]]` of config.toml: which executions are resumed, and how often."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from milepost.journal.quantities import seconds
from milepost.worker.config.tables import Table, quantity

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROCESSES = 4
ObjectName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")
]


class WorkflowRule(Table):
    """One `[[workflows]]`: applies to the workflows whose name matches a glob.

    Attributes:
        match: the glob.
        function: runs the executions, each in a process of its own; the rule applies to
            the workflow of this function only.
        concurrency: how many of these processes run at once; None: 4.
        auto_resume: whether the worker resumes and starts executions.
    """

    match: str = Field(default="*", min_length=1)
    function: ObjectName | None = None
    concurrency: int | None = Field(default=None, ge=1, le=256)
    auto_resume: bool = False
    max_attempts: int = Field(default=5, ge=1, le=1000)
    backoff_seconds: Annotated[float, quantity(seconds, "1ms", "1d")] = Field(
        default=1.0, validation_alias="backoff"
    )
    max_backoff_seconds: Annotated[float, quantity(seconds, "1ms", "1w")] = Field(
        default=60.0, validation_alias="max_backoff"
    )
    jitter: float = Field(default=0.1, ge=0.0, le=1.0)
    on_exhausted: Literal["fail", "pause"] = "fail"

    @model_validator(mode="before")
    @classmethod
    def _resumes(cls, given: Any) -> Any:
        """Let a rule with a function resume, unless it says otherwise."""
        if isinstance(given, dict) and given.get("function") is not None:
            return {"auto_resume": True, **given}
        return given

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if self.function is None and self.concurrency is not None:
            raise ValueError('expected "function" with "concurrency"')
        return self

    @property
    def processes(self) -> int:
        """How many processes of the function run at once."""
        return self.concurrency or _PROCESSES


_NO_RULE = WorkflowRule()


def rule_of(rules: Sequence[WorkflowRule], workflow_name: str) -> WorkflowRule:
    """Return the first rule that matches; without one, nothing is resumed."""
    found = (rule for rule in rules if fnmatchcase(workflow_name, rule.match))
    return next(found, _NO_RULE)
