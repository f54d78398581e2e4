"""Signatures of deliveries, as in the Standard Webhooks specification."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import TYPE_CHECKING

from milepost.journal.crypto import key_file
from milepost.journal.errors import MilepostError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from milepost.worker.config.webhooks import WebhookSettings

PREFIX = "whsec_"
MIN_BYTES, MAX_BYTES = 24, 64
MAX_SECRETS = 5

Secrets = tuple[bytes, ...]


class UnusableSecret(MilepostError, ValueError):
    """A webhook's secret is missing or malformed.  The text never contains it."""

    code = "unusable_secret"


def load(webhook: WebhookSettings, environ: Mapping[str, str]) -> Secrets:
    """Return the secrets of a webhook; several during a change of secret.

    Raises:
        UnusableSecret: there is none, or one is malformed.
        UnusableKeys: the file is missing, or others may read it.
    """
    if webhook.secret_env is not None:
        place = f"webhook {webhook.name}: the variable of secret_env"
        text = environ.get(webhook.secret_env, "")
    else:
        assert webhook.secret_file is not None, "one of both is set"
        place = f"webhook {webhook.name}: {webhook.secret_file}"
        text = key_file.read(webhook.secret_file)
    words = [
        word
        for line in text.splitlines()
        if not line.startswith("#")
        for word in line.split()
    ]
    if not 1 <= len(words) <= MAX_SECRETS:
        raise _unusable(f"{place} has {len(words)} secrets, expected 1 to 5")
    return tuple(_key(word, place) for word in words)


def _key(word: str, place: str) -> bytes:
    try:
        key = base64.b64decode(word.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not word.startswith(PREFIX) or not MIN_BYTES <= len(key) <= MAX_BYTES:
        raise _unusable(
            f"{place}: expected {PREFIX} and the base64 of"
            f" {MIN_BYTES} to {MAX_BYTES} bytes"
        )
    return key


def _unusable(text: str) -> UnusableSecret:
    return UnusableSecret(
        text, hint='make one: echo "whsec_$(openssl rand -base64 32)"'
    )


def headers(
    secrets: Secrets, event_id: str, at_seconds: int, body: bytes
) -> dict[str, str]:
    """Return the headers of a delivery: id, time, and a signature per secret."""
    signed = f"{event_id}.{at_seconds}.".encode() + body
    digests = [hmac.new(key, signed, hashlib.sha256).digest() for key in secrets]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(at_seconds),
        "webhook-signature": " ".join(
            f"v1,{base64.b64encode(digest).decode()}" for digest in digests
        ),
    }
