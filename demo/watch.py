"""Following the job through the HTTP API."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from demo.children import DemoFailed
from demo.history import removals

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from demo.children import Child, StopFlag
    from demo.history import Event
    from demo.job import Api
    from demo.screen import Screen

_STALL_SECONDS = 120.0
_PAGE = 500


class Standing(NamedTuple):
    """The job's live checkpoints, and the `etag` of that state of the job."""

    checkpoints: list[dict[str, Any]]
    etag: str | None

    @property
    def newest(self) -> dict[str, Any]:
        """The newest checkpoint; exists if `files` is not 0."""
        return self.checkpoints[-1]

    @property
    def live_ids(self) -> list[str]:
        """The ids of the live checkpoints, oldest first."""
        return [each["checkpoint_id"] for each in self.checkpoints]

    @property
    def files(self) -> int:
        """The number of files in the newest checkpoint."""
        return int(self.newest["metadata"]["files"]) if self.checkpoints else 0

    @property
    def is_final(self) -> bool:
        """Whether the newest checkpoint contains the result."""
        return bool(self.checkpoints and "is_final" in self.newest["metadata"])


class Watch:
    """Shows the progress of a job and waits for given points of it."""

    def __init__(
        self, api: Api, job_id: str, server: Child, screen: Screen, flag: StopFlag
    ) -> None:
        self._api = api
        self._job_id = job_id
        self._server = server
        self._screen = screen
        self._flag = flag
        self._seen_seq = 0

    def standing(self) -> Standing:
        """Return the job's checkpoints.

        Raises:
            JobFailed: the server does not answer.
        """
        body, etag = self._api.get("/api/checkpoints", job_id=self._job_id)
        return Standing(body["checkpoints"], etag)

    def events(self, after_seq: int = 0) -> list[Event]:
        """Return the job's events after `after_seq`.

        Raises:
            JobFailed: the server does not answer.
        """
        found: list[Event] = []
        while True:
            page = self._api.get(
                "/api/events", job_id=self._job_id, after_seq=after_seq, limit=_PAGE
            ).body
            found += page["events"]
            after_seq = page["next_after_seq"]
            if len(page["events"]) < _PAGE:
                return found

    def until(
        self,
        is_there: Callable[[Standing], bool],
        *,
        label: str,
        files_total: int,
        job: Child | None = None,
        job_log: Path,
    ) -> Standing:
        """Show progress until `is_there`; return the job's checkpoints at that point.

        `job` is the job's process if the demo started it.  Otherwise only new
        checkpoints show that the job runs.

        Raises:
            DemoFailed: the job or the server ended, or there is no more progress.
            JobFailed: the server does not answer.
            Stopped: a signal came.
        """
        files, changed_at = -1, time.monotonic()
        while True:
            self._server.check_alive()
            standing = self.standing()
            self._screen.progress(label, standing.files, files_total)
            self.tell_removals()
            if is_there(standing):
                return standing
            if job is not None:
                job.check_alive()
            if standing.files != files:
                files, changed_at = standing.files, time.monotonic()
            elif time.monotonic() - changed_at > _STALL_SECONDS:
                raise DemoFailed(f"no progress for {_STALL_SECONDS:g} s; see {job_log}")
            self._flag.sleep()

    def until_removed(self, keep_last: int, timeout_seconds: float) -> Standing:
        """Wait until at most `keep_last` checkpoints remain, or for `timeout_seconds`.

        Returns the checkpoints at that point.

        Raises:
            JobFailed: the server does not answer.
            Stopped: a signal came.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            standing = self.standing()
            self.tell_removals()
            if len(standing.live_ids) <= keep_last or time.monotonic() > deadline:
                return standing
            self._flag.sleep()

    def tell_removals(self) -> None:
        """Print the removals of scheduled retention since the last call.

        Raises:
            JobFailed: the server does not answer.
        """
        events = self.events(self._seen_seq)
        for removal in removals(events):
            self._screen.say("retention", removal.line, "yellow")
        if events:
            self._seen_seq = events[-1]["seq"]
