"""Files that nobody named, folders that cannot be read, and streams that are closed."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from milepost.api.cli.group import COMMANDS
from tests.support.cli import BIN, JOB, call, clean_environ
from tests.support.cli import run as run_command
from tests.support.eventually import DEADLINE_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

HUGO = 'baseURL = "https://example.org/"\ntitle = "x"\n'


# -- config files that nobody named ----------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        HUGO,
        "[server]\nport = 1\n",
        "no TOML at all",
        "\x80 not UTF-8",
        "[build]\ntarget = [\n",
    ],
)
def test_a_config_file_of_another_program_is_skipped_with_a_note(
    store: Path, folder: Path, text: str
) -> None:
    (folder / "config.toml").write_bytes(text.encode("latin-1"))

    done = call("--store", str(store), "list", JOB)

    assert (done.code, len(done.rows)) == (0, 3)
    assert done.err.count("config.toml: skipped: it has none of the tables") == 1
    assert call("config", "path").code == 4
    assert call("--config", "config.toml", "list", JOB).code == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[retention]\nkep_last = 3\ntitle = "x"\n', "unknown key"),
        ("[retention]\nmin_keep = \n", "line 2"),
        ("[retentoin]\nmin_keep = 1\n", "did you mean retention?"),
        ("[[retention.rule]]\nmatch = 1\n[", "line 3"),
        ("[store]\nroot = ''\n", "store.root"),
    ],
)
@pytest.mark.usefixtures("store")
def test_a_config_file_of_ours_is_an_error_where_it_is_wrong(
    folder: Path, text: str, said: str
) -> None:
    (folder / "config.toml").write_text(text)

    done = call("config", "check")

    assert done.code == 1
    assert said in done.err


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
@pytest.mark.usefixtures("store")
def test_what_is_no_file_is_skipped_where_it_was_found_and_refused_where_named(
    folder: Path, kind: str
) -> None:
    path = folder / "config.toml"
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}.get(
        kind, lambda: path.symlink_to(path)
    )()

    done = run_command("list", JOB)

    assert done.code == 0
    assert "config.toml: skipped: it " in done.err
    if kind != "pipe":
        assert run_command("list", JOB, MILEPOST_CONFIG="config.toml").code == 1


def test_a_current_folder_that_was_removed_is_not_needed(
    store: Path, folder: Path
) -> None:
    gone = folder / "gone"
    gone.mkdir()
    script = f'cd {gone}; rmdir {gone}; exec "$@"'
    for verb in (["list", JOB], ["save", JOB, "--step", "s"], ["doctor"], ["jobs"]):
        done = subprocess.run(
            ["sh", "-c", script, "-", BIN / "milepost", "--store", store, *verb],
            input=b"{}",
            capture_output=True,
            env=clean_environ(HOME=str(gone)),
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, (verb, done.stderr)
        gone.mkdir()


# Without this, root reads what nobody may.
PLAIN = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


@pytest.mark.skipif(
    not os.geteuid() and not shutil.which(PLAIN[0]),
    reason="this kernel lets root read everything, and there is no setpriv",
)
@pytest.mark.parametrize(
    "place", ["home", pytest.param("current folder", marks=pytest.mark.slow)]
)
def test_a_folder_that_cannot_be_read_is_not_needed(folder: Path, place: str) -> None:
    private = folder / "private"
    private.mkdir(mode=0)
    home = private if place == "home" else folder
    environ = {k: v for k, v in clean_environ().items() if not k.startswith("XDG")}
    if place != "home":  # nobody can go there, but many are there already
        command = ["sh", "-c", 'cd "$0" && chmod 0 . && exec "$@"', private]
        private.chmod(0o700)
    else:
        command = []
    for verb in (("save", "job", "--step", "s"), ("list", "job"), ("config", "check")):
        words = [BIN / "milepost", "--store", folder / "st", *verb]
        plain = [] if os.geteuid() else PLAIN
        done = subprocess.run(
            [*command, *plain, *words],
            input=b"{}",
            capture_output=True,
            env=environ | {"HOME": str(home)},
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        private.chmod(0o700 if command else 0)
        assert done.returncode == 0, done.stderr
        assert b"config.toml: skipped: it cannot be read: Permission denied" in (
            done.stderr
        )


# -- streams ---------------------------------------------------------------------------

# Every verb, with what it needs to do something.
VERBS = {
    "save": ("save", "new", "--step", "s"),
    "list": ("list", JOB),
    "show": ("show", JOB),
    "cat": ("cat", JOB),
    "jobs": ("jobs",),
    "log": ("log", JOB),
    "diff": ("diff", f"{JOB}@first", JOB),
    "restore": ("restore", JOB),
    "fork": ("fork", JOB, "copy"),
    "delete": ("delete", f"{JOB}@first"),
    "undelete": ("undelete", f"{JOB}@2"),
    "pin": ("pin", f"{JOB}@first"),
    "unpin": ("unpin", f"{JOB}@first"),
    "hold": ("hold", f"{JOB}@first"),
    "release": ("release", f"{JOB}@first"),
    "complete": ("complete", JOB),
    "run": ("run", "ingest", "--job", JOB),
    "executions": ("executions",),
    "execution": ("execution", "status", f"exec_{JOB}"),
    "signal": ("signal", f"exec_{JOB}", "go"),
    "approvals": ("approvals",),
    "approve": ("approve", "appr_0"),
    "reject": ("reject", "appr_0", "--reason", "no"),
    "schedules": ("schedules",),
    "webhooks": ("webhooks",),
    "import": ("import", "files", "."),
    "cleanup": ("cleanup", JOB, "--keep-last", "1"),
    "policy": ("policy", "show"),
    "compact": ("compact",),
    "erase": ("erase", JOB, "--yes"),
    "verify": ("verify",),
    "doctor": ("doctor",),
    "repair": ("repair", JOB),
    "worker": ("worker", "status"),
    "config": ("config", "show"),
    "keys": ("keys", "--help"),
    "serve": ("serve", "--help"),
}
REDIRECTIONS = ("<&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", "<.")


def shell(words: tuple[str, ...], redirection: str, **environ: str) -> tuple[int, str]:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "-", BIN / "milepost", *words],
        input=b"{}",
        capture_output=True,
        env=clean_environ(**environ),
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")


def test_the_table_of_verbs_has_them_all() -> None:
    assert set(COMMANDS) - VERBS.keys() == set()


def is_sound(text: str) -> bool:
    return not any(word in text for word in ("a bug", "Traceback", "Exception ignored"))


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.usefixtures("store")
def test_no_verb_calls_a_closed_or_full_stream_a_bug(verb: str) -> None:
    for redirection in REDIRECTIONS:
        code, text = shell(VERBS[verb], redirection)
        assert is_sound(text), (redirection, text)
        assert code in range(12), (redirection, code)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["list", "show", "jobs", "log", "doctor", "verify"])
@pytest.mark.usefixtures("store")
def test_an_answer_that_a_full_device_did_not_take_is_no_success(verb: str) -> None:
    for more in ((), ("--json",), ("--help",)):
        code, text = shell((*VERBS[verb], *more), ">/dev/full")
        assert code == 1, (more, text)
        assert "No space left" in text


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.usefixtures("store")
def test_no_verb_calls_an_encoding_or_a_hostile_word_a_bug(verb: str) -> None:
    words = VERBS[verb]
    _, text = shell(words, "", LANG="C", LC_ALL="C", PYTHONIOENCODING="ascii")
    assert is_sound(text), text
    for hostile in (b"\xff\xfe", "\u202e\x1b]0;x\x07".encode(), b"", b"-\xff"):
        name = os.fsdecode(hostile)
        for said in ((*words, name), (words[0], name), (*words, "--config", name)):
            done = call(*said, stdin=b"{}")
            assert is_sound(done.out + done.err), (said, done)
            assert done.code in range(12), (said, done)


def test_a_closed_stream_never_becomes_a_file_of_the_store(folder: Path) -> None:
    (folder / "state.json").write_text('{"n": 1}')
    code, _ = shell(("save", "job", "state.json", "--step", "s"), "<&- >&- 2>&-")

    assert code == 0
    assert call("verify").code == 0
    assert call("show", "job").json == {"n": 1}


@pytest.mark.usefixtures("folder")
def test_a_save_from_a_closed_stdin_says_what_to_do() -> None:
    code, text = shell(("save", "job", "--step", "s"), "<&-")

    assert code == 1
    assert text.startswith("milepost: stdin ")
