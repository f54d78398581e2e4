"""Durable runs and conversations of Pydantic AI, in a Milepost store."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from pydantic import TypeAdapter
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
    ConversationStore,
)
from pydantic_ai.durable_exec import (
    JSON_CODEC,
    BaseDurabilityCapability,
    DurabilityEngineSpec,
    JournalCallableOperationBackend,
    RoleBasedOperationConfig,
    conversation_id_from_run_id,
)
from pydantic_ai.messages import ModelMessagesTypeAdapter

from milepost import CheckpointManager, Retry, errors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pydantic_ai.models import Model

    from milepost import AsyncRun

# -- durable runs ----------------------------------------------------------------------

_ONCE = Retry(1)
# Of toolsets: one that is only given to a run has no recorded name.
_KINDS: frozenset[Any] = frozenset({"function", "mcp", "dynamic"})


@dataclass
class _Scope:
    """The execution that agents of this task run in, and how many runs it has begun."""

    run: AsyncRun
    runs: int = 0


_SCOPE: ContextVar[_Scope | None] = ContextVar("milepost.pydantic_ai", default=None)


@contextmanager
def durable(run: AsyncRun) -> Iterator[AsyncRun]:
    """Return a block in which agents with `MilepostDurability` run durably.

        async with manager.aexecution("billing", job_id="billing-7") as run:
            with durable(run):
                run.result = (await agent.run("bill order 7")).output

    Args:
        run: the execution whose steps are the model requests and tool calls.
    """
    token = _SCOPE.set(_Scope(run))
    try:
        yield run
    finally:
        _SCOPE.reset(token)


class MilepostDurability(BaseDurabilityCapability[Any]):
    """Makes each model request and each tool call of an agent a durable step.

        agent = Agent(model, name="biller", capabilities=[MilepostDurability()])

    Outside a `durable` block the agent runs as without it.  Tools run one at a time in
    such a block, so that each step has the same name in each attempt.

    Args:
        models: other models of the agent, by id; see the other durabilities of
            Pydantic AI.
        event_stream_handler: is called in a step.
        name: of the agent in the names of steps; the agent's own by default.
        model_retry: retries of a model request.
        tool_retry: retries of a tool call.  A tool's metadata ``{"milepost":
            Retry(…)}`` replaces it, and ``{"milepost": False}`` makes the tool no step.
    """

    engine_spec = DurabilityEngineSpec(
        engine_name="Milepost",
        durable_unit_noun="step",
        durable_container_noun="execution",
        codec=JSON_CODEC,
        sequential_tools_in_durable_context=True,
        unsupported_runtime_toolset_kinds=_KINDS,
        tool_config_key="milepost",
    )

    def __init__(
        self,
        *,
        models: Mapping[str, Model] | None = None,
        event_stream_handler: Any = None,
        name: str | None = None,
        model_retry: Retry = _ONCE,
        tool_retry: Retry = _ONCE,
    ) -> None:
        super().__init__(
            models=models, event_stream_handler=event_stream_handler, name=name
        )
        self._model_retry = model_retry
        self._tool_retry = tool_retry

    @property
    def in_durable_context(self) -> bool:
        """Whether this task is in a `durable` block."""
        return _SCOPE.get() is not None

    def get_default_run_id(self) -> str | None:
        """Return the id of the next run: the same in each attempt."""
        if (scope := _SCOPE.get()) is None:
            return None
        scope.runs += 1
        return f"{scope.run.execution_id}:{scope.runs}"

    def get_default_conversation_id(self, run_id: str) -> str | None:
        """Return the conversation id of a run: the same in each attempt."""
        return conversation_id_from_run_id(run_id) if self.in_durable_context else None

    async def get_run_start_time(self, run_id: str) -> datetime | None:  # noqa: ARG002
        """Return when the run began, in its first attempt."""
        if (scope := _SCOPE.get()) is None:
            return None
        name = f"{self.name}__run_start_time"
        started: datetime = await scope.run.astep(name, _now)
        return started

    def get_durable_operation_backend(self) -> _Backend:
        """Return what runs model requests and tool calls as steps."""

        def of_tool(
            _: object, tool: object | None, name: str
        ) -> Retry | Literal[False]:
            resolve = self._build_resolve_tool_config(self._tool_retry)
            found: Retry | Literal[False] = resolve(tool, name)
            return found

        return _Backend(
            agent_name=self.name,
            config=RoleBasedOperationConfig(
                model=self._model_retry,
                event=_ONCE,
                capability=_ONCE,
                tool=self._tool_retry,
                resolve_tool=of_tool,
            ),
        )

    def _toolset_base_config(self, kind: object) -> Retry:  # noqa: ARG002
        return self._tool_retry


class _Backend(JournalCallableOperationBackend[Retry]):
    async def execute(
        self,
        *,
        operation_id: object,  # noqa: ARG002 - the name has it
        name: str,
        body: Callable[[], Awaitable[object]],
        cache_key: tuple[object, ...],  # noqa: ARG002 - steps are known by their place
        config: Retry,
    ) -> object:
        scope = _SCOPE.get()
        assert scope is not None, "called in a durable context only"
        return await scope.run.astep(name, body, retry=config)


def _now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - recorded as the result of a step


# -- conversations ---------------------------------------------------------------------

_RECORDS = TypeAdapter(ConversationRecord)


class MilepostConversationStore(ConversationStore):
    """Keeps each conversation as the log ``<prefix>/<conversation id>``.

        store = MilepostConversationStore("./checkpoints")
        conversation = await store.load("c7") or Conversation(conversation_id="c7")
        await store.save(await agent.run("hello", conversation=conversation))

    A save is one durable append: the new messages and the record, both or neither.  A
    fork copies the messages that it keeps, so that neither depends on the other.
    `delete` clears the log: the messages leave the disk after the trash period and a
    compaction, and those of forks stay.

    Args:
        store: the folder of the store, or an open manager.
        prefix: of the job ids.
    """

    def __init__(
        self,
        store: CheckpointManager | str | Path = "checkpoints",
        *,
        prefix: str = "pydantic-ai",
    ) -> None:
        if not isinstance(store, CheckpointManager):
            store = CheckpointManager(store)
        self.manager: CheckpointManager = store
        self._prefix = prefix
        self._jobs: dict[str, str] = {}  # entry -> its job, of records that were read

    def job_id(self, conversation_id: str) -> str:
        """Return the job that holds a conversation."""
        return f"{self._prefix}/{quote(conversation_id, safe=' @:')}"

    async def read_record(self, conversation_id: str) -> ConversationRecord | None:
        """Return the record of a conversation; None if there is none.

        Raises:
            MilepostError: it cannot be read.
        """
        return await asyncio.to_thread(self._record, self.job_id(conversation_id))

    async def read_records(
        self, *, scope: str | None = None, limit: int | None = None
    ) -> Sequence[ConversationRecord]:
        """Return the records, last saved first; of one scope, or all."""
        found = await asyncio.to_thread(self._records)
        kept = [r for r in found if scope is None or r.scope == scope]
        kept.sort(key=lambda record: record.updated_at, reverse=True)
        return kept[:limit]

    async def write_record(
        self,
        record: ConversationRecord,
        *,
        new_entries: Sequence[ConversationEntry] = (),
        expected_revision: str | None,
    ) -> None:
        """Append new messages and the record, in one write.

        Raises:
            ConversationConflict: the conversation is at another revision, or a fork
                begins with an entry that is gone; nothing was written.
            MilepostError: nothing was written, unless it is a StorageFailed.
        """
        await asyncio.to_thread(self._write, record, new_entries, expected_revision)

    async def delete_record(
        self, conversation_id: str, *, expected_revision: str
    ) -> None:
        """Delete a conversation with its messages.

        Raises:
            ConversationConflict: it is at another revision.
            Protected, OnHold: a part of it is pinned or held.
        """
        await asyncio.to_thread(self._delete, conversation_id, expected_revision)

    async def read_entry(self, entry_id: str) -> ConversationEntry:
        """Return an entry of any conversation.

        Raises:
            KeyError: there is none.
        """
        (entry,) = await self.read_history(entry_id, limit=1)
        return entry

    async def read_history(
        self, head_id: str | None, *, limit: int | None = None
    ) -> list[ConversationEntry]:
        """Return the entries up to `head_id`, oldest first, or the last ones of them.

        Raises:
            KeyError: one of them is gone.
        """
        if head_id is None:
            return []
        lines = await asyncio.to_thread(self._chain, head_id, limit)
        messages = ModelMessagesTypeAdapter.validate_json(
            json.dumps([line["message"] for line in lines])
        )
        return [
            ConversationEntry(
                id=line["id"], parent_id=line["parent_id"], message=message
            )
            for line, message in zip(lines, messages, strict=True)
        ]

    # -- inside: a log has lines for entries, and after each save one for the record ---

    def _record(self, job_id: str) -> ConversationRecord | None:
        lines = self.manager.entries(job_id, last=1)
        if not lines:
            return None
        record = _RECORDS.validate_json(json.dumps(lines[-1]["record"]))
        for entry_id in (record.head_id, *record.branches):
            if entry_id is not None:
                self._jobs[entry_id] = job_id
        return record

    def _records(self) -> list[ConversationRecord]:
        found = map(self._record, self._all_jobs())
        return [record for record in found if record is not None]

    def _all_jobs(self) -> list[str]:
        start = f"{self._prefix}/"
        return [name for name in self.manager.job_ids() if name.startswith(start)]

    def _write(
        self,
        record: ConversationRecord,
        new_entries: Sequence[ConversationEntry],
        expected_revision: str | None,
    ) -> None:
        job_id = self.job_id(record.conversation_id)
        last = {"record": json.loads(_RECORDS.dump_json(record))}

        def write(seq: int, known: ConversationRecord | None) -> None:
            lines = [*map(_line, new_entries), last]
            new = {entry.id for entry in new_entries}
            head_id = record.head_id
            if head_id not in new | {None, known and known.head_id}:
                lines = [*self._copied(record, job_id), *lines]
            self.manager.append(job_id, lines, expected_seq=seq)

        self._change(record.conversation_id, expected_revision, write)

    def _copied(self, record: ConversationRecord, job_id: str) -> list[dict[str, Any]]:
        """Return the lines that a fork keeps of the conversation that it came from."""
        assert record.head_id is not None
        if record.head_id in self._entries(job_id):
            return []  # the conversation goes back to an earlier entry of its own
        source = self.job_id(record.forked_from or record.conversation_id)
        try:
            return _walk(self._entries(source), record.head_id, None)
        except KeyError:
            raise ConversationConflict(record.conversation_id) from None

    def _delete(self, conversation_id: str, expected_revision: str) -> None:
        clear = partial(
            self.manager.clear,
            self.job_id(conversation_id),
            reason="conversation deleted",
        )
        self._change(
            conversation_id,
            expected_revision,
            lambda seq, _: clear(expected_seq=seq),
        )

    def _change(
        self,
        conversation_id: str,
        expected_revision: str | None,
        write: Callable[[int, ConversationRecord | None], object],
    ) -> None:
        """Call `write` with the seq and the record of the expected revision.

        Raises:
            ConversationConflict: it is another revision.
        """
        job_id = self.job_id(conversation_id)
        while True:
            seq = self.manager.seq(job_id)
            known = self._record(job_id)
            if (known and known.revision) != expected_revision:
                raise ConversationConflict(conversation_id)
            try:
                write(seq, known)
            except errors.Conflict:
                continue  # another save came between, or a compaction
            return

    def _chain(self, head_id: str, limit: int | None) -> list[dict[str, Any]]:
        known = self._jobs.get(head_id)
        jobs = [*([] if known is None else [known]), *self._all_jobs()]
        for job_id in jobs:
            entries = self._entries(job_id)
            if head_id in entries:
                return _walk(entries, head_id, limit)
        raise KeyError(head_id)

    def _entries(self, job_id: str) -> dict[str, dict[str, Any]]:
        lines = self.manager.entries(job_id)
        return {line["id"]: line for line in lines if "id" in line}


def _line(entry: ConversationEntry) -> dict[str, Any]:
    (message,) = json.loads(ModelMessagesTypeAdapter.dump_json([entry.message]))
    return {"id": entry.id, "parent_id": entry.parent_id, "message": message}


def _walk(
    entries: dict[str, dict[str, Any]], head_id: str, limit: int | None
) -> list[dict[str, Any]]:
    """Return the lines up to `head_id`, oldest first, at most `limit`.

    Raises:
        KeyError: one of them is missing.
    """
    found: list[dict[str, Any]] = []
    entry_id: str | None = head_id
    while entry_id is not None and (limit is None or len(found) < limit):
        found.append(entries[entry_id])
        entry_id = found[-1]["parent_id"]
    return found[::-1]
