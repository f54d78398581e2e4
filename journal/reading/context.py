"""Shared state and read helpers of CheckpointManager."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from milepost.journal import ids
from milepost.journal.arguments import check_methods, checked
from milepost.journal.clock import utc_now
from milepost.journal.errors import (
    InvalidArgument,
)
from milepost.journal.process.mutex import Mutex
from milepost.journal.reading.reader import Reader
from milepost.journal.states import json_states
from milepost.journal.states.access import Vault
from milepost.journal.states.json_states import Limits
from milepost.journal.states.packer import Codec, Packer
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.crypto.keys import KeyRing
    from milepost.journal.retention.policies import Policies
    from milepost.journal.storage.contract import Storage
    from milepost.journal.storage.files.reading import Durability
    from milepost.journal.storage.files.storage import Sharing
    from milepost.journal.store.clock_guard import ClockGuard

DEFAULT_FOLDER = "checkpoints"

# How far the clock may be ahead of the expected time, and how long the machine may have
# been off, before removals by age stop; see `clock_guard`.
MAX_CLOCK_JUMP_SECONDS = 3600.0
MAX_DOWNTIME_SECONDS = 30 * 86_400.0


class Inquiry:
    """Reads jobs from a folder, or from any other `Storage`.

    Safe for many threads, and for many processes of one machine on one folder.
    Construction creates the folder if possible; otherwise the first write reports why
    not.  Nothing else is read or created before the first call.

    Args:
        root: the folder, ``./checkpoints`` by default.  `storage_dir` and
            `storage_path` are synonyms; the latter wins if both are given.
        storage: used instead of a folder.
        durability: ``always``: acknowledged writes survive a power cut.  ``interval``:
            they do after `interval_seconds`.  ``never``: the operating system decides.
        interval_seconds: see `durability`.
        max_state_bytes: limit of a state's JSON, for saves and reads.
        max_depth: levels of nesting in a state, at most 250.
        lock_timeout_seconds: how long to wait for another process that writes to a job.
        trash_seconds: how long a deleted checkpoint can be undeleted.
        policies: the retention policies of jobs, applied only by `plan` and `apply`.
            By default everything is kept.
        codec: how new states are stored.  ``auto``: as a delta to an earlier state if
            that is shorter; ``zstd``: compressed, each on its own; ``json``: verbatim.
            States of every codec are readable.
        keys: encrypt states and metadata with the current key; read with any.
        allow_plaintext: with `keys`, also read states that are not encrypted.
        shared: who may use a folder that is created here: ``private``: its owner;
            ``group``: also the folder's group, as far as the umask allows.
        actor: the actor in the journal; ``lib:<program>@<host>`` by default.
        clock: returns the current time.

    Raises:
        InvalidArgument: an argument has the wrong type or is out of bounds, or two
            arguments exclude each other.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        check_methods(cls)

    @checked
    def __init__(
        self,
        root: str | Path | None = None,
        *,
        storage_dir: str | Path | None = None,
        storage_path: str | Path | None = None,
        storage: Storage | None = None,
        durability: Durability = "always",
        interval_seconds: float = 0.2,
        max_state_bytes: int = 16 * 1024 * 1024,
        max_depth: int = 200,
        lock_timeout_seconds: float = 30.0,
        trash_seconds: float = 7 * 86400.0,
        policies: Policies | None = None,
        codec: Codec = "auto",
        keys: KeyRing | None = None,
        allow_plaintext: bool = False,
        shared: Sharing = "private",
        actor: str | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        folder = _folder(root, storage_dir, storage_path, storage)
        if durability not in ("always", "interval", "never"):
            raise InvalidArgument(
                f"durability must be always, interval or never, got {durability!r}"
            )
        if shared not in ("private", "group"):
            raise InvalidArgument(f"shared must be private or group, got {shared!r}")
        if codec not in ("auto", "json", "zstd"):
            raise InvalidArgument(f"codec must be auto, json or zstd, got {codec!r}")
        if not 1 <= max_depth <= json_states.DEPTH_LIMIT:
            raise InvalidArgument(
                f"max_depth must be 1 to {json_states.DEPTH_LIMIT}, got {max_depth!r}"
            )
        self.root = self.storage_dir = self.storage_path = folder
        self.trash_seconds = trash_seconds
        self.max_clock_jump_seconds = MAX_CLOCK_JUMP_SECONDS
        self.max_downtime_seconds = MAX_DOWNTIME_SECONDS
        self._clock_guard: ClockGuard | None = None
        self._policies = policies
        self._actor = _default_actor() if actor is None else actor
        ids.check_label("actor", self._actor)
        self._clock = clock
        if storage is None:
            assert folder is not None
            storage = FileStorage(
                folder,
                durability=durability,
                interval_seconds=interval_seconds,
                lock_timeout_seconds=lock_timeout_seconds,
                shared=shared,
            )
            storage.make_root()
        self._store = Store(storage, clock)
        vault = Vault(keys, allow_plaintext, max_state_bytes)
        self._store.key_id = vault.key_id
        self._reader = Reader(
            self._store, vault, Limits(max_state_bytes, max_depth), folder
        )
        self._packer = Packer(codec, vault.key_id)
        self._registering = Mutex()

    @property
    def policies(self) -> Policies:
        """The retention policies of jobs."""
        if self._policies is None:
            from milepost.journal.retention.policies import (
                Policies,  # imported late: rarely needed
            )

            self._policies = Policies()
        return self._policies

    @policies.setter
    def policies(self, policies: Policies) -> None:
        self._policies = policies

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def job_ids(self) -> list[str]:
        """Return the ids of all jobs, sorted; faster than `jobs`, which reads journals.

        Includes jobs whose checkpoints are in plain files and not imported yet.
        """
        return self._reader.job_ids()

    def close(self) -> None:
        """Sync pending writes and close every file.  Idempotent."""
        self._store.close()
        self._packer.forget()


def _folder(
    root: str | Path | None,
    storage_dir: str | Path | None,
    storage_path: str | Path | None,
    storage: Storage | None,
) -> Path | None:
    """Return the store's folder; None if a `storage` replaces it.

    Raises:
        InvalidArgument: a path has the wrong type, or the arguments exclude each other.
    """
    given = [p for p in (storage_path, storage_dir, root) if p is not None]
    if storage is not None:
        if given:
            raise InvalidArgument("give a folder or a storage, not both")
        return None
    if root is not None and storage_dir is not None:
        raise InvalidArgument(
            f"give one folder, got root {root!r:.60} and storage_dir "
            f"{storage_dir!r:.60}"
        )
    return Path(given[0] if given else DEFAULT_FOLDER)


def _default_actor() -> str:
    program = Path(sys.argv[0]).stem if sys.argv and sys.argv[0] else "python"
    return f"lib:{program}@{os.uname().nodename}"
