"""Which hosts may be asked for an image: a name is resolved here, and only addresses that pass are connected to.

What it is for: an address in a list, or a redirect, may come from anybody. It must not reach what only this machine or
its network can reach.
What it must not know: HTTP, sockets. How a name is resolved is given from outside.

Invariants:
- What is checked is the address that is connected to, never the text of a name: however a number is written, and
  whatever a name resolves to the next time, nothing else is reached.
- Cloud metadata, link-local, multicast and unspecified addresses are refused even where private ones are allowed.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

from cfbus.sources.base import ReadError, ReadReason

Resolve: TypeAlias = Callable[[str, int], Sequence[str]]
"""Host and port to addresses as text, the best first; raises OSError (``socket.gaierror``) where there is none."""

_Address: TypeAlias = IPv4Address | IPv6Address
_UNICAST: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_METADATA: Final = frozenset(map(ip_address, ("169.254.169.254", "100.100.100.200", "168.63.129.16", "fd00:ec2::254")))
_RELAY: Final = ip_network("192.88.99.0/24")
_NO_HOST: Final = frozenset(
    number for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if (number := getattr(socket, name, None))
)
MAX_ADDRESSES: Final = 4


class PassingError(ReadError):
    """An attempt failed; another may go better, after ``wait`` seconds where the server said so."""

    wait: float | None = None


def resolve_by_system(host: str, port: int) -> Sequence[str]:
    """The addresses that this system gives."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def checked_addresses(host: str, port: int, resolve: Resolve, *, allow_private: bool) -> list[str]:
    """The addresses of ``host`` that may be connected to, at most `MAX_ADDRESSES`. Raises ReadError when none may."""
    addresses = list(dict.fromkeys(_resolved(host, port, resolve)))
    fine = [address for address in addresses if may_connect(address, allow_private=allow_private)]
    if addresses and not fine:
        detail = f"{host} is {addresses[0]}, which is no address of the public internet."
        raise ReadError(ReadReason.PRIVATE_ADDRESS, detail, "item")
    if not fine:
        raise ReadError(ReadReason.NO_SUCH_HOST, f"There is no host {host}.", "item")
    return fine[:MAX_ADDRESSES]


def _resolved(host: str, port: int, resolve: Resolve) -> Sequence[str]:
    try:
        return resolve(host, port)
    except socket.gaierror as error:
        if error.errno in _NO_HOST:
            raise ReadError(ReadReason.NO_SUCH_HOST, f"There is no host {host}.", "item") from None
        detail = f"The name {host} cannot be resolved: {error.strerror}."
        raise PassingError(ReadReason.DNS_FAILED, detail, "network") from None
    except OSError as error:
        detail = f"The name {host} cannot be resolved: {error}."
        raise PassingError(ReadReason.DNS_FAILED, detail, "network") from None
    except UnicodeError:
        raise ReadError(ReadReason.NO_SUCH_HOST, f"{host} cannot be the name of a host.", "item") from None


def may_connect(text: str, *, allow_private: bool) -> bool:
    """Whether this address, as text, may be connected to."""
    try:
        address = _within(ip_address(text))
    except ValueError:
        return False
    if address is None or address in _METADATA or _is_no_destination(address):
        return False
    return allow_private or _is_public(address)


def _within(address: _Address) -> _Address | None:
    """The IPv4 address that an IPv6 one stands for, where it does; None for one that stands for another network."""
    if isinstance(address, IPv4Address):
        return address
    if address.scope_id is not None:
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(address.packed[-4:])
    return None if address.sixtofour is not None or address.teredo is not None else address


def _is_no_destination(address: _Address) -> bool:
    return address.is_link_local or address.is_multicast or address.is_unspecified


def _is_public(address: _Address) -> bool:
    if isinstance(address, IPv6Address):
        return address in _UNICAST and address.is_global
    return address.is_global and not address.is_reserved and address not in _RELAY
