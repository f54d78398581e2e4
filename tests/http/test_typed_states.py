"""Typed values over HTTP and on the command line: the tagged JSON, unchanged."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, Types
from milepost.api import create_app
from tests.support.cli import call
from tests.support.client import client_of

if TYPE_CHECKING:
    from pathlib import Path

STATE = {"at": datetime(2026, 11, 23, 5, tzinfo=UTC), "ids": {1, 2}, "p": {3: (4,)}}


@pytest.mark.parametrize("types", [None, Types()], ids=["plain", "typed"])
def test_the_api_shows_and_takes_the_stored_form(root: Path, types: Any) -> None:
    with CheckpointManager(root, types=types) as manager:
        client = client_of(create_app(manager))
        saved = manager.save("etl", "load", STATE, types=Types())
        stored = Types().encode(STATE)
        shown = client.get(f"/api/checkpoints/{saved}").json()["state_snapshot"]
        assert shown == stored
        body = {"job_id": "copy", "step_name": "load", "state": shown}
        assert client.post("/api/checkpoints", json=body).status_code == 201
        assert manager.load("copy", types=Types()) == STATE
        restored = client.post(f"/api/checkpoints/{saved}/restore")
        assert restored.json()["state"] == stored


def test_the_command_line_shows_the_stored_form(folder: Path) -> None:
    with CheckpointManager(folder / "checkpoints", types=Types()) as manager:
        manager.save("etl", "load", STATE)
    stored = Types().encode(STATE)
    assert call("restore", "etl", "--json").json["data"]["state"] == stored
    lines = [json.loads(line) for line in call("cat", "etl").out.splitlines()]
    assert [line["state"] for line in lines if "state" in line] == [stored]
