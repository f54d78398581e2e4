"""Which checkpoint is current once the current one is gone, and what the event says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def save(manager: CheckpointManager, *steps: str) -> list[str]:
    return [manager.save("job", step, {"step": step}) for step in steps]


REMOVALS: dict[str, Callable[[CheckpointManager, str], object]] = {
    "checkpoint.deleted": lambda m, c: m.delete("job", c),
    "checkpoint.purged": lambda m, c: m.delete("job", c, purge=True),
    "checkpoints.cleaned": lambda m, _: m.cleanup("job", 1),
}


@pytest.mark.parametrize("type_", REMOVALS)
@pytest.mark.parametrize("left", ["ba", "a", ""])
def test_when_the_current_one_goes_its_nearest_ancestor_that_is_left_is_current(
    root: Path, manager: CheckpointManager, type_: str, left: str
) -> None:
    a, b, c, other = save(manager, *"abcd")
    for ancestor, name in ((a, "a"), (b, "b")):
        if name in left:
            manager.pin("job", ancestor)
        else:
            manager.delete("job", ancestor)
    manager.restore("job", c)

    REMOVALS[type_](manager, c)

    expected = {"b": b, "a": a, "": other}[left[:1]]
    with CheckpointManager(root) as reopened:
        for each in (manager, reopened):
            current = each.current("job")
            assert current is not None
            assert current.checkpoint_id == expected
    event = next(e for e in manager.history("job", reverse=True) if e["type"] == type_)
    assert event["data"]["current"] == expected  # type: ignore[typeddict-item] # I2
    child = manager.get("job", save(manager, "e")[0]).info
    assert child.parent_id == expected


def test_an_event_names_the_current_one_only_if_that_is_another_now(
    manager: CheckpointManager,
) -> None:
    a, b, c = save(manager, *"abc")
    manager.delete("job", a)
    manager.delete("job", c)
    manager.undelete("job", a)
    manager.undelete("job", c)
    manager.delete("job", c)
    manager.delete("job", b)
    manager.delete("job", a)
    named = [e["data"].get("current", "-") for e in manager.history("job")][4:]
    assert named == ["-", b, "-", c, b, a, None]
