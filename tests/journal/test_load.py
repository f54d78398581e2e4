"""Going on from where a job was: `load`, and the latest checkpoint with its state."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from milepost import Checkpoint, CheckpointManager
from milepost.journal import errors

if TYPE_CHECKING:
    from tests.support.clock import Clock

README = Path(__file__).parents[2] / "README.md"


def test_load_returns_the_state_of_the_current_checkpoint_and_records_nothing(
    manager: CheckpointManager,
) -> None:
    first = manager.save("job", "a", {"n": 1})
    manager.save("job", "b", {"n": 2})
    assert manager.load("job") == {"n": 2}
    manager.restore("job", first)
    before = manager.history("job")
    assert manager.load("job") == {"n": 1}
    assert manager.load("job", default={"n": 0}) == {"n": 1}
    assert manager.history("job") == before


def test_load_returns_a_copy_of_the_default_while_there_is_no_checkpoint(
    manager: CheckpointManager,
) -> None:
    default: dict[str, Any] = {"done": [0]}
    state = manager.load("job", default)
    state["done"].append(1)
    assert default == {"done": [0]}
    assert manager.load("job", default=None) is None
    assert manager.job_ids() == []
    manager.delete("job", manager.save("job", "a", {}))
    assert manager.load("job", default=default) == default


def test_load_without_a_default_raises_what_restore_raises(
    manager: CheckpointManager,
) -> None:
    with pytest.raises(FileNotFoundError, match="not found: job 'job' has none") as got:
        manager.load("job")
    assert isinstance(got.value, errors.UnknownCheckpoint)
    assert got.value.code == "no_checkpoint"


def test_load_migrates_and_never_falls_back(
    root: Path, manager: CheckpointManager
) -> None:
    manager.save("job", "a", {"n": 1}, workflow_name="w")
    manager.register_migration("w", "1.0", "2.0", lambda state: {"m": state["n"]})
    assert manager.load("job") == {"m": 1}
    found = manager.latest("job", with_state=True)
    assert found is not None
    assert found.state == {"m": 1}
    manager.save("job", "b", {"secret": "omega"})
    journal = root / "journals" / "job.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"omega", b"0mega"))
    with CheckpointManager(root) as fresh, pytest.raises(errors.UnreadableState):
        fresh.load("job", default={})


def test_the_latest_checkpoint_comes_with_its_state_in_one_call(
    manager: CheckpointManager,
) -> None:
    assert manager.latest("job", with_state=True) is None
    first = manager.save("job", "a", {"n": 1})
    manager.save("job", "b", {"n": 2})
    manager.restore("job", first)
    info = manager.latest("job")
    assert info is not None
    assert manager.latest("job", with_state=True) == Checkpoint(info, {"n": 2})


class Killed(Exception):
    """The job died."""


def test_the_loop_of_the_readme_goes_on_where_it_was_killed(
    tmp_path: Path, clock: Clock
) -> None:
    found = re.search(
        r"```python\n(manager = .*?load\(.*?)```", README.read_text(), re.DOTALL
    )
    assert found is not None
    worked: list[int] = []

    def work(n: int) -> None:
        worked.append(n)
        if len(worked) == 58:
            raise Killed

    code = compile(found[1].replace("...  ", "work(n)  "), "README.md", "exec")
    names = {"CheckpointManager": CheckpointManager, "work": work}
    with contextlib.chdir(tmp_path):
        with pytest.raises(Killed):
            exec(code, {**names})
        exec(code, {**names})
        exec(code, {**names})
        with CheckpointManager(clock=clock) as manager:
            assert manager.load("etl") == {"done": 200}
            assert len(manager.list("etl")) == 200
    assert worked == [*range(58), *range(57, 200)]
