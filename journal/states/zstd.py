"""Zstandard with an earlier state as prefix: the only module that imports it."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING or sys.version_info < (3, 14):
    from backports import zstd
    from backports.zstd import CompressionParameter, DecompressionParameter
else:
    from compression import zstd
    from compression.zstd import CompressionParameter, DecompressionParameter

# Of a frame without a base, and of a delta over a long distance.
_LEVEL = 3
_WINDOW_LOG_MIN = 10
_WINDOW_LOG_MAX = 27  # 128 MiB: the most that decoders accept by default
_WINDOW_LOG_SMALL = 23  # 8 MiB: more than this level needs without a base
# Up to this distance, level 1 finds as much as level 3 in a third of the time, if its
# table has an entry for each place of the base; its own table is too small for that.
_NEAR_BYTES = 2 * 1024 * 1024
_NEAR_LEVEL = 1
_HASH_LOG_MIN, _HASH_LOG_MAX = 12, 17
# Making a compressor takes as long as compressing 1 KB with it.  So each thread keeps
# one for small states; after a large one it would keep megabytes.
_kept = threading.local()
_KEPT_BYTES = 16 * 1024
LIMIT_BYTES = 1 << _WINDOW_LOG_MAX
SHORTEST_BASE = 8


def compress(raw: bytes, base: bytes = b"") -> bytes:
    """Return one frame of `raw`, with `base` as prefix.

    Args:
        raw: any bytes.
        base: empty, or at least `SHORTEST_BASE` bytes; at most `LIMIT_BYTES` together
            with `raw`.
    """
    if not base:
        return _whole(raw)
    # The default window of a level is smaller than a large state.  A base outside the
    # window silently saves nothing.
    reach = len(raw) + len(base)
    window_log = min(max(reach.bit_length(), _WINDOW_LOG_MIN), _WINDOW_LOG_MAX)
    options: dict[int, int] = {CompressionParameter.window_log: window_log}
    if reach <= _NEAR_BYTES:
        hash_log = min(max(reach.bit_length(), _HASH_LOG_MIN), _HASH_LOG_MAX)
        options[CompressionParameter.compression_level] = _NEAR_LEVEL
        options[CompressionParameter.hash_log] = hash_log
    else:
        options[CompressionParameter.compression_level] = _LEVEL
        options[CompressionParameter.enable_long_distance_matching] = 1
    prefix = zstd.ZstdDict(base, is_raw=True).as_prefix
    return zstd.compress(raw, options=options, zstd_dict=prefix)


def _whole(raw: bytes) -> bytes:
    if len(raw) > _KEPT_BYTES:
        return zstd.compress(raw, _LEVEL)
    # While it is in use, a signal handler uses another one, and a failure drops it.
    kept: zstd.ZstdCompressor | None = _kept.__dict__.pop("compressor", None)
    compressor = zstd.ZstdCompressor(_LEVEL) if kept is None else kept
    frame = compressor.compress(raw, zstd.ZstdCompressor.FLUSH_FRAME)
    _kept.compressor = compressor
    return frame


def decompress(frame: bytes, size_bytes: int, base: bytes = b"") -> bytes:
    """Return the `size_bytes` bytes in `frame`.

    Memory is bounded whatever the frame claims: at most one byte more than `size_bytes`
    is produced, and the window is no larger than these bytes and `base` need.

    Raises:
        ValueError: it is not a frame, or has another size.
    """
    try:
        declared = zstd.get_frame_info(frame).decompressed_size
    except zstd.ZstdError as exc:
        raise ValueError(f"no Zstandard frame: {exc}") from exc
    if size_bytes < 0 or declared not in (None, size_bytes):
        raise ValueError(f"a frame of another size than {size_bytes} bytes")
    prefix = zstd.ZstdDict(base, is_raw=True).as_prefix if base else None
    needed = max((size_bytes + len(base)).bit_length(), _WINDOW_LOG_SMALL)
    options: dict[int, int] = {
        DecompressionParameter.window_log_max: min(needed, _WINDOW_LOG_MAX)
    }
    decompressor = zstd.ZstdDecompressor(prefix, options)
    try:
        raw = decompressor.decompress(frame, max_length=size_bytes + 1)
    except zstd.ZstdError as exc:
        raise ValueError(f"no Zstandard frame: {exc}") from exc
    if len(raw) != size_bytes or not decompressor.eof or decompressor.unused_data:
        raise ValueError(f"a frame of another size than {size_bytes} bytes")
    return raw
