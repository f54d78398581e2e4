"""AES-256-GCM: the only module that imports the package `cryptography`.

It is imported once a key is in use, so that unencrypted stores do not load it.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12
TAG_BYTES = 16


def seal(key: bytes, plaintext: bytes, bound: bytes) -> bytes:
    """Return a fresh nonce, `plaintext` encrypted under `key`, and the tag.

    Args:
        key: 32 bytes.
        plaintext: any bytes.
        bound: associated data: not part of the result, but required to decrypt it.
    """
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, bound)


def unseal(key: bytes, sealed: bytes, bound: bytes) -> bytes:
    """Return the plaintext of `sealed`.

    Raises:
        ValueError: wrong key, wrong associated data, or changed bytes.
    """
    if len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise ValueError("too short to be encrypted")
    nonce, ciphertext = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, bound)
    except InvalidTag as exc:
        raise ValueError("the authentication tag is wrong") from exc
