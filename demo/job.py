"""The demo's job: count lines and tokens of the standard library, file by file.

It knows Milepost only as a URL.  It continues from the current checkpoint of its job
and saves a checkpoint every ``--every`` files:

    python demo/job.py --job=stdlib-census --url=http://127.0.0.1:8080
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import tokenize
from collections import Counter
from pathlib import Path
from sysconfig import get_path
from typing import Any

import httpx

_NOT_THE_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}


def find_files(library: Path, limit: int | None) -> list[str]:
    """Return the Python files of `library`, relative to it and in a fixed order."""
    paths = (path.relative_to(library) for path in library.rglob("*.py"))
    ours = (path for path in paths if _NOT_THE_LIBRARY.isdisjoint(path.parts))
    return sorted(path.as_posix() for path in ours)[:limit]


def count_file(path: Path) -> list[Any]:
    """Return digest, lines, and tokens by kind of one file."""
    raw = path.read_bytes()
    try:
        tokens = tokenize.tokenize(io.BytesIO(raw).readline)
        kinds = Counter(tokenize.tok_name[token.type] for token in tokens)
    except (SyntaxError, tokenize.TokenError, ValueError):
        kinds = Counter(["BROKEN"])  # not Python
    return [hashlib.sha256(raw).hexdigest(), raw.count(b"\n"), kinds]


def result_bytes(result: object) -> bytes:
    """Return `result` as canonical bytes."""
    return json.dumps(result, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def connect(url: str) -> httpx.Client:
    """Return a client of Milepost; it raises `httpx.HTTPError` if it is refused."""

    def check(response: httpx.Response) -> None:
        if response.is_error:
            raise httpx.HTTPError(f"{response.status_code}: {response.read().decode()}")

    # Without a proxy, and without idle connections, which the server may close.
    api = httpx.Client(base_url=url, trust_env=False, headers={"Connection": "close"})
    api.timeout, api.event_hooks = 30, {"response": [check]}
    return api


def count_library(asked: argparse.Namespace) -> None:
    """Count the files that the current checkpoint lacks, and save the result."""
    names = find_files(asked.library, asked.limit)
    files: dict[str, list[Any]] = {}
    api = connect(asked.url) if asked.url else None
    if api:
        found = api.get("/api/jobs", params={"job_id": asked.job}).json()["jobs"]
        for job in found:  # none before the first save
            current = api.get(f"/api/checkpoints/{job['current_checkpoint_id']}").json()
            files = current["state_snapshot"]["files"]
    before = len(files)

    def save(step_name: str, state: dict[str, Any], **more: bool) -> None:
        done = {"files": len(files), "counted": len(files) - before, **more}
        body = {"job_id": asked.job, "step_name": step_name, "state": state}
        if api:
            api.post("/api/checkpoints", json={**body, "metadata": done})
        print(f"{step_name}: {len(files)} of {len(names)} files", flush=True)

    for name in names:
        if name not in files:
            files[name] = count_file(asked.library / name)
            if len(files) % asked.every == 0:
                save(f"counted-{len(files):04}", {"files": files})
    lines = sum(lines for _, lines, _ in files.values())
    tokens = sum((Counter(kinds) for _, _, kinds in files.values()), Counter())
    result = {"files": files, "totals": {"lines": lines, "tokens": tokens}}
    # Written before the last checkpoint, so that the file exists once that is visible.
    if asked.out:
        asked.out.write_bytes(result_bytes(result))
    save("result", result, is_final=True)


def positive(text: str) -> int:
    """Return `text` as a positive integer."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


# What to count: the demo has these options too.
WORK = argparse.ArgumentParser(add_help=False)
WORK.add_argument("--library", type=Path, default=get_path("stdlib"), help="its folder")
WORK.add_argument("--every", type=positive, default=100, help="files per checkpoint")
WORK.add_argument("--limit", type=positive, help="count only the first LIMIT files")


def main() -> None:
    """Run the job."""
    parser = argparse.ArgumentParser(
        description=__doc__, parents=[WORK], fromfile_prefix_chars="@"
    )
    parser.add_argument("--job", default="stdlib-census", help="the job's id")
    parser.add_argument("--url", help="where Milepost serves; without: no checkpoints")
    parser.add_argument("--out", type=Path, help="write the result here, as JSON")
    try:
        count_library(parser.parse_args())
    except (httpx.HTTPError, OSError) as exc:
        sys.exit(f"job.py: {exc}")


if __name__ == "__main__":
    main()
