"""A peer's link to the broker: dialled, watched, and built anew when libzmq has given it up.

Knows sockets and what may become of a connection; must not know what is said on it, but for the broker's word on why it
puts a key out.

Invariants: a link whose key is refused ends with a sentence; whatever else happens, it tries on, and says why it must.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cfbus import logs
from cfbus.bus import connections, keys, sockets
from cfbus.bus.keys import KeyPair
from cfbus.bus.messages import Error, Message
from cfbus.bus.sockets import Connection, ConnectionWatch
from cfbus.bus.wire import WireError, decode, encode
from cfbus.errors import KeyClosedError, KeyRefusedError, WrongServerError
from cfbus.runtime import MAX_WAIT_SECONDS, Loop, now

DRAIN_MESSAGES = 256
REBUILD_SECONDS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
WATCH_SECONDS = 2.0
WRONG_SERVER_SECONDS = 5.0
"""Only wrong answers for this long, and none that ever was right: the key or the address is taken to be wrong. A broker
that is just stopping or starting is past it by then."""
DIAGNOSIS_SECONDS = 3.0
"""Less than libzmq's patience with a handshake: whoever is silent is not taken for another broker."""
DIAGNOSE_AGAIN_SECONDS = 60.0
KEY_CLOSED: Final = "key-closed"
"""The code of the ERROR with which a broker says why it puts a key out."""


def refusal(what: Connection, endpoint: str, public: bytes) -> KeyRefusedError:
    """The error for a key that a broker does not know, or has closed for good."""
    mark = keys.fingerprint(public)
    if what is Connection.CLOSED:
        return KeyClosedError(
            what.sentence(endpoint),
            f"Ask the maintainer why: `cfbus-admin keys show {mark}`. One that has expired can be made to last; one"
            " that was revoked stays so, and a new one comes in by an invite.",
        )
    return KeyRefusedError(
        what.sentence(endpoint),
        "Ask the maintainer for an invite, or to add this key: its public half is the .key file beside the secret one,"
        f" or the line that `cfbus keygen` printed and `cfbus keys inspect` shows; its fingerprint is {mark}.",
    )


class Link:
    """A peer's connection to the broker."""

    def __init__(
        self,
        loop: Loop,
        context: sockets.Context,
        pair: KeyPair,
        server_public: bytes,
        endpoint: str,
        on_connected: Callable[[], None],
        on_message: Callable[[Message, bytes], None],
    ) -> None:
        self._loop = loop
        self._context = context
        self._pair = pair
        self._server_public = server_public
        self.endpoint = endpoint
        self._on_connected = on_connected
        self._on_message = on_message
        self._log = logs.get_logger()
        self._failures = 0
        self._ever_admitted = False
        self._farewell = ""
        self._reached: bool
        self._wrong_since: float | None = None
        self._stranger: connections.Stranger | None = None
        self._stranger_until = self._diagnose_at = 0.0
        self._rebuild_at: float | None = None
        self._socket: sockets.Socket
        self._watch: ConnectionWatch
        self.connected = False
        self.trouble: Connection | None = None
        """Why there is no way to the broker, as far as that was told."""
        self._dial()

    def _dial(self) -> None:
        self._reached = False
        self._socket, self._watch = sockets.connect_bus(self._context, self._pair, self._server_public, self.endpoint)
        self._loop.watch(self._socket, self._readable)
        self._loop.watch(self._watch.events, self._changed)

    def _hang_up(self) -> None:
        self._dismiss_stranger()
        self._loop.unwatch(self._socket)
        self._loop.unwatch(self._watch.events)
        self._watch.close()
        self._socket.close()

    def _readable(self) -> None:
        for frames in sockets.drain_client(self._socket, DRAIN_MESSAGES):
            try:
                message, payload = decode(frames)
            except WireError as error:
                self._log.warning("message.unreadable", code=error.code, why=str(error))
                continue
            if isinstance(message, Error) and message.code == KEY_CLOSED:
                self._farewell = logs.display(message.sentence, 400)
            self._on_message(message, payload)

    def _changed(self) -> None:
        for what in self._watch.read(now()):
            self._happened(what)
        if self._watch.dead:
            self._give_up()

    def _happened(self, what: Connection) -> None:
        match what:
            case Connection.HANDSHAKE_OK:
                self._admitted()
            case Connection.REFUSED | Connection.CLOSED:
                raise self._refused(what)
            case Connection.CONNECTED:
                self._reached = True
            case Connection.RETRYING if self._reached:
                self._reached = False  # the pause after a connection whose end was told
            case Connection.HUNG_UP:
                self._hung_up(now())
            case _:
                self._without(what)

    def _admitted(self) -> None:
        self.connected = self._ever_admitted = True
        self.trouble, self._farewell = None, ""
        self._failures, self._wrong_since, self._diagnose_at = 0, None, 0.0
        self._dismiss_stranger()
        self._log.info("bus.connected", endpoint=self.endpoint)
        self._on_connected()

    def _without(self, why: Connection) -> None:
        """There is no way to the broker now; a person is told why, and it ends if trying on makes no sense."""
        self.connected = False
        self.trouble = why
        self._log.warning(f"bus.{why.value}", why=why.sentence(self.endpoint))
        if why is not Connection.WRONG_SERVER:
            self._wrong_since = None
            return
        self._wrong_since = self._wrong_since or now()
        if not self._ever_admitted and now() - self._wrong_since >= WRONG_SERVER_SECONDS:
            raise WrongServerError(
                why.sentence(self.endpoint),
                "Compare server and server_key in the configuration with what the broker shows when it starts.",
            )

    def _hung_up(self, at: float) -> None:
        """To a peer whose key waits for approval, and to one that expects another broker, libzmq shows the same: ask
        as a stranger, whom only the right broker can refuse."""
        if self._stranger is None and at >= self._diagnose_at:
            self._stranger = connections.Stranger(self._context, self.endpoint, self._server_public)
            self._stranger_until = at + DIAGNOSIS_SECONDS
            self._loop.watch(self._stranger.events, self._look_at_stranger)

    def _look_at_stranger(self) -> None:
        outcome = self._stranger.look(now()) if self._stranger is not None else None
        if outcome is not None:
            self._diagnosed(connections.diagnosis(outcome))

    def _diagnosed(self, why: Connection) -> None:
        self._dismiss_stranger()
        doubtful = why is Connection.WRONG_SERVER and not self._ever_admitted
        self._diagnose_at = now() + (WRONG_SERVER_SECONDS if doubtful else DIAGNOSE_AGAIN_SECONDS)
        self._without(why)

    def _dismiss_stranger(self) -> None:
        if self._stranger is not None:
            self._loop.unwatch(self._stranger.events)
            self._stranger.close()
            self._stranger = None

    def _refused(self, what: Connection) -> KeyRefusedError:
        error = refusal(what, self.endpoint, self._pair.public)
        if not self._ever_admitted:
            return error
        why = "it was revoked or has expired." if what is Connection.CLOSED else "it does not know it any more."
        why = f"it said: {self._farewell}" if self._farewell else why
        return type(error)(f"The broker at {self.endpoint} does not admit this key any more: {why}", error.hint)

    def _give_up(self) -> None:
        self.connected = False
        self._failures += 1
        self._hang_up()
        self._rebuild_at = now() + REBUILD_SECONDS[min(self._failures, len(REBUILD_SECONDS)) - 1]

    def tick(self, at: float) -> float:
        """Dial anew when it is time; returns when to look again."""
        if self._rebuild_at is not None:
            if at < self._rebuild_at:
                return self._rebuild_at
            self._rebuild_at = None
            self._dial()
        elif not self.connected:
            self._changed()
            if self._stranger is not None and at >= self._stranger_until:
                self._diagnosed(Connection.HUNG_UP)
        return at + (MAX_WAIT_SECONDS if self.connected else WATCH_SECONDS)

    def send(self, message: Message, payload: bytes = b"") -> bool:
        """Hand a message over; ``False`` when there is no way to the broker now."""
        if self._rebuild_at is not None:
            return False
        return sockets.send(self._socket, None, encode(message, payload))

    def close(self) -> None:
        """Hang up; what was handed over is still sent, for a short while."""
        if self._rebuild_at is None:
            self._hang_up()
