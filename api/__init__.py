"""The HTTP API and the command line: thin shells around `journal` and `worker`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milepost.api.http.app import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:  # whatever the module holds
    # The command line lives below this package and must start fast, so FastAPI is
    # imported only by those who ask for the application.
    if name == "create_app":
        from milepost.api.http.app import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
