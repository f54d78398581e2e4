"""Assignment of policies to jobs, and predefined policies.  Pure."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from milepost.journal.retention.policy import Policy

PRESETS: dict[str, dict[str, Any]] = {
    # Grandfather-father-son rotation.
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

    `completed`, if set, applies to completed jobs.
    """

    pattern: str
    policy: Policy
    completed: Policy | None = None


class Policies(NamedTuple):
    """Policies by job: the first match applies, else the default.

    The pattern of the default is ignored.
    """

    default: Match = Match("*", KEEP_ALL)
    matches: tuple[Match, ...] = ()

    def match_of(self, job_id: str) -> Match:
        """Return the first match of `job_id`, else the default."""
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
