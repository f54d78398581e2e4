"""The HTTP API and the command line: thin layers over `journal` and `worker`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milepost.api.http.app import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:  # whatever the module holds
    # The command line is in this package and must start fast, so FastAPI is imported
    # only when the application is used.
    if name == "create_app":
        from milepost.api.http.app import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
