"""AES-256-GCM: the one door to the package `cryptography`.

Imported only where there is a key, so that stores without encryption never pay for it.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12
TAG_BYTES = 16


def seal(key: bytes, plaintext: bytes, bound: bytes) -> bytes:
    """Return a fresh nonce, then `plaintext` encrypted under `key`, then the tag.

    Args:
        key: 32 bytes.
        plaintext: any bytes.
        bound: associated data: not part of the answer, and needed to open it.
    """
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, bound)


def unseal(key: bytes, sealed: bytes, bound: bytes) -> bytes:
    """Return the plaintext that `seal` was given.

    Raises:
        ValueError: another key, other associated data, or not what `seal` returned.
    """
    if len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise ValueError("too short to be encrypted")
    nonce, ciphertext = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, bound)
    except InvalidTag as exc:
        raise ValueError("the authentication tag is wrong") from exc
