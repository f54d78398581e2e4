"""Retention rules that match nothing in the store."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from milepost.journal.errors import MilepostError
from milepost.journal.wording import counted

if TYPE_CHECKING:
    from milepost.journal.manager import CheckpointManager
    from milepost.journal.models import JobInfo
    from milepost.worker.config.retention import RetentionSettings

_SHOWN_MAX = 20


def idle_retention(
    manager: CheckpointManager, settings: RetentionSettings
) -> list[str]:
    """Return a line for each rule that applies to no job or keeps no checkpoint."""
    jobs = [*manager.jobs()]
    lines = [*_unreached(jobs, settings)]
    for job in jobs:
        try:
            idle = manager.idle_rules(job.job_id)
        except MilepostError:
            continue  # `milepost doctor` reports the damage
        lines += [f"job {job.job_id}: {line}" for line in idle]
    return shown_idle(lines, _SHOWN_MAX)


def shown_idle(lines: list[str], most: int) -> list[str]:
    """Return at most `most` of the lines, and a hint if one applies."""
    shown = lines[:most]
    if more := len(lines) - len(shown):
        shown.append(f"and {counted(more, 'more rule')} without a match")
    if any("keep_best: " in line and " is text in " in line for line in lines):
        shown.append("to save a number: `milepost save --meta KEY:=NUMBER`")
    return shown


def _unreached(jobs: list[JobInfo], settings: RetentionSettings) -> list[str]:
    """Return a line for each `[[retention.rule]]` that applies to no job."""
    lines = []
    patterns = [rule.match for rule in settings.rule]
    for place, pattern in enumerate(patterns):
        before = patterns[:place]
        # If an earlier glob matches this glob as text, it matches all of its jobs.
        covering = next((b for b in before if fnmatchcase(pattern, b)), None)
        matching = [job.job_id for job in jobs if fnmatchcase(job.job_id, pattern)]
        left = [job for job in matching if not any(fnmatchcase(job, b) for b in before)]
        name = f"retention.rule[{place}] match = {pattern!r}"
        if covering is not None:
            why = f"comes after match = {covering!r}, which matches all of its jobs"
            lines.append(f"{name} {why}: the first rule that matches decides")
        elif jobs and not matching:
            lines.append(f"{name} matches none of {counted(len(jobs), 'job')}")
        elif matching and not left:
            why = f"earlier rules match all of its {counted(len(matching), 'job')}"
            lines.append(f"{name} is never used: {why}")
    return lines
