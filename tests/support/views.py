"""A whole view as plain values, to compare two folds of one job."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milepost.journal.index.job_view import JobView


def whole(view: JobView) -> dict[str, Any]:
    """Return all that a view says; the order of what is walked counts."""
    live = [*view.checkpoints.after(0)]
    assert [*view.checkpoints.newest_first()] == live[::-1]
    assert len(view.checkpoints) == len(live)
    for entry in live:
        assert view.checkpoints[entry.checkpoint_id] is entry
    assert view.latest is (live[-1] if live else None)
    assert view.current is None or view.current in live
    known = view.workflows
    for step_id, step in known.steps.items():
        assert any(step is s for s in known.executions[step.execution_id].steps)
        assert step.checkpoint_id == step_id
    assert all(known.executions[name] is each for name, each in known.live.items())
    said = {name: getattr(view, name) for name in view.__slots__}
    said |= {
        "checkpoints": live,
        "sizes": view.sizes.columns,
        "lineage": [view.lineage.tip, view.lineage.branches()],
        "leads": [
            view.lineage.leads(a.seq, b.seq) for a in live[-5:] for b in live[:5]
        ],
        "entry_keys": view.entry_keys and sorted(batched(view.entry_keys.packed())),
        "answered": [*view.answered.items()],
        "shared": {entry.step_name for entry in live} <= {*view.shared},
    }
    return {name: plain(value) for name, value in said.items()}


def batched(packed: bytes) -> list[bytes]:
    return [packed[at : at + 16] for at in range(0, len(packed), 16)]


def plain(value: Any) -> Any:  # noqa: PLR0911 - one case per kind, like a table
    """Return a value as plain ones, each with its kind."""
    match value:
        case str() | bytes() | int() | float() | None:
            return value
        case dict():
            return {key: plain(each) for key, each in value.items()}
        case set() | frozenset():
            return [type(value).__name__, *sorted(value)]
        case datetime():
            return [value.isoformat()]
        case list() | tuple():
            return [type(value).__name__, *map(plain, value)]
    if isinstance(slots := getattr(type(value), "__slots__", None), tuple):
        return {name: plain(getattr(value, name)) for name in slots}
    return [type(value).__name__, *value]
