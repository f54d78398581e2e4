"""`[[workflows]]` of config.toml: which executions are resumed, and how often."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from milepost.journal.quantities import seconds
from milepost.worker.config.tables import Table, quantity

if TYPE_CHECKING:
    from collections.abc import Sequence


class WorkflowRule(Table):
    """One `[[workflows]]`: applies to the workflows whose name matches a glob."""

    match: str = Field(default="*", min_length=1)
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


_NO_RULE = WorkflowRule()


def rule_of(rules: Sequence[WorkflowRule], workflow_name: str) -> WorkflowRule:
    """Return the first rule that matches; without one, nothing is resumed."""
    found = (rule for rule in rules if fnmatchcase(workflow_name, rule.match))
    return next(found, _NO_RULE)
