"""Sources of settings: finding and reading config.toml, and the environment.

This module does not interpret settings.  It imports neither pydantic nor other slow
modules at the top, because commands that must start fast use `store_root`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from milepost.journal.errors import MilepostError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREFIX = "MILEPOST_"
DEFAULT_ROOT = "checkpoints"
MAX_CONFIG_BYTES = 1 << 20

# Variables that are not settings of config.toml.
KEYS = "MILEPOST_KEYS"  # key material; never part of the settings, which are printed
NOT_SETTINGS = frozenset({"MILEPOST_CONFIG", KEYS, "MILEPOST_TOKEN", "MILEPOST_URL"})

# Keys that `store_root` ignores without validation; a test compares both sets with
# the models.
TABLES = frozenset(
    {
        *("api", "executor", "retention", "schedule", "store"),
        *("webhooks", "workflows", "worker"),
    }
)
STORE_KEYS = frozenset(
    {
        *("allow_plaintext", "codec", "durability", "interval", "key_file"),
        *("lock_timeout", "max_depth", "max_state", "root", "shared"),
    }
)

# The header of a Milepost table, to recognize a config file with a syntax error.
_OUR_HEADER = re.compile(
    rb"^\s*\[\[?\s*(%s)\b" % "|".join(sorted(TABLES)).encode(), re.MULTILINE
)

Signature = tuple[int, ...]


class ConfigError(MilepostError, ValueError):
    """A setting is invalid.  The text is one line: place, key, expected value."""

    code = "config"


class ConfigFile(NamedTuple):
    """The parsed content of one config.toml, and the signature of the file."""

    path: Path
    values: dict[str, Any]
    signature: Signature | None


def find(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the config file to use, None if there is none.

    Order: `path`, ``MILEPOST_CONFIG``, ``./config.toml``, the user's config folder.
    The last two may belong to another program; see `skipped`.

    Raises:
        ConfigError: `path` or the file named by ``MILEPOST_CONFIG`` does not exist.
    """
    if (named := _named(path, environ)) is not None:
        return named
    for candidate in _candidates(environ):
        if _is_there(candidate) and _why_skipped(candidate) is None:
            return candidate
    return None


def skipped(path: Path | None, environ: Mapping[str, str]) -> list[str]:
    """Return a line for each file that `find` skipped.

    `find` skips unreadable files and files without a Milepost table: many programs
    read a ``config.toml`` from the current folder.
    """
    if path is not None or environ.get("MILEPOST_CONFIG"):
        return []
    lines = []
    for candidate in _candidates(environ):
        if _is_there(candidate):
            if (why := _why_skipped(candidate)) is None:
                break
            lines.append(f"{candidate}: skipped: {why}; use --config FILE to name one")
    return lines


def _named(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the file named by `path` or ``MILEPOST_CONFIG``, None if neither is set.

    Raises:
        ConfigError: the file does not exist.
    """
    if path is not None:
        if not _is_there(path):
            raise ConfigError(f"{path}: no such config file")
        return path
    if named := environ.get("MILEPOST_CONFIG"):
        path = _expanded(named)
        if not _is_there(path):
            raise ConfigError(f"{path}: no such config file, named by MILEPOST_CONFIG")
        return path
    return None


def _candidates(environ: Mapping[str, str]) -> tuple[Path, Path]:
    base = _expanded(environ.get("XDG_CONFIG_HOME") or "~/.config")
    return Path("config.toml"), base / "milepost" / "config.toml"


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True  # reading it reports the error
    return True


def _why_skipped(path: Path) -> str | None:
    """Return why `find` skips a file that was not named, None if it uses it."""
    try:
        if not path.is_file():  # opening a FIFO would block
            return "it is not a regular file"
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES)
    except OSError as exc:
        return f"it cannot be read: {exc.strerror or exc}"
    try:
        values = read(path).values
    except ConfigError:
        is_ours = _OUR_HEADER.search(raw) is not None
    else:
        is_ours = not values or any(nearest(key, TABLES, 0.8) for key in values)
    return None if is_ours else f"it has none of the tables {', '.join(sorted(TABLES))}"


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no home directory: `~` is a folder of that name
        return Path(text)


def read(path: Path) -> ConfigFile:
    """Read and parse `path`.

    Raises:
        ConfigError: the file can't be read or is not TOML; the text names the line.
    """
    import tomllib

    from milepost.journal.disk.disk import PosixDisk

    # Taken before the read: an edit in between then shows up at the next comparison.
    before = signature(path)
    try:
        file = PosixDisk(follows_links=True).open(path, "read")
        try:
            raw = file.read(0, MAX_CONFIG_BYTES + 1)
        finally:
            file.close()
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes")
    try:
        text = raw.decode()
        values = tomllib.loads(text)
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise ConfigError(f"{path}: line {line}: not UTF-8") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: {_where(str(exc), text)}") from exc
    except RecursionError as exc:
        raise ConfigError(f"{path}: values are nested too deeply") from exc
    return ConfigFile(path, values, before)


def _where(problem: str, text: str) -> str:
    """Return tomllib's message with its position first: ``line 3, column 7: …``."""
    if match := re.search(r" \(at line (\d+), column (\d+)\)$", problem):
        place = f"line {match[1]}, column {match[2]}"
        return f"{place}: {problem[: match.start()]}"
    lines = text.split("\n")
    place = f"line {len(lines)}, column {len(lines[-1]) + 1}"
    return f"{place}: {problem.removesuffix(' (at end of document)')}"


def signature(path: Path) -> Signature | None:
    """Return a value that changes when the file at `path` does; None if absent."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the ``MILEPOST_…`` variables that are settings and are not empty.

    Compose files and CI pass an unset variable as an empty one.
    """
    return {
        name: value
        for name, value in environ.items()
        if name.startswith(PREFIX) and name not in NOT_SETTINGS and value
    }


def variable_of(key: str) -> str:
    """Return the variable that sets the dotted `key`."""
    return PREFIX + key.replace(".", "_").upper()


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return the name in `known` most similar to `name`, None if none is close."""
    import difflib

    return next(iter(difflib.get_close_matches(name, sorted(known), 1, cutoff)), None)


def anchored(text: str, file: Path | None) -> Path:
    """Return the path that `text` names.

    A path in a config file is relative to the folder of that file, so that the file
    names the same store from every working directory.  Other paths are relative to the
    current folder.
    """
    path = _expanded(text)
    return file.parent / path if file else path


def is_path(text: object) -> bool:
    """Return whether `text` is a possible path: not empty and without NUL."""
    return isinstance(text, str) and text != "" and "\0" not in text


def has_keys(
    path: Path | None = None, *, environ: Mapping[str, str] = os.environ
) -> bool:
    """Return whether keys are configured; `settings.load_keys` loads them.

    Raises:
        ConfigError: the config file cannot be read.
    """
    if environ.get(KEYS) or environ.get(variable_of("store.key_file")):
        return True
    file = find(path, environ)
    store = read(file).values.get("store") if file else None
    return isinstance(store, dict) and bool(store.get("key_file"))


def store_root(
    path: Path | None = None, *, environ: Mapping[str, str] = os.environ
) -> Path:
    """Return the store's folder, faster than `settings.load`.

    Reads only the settings that determine the folder.  Anything unexpected is passed
    to `settings.load`, so errors such as a misspelt key are the same.

    Raises:
        ConfigError: as `settings.load`.
    """
    given = variables(environ)
    root = given.pop("MILEPOST_STORE_ROOT", None)
    file = find(path, environ)
    values = read(file).values if file else {}
    store = values.get("store", {})
    is_plain = (
        not given
        and TABLES.issuperset(values)
        and isinstance(store, dict)
        and STORE_KEYS.issuperset(store)
        and is_path(store.get("root", DEFAULT_ROOT))
    )
    if not is_plain:
        from milepost.worker.config.settings import load

        return load(path, environ=environ).store.root
    if root is not None:
        return anchored(root, None)
    return anchored(store["root"], file) if "root" in store else Path(DEFAULT_ROOT)
