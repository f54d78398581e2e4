"""`[[schedule]]` of config.toml: which workflows are started, when, in which job."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from milepost.journal import ids
from milepost.journal.errors import MilepostError
from milepost.worker.config.tables import Table
from milepost.worker.schedule.slots import CatchUp

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_SCHEDULES = 256
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_SOME_DAY = datetime(2000, 1, 1)  # noqa: DTZ001 - as a clock on the wall shows it


def _checked(check: Callable[[str], object]) -> AfterValidator:
    def validate(text: str) -> str:
        try:
            check(text)
        except MilepostError as exc:
            raise ValueError(str(exc)) from exc
        return text

    return AfterValidator(validate)


def _cron(text: str) -> str:
    from milepost.worker.schedule.scheduler import read_cron  # imported late: slow

    read_cron(text)
    return text


def _template(text: str) -> str:
    for name in _PLACEHOLDER.findall(text):
        if name not in ("date", "time", "workflow"):
            raise ValueError(
                f"expected {{date}}, {{time}} or {{workflow}}, not {{{name}}}"
            )
    return text


def _input(value: dict[str, Any]) -> dict[str, Any]:
    from milepost.journal.states import json_states

    try:
        json_states.to_json(value, json_states.Limits())
    except MilepostError as exc:
        raise ValueError(f"expected plain JSON values: {exc}") from exc
    return value


class ScheduleRule(Table):
    """One `[[schedule]]`: starts an execution at each slot.

    Attributes:
        workflow: its name.
        cron: five fields, in the time zone of the worker.
        job_id: the job of a slot; identifies the schedule.
        input: the initial data.
        catch_up: which late slots are started: the newest, all, or none.
        concurrency: how many executions of the schedule may be unfinished.
    """

    workflow: Annotated[str, _checked(lambda text: ids.check_label("workflow", text))]
    cron: Annotated[str, AfterValidator(_cron)]
    job_id: Annotated[str, AfterValidator(_template), Field(min_length=1)]
    input: Annotated[dict[str, Any], AfterValidator(_input)] = Field(
        default_factory=dict
    )
    catch_up: CatchUp = "last"
    concurrency: int = Field(default=1, ge=1, le=256)

    @property
    def name(self) -> str:
        """What identifies it across restarts and edits of its other keys."""
        return self.job_id.replace("{workflow}", self.workflow)

    def job_at(self, wall: datetime) -> str:
        """Return the job of the slot of a time."""
        words = {
            "date": f"{wall:%Y-%m-%d}",
            "time": f"{wall:%H%M}",
            "workflow": self.workflow,
        }
        return _PLACEHOLDER.sub(lambda found: words[found[1]], self.job_id)


def check_schedules(rules: list[ScheduleRule]) -> list[ScheduleRule]:
    """Refuse schedules of one name, and those whose jobs have no valid id.

    Raises:
        ValueError: names the schedule.
    """
    names = [rule.name for rule in rules]
    for rule in rules:
        if names.count(rule.name) > 1:
            raise ValueError(f"expected distinct job_id, {rule.job_id!r} is used twice")
        try:
            ids.check_job_id(rule.job_at(_SOME_DAY))
        except MilepostError as exc:
            raise ValueError(f"job_id = {rule.job_id!r}: {exc}") from exc
    return rules
