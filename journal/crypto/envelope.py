"""Envelope encryption of states: one data key per state, wrapped by a store key.

The data key encrypts the metadata and the body of its state only.  Store, job and seq
are associated data of the wrapped key, so that it does not unwrap for another state.
Metadata and body are encrypted separately, so that a list need not read whole states.

The encrypted body begins with the salt of the event's digest.  So the digest confirms
no guess of the state, and key rotation does not change it (docs/adr/0008).
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
    """The address of a state: its store, its job and the seq of its event."""

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
        """Return a fresh data key, to be used for one encoding of one state."""
        return cls(key, os.urandom(KEY_BYTES))

    def __repr__(self) -> str:
        return f"DataKey({self.key!r})"


class BodyHeader(NamedTuple):
    """The encoding of a body, authenticated with its ciphertext."""

    codec: str
    base: int
    depth: int
    raw_bytes: int
    plus: tuple[int, ...] = ()

    @property
    def bound(self) -> bytes:
        """The associated data of the ciphertext."""
        return _bound("body", *self[:4], *self.plus)


def wrap(secret: DataKey, address: StateAddress) -> bytes:
    """Return the data key encrypted for `address`; each call returns other bytes."""
    from milepost.journal.crypto import aes_gcm

    bound = _bound_to_address(secret.key, address)
    return _text(aes_gcm.seal(secret.key.material, secret.data_key, bound))


def unwrap(wrapped: bytes, key: Key, address: StateAddress) -> DataKey:
    """Return the data key that was wrapped with `key` for `address`.

    Raises:
        UnreadableState: it was wrapped with another key or for another address.
    """
    bound = _bound_to_address(key, address)
    return DataKey(key, _unseal(key.material, wrapped, bound, address.seq, "data key"))


def seal_metadata(secret: DataKey, metadata: bytes) -> bytes:
    """Return `metadata` encrypted, as base64."""
    from milepost.journal.crypto import aes_gcm

    return _text(aes_gcm.seal(secret.data_key, metadata, _bound("metadata")))


def open_metadata(secret: DataKey, text: bytes, seq: int) -> bytes:
    """Return the metadata that `seal_metadata` encrypted.

    Raises:
        UnreadableState: the ciphertext is not the one written for this state.
    """
    return _unseal(secret.data_key, text, _bound("metadata"), seq, "metadata")


def seal_body(secret: DataKey, form: BodyHeader, plaintext: bytes) -> bytes:
    """Return `plaintext`, a salt and a state's content, encrypted, as base64."""
    from milepost.journal.crypto import aes_gcm

    return _text(aes_gcm.seal(secret.data_key, plaintext, form.bound))


def open_body(secret: DataKey, form: BodyHeader, text: bytes, seq: int) -> bytes:
    """Return the salt and the content that `seal_body` encrypted.

    Raises:
        UnreadableState: the ciphertext is not the one written for this state and form.
    """
    return _unseal(secret.data_key, text, form.bound, seq, "body")


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
    # The last digit has unused bits.  Accept only the canonical text, so that no two
    # texts decode to the same bytes.
    if _text(sealed[-(len(sealed) % 3 or 3) :]) != text[-4:]:
        raise ValueError("its base64 is not canonical")
    return sealed


def _bound_to_address(key: Key, address: StateAddress) -> bytes:
    return _bound("key", key.key_id, *address)


def _bound(what: str, *fields: str | int) -> bytes:
    # Without lengths, two lists of fields could have the same bytes.
    parts = [f"milepost {what} 1".encode(), ALGORITHM.encode()]
    parts += [str(field).encode() for field in fields]
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)
