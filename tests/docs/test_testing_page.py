"""The test of docs/testing.md passes, and fails where a step runs twice."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
(EXAMPLE,) = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "testing.md").read_text(), re.DOTALL
)


@pytest.mark.parametrize(
    ("source", "passes"),
    [(EXAMPLE, True), (EXAMPLE.replace('"step.completed", 2', '"no", 2'), False)],
    ids=["as it stands", "without a crash"],
)
def test_the_example_is_a_test(tmp_path: Path, source: str, *, passes: bool) -> None:
    (tmp_path / "test_orders.py").write_text(source)
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path]
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        run, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) == passes, done.stdout
