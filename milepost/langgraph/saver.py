"""`MilepostSaver`: LangGraph's checkpointer over the threads of a store."""

from __future__ import annotations

import builtins
import random
import warnings
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    CheckpointTuple,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

from milepost.journal.errors import InvalidArgument
from milepost.journal.manager import CheckpointManager
from milepost.journal.storage.memory import MemoryStorage
from milepost.journal.threads import ANY
from milepost.langgraph.configs import Asked, checked_folder, config_of, several
from milepost.langgraph.pool import Pool
from milepost.langgraph.translation import as_put

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import (
        ChannelVersions,
        Checkpoint,
        CheckpointMetadata,
        DeltaChannelHistory,
        PendingWrite,
    )
    from langgraph.checkpoint.serde.base import SerializerProtocol

    from milepost.journal.threads import Ref, Stored, Written

_MEMORY = ":memory:"
# How many tuples `alist` loads in one turn of a thread, at most.
_MAX_PAGE = 16
# A branch from an older checkpoint is the purpose of these.
_BRANCHES = ("fork", "update")


class MilepostSaver(BaseCheckpointSaver[str]):
    """Keeps the checkpoints of LangGraph's threads: each thread is a job of the store.

    Every method has an async twin of the same parameters, and one instance serves both,
    for many threads and event loops.  Async calls run in threads of the saver's own.
    A call returns when its write survives a crash, as the manager's `durability` says.

    As a context manager, with `with` or `async with`, it closes what it has opened.

    Args:
        root_or_manager: the folder of the store, ``./checkpoints`` by default, or a
            `CheckpointManager`, which stays open when the saver is closed.
        serde: the serializer of checkpoints, metadata and writes; by default
            LangGraph's.  One that encrypts leaves nothing to compress.
        fenced: refuse a checkpoint whose parent is no longer the newest of its
            namespace, so that two runs cannot branch a thread unnoticed.
            `update_state` and replays of an older checkpoint still may.
        actor: recorded with each write, instead of the manager's.

    Attributes:
        manager: the manager of the store, for retention, history and all else.

    Raises:
        InvalidArgument: the folder is a file or an address.
    """

    def __init__(
        self,
        root_or_manager: str | Path | CheckpointManager | None = None,
        *,
        serde: SerializerProtocol | None = None,
        fenced: bool = False,
        actor: str | None = None,
    ) -> None:
        super().__init__(serde=serde)
        if isinstance(serde, EncryptedSerializer):
            warnings.warn(
                "an EncryptedSerializer leaves nothing to compress, and metadata in "
                "clear; encrypt the store instead (docs/encryption.md)",
                stacklevel=2,
            )
        self._is_owner = not isinstance(root_or_manager, CheckpointManager)
        if isinstance(root_or_manager, CheckpointManager):
            self.manager = root_or_manager
        else:
            self.manager = CheckpointManager(checked_folder(root_or_manager))
        self._threads = self.manager.threads
        self._fenced = fenced
        self._actor = actor
        self._pool = Pool()

    @classmethod
    def from_conn_string(
        cls, conn_string: str, *, serde: SerializerProtocol | None = None
    ) -> Self:
        """Open a store for a `with` or `async with` block, which closes it.

            with MilepostSaver.from_conn_string("./checkpoints") as saver:
                graph = builder.compile(checkpointer=saver)

        Args:
            conn_string: a folder, or ``:memory:`` for a store that the process forgets.
            serde: see `MilepostSaver`.

        Raises:
            InvalidArgument: it is a file, or the address of a database.
        """
        if conn_string != _MEMORY:
            return cls(conn_string, serde=serde)
        saver = cls(CheckpointManager(storage=MemoryStorage()), serde=serde)
        saver._is_owner = True
        return saver

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._pool.run(self.close)

    def close(self) -> None:
        """Close the store, unless its manager was given, and end the saver's threads.

        Idempotent; async calls fail afterwards.
        """
        if self._is_owner:
            self.manager.close()
        self._pool.close()

    # -- reading -----------------------------------------------------------------------

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint of a `checkpoint_id`, or else the latest.

        The latest of a namespace has the greatest id, as a string.  None if there is
        none; an unknown thread is not created.
        """
        asked = Asked(config)
        while ref := self._threads.ref(asked.thread_id, asked.ns or "", asked.id):
            # One that is removed between the two calls is asked for again.
            if (stored := self._threads.read(ref)) is not None:
                return self._tuple(stored)
        return None

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Yield checkpoints, the newest first; each is read when it is asked for.

        Nothing is locked while the caller does something else.  A checkpoint that is
        removed meanwhile is left out.

        Args:
            config: its thread, namespace and checkpoint; None means all threads, and no
                `checkpoint_ns` all namespaces.
            filter: pairs that the metadata must have, compared as Python does.
            before: only checkpoints whose ids are less, as strings.
            limit: the most to yield, 0 or more.

        Raises:
            InvalidArgument: `limit` is negative.
        """
        if limit is not None and limit < 0:
            raise InvalidArgument(f"limit must be 0 or more, got {limit!r}")
        asked = Asked(config)
        before_id = Asked(before).id
        refs = self._threads.refs(
            asked.thread_id if config else None,
            ns=asked.ns,
            id=asked.id,
            before=before_id,
        )
        found = (self._threads.read(ref) for ref in refs if self._fits(ref, filter))
        return islice((self._tuple(each) for each in found if each is not None), limit)

    def _fits(self, ref: Ref, filter: dict[str, Any] | None) -> bool:  # noqa: A002
        if not filter:
            return True
        run_id = filter.get("run_id")
        if isinstance(run_id, str) and run_id != ref.run_id:
            return False  # and nothing is read
        metadata = self._metadata(self._threads.metadata(ref))
        return all(metadata.get(key) == value for key, value in filter.items())

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Return the writes of each channel back to its nearest stored value.

        The states of ancestors that have no value are not read, only their writes.
        """
        asked = Asked(config)
        writes: dict[str, builtins.list[PendingWrite]] = {name: [] for name in channels}
        seeds: dict[str, Any] = {}
        target = self._threads.ref(asked.thread_id, asked.ns or "", asked.id)
        parent_id = target and target.parent_id
        seen: set[str] = set()
        # A checkpoint that was put again may have become its own ancestor.
        while (left := writes.keys() - seeds) and parent_id and parent_id not in seen:
            seen.add(parent_id)
            ref = self._threads.ref(asked.thread_id, asked.ns or "", parent_id)
            if ref is None:
                break
            for write in reversed(self._threads.writes(ref, channels=left)):
                writes[write.channel].append(self._pending(write))
            if not left <= {*ref.lacks}:
                stored = self._threads.read(ref)
                if stored is None:
                    break
                values = self.serde.loads_typed(stored.value)["channel_values"]
                seeds |= {name: values[name] for name in left & values.keys()}
            parent_id = ref.parent_id
        history: dict[str, DeltaChannelHistory] = {}
        for name, found in writes.items():
            history[name] = {"writes": found[::-1]}
            if name in seeds:
                history[name]["seed"] = seeds[name]
        return history

    def thread_ids(self) -> builtins.list[str]:
        """Return the ids of all threads, the one with the latest write first.

        Threads that other processes begin or write to are noticed within a second.
        """
        return self._threads.thread_ids()

    # -- writing -----------------------------------------------------------------------

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,  # noqa: ARG002 - values are stored whole
    ) -> RunnableConfig:
        """Store a checkpoint and return its config.

        The `checkpoint_id` of `config` is its parent.  A checkpoint of the same id is
        replaced.

        Raises:
            Conflict: the saver is fenced, and the parent is no longer the newest.
            WrongKind: the job of this id holds no thread.
            StorageFailed: the write failed.
        """
        asked = Asked(config)
        known = cast("dict[str, Any]", get_checkpoint_metadata(config, metadata))
        ns = asked.ns or ""
        value = self.serde.dumps_typed(checkpoint)
        self._threads.put(
            asked.thread_id,
            as_put(
                *(ns, checkpoint["id"], asked.id, value),
                *(known, checkpoint, self.serde),
            ),
            expected_parent=asked.id
            if self._fenced and known.get("source") not in _BRANCHES
            else ANY,
            actor=self._actor,
        )
        return config_of(asked.thread_id, ns, checkpoint["id"])

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store what a task wrote, beside the checkpoint that `config` names.

        It may come before its checkpoint.  What the task has written already is
        ignored, but for errors, interrupts and the like, which are replaced.

        Raises:
            WrongKind: the job of this id holds no thread.
            StorageFailed: the write failed.
        """
        asked = Asked(config)
        # Of two special writes of one kind, the last one counts.
        indexed = {
            WRITES_IDX_MAP.get(channel, position): (channel, value)
            for position, (channel, value) in enumerate(writes)
        }
        self._threads.put_writes(
            asked.thread_id,
            asked.ns or "",
            config["configurable"]["checkpoint_id"],
            task_id,
            task_path,
            [
                (index, channel, self.serde.dumps_typed(value))
                for index, (channel, value) in indexed.items()
            ],
            actor=self._actor,
        )

    def delete_thread(self, thread_id: str) -> None:
        """Delete all checkpoints and writes of a thread; undo works until the purge."""
        self._threads.delete(str(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of these runs, with their writes, in all threads.

        What a kept checkpoint needs to rebuild a `DeltaChannel` is kept.

        Raises:
            TypeError: `run_ids` is a single string.
        """
        self._threads.delete_runs(several("run_ids", run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread whole, with the same checkpoint ids; the copy is independent.

        Raises:
            Conflict: the target has checkpoints.
        """
        self._threads.copy(str(source_thread_id), str(target_thread_id))

    def prune(
        self, thread_ids: Sequence[str], *, strategy: str = "keep_latest"
    ) -> None:
        """Delete checkpoints: all, or with ``keep_latest`` all but the newest ones.

        The newest of each namespace stays with its writes, and what it needs to rebuild
        a `DeltaChannel`.

        Raises:
            TypeError: `thread_ids` is a single string.
            ValueError: `strategy` is neither ``keep_latest`` nor ``delete``.
        """
        if strategy not in ("keep_latest", "delete"):
            raise InvalidArgument(
                f"strategy must be keep_latest or delete, got {strategy!r}"
            )
        self._threads.prune(several("thread_ids", thread_ids), strategy)

    def get_next_version(self, current: str | int | None, channel: None) -> str:  # noqa: ARG002
        """Return a version greater than `current`, different in each branch."""
        number = int(str(current or 0).partition(".")[0]) + 1
        return f"{number:032}.{random.random():016}"  # noqa: S311 - tells branches apart

    # -- async twins -------------------------------------------------------------------

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See `get_tuple`."""
        return await self._pool.run(partial(self.get_tuple, config))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """See `list`."""
        found = self.list(config, filter=filter, before=before, limit=limit)
        size = 1
        while page := await self._pool.run(partial(_page, found, size)):
            for each in page:
                yield each
            size = min(2 * size, _MAX_PAGE)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """See `get_delta_channel_history`."""
        return await self._pool.run(
            partial(self.get_delta_channel_history, config=config, channels=channels)
        )

    async def athread_ids(self) -> builtins.list[str]:
        """See `thread_ids`."""
        return await self._pool.run(self.thread_ids)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """See `put`."""
        return await self._pool.run(
            partial(self.put, config, checkpoint, metadata, new_versions)
        )

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """See `put_writes`."""
        await self._pool.run(
            partial(self.put_writes, config, writes, task_id, task_path)
        )

    async def adelete_thread(self, thread_id: str) -> None:
        """See `delete_thread`."""
        await self._pool.run(partial(self.delete_thread, thread_id))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """See `delete_for_runs`."""
        await self._pool.run(partial(self.delete_for_runs, run_ids))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """See `copy_thread`."""
        await self._pool.run(
            partial(self.copy_thread, source_thread_id, target_thread_id)
        )

    async def aprune(
        self, thread_ids: Sequence[str], *, strategy: str = "keep_latest"
    ) -> None:
        """See `prune`."""
        await self._pool.run(partial(self.prune, thread_ids, strategy=strategy))

    # -- from stored to LangGraph's ----------------------------------------------------

    def _tuple(self, stored: Stored) -> CheckpointTuple:
        ref = stored.ref
        return CheckpointTuple(
            config_of(ref.thread_id, ref.ns, ref.id),
            self.serde.loads_typed(stored.value),
            cast("CheckpointMetadata", self._metadata(stored.metadata)),
            None
            if ref.parent_id is None
            else config_of(ref.thread_id, ref.ns, ref.parent_id),
            [self._pending(write) for write in stored.writes],
        )

    def _metadata(self, found: dict[str, Any] | tuple[str, bytes]) -> dict[str, Any]:
        if isinstance(found, dict):
            return found
        loaded: dict[str, Any] = self.serde.loads_typed(found)
        return loaded

    def _pending(self, write: Written) -> PendingWrite:
        return write.task_id, write.channel, self.serde.loads_typed(write.value)


def _page(
    found: Iterator[CheckpointTuple], size: int
) -> builtins.list[CheckpointTuple]:
    return builtins.list(islice(found, size))
