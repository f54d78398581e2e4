"""`[[webhooks]]`: which events are sent, where to, and with which secret."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    model_validator,
)

from milepost.journal.events.vocabulary import EVENT_TYPES
from milepost.journal.quantities import seconds
from milepost.worker.addresses import Allowed, refusal
from milepost.worker.config import files
from milepost.worker.config.tables import Table, quantity

MAX_WEBHOOKS = 32
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_PRINTABLE = re.compile(r"[!-~]+", re.ASCII)


def _url(text: str) -> str:
    """Check a URL; the messages do not repeat it, because it may contain a secret."""
    if not _PRINTABLE.fullmatch(text):
        raise ValueError("expected a URL in printable ASCII (a host name as xn--…)")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as exc:
        raise ValueError("expected a URL such as https://example.com/hook") from exc
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("expected a URL such as https://example.com/hook")
    if parts.username is not None or parts.password is not None:
        raise ValueError("expected a URL without user and password; use the signature")
    if parts.fragment:
        raise ValueError("expected a URL without a fragment (#…)")
    return text


def _event(pattern: str) -> str:
    """Check an event type, or a family such as ``checkpoint.*``."""
    if pattern == "*":
        raise ValueError('expected types or families such as "checkpoint.*", not "*"')
    if not _types([pattern]):
        families = {f"{each.partition('.')[0]}.*" for each in EVENT_TYPES}
        meant = files.nearest(pattern, EVENT_TYPES | families)
        hint = f"; did you mean {meant}?" if meant else ""
        raise ValueError(f"expected an event type or family such as job.*{hint}")
    return pattern


def _types(patterns: list[str]) -> frozenset[str]:
    families = {each[:-1] for each in patterns if each.endswith(".*")}
    return frozenset(
        each
        for each in EVENT_TYPES
        if each in patterns or f"{each.partition('.')[0]}." in families
    )


def _secret_file(value: object) -> object:
    if isinstance(value, str):
        if not files.is_path(value):
            raise ValueError("expected the name of a file")
        return Path(value)
    return value


def _variable(text: str) -> str:
    # A secret pasted in place of the name must not be taken for one and shown.
    if not _VARIABLE.fullmatch(text) or text.startswith(("whsec_", files.PREFIX)):
        raise ValueError(
            "expected the name of an environment variable,"
            f" which does not begin with {files.PREFIX}"
        )
    return text


class WebhookSettings(Table):
    """One `[[webhooks]]`: events, target, secret and limits.

    Attributes:
        name: identifies the webhook across restarts and edits of its other keys.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    url: Annotated[str, StringConstraints(max_length=2048), AfterValidator(_url)]
    events: list[Annotated[str, AfterValidator(_event)]] = Field(min_length=1)
    jobs: str = Field(default="*", min_length=1)
    secret_file: Annotated[Path | None, BeforeValidator(_secret_file)] = None
    secret_env: Annotated[str, AfterValidator(_variable)] | None = None
    timeout_seconds: Annotated[float, quantity(seconds, "100ms", "1min")] = Field(
        default=10.0, validation_alias="timeout"
    )
    max_attempts: int = Field(default=12, ge=1, le=50)
    allow_private: bool = False
    allow_link_local: bool = False

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if (self.secret_file is None) == (self.secret_env is None):
            raise ValueError('expected one of "secret_file" and "secret_env"')
        parts = urlsplit(self.url)
        assert parts.hostname is not None, "checked by _url"
        try:
            why = refusal(parts.hostname, parts.scheme, self.allowed)
        except ValueError:  # a name, which is resolved at each delivery
            why = None
        if why is not None:
            raise ValueError(f"expected an allowed address: {why}")
        return self

    @property
    def allowed(self) -> Allowed:
        """The addresses that the webhook may connect to."""
        return Allowed(self.allow_private, self.allow_link_local)

    @property
    def types(self) -> frozenset[str]:
        """The event types of `events`."""
        return _types(self.events)

    def is_for(self, job_id: str) -> bool:
        """Return whether events of the job are sent."""
        return fnmatchcase(job_id, self.jobs)
