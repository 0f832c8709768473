"""A worker's configuration, read again on SIGHUP: what holds at once, what waits for a new engine, what is refused.

Drives the worker's core and the engine's seat; which key needs what is `cfbus.config_changes`'s.

Invariants: a file with anything wrong in it, or with a change that needs a restart, changes nothing; the engine is
replaced when everything that was leased under it is done or handed back; a later SIGHUP counts from the last file that
was taken.
"""

from __future__ import annotations

from collections.abc import Callable

from cfbus import logs, notify
from cfbus.config import Config, Loaded
from cfbus.config_changes import Changes, changes, check_changes
from cfbus.core.effects import Effect
from cfbus.core.worker import Worker
from cfbus.daemons.seat import Blueprint, Replaced, Seat
from cfbus.errors import CfbusError

FINISH_SECONDS = 300.0
"""What is leased may be finished for so long before the engine is replaced; then what is not begun is handed back."""

Check = Callable[[Loaded], None]


class Reloading:
    """Follows SIGHUP. ``check`` raises CfbusError for what only the daemon can know to be wrong; ``take`` puts what
    holds at once into force."""

    def __init__(
        self, load: Callable[[], Loaded], held: Config, seat: Seat, check: Check, take: Callable[[Config], None]
    ) -> None:
        self._load = load
        self._held = held
        self._seat = seat
        self._check = check
        self._take = take
        self._log = logs.get_logger()
        self._asked = self._answered = 0
        self._wanted: Blueprint | None = None
        self._hurry_at: float | None = None

    def ask(self) -> None:
        """From a signal handler."""
        self._asked += 1

    @property
    def holds(self) -> bool:
        """Whether an engine is to be replaced, or just is: no lease may be taken."""
        return self._wanted is not None or self._seat.engine is None

    def turn(self, core: Worker, at: float) -> tuple[list[Effect], Replaced | None]:
        """Do what is due; the second is there once when an engine has been replaced. Raises TryAgainError when there
        is none any more."""
        if core.draining:
            return [], None
        if self._seat.engine is None:
            return [], self._replaced()
        if self._asked != self._answered:
            self._answered = self._asked
            self._read(at)
        return self._finish(core, at) if self._wanted is not None else [], None

    def next_deadline(self) -> float:
        """When there is something to do whatever happens."""
        return self._hurry_at if self._hurry_at is not None else float("inf")

    # ------------------------------------------------------------------ reading

    def _read(self, at: float) -> None:
        notify.reloading()
        try:
            loaded = self._load()
            found = changes(self._held, self._seat.built.settings, loaded.config)
            check_changes(found, loaded.origins)
            self._check(loaded)
        except CfbusError as error:
            why = error.message.split("\n")
            self._log.error("worker.not_reloaded", why=why, hint=error.hint, says="nothing has changed")
        else:
            self._accept(loaded, found, at)
        notify.tell("READY=1")

    def _accept(self, loaded: Loaded, found: Changes, at: float) -> None:
        self._held = loaded.config
        self._take(loaded.config)
        self._wanted = Blueprint(loaded.config, loaded.origins) if found.engine else None
        self._hurry_at = at + FINISH_SECONDS if found.engine else None
        kinds = {"live": found.live, "engine": found.engine, "elsewhere": found.elsewhere}
        self._log.info("worker.reloaded", **{kind: names for kind, names in kinds.items() if names})

    # ------------------------------------------------------------------ replacing

    def _finish(self, core: Worker, at: float) -> list[Effect]:
        assert self._wanted is not None
        hurry = self._hurry_at is not None and at >= self._hurry_at
        effects = core.hold(at, give_back=hurry)
        if hurry:
            self._hurry_at = None
        if not core.busy:
            self._log.info("worker.replaces_engine", unacked=core.unacked)
            self._seat.replace(self._wanted)
            self._wanted = self._hurry_at = None
        return effects

    def _replaced(self) -> Replaced | None:
        done = self._seat.replaced()
        if done is None:
            return None
        if done.problem is None:
            self._log.info("worker.engine_replaced", seconds=round(done.seconds, 1))
        else:
            self._log.error(
                "worker.engine_not_replaced", why=done.problem.message.split("\n"), hint=done.problem.hint,
                says="it goes on with the engine that it had", seconds=round(done.seconds, 1),
            )  # fmt: skip
        return done
