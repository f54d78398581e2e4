"""Plans shown by dry runs, kept in the store so that they can be applied.

`<root>/worker/plans/<plan id>.json` has the output of the dry run.  A plan that is not
kept (evicted, or the store is read-only) is made again, and has the same id only if
nothing has changed.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Any

import orjson

from milepost.api.fields.plans import plan_fields
from milepost.journal.clock import moment
from milepost.journal.disk import whole_file
from milepost.journal.disk.disk import PosixDisk
from milepost.journal.errors import StalePlan
from milepost.journal.reading.planning import cleanup_policy
from milepost.journal.retention.decisions import Verdict
from milepost.journal.retention.plans import JobPlan, Plan, plan_id, plan_of
from milepost.journal.retention.policy import policy_hash

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from milepost.journal.manager import CheckpointManager

_PLANS_MAX = 64
_VERDICTS_MAX = 100_000
_MAX_BYTES = 1 << 27
_PLAN_ID = re.compile(r"[0-9a-f]{16}")


def remember(root: Path, plan: Plan) -> None:
    """Keep `plan` for `recall`, if it removes anything and the store is writable."""
    size = len(plan.keep) + len(plan.remove)
    if not plan.remove or size > _VERDICTS_MAX:
        return
    folder = root / "worker" / "plans"
    path = folder / f"{plan.plan_id}.json"
    draft = folder / f".{plan.plan_id}.{os.urandom(4).hex()}"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        raw = orjson.dumps(plan_fields(plan))
        whole_file.replace(PosixDisk(), draft, path, [raw])
        _forget_oldest(folder)


def recall(
    manager: CheckpointManager, wanted: str, keep_last: int | None
) -> Plan | None:
    """Return the plan that a dry run showed under this id, or None.

    Args:
        manager: the manager of the store.
        wanted: the plan id.
        keep_last: of `--keep-last`; None for each job's policy.

    Raises:
        StalePlan: the policy of one of its jobs has changed.
    """
    fields = _read(manager, wanted)
    if fields is None:
        return None
    as_of = fields.get("as_of") and moment(fields["as_of"])
    jobs = tuple(_job_plan(manager, keep_last, as_of, job) for job in fields["jobs"])
    # An edited file is not a plan that was shown.
    return plan_of(jobs) if plan_id(jobs) == wanted else None


def _read(manager: CheckpointManager, wanted: str) -> dict[str, Any] | None:
    if manager.root is None or not _PLAN_ID.fullmatch(wanted):
        return None
    path = manager.root / "worker" / "plans" / f"{wanted}.json"
    with contextlib.suppress(OSError, ValueError):
        fields = orjson.loads(whole_file.read(PosixDisk(), path, _MAX_BYTES))
        return fields if isinstance(fields, dict) else None
    return None


def _job_plan(
    manager: CheckpointManager,
    keep_last: int | None,
    as_of: datetime | None,
    job: dict[str, Any],
) -> JobPlan:
    job_id = job["job_id"]
    if keep_last is not None:
        own = cleanup_policy(keep_last)
    else:
        found = manager.job(job_id)
        is_completed = found is not None and found.completed_at is not None
        own = manager.policies.policy_of(job_id, is_completed=is_completed)
    if policy_hash(own) != job["policy"]["hash"]:
        raise StalePlan(
            f"the policy of job {job_id!r} has changed since the plan was made"
        )
    return JobPlan(
        job_id,
        own,
        job["head_seq"],
        job["head_hash"],
        tuple(map(_verdict, job["keep"])),
        tuple(map(_verdict, job["remove"])),
        tuple(job["waits"]),
        is_callers=keep_last is not None,
        idle_rules=tuple(job["idle_rules"]),
        as_of=as_of,
    )


def _verdict(fields: dict[str, Any]) -> Verdict:
    return Verdict(
        fields["checkpoint_id"],
        fields["seq"],
        tuple(fields["reasons"]),
        moment(fields["timestamp"]),
        fields["stored_bytes"],
    )


def _forget_oldest(folder: Path) -> None:
    plans = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    for path in plans[:-_PLANS_MAX]:
        path.unlink(missing_ok=True)
