"""Run a program that is killed once it has said enough."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def killed(program: str, *words: object, after_lines: int) -> list[str]:
    """Run `program` until it has printed so many lines; kill it; return them."""
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", program, *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert child.stdout is not None
    with child:
        said = [child.stdout.readline().strip() for _ in range(after_lines)]
        child.kill()
        said += child.stdout.read().split()
    return said


def example(name: str, *words: object, ends: int = 0) -> list[str]:
    """Run an example of examples/adapters to its end; return what it printed."""
    done = subprocess.run(
        [sys.executable, f"examples/adapters/{name}.py", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ends, done.stdout + done.stderr
    return done.stdout.splitlines()


def page_runs(name: str) -> int:
    """Run the snippets of docs/adapters/NAME.md; return how many there are."""
    text = (ROOT / "docs" / "adapters" / f"{name}.md").read_text("utf-8")
    snippets = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    exec("".join(snippets), {})
    return len(snippets)
