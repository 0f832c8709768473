"""The broker's configuration, read again while it serves: on SIGHUP, and when an admin asks.

Reads in a thread of its own, because looking at a dataset's columns may take long and the loop must not wait. Knows
files and admins' questions; what a change means on the bus is the core's business.

Invariants: a file with anything wrong in it changes nothing; one file is read at a time, and whoever asks while it is
read is answered by the next one; every question is answered once.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from cfbus import logs, notify, runtime
from cfbus.bus import messages as m
from cfbus.column_check import check_columns
from cfbus.config import Config, Loaded
from cfbus.config_keys import leaves
from cfbus.config_reload import Difference, differences, refusals, shown
from cfbus.core.asking import answered
from cfbus.core.broker import Broker
from cfbus.core.configuring import Settings
from cfbus.core.effects import AskConfig, Effect
from cfbus.core.state import Rules
from cfbus.core.told import Told
from cfbus.daemons.guard import limits_of
from cfbus.errors import CfbusError
from cfbus.spec import spec_of

MAX_WAITING = 64
PROBLEM_CHARS = 1000
CLOSE_SECONDS = 5.0


def settings_of(config: Config) -> Settings:
    """What of a configuration a broker can change while it runs."""
    broker = config.broker
    chunk = min(broker.chunk_size, m.MAX_CHUNK_ITEMS)
    return Settings(
        spec_of(config.captions, config.vllm),
        chunk,
        float(broker.lease_seconds),
        broker.max_attempts,
        limits_of(broker.limits),
    )


def rules_of(config: Config, *, accept_loss: bool) -> Rules:
    """What a broker that begins now goes by."""
    own = settings_of(config)
    return Rules(
        dataset=config.dataset.name,
        spec=own.spec,
        instance=runtime.new_id(),
        chunk_size=own.chunk_size,
        lease_seconds=own.lease_seconds,
        max_attempts=own.max_attempts,
        started=runtime.wall(),
        accept_loss=accept_loss,
        delivery=config.dataset.delivery,
        limits=own.limits,
    )


@dataclass(slots=True)
class _Round:
    """Questions that are answered by one reading of the file."""

    asked: list[AskConfig] = field(default_factory=list)
    hangup: bool = False


class Reconfiguring:
    """Reads, compares, and has the core change. ``take`` puts what is the shell's own into force."""

    def __init__(
        self, load: Callable[[], Loaded], held: Config, wake: Callable[[], None], take: Callable[[Config], None]
    ) -> None:
        self._load = load
        self.held = held
        self._wake = wake
        self._take = take
        self._log = logs.get_logger()
        self._next = _Round()
        self._hangups = self._answered = 0
        self._reading: _Round | None = None
        self._thread: threading.Thread | None = None
        self._read: queue.SimpleQueue[Loaded | CfbusError] = queue.SimpleQueue()

    def hangup(self) -> None:
        """From a signal handler."""
        self._hangups += 1

    def ask(self, question: AskConfig) -> list[Effect]:
        """An admin's question; some can be answered at once."""
        if question.request.verb == "config-show":
            return _answer(question, self._show())
        if len(self._next.asked) >= MAX_WAITING:
            return _answer(question, Told(problem="Too many ask for the configuration to be read; ask again."))
        self._next.asked.append(question)
        return []

    def turn(self, core: Broker, now: float) -> list[Effect]:
        """Do what is due."""
        effects: list[Effect] = []
        if self._reading is not None and not self._read.empty():
            asked, self._reading = self._reading, None
            effects = self._settle(core, asked, self._read.get_nowait(), now)
        if self._hangups != self._answered:
            self._answered = self._hangups
            self._next.hangup = True
        if self._reading is None and (self._next.hangup or self._next.asked):
            self._begin()
        return effects

    # ------------------------------------------------------------------ reading

    def _begin(self) -> None:
        self._reading, self._next = self._next, _Round()
        if self._reading.hangup:
            notify.reloading()
        # a daemon: a source that does not answer must not keep the process
        self._thread = threading.Thread(target=self._work, name="read-configuration", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait a little for what is being read: a thread that is still within somebody's compiled library when the
        interpreter ends aborts the process."""
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def _work(self) -> None:
        read: Loaded | CfbusError = CfbusError(
            "The configuration could not be read: a bug; its traceback is in the log."
        )
        try:
            loaded = self._load()
            check_columns(loaded.config)
            read = loaded
        except CfbusError as error:
            read = error
        finally:  # whoever asked is answered, whatever happens
            self._read.put(read)
            self._wake()

    def _settle(self, core: Broker, asked: _Round, read: Loaded | CfbusError, now: float) -> list[Effect]:
        effects: list[Effect] = []
        compared = [each for each in asked.asked if each.request.verb == "config-diff"]
        wanted = [each for each in asked.asked if each.request.verb != "config-diff"]
        for question in compared:
            effects += _answer(question, self._diff(core, read))
        if wanted or asked.hangup:
            told, changed = self._change(core, read, now)
            effects += changed
            for question in wanted:
                effects += _answer(question, told)
        if asked.hangup:
            notify.tell("READY=1")
        return effects

    # ------------------------------------------------------------------ comparing and changing

    def _diff(self, core: Broker, read: Loaded | CfbusError) -> Told:
        if isinstance(read, CfbusError):
            return _problem(read)
        found = differences(self.held, read)
        gone = core.configuring.problems(settings_of(read.config).spec)
        return Told(
            columns=_COLUMNS, rows=(*_rows(found), *(("captions.slots", "refused", "", "", why) for why in gone))
        )

    def _change(self, core: Broker, read: Loaded | CfbusError, now: float) -> tuple[Told, list[Effect]]:
        if isinstance(read, CfbusError):
            self._log.error("broker.not_reloaded", why=read.message.split("\n"), says="nothing has changed")
            return _problem(read), []
        found = differences(self.held, read)
        settings = settings_of(read.config)
        refused = [*refusals(found), *(f"{why}." for why in core.configuring.problems(settings.spec))]
        if refused:
            self._log.error("broker.not_reloaded", why=refused, says="nothing has changed")
            return Told(problem=_cut(" ".join([*refused, "Nothing has changed."]))), []
        self.held = read.config
        self._take(read.config)
        effects = core.configuring.change(settings, now)
        facts = (("generation", str(core.rules.generation)), ("workers", str(len(core.configuring.answers()))))
        self._log.info("broker.reloaded", changed=[each.key for each in found], generation=core.rules.generation)
        return Told(facts=facts, columns=_COLUMNS, rows=_rows(found)), effects

    def _show(self) -> Told:
        values = leaves(self.held)
        return Told(columns=("key", "value"), rows=tuple((".".join(path), shown(path, values)) for path in values))


_COLUMNS = ("key", "class", "before", "after", "why")


def _rows(found: tuple[Difference, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple((each.key, each.kind.value, each.before, each.after, each.why) for each in found)


def _cut(text: str) -> str:
    return text if len(text) <= PROBLEM_CHARS else f"{text[: PROBLEM_CHARS - 20]} … (and more)"


def _problem(error: CfbusError) -> Told:
    lines = "; ".join(error.message.split("\n"))
    return Told(problem=_cut(f"{lines} Nothing has changed."))


def _answer(question: AskConfig, told: Told) -> list[Effect]:
    return answered(question.peer, question.name, question.request, told)
