"""cfbus-gpu: a worker. Leases items, reads and captions them, and keeps each result until it is acked.

Joins the worker's core to the bus, a source and an engine. One thread over a poller; reading, decoding and captioning
happen elsewhere and wake it. One process per GPU.
"""

from __future__ import annotations

import os
import queue
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import zmq

from cfbus import logs, notify, runtime
from cfbus.bus import keys, sockets
from cfbus.bus import messages as m
from cfbus.config import Config, Loaded
from cfbus.core.effects import Abandon, Effect, Forget, Note, ReadFrom, Send, Spool, Stop, Unspool, UseSpec
from cfbus.core.measuring import Measured
from cfbus.core.outcome import EngineFacts, Outcome
from cfbus.core.worker import Worker
from cfbus.daemons import figures, gpu_report
from cfbus.daemons.flags import Start, common_flags, override, start
from cfbus.daemons.gpu_reading import Reading
from cfbus.daemons.handing_over import program
from cfbus.daemons.key_age import KeyAge
from cfbus.daemons.metrics import Figure, Metrics
from cfbus.daemons.reloading import Reloading
from cfbus.daemons.seat import Blueprint, Opened, Seat
from cfbus.engines.opening import check_engine, open_engine
from cfbus.errors import EXIT_DONE, CfbusError, ConfigError
from cfbus.link import Link
from cfbus.sources.base import DISK_READERS
from cfbus.store.spool import Spool as SpoolFolder

DRAIN_SECONDS = 20.0
"""After being asked to stop: so long for what is in flight and unacked; then it goes to the spool. Without a broker
there is no ack to wait for."""
WEDGED_SECONDS = 1800.0
"""Items in flight, and none that came out for so long, however slow the model: systemd should start the worker anew."""

SPOOL_SHARE = 0.75
"""With unacked results of so much of the spool, nothing new is begun: what is in flight still has to find room, or it
would be lost with the process."""

MEASURE_SECONDS = 0.5
"""How often the engine is looked at, to see whether it has enough to do."""

FLAGS = {
    "--server": "worker.server",
    "--name": "worker.name",
    "--gpu-id": "worker.gpu_id",
    "--batch-size": "worker.concurrency",
    "--model": "vllm.model",
    "--precision": "vllm.dtype",
    "--when-finished": "worker.when_finished",
}


class GpuDaemon:
    """The worker's shell: carries out what its core decides."""

    def __init__(self, begin: Start) -> None:
        settings = begin.config
        worker = settings.worker
        self._then = program(worker.when_finished)
        self._stays = worker.when_finished == "stay"
        self._log = logs.get_logger()
        self._family = begin.family
        self._captions = settings.captions
        pair = keys.load(worker.key_file)
        logs.register_secret(pair.secret.decode())
        public = runtime.server_key(worker.server_key, "worker")
        self._spool = SpoolFolder(worker.spool_dir / f"gpu-{gpu_report.label(worker.gpu_id)}", worker.spool_mib << 20)
        self._most_unacked = int((worker.spool_mib << 20) * SPOOL_SHARE)
        self._lost: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._loop = runtime.Loop()
        self._reading = Reading(settings.dataset, pair, self._feeder_lost)
        self._finished: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._awake = False
        self._problem: CfbusError | None = None
        self._seat = Seat(self._open, Blueprint(settings, begin.origins), self._loop.wake)
        self._reloading = Reloading(begin.load, settings, self._seat, self._check, self._take)
        self._used: UseSpec | None = None
        self._refused = False
        self._captioned = 0  # whether anybody needed it or not
        self._got_on_at = runtime.now()  # when something came out of the engine, or it had nothing to do
        self._gpus = gpu_report.gpus_of(settings)
        self._measure_at = 0.0
        # What is waited for on its way here is no work for the engine: it comes on top.
        self._on_the_way = max(0, self._reading.readers - DISK_READERS)
        self._core = Worker(gpu_report.rules_of(worker, reads=self._reading.itself), self._facts(), runtime.now())
        self._core.restore(self._spool.results(), runtime.now())
        self._context: sockets.Context = zmq.Context()
        self._link = Link(self._loop, self._context, pair, public, worker.server, self._connected, self._received)
        self._key_age = KeyAge()
        self._metrics = Metrics(settings, "gpu", self._loop, self._measure)
        self._drain_until: float | None = None
        self._drains = 0

    def _open(self, blueprint: Blueprint) -> Opened:
        with notify.extending(f"loading the engine {blueprint.settings.captions.engine}"):
            return open_engine(
                blueprint.settings,
                self._reading.read,
                self._post,
                blueprint.origins,
                self._give_up,
                self._reading.readers,
            )

    def _facts(self) -> EngineFacts:
        assert self._seat.engine is not None
        return self._seat.engine.facts

    def _feeder_lost(self, lease: str) -> None:
        """From any thread."""
        self._lost.put(lease)
        self._loop.wake()

    def _post(self, outcome: Outcome) -> None:
        """From any thread."""
        self._finished.put(outcome)
        if not self._awake:
            self._awake = True
            self._loop.wake()

    def _give_up(self, error: CfbusError) -> None:
        """From any thread: the engine has ended for good."""
        self._problem = error
        self._loop.wake()

    def _ended_by(self, error: CfbusError) -> CfbusError:
        """To be raised; what is not acked yet goes to the spool."""
        self._carry_out(self._core.leave())
        return error

    def serve(self) -> int:
        """Until asked to stop."""
        self._loop.handle_signals()
        self._loop.on_hangup(self._reloading.ask)
        if self._family.parent_fd is not None:
            self._loop.follow_parent(self._family.parent_fd)
        self._log.info("worker.serves", name=self._core.rules.name, engine=self._facts().engine)
        self._family.ready({"instance": self._core.rules.instance})
        try:
            code = self._loop.run(self._turn, self._describe, self._at_work)
        finally:
            self._close()
        if self._then and not self._drains:
            self._log.info("worker.hands_over", to=self._then[0])
            logs.flush()
            os.execv(self._then[0], self._then)  # noqa: S606 - a program of the worker's own configuration
        return code

    def _measure(self) -> Iterator[Figure]:
        return figures.of_worker(self._core, self._captioned, self._link.connected)

    def _close(self) -> None:
        self._metrics.close()
        self._seat.close()
        if self._gpus is not None:
            self._gpus.close()
        self._reading.close()
        self._link.close()
        self._context.term()
        self._spool.close()

    # ------------------------------------------------------------------ turns

    def _turn(self, at: float) -> float:
        self._take_outcomes(at)
        if self._problem is not None:
            raise self._ended_by(self._problem)
        while not self._lost.empty():
            self._carry_out(self._core.feeder_unreachable(self._lost.get_nowait(), at))
        if at >= self._core.next_deadline():
            self._carry_out(self._core.tick(at))
        if self._loop.stop_requests > self._drains:
            self._drain(at)
        elif not self._stays and self._core.all_done:
            self._leave()
        self._change(at)
        self._feed()
        if at >= self._measure_at:
            self._measure_at = at + MEASURE_SECONDS
            self._carry_out(self._core.measured(self._measured(), at))
        look = min(self._link.tick(at), self._key_age.look(at))
        if self._drain_until is not None and (self._may_leave() or at >= self._drain_until):
            self._leave()
        times = [look, self._measure_at, max(self._core.next_deadline(), at + 0.005), self._reloading.next_deadline()]
        return min([*times, *([self._drain_until] if self._drain_until is not None else [])])

    def _take_outcomes(self, at: float) -> None:
        self._awake = False
        outcomes = []
        while not self._finished.empty():
            outcomes.append(self._finished.get_nowait())
        self._captioned += len(outcomes)
        if outcomes or not self._core.in_flight:
            self._got_on_at = at
        if outcomes:
            self._carry_out(self._core.outcomes(outcomes, at))

    def _measured(self) -> Measured:
        host = self._gpus.newest() if self._gpus is not None else None
        engine = self._seat.engine
        return Measured(engine.figures() if engine is not None else None, host, self._spool_full)

    @property
    def _spool_full(self) -> bool:
        return self._core.unacked_bytes >= self._most_unacked

    def _change(self, at: float) -> None:
        """What a SIGHUP has set off."""
        try:
            effects, replaced = self._reloading.turn(self._core, at)
        except CfbusError as error:
            raise self._ended_by(error) from None
        self._carry_out(effects)
        if replaced is not None:
            self._carry_out(self._core.captioned_by(self._facts(), at))
            if self._used is not None:
                self._use(self._used)
        if self._core.on_hold and not self._reloading.holds and not self._refused:
            self._carry_out(self._core.go_on(at))

    def _feed(self) -> None:
        engine = self._seat.engine
        room = self._core.rules.concurrency + self._on_the_way - self._core.in_flight
        if engine is not None and room > 0 and not self._core.draining and not self._spool_full:
            items = self._core.next_items(room)
            if items:
                engine.submit(items)

    def _describe(self) -> str:
        if not self._link.connected:
            return f"no broker at {self._link.endpoint}; {self._core.unacked} results wait for it"
        doing = "draining" if self._core.draining else self._core.why_idle or "captioning"
        return f"{doing}: {self._core.in_flight} in flight, {self._core.rate:.1f} images/s, {self._captioned} in all"

    def _at_work(self, at: float) -> str:
        """For the watchdog: a loop that turns while nothing ever comes out of the engine is no worker."""
        stuck = at - self._got_on_at
        return f"{self._core.in_flight} items in flight for {stuck:.0f} s" if stuck > WEDGED_SECONDS else ""

    def _drain(self, at: float) -> None:
        """Asked once: finish what is in flight. Asked again: hand everything back now."""
        self._drains = self._loop.stop_requests
        notify.tell("STOPPING=1")
        self._log.info("worker.drains", in_flight=self._core.in_flight, unacked=self._core.unacked)
        self._carry_out(self._core.drain(at, at_once=self._drains > 1))
        seconds = DRAIN_SECONDS if self._drains == 1 else 0.0
        self._drain_until = at + seconds

    def _may_leave(self) -> bool:
        return self._core.drained or (not self._link.connected and not self._core.in_flight)

    def _leave(self) -> None:
        self._carry_out(self._core.leave())
        self._log.info("worker.stops", captioned=self._captioned, unacked=self._core.unacked)
        self._loop.stop(EXIT_DONE)

    def _connected(self) -> None:
        self._carry_out(self._core.connected(runtime.now()))

    def _received(self, message: m.Message, payload: bytes) -> None:
        if isinstance(message, m.Welcome):
            self._key_age.told(message)
        self._carry_out(self._core.handle(message, payload, runtime.now()))

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(_, message, payload):
                    self._link.send(message, payload)
                case Spool(_, number, message, payload):
                    self._keep(number, message, payload)
                case Unspool(instance, number, refused):
                    self._spool.drop(instance, number, refused)
                case Abandon(lease, pairs):
                    self._abandon(lease, pairs)
                case ReadFrom() | Forget():
                    self._reading.turn(effect)
                case UseSpec():
                    self._use(effect)
                case Note(event, facts):
                    self._log.info(event, **dict(facts))
                case Stop():
                    raise runtime.ended_by(effect)
                case _:
                    pass

    def _keep(self, number: int, message: m.Result, payload: bytes) -> None:
        if not self._spool.put(message, payload):
            self._log.warning("spool.full", number=number)

    def _abandon(self, lease: str, pairs: m.Ranges) -> None:
        if self._seat.engine is not None:
            self._seat.engine.abandon(lease, frozenset(index for begin, end in pairs for index in range(begin, end)))

    # ------------------------------------------------------------------ what is captioned by

    def _use(self, wanted: UseSpec) -> None:
        """Caption by this from the next item on. A worker that cannot ends; one that could with what was before waits
        for a spec or a configuration with which it can."""
        before, self._used = self._used, wanted
        engine = self._seat.engine
        if engine is None:
            self._carry_out(self._core.applied("engine"))
            return  # it will be used when the engine is there
        try:
            self._check_engine(wanted.spec)
            engine.use(wanted.spec)
        except ConfigError as error:
            self._carry_out(self._core.applied("refused", error.message))
            if before is None or not self._stays:
                raise self._ended_by(error) from None
            self._refused = True
            says = "it waits: change the broker's configuration, or this worker's and send it SIGHUP"
            self._log.error("spec.refused", why=error.message, hint=error.hint, says=says)
            self._carry_out(self._core.hold(runtime.now(), give_back=True))
            return
        self._refused = False
        self._carry_out(self._core.applied("applied"))
        spec = wanted.spec
        self._tell_limits(spec)
        self._log.info("spec.used", spec=spec.hash, generation=wanted.generation, slots=len(spec.slots))

    def _check_engine(self, spec: m.Spec) -> None:
        if spec.engine != self._captions.engine:
            raise ConfigError(
                f"The broker wants captions by {spec.engine!r}; this worker has {self._captions.engine!r}.",
                f"Start it with --set captions.engine={spec.engine} if that is what you want to lend.",
            )

    def _tell_limits(self, spec: m.Spec) -> None:
        own = self._seat.built.settings.captions
        budgets, most = (spec.pixel_budget, own.pixel_budget), (spec.max_pixels, own.max_pixels)
        for name, (wanted, here) in (("pixel_budget", budgets), ("max_pixels", most)):
            if wanted != here:
                says = "this worker's own counts"
                self._log.warning("spec.own_limit", key=f"captions.{name}", wanted=wanted, own=here, says=says)

    def _check(self, loaded: Loaded) -> None:
        """Of a configuration that was read again; raises ConfigError."""
        program(loaded.config.worker.when_finished)
        check_engine(loaded.config, loaded.origins)

    def _take(self, settings: Config) -> None:
        """What holds at once of a configuration that was read again."""
        self._then = program(settings.worker.when_finished)
        self._stays = settings.worker.when_finished == "stay"
        self._core.rules = replace(self._core.rules, concurrency=settings.worker.concurrency)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@common_flags
@click.option("--server", help="The broker's address, tcp://HOST:PORT.")
@click.option("--name", help="What this worker is called on screens.")
@click.option(
    "--gpu-id",
    help="The GPU of this worker, by number or name; one process for each, but for a model on several: 0,1.",
)
@click.option("--spool-dir", type=click.Path(path_type=Path), help="The folder for unacknowledged results.")
@click.option(
    "--batch-size",
    type=int,
    help="How many images are in flight at the same time. None waits for the others: each comes and goes by itself.",
)
@click.option("--model", help="The model of the vLLM engine: a name on the Hugging Face hub, or the path of a folder.")
@click.option("--when-finished", help="What to do when everything is captioned: stay, exit, or run:PROGRAM.")
@click.option("--precision", help="What the vLLM engine computes with: auto, bfloat16, float16 or float32.")
@click.option(
    "--show-report",
    is_flag=True,
    help="Print, as JSON, what the broker would be told of this host and engine, and end; loads the engine for it.",
)
def command(spool_dir: Path | None, *, show_report: bool, **given: object) -> None:
    """A worker: leases images, captions them, and pushes the captions to the broker."""
    overrides = override("--spool-dir", "worker.spool_dir", spool_dir.absolute() if spool_dir else None)
    for said, key in FLAGS.items():
        overrides += override(said, key, given.pop(said.removeprefix("--").replace("-", "_")))
    serve = gpu_report.show if show_report else lambda begin: GpuDaemon(begin).serve()
    sys.exit(start("gpu", serve, overrides, given))


def main() -> None:
    """Entry point."""
    command()


if __name__ == "__main__":
    main()
