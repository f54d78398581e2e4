"""Where webhooks connect to: addresses, names, TLS, and what config.toml may say."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from milepost.worker.addresses import Allowed, kind_of, refusal
from milepost.worker.config.settings import ConfigError, load
from milepost.worker.webhooks.sender import Outcome, Sender, Target, resolved
from tests.support.clock import NOW
from tests.support.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVERYTHING = Allowed(private=True, link_local=True)
PRIVATE = Allowed(private=True)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def post(url: str, allowed: Allowed, *addresses: str) -> Outcome:
    """Send to `url`, whose name resolves to `addresses`."""
    sender = Sender(lambda *_: [*addresses]) if addresses else Sender()
    return sender.post(Target(url, allowed, 30.0), {"webhook-id": "m"}, b"{}")


# -- addresses -------------------------------------------------------------------------

KINDS = {
    "global": "8.8.8.8 1.1.1.1 2606:4700:4700::1111 ::ffff:8.8.8.8 64:ff9b::8.8.8.8",
    "private": "127.0.0.1 127.255.0.9 ::1 10.0.0.1 172.16.0.1 172.31.255.255"
    " 192.168.1.1 100.64.0.1 198.18.0.1 192.0.2.1 fc00::1 fd12::1 2001:db8::1"
    " ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::10.0.0.1 64:ff9b::10.0.0.1 2002:a00:1::"
    " 64:ff9b:1::7f00:1 ::ffff:0:127.0.0.1",
    "metadata": "169.254.169.254 169.254.0.1 169.254.170.2 fe80::1 fe80::1%eth0"
    " febf::1 100.100.100.200 168.63.129.16 192.0.0.192 fd00:ec2::254 fd20:ce::254"
    " ::ffff:169.254.169.254 ::ffff:a9fe:a9fe ::169.254.169.254"
    " 64:ff9b::169.254.169.254 2002:a9fe:a9fe:: ::ffff:0:169.254.169.254"
    " ::ffff:100.100.100.200 2001:0:808:808::5601:5601",
    "unusable": "0.0.0.0 0.1.2.3 255.255.255.255 224.0.0.1 239.1.1.1 240.0.0.1 ::"
    " ff02::1 ff0e::1 ff02::1%eth0 fec0::1 ::ffff:0.0.0.0 ::ffff:224.0.0.1"
    " 64:ff9b::0.0.0.0 2002:e000:1::",
}


@pytest.mark.parametrize(
    ("address", "kind"),
    [(address, kind) for kind, text in KINDS.items() for address in text.split()],
)
def test_an_address_has_the_kind_of_the_most_restricted_one_that_it_contains(
    address: str, kind: str
) -> None:
    assert kind_of(ipaddress.ip_address(address)) == kind


@pytest.mark.parametrize(
    ("kind", "allowed", "schemes"),
    [
        ("global", Allowed(), "https"),
        ("global", EVERYTHING, "https"),
        ("private", Allowed(), ""),
        ("private", PRIVATE, "http https"),
        ("metadata", PRIVATE, ""),
        ("metadata", Allowed(link_local=True), "http https"),
        ("unusable", EVERYTHING, ""),
    ],
)
def test_each_kind_is_refused_unless_it_is_allowed(
    kind: str, allowed: Allowed, schemes: str
) -> None:
    for address in KINDS[kind].split():
        for scheme in ("http", "https"):
            is_allowed = refusal(address, scheme, allowed) is None
            assert is_allowed == (scheme in schemes.split()), (address, scheme)


@pytest.mark.parametrize(
    "host",
    [
        *("2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518"),
        *("169.16689662", "[::ffff:169.254.169.254]", "[fe80::1]", "0xa9.254.169.254"),
    ],
)
def test_another_spelling_of_a_metadata_address_is_refused(host: str) -> None:
    outcome = post(f"http://{host}/latest/meta-data", PRIVATE)
    assert outcome.status is None
    assert "is link-local or a metadata service" in str(outcome.error)


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1"])
def test_another_spelling_of_loopback_is_loopback(
    receiver: Receiver, host: str
) -> None:
    url = f"http://{host}:{receiver.port}/hook"
    assert "is a private address" in str(post(url, Allowed()).error)
    assert receiver.received == []
    assert post(url, PRIVATE) == Outcome(204)


@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1", "169.254.169.254"),
        ("169.254.169.254", "127.0.0.1"),
        ("127.0.0.1", "::ffff:169.254.169.254"),
        ("127.0.0.1", "0.0.0.0"),
        ("127.0.0.1", "8.8.8.8"),  # public, but not over TLS
    ],
)
def test_one_refused_address_of_a_name_refuses_the_name(
    receiver: Receiver, addresses: tuple[str, ...]
) -> None:
    outcome = post(f"http://hook.example:{receiver.port}/", PRIVATE, *addresses)
    assert "hook.example is refused: " in str(outcome.error)
    assert receiver.received == []


def test_the_connection_goes_to_the_address_that_was_checked(
    receiver: Receiver,
) -> None:
    answers = iter([["127.0.0.1"], ["169.254.169.254"]])
    sender = Sender(lambda *_: next(answers))
    url = f"http://hook.example:{receiver.port}/a?b=c"
    target = Target(url, PRIVATE, 30.0)
    assert sender.post(target, {}, b"{}").is_delivered
    assert receiver.received[0].headers["host"] == f"hook.example:{receiver.port}"
    assert receiver.received[0].path == "/a?b=c"
    assert "is refused" in str(sender.post(target, {}, b"{}").error)


def test_the_next_address_of_a_name_is_tried_if_one_does_not_answer(
    receiver: Receiver,
) -> None:
    url = f"http://hook.example:{receiver.port}/"
    assert post(url, PRIVATE, "127.0.0.9", "127.0.0.1").is_delivered
    assert "refused" in str(post(url, PRIVATE, "127.0.0.9", "127.0.0.8").error)


def test_a_name_without_an_address_is_an_error() -> None:
    assert post("https://name.invalid/", EVERYTHING).error
    assert resolved("127.0.0.1", 80) == ["127.0.0.1"]


def test_no_proxy_is_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert post(receiver.url, PRIVATE).is_delivered


# -- TLS -------------------------------------------------------------------------------


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Receiver]:
    """A receiver with a certificate for hook.example, which is also its authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hook.example")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=3650))
        .not_valid_after(NOW + timedelta(days=36500))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("hook.example")]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path = tmp_path / "hook.pem"
    path.write_bytes(
        certificate.public_bytes(pem)
        + key.private_bytes(
            pem,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    made = Receiver(tls=context)
    yield made
    made.close()


def test_a_certificate_must_be_trusted_and_name_the_host(
    secure: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"https://hook.example:{secure.port}/"
    assert "self-signed" in str(post(url, PRIVATE, "127.0.0.1").error)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "hook.pem"))
    assert post(url, PRIVATE, "127.0.0.1").is_delivered
    other = f"https://other.example:{secure.port}/"
    assert "Hostname mismatch" in str(post(other, PRIVATE, "127.0.0.1").error)
    assert len(secure.received) == 1


def test_a_handshake_that_does_not_end_is_ended_by_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://hook.example:{silent.getsockname()[1]}/"
        sender = Sender(lambda *_: ["127.0.0.1"])
        outcome = sender.post(Target(url, PRIVATE, 0.3), {}, b"{}")
    assert outcome.error == "no complete answer within 0.3 s"


# -- settings --------------------------------------------------------------------------

SOUND = {
    "name": '"hook"',
    "url": '"https://example.com/hook"',
    "events": '["checkpoint.*"]',
    "secret_env": '"HOOK_SECRET"',
}


def written(tmp_path: Path, **keys: str | None) -> Path:
    path = tmp_path / "config.toml"
    lines = [f"{k} = {v}" for k, v in {**SOUND, **keys}.items() if v is not None]
    path.write_text("\n".join(["[[webhooks]]", *lines]))
    return path


def test_the_defaults_of_a_webhook_and_a_secret_file_beside_the_config_file(
    tmp_path: Path,
) -> None:
    path = written(tmp_path, secret_env=None, secret_file='"keys/hook"')
    (webhook,) = load(path, environ={}).webhooks
    assert webhook.secret_file == tmp_path / "keys" / "hook"
    assert webhook.allowed == Allowed()
    assert webhook.jobs == "*"
    assert "checkpoint.saved" in webhook.types
    assert "checkpoints.cleaned" not in webhook.types


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"urls": "1"}, "unknown key webhooks[0].urls; did you mean webhooks[0].url?"),
        ({"secret": '"whsec_x"'}, "unknown key webhooks[0].secret; did you mean"),
        ({"name": None}, "webhooks[0].name is missing"),
        ({"name": '"Hook"'}, 'webhooks[0].name = "Hook": expected text of the form'),
        ({"events": "[]"}, "webhooks[0].events: expected"),
        ({"events": '["*"]'}, 'expected types or families such as "checkpoint.*"'),
        ({"events": '["checkpoint.save"]'}, "did you mean checkpoint.saved?"),
        ({"events": '["checkpont.*"]'}, "did you mean checkpoint.*?"),
        ({"events": '["job.*", "x"]'}, 'webhooks[0].events[1] = "x": expected an ev'),
        ({"secret_env": None}, 'expected one of "secret_file" and "secret_env"'),
        ({"secret_file": '"f"'}, 'expected one of "secret_file" and "secret_env"'),
        ({"secret_env": '"whsec_abc"'}, "expected the name of an environment variable"),
        ({"secret_env": '"a-b="'}, "expected the name of an environment variable"),
        ({"secret_env": '"MILEPOST_X"'}, "which does not begin with MILEPOST_"),
        ({"timeout": "10"}, "webhooks[0].timeout = 10: expected"),
        ({"timeout": '"1h"'}, "expected 100ms to 1min"),
        ({"max_attempts": "0"}, "webhooks[0].max_attempts = 0: expected"),
        ({"url": '"ftp://example.com/"'}, "expected a URL such as https://example.com"),
        ({"url": '"https:///x"'}, "expected a URL such as"),
        ({"url": '"https://example.com:99999/"'}, "expected a URL such as"),
        ({"url": '"https://u:whsec_x@example.com/"'}, "without user and password"),
        ({"url": '"https://example.com/#a"'}, "without a fragment"),
        ({"url": '"https://exämple.com/"'}, "expected a URL in printable ASCII"),
        ({"url": '"https://example.com/a b"'}, "expected a URL in printable ASCII"),
        ({"url": '"https://example.com/\\r\\nX: y"'}, "expected a URL in printable"),
        ({"url": '"http://8.8.8.8/"'}, "is a public address, which needs https://"),
        ({"url": '"http://127.0.0.1/"'}, "127.0.0.1 is a private address; see allow_p"),
        ({"url": '"http://[::1]/"'}, "::1 is a private address"),
        ({"url": '"https://169.254.169.254/"'}, "169.254.169.254 is link-local or a m"),
    ],
)
def test_a_mistake_in_a_webhook_is_one_line_that_shows_no_secret(
    tmp_path: Path, keys: dict[str, str | None], message: str
) -> None:
    path = written(tmp_path, **keys)
    with pytest.raises(ConfigError) as caught:
        load(path, environ={})
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    assert "whsec_" not in text


def test_two_webhooks_have_distinct_names(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text() + "\n" + path.read_text())
    with pytest.raises(ConfigError, match="distinct names, 'hook' is used twice"):
        load(path, environ={})


def test_a_variable_cannot_set_webhooks() -> None:
    with pytest.raises(ConfigError, match="is a list of tables"):
        load(environ={"MILEPOST_WEBHOOKS": "x", "XDG_CONFIG_HOME": "/nonexistent"})
