"""The kernel's own power cut, under a writer: what was answered is there afterwards.

`power_cut.py` is the rig.  It needs root, and a kernel with loop devices, ext4 and XFS;
where it has none, the skip says so, and tests/crash cuts the power of a simulated disk.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.tally import Tally

RIG = Path(__file__).parent / "power_cut.py"
KINDS = {"ext4": (["mkfs.ext4", "-q", "-F"], 64), "xfs": (["mkfs.xfs", "-q"], 320)}
SLOW = pytest.mark.slow


def make_image(kind: str, folder: Path) -> Path:
    """Return a fresh file system in a file, with nothing in it."""
    command, megabytes = KINDS[kind]
    image = folder / f"{kind}.image"
    with image.open("wb") as file:
        file.truncate(megabytes * 2**20)
    subprocess.run([*command, image], check=True, capture_output=True)
    return image


@cache
def what_is_missing(kind: str, folder: Path) -> str:
    """Return why the power of such a file system cannot be cut here; "" if it can."""
    if os.getuid() != 0:
        return "this kernel lets only root mount a file system from an image"
    command = KINDS[kind][0][0]
    if shutil.which(command) is None:
        return f"needs {command}"
    mount = f'mount -o loop "{make_image(kind, folder)}" "{folder}"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False
    )
    return "" if done.returncode == 0 else f"this kernel mounts no {kind} image"


@pytest.fixture(params=[*KINDS])
def image(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    probe = tmp_path_factory.getbasetemp() / "probe"
    probe.mkdir(exist_ok=True)
    if missing := what_is_missing(request.param, probe):
        pytest.skip(missing)
    made = make_image(request.param, tmp_path)
    yield made
    made.unlink()


def cut_power(image: Path, mode: str, *, times: int, seed: int) -> list[dict[str, Any]]:
    """Return what was found after each of several power cuts."""
    place = image.parent / "mounted"
    place.mkdir()
    arguments = [image, place, mode, str(times), str(seed)]
    done = subprocess.run(
        ["unshare", "-m", sys.executable, RIG, *arguments],
        env={**os.environ, "PYTHONPATH": str(RIG.parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("times", [2, pytest.param(30, marks=SLOW)])
def test_a_power_cut_takes_nothing_that_was_answered(
    image: Path, times: int, tally: Tally
) -> None:
    cuts = cut_power(image, "always", times=times, seed=times)
    assert len(cuts) == times
    assert sum(cut["answers"] for cut in cuts) > times
    for cut in cuts:
        assert cut["gone"] == []  # I1
        assert cut["risen"] == []
        assert cut["problems"] == []
        assert cut["unanswered"] <= 1  # the write that the power cut fell into
    tally("power cuts of a mounted file system", times)
    tally("answers that outlasted one", sum(cut["answers"] for cut in cuts))


@pytest.mark.parametrize("mode", ["interval", "never"])
@pytest.mark.parametrize("times", [2, pytest.param(12, marks=SLOW)])
def test_a_power_cut_takes_only_the_end_of_what_was_not_synced_and_damages_nothing(
    image: Path, mode: str, times: int, tally: Tally
) -> None:
    for cut in cut_power(image, mode, times=times, seed=times):
        assert cut["is_prefix"], cut  # I7
        assert cut["problems"] == []
    tally("power cuts of a mounted file system", times)


def test_without_syncs_the_same_power_cut_takes_what_was_answered(image: Path) -> None:
    """Else the rig would prove nothing."""
    (cut,) = cut_power(image, "unsynced", times=1, seed=99)
    assert cut["answers"] > 0
    assert cut["gone"] != []
