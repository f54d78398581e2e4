"""Where settings come from: the search for config.toml, its bytes, the environment.

Nothing here knows what a setting means and nothing here imports pydantic, or anything
else before it is needed, because `store_root` serves the verbs that must start fast.
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

# Read by the command line and its clients; they set nothing in config.toml.
KEYS = "MILEPOST_KEYS"  # key material, which no setting may show
NOT_SETTINGS = frozenset({"MILEPOST_CONFIG", KEYS, "MILEPOST_TOKEN", "MILEPOST_URL"})

# What `store_root` may step over without validating it; a test holds both against
# the models.
TABLES = frozenset({"api", "executor", "retention", "store", "worker"})
STORE_KEYS = frozenset(
    {
        *("allow_plaintext", "codec", "durability", "interval", "key_file"),
        *("lock_timeout", "max_depth", "max_state", "root", "shared"),
    }
)

# One of our tables begins, in a file that is no TOML as a whole.
_OUR_HEADER = re.compile(
    rb"^\s*\[\[?\s*(%s)\b" % "|".join(sorted(TABLES)).encode(), re.MULTILINE
)

Signature = tuple[int, ...]


class ConfigError(MilepostError, ValueError):
    """A setting cannot be used.  One line: where, which key, what is expected."""

    code = "config"


class ConfigFile(NamedTuple):
    """What one config.toml held, and the signature of the file that held it."""

    path: Path
    values: dict[str, Any]
    signature: Signature | None


def find(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the config file to use, None if there is none.

    Order: `path`, ``MILEPOST_CONFIG``, ``./config.toml``, the user's config folder.
    Of the last two, nobody has said that they are there for us; see `skipped`.

    Raises:
        ConfigError: a file that was asked for by name does not exist.
    """
    if (named := _named(path, environ)) is not None:
        return named
    for candidate in _candidates(environ):
        if _is_there(candidate) and _why_skipped(candidate) is None:
            return candidate
    return None


def skipped(path: Path | None, environ: Mapping[str, str]) -> list[str]:
    """Return a line for each file that `find` came across and passed over.

    That is one that cannot be read, or that has none of our tables: many programs read
    a ``config.toml`` from the current folder.
    """
    if path is not None or environ.get("MILEPOST_CONFIG"):
        return []
    lines = []
    for candidate in _candidates(environ):
        if _is_there(candidate):
            if (why := _why_skipped(candidate)) is None:
                break
            lines.append(f"{candidate}: skipped: {why}; --config FILE names one to use")
    return lines


def _named(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the config file that was asked for by name.

    Raises:
        ConfigError: it does not exist.
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
        return True  # reading it says why not
    return True


def _why_skipped(path: Path) -> str | None:
    """Return why a file that nobody named is not ours, None if it is."""
    try:
        if not path.is_file():  # a pipe would keep us waiting
            return "it is no regular file"
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
    except RuntimeError:  # a user without a home: then `~` is a folder of that name
        return Path(text)


def read(path: Path) -> ConfigFile:
    """Read and parse `path`.

    Raises:
        ConfigError: it can't be read, or is no TOML; says where.
    """
    import tomllib

    from milepost.journal.disk.disk import PosixDisk

    # Taken first: an edit between this and the read makes the next look differ.
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
    """Return tomllib's message with its place in front: ``line 3, column 7: …``."""
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
    """Return the ``MILEPOST_…`` variables that set something.

    An empty one sets nothing: that is how compose files and CI say "not given".
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
    """Return the one of `known` that `name` was probably meant to be."""
    import difflib

    return next(iter(difflib.get_close_matches(name, sorted(known), 1, cutoff)), None)


def anchored(text: str, file: Path | None) -> Path:
    """Return the path that `text` names.

    A path in a config file counts from that file's folder, so that the file means the
    same store from wherever it is used; any other from the current folder.
    """
    path = _expanded(text)
    return file.parent / path if file else path


def is_path(text: object) -> bool:
    """Return whether `text` can name a file or a folder at all."""
    return isinstance(text, str) and text != "" and "\0" not in text


def has_keys(
    path: Path | None = None, *, environ: Mapping[str, str] = os.environ
) -> bool:
    """Tell whether reading the store may need keys, which `settings.load_keys` finds.

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
    """Return the store's folder, in a fraction of the time that `settings.load` takes.

    Looks only at what decides the folder; whatever it does not understand it hands to
    `settings.load`, so a misspelt key is the same error here.

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
