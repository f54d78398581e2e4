"""Migrations: a state of an older workflow version comes back as the newest has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager
from milepost.api.http.app import create_app
from milepost.journal import errors
from tests.support.client import client_of
from tests.support.faults import journal_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FLOW = "orders"


def first(state: dict[str, Any]) -> dict[str, Any]:
    return {"rows": state["rows"], "way": [*state.get("way", []), "1.1"]}


def second(state: dict[str, Any]) -> dict[str, Any]:
    state["way"].append("1.10")  # in place: it is the migration's own copy
    return state


def save(manager: CheckpointManager, version: str | None, name: str = FLOW) -> str:
    return manager.save(
        "job", "a", {"rows": 1}, workflow_name=name, workflow_version=version
    )


@pytest.fixture
def migrating(manager: CheckpointManager) -> CheckpointManager:
    """A manager that knows how to get from 1.0 by 1.1 to 1.10."""
    manager.register_migration(FLOW, "1.0", "1.1", first)
    manager.register_migration(FLOW, "1.1", "1.10", second)
    return manager


@pytest.mark.parametrize(
    ("version", "way"), [("1.0", ["1.1", "1.10"]), ("1.10", None)], ids=str
)
def test_a_state_passes_every_version_up_to_the_newest(
    migrating: CheckpointManager, version: str, way: list[str] | None
) -> None:
    saved = save(migrating, version)
    expected = {"rows": 1} if way is None else {"rows": 1, "way": way}
    assert migrating.get("job", saved).state == expected
    assert migrating.restore("job", saved) == expected


def test_a_chain_that_was_registered_backwards_is_the_same_chain(
    manager: CheckpointManager,
) -> None:
    manager.register_migration(FLOW, "1.1", "1.10", second)
    manager.register_migration(FLOW, "1.0", "1.1", first)
    assert manager.restore("job", save(manager, "1.0"))["way"] == ["1.1", "1.10"]


def test_the_record_says_from_and_to_and_the_stored_state_is_untouched(
    migrating: CheckpointManager, root: Path
) -> None:
    saved = save(migrating, "1.0")
    before = journal_of(root, "job").read_bytes()
    migrating.get("job", saved)
    assert journal_of(root, "job").read_bytes() == before
    migrating.restore("job", saved)
    data = migrating.history("job")[-1]["data"]
    assert data == {
        "checkpoint_id": saved,
        "previous": saved,
        "migrated_from": "1.0",
        "migrated_to": "1.10",
    }
    with CheckpointManager(root) as plain:
        assert plain.get("job", saved).state == {"rows": 1}
        assert plain.list("job")[0].workflow_version == "1.0"
    assert migrating.state_at("job", 2) == {"rows": 1}


@pytest.mark.parametrize(
    ("name", "version"), [(FLOW, "1.10"), ("other", "0.1"), (None, "1.0")], ids=str
)
def test_what_needs_no_migration_is_restored_without_a_word_about_any(
    migrating: CheckpointManager, name: str | None, version: str
) -> None:
    saved = migrating.save(
        "job", "a", {"rows": 1}, workflow_name=name, workflow_version=version
    )
    assert migrating.restore("job", saved) == {"rows": 1}
    assert migrating.history("job")[-1]["data"] == {
        "checkpoint_id": saved,
        "previous": saved,
    }


def test_what_a_migration_keeps_a_hand_on_is_not_what_is_handed_out(
    manager: CheckpointManager,
) -> None:
    kept: dict[str, Any] = {"list": []}
    manager.register_migration(FLOW, "1", "2", lambda _: kept)
    saved = save(manager, "1")
    manager.restore("job", saved)["list"].append(1)
    assert manager.restore("job", saved) == {"list": []}


def raises(_: dict[str, Any]) -> dict[str, Any]:
    raise LookupError("no\nrows")


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "raises": (raises, r"LookupError: no\\nrows"),
    "returns nothing": (lambda _: None, "must be a dict, got NoneType"),
    "returns what JSON cannot hold": (lambda s: {"a": {1, 2}, **s}, r"\$\.a"),
    "returns what would come back changed": (lambda _: {"t": (1,)}, r"\$\.t"),
    "returns NaN": (lambda _: {"n": float("nan")}, r"\$\.n"),
}


@pytest.mark.parametrize(("broken", "why"), BROKEN.values(), ids=BROKEN)
def test_a_broken_migration_names_itself_and_records_nothing(
    manager: CheckpointManager, broken: Callable[[dict[str, Any]], Any], why: str
) -> None:
    manager.register_migration(FLOW, "1.0", "1.1", first)
    manager.register_migration(FLOW, "1.1", "1.2", broken)
    saved, seq = save(manager, "1.0"), manager.seq("job")
    for call in (manager.restore, manager.get):
        with pytest.raises(errors.MigrationFailed, match=why) as caught:
            call("job", saved)
        assert isinstance(caught.value, ValueError)
        assert str(caught.value).isprintable()
        assert caught.value.code == "migration_failed"
        assert caught.value.details == {
            "workflow": FLOW,
            "from_version": "1.1",
            "to_version": "1.2",
            "checkpoint_id": saved,
        }
        assert f"'{FLOW}' from '1.1' to '1.2' failed" in str(caught.value)
        assert saved in str(caught.value)
    assert manager.seq("job") == seq


@pytest.mark.parametrize("version", ["0.9", "1.5", "1.10.0", "beta"])
def test_a_version_that_no_migration_knows_is_refused_with_those_that_are_known(
    migrating: CheckpointManager, version: str
) -> None:
    saved, seq = save(migrating, version), migrating.seq("job")
    with pytest.raises(errors.NoMigration, match=r"'1\.0', '1\.1', '1\.10'") as caught:
        migrating.restore("job", saved)
    assert (caught.value.code, caught.value.version) == ("no_migration", version)
    assert caught.value.known == ("1.0", "1.1", "1.10")
    assert migrating.seq("job") == seq


@pytest.mark.parametrize("version", ["1.10.1", "1.11", "2", "10.0"])
def test_a_state_from_the_future_is_told_from_one_without_a_migration(
    migrating: CheckpointManager, version: str
) -> None:
    saved, seq = save(migrating, version), migrating.seq("job")
    with pytest.raises(errors.NewerState, match="newer than this program") as caught:
        migrating.restore("job", saved)
    assert caught.value.code == "newer_state"
    assert migrating.seq("job") == seq


def test_numbers_are_compared_as_numbers(manager: CheckpointManager) -> None:
    manager.register_migration(FLOW, "1.9", "1.10", first)
    with pytest.raises(errors.NoMigration) as caught:  # 1.2 is older, "1.2" > "1.10"
        manager.restore("job", save(manager, "1.2"))
    assert caught.value.code == "no_migration"
    assert caught.value.known == ("1.9", "1.10")


REFUSED = {
    "a second one from one version": ("1.0", "1.2", "one from it to"),
    "a cycle": ("1.10", "1.0", "make a cycle"),
    "a cycle of one": ("2.0", "2.0", "make a cycle"),
    "a second end": ("3.0", "3.1", "two newest versions, '1.10' and '3.1'"),
    "no version": ("", "1.1", "from_version"),
}


@pytest.mark.parametrize(("old", "new", "why"), REFUSED.values(), ids=REFUSED)
def test_what_would_make_the_way_ambiguous_is_refused_when_it_is_registered(
    migrating: CheckpointManager, old: str, new: str, why: str
) -> None:
    with pytest.raises(errors.InvalidArgument, match=why):
        migrating.register_migration(FLOW, old, new, first)
    assert migrating.restore("job", save(migrating, "1.0"))["way"] == ["1.1", "1.10"]


def test_two_workflows_may_end_at_two_versions(migrating: CheckpointManager) -> None:
    migrating.register_migration("other", "3.0", "3.1", first)
    assert migrating.restore("job", save(migrating, "3.0", "other"))["way"] == ["1.1"]


def test_a_migration_must_be_a_function(manager: CheckpointManager) -> None:
    no_function: Any = {"rows": 1}
    with pytest.raises(errors.InvalidArgument, match="a function, got dict"):
        manager.register_migration(FLOW, "1", "2", no_function)


@pytest.mark.parametrize(
    ("version", "code"),
    [("1.0", "migration_failed"), ("0.1", "no_migration"), ("9", "newer_state")],
    ids=str,
)
def test_over_http_a_failed_migration_has_a_code_and_says_why(
    manager: CheckpointManager, version: str, code: str
) -> None:
    manager.register_migration(FLOW, "1.0", "1.1", raises)
    saved, seq = save(manager, version), manager.seq("job")
    client = client_of(create_app(manager))
    path = f"/api/checkpoints/{saved}"
    for answer in (client.get(path), client.post(f"{path}/restore")):
        assert (answer.status_code, answer.json()["code"]) == (500, code)
        assert f"'{FLOW}'" in answer.json()["detail"]
        assert answer.json()["details"]["checkpoint_id"] == saved
    assert manager.seq("job") == seq


def test_over_http_a_state_is_migrated_too(migrating: CheckpointManager) -> None:
    saved = save(migrating, "1.0")
    client = client_of(create_app(migrating))
    state = {"rows": 1, "way": ["1.1", "1.10"]}
    path = f"/api/checkpoints/{saved}"
    assert client.get(path).json()["state_snapshot"] == state
    assert client.post(f"{path}/restore").json()["state"] == state
