"""Mounts that only a test sees, where the kernel permits them."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache

import pytest


@cache
def namespace() -> tuple[str, ...]:
    """Return what runs a command where it may mount for itself alone, () if nothing."""
    mount = ["mount", "-t", "tmpfs", "none", "/mnt"]
    # Root may be forbidden the first, in a chroot; everybody else needs it.
    for command in (("unshare", "-Urm"), ("unshare", "-m")):
        if not subprocess.run(
            [*command, *mount], capture_output=True, check=False
        ).returncode:
            return command
    return ()


def why_no_mount() -> str:
    """Return why no file system can be mounted for a test; "" if one can."""
    if shutil.which("unshare") is None:
        return "needs unshare"
    return "" if namespace() else "this kernel lets nobody mount a tmpfs"


needs_namespaces = pytest.mark.skipif(bool(why_no_mount()), reason=why_no_mount())
