"""Which store and which job a command line means, and who may be read back."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from milepost import CheckpointManager
from tests.support.cli import JOB, call, ids_of, types_of

HOSTILE = "x\x1b]0;owned\x07\u202e\n\ty"


@pytest.mark.parametrize(
    "words",
    [
        ("list", JOB),
        ("list",),
        ("jobs",),
        ("show", JOB),
        ("log", JOB),
        ("restore", JOB),
        ("delete", f"{JOB}@1"),
        ("cleanup", JOB),
        ("verify",),
    ],
    ids=" ".join,
)
def test_a_folder_without_a_store_is_not_an_empty_store(
    folder: Path, words: tuple[str, ...]
) -> None:
    (folder / "checkpoints").mkdir()

    done = call(*words)

    assert done.code == 10
    assert list((folder / "checkpoints").iterdir()) == []


def test_the_store_is_the_flags_then_the_variables_then_the_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("by-file", "by-variable", "by-flag"):
        call("save", name, "--step", "s", "--store", f"{name}.store", stdin="{}")
    (folder / "config.toml").write_text('[store]\nroot = "by-file.store"\n')
    assert [row[0] for row in call("jobs").rows] == ["by-file"]

    monkeypatch.setenv("MILEPOST_STORE_ROOT", "by-variable.store")
    assert [row[0] for row in call("jobs").rows] == ["by-variable"]
    for words in (
        ("jobs", "--store", "by-flag.store"),
        ("--store", "by-flag.store", "jobs"),
    ):
        assert [row[0] for row in call(*words).rows] == ["by-flag"]


@pytest.mark.usefixtures("store")
def test_an_empty_store_flag_does_not_mean_the_default() -> None:
    assert call("jobs", "--store", "").code == 2


def test_writing_obeys_the_limits_of_the_config_file(folder: Path) -> None:
    (folder / "config.toml").write_text("[store]\nmax_depth = 3\n")

    assert call("save", "j", "--step", "s", stdin='{"a": {"b": {"c": {}}}}').code == 1
    assert call("save", "j", "--step", "s", stdin='{"a": {"b": {}}}').code == 0


@pytest.mark.usefixtures("folder")
def test_writing_obeys_the_limits_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MILEPOST_STORE_MAX_DEPTH", "3")

    assert call("save", "j", "--step", "s", stdin='{"a": {"b": {"c": {}}}}').code == 1
    assert call("save", "j", "--step", "s", stdin='{"a": {"b": {}}}').code == 0


@pytest.mark.parametrize("verb", ["list", "save"])
@pytest.mark.usefixtures("store")
def test_a_misspelt_setting_is_an_error_for_every_verb(folder: Path, verb: str) -> None:
    (folder / "config.toml").write_text('[store]\nrooot = "x"\n')

    done = call(verb, JOB, *(["--step", "s"] if verb == "save" else []), stdin="{}")

    assert done.code == 1
    assert "did you mean store.root?" in done.err


@pytest.mark.parametrize("verb", ["list", "save"])
@pytest.mark.usefixtures("store")
def test_a_misspelt_variable_is_an_error_for_every_verb(
    monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setenv("MILEPOST_STORE_ROOOT", "elsewhere")

    done = call(verb, JOB, *(["--step", "s"] if verb == "save" else []), stdin="{}")

    assert done.code == 1
    assert "MILEPOST_STORE_ROOT" in done.err


@pytest.mark.usefixtures("folder")
def test_a_job_id_that_holds_an_at_is_reached_in_its_long_form() -> None:
    call("save", "me@example.com", "--step", "s", stdin='{"a": 1}')

    split = call("show", "me@example.com")
    assert split.code == 4
    assert "--job me@example.com --at latest" in split.err
    assert call("show", "--job", "me@example.com", "--at", "latest").json == {"a": 1}
    assert call("show", "me@example.com@latest").json == {"a": 1}
    assert call("fork", "--job", "me@example.com", "copy").code == 0
    missing = call("fork", "me@example.com@latest")
    assert (missing.code, "NEW_JOB" in missing.err) == (2, True)
    assert len(call("list", "me@example.com").rows) == 1


@pytest.mark.usefixtures("folder")
def test_a_job_id_that_begins_with_a_dash_comes_after_two() -> None:
    call("save", "--step", "s", "--", "-j", stdin='{"a": 1}')

    assert call("show", "--", "-j@-1").json == {"a": 1}
    assert call("show", "--job=-j", "--at=-1").json == {"a": 1}


@pytest.mark.parametrize(
    "words",
    [(JOB, "--job", JOB), (JOB, "--at", "latest"), (), ("--at", "latest")],
    ids=str,
)
@pytest.mark.usefixtures("store")
def test_a_job_is_named_once_and_whole(words: tuple[str, ...]) -> None:
    assert call("show", *words).code == 2


def test_another_writer_that_holds_the_job_too_long_is_exit_11(
    store: Path, folder: Path
) -> None:
    (folder / "config.toml").write_text('[store]\nlock_timeout = "10ms"\n')
    head = next(path for path in (store / "heads").iterdir() if path.is_file())

    with head.open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = call("save", JOB, "--step", "s", stdin="{}")

    assert done.code == 11


@pytest.mark.parametrize(
    "words",
    [
        ("list", "j"),
        ("list",),
        ("show", "j"),
        ("log", "j"),
        ("jobs",),
        ("delete", "j@latest", "--dry-run"),
        ("cleanup", "j", "--dry-run"),
        ("verify", "--deep"),
        ("show", f"j@{HOSTILE}"),
        ("show", f"{HOSTILE}@latest"),
        ("log", "j", "--type", HOSTILE),
        (HOSTILE,),
        ("list", f"--{HOSTILE}"),
        ("list", "j", "--json"),
        ("log", "j", "--json"),
        ("show", "j", "--json"),
        ("show", f"j@{HOSTILE}", "--json"),
        ("save", "j", HOSTILE, "--step", "s"),
    ],
    ids=lambda words: repr(" ".join(words))[:30],
)
@pytest.mark.usefixtures("folder")
def test_no_name_reaches_the_terminal_unescaped(words: tuple[str, ...]) -> None:
    with CheckpointManager("checkpoints") as manager:
        kept = manager.save("j", HOSTILE, {HOSTILE: HOSTILE}, tags=[HOSTILE])
        manager.delete("j", kept, reason=HOSTILE)
        manager.save("j", HOSTILE, {"a": 1}, metadata={HOSTILE: HOSTILE})

    done = call(*words)

    for line in (done.out + done.err).replace("\t", " ").split("\n"):
        assert line.isprintable(), line


@pytest.mark.parametrize(
    "verb",
    [
        ("show", JOB),
        ("restore", JOB),
        ("restore", JOB, "--dry-run"),
        ("fork", JOB, "copy"),
        ("diff", f"{JOB}@first", JOB),
        ("cleanup", "--explain", JOB),
    ],
)
def test_a_job_alone_is_its_current_checkpoint_also_after_a_restore(
    store: Path, verb: tuple[str, ...]
) -> None:
    assert call("restore", f"{JOB}@3").code == 0
    chosen = ids_of(store)[1]

    done = call(*verb, "--json")

    assert done.code == 0
    assert chosen in done.out
    assert ids_of(store)[2] not in done.out


@pytest.mark.parametrize("verb", ["delete", "undelete", "pin", "unpin", "hold"])
def test_what_removes_or_protects_needs_a_selector(store: Path, verb: str) -> None:
    before = types_of(store)

    done = call(verb, JOB)

    assert done.code == 2
    assert "which checkpoint" in done.err
    assert types_of(store) == before
