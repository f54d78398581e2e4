"""Every way in which the files of a job are found: one list, for all who judge them."""

from __future__ import annotations

import gzip
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import orjson

from milepost import CheckpointManager
from milepost.journal.errors import StorageFailed
from milepost.journal.storage.files.recovery.head import FILE_BYTES, Extent
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.storage.removals import Removal
from tests.support.faults import (
    FaultyDisk,
    forged,
    head_of,
    journal_of,
    last_hash,
    put,
    read_head,
    replace,
    write_head,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from milepost.journal.storage.files.folders import Durability

    Ruin = Callable[[Path], object]

JOB = "etl"
SAVES = 6


class Damage(NamedTuple):
    """What happens to a store, and what has to be found then.

    Attributes:
        name: what happened.
        verdict: of ``doctor``.
        ruin: does it to the store in a folder.
        durability: of the manager that wrote it and was killed.
        is_lossy: a repair takes consent.
        kept: how many of the checkpoints are there in the end.
    """

    name: str
    verdict: str
    ruin: Callable[[Path], object]
    durability: Durability = "always"
    is_lossy: bool = False
    kept: int = SAVES


def begin(root: Path, durability: Durability = "always") -> None:
    """Save six checkpoints, and die without a sync."""
    storage = FileStorage(root, durability=durability, interval_seconds=600)
    manager = CheckpointManager(storage=storage)
    for number in range(SAVES):
        manager.save(JOB, f"s{number}", {"n": number})


def _edit(change: Callable[[bytes], bytes], *, new_file: bool = False) -> Ruin:
    def ruin(root: Path) -> None:
        journal = journal_of(root, JOB)
        (replace if new_file else put)(journal, change(journal.read_bytes()))

    return ruin


def _both(*ruins: Ruin) -> Ruin:
    def ruin(root: Path) -> None:
        for each in ruins:
            each(root)

    return ruin


def _crlf(data: bytes) -> bytes:
    return data.replace(b"\n", b"\r\n")


def _cr(data: bytes) -> bytes:
    return data.replace(b"\n", b"\r")


def _bom(data: bytes) -> bytes:
    return b"\xef\xbb\xbf" + data


def _blank_lines(data: bytes) -> bytes:
    return data.replace(b"\n", b"\n \t\n\n", 5)


def _indented(data: bytes) -> bytes:
    return b"".join(b"  " + line + b" \n" for line in data.splitlines())


def _flip(step: str) -> Callable[[bytes], bytes]:
    old, new = f'"step_name":"{step}"', '"step_name":"??"'
    return lambda data: data.replace(old.encode(), new.encode())


def _without(*seqs: int) -> Callable[[bytes], bytes]:
    gone = tuple(b'{"state":%d,' % seq for seq in seqs)
    return lambda data: b"".join(
        line for line in data.splitlines(keepends=True) if not line.startswith(gone)
    )


def _drop_last(count: int) -> Callable[[bytes], bytes]:
    return lambda data: b"".join(data.splitlines(keepends=True)[: -2 * count])


def _head(data: bytes | None) -> Ruin:
    def ruin(root: Path) -> None:
        if data is None:
            head_of(root, JOB).unlink()
        else:
            put(head_of(root, JOB), data)

    return ruin


def _change_head(change: Callable[[bytes], bytes]) -> Ruin:
    return lambda root: put(head_of(root, JOB), change(head_of(root, JOB).read_bytes()))


def _unheaded(root: Path) -> None:
    before = head_of(root, JOB).read_bytes()
    with CheckpointManager(root) as manager:
        manager.save(JOB, "late", {"n": 6})
        manager.save(JOB, "later", {"n": 7})
    put(head_of(root, JOB), before)


def _poison(root: Path) -> None:
    head = read_head(root, JOB)
    write_head(root, JOB, head._replace(writing=head.writing + 1, is_poisoned=True))


def _other_history(root: Path) -> None:
    head = read_head(root, JOB)
    other = head.shown._replace(hash="0" * 64)
    head = head._replace(writing=head.writing + 1, shown=other, synced=other)
    write_head(root, JOB, head)


def _stale_head(root: Path) -> None:
    head = read_head(root, JOB)
    lines = journal_of(root, JOB).read_bytes().splitlines(keepends=True)
    early = b"".join(lines[:3])
    at = Extent(2, last_hash(early), len(early))
    head = head._replace(writing=head.writing + 1, shown=at, synced=at)
    write_head(root, JOB, head)


def _repaired_once(root: Path) -> None:
    _edit(_flip("s4"))(root)
    before = head_of(root, JOB).read_bytes()
    with CheckpointManager(root) as manager:
        manager.repair(JOB, accept_loss=True)
    put(head_of(root, JOB), before)  # a power cut took the head's last move


def _newer(root: Path) -> None:
    journal = journal_of(root, JOB)
    data, seq = journal.read_bytes(), SAVES + 2
    data += forged(last_hash(data), v=2, seq=seq, type="a.note", data={})
    put(journal, data)
    head, at = read_head(root, JOB), Extent(seq, last_hash(data), len(data))
    head = head._replace(writing=head.writing + 1, shown=at, synced=at)
    write_head(root, JOB, head)


def _senseless(data: bytes) -> bytes:
    about = {"checkpoint_id": "nobody", "reason": "no"}
    return data + forged(
        last_hash(data), seq=SAVES + 2, type="checkpoint.deleted", data=about
    )


def _foreign(root: Path) -> None:
    with CheckpointManager(root) as manager:
        manager.save("other", "s", {})
    replace(journal_of(root, JOB), journal_of(root, "other").read_bytes())


def _rotated(*, is_made_anew: bool, is_packed: bool = False) -> Ruin:
    def ruin(root: Path) -> None:
        journal = journal_of(root, JOB)
        data = journal.read_bytes()
        if is_packed:
            journal.with_name("etl.jsonl.1.gz").write_bytes(gzip.compress(data))
            journal.unlink()
        else:
            journal.rename(journal.with_name("etl.jsonl.1"))
        if is_made_anew:
            journal.write_bytes(b"")

    return ruin


def _copied_early(root: Path) -> None:
    """Copy the journal, save once more, and copy the head then."""
    early = journal_of(root, JOB).read_bytes()
    with CheckpointManager(root) as manager:
        manager.save(JOB, "late", {"n": 6})
    copy = root.with_name("copy")
    shutil.copytree(root, copy)
    replace(journal_of(copy, JOB), early)
    shutil.rmtree(root)
    copy.rename(root)


def _leftover(root: Path) -> None:
    (root / "journals" / "etl.tmp").write_bytes(b"half of it")


def _half_removed(root: Path) -> None:
    """Begin to remove the job, and fail before its journal is removed."""
    disk = FaultyDisk(root, syncs=False)
    disk.fail("unlink", on=f"journals/{JOB}.jsonl")
    with suppress(StorageFailed), FileStorage(root, disk=disk).job(JOB).hold() as held:
        held.remove(Removal(held.position.last, "now", "me"))
    assert journal_of(root, JOB).exists()


def _torn(root: Path) -> None:
    _unheaded(root)
    _edit(lambda data: data[:-30])(root)


def _torn_creation(root: Path) -> None:
    head = bytes(FILE_BYTES)
    first = b"".join(journal_of(root, JOB).read_bytes().splitlines(keepends=True)[:3])
    put(journal_of(root, JOB), first[:-40])
    put(head_of(root, JOB), head)


def _deeply(data: bytes) -> bytes:
    deep = b'{"x":' + b"[" * 100_000 + b"]" * 100_000
    return data + deep + b"}\n"


def _absurd(data: bytes) -> bytes:
    line = orjson.dumps({"v": 1, "seq": "8", "type": ["?"], "data": 7})[:-1]
    return data + line + b',"hash":"%b"}\n' % (b"f" * 64)


DAMAGES = [
    Damage("nothing", "sound", lambda _: None),
    Damage("a leftover", "unsettled", _leftover),
    Damage("unheaded writes", "unsettled", _unheaded, kept=8),
    Damage("a stale head", "unsettled", _stale_head),
    Damage(
        "a stale head and a new file",
        "unsettled",
        _both(_stale_head, _edit(lambda data: data, new_file=True)),
    ),
    Damage("a torn tail", "unsettled", _torn, kept=7),
    Damage("junk behind the end", "unsettled", _edit(lambda d: d + b"junk"), kept=6),
    Damage("zeros behind it", "unsettled", _edit(lambda d: d + bytes(9000)), kept=6),
    Damage("a nested line behind it", "unsettled", _edit(_deeply)),
    Damage("an absurd line behind it", "unsettled", _edit(_absurd)),
    Damage("a creation that was cut", "unsettled", _torn_creation, kept=0),
    Damage("a removal that was cut", "unsettled", _half_removed, kept=0),
    Damage("a head older than a repair", "unsettled", _repaired_once, kept=4),
    Damage("copied", "sound", _edit(lambda data: data, new_file=True)),
    Damage("poisoned", "poisoned", _poison),
    Damage("no head", "head_missing", _head(None)),
    Damage("an empty head", "unsettled", _head(b"")),
    # -- only white space: nothing is lost
    Damage("carriage returns", "damaged", _edit(_crlf)),
    Damage("carriage returns only", "damaged", _edit(_cr)),
    Damage("a byte order mark", "damaged", _edit(_bom)),
    Damage("blank lines", "damaged", _edit(_blank_lines)),
    Damage("indented", "damaged", _edit(_indented)),
    Damage("no newline at the end", "damaged", _edit(lambda data: data[:-1])),
    Damage("all of it", "damaged", _edit(lambda d: _bom(_crlf(_blank_lines(d)))[:-2])),
    Damage(
        "both files with carriage returns",
        "damaged",
        _both(_edit(_crlf, new_file=True), _change_head(_crlf)),
    ),
    Damage("no head, returns", "damaged", _both(_edit(_crlf), _head(None))),
    Damage("an empty head, returns", "damaged", _both(_edit(_crlf), _head(b""))),
    Damage("a blank head, returns", "damaged", _both(_edit(_crlf), _head(bytes(1024)))),
    Damage("returns, interval", "damaged", _edit(_crlf), "interval"),
    Damage("returns in a new file, never", "damaged", _edit(_crlf), "never"),
    # -- something is lost
    Damage("a flip", "damaged", _edit(_flip("s3")), is_lossy=True, kept=3),
    Damage(
        "a flip and returns",
        "damaged",
        _edit(lambda data: _crlf(_flip("s3")(data))),
        is_lossy=True,
        kept=3,
    ),
    Damage("cut", "damaged", _edit(lambda d: d[:-30]), is_lossy=True, kept=5),
    Damage(
        "a beginning that is gone",
        "damaged",
        _edit(lambda d: d[300:]),
        is_lossy=True,
        kept=0,
    ),
    Damage(
        "a bad first line and an empty head",
        "damaged",
        _both(_edit(lambda d: d[:100] + b"\r\n" + d[102:]), _head(b"")),
        is_lossy=True,
        kept=0,
    ),
    Damage(
        "a bad last line and an empty head",
        "damaged",
        _both(_edit(lambda d: d[:-30]), _head(b"")),
        is_lossy=True,
        kept=5,
    ),
    Damage(
        "a bad last line and a blank head",
        "damaged",
        _both(_edit(lambda d: d[:-30]), _head(bytes(FILE_BYTES))),
        is_lossy=True,
        kept=5,
    ),
    Damage(
        "a bad last line and no head",
        "damaged",
        _both(_edit(lambda d: d[:-30]), _head(None)),
        is_lossy=True,
        kept=5,
    ),
    Damage("another history", "damaged", _other_history, is_lossy=True),
    Damage(
        "rot behind the head",
        "damaged",
        _both(_unheaded, _edit(_flip("late"))),
        is_lossy=True,
    ),
    Damage("copied before its head", "damaged", _copied_early, is_lossy=True),
    Damage(
        "no journal",
        "journal_missing",
        lambda root: journal_of(root, JOB).unlink(),
        is_lossy=True,
        kept=0,
    ),
    Damage(
        "an empty journal",
        "journal_missing",
        _edit(lambda _: b""),
        is_lossy=True,
        kept=0,
    ),
    Damage(
        "rotated",
        "journal_missing",
        _rotated(is_made_anew=True),
        is_lossy=True,
        kept=0,
    ),
    Damage(
        "rotated and packed",
        "journal_missing",
        _rotated(is_made_anew=False, is_packed=True),
        is_lossy=True,
        kept=0,
    ),
    Damage(
        "packed", "damaged", _edit(gzip.compress, new_file=True), is_lossy=True, kept=0
    ),
    Damage(
        "a state that rotted",
        "damaged_states",
        _edit(lambda d: d.replace(b'{"n":3}', b'{"n":8}')),
        is_lossy=True,
        kept=5,
    ),
    Damage(
        "a state that is gone",
        "damaged_states",
        _edit(_without(4), new_file=True),
        is_lossy=True,
        kept=5,
    ),
    # -- a power cut or a copy where not every write was synced
    *(
        damage
        for mode in ("interval", "never")
        for damage in (
            Damage(
                f"{mode}, the end is lost",
                "unsettled",
                _edit(_drop_last(2)),
                mode,
                kept=4,
            ),
            Damage(
                f"{mode}, copied without its end",
                "unsettled",
                _edit(_drop_last(2), new_file=True),
                mode,
                kept=4,
            ),
            Damage(
                f"{mode}, copied in the middle of a write",
                "unsettled",
                _edit(lambda d: d[:-30], new_file=True),
                mode,
                kept=5,
            ),
            Damage(
                f"{mode}, zeros at the end of a copy",
                "unsettled",
                _edit(lambda d: d[:-600] + bytes(600), new_file=True),
                mode,
                kept=4,
            ),
        )
    ),
    # -- not for a repair
    Damage("another job's journal", "foreign", _foreign),
    Damage("an event that does not follow", "newer_format", _edit(_senseless)),
    Damage("a newer version, unheaded", "newer_format", _both(_newer, _stale_head)),
    Damage("a newer version, no head", "newer_format", _both(_newer, _head(None))),
    Damage("a newer version", "newer_format", _newer),
]
