"""Every setting: its type, its bounds, its default, and where its value came from.

`load` is the only door to config.toml and the environment.  A value that it cannot use
is a `ConfigError`; it never guesses and never drops a key.
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from journal.compaction import Threshold
from journal.retention import Policy
from journal.state_json import DEPTH_LIMIT
from worker import layers, sources
from worker.refusals import refusal
from worker.sources import ConfigError
from worker.units import seconds, size_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from journal import CheckpointManager, KeyRing

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
    "WorkerSettings",
    "load",
    "load_keys",
    "open_manager",
]

DEFAULT_CLEANUP = "0 3 * * *"
_AS_WRITTEN = {"as_written": True}


def _quantity(
    parse: Callable[[str], float], at_least: str, at_most: str
) -> BeforeValidator:
    """Return a validator for text with a unit, within bounds given the same way.

    In a file and in the environment a bare number is refused: nobody can see whether
    200 is seconds.  In Python the field's name holds the unit, so numbers are welcome.
    """
    low, high = parse(at_least), parse(at_most)

    def check(value: object, info: ValidationInfo) -> object:
        is_number = isinstance(value, (int, float))
        if isinstance(value, str) or (is_number and info.context == _AS_WRITTEN):
            value = parse(str(value))
        if isinstance(value, (int, float)) and not low <= value <= high:
            raise ValueError(f"expected {at_least} to {at_most}")
        return value

    return BeforeValidator(check)


def _folder(value: object) -> object:
    if isinstance(value, str):
        if not sources.is_path(value):
            raise ValueError("expected the name of a folder")
        return Path(value)
    return value


def _key_file(value: object) -> object:
    if value == "":
        return None
    if isinstance(value, str):
        if not sources.is_path(value):
            raise ValueError("expected the name of a file")
        return Path(value)
    return value


Folder = Annotated[Path, BeforeValidator(_folder)]
KeyFile = Annotated[Path | None, BeforeValidator(_key_file)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]


class _Table(BaseModel):
    """One table of config.toml: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        validate_by_name=True,
        validate_by_alias=True,
        hide_input_in_errors=True,
    )


class StoreSettings(_Table):
    """`[store]`: where the journals are and what an acknowledged save promises."""

    root: Folder = Path(sources.DEFAULT_ROOT)
    durability: Literal["always", "interval", "never"] = "always"
    interval_seconds: Annotated[float, _quantity(seconds, "1ms", "1min")] = Field(
        default=0.2, validation_alias="interval"
    )
    max_state_bytes: Annotated[int, _quantity(size_bytes, "1KiB", "1GiB")] = Field(
        default=16 * 1024 * 1024, validation_alias="max_state"
    )
    max_depth: int = Field(default=200, ge=1, le=DEPTH_LIMIT)
    codec: Literal["auto", "json", "zstd"] = "auto"
    key_file: KeyFile = None
    allow_plaintext: bool = False
    lock_timeout_seconds: Annotated[float, _quantity(seconds, "0s", "1h")] = Field(
        default=30.0, validation_alias="lock_timeout"
    )


class WorkerSettings(_Table):
    """`[worker]`: when scheduled work runs and how changes are noticed."""

    enabled: bool = True
    cleanup: str = DEFAULT_CLEANUP
    timezone: str = "UTC"
    jitter_seconds: Annotated[float, _quantity(seconds, "0s", "1h")] = Field(
        default=30.0, validation_alias="jitter"
    )
    sweep_seconds: Annotated[float, _quantity(seconds, "50ms", "1h")] = Field(
        default=5.0, validation_alias="sweep"
    )
    debounce_seconds: Annotated[float, _quantity(seconds, "10ms", "1s")] = Field(
        default=0.15, validation_alias="debounce"
    )
    watcher: Literal["auto", "inotify", "poll", "off"] = "auto"

    @field_validator("cleanup")
    @classmethod
    def _fires(cls, text: str) -> str:
        # APScheduler takes longer to import than everything else here together, and
        # the default is known to fire.
        if text != DEFAULT_CLEANUP:
            from worker.scheduler import read_schedule

            read_schedule(text)
        return text

    @field_validator("timezone")
    @classmethod
    def _exists(cls, name: str) -> str:
        if name == "UTC":  # known even where no time zone data is installed
            return name
        try:
            ZoneInfo(name)
        except (OSError, ValueError, KeyError) as exc:
            raise ValueError('expected a time zone such as "Europe/Berlin"') from exc
        return name


class TokenSettings(_Table):
    """One `[[api.tokens]]`: who may call, kept only as a hash."""

    name: Name
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    scopes: list[Literal["read", "write", "admin"]] = Field(min_length=1)


class ApiSettings(_Table):
    """`[api]`: where the server listens and what it refuses."""

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8080, ge=0, le=65535)
    allowed_hosts: list[
        Annotated[str, StringConstraints(pattern=r"^[^\s,/]+$", max_length=255)]
    ] = []
    max_body_bytes: Annotated[int, _quantity(size_bytes, "1KiB", "1GiB")] = Field(
        default=1024 * 1024, validation_alias="max_body"
    )
    max_page: int = Field(default=500, ge=1, le=10_000)
    tokens: list[TokenSettings] = []

    @field_validator("tokens")
    @classmethod
    def _are_distinct(cls, tokens: list[TokenSettings]) -> list[TokenSettings]:
        names = [token.name for token in tokens]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"expected distinct names, {name!r} stands there twice"
                )
        return tokens


class Rule(_Table):
    """What to keep.  Each key keeps on its own; with none set everything stays."""

    keep_last: int | None = Field(default=None, ge=1, le=1_000_000)
    keep_within_seconds: Annotated[float, _quantity(seconds, "1s", "1000y")] | None = (
        Field(default=None, validation_alias="keep_within")
    )


class MatchRule(Rule):
    """One `[[retention.rule]]`: a rule for the jobs whose id matches a glob."""

    match: str = Field(min_length=1)
    inherit: bool = False


class RetentionSettings(_Table):
    """`[retention]`: what the scheduled cleanup keeps and removes."""

    min_keep: int = Field(default=3, ge=1, le=1_000_000)
    min_age_seconds: Annotated[float, _quantity(seconds, "0s", "1000y")] = Field(
        default=3600.0, validation_alias="min_age"
    )
    trash_seconds: Annotated[float, _quantity(seconds, "0s", "1000y")] = Field(
        default=7 * 86_400.0, validation_alias="trash_period"
    )
    max_per_run: int = Field(default=10_000, ge=1, le=10_000_000)
    compact_min_bytes: Annotated[int, _quantity(size_bytes, "1KiB", "1GiB")] = Field(
        default=1024 * 1024, validation_alias="compact_min"
    )
    compact_fraction: float = Field(default=0.25, ge=0.0, le=1.0)
    erase_within_seconds: Annotated[float, _quantity(seconds, "0s", "1000y")] = Field(
        default=7 * 86_400.0, validation_alias="erase_within"
    )
    default: Rule = Rule()
    rule: list[MatchRule] = []

    @property
    def compaction(self) -> Threshold:
        """When a journal is rewritten without the states that have to go."""
        return Threshold(
            self.compact_min_bytes, self.compact_fraction, self.erase_within_seconds
        )

    def policy_for(self, job_id: str) -> Policy:
        """Return what to keep of `job_id`: the first rule that matches, or the default.

        A rule starts from nothing; only with ``inherit`` does it take what it leaves
        unset from the default.
        """
        for rule in self.rule:
            if fnmatchcase(job_id, rule.match):
                inherited = self.default if rule.inherit else Rule()
                return self._policy(f"rule:{rule.match}", rule, inherited)
        return self._policy("default", self.default, Rule())

    def _policy(self, name: str, rule: Rule, inherited: Rule) -> Policy:
        within = rule.keep_within_seconds
        return Policy(
            name=name,
            keep_last=inherited.keep_last if rule.keep_last is None else rule.keep_last,
            keep_within_seconds=(
                inherited.keep_within_seconds if within is None else within
            ),
            min_age_seconds=self.min_age_seconds,
            min_keep=self.min_keep,
        )


class ExecutorSettings(_Table):
    """`[executor]`: how a server that runs alone resumes a job."""

    command: list[str] | None = Field(default=None, min_length=1)
    python: (
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]
        | None
    ) = None
    log_dir: Folder | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.command is not None and self.python is not None:
            raise ValueError('expected "command" or "python", not both')
        return self


class Settings(_Table):
    """All settings of one process.

    Attributes:
        origins: dotted key -> ``"default"``, the file, or the variable that set it.
        file: the config file that was read, None if there was none.
        signature: of that file as it was read; see `sources.signature`.
        environ: the variables that were laid over it, to do so again after an edit.
    """

    store: StoreSettings = StoreSettings()
    worker: WorkerSettings = WorkerSettings()
    api: ApiSettings = ApiSettings()
    retention: RetentionSettings = RetentionSettings()
    executor: ExecutorSettings = ExecutorSettings()

    _origins: Mapping[str, str] = PrivateAttr(default_factory=dict)
    _config: sources.ConfigFile | None = PrivateAttr(default=None)
    _environ: Mapping[str, str] = PrivateAttr(default_factory=lambda: os.environ)

    @property
    def origins(self) -> Mapping[str, str]:
        """Where each value came from."""
        return self._origins

    @property
    def file(self) -> Path | None:
        """The config file behind these settings."""
        return self._config.path if self._config else None

    @property
    def signature(self) -> sources.Signature | None:
        """What that file looked like when it was read."""
        return self._config.signature if self._config else None

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment behind these settings."""
        return self._environ

    @property
    def log_dir(self) -> Path:
        """Where an executor writes the output of the jobs that it starts."""
        return self.executor.log_dir or self.store.root / "logs"


def load(
    path: Path | None = None, *, environ: Mapping[str, str] = os.environ
) -> Settings:
    """Return the settings: environment before file before defaults.

    Raises:
        ConfigError: a named file is absent, or a key, a variable or a value is wrong;
            nothing was changed.
    """
    file = sources.find(path, environ)
    config = sources.read(file) if file else None
    merged = layers.merge(Settings, config, sources.variables(environ))
    try:
        settings = Settings.model_validate(
            merged.values, context=_AS_WRITTEN, by_alias=True, by_name=False
        )
    except ValidationError as exc:
        raise ConfigError(refusal(exc, Settings, merged, config)) from exc
    settings._origins = MappingProxyType(merged.origins)  # noqa: SLF001 - our own class
    settings._config = config  # noqa: SLF001 - our own class
    settings._environ = dict(environ)  # noqa: SLF001 - our own class
    return settings


def load_keys(
    store: StoreSettings, *, environ: Mapping[str, str] = os.environ
) -> KeyRing | None:
    """Return the keys of the store: `MILEPOST_KEYS` before the file; None without any.

    Raises:
        UnusableKeys: there are some, and they cannot be used.
    """
    text = environ.get(sources.KEYS)
    if not text and store.key_file is None:
        return None
    from journal.keys import KeyRing

    if text:
        return KeyRing.from_text(text)
    assert store.key_file is not None
    return KeyRing.from_file(store.key_file)


def open_manager(
    settings: Settings | StoreSettings, *, actor: str | None = None
) -> CheckpointManager:
    """Open the store that `settings` describe.

    All settings also set the trash period; those of the store alone leave its default.

    Raises:
        StorageFailed: the folder can't be used.
        UnusableKeys: the keys can't.
    """
    # Here, because many verbs read settings and never open a store.
    from journal import CheckpointManager

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
        keys=load_keys(store, environ=environ),
        allow_plaintext=store.allow_plaintext,
        lock_timeout_seconds=store.lock_timeout_seconds,
        actor=actor,
    )
    if isinstance(settings, Settings):
        manager.trash_seconds = settings.retention.trash_seconds
    return manager
