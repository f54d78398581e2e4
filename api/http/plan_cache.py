"""Cache of previewed plans, so that they can be applied exactly as shown."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from milepost.journal.errors import MilepostError

if TYPE_CHECKING:
    from milepost.journal.retention.plans import Plan


class UnknownPlan(MilepostError):
    """This process has not shown the plan, or has evicted it since."""

    code = "not_found"


class PlanShelf:
    """The last shown plans.  Thread-safe; bounded in plans and in verdicts.

    The oldest are evicted first; the newest always stays.  Plans are in the memory of
    one process: after a restart a client previews again and gets the same plan id if
    nothing has changed.
    """

    def __init__(self, *, plans_max: int = 64, verdicts_max: int = 1_000_000) -> None:
        self._plans_max = plans_max
        self._verdicts_max = verdicts_max
        self._plans: OrderedDict[str, Plan] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, plan: Plan) -> None:
        """Keep `plan` under its id."""
        with self._lock:
            self._plans.pop(plan.plan_id, None)
            self._plans[plan.plan_id] = plan
            while len(self._plans) > 1 and self._is_full():
                self._plans.popitem(last=False)

    def take(self, plan_id: str) -> Plan:
        """Return the plan with that id; it stays in the cache.

        Raises:
            UnknownPlan: it is not in the cache.
        """
        with self._lock:
            plan = self._plans.get(plan_id)
        if plan is None:
            raise UnknownPlan(
                f"plan {plan_id!r:.60} not found: this server has not shown it, or too "
                "long ago",
                hint="preview again",
            )
        return plan

    def _is_full(self) -> bool:
        held = sum(
            len(job.keep) + len(job.remove)
            for plan in self._plans.values()
            for job in plan.jobs
        )
        return len(self._plans) > self._plans_max or held > self._verdicts_max
