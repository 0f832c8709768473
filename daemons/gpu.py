"""cfbus-gpu: a worker. Leases items, reads and captions them, and keeps each result until it is acked.

Joins the worker's core to the bus, a source and an engine. One thread over a poller; reading, decoding and captioning
happen elsewhere and wake it. One process per GPU.
"""

from __future__ import annotations

import os
import queue
import shlex
import shutil
import sys
from pathlib import Path

import click
import zmq

from cfbus import logs, runtime
from cfbus.bus import keys, sockets
from cfbus.bus import messages as m
from cfbus.core.effects import Abandon, Effect, Note, Send, Spool, Stop, Unspool, UseSpec
from cfbus.core.outcome import EngineFacts, Outcome, WorkItem
from cfbus.core.worker import Worker, WorkerRules
from cfbus.daemons.flags import Start, common_flags, override, start
from cfbus.engines.base import Loaded
from cfbus.engines.opening import open_engine
from cfbus.errors import EXIT_DONE, CfbusError, ConfigError
from cfbus.sources.base import DISK_READERS, Item
from cfbus.sources.columns import kept, url_of
from cfbus.sources.opening import open_source
from cfbus.store.spool import Spool as SpoolFolder

DRAIN_SECONDS = 20.0
"""After being asked to stop: so long for what is in flight and unacked; then it goes to the spool. Without a broker
there is no ack to wait for."""

SPOOL_SHARE = 0.75
"""With unacked results of so much of the spool, nothing new is begun: what is in flight still has to find room, or it
would be lost with the process."""

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
        self._log = logs.get_logger()
        self._family = begin.family
        self._captions = settings.captions
        pair = keys.load(worker.key_file)
        logs.register_secret(pair.secret.decode())
        public = runtime.server_key(worker.server_key, "worker")
        self._spool = SpoolFolder(worker.spool_dir / f"gpu-{worker.gpu_id}", worker.spool_mib << 20)
        self._most_unacked = int((worker.spool_mib << 20) * SPOOL_SHARE)
        self._source = open_source(settings.dataset)
        self._keep = settings.dataset.keep_columns
        self._loop = runtime.Loop()
        self._finished: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._awake = False
        self._problem: CfbusError | None = None
        readers = self._source.readers
        self._engine, self._pool = open_engine(settings, self._read, self._post, begin.origins, self._give_up, readers)
        self._captioned = 0  # whether anybody needed it or not
        name = f"{worker.name}-{worker.gpu_id}"
        # What is waited for on its way here is no work for the engine: it comes on top.
        self._most_in_flight = worker.concurrency + max(0, readers - DISK_READERS)
        self._rules = WorkerRules(runtime.new_id(), name[:64], worker.concurrency)
        self._core = Worker(self._rules, self._facts(), runtime.now())
        self._core.restore(self._spool.results(), runtime.now())
        self._context: sockets.Context = zmq.Context()
        self._link = runtime.Link(
            self._loop, self._context, pair, public, worker.server, self._connected, self._received
        )
        self._then = _program(worker.when_finished)
        self._stays = worker.when_finished == "stay"
        self._drain_until: float | None = None
        self._drains = 0

    def _facts(self) -> EngineFacts:
        return self._engine.facts

    def _read(self, item: WorkItem) -> Loaded:
        content = self._source.read(item.shard, Item(item.index, item.key, item.locator))
        columns = content.columns
        return Loaded(content.data, columns, url_of(columns), kept(columns, self._keep))

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
        if self._family.parent_fd is not None:
            self._loop.follow_parent(self._family.parent_fd)
        self._log.info("worker.serves", name=self._rules.name, engine=self._facts().engine)
        self._family.ready({"instance": self._rules.instance})
        try:
            code = self._loop.run(self._turn)
        finally:
            self._close()
        if self._then and not self._drains:
            self._log.info("worker.hands_over", to=self._then[0])
            logs.flush()
            os.execv(self._then[0], self._then)  # noqa: S606 - a program of the worker's own configuration
        return code

    def _close(self) -> None:
        self._engine.close()
        if self._pool is not None:
            self._pool.close()
        self._source.close()
        self._link.close()
        self._context.term()
        self._spool.close()

    # ------------------------------------------------------------------ turns

    def _turn(self, at: float) -> float:
        self._take_outcomes(at)
        if self._problem is not None:
            raise self._ended_by(self._problem)
        if at >= self._core.next_deadline():
            self._carry_out(self._core.tick(at))
        if self._loop.stop_requests > self._drains:
            self._drain(at)
        elif not self._stays and self._core.all_done:
            self._leave()
        self._feed()
        look = self._link.tick(at)
        if self._drain_until is not None and (self._may_leave() or at >= self._drain_until):
            self._leave()
        times = [look, max(self._core.next_deadline(), at + 0.005)]
        return min([*times, *([self._drain_until] if self._drain_until is not None else [])])

    def _take_outcomes(self, at: float) -> None:
        self._awake = False
        outcomes = []
        while not self._finished.empty():
            outcomes.append(self._finished.get_nowait())
        self._captioned += len(outcomes)
        if outcomes:
            self._carry_out(self._core.outcomes(outcomes, at))

    def _feed(self) -> None:
        room = self._most_in_flight - self._core.in_flight
        if room > 0 and not self._core.draining and self._core.unacked_bytes < self._most_unacked:
            items = self._core.next_items(room)
            if items:
                self._engine.submit(items)

    def _drain(self, at: float) -> None:
        """Asked once: finish what is in flight. Asked again: hand everything back now."""
        self._drains = self._loop.stop_requests
        runtime.notify("STOPPING=1")
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
        self._carry_out(self._core.handle(message, payload, runtime.now()))

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(_, message, payload):
                    self._link.send(message, payload)
                case Spool(_, number, message, payload):
                    if not self._spool.put(message, payload):
                        self._log.warning("spool.full", number=number)
                case Unspool(instance, number, refused):
                    self._spool.drop(instance, number, refused)
                case Abandon(lease, pairs):
                    indices = frozenset(index for begin, end in pairs for index in range(begin, end))
                    self._engine.abandon(lease, indices)
                case UseSpec(spec, generation):
                    self._use(spec, generation)
                case Note(event, facts):
                    self._log.info(event, **dict(facts))
                case Stop(sentence, hint, exit_code):
                    error = CfbusError(sentence, hint)
                    error.exit_code = exit_code
                    raise error
                case _:
                    pass

    def _use(self, spec: m.Spec, generation: int) -> None:
        if spec.engine != self._captions.engine:
            wrong = ConfigError(
                f"The broker wants captions by {spec.engine!r}; this worker has {self._captions.engine!r}.",
                f"Start it with --set captions.engine={spec.engine} if that is what you want to lend.",
            )
            raise self._ended_by(wrong)
        try:
            self._engine.use(spec)
        except ConfigError as error:
            raise self._ended_by(error) from None
        self._log.info("spec.used", spec=spec.hash, generation=generation, slots=len(spec.slots))


def _program(when_finished: str) -> list[str]:
    """The program of ``run:PROGRAM``, by its whole path, with its arguments. Raises ConfigError if it is not there."""
    if not when_finished.startswith("run:"):
        return []
    name, *arguments = shlex.split(when_finished.removeprefix("run:"))
    path = shutil.which(name)
    if path is None:
        raise ConfigError(
            f"worker.when_finished: there is no program {logs.display(name, 200)} that can be run here.",
            "Give its whole path.",
        )
    return [path, *arguments]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@common_flags
@click.option("--server", help="The broker's address, tcp://HOST:PORT.")
@click.option("--name", help="What this worker is called on screens.")
@click.option("--gpu-id", type=int, help="The GPU of this worker; one process for each.")
@click.option("--spool-dir", type=click.Path(path_type=Path), help="The folder for unacknowledged results.")
@click.option(
    "--batch-size",
    type=int,
    help="How many images are in flight at the same time. None waits for the others: each comes and goes by itself.",
)
@click.option("--model", help="The model of the vLLM engine: a name on the Hugging Face hub, or the path of a folder.")
@click.option("--when-finished", help="What to do when everything is captioned: stay, exit, or run:PROGRAM.")
@click.option("--precision", help="What the vLLM engine computes with: auto, bfloat16, float16 or float32.")
def command(spool_dir: Path | None, **given: object) -> None:
    """A worker: leases images, captions them, and pushes the captions to the broker."""
    overrides = override("--spool-dir", "worker.spool_dir", spool_dir.absolute() if spool_dir else None)
    for said, key in FLAGS.items():
        overrides += override(said, key, given.pop(said.removeprefix("--").replace("-", "_")))
    sys.exit(start("gpu", lambda begin: GpuDaemon(begin).serve(), overrides, given))


def main() -> None:
    """Entry point."""
    command()


if __name__ == "__main__":
    main()
