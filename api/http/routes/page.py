"""The page at `/`: an overview of the endpoints, without a CDN."""

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
    """Show the page, with the address of the request."""
    # The gate has validated the host name; a mounted application adds its root path.
    address = html.escape(str(request.base_url).rstrip("/")).encode()
    content = _PAGE.replace(_ADDRESS, address)
    return Response(content, media_type="text/html", headers=_HEADERS)
