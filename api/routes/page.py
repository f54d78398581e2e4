"""The page at `/`: what this server is and how to talk to it, without a CDN."""

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter, Response

router = APIRouter()

_PAGE = (Path(__file__).parents[1] / "static" / "index.html").read_bytes()


def _policy() -> str:
    style = re.search(rb"<style>(.*?)</style>", _PAGE, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1]).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )


_HEADERS = {"Content-Security-Policy": _policy()}


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """Show the page."""
    return Response(_PAGE, media_type="text/html", headers=_HEADERS)
