"""Find a journal that another tool moved or compressed, and the command to undo it.

Log rotation renames or compresses files.  No data is lost by that, so the diagnosis
includes the command that restores the journal.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost.journal.storage.files.recovery.passage import Read
    from milepost.journal.storage.files.recovery.snapshot import Evidence

_MAGIC_BYTES = 6
# The first bytes of a file, its format, and the command that unpacks it.
_FORMS = (
    (b"\x1f\x8b", "compressed by gzip", "gzip -dc"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "zstd -dc"),
    (b"\xfd7zXZ\0", "compressed by xz", "xz -dc"),
    (b"BZh", "compressed by bzip2", "bzip2 -dc"),
    (b'\x04"M\x18', "compressed by lz4", "lz4 -dc"),
    (b"PK\x03\x04", "a zip archive", "funzip"),
    (b"\xff\xfe", "text in UTF-16", "iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "iconv -f UTF-16 -t UTF-8"),
)


class Neighbour(NamedTuple):
    """A file in the folder of a journal that is named after it."""

    path: str  # in the store's folder
    size: int
    read: Read


def ways_back(evidence: Evidence, proven: int) -> Iterator[str]:
    """Yield where a damaged job's journal may be, with the command to restore it.

    Args:
        evidence: the job's files.
        proven: number of intact bytes of its journal.
    """
    journal = f"journals/{evidence.name}.jsonl"
    if not proven and (form := _form_of(evidence.read)):
        what, unpack = form
        part = shlex.quote(f"journals/{evidence.name}.unpacked")
        whole = shlex.quote(journal)
        yield (
            f"{journal} is {what}; in the store's folder, this restores it: "
            f"{unpack} < {whole} > {part} && mv {part} {whole}"
        )
    for path, size, read in evidence.neighbours():
        source, target = shlex.quote(path), shlex.quote(journal)
        if form := _form_of(read):
            what, unpack = form
            command = f"{unpack} < {source} > {target}"
            yield f"{path} is {what}; if it is this journal: {command}"
        elif size > proven and read(0, _MAGIC_BYTES).startswith(b'{"v":'):
            command = f"mv {source} {target}"
            yield (
                f"{path} looks like this journal, {size:,} bytes; in the store's "
                f"folder, this restores it: {command}"
            )


def _form_of(read: Read) -> tuple[str, str] | None:
    start = read(0, _MAGIC_BYTES)
    found = (form[1:] for form in _FORMS if start.startswith(form[0]))
    return next(found, None)
