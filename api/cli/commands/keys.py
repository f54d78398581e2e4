"""`milepost keys`: the keys of an encrypted store (generate, list, rotate, drop)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from milepost.api.cli.context import Frame, command, example_text, with_shared_options
from milepost.api.cli.exits import Failure
from milepost.api.cli.results import Answer, Table
from milepost.journal.errors import NotImported
from milepost.journal.wording import counted, needing

if TYPE_CHECKING:
    from pathlib import Path

    from milepost.journal.crypto.keys import Key, KeyRing
    from milepost.worker.config.settings import Settings

_COLUMNS = ("key_id", "current", "states")


@with_shared_options
@click.group("keys", epilog=example_text("milepost keys generate milepost.keys"))
def keys_command() -> None:
    """Manage the keys that encrypt states."""


@command("generate", example="milepost keys generate milepost.keys")
@click.argument("file", required=False)
def generate_command(frame: Frame, file: str | None) -> Answer:
    """Create a key file with one new key.

    FILE defaults to store.key_file.  The file must not exist.
    """
    from pathlib import Path

    from milepost.journal.crypto import key_file
    from milepost.journal.crypto.keys import KeyRing

    settings = frame.settings()
    path = settings.store.key_file if file is None else Path(file)
    if path is None:
        raise Failure("usage", "no FILE, and store.key_file is not set")
    key = _fresh_key()
    key_file.make(path, KeyRing([key]).to_text())
    notes = [f"created {path}; keep a copy elsewhere: without it the states are lost"]
    if path != settings.store.key_file:
        notes.append(f'to use it: key_file = "{path}" under [store] in config.toml')
    return Answer({"key_id": key.key_id, "path": str(path)}, key.key_id, tuple(notes))


@command("list", example="milepost keys list")
def list_command(frame: Frame) -> Answer:
    """List the keys, the current one first, with the number of states of each.

    Missing keys that states need are listed too.
    """
    keys = _keys(frame.settings())
    used = _used(frame)
    ids = dict.fromkeys([*keys.ids, *sorted(key_id for key_id in used if key_id)])
    rows = [(k, k == keys.current.key_id, used.get(k, 0)) for k in ids]
    missing = [key_id for key_id in ids if keys.get(key_id) is None]
    notes = [f"key {k!r} is missing: {needing(used[k])} it" for k in missing]
    if plain := used.get(""):
        states = counted(plain, "state")
        notes.append(f"{states} {'is' if plain == 1 else 'are'} not encrypted")
    data = {
        "keys": [
            {**dict(zip(_COLUMNS, row, strict=True)), "at_hand": row[0] not in missing}
            for row in rows
        ],
        "not_encrypted": used.get("", 0),
    }
    return Answer(data, Table(_COLUMNS, rows), tuple(notes))


@command("rotate", example="milepost keys rotate")
def rotate_command(frame: Frame) -> Answer:
    """Add a new key to the key file and make it the current one.

    New states use it; older states use it after their job is compacted.
    Running processes must be restarted.
    """
    from milepost.journal.crypto import key_file
    from milepost.journal.crypto.keys import KeyRing

    path = _file(frame.settings())
    key = _fresh_key()

    def added(text: str) -> str:
        return KeyRing.from_text(text).with_current(key).to_text()

    key_file.change(path, added)
    notes = (
        f"key {key.key_id!r} is current in {path}; keep a copy elsewhere",
        "restart running processes; older states keep their keys until compaction",
    )
    return Answer({"key_id": key.key_id, "path": str(path)}, key.key_id, notes)


@command("drop", example="milepost keys drop 20260301-07ab")
@click.argument("key_id", metavar="ID")
@click.option(
    "--force", is_flag=True, help="Drop it even if states need it; they are lost."
)
def drop_command(frame: Frame, key_id: str, *, force: bool) -> Answer:
    """Remove a key from the key file, permanently.

    Refused while a state needs it, and always for the current key.
    """
    from milepost.journal.crypto import key_file
    from milepost.journal.crypto.keys import KeyRing

    path = _file(frame.settings())
    _without(KeyRing.from_file(path), key_id, path)
    _retire(frame, key_id, force=force)

    def taken_out(text: str) -> str:
        return _without(KeyRing.from_text(text), key_id, path).to_text()

    key_file.change(path, taken_out)
    note = f"removed key {key_id!r} from {path}; erase copies elsewhere yourself"
    return Answer({"key_id": key_id, "path": str(path)}, None, (note,))


for _command in (generate_command, list_command, rotate_command, drop_command):
    keys_command.add_command(_command)


def _without(keys: KeyRing, key_id: str, path: Path) -> KeyRing:
    if keys.get(key_id) is None:
        raise Failure("not_found", f"no key {key_id!r} in {path}")
    if keys.current.key_id == key_id:
        hint = "`milepost keys rotate` makes another key current"
        raise Failure("protected", f"key {key_id!r} is the current key", hint)
    return keys.without(key_id)


def _retire(frame: Frame, key_id: str, *, force: bool) -> None:
    """Record in the store that no process may write with the key any more."""
    try:
        with frame.open() as manager:
            manager.drop_key(key_id, force=force)
    except Failure as exc:
        if exc.problem.code != "no_store":
            raise


def _fresh_key() -> Key:
    from milepost.journal.clock import utc_now
    from milepost.journal.crypto.keys import Key

    return Key.new(f"{utc_now():%Y%m%d}-{os.urandom(4).hex()}")


def _keys(settings: Settings) -> KeyRing:
    from milepost.worker.config.settings import load_keys

    keys = load_keys(settings.store, environ=settings.environ)
    if keys is None:
        raise Failure("not_found", "no keys are set, so nothing is encrypted", _HINT)
    return keys


_HINT = "`milepost keys generate FILE` creates a key file"


def _file(settings: Settings) -> Path:
    """Return the key file, which `rotate` and `drop` change."""
    from milepost.worker.config import files

    if settings.environ.get(files.KEYS):
        hint = "change the variable instead"
        raise Failure("usage", f"the keys come from {files.KEYS}", hint)
    if settings.store.key_file is None:
        raise Failure("usage", "store.key_file is not set", _HINT)
    return settings.store.key_file


def _used(frame: Frame) -> dict[str, int]:
    """Count the states of each key; none if there is no store."""
    try:
        with frame.open() as manager:
            return manager.keys_in_use()
    except Failure as exc:
        if exc.problem.code != "no_store":
            raise
        return {}
    except NotImported:
        return {}
