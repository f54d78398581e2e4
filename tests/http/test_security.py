"""The gate: what never reaches a handler, and what every answer carries."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse

from milepost.api.http.security.body import Refused
from milepost.api.http.security.gate import (
    BodyLimits,
    SecurityMiddleware,
    TokenBook,
    check_bind,
)
from milepost.api.http.security.hosts import HostList, check_host, check_names
from milepost.api.http.security.tokens import UnsafeBind, hash_token
from milepost.journal.errors import InvalidArgument
from tests.support.client import ask, client_of, read_answer, send_raw, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Receive, Scope, Send

MIB = 1024 * 1024
READ, WRITE, ADMIN = "r" * 40, "w" * 40, "a" * 40


class Token(NamedTuple):
    name: str
    sha256: str
    scopes: list[str]


TOKENS = [
    Token("reader", hash_token(READ), ["read"]),
    Token("etl", hash_token(WRITE), ["write"]),
    Token("boss", hash_token(ADMIN), ["admin"]),
]


class Echo:
    """An application that says what reached it, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                message = await receive()
                await send({"type": message["type"] + ".complete"})
            return
        self.calls += 1
        request = Request(scope, receive)
        body = await request.body()
        if request.url.path == "/api/broken":
            raise RuntimeError("a secret of ours")
        principal = request.state.principal
        said = {"bytes": len(body), "actor": principal.actor if principal else None}
        await JSONResponse(said)(scope, receive, send)


def guarded(
    echo: Echo,
    *,
    bound: str = "127.0.0.1",
    allowed: tuple[str, ...] = (),
    tokens: list[Token] | None = None,
    timeout_seconds: float = 30.0,
) -> SecurityMiddleware:
    limits = BodyLimits(size_bytes=MIB, timeout_seconds=timeout_seconds)
    hosts = HostList(bound, allowed)
    return SecurityMiddleware(
        echo, hosts=hosts, tokens=TokenBook(tokens or ()), limits=limits
    )


@pytest.fixture
def echo() -> Echo:
    return Echo()


class Served(NamedTuple):
    """A server that runs for all tests of this module."""

    echo: Echo
    port: int


@pytest.fixture(scope="module")
def plain_server() -> Iterator[Served]:
    echo = Echo()
    with serving(guarded(echo)) as port:
        yield Served(echo, port)


@pytest.fixture(scope="module")
def token_server() -> Iterator[Served]:
    echo = Echo()
    with serving(guarded(echo, tokens=TOKENS)) as port:
        yield Served(echo, port)


@pytest.fixture
def served(plain_server: Served) -> Served:
    plain_server.echo.calls = 0
    return plain_server


@pytest.fixture
def asking(token_server: Served) -> Served:
    """Return the server that asks for a token."""
    token_server.echo.calls = 0
    return token_server


# Host


@pytest.mark.parametrize("path", ["/", "/api/x", "/healthz/", "/openapi.json", "/no"])
def test_a_foreign_host_is_refused_on_every_path(path: str, served: Served) -> None:
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example"):
        answer = ask(served.port, f"GET {path}", host=host)
        assert (answer.status, answer.json["code"]) == (400, "bad_host")
        assert host in answer.json["detail"]
    assert served.echo.calls == 0


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("host", ["10.42.0.17:8080", "[fd00::1]", "pod", "any thing"])
def test_probes_ask_by_any_address(host: str, path: str, served: Served) -> None:
    assert ask(served.port, f"GET {path}", host=host).status == 200


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1", "[::1]:8080", "localhost."]
)
def test_loopback_names_are_always_ours(host: str, served: Served) -> None:
    assert ask(served.port, "GET /", host=host).status == 200


@pytest.mark.parametrize(
    "host", ["testserver", "[::2]", "user@localhost", "localhost/x", "local host", "*"]
)
def test_only_names_that_are_ours_are_ours(host: str, served: Served) -> None:
    assert ask(served.port, "GET /", host=host).status == 400


@pytest.mark.parametrize("names", [[], [b"localhost", b"localhost"], [b""]])
def test_a_request_without_a_host_or_with_two_is_refused(names: list[bytes]) -> None:
    headers = Headers(raw=[(b"host", name) for name in names])
    with pytest.raises(Refused, match="does not answer"):
        check_host(headers, HostList("127.0.0.1"), is_in_process=False)


def test_even_the_oldest_http_needs_a_host(served: Served) -> None:
    assert send_raw(served.port, b"GET / HTTP/1.0\r\n\r\n").status == 400


def test_the_configured_hosts_are_ours_too() -> None:
    hosts = HostList("milepost.lan", ["Jobs.Example.Org", "*.corp.example", "fd00::7"])
    for name in (
        "milepost.lan:80",
        "jobs.example.org",
        "a.b.corp.example",
        "[fd00::7]",
    ):
        assert name in hosts
    for name in ("corp.example", "xcorp.example", "example.org", "", "[fd00::8]"):
        assert name not in hosts


def test_listening_everywhere_makes_no_name_ours() -> None:
    for bound in ("0.0.0.0", "::"):
        assert bound not in HostList(bound)
        assert "localhost" in HostList(bound)
        assert "pod.example" not in HostList(bound)


def test_listening_everywhere_makes_every_address_ours() -> None:
    for host in ("10.42.0.17:8080", "10.42.0.17", "[fd00::8]:80"):
        assert host in HostList("0.0.0.0")
        assert host not in HostList("127.0.0.1")


def test_every_name_is_ours_only_where_a_token_is_asked_for() -> None:
    every = HostList("0.0.0.0", ["*"])
    assert "pod.example:8080" in every
    assert "no name/" not in every
    check_names(every, TokenBook(TOKENS))
    with pytest.raises(InvalidArgument, match="needs a token"):
        check_names(every, TokenBook())


@pytest.mark.parametrize("name", ["a b", "http://x", "*.", "x/y"])
def test_an_allowed_host_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="allowed_hosts"):
        HostList("127.0.0.1", [name])


def test_a_test_client_needs_no_configuration(echo: Echo) -> None:
    client = client_of(guarded(echo))
    assert client.get("http://testserver/").status_code == 200


# Cross-site


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH"])
@pytest.mark.parametrize(
    "header",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
    ids=str,
)
def test_a_page_of_a_stranger_changes_nothing(
    method: str, header: dict[str, str], served: Served
) -> None:
    answer = ask(served.port, f"{method} /api/checkpoints/x/restore", **header)
    assert (answer.status, answer.json["code"]) == (403, "cross_site")
    assert served.echo.calls == 0


def test_our_own_page_and_programs_may_change_things(served: Served) -> None:
    for header in (
        {},
        {"Origin": f"http://127.0.0.1:{served.port}", "Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "none"},
    ):
        assert ask(served.port, "POST /api/x", **header).status == 200


def test_reading_is_not_a_change(served: Served) -> None:
    answer = ask(served.port, "GET /api/x", Origin="https://evil.example")
    assert answer.status == 200
    assert "access-control-allow-origin" not in answer.headers


# Content type and body


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
)
def test_a_body_that_is_not_declared_as_json_is_refused(
    kind: str, served: Served
) -> None:
    answer = ask(served.port, "POST /api/x", body=b"{}", Content_Type=kind)
    assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type")
    assert served.echo.calls == 0


@pytest.mark.parametrize(
    ("sent_by", "status"),
    [
        ({}, 200),
        ({"Origin": "http://127.0.0.1:{port}"}, 415),
        ({"Sec_Fetch_Site": "same-origin"}, 415),
        ({"Sec_Fetch_Mode": "no-cors"}, 415),
    ],
    ids=str,
)
def test_json_without_a_content_type_is_taken_where_no_browser_sent_it(
    sent_by: dict[str, str], status: int, served: Served
) -> None:
    headers = {name: text.format(port=served.port) for name, text in sent_by.items()}
    answer = ask(served.port, "POST /api/x", body=b"{}", **headers)
    assert answer.status == status


def test_json_may_name_its_charset(served: Served) -> None:
    kind = "Application/JSON; charset=utf-8"
    assert (
        ask(served.port, "POST /api/x", body=b"{}", Content_Type=kind).json["bytes"]
        == 2
    )


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks)


CHUNKED = (
    b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def test_a_large_body_is_refused_by_its_declared_length_alone(served: Served) -> None:
    head = (
        b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n"
    )
    answer = send_raw(served.port, head % (MIB + 1))
    assert (answer.status, answer.json["code"]) == (413, "body_too_large")
    assert served.echo.calls == 0


def test_a_large_body_without_a_length_is_refused_where_it_crosses_the_limit(
    served: Served,
) -> None:
    # The end never comes, so whoever waits for it never answers.
    answer = send_raw(served.port, CHUNKED, chunked(b" " * MIB), chunked(b" "))
    assert (answer.status, answer.json["code"]) == (413, "body_too_large")
    assert served.echo.calls == 0


def test_a_client_that_sends_50_mb_first_still_reads_its_413(served: Served) -> None:
    answer = ask(
        served.port,
        "POST /api/x",
        body=b" " * 50 * MIB,
        Content_Type="application/json",
    )
    assert answer.status == 413


def test_a_body_of_just_the_limit_is_taken(served: Served) -> None:
    answer = send_raw(served.port, CHUNKED, chunked(b" " * MIB), b"0\r\n\r\n")
    assert answer.json["bytes"] == MIB


def test_a_body_that_does_not_come_is_not_waited_for(echo: Echo) -> None:
    with serving(guarded(echo, timeout_seconds=0.05)) as port:
        answer = send_raw(port, CHUNKED, chunked(b"{"))
    assert (answer.status, answer.json["code"]) == (408, "slow_body")
    assert answer.headers["connection"] == "close"
    assert echo.calls == 0


def test_a_client_that_leaves_in_mid_body_reaches_no_handler(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(CHUNKED + chunked(b"{"))
    assert ask(served.port, "GET /").status == 200
    assert served.echo.calls == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 100_000, 422),
        (b"{" + b",".join(b'"%d":1' % i for i in range(300_000)) + b"}", 413),
        (b'{"a":"\xff"}', 422),
        (b"9" * 5000, 422),
    ],
    ids=["deep", "keys", "not UTF-8", "long number"],
)
def test_a_dangerous_body_reaches_no_parser(
    body: bytes, status: int, echo: Echo
) -> None:
    app = SecurityMiddleware(
        echo,
        hosts=HostList("127.0.0.1"),
        tokens=TokenBook(),
        limits=BodyLimits(size_bytes=8 * MIB),
    )
    client = client_of(app, **{"Content-Type": "application/json"})
    assert client.post("/api/x", content=body).status_code == status
    assert echo.calls == 0


@pytest.mark.parametrize("target", ["/api/x?job_id=%ff", "/api/%ed%a0%80", "/%c0%af"])
def test_a_path_or_query_that_is_not_utf8_is_refused(
    target: str, served: Served
) -> None:
    answer = ask(served.port, f"GET {target}")
    assert (answer.status, answer.json["code"]) == (422, "invalid_request")
    assert served.echo.calls == 0


# Tokens


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {READ}"},
        {"Authorization": READ},
        {"Authorization": f"Bearer {hash_token(READ)}"},
    ],
    ids=["none", "wrong", "empty", "basic", "no scheme", "the hash"],
)
def test_without_a_valid_token_every_path_of_the_api_says_the_same(
    header: dict[str, str], asking: Served
) -> None:
    targets = ["/api/checkpoints/x", "/api/nothing", "//api/x", "/api", "/API/x"]
    answers = {ask(asking.port, f"GET {t}", **header)[::2] for t in targets}
    ((status, body),) = answers
    assert status == 401
    assert b'"code":"unauthorized"' in body
    assert asking.echo.calls == 0


def test_a_refusal_says_which_scheme_it_wants(asking: Served) -> None:
    assert ask(asking.port, "GET /api/x").headers["www-authenticate"] == "Bearer"


def test_a_token_in_the_query_or_a_cookie_is_no_token(asking: Served) -> None:
    target = f"GET /api/x?token={READ}&access_token={READ}"
    assert ask(asking.port, target, Cookie=f"token={READ}").status == 401


def test_two_tokens_at_once_are_none(asking: Served) -> None:
    line = f"Authorization: Bearer {READ}\r\n".encode()
    head = b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n" + line + line + b"\r\n"
    assert send_raw(asking.port, head).status == 401


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/openapi.json"])
def test_what_holds_no_secret_needs_no_token(path: str, asking: Served) -> None:
    assert ask(asking.port, f"GET {path}").status == 200


@pytest.mark.parametrize(
    ("token", "method", "status"),
    [
        (READ, "GET", 200),
        (READ, "POST", 403),
        (READ, "DELETE", 403),
        (WRITE, "GET", 200),
        (WRITE, "POST", 200),
        (WRITE, "DELETE", 200),
        (ADMIN, "GET", 200),
        (ADMIN, "DELETE", 200),
    ],
)
def test_a_scope_includes_those_below_it(
    token: str, method: str, status: int, asking: Served
) -> None:
    answer = ask(asking.port, f"{method} /api/x", Authorization=f"bearer {token}")
    assert answer.status == status
    if status == 403:
        assert answer.json["code"] == "forbidden"


def test_the_actor_is_the_name_of_the_token(asking: Served) -> None:
    answer = ask(asking.port, "GET /api/x", Authorization=f"Bearer {WRITE}")
    assert answer.json["actor"] == "token:etl"


def test_without_tokens_the_actor_is_api(served: Served) -> None:
    assert ask(served.port, "GET /api/x").json["actor"] == "api"


def test_a_token_is_refused_before_its_body_is_read(asking: Served) -> None:
    # No end of the body ever comes.
    assert send_raw(asking.port, CHUNKED, chunked(b"{")).status == 401


def test_no_token_is_ever_logged(echo: Echo, caplog: pytest.LogCaptureFixture) -> None:
    client = client_of(guarded(echo, tokens=TOKENS), Authorization=f"Bearer {WRITE}")
    with caplog.at_level(logging.DEBUG):
        client.get("/api/x")
        client.get("/api/broken")
        client.get("/api/x", headers={"Authorization": "Bearer wrong-secret"})
    assert WRITE not in caplog.text
    assert "wrong-secret" not in caplog.text


@pytest.mark.parametrize(
    ("sha256", "scopes"),
    [("", ["read"]), ("zz" * 32, ["read"]), ("ab", ["read"]), ("ab" * 32, ["root"])],
)
def test_a_malformed_token_entry_is_an_error_that_names_it(
    sha256: str, scopes: list[str]
) -> None:
    with pytest.raises(InvalidArgument, match="'odd'"):
        TokenBook([Token("odd", sha256, scopes)])


def test_a_token_without_a_scope_may_do_nothing(echo: Echo) -> None:
    app = guarded(echo, tokens=[Token("none", hash_token(READ), [])])
    client = client_of(app, Authorization=f"Bearer {READ}")
    assert client.get("/api/x").status_code == 403


# Where a server may listen


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"]
)
def test_loopback_needs_no_token(host: str) -> None:
    check_bind(host, [])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.7", "jobs.example.org"])
def test_any_other_address_needs_one_and_the_error_says_so(host: str) -> None:
    with pytest.raises(UnsafeBind, match="without a token") as caught:
        check_bind(host, [])
    assert "api.tokens" in str(caught.value.hint)
    check_bind(host, TOKENS)


# Every answer


@pytest.mark.parametrize(
    "target", ["GET /", "GET /api/x", "GET /api/broken", "POST /%ff"]
)
def test_every_answer_carries_the_security_headers(target: str, served: Served) -> None:
    headers = ask(served.port, target).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]


def test_an_unexpected_exception_is_logged_and_shows_nothing(
    echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    answer = client_of(guarded(echo)).get("/api/broken")
    assert answer.status_code == 500
    assert answer.json() == {
        "detail": "the server failed; its log says why",
        "code": "internal",
    }
    assert "a secret of ours" in caplog.text


def test_an_exception_after_the_answer_began_breaks_the_connection() -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("too late")

    limits = BodyLimits()
    broken = SecurityMiddleware(
        app, hosts=HostList("127.0.0.1"), tokens=TokenBook(), limits=limits
    )
    client = client_of(broken)
    client._transport.raise_server_exceptions = True
    with pytest.raises(RuntimeError, match="too late"):
        client.get("/")


def test_a_connection_serves_on_after_a_refusal(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        for target, status in ((b"/%ff", 422), (b"/", 200)):
            connection.sendall(
                b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
            )
            assert read_answer(connection).status == status
