"""Finding and opening the store of a command.

In this order: `--store`, `MILEPOST_STORE_ROOT`, `[store]` of the config file, the
default.  Reading needs only the folder, so `list` and similar commands use
`milepost.worker.config.files`, which does not import pydantic.  Writing obeys every
setting (durability, limits, trash period), so if any is set it uses
`milepost.worker.config.settings`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from milepost.api.cli.exits import Failure
from milepost.api.cli.output import say
from milepost.journal.errors import NotImported
from milepost.journal.manager import CheckpointManager
from milepost.worker.config import files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from milepost.worker.config.settings import Settings

_ROOT = "MILEPOST_STORE_ROOT"


def environment(store: str | None) -> Mapping[str, str]:
    """Return the environment with the variable of the store set from `--store`.

    Raises:
        Failure: usage.
    """
    if store is None:
        return os.environ
    if not store:
        # Probably an unset shell variable; the default store would be wrong.
        raise Failure("usage", "--store is empty")
    return {**os.environ, _ROOT: store}


def config_path(config: str | None) -> Path | None:
    """Return `--config` as a path; report files that were found but are not used."""
    path = None if config is None else Path(config)
    for line in files.skipped(path, os.environ):
        say(line)
    return path


def open_to_read(config: str | None, store: str | None) -> CheckpointManager:
    """Open the store for commands that journal nothing.

    Raises:
        Failure: no_store.
        ConfigError: the setting of the folder is wrong, or a setting is unknown.
        UnusableKeys: the store's keys can't be used.
    """
    path, environ = config_path(config), environment(store)
    if files.has_keys(path, environ=environ):
        from milepost.worker.config.settings import load, open_manager

        settings = load(path, environ=environ)
        existing(settings.store.root)
        return open_manager(settings, actor=actor())
    root = files.store_root(path, environ=environ)
    return CheckpointManager(existing(root), actor=actor())


def open_to_write(
    config: str | None, store: str | None, *, may_create: bool
) -> CheckpointManager:
    """Open the store with all settings.

    Raises:
        Failure: no_store, unless it may be created.
        ConfigError: any setting is wrong.
    """
    return open_with_settings(config, store, may_create=may_create)[0]


def open_with_settings(
    config: str | None, store: str | None, *, may_create: bool = False
) -> tuple[CheckpointManager, Settings | None]:
    """Open the store with all settings; return these too, None if nothing is set.

    Raises:
        Failure: no_store, unless it may be created.
        ConfigError: any setting is wrong.
    """
    path, environ = config_path(config), environment(store)
    given = files.variables(environ).keys() - {_ROOT}
    if files.find(path, environ) or given or environ.get(files.KEYS):
        from milepost.worker.config.settings import load, open_manager

        settings = load(path, environ=environ)
        root = settings.store.root
        if not may_create:
            existing(root)
        return open_manager(settings, actor=actor()), settings
    root = files.store_root(path, environ=environ)
    if not may_create:
        existing(root)
    return CheckpointManager(root, actor=actor()), None


def configured_root(config: str | None, store: str | None) -> Path | None:
    """Return the folder of the store, None if neither it nor a config file is given.

    Raises:
        ConfigError: the setting of the folder is wrong, or a setting is unknown.
    """
    path, environ = config_path(config), environment(store)
    if files.find(path, environ) or environ.get(_ROOT):
        return files.store_root(path, environ=environ)
    return None


def existing(root: Path) -> Path:
    """Return `root` if it has a store.

    Raises:
        Failure: no_store, since a mistyped folder must not look like an empty store.
        NotImported: it has checkpoint files instead.
    """
    if not (root / "journals").is_dir():
        from milepost.journal.reading import store_check

        if jobs := store_check.jobs_to_import(root):
            raise NotImported(jobs, root)
        hint = "set --store DIR or MILEPOST_STORE_ROOT; `milepost save` creates a store"
        raise Failure("no_store", f"no store in {root}", hint)
    return root


def actor() -> str:
    """Return the actor for the journal: `cli:<user>@<host>`.

    The user is that of the process, since `LOGNAME` and `USER` can be set freely.
    """
    import pwd

    uid = os.getuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:  # a container may run under a uid without a name
        user = str(uid)
    return f"cli:{user}@{os.uname().nodename}"
