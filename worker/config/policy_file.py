"""Reading a trial policy from a file, in the format of a `[[retention.rule]]`."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

from pydantic import ValidationError

from milepost.journal.errors import InvalidArgument
from milepost.worker.config.errors import refusal
from milepost.worker.config.merge import Layers
from milepost.worker.config.retention import CompletedRule
from milepost.worker.config.tables import AS_WRITTEN

if TYPE_CHECKING:
    from milepost.journal.retention.policy import Policy
    from milepost.worker.config.retention import RetentionSettings


def read_trial(raw: bytes, retention: RetentionSettings, place: str) -> Policy:
    """Return the policy in `raw`.

    Args:
        raw: TOML with the keys of ``[[retention.rule]]``.
        retention: supplies the floors and the inherited rules.
        place: the source of `raw`, for errors.

    Raises:
        InvalidArgument: `raw` is not a valid policy; the text gives place and reason.
    """
    try:
        values = tomllib.loads(raw.decode())
    except UnicodeDecodeError as exc:
        raise InvalidArgument(f"{place}: not UTF-8") from exc
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise InvalidArgument(f"{place}: {exc}") from exc
    try:
        rule = CompletedRule.model_validate(values, context=AS_WRITTEN)
    except ValidationError as exc:
        merged = Layers(values, {})
        raise InvalidArgument(refusal(exc, CompletedRule, merged, place)) from exc
    return retention.trial(rule)
