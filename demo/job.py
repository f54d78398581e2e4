"""The demo's job: count lines and tokens of the standard library, file by file.

A script that needs only Python and knows Milepost only as a URL.  It continues from the
current checkpoint of its job and saves a checkpoint every ``--every`` files.  The state
contains all results so far, so the job can be killed at any time:

    python demo/job.py --job=stdlib-census --url=http://127.0.0.1:8080

Without ``--url`` it saves no checkpoints: the run to compare with.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import io
import json
import os
import platform
import secrets
import sys
import sysconfig
import time
import tokenize
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

EVERY = 100
FINAL_STEP = "result"
_NOT_THE_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}
_RETRIED_STATUSES = {408, 429, 502, 503, 504}
_TRIES = 8
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0
_ANSWER_SECONDS = 30.0

State = dict[str, Any]


class JobFailed(Exception):
    """The job cannot continue; the text is one line with the reason."""


class Refused(JobFailed):
    """The server answered with an error status."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"the server returned {status} {code}: {detail}")
        self.status = status
        self.code = code


class Answer(NamedTuple):
    """A response; `etag` identifies the job's last event at that time."""

    body: Any
    etag: str | None


class Api:
    """Milepost over HTTP, with idempotent retries.

    Raises:
        JobFailed: `url` is not an HTTP URL.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise JobFailed(f"expected a URL such as http://127.0.0.1:8080, got {url}")
        self._netloc = parts.netloc

    def get(self, path: str, **query: str | int) -> Answer:
        """Get `path`.

        Raises:
            JobFailed: the server refused the request, or did not answer any retry.
        """
        return self._ask("GET", f"{path}?{urlencode(query)}" if query else path)

    def post(
        self, path: str, body: object, *, key: str, if_match: str | None = None
    ) -> Answer:
        """Post `body`.  Retries use the same idempotency `key`.

        Raises:
            JobFailed: the server refused the request, or did not answer any retry.
        """
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        if if_match is not None:
            headers["If-Match"] = if_match
        return self._ask("POST", path, json.dumps(body).encode(), headers)

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        pause = _FIRST_PAUSE_SECONDS
        for tries_left in range(_TRIES - 1, -1, -1):
            try:
                return self._ask_once(method, path, body, headers or {})
            except Refused as exc:
                if exc.status not in _RETRIED_STATUSES or not tries_left:
                    raise
            except (OSError, http.client.HTTPException) as exc:
                if not tries_left:
                    why = str(exc) or type(exc).__name__
                    raise JobFailed(f"no answer from {self._netloc}: {why}") from exc
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        raise AssertionError("the last try returns or raises")

    def _ask_once(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> Answer:
        # Not urllib, which would use the proxy of the environment.
        server = http.client.HTTPConnection(self._netloc, timeout=_ANSWER_SECONDS)
        try:
            server.request(method, path, body, headers)
            with server.getresponse() as response:
                raw = response.read()
        finally:
            server.close()
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            raise _refusal(response.status, raw)
        return Answer(json.loads(raw), response.headers["ETag"])


def _refusal(status: int, raw: bytes) -> Refused:
    try:
        error = json.loads(raw)
        return Refused(status, error["code"], error["detail"])
    except (ValueError, TypeError, KeyError):
        return Refused(status, "unknown", raw[:200].decode(errors="replace"))


def path_of(checkpoint_id: str) -> str:
    """Return the API path of a checkpoint."""
    return f"/api/checkpoints/{quote(checkpoint_id, safe='')}"


def current_checkpoint(api: Api, job_id: str) -> str | None:
    """Return the id of the job's current checkpoint; None if it has none.

    It is not the newest if an older one was restored.
    """
    jobs = api.get("/api/jobs", job_id=job_id).body["jobs"]
    return jobs[0]["current_checkpoint_id"] if jobs else None


def find_files(library: Path, limit: int | None = None) -> list[str]:
    """Return the Python files of `library`, relative to it and in a fixed order.

    Raises:
        JobFailed: there are none.
    """
    found = []
    for folder, inner, names in os.walk(library):
        # Changed in place, which keeps `os.walk` from descending.
        inner[:] = [name for name in inner if name not in _NOT_THE_LIBRARY]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    if not found:
        raise JobFailed(f"no Python files in {library}")
    return sorted(p.relative_to(library).as_posix() for p in found)[:limit]


def count_file(path: Path) -> list[Any]:
    """Return digest, lines, and tokens by kind of one file.

    The library's tests include invalid files.  These are counted up to the error, plus
    one token of the kind BROKEN.
    """
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise JobFailed(f"{path}: cannot be read: {exc.strerror}") from exc
    kinds: Counter[str] = Counter()
    try:
        for token in tokenize.tokenize(io.BytesIO(raw).readline):
            kinds[tokenize.tok_name[token.type]] += 1
    except (SyntaxError, tokenize.TokenError, ValueError):
        kinds["BROKEN"] += 1
    return [hashlib.sha256(raw).hexdigest(), raw.count(b"\n"), dict(kinds)]


def total(state: State) -> State:
    """Return the final result: `state` with the sums over all its files."""
    kinds: Counter[str] = Counter()
    lines = 0
    for _, file_lines, file_kinds in state["files"].values():
        lines += file_lines
        kinds.update(file_kinds)
    sums = {"files": len(state["files"]), "lines": lines, "tokens": dict(kinds)}
    return {**state, "totals": sums}


def result_bytes(result: State) -> bytes:
    """Return `result` as canonical bytes."""
    text = json.dumps(result, sort_keys=True, separators=(",", ":"))
    return text.encode() + b"\n"


class Checkpoints:
    """The job's checkpoints, behind the API."""

    def __init__(self, api: Api, job_id: str) -> None:
        self._api = api
        self._job_id = job_id
        # Part of every idempotency key.  After a restore the same step is saved again;
        # the key of the earlier process would return that process's checkpoint.
        self._run = secrets.token_hex(8)

    def load(self) -> State | None:
        """Return the state of the current checkpoint; None if there is none."""
        checkpoint_id = current_checkpoint(self._api, self._job_id)
        if checkpoint_id is None:
            say("no checkpoint yet, starting from the beginning")
            return None
        found = self._api.get(path_of(checkpoint_id)).body
        say(f"going on from {checkpoint_id}")
        state: State = found["state_snapshot"]
        return state

    def save(self, step_name: str, state: State, metadata: dict[str, Any]) -> None:
        """Save `state`; return once it is acknowledged."""
        body = {
            "job_id": self._job_id,
            "step_name": step_name,
            "state": state,
            "metadata": metadata,
            "workflow_name": "library-census",
            "workflow_version": "1",
        }
        answer = self._api.post(
            "/api/checkpoints", body, key=f"{self._run}-{step_name}"
        )
        say(f"saved {answer.body['checkpoint_id']}")


def count_library(
    library: Path,
    names: list[str],
    every: int,
    checkpoints: Checkpoints | None,
    out: Path | None,
) -> None:
    """Count the files missing in the current checkpoint, and save the result.

    Raises:
        JobFailed: Milepost does not answer, or its checkpoint is of another library.
    """
    state = checkpoints.load() if checkpoints else None
    if state is None:
        state = {"python": platform.python_version(), "files": {}}
    files: dict[str, Any] = state["files"]
    _check_same_library(state, names)
    had = len(files)
    for name in names[had:]:
        files[name] = count_file(library / name)
        done = len(files)
        if done % every == 0:
            say(f"{done} of {len(names)} files")
            if checkpoints:
                progress = {"files": done, "of": len(names), "counted": done - had}
                checkpoints.save(f"counted-{done:04}", state, progress)
    result = total(state)
    # Written before the last checkpoint, so that the file exists once that is visible.
    if out:
        write_whole(out, result_bytes(result))
    if checkpoints and "totals" not in state:
        progress = {"files": len(names), "of": len(names), "counted": len(names) - had}
        checkpoints.save(FINAL_STEP, result, {**progress, "is_final": True})


def _check_same_library(state: State, names: list[str]) -> None:
    version = platform.python_version()
    if state["python"] != version or set(state["files"]) != set(
        names[: len(state["files"])]
    ):
        raise JobFailed(
            f"the checkpoint is of another library (Python {state['python']}, here "
            f"{version}); count this one under another --job"
        )


def write_whole(path: Path, raw: bytes) -> None:
    """Write `raw` to `path` atomically."""
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(raw)
    partial.replace(path)


def say(line: str) -> None:
    """Print a line of the job's log and flush it, since the job may be killed."""
    print(line, flush=True)


def positive(text: str) -> int:
    """Return `text` as a positive integer.

    Raises:
        ValueError: `text` is not a positive integer.
    """
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    summary, _, how = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="job.py",
        description=summary,
        epilog=how,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--job", default="stdlib-census", help="the job's id")
    parser.add_argument("--url", help="where Milepost serves; without: no checkpoints")
    parser.add_argument(
        "--every",
        type=positive,
        default=EVERY,
        help="files per checkpoint (%(default)s)",
    )
    parser.add_argument(
        "--limit", type=positive, help="count only the first LIMIT files"
    )
    parser.add_argument(
        "--library",
        dest="sources",
        metavar="LIBRARY",
        type=Path,
        default=Path(sysconfig.get_path("stdlib")),
        help="the folder to count (%(default)s)",
    )
    parser.add_argument("--out", type=Path, help="write the result here, as JSON")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the job and return its exit code."""
    asked = _arguments(argv)
    try:
        names = find_files(asked.sources, asked.limit)
        checkpoints = Checkpoints(Api(asked.url), asked.job) if asked.url else None
        count_library(asked.sources, names, asked.every, checkpoints, asked.out)
    except (JobFailed, OSError) as exc:
        print(f"job.py: {exc}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    say(f"done: {len(names)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
