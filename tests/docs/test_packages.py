"""The wheel and the sdist: their content, and a project that has the same names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

import milepost

ROOT = Path(__file__).parents[2]
# What is installed beside the tests, for want of a package index: all but Milepost.
DEPENDENCIES = next(p for p in sys.path if p.endswith("site-packages"))
SNIPPETS = "".join(
    re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
)
# A project whose modules have the names of Milepost's folders.
PROJECT = {
    "api.py": "MINE = 'api'\n",
    "worker/__init__.py": "MINE = 'worker'\n",
    "journal/__init__.py": "MINE = 'journal'\n",
    "main.py": f"""\
{SNIPPETS}
import api, journal, worker
from milepost.api import create_app

assert [m.MINE for m in (api, worker, journal)] == ["api", "worker", "journal"]
assert create_app(manager).title
""",
}


class Built(NamedTuple):
    """The archives: made from a checkout, and a wheel made from the sdist."""

    sdist: Path
    wheel: Path
    wheel_of_sdist: Path


def run(*command: object, cwd: Path, **environ: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**clean, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(folder: Path, *options: str) -> list[Path]:
    run(sys.executable, "-m", "hatchling", "build", *options, cwd=folder)
    return sorted((folder / "dist").iterdir())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    checkout = tmp_path_factory.mktemp("built") / "checkout"
    tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for name in tracked.split("\0")[:-1]:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, checkout / name, follow_symlinks=False)
    wheel, sdist = build(checkout)
    unpacked = checkout.with_name("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (wheel_of_sdist,) = build(next(unpacked.iterdir()), "-t", "wheel")
    return Built(sdist, wheel, wheel_of_sdist)


def members(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_of_the_sdist_equals_the_wheel_of_the_checkout(built: Built) -> None:
    assert members(built.wheel) == members(built.wheel_of_sdist)


def test_a_wheel_holds_milepost_and_nothing_else(built: Built) -> None:
    held = members(built.wheel)
    tops = {name.split("/")[0] for name in held}
    assert tops == {"milepost", f"milepost-{milepost.__version__}.dist-info"}
    for name in (
        "__init__",
        "__main__",
        "testing",
        "langgraph/saver",
        "journal/manager",
        "worker/service",
    ):
        assert f"milepost/{name}.py" in held
    assert {"milepost/py.typed", "milepost/api/page/index.html"} <= held.keys()


def test_an_sdist_holds_the_three_folders_and_no_link(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        found = archive.getmembers()
    assert all(member.isfile() for member in found)
    tops = {member.name.split("/")[1] for member in found}
    assert {"journal", "worker", "api", "milepost"} <= tops
    assert tops >= {"pyproject.toml", "README.md", "LICENSE"}
    assert not tops & {"tests", "docs", "demo", "benchmarks", "checkpoints"}


@pytest.mark.slow
@pytest.mark.parametrize("archive", ["wheel", "sdist"])
def test_milepost_is_installed_beside_packages_of_the_same_names(
    built: Built, tmp_path: Path, archive: str
) -> None:
    project = tmp_path / "project"
    for name, text in PROJECT.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    packages = next((tmp_path / "venv").glob("lib/*/site-packages"))
    (packages / "dependencies.pth").write_text(f"{DEPENDENCIES}\n")
    pip = ("-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation")
    run(python, *pip, getattr(built, archive), cwd=tmp_path)
    assert "checkpoint.restored" in run(python, "main.py", cwd=project)
    shown = f"milepost, version {milepost.__version__}\n"
    assert run(python, "-m", "milepost", "--version", cwd=project) == shown
    assert run(python.with_name("milepost"), "--version", cwd=project) == shown
    assert str(tmp_path) in run(
        python, "-c", "import milepost; print(milepost.__file__)", cwd=project
    )
