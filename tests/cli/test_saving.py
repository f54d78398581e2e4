"""`save`: what it keeps, and what it refuses because it would not come back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import JOB, call, ids_of, reader, types_of


def test_save_keeps_all_it_is_told(folder: Path) -> None:
    done = call(
        *("save", "new", "-", "--step", "load", "--tag", "a", "--tag", "b", "--pin"),
        *("--meta", "source=s3", "--meta", "note=x=y", "--workflow", "etl"),
        *("--workflow-version", "7"),
        stdin='{"rows": 1}',
    )

    with reader(folder / "checkpoints") as manager:
        (info,) = manager.list("new")
    assert done.out.strip() == info.checkpoint_id
    assert (info.step_name, info.tags, info.pinned) == ("load", ("a", "b"), True)
    assert info.metadata == {"source": "s3", "note": "x=y"}
    assert (info.workflow_name, info.workflow_version) == ("etl", "7")


def test_a_repeated_key_saves_once(folder: Path) -> None:
    words = ("save", "new", "--step", "load", "--idempotency-key", "k1")
    first = call(*words, stdin="{}")

    assert call(*words, stdin="{}").out == first.out
    assert call(*words, stdin='{"other": 1}').code == 5
    assert len(ids_of(folder / "checkpoints", "new")) == 1


def test_a_stale_expectation_is_a_conflict_for_every_verb_that_has_one(
    store: Path,
) -> None:
    for words in (
        ("save", JOB, "--step", "x"),
        ("restore", f"{JOB}@3"),
        ("delete", f"{JOB}@3"),
        ("cleanup", JOB, "--keep-last", "1"),
    ):
        assert call(*words, "--expect-seq", "3", stdin="{}").code == 5, words
        assert types_of(store)[4:] == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": {"b": NaN}}', "$.a.b"),
        ('{"a": [1, 18446744073709551616]}', "$.a[1]"),
        ('{"a": 1e999}', "$.a"),
        (r'{"a": "\ud800"}', "$.a"),
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ("[1, 2]", "a list"),
        ('{"a": ', "not valid JSON"),
        (b"\xff\xfe{", "not valid JSON"),
        ("", "not valid JSON"),
        ('{"a":' * 300 + "1" + "}" * 300, "deeper"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "deeper"),
        ('{"a": "' + "x" * 17_000_000 + '"}', "16777216"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_would_not_come_back_equal_is_refused_and_says_why(
    folder: Path, text: str, reason: str
) -> None:
    done = call("save", "new", "--step", "load", stdin=text)

    assert done.code == 1
    assert reason in done.err
    assert done.err.count("\n") == 1
    assert not (folder / "checkpoints" / "journals" / "new.jsonl").exists()


@pytest.mark.parametrize("meta", ["novalue", "=x"])
@pytest.mark.usefixtures("folder")
def test_metadata_without_key_or_value_is_a_usage_error(meta: str) -> None:
    assert call("save", "j", "--step", "s", "--meta", meta, stdin="{}").code == 2


@pytest.mark.usefixtures("folder")
def test_metadata_given_twice_is_a_usage_error() -> None:
    words = ("save", "j", "--step", "s", "--meta", "a=1", "--meta", "a=2")

    assert call(*words, stdin="{}").code == 2


@pytest.mark.parametrize("job", ["../../etc/passwd", "a/b", "%00", "🚀", "E", "e"])
@pytest.mark.usefixtures("folder")
def test_any_printable_job_id_comes_back(job: str) -> None:
    call("save", job, "--step", "s", stdin='{"a": 1}')

    assert call("show", "--job", job).json == {"a": 1}
    assert [row[0] for row in call("jobs").rows] == [job]


@pytest.mark.parametrize("job", ["a\nb", "x" * 600, "a\x1bb", "\udcff", ""])
@pytest.mark.usefixtures("store")
def test_a_job_id_that_cannot_be_is_a_usage_error(job: str) -> None:
    for words in (("save", job, "--step", "s"), ("list", job), ("show", "--job", job)):
        done = call(*words, stdin="{}")
        assert done.code == 2, words
        assert done.err.isprintable() or done.err.count("\n") == 1


def test_metadata_after_a_colon_is_json_and_any_other_is_text(folder: Path) -> None:
    given = {
        "loss:=0.5": ("loss", 0.5),
        "epoch:=3": ("epoch", 3),
        'run:={"seed": [1, null, true]}': ("run", {"seed": [1, None, True]}),
        "text=0.5": ("text", "0.5"),
        "url=a:=b": ("url", "a:=b"),
        "empty=": ("empty", ""),
    }
    words = [word for pair in given for word in ("--meta", pair)]

    assert call("save", "train", "--step", "s", *words, stdin="{}").code == 0

    with reader(folder / "checkpoints") as manager:
        (info,) = manager.list("train")
    assert info.metadata == dict(given.values())


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("loss:=fast", "loss=fast saves it as text"),
        ("loss:=", "not JSON"),
        (":=1", "is not KEY=VALUE"),
        ("=1", "is not KEY=VALUE"),
        ("loss", "is not KEY=VALUE"),
        ('a:={"b": 1, "b": 2}', "'b' occurs twice"),
        ("a:=" + "[" * 100_000, "not JSON"),
        ("a:=NaN", "$.a"),
        ("a:=18446744073709551616", "$.a"),
    ],
)
def test_metadata_that_would_not_come_back_is_refused(
    folder: Path, pair: str, said: str
) -> None:
    done = call("save", "train", "--step", "s", "--meta", pair, stdin="{}")

    assert done.code in (1, 2)
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not (folder / "checkpoints/journals").exists()
