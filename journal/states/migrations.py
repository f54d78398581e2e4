"""Migrations of states from older workflow versions to the newest.  Pure.

Stored states never change; a state is migrated on each read.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from milepost.journal import ids
from milepost.journal.errors import (
    InvalidArgument,
    InvalidState,
    MigrationFailed,
    NewerState,
    NoMigration,
)
from milepost.journal.states import json_states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Migrate = Callable[[dict[str, Any]], dict[str, Any]]

# A migrated state may be as large as any saved one.
_ANY_SIZE = json_states.Limits(sys.maxsize, json_states.DEPTH_LIMIT)
_DOTTED = re.compile(r"[0-9]+(\.[0-9]+)*")


class Migration(NamedTuple):
    """One migration: its target version and its function."""

    to_version: str
    migrate: Migrate


class Migrated(NamedTuple):
    """A state, and the versions it was migrated from and to; None if unchanged."""

    state: dict[str, Any]
    from_version: str | None = None
    to_version: str | None = None


class Migrations:
    """The migrations of each workflow: a tree of versions with the newest as its root.

    Only one thread at a time may add; reading is safe at any time.
    """

    def __init__(self) -> None:
        self._steps: dict[str, Mapping[str, Migration]] = {}

    def add(
        self, workflow: str, from_version: str, to_version: str, migrate: Migrate
    ) -> None:
        """Add one migration; all of a workflow must lead to one version.

        Raises:
            InvalidArgument: a second migration from this version, a cycle, or two
                newest versions; nothing is added.
        """
        ids.check_label("workflow_name", workflow)
        ids.check_label("from_version", from_version)
        ids.check_label("to_version", to_version)
        known = self._steps.get(workflow, {})
        what = f"migration of {workflow!r} from {from_version!r} to {to_version!r}"
        if from_version in known:
            other = known[from_version].to_version
            raise InvalidArgument(f"{what}: one from it to {other!r} already exists")
        if from_version in (to_version, *_way(known, to_version)):
            raise InvalidArgument(f"{what}: it would make a cycle")
        steps = {**known, from_version: Migration(to_version, migrate)}
        if len(ends := _ends(steps)) > 1:
            raise InvalidArgument(
                f"{what}: there would be two newest versions, "
                + " and ".join(map(repr, ends)),
                hint="add migrations in the order of their versions",
            )
        self._steps[workflow] = steps

    def apply(
        self,
        state: dict[str, Any],
        *,
        workflow: str | None,
        version: str,
        checkpoint_id: str,
    ) -> Migrated:
        """Return `state` migrated to the newest version of its workflow.

        It is unchanged if the workflow has no migrations.

        Raises:
            NewerState: its version is newer than all versions of the migrations.
            NoMigration: no migration leads from its version to the newest.
            MigrationFailed: a migration raised, or returned an invalid state.
        """
        steps = {} if workflow is None else self._steps.get(workflow, {})
        if workflow is None or not steps:
            return Migrated(state)
        (newest,) = _ends(steps)
        if version == newest:
            return Migrated(state)
        if version not in steps:
            raise _no_way(workflow, version, steps, checkpoint_id)
        at = version
        while (step := steps.get(at)) is not None:
            state = _run(step, state, (workflow, at, step.to_version, checkpoint_id))
            at = step.to_version
        return Migrated(state, version, at)


def _way(steps: Mapping[str, Migration], version: str) -> list[str]:
    """Return the versions on the way from `version` to the newest, without it."""
    way: list[str] = []
    while (step := steps.get(version)) is not None:
        version = step.to_version
        way.append(version)
    return way


def _ends(steps: Mapping[str, Migration]) -> list[str]:
    """Return the versions without a migration of their own."""
    return sorted({step.to_version for step in steps.values()} - steps.keys())


def _run(
    step: Migration, state: dict[str, Any], what: tuple[str, str, str, str]
) -> dict[str, Any]:
    try:
        # The result is a copy, so the function cannot change it later.
        raw = json_states.to_json(step.migrate(state), _ANY_SIZE)
    except InvalidState as exc:
        raise MigrationFailed(*what, f"it returned an invalid state, {exc}") from exc
    except Exception as exc:
        raise MigrationFailed(*what, f"{type(exc).__name__}: {exc}") from exc
    migrated: dict[str, Any] = orjson.loads(raw)
    return migrated


def _no_way(
    workflow: str, version: str, steps: Mapping[str, Migration], checkpoint_id: str
) -> NewerState | NoMigration:
    known = _in_order({*steps, *(step.to_version for step in steps.values())})
    numbers = [number for name in known if (number := _number(name)) is not None]
    own = _number(version)
    if own is not None and numbers and own > max(numbers):
        return NewerState(workflow, version, known, checkpoint_id)
    return NoMigration(workflow, version, known, checkpoint_id)


def _in_order(versions: Iterable[str]) -> list[str]:
    """Return `versions` in numeric order: 1.9, 1.10, then those without numbers."""
    return sorted(versions, key=lambda v: (_number(v) is None, _number(v) or (), v))


def _number(version: str) -> tuple[int, ...] | None:
    """Return a dotted number as a comparable tuple, None if it is not a number.

    1.10 is above 1.9, and 1 equals 1.0.
    """
    if _DOTTED.fullmatch(version) is None:
        return None
    parts = [int(part) for part in version.split(".")]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)
