"""The demo's job: count lines and tokens of the standard library, file by file.

It knows Milepost only as a URL.  It continues from the current checkpoint of its job
and saves a checkpoint every ``--every`` files:

    python demo/job.py --job=stdlib-census --url=http://127.0.0.1:8080

Without ``--url`` it saves no checkpoints: the run to compare with.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sys
import sysconfig
import tokenize
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

_NOT_THE_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}


def find_files(library: Path, limit: int | None) -> list[str]:
    """Return the Python files of `library`, relative to it and in a fixed order."""
    found = []
    for folder, inner, names in os.walk(library):
        # Changed in place, which keeps `os.walk` from descending.
        inner[:] = [name for name in inner if name not in _NOT_THE_LIBRARY]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(path.relative_to(library).as_posix() for path in found)[:limit]


def count_file(path: Path) -> list[Any]:
    """Return digest, lines, and tokens by kind of one file.

    A file that is no Python is counted up to the error, plus one token BROKEN.
    """
    raw = path.read_bytes()
    kinds: Counter[str] = Counter()
    try:
        for token in tokenize.tokenize(io.BytesIO(raw).readline):
            kinds[tokenize.tok_name[token.type]] += 1
    except (SyntaxError, tokenize.TokenError, ValueError):
        kinds["BROKEN"] += 1
    return [hashlib.sha256(raw).hexdigest(), raw.count(b"\n"), kinds]


def result_bytes(result: object) -> bytes:
    """Return `result` as canonical bytes."""
    return json.dumps(result, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def connect(url: str) -> httpx.Client:
    """Return a client of Milepost; it raises `httpx.HTTPError` if it is refused."""

    def check(response: httpx.Response) -> None:
        if response.is_error:
            raise httpx.HTTPError(f"{response.status_code}: {response.read().decode()}")

    return httpx.Client(
        base_url=url,
        timeout=30,
        trust_env=False,  # no proxy
        limits=httpx.Limits(max_keepalive_connections=0),  # the server may close them
        event_hooks={"response": [check]},
    )


def count_library(asked: argparse.Namespace) -> None:
    """Count the files that the current checkpoint lacks, and save the result."""
    names = find_files(asked.library, asked.limit)
    files: dict[str, list[Any]] = {}
    api = connect(asked.url) if asked.url else None
    if api:
        jobs = api.get("/api/jobs", params={"job_id": asked.job}).json()["jobs"]
        for current in [job["current_checkpoint_id"] for job in jobs]:
            files = api.get(f"/api/checkpoints/{current}").json()["state_snapshot"][
                "files"
            ]
    counted = 0

    def save(step_name: str, state: dict[str, Any], **more: bool) -> None:
        done = {"files": len(files), "counted": counted, **more}
        body = {"job_id": asked.job, "step_name": step_name, "state": state}
        if api:
            api.post("/api/checkpoints", json={**body, "metadata": done})
        # Flushed, because the job may be killed.
        print(f"{step_name}: {len(files)} of {len(names)} files", flush=True)

    left = [name for name in names if name not in files]
    for counted, name in enumerate(left, start=1):  # noqa: B007 - `save` reads it
        files[name] = count_file(asked.library / name)
        if len(files) % asked.every == 0:
            save(f"counted-{len(files):04}", {"files": files})
    tokens: Counter[str] = Counter()
    for _, _, kinds in files.values():
        tokens.update(kinds)
    lines = sum(lines for _, lines, _ in files.values())
    totals = {"files": len(files), "lines": lines, "tokens": tokens}
    result = {"files": files, "totals": totals}
    # Written before the last checkpoint, so that the file exists once that is visible.
    if asked.out:
        asked.out.write_bytes(result_bytes(result))
    save("result", result, is_final=True)


def positive(text: str) -> int:
    """Return `text` as a positive integer."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def add_work(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what to count, which the demo has too."""
    add, library = parser.add_argument, Path(sysconfig.get_path("stdlib"))
    add("--library", type=Path, default=library, help="what to count (%(default)s)")
    add("--every", type=positive, default=100, help="files per checkpoint (100)")
    add("--limit", type=positive, help="count only the first LIMIT files")


def main() -> None:
    """Run the job."""
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--job", default="stdlib-census", help="the job's id")
    parser.add_argument("--url", help="where Milepost serves; without: no checkpoints")
    parser.add_argument("--out", type=Path, help="write the result here, as JSON")
    add_work(parser)
    try:
        count_library(parser.parse_args())
    except (httpx.HTTPError, OSError) as exc:
        sys.exit(f"job.py: {exc}")


if __name__ == "__main__":
    main()
