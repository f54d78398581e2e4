"""The page at `/`: what this server is and how to talk to it, without a CDN."""

import base64
import hashlib
import html
import re
from pathlib import Path

from fastapi import APIRouter, Request, Response

router = APIRouter()

_PAGE = (Path(__file__).parents[2] / "page" / "index.html").read_bytes()
_ADDRESS = b"http://127.0.0.1:8080"


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
async def page(request: Request) -> Response:
    """Show the page, with the address that it was asked under."""
    # The gate lets only what can be a host name through; an app that is mounted
    # elsewhere has its path in it.
    address = html.escape(str(request.base_url).rstrip("/")).encode()
    content = _PAGE.replace(_ADDRESS, address)
    return Response(content, media_type="text/html", headers=_HEADERS)
