"""`milepost webhooks`: the recent deliveries, as the store records them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost import CheckpointManager
from milepost.worker.webhooks.outbox import Outbox, Sent, Waiting, store_names
from milepost.worker.webhooks.sender import Outcome
from tests.support.cli import JOB, call

if TYPE_CHECKING:
    from pathlib import Path


def test_webhooks_lists_deliveries_newest_first(store: Path) -> None:
    with CheckpointManager(store) as manager:
        store_names(manager.storage, ["ops", "chat"])
        for at, name, status in (("1", "ops", 200), ("2", "chat", 500)):
            box = Outbox(manager.storage, name, is_new=True)
            box.add({JOB: Waiting(0, 2)}, at)
            box.settle(
                Sent(f"id-{name}", "checkpoint.saved", JOB, 2),
                Outcome(status, None if status == 200 else "HTTP 500"),
                max_attempts=3,
                retry_at=lambda _: 0.0,
                at=at,
            )

    done = call("webhooks")

    assert [row[1:3] for row in done.rows] == [
        ["chat", "retrying"],
        ["ops", "delivered"],
    ]
    assert call("webhooks", "--name", "ops", "--json").json["data"]["total"] == 1
    assert len(call("webhooks", "--limit", "1").rows) == 1
    assert call("webhooks", "--name", "none", "--fail-if-empty").code == 8
