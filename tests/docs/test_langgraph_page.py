"""The programs of docs/langgraph.md run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "langgraph.md").read_text("utf-8")
FIRST, SERVER = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

pytest.importorskip("langgraph.graph", reason="needs milepost[langgraph]")


def run(folder: Path, source: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_change_of_one_line_works_and_another_process_goes_on(
    tmp_path: Path,
) -> None:
    assert "'answer': 'WHERE TO?'" in run(tmp_path, FIRST)
    look = FIRST.replace("print(graph", "print(graph.get_state(config).values) #")
    assert "'answer': 'WHERE TO?'" in run(tmp_path, look)


def test_a_server_opens_the_saver_of_the_page(tmp_path: Path) -> None:
    use = """
import asyncio

async def main():
    async with open_saver() as saver:
        print([each async for each in saver.alist(None)])

asyncio.run(main())
"""
    assert run(tmp_path, SERVER + use) == "[]\n"
