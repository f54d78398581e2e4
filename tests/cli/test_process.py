"""The real `milepost`, started as a shell starts it."""

from __future__ import annotations

import array
import fcntl
import json
import re
import signal
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

import click
import pytest

from milepost import CheckpointManager
from milepost.api.cli.group import milepost
from tests.support.cli import BIN, JOB, Done, clean_environ, ids_of, run
from tests.support.eventually import DEADLINE_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SLOW = frozenset(
    {"pydantic", "fastapi", "starlette", "uvicorn", "apscheduler", "watchdog", "rich"}
)
SHOW_MODULES = """
import json
import sys
from milepost.api.cli.group import milepost
for words in json.loads(sys.argv[1]):
    try:
        milepost.main(words)
    except SystemExit as done:
        loaded = sorted({name.partition(".")[0] for name in sys.modules})
        sys.stderr.write(json.dumps([words, done.code, loaded]) + "\\n")
"""
CONFIG = """\
[store]
root = "checkpoints"
durability = "always"
interval = "200ms"
[worker]
cleanup = "0 3 * * *"
[api]
port = 8080
"""
READING = [
    ("list", JOB),
    ("list",),
    ("show", JOB),
    ("log", JOB),
    ("jobs",),
    ("diff", f"{JOB}@first", JOB),
    ("verify", "--deep"),
]
WRITING = [
    ("save", JOB, "--step", "s"),
    ("restore", JOB),
    ("delete", f"{JOB}@first"),
    ("cleanup", JOB),
    ("pin", f"{JOB}@first"),
]


def assert_quick(verbs: list[tuple[str, ...]]) -> None:
    """Run verbs one after the other in one process; none may import a slow package."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW_MODULES, json.dumps(verbs)],
        input=b"{}",
        capture_output=True,
        env=clean_environ(),
        check=True,
    )
    said = [json.loads(line) for line in done.stderr.splitlines() if line[:2] == b"[["]
    assert [tuple(words) for words, _, _ in said] == verbs
    for words, code, loaded in said:
        assert (words, code, SLOW.intersection(loaded)) == (words, 0, set())


@pytest.mark.usefixtures("store")
def test_a_quick_verb_imports_nothing_slow() -> None:
    assert_quick([*READING, *WRITING, ("--help",)])


@pytest.mark.usefixtures("store")
def test_a_config_file_does_not_make_reading_slow(folder: Path) -> None:
    (folder / "config.toml").write_text(CONFIG)

    assert_quick(READING)


@pytest.mark.usefixtures("store")
def test_a_pipe_that_closes_early_is_quiet() -> None:
    done = in_shell("milepost list etl-daily | head -1; echo ${PIPESTATUS[0]}")

    assert done.out == (
        "seq\tcheckpoint_id\tstep_name\ttimestamp\tstored_bytes\ttags\tpinned\tcurrent"
        "\theld\tfailed\n0\n"
    )
    assert done.err == ""


@pytest.mark.usefixtures("store")
def test_a_pipe_that_was_never_open_is_quiet_too() -> None:
    # `true` may end before or after the list is written; both must be quiet.
    done = in_shell("milepost list etl-daily | true; echo ${PIPESTATUS[0]}")

    assert (done.out, done.err) == ("0\n", "")


@pytest.mark.usefixtures("store")
def test_a_full_disk_under_stdout_is_one_line_and_exit_1() -> None:
    done = in_shell("milepost list etl-daily > /dev/full")

    assert done.code == 1
    assert done.err == "milepost: can't write the answer: No space left on device\n"


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    "closed",
    [
        *(pytest.param(one, marks=pytest.mark.slow) for one in (">&-", "2>&-", "<&-")),
        ">&- 2>&- <&-",
    ],
)
def test_closed_standard_streams_are_survived(closed: str) -> None:
    assert in_shell(f"milepost show {JOB} {closed}").code == 0


def test_names_survive_a_locale_without_utf_8(folder: Path) -> None:
    run("save", "täglich🚀", "--step", "s", stdin=b"{}")

    done = run("jobs", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")

    assert done.rows[0][0] == "täglich🚀"
    assert (folder / "checkpoints").is_dir()


@pytest.mark.sampled(every=3)
@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("options", ["", "--json"])
@pytest.mark.parametrize(
    "words",
    [
        "$'\\xff'",
        "list $'\\xff'",
        "show $'etl-daily@tag:\\xff'",
        "save j $'\\xff' --step s",
        "jobs --store $'\\xff'",
    ],
)
def test_an_argument_that_is_no_text_is_one_clear_error(
    words: str, options: str
) -> None:
    done = in_shell(f"milepost {words} {options}")

    assert done.code in {1, 2, 4, 10}
    assert (done.out + done.err).count("\n") == 1
    assert "Traceback" not in done.err


def test_ctrl_c_before_the_state_has_come_saves_nothing(folder: Path) -> None:
    with started("save", JOB, "--step", "s") as child:
        assert child.stdin is not None
        child.stdin.write(b'{"half": ')
        child.stdin.flush()
        wait_until_drained(child.stdin.fileno())
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=DEADLINE_SECONDS)

    assert child.returncode == 130
    assert err.decode().strip() == "milepost: interrupted"
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("store")
def test_the_package_can_be_run_as_a_module_too() -> None:
    words = [sys.executable, "-m", "milepost", "list", JOB]

    done = subprocess.run(words, capture_output=True, env=clean_environ(), check=False)

    assert done.stdout.decode() == run("list", JOB).out


INTERRUPTED_IMPORT = """
import sys
class Interrupted:
    def find_spec(self, name, *_):
        if name == "click":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from milepost.api.cli.main import main
main()
"""


def test_ctrl_c_while_everything_is_still_being_imported_is_quiet() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT], capture_output=True, check=False
    )

    assert (done.returncode, done.stderr) == (130, b"")


@pytest.mark.usefixtures("store")
def test_the_shell_completes_verbs_and_job_ids() -> None:
    for words, expected in (("milepost undel", "undelete"), ("milepost list et", JOB)):
        done = run(
            _MILEPOST_COMPLETE="bash_complete",
            COMP_WORDS=words,
            COMP_CWORD=str(len(words.split()) - 1),
        )
        assert done.out == f"plain,{expected}\n"


@pytest.mark.parametrize("store_root", ["nowhere", "/dev/null"])
def test_completion_without_a_store_is_silent(folder: Path, store_root: str) -> None:
    done = run(
        _MILEPOST_COMPLETE="bash_complete",
        COMP_WORDS="milepost list et",
        COMP_CWORD="2",
        MILEPOST_STORE_ROOT=store_root,
    )

    assert (done.out.strip(), done.err) == ("", "")
    assert list(folder.iterdir()) == []


def test_a_round_trip_through_a_pipe_gives_the_same_bytes(store: Path) -> None:
    done = in_shell(
        f"milepost restore {JOB}@3 | milepost save copy --step s;"
        "milepost restore copy 2>/dev/null"
    )

    assert done.out.splitlines()[-1] == '{"rows":120,"files":["a","b"]}'
    assert len(ids_of(store, "copy")) == 1


# -- help ------------------------------------------------------------------------------


def verbs() -> Iterator[tuple[str, click.Command]]:
    """Yield every verb, nested ones included."""
    context = click.Context(milepost)
    for name in milepost.list_commands(context):
        command = milepost.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {sub}", cmd) for sub, cmd in command.commands.items())


def examples_of(command: click.Command) -> list[str]:
    shown = command.get_help(click.Context(command))
    _, _, example = shown.partition("Example:\n")
    return [line.strip() for line in example.splitlines() if line.strip()]


FLOWS = """
from milepost import CheckpointManager

@CheckpointManager("checkpoints").workflow("ingest")
def ingest(run):
    return run.step("load", int)
"""
EXAMPLES = [
    (f"{name} {number}", line)
    for name, command in [*verbs(), ("milepost", milepost)]
    for number, line in enumerate(examples_of(command))
]
# Without the server, which does not end, and the database, which is not here.
RUNNABLE = [
    (name, line)
    for name, line in EXAMPLES
    if not line.startswith("milepost serve") and "postgresql:" not in line
]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, _ in verbs()])
def test_every_help_ends_with_an_example(name: str) -> None:
    assert any(found.startswith(f"{name} ") for found, _ in EXAMPLES)
    help_text = run(*name.split(), "--help").out
    assert re.search(rf"\n  Example:\n(    .*milepost {name}.*\n)+$", help_text)


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [line for _, line in RUNNABLE],
    ids=[name for name, _ in RUNNABLE],
)
def test_every_example_works_as_it_stands(line: str, store: Path, folder: Path) -> None:
    (folder / "state.json").write_text('{"totals": {"rows": 7}}')
    (folder / "config.toml").write_text(CONFIG)
    (folder / "old-checkpoints" / "job").mkdir(parents=True)
    save = "milepost save etl-daily state.json --step x --tag prod 2>/dev/null >&2;"
    undo = "milepost delete etl-daily@3 2>/dev/null;" if "undelete" in line else ""
    keys = ""
    if line.startswith("milepost keys") and "generate" not in line:
        (folder / "mine.keys").touch(0o600)
        (folder / "mine.keys").write_text(f"a:{64 * '0'} 20260301-07ab:{64 * '1'}")
        keys = "export MILEPOST_STORE_KEY_FILE=mine.keys;"

    (folder / "day.json").write_text("{}")
    (folder / "flows.py").write_text(FLOWS)
    asked = ""
    if re.search(r" exec_|\$ID", line):
        with CheckpointManager(store) as manager:
            manager.start_workflow_execution("etl-daily", "ingest", pending=True)
            if "$ID" in line:
                found = manager.request_approval("exec_etl-daily", {})
                asked = f"ID={found.approval_id}; DIGEST={found.subject_digest};"

    if "sqlite:" in line:
        saver = pytest.importorskip(
            "langgraph.checkpoint.sqlite", reason="needs LangGraph"
        )
        with saver.SqliteSaver.from_conn_string(folder / "checkpoints.sqlite") as empty:
            empty.setup()

    done = in_shell(save + undo + keys + asked + line)

    assert done.code == 0, done.err
    assert done.out + done.err
    assert len(ids_of(store)) >= 2 or line.startswith("milepost erase")


def in_shell(script: str) -> Done:
    """Run a line of bash in which `milepost` is the real one."""
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        env=clean_environ(),
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def started(*words: str) -> subprocess.Popen[bytes]:
    # A shell lets what it starts in the background ignore Ctrl-C, the tests included.
    return subprocess.Popen(
        ["env", "--default-signal=INT", BIN / "milepost", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environ(),
    )


def wait_until_drained(pipe: int) -> None:
    """Wait until the reader of `pipe` has taken all that was written to it."""
    waiting = array.array("i", [1])

    def is_drained() -> bool:
        fcntl.ioctl(pipe, termios.FIONREAD, waiting)
        return not waiting[0]

    eventually(is_drained)
