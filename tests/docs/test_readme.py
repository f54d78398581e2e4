"""Every command and snippet in README.md runs."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a working folder in which README's Python snippets have run."""
    names: dict[str, Any] = {}
    with contextlib.chdir(tmp_path), contextlib.redirect_stdout(io.StringIO()) as out:
        for snippet in blocks("python"):
            exec(compile(snippet, "README.md", "exec"), names)
    assert "extract" in out.getvalue()
    assert "checkpoint.restored" in out.getvalue()
    names["manager"].close()
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [BIN / "milepost", "serve", "--port", str(port)]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert any("serving" in line for line in process.stderr)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_every_shell_block_runs_and_no_curl_gets_an_error(
    folder: Path, server: str
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    for block in blocks("sh"):
        script = block.replace("127.0.0.1:8080", server).replace(
            "curl -s", "curl -sS --fail-with-body"
        )
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_endpoints_named_in_the_text_answer(server: str) -> None:
    for path in ("/api/jobs", "/api/events?job_id=orders", "/healthz", "/readyz"):
        assert path.split("?")[0] in README
        with urllib.request.urlopen(f"http://{server}{path}") as answer:
            assert answer.status == 200


@pytest.mark.slow
def test_what_is_installed_elsewhere_runs_every_snippet(tmp_path: Path) -> None:
    checkout = tmp_path / "milepost"
    tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for name in tracked.split("\0")[:-1]:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, checkout / name, follow_symlinks=False)
    (install,) = blocks("bash")
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    snippets = f"venv/bin/python - <<'X'\n{''.join(blocks('python'))}X\n"
    for script, shown in ((install, "milepost, version"), (snippets, ".restored")):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert shown in done.stdout


def test_the_make_targets_exist() -> None:
    for line in "".join(blocks("console")).splitlines():
        target = line.split()[2]
        done = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, check=False
        )
        assert done.returncode == 0, target


def test_every_link_in_the_documents_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md"), ROOT / "ARCHITECTURE.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
