"""All settings: types, bounds, defaults and the origin of each value.

Only `load` reads config.toml and the environment.  An invalid value or an unknown key
is a `ConfigError`.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from milepost.journal.quantities import seconds, size_bytes
from milepost.journal.states.json_states import DEPTH_LIMIT
from milepost.worker.config import files, merge
from milepost.worker.config.errors import refusal
from milepost.worker.config.files import ConfigError
from milepost.worker.config.retention import MatchRule, RetentionSettings, Rule
from milepost.worker.config.schedules import (
    MAX_SCHEDULES,
    ScheduleRule,
    check_schedules,
)
from milepost.worker.config.tables import AS_WRITTEN, Table, Zone, quantity
from milepost.worker.config.webhooks import MAX_WEBHOOKS, WebhookSettings
from milepost.worker.config.workflows import ObjectName, WorkflowRule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from milepost.journal.crypto.keys import KeyRing
    from milepost.journal.manager import CheckpointManager
    from milepost.worker.executors import Executor

__all__ = [
    "ApiSettings",
    "ConfigError",
    "ExecutorSettings",
    "MatchRule",
    "RetentionSettings",
    "Rule",
    "Settings",
    "StoreSettings",
    "TokenSettings",
    "WebhookSettings",
    "WorkerSettings",
    "load",
    "load_keys",
    "open_executor",
    "open_manager",
]

DEFAULT_CLEANUP = "0 3 * * *"
DEFAULT_SCHEDULES = (DEFAULT_CLEANUP, "30 3 * * *", "0 5 * * *", "0 4 * * sun")
# The schedule of a task that runs only on request.
NEVER = "off"


def _folder(value: object) -> object:
    if isinstance(value, str):
        if not files.is_path(value):
            raise ValueError("expected the name of a folder")
        return Path(value)
    return value


def _key_file(value: object) -> object:
    if value == "":
        return None
    if isinstance(value, str):
        if not files.is_path(value):
            raise ValueError("expected the name of a file")
        return Path(value)
    return value


Folder = Annotated[Path, BeforeValidator(_folder)]
KeyFile = Annotated[Path | None, BeforeValidator(_key_file)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]


class StoreSettings(Table):
    """`[store]`: the folder of the journals, durability and encoding."""

    root: Folder = Path(files.DEFAULT_ROOT)
    durability: Literal["always", "interval", "never"] = "always"
    interval_seconds: Annotated[float, quantity(seconds, "1ms", "1min")] = Field(
        default=0.2, validation_alias="interval"
    )
    max_state_bytes: Annotated[int, quantity(size_bytes, "1KiB", "1GiB")] = Field(
        default=16 * 1024 * 1024, validation_alias="max_state"
    )
    max_depth: int = Field(default=200, ge=1, le=DEPTH_LIMIT)
    codec: Literal["auto", "json", "zstd"] = "auto"
    shared: Literal["private", "group"] = "private"
    key_file: KeyFile = None
    allow_plaintext: bool = False
    lock_timeout_seconds: Annotated[float, quantity(seconds, "0s", "1h")] = Field(
        default=30.0, validation_alias="lock_timeout"
    )


class WorkerSettings(Table):
    """`[worker]`: schedules and bounds of the tasks, clock checks, the watcher."""

    enabled: bool = True
    cleanup: str = DEFAULT_CLEANUP
    compact: str = "30 3 * * *"
    purge: str = "0 5 * * *"
    verify: str = "0 4 * * sun"
    max_run_seconds: Annotated[float, quantity(seconds, "1s", "1w")] = Field(
        default=3600.0, validation_alias="max_run"
    )
    max_rewrite_bytes: Annotated[int, quantity(size_bytes, "1MiB", "10000GiB")] = Field(
        default=16 << 30, validation_alias="max_rewrite"
    )
    verify_deep_bytes: Annotated[int, quantity(size_bytes, "0B", "10000GiB")] = Field(
        default=1 << 30, validation_alias="verify_deep"
    )
    max_downtime_seconds: Annotated[float, quantity(seconds, "0s", "1000y")] = Field(
        default=30 * 86_400.0, validation_alias="max_downtime"
    )
    max_clock_jump_seconds: Annotated[float, quantity(seconds, "1min", "1000y")] = (
        Field(default=3600.0, validation_alias="max_clock_jump")
    )
    timezone: Zone = "UTC"
    jitter_seconds: Annotated[float, quantity(seconds, "0s", "1h")] = Field(
        default=30.0, validation_alias="jitter"
    )
    sweep_seconds: Annotated[float, quantity(seconds, "50ms", "1h")] = Field(
        default=5.0, validation_alias="sweep"
    )
    debounce_seconds: Annotated[float, quantity(seconds, "10ms", "1s")] = Field(
        default=0.1, validation_alias="debounce"
    )
    watcher: Literal["auto", "inotify", "poll", "off"] = "auto"

    @field_validator("cleanup", "compact", "purge", "verify")
    @classmethod
    def _fires(cls, text: str) -> str:
        # The defaults are known to fire; checking them would import APScheduler,
        # which takes longer to load than all other imports of this module.
        if text not in (NEVER, *DEFAULT_SCHEDULES):
            from milepost.worker.schedule.scheduler import read_schedule

            read_schedule(text)
        return text


class TokenSettings(Table):
    """One `[[api.tokens]]`: a caller's name, token hash and scopes."""

    name: Name
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    scopes: list[Literal["read", "write", "admin"]] = Field(min_length=1)


class ApiSettings(Table):
    """`[api]`: listen address, limits, timeouts and tokens."""

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8080, ge=0, le=65535)
    allowed_hosts: list[
        Annotated[str, StringConstraints(pattern=r"^[^\s,/]+$", max_length=255)]
    ] = Field(default_factory=list)
    max_body_bytes: Annotated[int, quantity(size_bytes, "1KiB", "1GiB")] = Field(
        default=1024 * 1024, validation_alias="max_body"
    )
    max_page: int = Field(default=500, ge=1, le=10_000)
    max_connections: int = Field(default=512, ge=16, le=100_000)
    head_timeout_seconds: Annotated[float, quantity(seconds, "100ms", "1h")] = Field(
        default=10.0, validation_alias="head_timeout"
    )
    body_timeout_seconds: Annotated[float, quantity(seconds, "100ms", "1h")] = Field(
        default=30.0, validation_alias="body_timeout"
    )
    idle_timeout_seconds: Annotated[float, quantity(seconds, "100ms", "1h")] = Field(
        default=5.0, validation_alias="idle_timeout"
    )
    send_timeout_seconds: Annotated[float, quantity(seconds, "100ms", "1h")] = Field(
        default=30.0, validation_alias="send_timeout"
    )
    tokens: list[TokenSettings] = Field(default_factory=list)

    @field_validator("tokens")
    @classmethod
    def _are_distinct(cls, tokens: list[TokenSettings]) -> list[TokenSettings]:
        _check_names([token.name for token in tokens])
        return tokens


def _check_names(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"expected distinct names, {name!r} is used twice")


class ExecutorSettings(Table):
    """`[executor]`: how the server and the worker resume a job."""

    command: list[str] | None = Field(default=None, min_length=1)
    python: ObjectName | None = None
    log_dir: Folder | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.command is not None and self.python is not None:
            raise ValueError('expected "command" or "python", not both')
        return self


class Settings(Table):
    """All settings of one process.

    Attributes:
        origins: dotted key -> ``"default"``, the file, or the variable that set it.
        file: the config file, None if there was none.
        signature: the file's signature when it was read; see `files.signature`.
        environ: the environment, used again when the file is reloaded.
    """

    store: StoreSettings = StoreSettings()
    worker: WorkerSettings = WorkerSettings()
    api: ApiSettings = ApiSettings()
    retention: RetentionSettings = RetentionSettings()
    executor: ExecutorSettings = ExecutorSettings()
    workflows: list[WorkflowRule] = Field(default_factory=list)
    schedule: list[ScheduleRule] = Field(default_factory=list, max_length=MAX_SCHEDULES)
    webhooks: list[WebhookSettings] = Field(
        default_factory=list, max_length=MAX_WEBHOOKS
    )

    _origins: Mapping[str, str] = PrivateAttr(default_factory=dict)
    _config: files.ConfigFile | None = PrivateAttr(default=None)
    _environ: Mapping[str, str] = PrivateAttr(default_factory=lambda: os.environ)

    @field_validator("schedule")
    @classmethod
    def _fit(cls, rules: list[ScheduleRule]) -> list[ScheduleRule]:
        return check_schedules(rules)

    @field_validator("webhooks")
    @classmethod
    def _are_distinct(cls, webhooks: list[WebhookSettings]) -> list[WebhookSettings]:
        _check_names([webhook.name for webhook in webhooks])
        return webhooks

    @property
    def origins(self) -> Mapping[str, str]:
        """The origin of each value, by dotted key."""
        return self._origins

    def source_of(self, place: str, key: str) -> str:
        """Return the file or variable that set `key` of an `InForce` origin."""
        if place == "default" or place.startswith("preset "):
            return place
        dotted = "retention.rule" if place.startswith("rule:") else f"{place}.{key}"
        origin = self._origins.get(dotted) or self._origins.get(f"{dotted}.metric")
        if origin is None or origin == "default":
            return place
        is_variable = origin.startswith(files.PREFIX)
        return origin if is_variable else f"{place} in {origin}"

    @property
    def file(self) -> Path | None:
        """The config file of these settings."""
        return self._config.path if self._config else None

    @property
    def signature(self) -> files.Signature | None:
        """The signature of that file when it was read."""
        return self._config.signature if self._config else None

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment of these settings."""
        return self._environ

    @property
    def log_dir(self) -> Path:
        """The folder for the output of jobs that the executor starts."""
        return self.executor.log_dir or self.store.root / "logs"


def load(
    path: Path | None = None, *, environ: Mapping[str, str] = os.environ
) -> Settings:
    """Return the settings.  The environment overrides the file, the file the defaults.

    Raises:
        ConfigError: a named file does not exist, or a key, a variable or a value is
            invalid.
    """
    file = files.find(path, environ)
    config = files.read(file) if file else None
    merged = merge.merge(Settings, config, files.variables(environ))
    try:
        settings = Settings.model_validate(
            merged.values, context=AS_WRITTEN, by_alias=True, by_name=False
        )
    except ValidationError as exc:
        read_from = str(file) if file else "environment"
        raise ConfigError(refusal(exc, Settings, merged, read_from)) from exc
    settings._origins = MappingProxyType(merged.origins)  # noqa: SLF001 - our own class
    settings._config = config  # noqa: SLF001 - our own class
    settings._environ = dict(environ)  # noqa: SLF001 - our own class
    return settings


def load_keys(
    store: StoreSettings, *, environ: Mapping[str, str] = os.environ
) -> KeyRing | None:
    """Return the store's keys from `MILEPOST_KEYS`, else from the key file, else None.

    Raises:
        UnusableKeys: the keys are malformed, or the file is missing or unsafe.
    """
    text = environ.get(files.KEYS)
    if not text and store.key_file is None:
        return None
    from milepost.journal.crypto.keys import KeyRing

    if text:
        return KeyRing.from_text(text)
    assert store.key_file is not None
    return KeyRing.from_file(store.key_file)


def open_manager(
    settings: Settings | StoreSettings, *, actor: str | None = None
) -> CheckpointManager:
    """Open the store that `settings` describe.

    `Settings` also set trash period, clock limits and policies; `StoreSettings` do not.

    Raises:
        StorageFailed: the folder can't be used.
        UnusableKeys: the keys can't be used.
    """
    # Imported here: many commands read settings and never open a store.
    from milepost.journal.manager import CheckpointManager

    store, environ = (
        (settings.store, settings.environ)
        if isinstance(settings, Settings)
        else (settings, os.environ)
    )
    manager = CheckpointManager(
        store.root,
        durability=store.durability,
        interval_seconds=store.interval_seconds,
        max_state_bytes=store.max_state_bytes,
        max_depth=store.max_depth,
        codec=store.codec,
        shared=store.shared,
        keys=load_keys(store, environ=environ),
        allow_plaintext=store.allow_plaintext,
        lock_timeout_seconds=store.lock_timeout_seconds,
        actor=actor,
    )
    if isinstance(settings, Settings):
        manager.trash_seconds = settings.retention.trash_seconds
        manager.max_clock_jump_seconds = settings.worker.max_clock_jump_seconds
        manager.max_downtime_seconds = settings.worker.max_downtime_seconds
        manager.policies = settings.retention.policies
    return manager


def open_executor(settings: Settings) -> Executor | None:
    """Return the executor that `settings` describe, None if they describe none.

    The caller stops its jobs at the end; see `jobs_stopped`.

    Raises:
        ExecutorUnusable: it cannot be loaded.
    """
    from milepost.worker.executors import CommandExecutor, load_executor

    if settings.executor.command is not None:
        return CommandExecutor(settings.executor.command, log_dir=settings.log_dir)
    if settings.executor.python is not None:
        return load_executor(settings.executor.python)
    return None
