"""The way to a broker, looked at step by step: name, network, firewall, what answers, whose key it has, and whom it
lets in.

Knows sockets and what a stranger may answer; must not know the command line. All that comes from the other side is
text from outside, and bounded.

Invariants: each step has a deadline; nothing is sent but a greeting of ZMTP, a CURVE handshake, and the HELLO of a
worker, which asks for no lease.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cfbus import logs, runtime
from cfbus.bus import keys
from cfbus.bus import messages as m
from cfbus.bus.following import Connection
from cfbus.bus.keys import KeyPair
from cfbus.bus.messages import Role
from cfbus.errors import CfbusError, KeyRefusedError, OtherProjectError, UnreachableError, WrongServerError
from cfbus.link import refusal
from cfbus.store.registry_rows import date
from cfbus.tools import asking, joining
from cfbus.tools.doctor_seen import Seen, bad, note, ok, wrong

TCP_SECONDS = 5.0
GREETING_SECONDS = 5.0
MOST_ADDRESSES: Final = 8
KEY_DAYS_NOTED: Final = 14
GREETING: Final = b"\xff" + bytes(7) + b"\x01\x7f\x03"
"""How ZMTP 3 begins: signature and version. The rest, with the mechanism, is not said: hearing that it is another one,
the other end would hang up before we had read its own."""
GREETING_BYTES: Final = 64
_PARTS: Final = re.compile(r"tcp://(?:\[([^\]]+)\]|([^:]+)):([0-9]{1,5})")

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Way:
    """Where the broker is said to be, by which keys it is to be known and to know us, and as what we come."""

    endpoint: str
    server: bytes
    pair: KeyPair
    role: Role
    project: str
    section: str

    @property
    def host(self) -> str:
        """Name or number."""
        found = _PARTS.fullmatch(self.endpoint)
        return (found[1] or found[2]) if found else ""

    @property
    def port(self) -> int:
        """The port."""
        found = _PARTS.fullmatch(self.endpoint)
        return int(found[3]) if found else 0


class Bus:
    """The look at one broker. ``welcome`` is what it said to a worker, once ``look`` is over."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self.welcome: m.Welcome | None = None

    def look(self) -> Iterator[Seen]:
        """Step by step, up to the first that bars the way."""
        try:
            addresses = _resolved(self._way.host, self._way.port)
        except UnreachableError as error:
            yield bad("name", error)
            return
        shown = ", ".join(address for address, _ in addresses)
        yield ok("name", f"{self._way.host} is {shown}." if self._way.host != shown else f"{shown} needs no look-up.")
        open_ones: list[Address] = []
        for address in addresses:
            seen, is_open = _dialled(address)
            open_ones += [address] if is_open else []
            yield seen if is_open or len(addresses) == 1 else note(seen.what, seen.sentence, seen.hint)
        if not open_ones:
            if len(addresses) > 1:
                yield wrong("network", f"None of the addresses of {self._way.host} answers.", "", UnreachableError)
            return
        greeted = _greeted(open_ones[0])
        yield greeted
        if not greeted.exit_code:
            yield from self._shaken()

    def _shaken(self) -> Iterator[Seen]:
        """The handshake, and for a worker the WELCOME."""
        way = self._way
        try:
            yield from self._handshake()
        except WrongServerError:
            yield wrong(
                "broker's key",
                f"What answers at {way.endpoint} has another key than {way.section}.server_key,"
                f" {keys.fingerprint(way.server)}.",
                "Compare it with what cfbus-broker logs when it starts, and the port too: the statistics have another."
                " If the maintainer knows of no new key, somebody may be posing as the broker: do not go on.",
                WrongServerError,
            )
        except KeyRefusedError as error:
            yield bad("this key", error)

    def _handshake(self) -> Iterator[Seen]:
        way = self._way
        if way.role is Role.MONITOR:
            yield from _subscribed(way)
            return
        met = asking.greet(way.endpoint, way.server, way.pair, way.role, "doctor")
        self.welcome = met.welcome
        if not met.connected:
            yield _not_let_in(way, met.trouble)
            return
        yield from _let_in(way)
        if way.role is Role.WORKER and self.welcome is None:
            sentence = f"The broker at {way.endpoint} lets this key in and then says nothing."
            yield wrong("bus", sentence, "It may be very busy; try again.", UnreachableError)
        if self.welcome is not None:
            yield from _welcomed(way, self.welcome)


def _subscribed(way: Way) -> Iterator[Seen]:
    """The same for a monitor, who listens and says nothing."""
    outcome = joining.subscribed(way.endpoint, way.server, way.pair)
    if outcome is Connection.HANDSHAKE_OK:
        yield from _let_in(way)
    elif outcome in (Connection.REFUSED, Connection.CLOSED):
        raise refusal(outcome, way.endpoint, way.pair.public)
    elif outcome is Connection.WRONG_SERVER:
        raise WrongServerError(outcome.sentence(way.endpoint))
    else:
        yield _not_let_in(way, outcome)


def _let_in(way: Way) -> Iterator[Seen]:
    yield ok("broker's key", f"It is {keys.fingerprint(way.server)}, as expected.")
    yield ok("this key", f"The broker lets {keys.fingerprint(way.pair.public)} in.")


def _resolved(host: str, port: int) -> list[Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "it is no name"
        raise UnreachableError(
            f"The name {logs.display(host, 200)} cannot be looked up: {why}.",
            "Is it spelled right, is this host online, and does its DNS work?",
        ) from None
    every = dict.fromkeys((str(address[0]), port) for _, _, _, _, address in found)
    return list(every)[:MOST_ADDRESSES]


def _dialled(address: Address) -> tuple[Seen, bool]:
    """Whether anybody takes a connection there."""
    host, port = address
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    began = time.monotonic()
    try:
        socket.create_connection((host, port), TCP_SECONDS).close()
    except ConnectionRefusedError:
        hint = "Is the broker running, is the port right, and does a firewall refuse it?"
        return wrong("network", f"{shown} refuses: nobody listens there.", hint, UnreachableError), False
    except TimeoutError:
        hint = (
            "A firewall, here or there, drops what is sent to that port without a word, or the host is off. Ask for"
            f" TCP port {port} to be let through."
        )
        sentence = f"{shown} does not answer at all within {TCP_SECONDS:.0f} s."
        return wrong("network", sentence, hint, UnreachableError), False
    except OSError as error:
        sentence = f"There is no way to {shown}: {error.strerror or error}."
        return wrong("network", sentence, "Is this host online?", UnreachableError), False
    return ok("network", f"{shown} answers within {(time.monotonic() - began) * 1000:.0f} ms."), True


def _greeted(address: Address) -> Seen:
    """What kind of thing answers: what it says to a greeting."""
    host, port = address
    said = b""
    silent = False
    deadline = time.monotonic() + GREETING_SECONDS
    try:
        with socket.create_connection((host, port), TCP_SECONDS) as connection:
            connection.sendall(GREETING)
            while len(said) < GREETING_BYTES:
                connection.settimeout(max(deadline - time.monotonic(), 0.01))
                part = connection.recv(GREETING_BYTES - len(said))
                if not part:
                    break
                said += part
    except TimeoutError:
        silent = True
    except OSError as error:
        if not said:
            return wrong("broker", f"The connection broke: {error.strerror or error}.", "Try again.", UnreachableError)
    return _judged(said, silent)


def _judged(said: bytes, silent: bool) -> Seen:
    hint = "Compare the address with the maintainer's; the statistics have another port than the bus."
    if not said:
        does = "takes connections and says nothing" if silent else "takes connections and closes them at once"
        sentence = f"What listens there {does}: a proxy with no broker behind it, or a broker that is stuck."
        return wrong("broker", sentence, "Ask the maintainer whether the broker runs.", UnreachableError)
    if said[0] != 0xFF or len(said) < 12 or said[9] != 0x7F:
        first = logs.display(said.split(b"\n")[0].decode("latin-1"), 60)
        sentence = f"What listens there is no cfbus broker: it begins with {first!r}."
        return wrong("broker", sentence, hint, OtherProjectError)
    mechanism = said[12:32].rstrip(b"\0")
    if said[10] < 3 or mechanism != b"CURVE":
        name = logs.display(mechanism.decode("latin-1"), 20) or "none"
        sentence = f"What listens there speaks ZeroMQ, but not as a cfbus broker does (ZMTP {said[10]}, {name})."
        return wrong("broker", sentence, hint, OtherProjectError)
    return ok("broker", "It speaks ZeroMQ with CURVE, as a broker does.")


def _not_let_in(way: Way, trouble: Connection | None) -> Seen:
    if trouble is Connection.LATER:
        sentence = "The broker does not let this key in yet: it waits for approval, or is suspended."
        hint = f"Ask the maintainer about {keys.fingerprint(way.pair.public)}; a daemon that is started waits with it."
        return wrong("this key", sentence, hint, KeyRefusedError)
    why = trouble.sentence(way.endpoint) if trouble is not None else "It was silent."
    sentence = f"The handshake with {way.endpoint} came to no end. {why}"
    return wrong("broker", sentence, "The broker may be stopping or very busy; try again.", UnreachableError)


def _welcomed(way: Way, welcome: m.Welcome) -> Iterator[Seen]:
    """What the broker told a worker."""
    project = logs.display(welcome.dataset, 100)
    if welcome.dataset == way.project:
        yield ok("project", f"The bus is {project}'s.")
    else:
        sentence = f"The bus is {project}'s, and dataset.name is {logs.display(way.project, 100)}."
        yield wrong("project", sentence, "Ask the maintainer which is meant.", OtherProjectError)
    yield _lasting(welcome.key_expires)
    if welcome.now:
        warning = joining.clock_warning(welcome.now)
        yield note("clock", warning) if warning else ok("clock", "It agrees with the broker's.")


def _lasting(expires: int) -> Seen:
    if not expires:
        return ok("key's end", "The key lasts for ever.")
    ends = expires / 1e6
    days = (ends - time.time()) / 86_400
    sentence = f"The key ends at {date(ends)}, in {max(days, 0.0):.0f} days."
    if days < KEY_DAYS_NOTED:
        return note("key's end", sentence, "Ask the maintainer to let it last longer.")
    return ok("key's end", sentence)


def way_of(section: str, peer: tuple[str, str], key: KeyPair, role: Role, project: str) -> Way:
    """From what is configured; raises what is wrong with the broker's key."""
    endpoint, line = peer
    try:
        return Way(endpoint, runtime.server_key(line, section), key, role, project, section)
    except CfbusError as error:
        raise type(error)(f"{section}.server_key: {error.message}", error.hint) from None
