"""Choose the encoding of a new state: plain JSON, compressed, or a delta."""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Literal, NamedTuple

from milepost.journal.errors import NewerFormat, StorageFailed, UnreadableState
from milepost.journal.process import forks
from milepost.journal.states import delta, delta_chain, encoding
from milepost.journal.states.delta import Link
from milepost.journal.states.recent_states import Known, RecentStates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from milepost.journal.index.entries import Entry
    from milepost.journal.index.job_view import Fold, JobView
    from milepost.journal.states.delta_chain import Member
    from milepost.journal.states.encoding import Body

# ``auto``: the shortest form; ``zstd``: each state on its own; ``json``: plain.
Codec = Literal["auto", "json", "zstd"]

# Smaller states stay readable JSON: compressing them takes as long as the whole save
# (docs/adr/0009).
_SMALL_BYTES = 2048
_MAX_HINTS = 4096
_CANDIDATES = 4
_FULL_SEARCH_EVERY = 16
_SAMPLES, _SAMPLE_BYTES = 4, 32
# A delta this much shorter than its state needs no further search.
_GOOD_ENOUGH = 8
# Nor does one that is hardly longer than the best of the last search.
_AS_EXPECTED = 1.25


class Packed(NamedTuple):
    """An encoded state.

    Attributes:
        body: the encoding.
        prefix: of a delta: its bytes, the chain of its base, the cost of reading it.
        plus: as in `Packer.pack`.
        fold: of the states in the prefix.
    """

    body: Body
    prefix: Known | None = None
    plus: Callable[[JobView, Link], Sequence[int]] | None = None
    fold: Fold | None = None


class _Hint:
    """The search results for a job's last states."""

    __slots__ = ("enough", "lag", "misses", "sure", "trusted")

    def __init__(self) -> None:
        self.lag = 0  # distance in saves from the newest to the best candidate
        self.misses = 0  # saves since a delta last helped
        self.sure = 0  # consecutive searches that found nothing better than the newest
        self.trusted = 0  # saves without a search since the last search
        # By stride: length of the delta after the newest state, when no other was much
        # shorter.
        self.enough: dict[int, int] = {}

    @property
    def is_rare(self) -> bool:
        """Whether deltas do not help this job: most saves only look for a sign."""
        return self.misses > 1 and self.misses % _FULL_SEARCH_EVERY != 0

    def is_enough(self, lag: int, body: Body, raw_bytes: int) -> bool:
        """Return whether a further search is unlikely to find a shorter delta."""
        if body.text_bytes * _GOOD_ENOUGH <= raw_bytes:
            if lag != 0:
                self.sure = 0
            return True
        if lag != 0 or self.sure <= _CANDIDATES or self.trusted >= _FULL_SEARCH_EVERY:
            return False
        known = self.enough.get(delta.stride(body.depth), 0) * _AS_EXPECTED
        if body.text_bytes > known:
            return False
        self.trusted += 1
        return True

    def searched(self, tried: Mapping[int, _Tried]) -> None:
        """Record the lengths of the deltas that a search found, by their lag."""
        best = _shortest(tried)
        newest = tried.get(0)
        is_sure = (
            newest is not None
            and len(tried) > _CANDIDATES // 2
            and newest.text_bytes <= tried[best].text_bytes * _AS_EXPECTED
        )
        # Several in a row are required, because a job that alternates between shapes
        # looks like this now and then (docs/adr/0014).
        self.sure = self.sure + 1 if is_sure else 0
        is_trusted = self.sure > _CANDIDATES
        self.lag, self.misses, self.trusted = 0 if is_trusted else best, 0, 0
        if newest is not None:
            self.enough[delta.stride(newest.depth)] = newest.text_bytes * is_sure


class _Tried(NamedTuple):
    """The length of a delta, and its depth."""

    text_bytes: int
    depth: int


def _shortest(tried: Mapping[int, _Tried]) -> int:
    """Return the lag of the shortest delta, the first tried if several are."""
    return min(tried, key=lambda lag: tried[lag].text_bytes)


class Packer:
    """Chooses codec and base for each new state of every job of a store.

    Safe for threads.  It uses a view of the job that may be stale; the caller confirms
    the base with `is_usable` under the job's lock.

    Args:
        codec: see `Codec`.
        key_id: of the key that encrypts new states, as `Vault.key_id`.
        recent: cached states; all of them are under that key.
    """

    def __init__(
        self, codec: Codec, key_id: str = "", recent: RecentStates | None = None
    ) -> None:
        self._codec = codec
        self._key_id = key_id
        self._recent = RecentStates() if recent is None else recent
        self._hints: dict[str, _Hint] = {}
        forks.watch(self)

    def whole(self, raw: bytes, *, is_json: bool = True) -> Packed:
        """Return `raw` encoded without a base."""
        if is_json and (self._codec == "json" or len(raw) < _SMALL_BYTES):
            return Packed(encoding.plain(raw))
        return Packed(encoding.compressed(raw, is_json=is_json))

    def pack(
        self,
        view: JobView,
        raw: bytes,
        read: Callable[[JobView, int], Member],
        *,
        bases: Sequence[Entry] | None = None,
        plus: Callable[[JobView, Link], Sequence[int]] | None = None,
        is_json: bool = True,
    ) -> Packed:
        """Return `raw` in the shortest form that a bounded search finds.

        Args:
            view: of the job; may be stale.
            raw: the new state.
            read: returns a state of that view, as `delta_chain.member` does; called for
                states that are not cached.
            bases: the checkpoints whose delta chains are tried; by default the current
                one and the newest.
            plus: returns the events with whole states that the prefix has in addition
                to a base: those that were written after it, in order, and that no
                compaction drops.  The last ones are used that are not too many and not
                too large (`milepost.journal.states.delta`).
            is_json: `raw` is JSON.
        """
        if self._codec != "auto" or len(raw) < _SMALL_BYTES:
            return self.whole(raw, is_json=is_json)
        hint = self._hint(view.job_id)
        best: Packed | None = None
        tried: dict[int, _Tried] = {}
        is_rare = hint.is_rare
        for lag, entry in self._candidates(view, hint, bases):
            packed = self._delta(view, raw, entry, read, plus, is_tried=not is_rare)
            if packed is None:
                continue
            if hint.is_enough(lag, packed.body, len(raw)):
                hint.lag, hint.misses = lag, 0
                return packed
            tried[lag] = _Tried(packed.body.text_bytes, packed.body.depth)
            if lag == _shortest(tried):
                best = packed
        whole = self.whole(raw, is_json=is_json)
        if best is None or best.body.text_bytes * 10 > whole.body.text_bytes * 9:
            hint.misses += 1
            return whole
        hint.searched(tried)
        return best

    def is_usable(self, packed: Packed, view: JobView) -> bool:
        """Return whether no compaction drops a state of a delta's prefix.

        That is so if they are live in `view`.
        """
        if packed.prefix is None:
            return True
        base, plus = packed.prefix.links[0], packed.body.plus
        if packed.plus is None or not plus:
            return _is_live(view, base)
        # In another fold, an event of the same seq may be another one.
        is_same = packed.fold is view.fold and _is_live(view, base)
        return is_same and {*packed.plus(view, base)}.issuperset(plus)

    def remember(
        self, packed: Packed, fold: Fold, seq: int, checkpoint_id: str, raw: bytes
    ) -> None:
        """Cache a state that was just saved, for the prefixes of later ones.

        Args:
            packed: as it was stored.
            fold: that has its event.
            seq: of its event.
            checkpoint_id: empty if the event saves none.
            raw: the state.
        """
        body = packed.body
        if self._codec != "auto" or (len(raw) < _SMALL_BYTES and body.codec == "json"):
            return
        links: tuple[Link, ...] = (Link(seq, body.depth, checkpoint_id),)
        stored_bytes, prefix = body.text_bytes, packed.prefix
        if prefix is not None:
            links += prefix.links
            stored_bytes += prefix.stored_bytes
        self._recent.put(fold, Known(raw, links, stored_bytes))

    def after_fork(self) -> None:
        """Reset in a forked child: a thread of the parent may have been packing."""
        self._hints = {}

    # -- inside ----------------------------------------------------------------

    def _hint(self, job_id: str) -> _Hint:
        hint = self._hints.get(job_id)
        if hint is None:
            if len(self._hints) >= _MAX_HINTS:
                self._hints.clear()
            hint = self._hints[job_id] = _Hint()
        return hint

    @staticmethod
    def _candidates(
        view: JobView, hint: _Hint, bases: Sequence[Entry] | None
    ) -> Iterator[tuple[int, Entry]]:
        """Yield candidates by lag: current, the last success, the newest few.

        A restore moves a job back, and some jobs alternate between shapes.
        """
        newest = view.checkpoints.newest_first() if bases is None else bases
        found = dict(enumerate(islice(newest, _CANDIDATES)))
        order = [hint.lag, *range(_CANDIDATES)]
        current = view.current
        if current is not None and current is not found.get(0) and bases is None:
            found[_CANDIDATES] = current
            order.insert(0, _CANDIDATES)
        seen = [lag for lag in dict.fromkeys(order) if lag in found]
        if hint.is_rare:
            seen = seen[:1]
        for lag in seen:
            yield lag, found[lag]

    def _delta(
        self,
        view: JobView,
        raw: bytes,
        entry: Entry,
        read: Callable[[JobView, int], Member],
        plus: Callable[[JobView, Link], Sequence[int]] | None,
        *,
        is_tried: bool,
    ) -> Packed | None:
        """Return `raw` as a delta in the chain of `entry`; None if impossible.

        `is_tried`: even if the base shares no sample with it.
        """
        seqs: tuple[int, ...] = ()
        try:
            start = self._known(view, entry.seq, read)
            base = delta.base_of(start.links, partial(_is_live, view))
            if base is None:
                return None
            known = self._known(view, base.seq, read)
            if plus is not None:
                found = self._before_base(view, plus(view, base), read, len(raw))
                known, seqs = _joined(found, known)
        except (UnreadableState, NewerFormat, StorageFailed):
            return None  # damage of an old state must not fail a new save
        if not (is_tried or _is_alike(raw, known.raw)):
            return None
        depth = start.links[0].depth + 1
        body = encoding.delta(raw, known.raw, base=base.seq, depth=depth, plus=seqs)
        if body is None:
            return None
        to_read = known.stored_bytes + body.text_bytes
        if to_read > delta.most_to_read(len(raw)):
            return None
        return Packed(body, known, plus, view.fold)

    def _before_base(
        self,
        view: JobView,
        seqs: Sequence[int],
        read: Callable[[JobView, int], Member],
        raw_bytes: int,
    ) -> list[Known]:
        """Return the last states of `seqs` that a prefix may have before its base."""
        found: list[Known] = []
        left = delta.most_to_read(raw_bytes)
        for seq in reversed(seqs[-delta.MAX_PLUS :]):
            known = self._known(view, seq, read)
            left -= len(known.raw)
            if left < 0 or len(known.links) > 1:
                break
            found.append(known)
        return found[::-1]

    def _known(
        self, view: JobView, seq: int, read: Callable[[JobView, int], Member]
    ) -> Known:
        known = self._recent.get(view.fold, seq)
        if known is not None:
            return known
        recall = partial(self._recent.get, view.fold)
        found = delta_chain.unpack(seq, partial(read, view), recall)
        # A lost key must lose its own states only, so a prefix is under the same key.
        if found.key_ids != {self._key_id}:
            raise UnreadableState(f"state {seq} is under another key")
        known = Known(found.raw, found.links, found.stored_bytes)
        self._recent.put(view.fold, known)
        return known


def _joined(before: Sequence[Known], base: Known) -> tuple[Known, tuple[int, ...]]:
    """Return a prefix, and the seqs of the states that it has before its base."""
    if not before:
        return base, ()
    raw = b"".join(each.raw for each in (*before, base))
    stored_bytes = sum(each.stored_bytes for each in (*before, base))
    seqs = tuple(each.links[0].seq for each in before)
    return Known(raw, base.links, stored_bytes), seqs


def _is_alike(raw: bytes, base: bytes) -> bool:
    """Return whether one of a few samples of `raw` is in `base`.

    A delta takes as long as the rest of the save, this a tenth of it.
    """
    step = len(raw) // (_SAMPLES + 1)
    places = range(step, step * (_SAMPLES + 1), step)
    return any(raw[at : at + _SAMPLE_BYTES] in base for at in places)


def _is_live(view: JobView, link: Link) -> bool:
    entry = view.checkpoints.get(link.checkpoint_id)
    return entry is not None and entry.seq == link.seq
