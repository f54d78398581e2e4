"""Assignment of policies to jobs, and predefined policies.  Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from milepost.journal.retention.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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


class InForce(NamedTuple):
    """A policy, the jobs that it applies to, and the origin of each value.

    Attributes:
        match: the glob of its jobs; ``*`` for the default.
        is_completed: it applies to completed jobs only.
        is_dry: scheduled runs only report what they would remove.
        origins: by field of the policy; a field that is missing has its default.
    """

    match: str
    policy: Policy
    is_completed: bool = False
    is_dry: bool = False
    origins: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Match:
    """The policies of the jobs whose id matches a glob.

    `completed`, if set, applies to completed jobs.  See `InForce` for the rest.
    Two matches are equal whatever the origins of their values.
    """

    pattern: str
    policy: Policy
    completed: Policy | None = None
    is_dry: bool = False
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)
    completed_origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    def in_force(self) -> Iterator[InForce]:
        """Yield the policy of running jobs, then that of completed jobs if set."""
        yield InForce(
            self.pattern, self.policy, is_dry=self.is_dry, origins=self.origins
        )
        if self.completed is not None:
            yield InForce(
                self.pattern,
                self.completed,
                is_completed=True,
                is_dry=self.is_dry,
                origins=self.completed_origins,
            )


class Policies(NamedTuple):
    """Policies by job: the first match applies, else the default.

    The pattern of the default is ignored.
    """

    default: Match = Match("*", KEEP_ALL)
    matches: tuple[Match, ...] = ()

    def in_force(self, job_id: str, *, is_completed: bool = False) -> InForce:
        """Return the policy of `job_id` with its origins.

        The first match applies, else the default.
        """
        match = next(
            (m for m in self.matches if fnmatchcase(job_id, m.pattern)), self.default
        )
        running, *completed = match.in_force()
        return completed[0] if is_completed and completed else running

    def policy_of(self, job_id: str, *, is_completed: bool = False) -> Policy:
        """Return the policy of `job_id`."""
        return self.in_force(job_id, is_completed=is_completed).policy

    def all_in_force(self) -> Iterator[InForce]:
        """Yield every policy, in the order of precedence."""
        for match in (*self.matches, self.default):
            yield from match.in_force()
