"""Which addresses may be connected to."""

from __future__ import annotations

import socket

import pytest

from cfbus.sources.addresses import PassingError, checked_addresses, may_connect
from cfbus.sources.base import ReadError, ReadReason

PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]
PRIVATE = [
    "127.0.0.1", "127.255.0.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1", "240.0.0.1",
    "255.255.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "::1", "fc00::1", "fd12::1", "fec0::1", "::127.0.0.1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2001:db8::1", "64:ff9b:1::1",
]  # fmt: skip
NEVER = [
    "169.254.169.254", "169.254.0.1", "100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fe80::1", "fe80::1%eth0",
    "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "2002:7f00:1::1", "2001:0:7f00:1::1",
    "0.0.0.0", "::", "224.0.0.1", "ff02::1", "localhost", "", "1.2.3", "0x7f.1",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_ones_may(address: str) -> None:
    assert may_connect(address, allow_private=False)
    assert may_connect(address, allow_private=True)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_ones_only_where_allowed(address: str) -> None:
    assert not may_connect(address, allow_private=False)
    assert may_connect(address, allow_private=True)


@pytest.mark.parametrize("address", NEVER)
def test_metadata_and_what_is_no_destination_never(address: str) -> None:
    assert not may_connect(address, allow_private=False)
    assert not may_connect(address, allow_private=True)


def refused(host: str, answer: list[str] | Exception) -> ReadError:
    def resolve(host: str, port: int) -> list[str]:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(ReadError) as caught:
        checked_addresses(host, 80, resolve, allow_private=False)
    return caught.value


def test_of_a_mixed_answer_only_the_public_addresses_are_left() -> None:
    mixed = ["10.0.0.1", "8.8.8.8", "169.254.169.254", "8.8.8.8", "8.8.4.4"]
    assert checked_addresses("a.example", 80, lambda *_: mixed, allow_private=False) == ["8.8.8.8", "8.8.4.4"]


def test_the_sentence_says_what_the_name_stands_for() -> None:
    error = refused("inside.example", ["10.1.2.3"])
    assert (error.reason, error.fault) == (ReadReason.PRIVATE_ADDRESS, "item")
    assert error.detail == "inside.example is 10.1.2.3, which is no address of the public internet."


@pytest.mark.parametrize(
    ("answer", "reason", "fault", "passes"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), ReadReason.NO_SUCH_HOST, "item", False),
        (socket.gaierror(socket.EAI_NODATA, "No address"), ReadReason.NO_SUCH_HOST, "item", False),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), ReadReason.DNS_FAILED, "network", True),
        (OSError("no file descriptor"), ReadReason.DNS_FAILED, "network", True),
        (UnicodeError("label too long"), ReadReason.NO_SUCH_HOST, "item", False),
        ([], ReadReason.NO_SUCH_HOST, "item", False),
    ],
)
def test_names_that_do_not_resolve(answer: list[str] | Exception, reason: str, fault: str, passes: bool) -> None:
    error = refused("a.example", answer)
    assert (error.reason, error.fault, isinstance(error, PassingError)) == (reason, fault, passes)


@pytest.mark.parametrize("host", ["0x7f.1", "2130706433", "127.1", "0177.0.0.1", "localhost", "[::1]".strip("[]")])
def test_however_this_host_is_written_it_is_known(host: str) -> None:
    from cfbus.sources.addresses import resolve_by_system

    with pytest.raises(ReadError, match="no address of the public internet"):
        checked_addresses(host, 80, resolve_by_system, allow_private=False)
