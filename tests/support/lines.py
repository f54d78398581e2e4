"""Journal lines, checked and written as FORMAT.md says, without the product's codec."""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.storage.files.recovery import head as head_codec
from milepost.journal.storage.files.recovery.head import Extent, Head

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX_BYTES = len(',"hash":""}') + 64


def chain(journal: bytes) -> list[str]:
    """Check a journal as FORMAT.md says, without our code; return its hashes."""
    hashes: list[str] = []
    for line in journal.split(b"\n")[:-1]:
        if not line.startswith(b'{"state":'):
            before = hashes[-1] if hashes else genesis(json.loads(line)["data"])
            digest = hashlib.sha256(before.encode() + line[:-SUFFIX_BYTES]).hexdigest()
            assert line[-SUFFIX_BYTES:].decode() == f',"hash":"{digest}"}}'
            hashes.append(digest)
    return hashes


def genesis(opened: dict[str, str]) -> str:
    """Return what stands for the hash before the first event."""
    parts = [opened[field].encode() for field in ("store", "job", "nonce")]
    framed = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hashlib.sha256(b"milepost journal 1" + framed).hexdigest()


class Draft(NamedTuple):
    """An event that a newer version wrote, and the state above it."""

    type: str
    v: int = 1
    data: object = {}
    state: bytes | None = None


def append_as_newer(root: Path, *drafts: Draft, is_acknowledged: bool = True) -> None:
    """Append to the journal of "job", and move its head unless the writer crashed."""
    journal, head = root / "journals" / "job.jsonl", root / "heads" / "job"
    hashes, lines = chain(journal.read_bytes()), b""
    for draft in drafts:
        seq = len(hashes) + 1
        if draft.state is not None:
            lines += sealed(b'{"state":%d,%b' % (seq, draft.state))
        line = encoded(draft, seq)
        hashes.append(hashlib.sha256(hashes[-1].encode() + line[:-1]).hexdigest())
        lines += line[:-1] + b',"hash":"%b"}\n' % hashes[-1].encode()
    with journal.open("ab") as file:
        file.write(lines)
    if is_acknowledged:
        found = journal.stat()
        shown = Extent(len(hashes), hashes[-1], found.st_size)
        slot = Head(1000, shown, found.st_ino, "always", shown)
        head.write_bytes(head_codec.encode(slot) + head.read_bytes()[512:])


def encoded(draft: Draft, seq: int) -> bytes:
    """Return an event line as JSON, its hash still missing."""
    envelope = {"v": draft.v, "seq": seq, "at": "2030-01-01T00:00:00.000000Z"}
    rest = {"type": draft.type, "actor": "next", "data": draft.data}
    return json.dumps({**envelope, **rest}, separators=(",", ":")).encode()


def sealed(line: bytes) -> bytes:
    """Return a state line with its checksum."""
    return b'%b,"crc":"%08x"}\n' % (line, zlib.crc32(line))
