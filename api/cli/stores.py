"""Which store a command works on, and opening it.

`--store`, then `MILEPOST_STORE_ROOT`, then `[store]` of the config file, then the
default.  Reading needs to know nothing but the folder, so `list` and its like ask
`milepost.worker.config.files`, which knows no pydantic.  Writing obeys every setting
(durability, limits, trash period), so where any is set it goes through
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
    """Return the environment with `--store` laid over it: a flag beats a variable.

    Raises:
        Failure: usage.
    """
    if store is None:
        return os.environ
    if not store:
        # An unset shell variable, most likely; the default store is not what was meant.
        raise Failure("usage", "--store is empty")
    return {**os.environ, _ROOT: store}


def config_path(config: str | None) -> Path | None:
    """Return `--config` as a path; say which files were found and are not used."""
    path = None if config is None else Path(config)
    for line in files.skipped(path, os.environ):
        say(line)
    return path


def open_to_read(config: str | None, store: str | None) -> CheckpointManager:
    """Open the store for commands that journal nothing.

    Raises:
        Failure: no_store.
        ConfigError: what names the folder is wrong, or not a setting at all.
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
    """Open the store as all settings say.

    Raises:
        Failure: no_store, unless it may be created.
        ConfigError: any setting is wrong.
    """
    return open_with_settings(config, store, may_create=may_create)[0]


def open_with_settings(
    config: str | None, store: str | None, *, may_create: bool = False
) -> tuple[CheckpointManager, Settings | None]:
    """Open the store as all settings say; return these too, None if nothing is set.

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


def existing(root: Path) -> Path:
    """Return `root` if it holds a store.

    Raises:
        Failure: no_store.  A mistyped folder must not look like an empty store.
        NotImported: it holds checkpoint files instead.
    """
    if not (root / "journals").is_dir():
        from milepost.journal.repair import store_check

        if jobs := store_check.jobs_to_import(root):
            raise NotImported(jobs, root)
        hint = "--store DIR or MILEPOST_STORE_ROOT names one; `milepost save` makes one"
        raise Failure("no_store", f"no store in {root}", hint)
    return root


def actor() -> str:
    """Return who the journal says did it: `cli:<user>@<host>`.

    The user is the one of the process; `LOGNAME` and `USER` are anybody's to set.
    """
    import pwd

    uid = os.getuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:  # a container may run as a number without a name
        user = str(uid)
    return f"cli:{user}@{os.uname().nodename}"
