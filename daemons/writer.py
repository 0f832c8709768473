"""cfbus-writer: makes captions durable, lists the source, seals segments. Exactly one per store.

Joins the writer's core to the store and to the bus. One thread over a poller; listing and sealing are child processes.
All that arrived in one turn is one transaction; only after it is the broker told.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import zmq

from cfbus import logs, notify, runtime
from cfbus.bus import keys, sockets
from cfbus.bus import messages as m
from cfbus.bus.wire import decode_table
from cfbus.core.effects import Effect, Note, ProbeRoom, ReadListing, Send, StartTask, Stop
from cfbus.core.pace import Pace
from cfbus.core.tasks import Answer
from cfbus.core.writer import Writer, WriterRules
from cfbus.daemons import figures
from cfbus.daemons.amender import Amender
from cfbus.daemons.flags import Start, common_flags, override, start
from cfbus.daemons.key_age import KeyAge
from cfbus.daemons.metrics import Figure, Metrics
from cfbus.daemons.scanning import Scanning
from cfbus.daemons.sealer import Sealer
from cfbus.daemons.taking_up import count, facts_of, take_up
from cfbus.errors import EXIT_DONE, DiskFullError, UnsafeError
from cfbus.link import Link
from cfbus.store.arrays import without_pandas
from cfbus.store.durable import probe_room
from cfbus.store.folder import Store
from cfbus.store.journal import Journal, JournalFile
from cfbus.store.listing import listing_page
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import PassRow
from cfbus.store.seal import Sealed, record, seal_error
from cfbus.store.snapshots import write_contributors, write_jobs

LISTING_BYTES = 256 * 1024
FLUSH_BYTES = 4 << 20
FLUSH_SECONDS = 0.05
"""Transactions are so far apart, unless much waits: results that share one share its flush and its COMMIT."""
MAX_BACKLOG_SEGMENTS = 4
SEAL_RETRY_SECONDS = 10.0
MAX_SEAL_DEATHS = 3


@dataclass(frozen=True, slots=True)
class _SealTask:
    task: StartTask
    position: int


class WriterDaemon:
    """The writer's shell: carries out what its core decides."""

    def __init__(self, begin: Start, *, wait: float) -> None:
        settings = begin.config
        self._settings = settings
        self._log = logs.get_logger()
        self._family = begin.family
        pair = keys.load(settings.writer.key_file)
        logs.register_secret(pair.secret.decode())
        self._store = Store.open(
            settings.storage.data_dir,
            settings.dataset.name,
            create=True,
            wait=wait,
            notify=lambda sentence: self._log.info("store.waiting", why=sentence),
        )
        self._manifest = Manifest.open(self._store)
        self._journal = Journal.open(self._store, self._manifest)
        segment = settings.storage.seal_mib << 20
        rules = WriterRules(
            self._store.store_id,
            settings.dataset.name,
            runtime.new_id(),
            "writer",
            max_backlog=MAX_BACKLOG_SEGMENTS * segment,
        )
        self._segment_bytes = segment
        sizes = (row.size for row in self._manifest.segments())
        self._pace = Pace(settings.storage.seal_seconds, segment, sizes)
        self._core = Writer(rules, self._journal.position, runtime.now())
        take_up(self._core, self._manifest, self._journal)
        self._loop = runtime.Loop()
        self._context: sockets.Context = zmq.Context()
        public = runtime.server_key(settings.writer.server_key, "writer")
        self._link = Link(
            self._loop, self._context, pair, public, settings.writer.server, self._connected, self._received
        )
        self._metrics = Metrics(settings, "writer", self._loop, self._figures)
        self._key_age = KeyAge()
        self._sealer = Sealer(self._loop, self._store, self._sealed, self._not_sealed)
        self._seal_tasks: list[_SealTask] = []
        self._seal_retry_at = 0.0
        self._seal_deaths = 0
        self._journal_since = runtime.now() if self._journal.size() else None
        self._left = False
        self._scanning = Scanning(
            self._loop, self._store, self._manifest, settings.dataset, self._shards_listed, self._ended, self._later
        )
        self._amender = Amender(self._loop, self._store, self._manifest, self._amended, self._ended)
        self._put_off: list[StartTask] = []
        self._flush_at = 0.0

    def serve(self) -> int:
        """Until asked to stop; then what is durable is sealed."""
        self._loop.handle_signals()
        if self._family.parent_fd is not None:
            self._loop.follow_parent(self._family.parent_fd)
        self._log.info("writer.serves", store=str(self._store.root), position=self._core.position)
        self._family.ready({"store_id": self._store.store_id, "position": self._core.position})
        try:
            return self._loop.run(self._turn, self._describe)
        finally:
            self._close()

    def _figures(self) -> Iterator[Figure]:
        return figures.of_writer(self._core, self._journal.size(), self._link.connected)

    def _close(self) -> None:
        self._metrics.close()
        self._scanning.end()
        self._amender.end()
        self._sealer.end()
        self._link.close()
        self._context.term()
        self._journal.close()
        self._manifest.close()
        self._store.close()

    def _describe(self) -> str:
        return f"position {self._core.position}, {self._journal.size() >> 10} KiB not sealed yet"

    # ------------------------------------------------------------------ turns

    def _turn(self, at: float) -> float:
        if at >= self._flush_at or self._loop.stop_requests:
            self._flush(at)
        if self._loop.stop_requests:
            return self._stop(at)
        if at >= self._core.next_deadline():
            self._carry_out(self._core.tick(at))
        self._seal(at)
        look = min(self._link.tick(at), self._key_age.look(at), self._sealer.tick(at))
        flush_at = self._flush_at if self._core.has_staged else float("inf")
        return min(look, max(self._core.next_deadline(), at + 0.01), self._seal_at(), flush_at)

    def _stop(self, at: float) -> float:
        """Take nothing more, seal what is durable, then end; asked twice, end now: the journal keeps it."""
        if not self._left:
            self._left = True
            self._link.send(m.Bye())
        self._scanning.end()
        self._amender.end()
        notify.tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(3e6 * SEAL_RETRY_SECONDS)}")  # sealing may take a while
        self._seal(at)
        if self._loop.stop_requests > 1 or not (self._journal.size() or self._journal.closed()):
            self._log.info("writer.stops", position=self._core.position)
            self._loop.stop(EXIT_DONE)
        return at + SEAL_RETRY_SECONDS

    def _connected(self) -> None:
        self._carry_out(self._core.connected(runtime.now()))

    def _received(self, message: m.Message, payload: bytes) -> None:
        if self._left:
            return  # Whoever sent it keeps it. Taking it would make one small segment after another, without end.
        if isinstance(message, m.Welcome):
            self._key_age.told(message)
        at = runtime.now()
        self._carry_out(self._core.handle(message, payload, at))
        if self._core.staged_bytes >= FLUSH_BYTES:
            self._flush(at)

    def _flush(self, at: float) -> None:
        """Make what has arrived durable, all of it in one transaction, and only then say so."""
        if not self._core.has_staged:
            return
        self._flush_at = at + FLUSH_SECONDS
        frames = self._core.staged_frames()
        try:
            self._journal.append(frames)
        except DiskFullError as error:
            self._log.error("disk.full", why=str(error))
            self._carry_out(self._core.not_stored(at))
            return
        if frames and self._journal_since is None:
            self._journal_since = at
        self._carry_out(self._core.stored(at))

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(_, message, payload):
                    self._link.send(message, payload)
                case ReadListing(_, shard, begin, end):
                    self._read_listing(shard, begin, end)
                case StartTask():
                    self._task(effect)
                case ProbeRoom():
                    waits = (self._seal_tasks or self._put_off) and runtime.now() < self._seal_retry_at
                    if not waits and probe_room(self._store.staging_dir):
                        self._carry_out(self._core.has_room(runtime.now()))
                case Note(event, facts):
                    self._log.info(event, **dict(facts))
                case Stop(sentence, hint):
                    raise UnsafeError(sentence, hint)
                case _:
                    pass

    def _read_listing(self, shard: int, begin: int, end: int) -> None:
        if shard < self._manifest.shard_count():
            length = self._manifest.shards(shard)[0].length
            rows, payload = listing_page(self._store, shard, begin, min(end, length), LISTING_BYTES)
            self._link.send(m.Listed(shard=shard, start=begin, rows=rows), payload)

    # ------------------------------------------------------------------ tasks

    def _task(self, task: StartTask) -> None:
        try:
            self._begin(task)
        except DiskFullError as error:
            self._later(task, str(error), full=True)

    def _later(self, task: StartTask, why: str, *, full: bool) -> None:
        """It is begun again in a while; ``full``: when there may be room."""
        self._put_off.append(task)
        (self._no_room if full else self._try_later)(runtime.now(), why)

    def _begin(self, task: StartTask) -> None:
        match task.kind:
            case "scan":
                self._scanning.begin(task)
            case "open-pass":
                number = self._manifest.add_pass(task.slots)
                self._carry_out(self._core.pass_opened(facts_of(self._manifest.passes()[number - 1])))
                self._ended(task.task, Answer())
            case "seal" | "amend":
                self._seal_tasks.append(_SealTask(task, self._core.position))
            case "look":
                self._amender.begin(task)
            case _:
                self._snapshot(task)

    def _ended(self, task: str, answer: Answer) -> None:
        self._carry_out(self._core.task_ended(task, answer))

    def _shards_listed(self, shards: Sequence[tuple[str, int]]) -> None:
        self._carry_out(self._core.shards_listed(shards))

    def _amended(self, rows: list[PassRow]) -> None:
        """Redos were opened or closed, and what counts has changed."""
        for row in rows:
            items = () if row.closed else self._manifest.selected(row.number).tolist()
            self._carry_out(self._core.pass_opened(facts_of(row), items))
        count(self._core, self._manifest, self._journal)

    def _snapshot(self, task: StartTask) -> None:
        problem = ""
        try:
            table = decode_table(task.kind, task.payload)
            if task.kind == "jobs":
                write_jobs(self._store, self._manifest, table)
            else:
                totals = self._manifest.totals()
                for who, captions in self._journal.totals().items():
                    totals[who] = totals.get(who, 0) + captions
                write_contributors(self._store, table, totals)
        except ValueError as error:
            problem = str(error)
        self._ended(task.task, Answer(problem))

    # ------------------------------------------------------------------ sealing

    def _seal_at(self) -> float:
        if self._journal_since is None:
            return float("inf")
        return max(self._journal_since + self._pace.patience, self._seal_retry_at)

    def _seal(self, at: float) -> None:
        """Roll the journal when it is time, and seal closed files one after another."""
        wanted = self._loop.stop_requests or self._seal_tasks or self._journal.size() >= self._segment_bytes
        if (wanted or at >= self._seal_at()) and self._journal.size() and at >= self._seal_retry_at:
            self._roll(at)
        if self._put_off and at >= self._seal_retry_at:
            again, self._put_off = self._put_off, []
            for task in again:
                self._task(task)
        closed = self._journal.closed()
        self._core.backlog = self._journal.size() + sum(file.size for file in closed)
        if closed and not self._sealer.busy and at >= self._seal_retry_at:
            self._sealer.begin(closed[0])
        while self._seal_tasks and self._manifest.last_position() >= self._seal_tasks[0].position:
            done = self._seal_tasks.pop(0).task
            if done.kind == "amend":
                self._amender.begin(done)
            else:
                self._ended(done.task, Answer(count=self._manifest.last_position()))

    def _roll(self, at: float) -> None:
        try:
            self._journal.roll()
        except DiskFullError as error:
            self._no_room(at, str(error))
            return
        self._journal_since = None

    def _sealed(self, file: JournalFile, sealed: Sealed) -> None:
        self._seal_deaths = 0
        try:
            row = record(self._manifest, self._journal, file, sealed)
        except DiskFullError as error:
            self._no_room(runtime.now(), str(error))
            return
        self._pace.sealed(row.size)
        self._log.info("segment.sealed", rows=row.rows, failures=row.failures, bytes=row.size, first=row.first)

    def _not_sealed(self, file: JournalFile, exit_code: int, said: str) -> None:
        if exit_code == DiskFullError.exit_code:
            self._no_room(runtime.now(), said)
        elif exit_code < 0 and self._seal_deaths < MAX_SEAL_DEATHS:
            self._seal_deaths += 1
            self._try_later(runtime.now(), f"the child that seals ended by signal {-exit_code}")
        else:
            raise seal_error(exit_code, said, file.path)

    def _no_room(self, at: float, why: str) -> None:
        """While there is room for the journal the work goes on; when the broker waits for this, people have to know."""
        self._core.disk_full = self._core.disk_full or bool(self._seal_tasks or self._put_off)
        self._try_later(at, why)

    def _try_later(self, at: float, why: str) -> None:
        """Nothing is lost, the journal keeps it; try again later."""
        self._seal_retry_at = at + SEAL_RETRY_SECONDS
        self._log.error("task.put-off", why=why)
        if self._loop.stop_requests:
            raise DiskFullError(f"Not all could be sealed: {why}", "Run again; nothing is lost, the journal keeps it.")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@common_flags
@click.option("--server", help="The broker's address, tcp://HOST:PORT.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="The store.")
@click.option("--wait", type=float, default=10.0, show_default=True, help="Seconds to wait for the store's lock.")
def command(server: str | None, data_dir: Path | None, wait: float, **common: object) -> None:
    """The writer: makes captions durable, lists the images, seals parquet. Exactly one per store."""
    overrides = [
        *override("--server", "writer.server", server),
        *override("--data-dir", "storage.data_dir", data_dir.absolute() if data_dir else None),
    ]
    sys.exit(start("writer", lambda begin: WriterDaemon(begin, wait=wait).serve(), overrides, common))


def main() -> None:
    """Entry point."""
    without_pandas()
    command()


if __name__ == "__main__":
    main()
