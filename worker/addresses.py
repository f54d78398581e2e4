"""Which network addresses a webhook may connect to.

Names are not judged: a name is resolved, and the connection goes to an address that was
judged.  So a name that resolves to something else a moment later gains nothing, and
every spelling of an address (``0x7f.1``, ``2130706433``) is judged alike.
"""

from __future__ import annotations

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

Address = IPv4Address | IPv6Address
Kind = Literal["global", "private", "metadata", "unusable"]


class Allowed(NamedTuple):
    """What a webhook may connect to, in addition to global addresses over TLS.

    Attributes:
        private: loopback and private addresses, also without TLS.
        link_local: link-local addresses, and those of metadata services.
    """

    private: bool = False
    link_local: bool = False


# Cloud services that hand credentials to whatever connects, apart from 169.254.0.0/16.
_METADATA = tuple(
    map(
        ip_network,
        (
            *("100.100.100.200", "168.63.129.16", "192.0.0.192"),  # Alibaba, Azure, OCI
            *("fd00:ec2::/32", "fd20:ce::254"),  # AWS, Google
        ),
    )
)
# IPv6 prefixes whose addresses contain an IPv4 address, and its offset in bits.
_EMBEDDING = (
    (ip_network("::/96"), 0),
    (ip_network("64:ff9b::/96"), 0),
    (ip_network("64:ff9b:1::/48"), 0),
    (ip_network("::ffff:0:0:0/96"), 0),
    (ip_network("2002::/16"), 80),
)


def kind_of(address: Address) -> Kind:
    """Return the kind of an address; of several embedded ones the most restricted."""
    kinds = [_kind(each) for each in _contained(address)]
    order: tuple[Kind, ...] = ("unusable", "metadata", "private", "global")
    return min(kinds, key=order.index)


def refusal(host: str, scheme: str, allowed: Allowed) -> str | None:
    """Return why no connection to the address `host` is made; None if it is allowed.

    Raises:
        ValueError: `host` is a name.
    """
    kind = kind_of(ip_address(host))
    if kind == "unusable":
        return f"{host} is no address of one host"
    if kind == "metadata" and not allowed.link_local:
        return f"{host} is link-local or a metadata service; see allow_link_local"
    if kind == "private" and not allowed.private:
        return f"{host} is a private address; see allow_private"
    if kind == "global" and scheme != "https":
        return f"{host} is a public address, which needs https://"
    return None


def _contained(address: Address) -> Iterator[Address]:
    """Yield the addresses that packets to `address` may reach."""
    if not isinstance(address, IPv6Address):
        yield address
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
        return
    if address.scope_id is not None:
        address = IPv6Address(int(address))
    yield address
    if address.teredo is not None:
        yield from address.teredo
    for network, offset in _EMBEDDING:
        if address in network and int(address) > 1:  # `::` and `::1` contain none
            yield IPv4Address(int(address) >> offset & 0xFFFF_FFFF)


def _kind(address: Address) -> Kind:
    if any(_is_in(address, network) for network in _METADATA) or address.is_link_local:
        return "metadata"
    if address.is_loopback:  # `::1` also counts as reserved
        return "private"
    if address.is_multicast or address.is_unspecified or _is_reserved(address):
        return "unusable"
    return "global" if address.is_global else "private"


def _is_reserved(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return address.is_reserved or address in IPv4Network("0.0.0.0/8")
    # `is_reserved` also names the prefixes that contain an IPv4 address.
    return address.is_site_local


def _is_in(address: Address, network: IPv4Network | IPv6Network) -> bool:
    return address.version == network.version and address in network
