"""The examples of docs/types.md run, and FORMAT.md lists every built-in type."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from milepost.journal.states.kinds import BUILT_IN, NUMPY

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "types.md").read_text()
FORMAT = (ROOT / "FORMAT.md").read_text()


def test_the_examples_run_one_after_the_other(tmp_path: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    script = tmp_path / "script.py"
    script.write_text("".join(examples))
    run = [sys.executable, script]
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    subprocess.run(run, cwd=tmp_path, check=True, env=env)
    assert len(examples) == 2


def test_the_format_page_lists_every_built_in_type() -> None:
    table = FORMAT.partition("## Typed values")[2].partition("\n## ")[0]
    listed = {
        name
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)[1:]
        for name in re.findall(r"`([^`]+)`", row.partition(" (")[0])
    }
    assert listed == {kind.name for kind in (*BUILT_IN.values(), *NUMPY)}
