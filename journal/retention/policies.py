"""Which job has which policy, and policies that have a name of their own.  Pure."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from milepost.journal.retention.policy import Policy

PRESETS: dict[str, dict[str, Any]] = {
    # Grandfather, father, son.
    "gfs": {
        "keep_daily": 7,
        "keep_weekly": 4,
        "keep_monthly": 12,
        "keep_yearly": 3,
    },
}

KEEP_ALL = Policy(name="keep everything")


class Match(NamedTuple):
    """The policies of the jobs whose id matches a glob.

    `completed` is in force once such a job is complete, if it is given.
    """

    pattern: str
    policy: Policy
    completed: Policy | None = None


class Policies(NamedTuple):
    """Which job has which policy: the first match decides, else the default.

    The default is a `Match` too; its pattern means nothing.
    """

    default: Match = Match("*", KEEP_ALL)
    matches: tuple[Match, ...] = ()

    def match_of(self, job_id: str) -> Match:
        """Return what decides about `job_id`."""
        for match in self.matches:
            if fnmatchcase(job_id, match.pattern):
                return match
        return self.default

    def policy_of(self, job_id: str, *, is_completed: bool = False) -> Policy:
        """Return the policy of `job_id`."""
        match = self.match_of(job_id)
        if is_completed and match.completed is not None:
            return match.completed
        return match.policy
