"""A new process with a question: `python -m benchmarks.opening_probe NAME FOLDER WHAT`.

Prints the seconds that it took, and the bytes that the process grew by.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks.contenders import stores_of_states
from benchmarks.peers import Paged
from benchmarks.stores import resident_bytes

if TYPE_CHECKING:
    from benchmarks.peers import Peer


def main() -> None:
    """Ask a small store first, which loads all modules, then the one named."""
    name, folder, question = sys.argv[1:]
    opening = stores_of_states()[name]
    with (
        tempfile.TemporaryDirectory() as small,
        closing(opening(Path(small))) as peer,
    ):
        peer.save({"done": 0})
        _ask(peer, question)
    before = resident_bytes()
    start = perf_counter()
    with closing(opening(Path(folder))) as peer:
        answer = _ask(peer, question)
        took = perf_counter() - start
        assert answer
        print(took, max(resident_bytes() - before, 0))


def _ask(peer: Peer, question: str) -> object:
    if question == "latest":
        return peer.latest()
    assert isinstance(peer, Paged)
    return peer.page(0, 100)


if __name__ == "__main__":
    main()
