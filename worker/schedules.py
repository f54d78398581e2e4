"""Schedules: an execution for each slot, started at most once.

A slot that cannot be started when it is due is late: no worker ran, or earlier
executions of the schedule are unfinished.  `catch_up` says which late slots are
started as soon as they can be.  The execution names its slot as the actor who started
it, so a slot is started once, whatever ends the process.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import UTC
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

from milepost.journal.errors import LeaseLive, MilepostError
from milepost.journal.wording import counted
from milepost.worker.schedule.schedule_records import (
    Begun,
    ScheduleRecord,
    ScheduleRecords,
    UnreadableSchedules,
)
from milepost.worker.schedule.scheduler import read_cron
from milepost.worker.schedule.slots import (
    choose,
    due_slots,
    instant,
    slots_after,
    wall_time,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime, tzinfo

    from milepost.journal.manager import CheckpointManager
    from milepost.worker.config.schedules import ScheduleRule
    from milepost.worker.problems import Problems
    from milepost.worker.schedule.slots import Slot

_MAX_KEY = 100  # characters of an idempotency key

log = logging.getLogger("milepost.worker")


class ScheduleStatus(NamedTuple):
    """Status of one schedule.

    Attributes:
        name: its job id, with the name of the workflow.
        next_run: the next slot, in UTC.
        last: the last execution, and its slot.
        late: how many slots are due and not started yet.
        unfinished: how many executions had not ended at the last look.
        started: how many slots were started.
        skipped: how many were not: late, and not wanted any more.
    """

    name: str
    workflow: str
    cron: str
    next_run: datetime | None
    last: Begun | None
    late: int
    unfinished: int
    started: int
    skipped: int


class Schedules:
    """Starts the executions of schedules.

    Args:
        manager: of the store.
        problems: where trouble is recorded.
        clock: the current time.
        may_start: whether slots count: the clock is trusted.
        version_of: returns the version of a workflow.
        on_started: called with the job of a new execution.
    """

    def __init__(
        self,
        manager: CheckpointManager,
        problems: Problems,
        *,
        clock: Callable[[], datetime],
        may_start: Callable[[], bool] = lambda: True,
        version_of: Callable[[str], str | None] = lambda _: None,
        on_started: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._manager = manager
        self._records = ScheduleRecords(manager.storage)
        self._problems = problems
        self._clock = clock
        self._may_start = may_start
        self._version_of = version_of
        self._on_started = on_started
        self.is_late = False

    def forget_others(self, rules: Sequence[ScheduleRule]) -> None:
        """Forget the schedules that are not configured any more."""
        with self._problems.noting("schedules", OSError, MilepostError):
            self._records.forget_others([rule.name for rule in rules])

    def look(self, rules: Sequence[ScheduleRule], timezone: str) -> None:
        """Start what is due; trouble with one schedule stops no other (I10)."""
        if not self._may_start():
            return
        is_late = False
        for rule in rules:
            with self._problems.noting(f"schedule {rule.name!r}", Exception):
                is_late |= self._look_at(rule, timezone)
        self.is_late = is_late

    def _look_at(self, rule: ScheduleRule, timezone: str) -> bool:
        """Start the due slots of a schedule; return whether one has to wait."""
        zone, now = zone_of(timezone), self._clock()
        before = self._read().get(rule.name)
        if before is None:
            fresh = ScheduleRecord(wall_time(now, zone), timezone)
            self._records.write(rule.name, fresh)
            return False
        record = _as_now(before, timezone, now)
        due = due_slots(record.after, read_cron(rule.cron), zone, now)
        choice = choose(due, rule.catch_up, now)
        if due or record.unfinished:
            record = record._replace(
                unfinished=tuple(filter(self._is_unfinished, record.unfinished))
            )
        if choice.dropped:
            record = _skipped(rule, record, choice.dropped)
        left = [*choice.kept]
        try:
            while left and len(record.unfinished) < rule.concurrency:
                begun, is_new = self._start(rule, left[0])
                if begun is None:
                    break
                record = record._replace(
                    after=left.pop(0).wall,
                    last=begun,
                    unfinished=(*record.unfinished, begun),
                    started=record.started + is_new,
                )
        finally:
            if record != before:
                self._records.write(rule.name, record)
        return bool(left)

    def _read(self) -> dict[str, ScheduleRecord]:
        try:
            return self._records.read()
        except UnreadableSchedules as exc:
            log.warning("schedules begin again, without missed slots: %s", exc)
            return {}

    def _is_unfinished(self, begun: Begun) -> bool:
        with suppress(MilepostError):  # nothing runs in a damaged job
            found = self._manager.workflows.unfinished(begun.job_id)
            return any(each.execution_id == begun.execution_id for each in found)
        return False

    def _start(self, rule: ScheduleRule, slot: Slot) -> tuple[Begun | None, bool]:
        """Start the execution of a slot, or find it; return it and whether it is new.

        None if another execution runs in its job.
        """
        job_id, actor = rule.job_at(slot.wall), f"schedule:{slot.text}"
        for known in self._manager.list_executions(job_id=job_id):
            is_mine = known["workflow_name"] == rule.workflow
            if is_mine and known["started_by"] == actor:
                return Begun(slot.text, job_id, known["execution_id"]), False
        try:
            execution_id = self._manager.start_workflow_execution(
                job_id,
                rule.workflow,
                rule.input,
                workflow_version=self._version_of(rule.workflow),
                pending=True,
                actor=actor,
                # Of two workers that come here at once, one starts it.
                idempotency_key=f"{actor} of {rule.name}"[:_MAX_KEY],
            ).execution_id
        except LeaseLive:
            return None, False
        log.info("schedule %s: slot %s is %s", rule.name, slot.text, execution_id)
        self._on_started(job_id)
        return Begun(slot.text, job_id, execution_id), True


def _as_now(record: ScheduleRecord, timezone: str, now: datetime) -> ScheduleRecord:
    """Return a record after a change of the time zone, or of the clock."""
    at = instant(record.after, zone_of(record.zone))
    if at > now:  # the clock was set back: slots come again, and are not started twice
        at = now
    elif record.zone == timezone:
        return record
    return record._replace(after=wall_time(at, zone_of(timezone)), zone=timezone)


def _skipped(
    rule: ScheduleRule, record: ScheduleRecord, dropped: list[Slot]
) -> ScheduleRecord:
    count = counted(len(dropped), "slot")
    log.warning(
        'schedule %s: %s skipped, %s to %s (catch_up = "%s")',
        *(rule.name, count, dropped[0].text, dropped[-1].text, rule.catch_up),
    )
    after = max(record.after, dropped[-1].wall)
    return record._replace(after=after, skipped=record.skipped + len(dropped))


@lru_cache(maxsize=64)
def zone_of(name: str) -> tzinfo:
    """Return a time zone."""
    return UTC if name == "UTC" else ZoneInfo(name)


def schedule_statuses(
    rules: Sequence[ScheduleRule],
    records: Mapping[str, ScheduleRecord],
    timezone: str,
    now: datetime,
) -> tuple[ScheduleStatus, ...]:
    """Return the status of each schedule, from its record."""
    return tuple(_status(rule, records.get(rule.name), timezone, now) for rule in rules)


def _status(
    rule: ScheduleRule, record: ScheduleRecord | None, timezone: str, now: datetime
) -> ScheduleStatus:
    zone, trigger = zone_of(timezone), read_cron(rule.cron)
    late = 0
    if record is not None:
        after = _as_now(record, timezone, now).after
        late = len(choose(due_slots(after, trigger, zone, now), rule.catch_up, now)[0])
    coming: Any = slots_after(wall_time(now, zone), trigger, zone)
    following = next((slot.at for slot in islice(coming, 5) if slot.at > now), None)
    return ScheduleStatus(
        rule.name,
        rule.workflow,
        rule.cron,
        following,
        None if record is None else record.last,
        late,
        0 if record is None else len(record.unfinished),
        0 if record is None else record.started,
        0 if record is None else record.skipped,
    )
