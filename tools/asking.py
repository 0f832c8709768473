"""One question at a time and its answer: to a broker over the bus, or to the registry's file when no broker runs.

Knows the connection and what may go wrong with it; must not know the verbs. What a broker says is text from outside:
whoever prints it shows what is hostile in it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self, TypeAlias

import zmq

from cfbus import config, logs, runtime
from cfbus.bus import keys, sockets
from cfbus.bus import messages as m
from cfbus.bus.following import Connection
from cfbus.bus.keys import KeyPair
from cfbus.errors import EXIT_DONE, KeyRefusedError, TryAgainError, UsageError
from cfbus.link import Link
from cfbus.store.registry import Registry
from cfbus.store.registry_calls import Call
from cfbus.store.registry_verbs import VERBS, perform

TIMEOUT_SECONDS = 15.0
MAX_PAGES: Final = 10_000
WHO_OFFLINE: Final = "on the host"

Facts: TypeAlias = tuple[tuple[str, str], ...]
Rows: TypeAlias = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Told:
    """An answer, all pages of it: facts and a table; either may be empty."""

    facts: Facts = ()
    columns: tuple[str, ...] = ()
    rows: Rows = ()


@dataclass(frozen=True, slots=True)
class Greeted:
    """What became of a greeting: whether we were let in, what was in the way, and what a worker was told."""

    connected: bool
    trouble: Connection | None
    welcome: m.Welcome | None


class Asker(Protocol):
    """Whoever can be asked a verb."""

    @property
    def project(self) -> str:
        """The dataset of the bus."""

    def ask(self, verb: str, arguments: Mapping[str, str]) -> Told:
        """The whole answer, or an error that says why there is none."""


class Conversation:
    """A connection to the broker on which one message at a time is asked and answered. A context manager."""

    def __init__(self, endpoint: str, server: bytes, pair: KeyPair, hello: m.Hello | None) -> None:
        self.welcome: m.Welcome | None = None
        self._endpoint = endpoint
        self._hello = hello
        self._question: m.Message | None = None
        self._answer: m.Message | None = None
        self._refusal: m.Error | None = None
        self._is_answer: Callable[[m.Message], bool] = lambda _: False
        self._loop = runtime.Loop()
        self._context: sockets.Context = zmq.Context()
        self.link = Link(self._loop, self._context, pair, server, endpoint, self._connected, self._received)

    def close(self) -> None:
        """Say goodbye and hang up."""
        if self.link.connected and self._hello is not None:
            self.link.send(m.Bye())
        self.link.close()
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connected(self) -> None:
        if self._hello is not None:
            self.link.send(self._hello)
        self._send_question()

    def _send_question(self) -> None:
        """Once: an answer that was lost with the connection is asked for again by a person."""
        if self._question is not None and self.link.connected:
            self.link.send(self._question)
            self._question = None

    def _received(self, message: m.Message, _payload: bytes) -> None:
        if isinstance(message, m.Welcome):
            self.welcome = message
        if isinstance(message, m.Error):
            self._refusal = self._refusal or message
        elif self._is_answer(message):
            self._answer = message

    @property
    def _must_wait(self) -> bool:
        """Whether the broker does not let this key in before somebody has decided so: no use to try on."""
        return self.link.trouble is Connection.LATER

    def exchange(
        self, question: m.Message | None, is_answer: Callable[[m.Message], bool], seconds: float
    ) -> m.Message | None:
        """The first message that answers; ``None`` if none came in time. Raises ``KeyRefusedError`` if the broker does
        not listen to this key, or refuses."""
        self._question, self._is_answer, self._answer, self._refusal = question, is_answer, None, None
        self._send_question()
        self._turn_until(lambda: bool(self._answer or self._refusal), seconds)
        if self._refusal is not None:
            raise KeyRefusedError(
                f"The broker at {self._endpoint} refuses: {logs.display(self._refusal.sentence, 300)}"
            )
        return self._answer

    def until_connected(self, seconds: float) -> None:
        """Wait for the broker to let us in, or for the time to be over. Raises as ``exchange``."""
        self._turn_until(lambda: self.link.connected, seconds)

    def _turn_until(self, done: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds

        def turn(at: float) -> float:
            if done() or self._must_wait or time.monotonic() >= deadline:
                self._loop.stop(EXIT_DONE)
            return min(self.link.tick(at), at + 0.5)

        self._loop.exit_code = None
        self._loop.run(turn)

    def unanswered(self, section: str) -> TryAgainError:
        """The error for when nobody answered, with what is known of why."""
        why = self.link.trouble.sentence(self._endpoint) if self.link.trouble is not None else ""
        return TryAgainError(
            f"No broker answered at {self._endpoint} within {TIMEOUT_SECONDS:.0f} s. {why}".strip(),
            f"Is it running, and is {section}.server its address?",
        )


def greet(endpoint: str, server: bytes, pair: KeyPair, role: m.Role, name: str) -> Greeted:
    """See whether a broker lets a key in; a worker says HELLO, asks for nothing, and is told what it would do.

    Raises ``KeyRefusedError`` and ``WrongServerError``."""
    worker = role is m.Role.WORKER
    hello = m.Hello(role=role, instance=runtime.new_id(), software="cfbus", name=name, reads=True) if worker else None
    with Conversation(endpoint, server, pair, hello) as talk:
        if worker:
            talk.exchange(None, lambda message: isinstance(message, m.Welcome), TIMEOUT_SECONDS)
        else:
            talk.until_connected(TIMEOUT_SECONDS)
        return Greeted(talk.link.connected, talk.link.trouble, talk.welcome)


class OverBus:
    """A broker that is asked with an admin's key."""

    def __init__(self, settings: config.Config) -> None:
        pair = keys.load(settings.admin.key_file)
        logs.register_secret(pair.secret.decode())
        server = runtime.server_key(settings.admin.server_key, "admin")
        hello = m.Hello(role=m.Role.ADMIN, instance=runtime.new_id(), software="cfbus", name="cfbus-admin")
        self._talk = Conversation(settings.admin.server, server, pair, hello)

    def close(self) -> None:
        """Hang up."""
        self._talk.close()

    @property
    def project(self) -> str:
        """The dataset of the bus, as its broker says."""
        if self._talk.welcome is None:
            self._talk.exchange(None, lambda message: isinstance(message, m.Welcome), TIMEOUT_SECONDS)
        if self._talk.welcome is None:
            raise self._talk.unanswered("admin")
        return self._talk.welcome.dataset

    def ask(self, verb: str, arguments: Mapping[str, str]) -> Told:
        """The whole answer. Raises ``TryAgainError`` when none comes, ``KeyRefusedError`` when the broker does not
        listen to this key, ``UsageError`` when it cannot do what was asked."""
        first = self._page(verb, arguments, 0)
        rows = list(first.rows)
        for number in range(1, min(first.pages, MAX_PAGES)):
            rows += self._page(verb, arguments, number).rows
        return Told(first.facts, first.columns, tuple(rows))

    def _page(self, verb: str, arguments: Mapping[str, str], page: int) -> m.Reply:
        request = m.Admin(request=runtime.new_id(), verb=verb, arguments=tuple(arguments.items()), page=page)

        def is_answer(message: m.Message) -> bool:
            return isinstance(message, m.Reply) and message.request == request.request

        try:
            reply = self._talk.exchange(request, is_answer, TIMEOUT_SECONDS)
        except KeyRefusedError as error:
            raise KeyRefusedError(
                error.message, error.hint or "Ask with a key that is an admin's: admin.key_file."
            ) from None
        if not isinstance(reply, m.Reply):
            raise self._talk.unanswered("admin")
        if reply.problem:
            raise (TryAgainError if reply.later else UsageError)(logs.display(reply.problem, 1000))
        return reply


class OnFile:
    """The registry's own file, for when no broker runs. One that does takes up within a minute what changed."""

    def __init__(self, settings: config.Config, data_dir: Path | None) -> None:
        self.project = settings.dataset.name
        self._registry = Registry.open((data_dir or settings.broker.data_dir) / "registry.sqlite", create=False)
        self._key_days = settings.broker.key_days

    def close(self) -> None:
        """Release the file."""
        self._registry.close()

    def ask(self, verb: str, arguments: Mapping[str, str]) -> Told:
        """The whole answer, or the registry's error."""
        if verb not in VERBS:
            raise UsageError(f"{verb!r} is asked of a broker, not of a file.", "Leave --offline and --data-dir out.")
        who = f"uid {os.geteuid()} {WHO_OFFLINE}"
        answer = perform(verb, Call(self._registry, arguments, who, time.time(), self._key_days))
        return Told((), answer.columns, answer.rows)
