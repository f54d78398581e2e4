"""A session store for the Claude Agent SDK: each transcript is a log of Milepost."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast
from urllib.parse import quote, unquote

from claude_agent_sdk import SessionStore, fold_session_summary

from milepost import CheckpointManager, errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from claude_agent_sdk import (
        SessionKey,
        SessionListSubkeysKey,
        SessionStoreEntry,
        SessionStoreListEntry,
        SessionSummaryEntry,
    )

    from milepost import CheckpointInfo

_log = logging.getLogger("milepost.adapters.claude")
_MS = 1000


class MilepostSessionStore(SessionStore):
    """Keeps the transcripts of the Claude Agent SDK in a Milepost store.

        store = MilepostSessionStore("./checkpoints")
        options = ClaudeAgentOptions(session_store=store, resume=session_id)

    A transcript is the log ``<prefix>/<project>/<session>``; that of a subagent has its
    subpath behind it.  An append is one durable write.  Entries whose ``uuid`` is there
    are left out, so the SDK may repeat an append.

    Args:
        store: the folder of the store, or an open manager.
        prefix: of the job ids.
    """

    def __init__(
        self,
        store: CheckpointManager | str | Path = "checkpoints",
        *,
        prefix: str = "claude",
    ) -> None:
        if not isinstance(store, CheckpointManager):
            store = CheckpointManager(store)
        self.manager: CheckpointManager = store
        self._prefix = prefix

    def job_id(self, key: SessionKey) -> str:
        """Return the job that holds a transcript."""
        job_id = self._project(key["project_key"]) + _name(key["session_id"])
        subpath = key.get("subpath")
        return job_id if subpath is None else f"{job_id}/{_name(subpath)}"

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """Append entries, durably, without those that are there.

        Raises:
            MilepostError: nothing was appended, unless it is a StorageFailed.
        """
        await asyncio.to_thread(self._append, key, entries)

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        """Return the entries of a transcript; None if it has none.

        Raises:
            MilepostError: it cannot be read; no part of it is returned.
        """
        found = await asyncio.to_thread(self.manager.entries, self.job_id(key))
        return cast("list[SessionStoreEntry]", found) or None

    async def list_sessions(self, project_key: str) -> list[SessionStoreListEntry]:
        """Return the sessions of a project, each with the time of its last append.

        A damaged session is logged and left out.
        """
        newest = await asyncio.to_thread(self._sessions, project_key)
        return [{"session_id": name, "mtime": _mtime(info)} for name, info in newest]

    async def list_session_summaries(
        self, project_key: str
    ) -> list[SessionSummaryEntry]:
        """Return the summary of each session of a project, as the SDK folded it."""
        newest = await asyncio.to_thread(self._sessions, project_key)
        found = (_summary(name, info) for name, info in newest)
        return [summary for summary in found if summary is not None]

    async def delete(self, key: SessionKey) -> None:
        """Delete a transcript; that of a session with those of its subagents.

        Its appends can be undeleted until the trash period ends.

        Raises:
            Protected, OnHold: an append is pinned or held.
        """
        await asyncio.to_thread(self._delete, key)

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        """Return the subpaths of a session that have entries."""
        return await asyncio.to_thread(self._subkeys, cast("SessionKey", key))

    # -- inside ------------------------------------------------------------------------

    def _append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        job_id = self.job_id(key)
        if key.get("subpath") is not None:
            self.manager.append(job_id, entries, key="uuid")
            return
        while True:
            seq = self.manager.seq(job_id)
            newest = self.manager.current(job_id)
            known = newest and _summary(key["session_id"], newest)
            summary = fold_session_summary(known, key, entries)
            try:
                self.manager.append(
                    job_id,
                    entries,
                    key="uuid",
                    metadata={"summary": summary["data"]},
                    expected_seq=seq,
                )
            except errors.Conflict:
                continue  # another append came between, or a compaction
            return

    def _delete(self, key: SessionKey) -> None:
        job_id = self.job_id(key)
        # The session last: after a crash, a repeat finds the rest.
        for subpath in self._subkeys(key) if key.get("subpath") is None else ():
            self.manager.clear(f"{job_id}/{_name(subpath)}", reason="session deleted")
        self.manager.clear(job_id, reason="session deleted")

    def _sessions(self, project_key: str) -> list[tuple[str, CheckpointInfo]]:
        """Return the sessions of a project that have entries, with the last append."""
        found = self._with_entries(self._project(project_key))
        return [(unquote(name), info) for name, info in found if "/" not in name]

    def _subkeys(self, key: SessionKey) -> list[str]:
        found = self._with_entries(f"{self.job_id(key)}/")
        return [unquote(name) for name, _ in found]

    def _with_entries(self, start: str) -> Iterator[tuple[str, CheckpointInfo]]:
        """Yield the jobs whose ids begin with `start`, without it."""
        for job_id in self.manager.job_ids():
            if not job_id.startswith(start):
                continue
            try:
                newest = self.manager.current(job_id)
            except errors.DamagedJournal as exc:
                _log.warning("session %r is left out: %s", job_id, exc)
                continue
            if newest is not None:
                yield job_id.removeprefix(start), newest

    def _project(self, project_key: str) -> str:
        return f"{self._prefix}/{_name(project_key)}/"


def _name(part: str) -> str:
    """Return a part of a job id: without a slash, and printable."""
    return quote(part, safe=" ", errors="surrogatepass")


def _mtime(info: CheckpointInfo) -> int:
    return int(info.saved_at.timestamp() * _MS)


def _summary(session_id: str, info: CheckpointInfo) -> SessionSummaryEntry | None:
    data = info.metadata.get("summary")
    if data is None:
        return None
    return {"session_id": session_id, "mtime": _mtime(info), "data": data}
