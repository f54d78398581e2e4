"""A session service for Google ADK: each session is a log of its events."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from google.adk.errors import StaleSessionError
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events.event import Event
from google.adk.platform import time as platform_time
from google.adk.platform import uuid as platform_uuid
from google.adk.sessions.base_session_service import (
    BaseSessionService,
    ListSessionsResponse,
)
from google.adk.sessions.session import Session
from google.adk.sessions.state import State
from pydantic_core import to_jsonable_python

from milepost import CheckpointManager, errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from google.adk.sessions.base_session_service import GetSessionConfig

_SHARED = (State.APP_PREFIX, State.USER_PREFIX)


class MilepostSessionService(BaseSessionService):
    """Keeps the sessions of ADK in a Milepost store.

        runner = Runner(
            agent=agent, app_name="shop", session_service=MilepostSessionService()
        )

    A session is the log ``<prefix>/<app>/session/<user>/<session>``.  An event is one
    durable append, refused if the caller's session is not the newest: by the seq of
    its last event, not by time.  State with ``app:`` and ``user:`` is a job of states
    per app, and per user of an app.

    Args:
        store: the folder of the store, or an open manager.
        prefix: of the job ids.
    """

    def __init__(
        self,
        store: CheckpointManager | str | Path = "checkpoints",
        *,
        prefix: str = "adk",
    ) -> None:
        if not isinstance(store, CheckpointManager):
            store = CheckpointManager(store)
        self.manager: CheckpointManager = store
        self._prefix = prefix

    def job_id(self, app_name: str, user_id: str, session_id: str) -> str:
        """Return the job that holds a session."""
        place = self._sessions(app_name, user_id)
        return f"{place}{_name(session_id.strip())}"

    async def create_session(
        self,
        *,
        app_name: str,
        user_id: str,
        state: dict[str, Any] | None = None,
        session_id: str | None = None,
    ) -> Session:
        """Create a session and return it.

        Raises:
            AlreadyExistsError: there is a session with this id.
            MilepostError: it was not created, unless it is a StorageFailed.
        """
        return await asyncio.to_thread(
            self._create, app_name, user_id, state or {}, session_id
        )

    async def get_session(
        self,
        *,
        app_name: str,
        user_id: str,
        session_id: str,
        config: GetSessionConfig | None = None,
    ) -> Session | None:
        """Return a session with its state and events; None if there is none.

        Raises:
            MilepostError: it cannot be read; no part of it is returned.
        """
        job_id = self.job_id(app_name, user_id, session_id)
        session = await asyncio.to_thread(self._session, job_id, app_name, user_id)
        if session is not None and config is not None:
            session.events = [*_chosen(session.events, config)]
        return session

    async def list_sessions(
        self, *, app_name: str, user_id: str | None = None
    ) -> ListSessionsResponse:
        """Return sessions without their events, last updated last."""
        found = await asyncio.to_thread(self._all, app_name, user_id)
        found.sort(key=lambda s: (s.last_update_time, s.user_id, s.id))
        return ListSessionsResponse(sessions=found)

    async def delete_session(
        self, *, app_name: str, user_id: str, session_id: str
    ) -> None:
        """Delete a session; the state of its user and app stays.

        Its events can be undeleted until the trash period ends.

        Raises:
            Protected, OnHold: an event is pinned or held.
        """
        job_id = self.job_id(app_name, user_id, session_id)
        await asyncio.to_thread(self.manager.clear, job_id, reason="session deleted")

    async def get_user_state(self, *, app_name: str, user_id: str) -> dict[str, Any]:
        """Return the state of a user, without the prefix of its keys."""
        return await asyncio.to_thread(
            self.manager.load, self._user(app_name, user_id), {}
        )

    async def append_event(self, session: Session, event: Event) -> Event:
        """Append an event to a session, durably; a partial one is not stored.

        An event that is there already is left out, so that a call can be repeated.

        Raises:
            StaleSessionError: the session has later events than the caller's.
            SessionNotFoundError: it was deleted.
            MilepostError: nothing was appended, unless it is a StorageFailed.
        """
        if event.partial:
            return event
        self._apply_temp_state(session, event)
        event = self._trim_temp_delta_state(event)
        marker = await asyncio.to_thread(
            self._append,
            session,
            event,
            session._storage_update_marker,  # noqa: SLF001
        )
        if event not in session.events:
            self._commit_event_to_session(session, event)
        session.last_update_time = event.timestamp
        session._storage_update_marker = marker  # noqa: SLF001
        return event

    # -- inside: a log has a line with the first state, and then one for each event ----

    def _create(
        self, app_name: str, user_id: str, state: dict[str, Any], session_id: str | None
    ) -> Session:
        session_id = (session_id or "").strip() or platform_uuid.new_uuid()
        job_id = self.job_id(app_name, user_id, session_id)
        plain: dict[str, Any] = to_jsonable_python(state)
        created = {"state": _own(plain), "created": platform_time.get_time()}

        def write(seq: int) -> int | None:
            if self.manager.current(job_id) is not None:
                raise AlreadyExistsError(
                    f"Session with id {session_id} already exists."
                )
            done = self.manager.append(job_id, [created], expected_seq=seq)
            return done.seq

        self._change(job_id, write)
        self._share(app_name, user_id, plain)
        session = self._session(job_id, app_name, user_id)
        if session is None:
            raise SessionNotFoundError(f"Session {session_id} was deleted.")
        return session

    def _append(self, session: Session, event: Event, marker: str | None) -> str:
        job_id = self.job_id(session.app_name, session.user_id, session.id)
        line: dict[str, Any] = json.loads(event.model_dump_json())

        def write(seq: int) -> int | None:
            newest = self.manager.current(job_id)
            if newest is None:
                raise SessionNotFoundError(f"Session {session.id} not found.")
            if marker not in (None, str(newest.seq)):
                if not self._has(job_id, event.id):
                    raise StaleSessionError(
                        f"Session {session.id} has events after {marker}; "
                        f"the last one is {newest.seq}. Load it again."
                    )
                return newest.seq
            done = self.manager.append(job_id, [line], key="id", expected_seq=seq)
            return done.seq or newest.seq

        seq = self._change(job_id, write)
        # After the event: a stale writer must not change what sessions share.  If it
        # fails, the same call again completes it.
        self._share(session.app_name, session.user_id, line["actions"]["state_delta"])
        return str(seq)

    def _has(self, job_id: str, event_id: str) -> bool:
        return any(line.get("id") == event_id for line in self.manager.entries(job_id))

    def _change(self, job_id: str, write: Callable[[int], int | None]) -> int | None:
        """Call `write` with the seq of a job until nothing comes between."""
        while True:
            seq = self.manager.seq(job_id)
            try:
                return write(seq)
            except errors.Conflict:
                continue  # a compaction, a pin, or another writer, whom `write` judges

    def _share(self, app_name: str, user_id: str, delta: Mapping[str, Any]) -> None:
        """Add what sessions share to the states of the app and of the user."""
        for prefix, job_id in zip(
            _SHARED, self._shared(app_name, user_id), strict=True
        ):
            part = {
                key.removeprefix(prefix): value
                for key, value in delta.items()
                if key.startswith(prefix)
            }

            def write(
                seq: int, job_id: str = job_id, part: dict[str, Any] = part
            ) -> None:
                known: dict[str, Any] = self.manager.load(job_id, {})
                if (merged := known | part) != known:
                    self.manager.save(job_id, "state", merged, expected_seq=seq)

            if part:
                self._change(job_id, write)

    def _session(self, job_id: str, app_name: str, user_id: str) -> Session | None:
        """Return a session; its marker may be older than its events, never newer."""
        newest = self.manager.current(job_id)
        lines = self.manager.entries(job_id)
        if newest is None or not lines:
            return None
        events = [Event.model_validate_json(json.dumps(e)) for e in lines if "id" in e]
        state: dict[str, Any] = {}
        for line in lines:
            delta = line["actions"]["state_delta"] if "id" in line else line["state"]
            state |= _own(delta)
        for prefix, shared in zip(
            _SHARED, self._shared(app_name, user_id), strict=True
        ):
            found: dict[str, Any] = self.manager.load(shared, {})
            state |= {prefix + key: value for key, value in found.items()}
        session = Session(
            app_name=app_name,
            user_id=user_id,
            id=unquote(job_id.rpartition("/")[2]),
            state=state,
            events=events,
            last_update_time=lines[-1].get("created") or lines[-1]["timestamp"],
        )
        session._storage_update_marker = str(newest.seq)  # noqa: SLF001
        return session

    def _all(self, app_name: str, user_id: str | None) -> list[Session]:
        start = self._sessions(app_name, user_id)
        found = []
        for job_id in self.manager.job_ids():
            if job_id.startswith(start):
                owner = unquote(job_id.split("/")[-2])
                session = self._session(job_id, app_name, owner)
                if session is not None:
                    session.events = []
                    found.append(session)
        return found

    def _sessions(self, app_name: str, user_id: str | None) -> str:
        start = f"{self._prefix}/{_name(app_name)}/session/"
        return start if user_id is None else f"{start}{_name(user_id)}/"

    def _user(self, app_name: str, user_id: str) -> str:
        return f"{self._prefix}/{_name(app_name)}/user/{_name(user_id)}"

    def _shared(self, app_name: str, user_id: str) -> tuple[str, str]:
        """Return the jobs of what sessions share, in the order of the prefixes."""
        app = f"{self._prefix}/{_name(app_name)}/app"
        return app, self._user(app_name, user_id)


def _name(part: str) -> str:
    """Return a part of a job id: without a slash, and printable."""
    return quote(part, safe=" @:")


def _own(delta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a state that belongs to its session alone."""
    other = (*_SHARED, State.TEMP_PREFIX)
    return {key: value for key, value in delta.items() if not key.startswith(other)}


def _chosen(events: Iterable[Event], config: GetSessionConfig) -> Iterator[Event]:
    """Yield the events that a reader asks for."""
    found = [*events]
    if config.num_recent_events is not None:
        found = found[max(0, len(found) - config.num_recent_events) :]
    since = config.after_timestamp
    for event in found:
        if since is None or event.timestamp >= since:
            yield event
