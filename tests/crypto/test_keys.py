"""Keys: which files are believed, what is never shown, and the verbs about them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from milepost import CheckpointManager, Key, KeyRing
from milepost.journal.errors import MissingKey, UnusableKeys
from milepost.worker.config.settings import load, load_keys
from tests.support.cli import call, run

HEX = "0123456789abcdef" * 4
TEXT = f"# mine\nnew:{HEX}  # current\n\nold:{HEX[::-1]}\n"


@pytest.fixture
def path(folder: Path) -> Path:
    made = folder / "milepost.keys"
    made.touch(0o600)
    made.write_text(TEXT)
    return made


def test_the_first_key_is_the_current_one_and_text_comes_back() -> None:
    keys = KeyRing.from_text(TEXT)
    assert keys.ids == ("new", "old")
    assert keys.current.material.hex() == HEX
    assert KeyRing.from_text(keys.to_text()).to_text() == keys.to_text()
    assert KeyRing.from_text(f"a:{HEX} b:{HEX}").ids == ("a", "b")


@pytest.mark.parametrize(
    "text",
    ["", "# none", f"a:{HEX} a:{HEX}", f"a:{HEX}0", f":{HEX}", HEX, f"ä:{HEX}"],
    ids=["empty", "comment", "twice", "long", "no id", "no colon", "no ASCII"],
)
def test_what_is_no_list_of_keys_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(UnusableKeys) as caught:
        KeyRing.from_text(text)
    assert HEX not in f"{caught.value} {caught.value.hint}"


def test_keys_never_show_what_they_are() -> None:
    keys = KeyRing.from_text(TEXT)
    assert HEX not in f"{keys!r} {keys.current!r} {[keys.current]}"
    assert repr(keys) == "KeyRing(new, old)"


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o601])
def test_a_key_file_that_others_may_use_is_refused(path: Path, mode: int) -> None:
    assert KeyRing.from_file(path).ids == ("new", "old")
    path.chmod(mode)
    with pytest.raises(UnusableKeys, match=f"{mode:04o}") as caught:
        KeyRing.from_file(path)
    assert "chmod 600" in str(caught.value.hint)


def test_what_is_no_readable_file_is_refused_by_name(folder: Path) -> None:
    os.mkfifo(folder / "fifo", 0o600)
    (folder / "binary").touch(0o600)
    (folder / "binary").write_bytes(b"\xff")
    for name in ("fifo", "binary", "absent", "."):
        with pytest.raises(UnusableKeys, match=str(folder / name)):
            KeyRing.from_file(folder / name)


def test_a_store_without_keys_never_imports_cryptography(tmp_path: Path) -> None:
    code = (
        "import sys; from milepost import CheckpointManager, Key, KeyRing\n"
        "KeyRing([Key.new('k')])\n"
        f"with CheckpointManager({str(tmp_path / 'store')!r}) as m:\n"
        "    m.get('j', m.save('j', 's', {}, metadata={'a': 1})); m.list('j')\n"
        "sys.exit('cryptography' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


# -- where a process finds them --------------------------------------------------------


def test_the_environment_beats_the_file(path: Path) -> None:
    environ = {"MILEPOST_STORE_KEY_FILE": str(path)}
    keys = load_keys(load(environ=environ).store, environ=environ)
    assert keys is not None
    assert keys.ids == ("new", "old")
    environ["MILEPOST_KEYS"] = f"other:{HEX}"
    keys = load_keys(load(environ=environ).store, environ=environ)
    assert keys is not None
    assert keys.ids == ("other",)
    assert load_keys(load(environ={}).store, environ={}) is None


def test_a_key_file_counts_from_the_folder_of_the_config_file(path: Path) -> None:
    config = path.with_name("config.toml")
    config.write_text('[store]\nkey_file = "milepost.keys"\n')
    assert load(config, environ={}).store.key_file == path
    config.write_text('[store]\nkey_file = ""\n')
    assert load(config, environ={}).store.key_file is None


@pytest.mark.usefixtures("folder")
def test_no_verb_shows_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILEPOST_KEYS", f"k:{HEX}")
    for words in (("config", "show"), ("keys", "list"), ("keys", "list", "--json")):
        done = call(*words)
        assert done.code == 0
        assert HEX not in done.out + done.err


# -- the verbs -------------------------------------------------------------------------


@pytest.fixture
def encrypted(folder: Path) -> Path:
    """A folder with a config file, a key file, and a store with one state."""
    (folder / "config.toml").write_text('[store]\nkey_file = "milepost.keys"\n')
    assert call("keys", "generate").code == 0
    done = call("save", "etl", "--step", "load", "--meta", "a=b", stdin='{"rows": 1}')
    assert done.code == 0, done.err
    return folder


def key_ids(folder: Path) -> tuple[str, ...]:
    return KeyRing.from_file(folder / "milepost.keys").ids


def test_generate_makes_a_private_file_and_never_replaces_one(folder: Path) -> None:
    done = call("keys", "generate", "my.keys")
    assert done.code == 0, done.err
    made = folder / "my.keys"
    assert made.stat().st_mode & 0o777 == 0o600
    assert KeyRing.from_file(made).ids == (done.out.strip(),)
    before = made.read_bytes()
    done = call("keys", "generate", "my.keys")
    assert done.code == 1
    assert "already exists" in done.err
    assert made.read_bytes() == before
    assert [each.name for each in folder.iterdir()] == ["my.keys"]


def test_the_command_line_reads_and_writes_an_encrypted_store(encrypted: Path) -> None:
    journal = encrypted / "checkpoints/journals/etl.jsonl"
    assert b'"alg":"A256GCM"' in journal.read_bytes()
    assert call("show", "etl").json == {"rows": 1}
    (listed,) = call("list", "etl", "--json").json["data"]["checkpoints"]
    assert listed["metadata"] == {"a": "b"}
    assert "metadata_problem" not in listed
    (encrypted / "config.toml").unlink()
    done = call("show", "etl")
    assert done.code == 1
    assert key_ids(encrypted)[0] in done.err
    done = call("list", "etl", "--json")
    (listed,) = done.json["data"]["checkpoints"]
    assert listed["metadata_problem"]["code"] == "missing_key"
    assert "metadata of 1 checkpoint is not shown" in call("list", "etl").err
    assert "1 state not checked" in call("verify", "--deep").err


def test_rotate_makes_a_new_key_current_and_keeps_the_old(encrypted: Path) -> None:
    (old,) = key_ids(encrypted)
    new = call("keys", "rotate").out.strip()
    assert key_ids(encrypted) == (new, old)
    assert call("show", "etl").json == {"rows": 1}
    assert call("save", "etl", "--step", "more", stdin='{"rows": 2}').code == 0
    rows = call("keys", "list").rows
    assert [(row[0], row[2]) for row in rows] == [(new, "1"), (old, "1")]


def test_drop_refuses_the_current_key_and_one_that_states_need(encrypted: Path) -> None:
    (old,) = key_ids(encrypted)
    assert call("keys", "drop", old).code == 6
    call("keys", "rotate")
    done = call("keys", "drop", old)
    assert done.code == 6
    assert "1 state needs key" in done.err
    assert old in key_ids(encrypted)
    assert call("keys", "drop", old, "--force").code == 0
    assert old not in key_ids(encrypted)
    with (
        CheckpointManager(
            encrypted / "checkpoints",
            keys=KeyRing.from_file(encrypted / "milepost.keys"),
        ) as manager,
        pytest.raises(MissingKey),
    ):
        manager.get("etl", manager.list("etl")[0].checkpoint_id)
    assert f"key '{old}' is missing" in call("keys", "list").err


def test_an_open_key_file_stops_every_verb_that_opens_the_store(
    encrypted: Path,
) -> None:
    (encrypted / "milepost.keys").chmod(0o644)
    for words in (("list", "etl"), ("save", "etl", "--step", "x"), ("keys", "rotate")):
        done = call(*words, stdin="{}")
        assert done.code == 1
        assert "chmod 600" in done.err


def test_keys_of_the_environment_serve_a_real_process(folder: Path) -> None:
    environ = {"MILEPOST_KEYS": f"k:{HEX}", "MILEPOST_STORE_ROOT": str(folder / "s")}
    saved = run("save", "etl", "--step", "x", stdin=b'{"rows": 1}', **environ)
    assert saved.code == 0, saved.err
    assert run("show", "etl", **environ).json == {"rows": 1}
    environ["MILEPOST_KEYS"] = ""
    assert run("show", "etl", **environ).code == 1


def test_a_rotation_that_cannot_be_written_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILEPOST_STORE_KEY_FILE", str(path))
    before = path.read_bytes()
    blocked = path.with_name(f"{path.name}.tmp")
    blocked.mkdir()  # the name that the new file would first have
    assert call("keys", "rotate").code == 1
    assert path.read_bytes() == before
    assert Key.new("a").material != Key.new("a").material
