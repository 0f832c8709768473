"""cfbus.notify against a real datagram socket, as systemd has one."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from contextlib import closing
from tempfile import TemporaryDirectory

import pytest

from cfbus import notify


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    # Of its own, for the path of a socket may have 107 bytes, and that of a test's folder may be longer.
    with (
        TemporaryDirectory(prefix="cfbus-", dir="/tmp") as folder,
        closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as door,
    ):
        door.bind(f"{folder}/notify")
        door.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", f"{folder}/notify")
        yield door


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def now_said(manager: socket.socket) -> list[str] | None:
    return heard(manager) if select.select([manager], [], [], 0)[0] else None


def test_lines_arrive_as_one_datagram(manager: socket.socket) -> None:
    assert notify.tell("READY=1", "STATUS=here", environ=os.environ)
    assert heard(manager) == ["READY=1", "STATUS=here"]


def test_an_abstract_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as door:
        name = f"cfbus-notify-{os.getpid()}"
        door.bind("\0" + name)
        assert notify.tell("READY=1", environ={"NOTIFY_SOCKET": "@" + name})
        assert door.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "relative", "/no/such/socket"])
def test_nobody_to_tell_is_no_error(address: str) -> None:
    assert not notify.tell("READY=1", environ={"NOTIFY_SOCKET": address})


def test_a_full_queue_neither_blocks_nor_raises(manager: socket.socket) -> None:
    taken = sum(notify.tell(f"STATUS={number}") for number in range(5000))
    assert 0 < taken < 5000


def test_a_hostile_status_is_one_line(manager: socket.socket) -> None:
    notify.status("fine\nMAINPID=1\x1b[2J")
    (line,) = heard(manager)
    assert line.startswith("STATUS=fine")
    assert "\x1b" not in line


def test_a_reload_says_when_it_began(manager: socket.socket) -> None:
    notify.reloading()
    first, second = heard(manager)
    assert first == "RELOADING=1"
    assert int(second.removeprefix("MONOTONIC_USEC=")) > 0


def test_more_time_is_asked_for_at_once_and_again(manager: socket.socket) -> None:
    with notify.extending("loading a model", seconds=0.3):
        said = [heard(manager) for _ in range(3)]
    assert said == [["EXTEND_TIMEOUT_USEC=300000", "STATUS=loading a model"]] * 3


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ],
)
def test_whether_there_is_a_watchdog(environ: dict[str, str], seconds: float | None) -> None:
    assert notify.watchdog_seconds(environ) == seconds


def test_the_watchdog_is_fed_twice_as_often_as_it_bites(manager: socket.socket) -> None:
    dog = notify.Watchdog(lambda _: "", every=10.0)
    fed = []
    for tenth in range(300):
        dog.turn(tenth / 10, lambda: "well")
        while (said := now_said(manager)) is not None:
            fed += [tenth / 10] if said == ["WATCHDOG=1"] else []
    assert fed == [0.0, 5.0, 10.0, 15.0, 20.0, 25.0]


def test_fed_only_while_it_gets_on(manager: socket.socket) -> None:
    problem = ""
    dog = notify.Watchdog(lambda _: problem, every=10.0)
    again = dog.turn(0.0, lambda: "well")
    assert again == 5.0
    assert [heard(manager), heard(manager)] == [["STATUS=well"], ["WATCHDOG=1"]]
    problem = "3 items in flight for 2000 s"
    dog.turn(5.0, lambda: "stuck")
    assert heard(manager) == ["STATUS=stuck"]
    assert now_said(manager) is None
    problem = ""
    dog.turn(10.0, lambda: "well")
    assert [heard(manager), heard(manager)] == [["STATUS=well"], ["WATCHDOG=1"]]


def test_without_systemd_it_costs_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)

    def never() -> str:
        raise AssertionError

    assert notify.Watchdog(lambda _: never(), every=1.0).turn(0.0, never) == float("inf")
