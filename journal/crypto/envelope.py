"""An encrypted state: a data key of its own, wrapped for the one address that it is of.

Each state has a fresh data key, used for its metadata and its body only.  A key of the
store wraps it, with the store, the job and the seq as associated data: elsewhere it
does not unwrap, and without it nothing decrypts.  Metadata and body are encrypted
apart, so that a list need not read whole states; the body is bound to its form.

What is encrypted as the body begins with the salt of the event's digest, so that digest
is keyed: it confirms no guess, and no rotation changes it (docs/adr/0008).
"""

from __future__ import annotations

import binascii
import os
from typing import NamedTuple

from milepost.journal.crypto.keys import KEY_BYTES, Key
from milepost.journal.errors import UnreadableState

ALGORITHM = "A256GCM"
# base64 of a nonce, a data key and a tag.
WRAPPED_BYTES = 80


class StateAddress(NamedTuple):
    """Where a state stands: of which store and job, above which event."""

    store_id: str
    job_id: str
    seq: int


class DataKey:
    """The data key of one state, and the key that wraps it."""

    __slots__ = ("data_key", "key")

    def __init__(self, key: Key, data_key: bytes) -> None:
        self.key = key
        self.data_key = data_key

    @classmethod
    def new(cls, key: Key) -> DataKey:
        """Return a fresh data key, for one state in one form."""
        return cls(key, os.urandom(KEY_BYTES))

    def __repr__(self) -> str:
        return f"DataKey({self.key!r})"


class BodyHeader(NamedTuple):
    """How a body is stored: what its ciphertext is bound to."""

    codec: str
    base: int
    depth: int
    raw_bytes: int


def wrap(secret: DataKey, address: StateAddress) -> bytes:
    """Return the data key, encrypted for `address`; differs each time."""
    from milepost.journal.crypto import aes_gcm

    bound = _bound_to_address(secret.key, address)
    return _text(aes_gcm.seal(secret.key.material, secret.data_key, bound))


def unwrap(wrapped: bytes, key: Key, address: StateAddress) -> DataKey:
    """Return the data key that was wrapped with `key` for `address`.

    Raises:
        UnreadableState: with another key, or for another address.
    """
    bound = _bound_to_address(key, address)
    return DataKey(key, _unseal(key.material, wrapped, bound, address.seq, "data key"))


def seal_metadata(secret: DataKey, metadata: bytes) -> bytes:
    """Return metadata encrypted, as text."""
    from milepost.journal.crypto import aes_gcm

    return _text(aes_gcm.seal(secret.data_key, metadata, _bound("metadata")))


def open_metadata(secret: DataKey, text: bytes, seq: int) -> bytes:
    """Return what `seal_metadata` was given.

    Raises:
        UnreadableState: it is not what was written here.
    """
    return _unseal(secret.data_key, text, _bound("metadata"), seq, "metadata")


def seal_body(secret: DataKey, form: BodyHeader, plaintext: bytes) -> bytes:
    """Return a salt and a state's content encrypted, as text."""
    from milepost.journal.crypto import aes_gcm

    return _text(aes_gcm.seal(secret.data_key, plaintext, _bound("body", *form)))


def open_body(secret: DataKey, form: BodyHeader, text: bytes, seq: int) -> bytes:
    """Return what `seal_body` was given.

    Raises:
        UnreadableState: it is not what was written here, or not in this form.
    """
    return _unseal(secret.data_key, text, _bound("body", *form), seq, "body")


def _unseal(key: bytes, text: bytes, bound: bytes, seq: int, what: str) -> bytes:
    from milepost.journal.crypto import aes_gcm

    try:
        return aes_gcm.unseal(key, _decoded(text), bound)
    except ValueError as exc:
        raise UnreadableState(
            f"the {what} of state {seq} does not decrypt: {exc}"
        ) from exc


def _text(sealed: bytes) -> bytes:
    return binascii.b2a_base64(sealed, newline=False)


def _decoded(text: bytes) -> bytes:
    sealed = binascii.a2b_base64(text, strict_mode=True)
    # The last digit may hold bits that mean nothing; no other text must mean the same.
    if _text(sealed[-(len(sealed) % 3 or 3) :]) != text[-4:]:
        raise ValueError("its last bits are not those that were written")
    return sealed


def _bound_to_address(key: Key, address: StateAddress) -> bytes:
    return _bound("key", key.key_id, *address)


def _bound(what: str, *fields: str | int) -> bytes:
    # Lengths keep the borders between fields unmistakable.
    parts = [f"milepost {what} 1".encode(), ALGORITHM.encode()]
    parts += [str(field).encode() for field in fields]
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)
