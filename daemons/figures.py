"""Which figures each daemon tells Prometheus: pure readings of its core.

No figure has a name that a stranger chose as a label: such series would be without number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cfbus.core.broker import Broker
from cfbus.core.watching import status
from cfbus.core.worker import Worker
from cfbus.core.writer import Writer
from cfbus.daemons.metrics import Figure, counter, gauge


def of_broker(core: Broker, dropped: Mapping[str, int], now: float) -> Iterator[Figure]:
    """The run, as the broker sees it."""
    view = status(core, now)
    yield gauge("items", view.items, "Items of all passes that are listed.")
    yield gauge("items_done", view.done, "Items that are durable.")
    yield gauge("items_leased", view.leased, "Items that somebody has.")
    yield gauge("items_to_try_again", view.to_try_again, "Items that failed and wait.")
    yield gauge("captions", view.captions, "Captions that the store has.")
    yield gauge("dead_letters", view.dead_letters, "Items that were given up on.")
    yield gauge("items_per_second", view.rate, "Over the last minute.")
    yield gauge("workers", view.workers, "Workers that take work.")
    yield gauge("workers_starved", view.workers_starved, "Of those, whose engine lacks something.")
    yield gauge("feeders", view.feeders, "Feeders on the bus.")
    yield gauge("peers", len(core.peers), "All that have introduced themselves.")
    yield gauge("writer_open", view.writer == "open", "1 while the writer takes results.")
    yield gauge("paused", view.paused, "1 while nothing is granted because an admin said so.")
    yield gauge("finished", view.finished, "1 when everything is captioned.")
    yield gauge("sealed", view.sealed, "1 when all that is durable is in parquet files.")
    yield gauge("problem", bool(view.problem), "1 while a task of the writer's has failed.")
    yield gauge("generation", view.generation, "The number of the configuration that holds.")
    answers = [answer.outcome for answer in core.configuring.answers()]
    for outcome in ("applied", "asked", "engine", "refused"):
        yield gauge("workers_by_answer", answers.count(outcome), "What workers say to it.", answer=outcome)
    yield gauge("position", view.position, "The last position that is known to be durable.")
    yield gauge("unsealed_bytes", view.unsealed_bytes, "In the journal.")
    yield gauge("unacked_bytes", view.unacked_bytes, "That workers hold.")
    yield gauge("window_bytes", view.window, "That each worker may hold.")
    yield counter("leases_granted", view.leases_granted, "Leases, also of earlier lives of this broker.")
    yield counter("leases_ended", view.leases_ended, "Leases that ended.")
    yield counter("backups_granted", view.backups_granted, "Leases over what another has.")
    yield counter("results_refused", view.results_refused, "Results that were refused for good.")
    yield counter("results_duplicate", view.duplicates, "Results of items that were durable already.")
    for code, count in sorted(core.counts.refused_messages.items()):
        yield counter("messages_refused", count, "Messages that were refused.", code=code)
    for why, count in sorted(dropped.items()):
        yield counter("messages_dropped", count, "Messages that nobody was answered for.", why=why)


def of_writer(core: Writer, journal_bytes: int, connected: bool) -> Iterator[Figure]:
    """The store."""
    yield gauge("connected", connected, "1 while there is a way to the broker.")
    yield gauge("position", core.position, "The last position that is durable.")
    yield gauge("captions", core.captions, "Captions that the store has.")
    yield gauge("dead_letters", core.dead_letters, "Items that were given up on.")
    yield gauge("journal_bytes", journal_bytes, "In the open journal file.")
    yield gauge("backlog_bytes", core.backlog, "In all journal files.")
    yield gauge("disk_full", core.disk_full, "1 while there is no room on the disk.")
    yield gauge("open", core.state == "open", "1 while results are welcome.")


def of_worker(core: Worker, captioned: int, connected: bool) -> Iterator[Figure]:
    """A worker, its engine and its GPUs."""
    beat = core.heartbeat()
    yield gauge("connected", connected, "1 while there is a way to the broker.")
    yield counter("captioned", captioned, "Items that came out of the engine.")
    yield gauge("items_per_second", core.rate, "Measured over the last seconds.")
    yield gauge("in_flight", core.in_flight, "Items in the engine.")
    yield gauge("unstarted", core.unstarted, "Leased items that are not begun.")
    yield gauge("unacked", core.unacked, "Results without an acknowledgement.")
    yield gauge("unacked_bytes", core.unacked_bytes, "Bytes of those.")
    yield gauge("draining", core.draining, "1 while nothing new is taken.")
    yield gauge("on_hold", core.on_hold, "1 while the engine is replaced, or cannot do what is wanted.")
    if beat.load is not None:
        yield gauge("starved", beat.load.starved, "Share of the time in which the engine lacked something.")
    for name in ("kv_usage", "prefix_hits", "tokens_per_second"):
        value = getattr(beat.engine, name, None)
        if value is not None:
            yield gauge(f"engine_{name}", value, "As the engine says.")
    for number, gpu in enumerate(beat.host.gpus if beat.host is not None else ()):
        for name in ("utilisation", "memory_used", "memory_total", "celsius", "watts"):
            value = getattr(gpu, name)
            if value is not None:
                yield gauge(f"gpu_{name}", value, "As the driver says.", gpu=str(number))


def of_feeder(leases: int, served: int, sent_bytes: int, refused: int, connected: bool) -> Iterator[Figure]:
    """A feeder."""
    yield gauge("connected", connected, "1 while there is a way to the broker.")
    yield gauge("leases", leases, "Leases that it serves.")
    yield counter("images_served", served, "Images that were sent whole.")
    yield counter("sent_bytes", sent_bytes, "Bytes of images.")
    yield counter("requests_refused", refused, "What was asked for and is nobody's business.")
