"""What those who watch the bus are shown: a pure reading of the broker's state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cfbus.core.pages import pages
from cfbus.core.snapshot import Status, WorkersPage, WorkerView

if TYPE_CHECKING:
    from cfbus.core.broker import Broker
    from cfbus.core.state import PeerState

WORKERS_PAGE_BYTES = 30 * 1024
"""Of a page's workers in JSON, by `view_bytes`; with what is around them a page stays below 32 KiB."""
VIEW_BYTES = 1000
GPU_BYTES = 288
CHAR_BYTES = 6
"""At most, in JSON: a view without names and GPUs, a GPU, a character of a name."""


def status(broker: Broker, now: float) -> Status:
    """The state of the run."""
    writer = broker.writer
    return Status(
        dataset=broker.rules.dataset,
        store_id=broker.store_id,
        generation=broker.rules.generation,
        items=broker.shards.items * max(len(broker.passes), 1),
        done=broker.done_items,
        leased=sum(walk.held_items for walk in broker.passes.values()),
        captions=broker.captions,
        dead_letters=broker.dead_letters,
        to_try_again=len(broker.claims),
        passes=len(broker.passes),
        listing=not broker.catchup.scanned,
        paused=broker.paused,
        finished=broker.finished,
        sealed=broker.catchup.sealed,
        position=broker.position,
        rate=_rate(broker, now),
        writer=("catching-up" if not writer.caught_up else writer.state) if writer else "away",
        why=broker.granting.why(),
        problem=broker.catchup.problem,
        workers=len(broker.workers()),
        workers_starved=sum(_is_starved(state) for state in broker.workers()),
        leases_granted=broker.counts.granted,
        leases_ended=broker.counts.ended,
        backups_granted=broker.counts.backups,
        results_refused=broker.counts.refused_results,
        messages_refused=sum(broker.counts.refused_messages.values()),
        duplicates=broker.counts.duplicates,
    )


def workers(broker: Broker, now: float) -> list[WorkersPage]:
    """All workers, in pages that fit a message of the stats socket."""
    views = [_worker(broker, state, now) for state in broker.workers()]
    found: list[WorkersPage] = []
    first = 0
    for part in pages(views, view_bytes, WORKERS_PAGE_BYTES):
        found.append(WorkersPage(first=first, total=len(views), workers=tuple(part)))
        first += len(part)
    return found


def view_bytes(view: WorkerView) -> int:
    """At most so many bytes a worker takes in a page, whatever it says of itself."""
    gpus = len(view.host.gpus) if view.host is not None else 0
    return VIEW_BYTES + GPU_BYTES * gpus + CHAR_BYTES * (len(view.name) + len(view.contributor))


def _is_starved(state: PeerState) -> bool:
    load = state.figures.load
    return load is not None and load.state == "starved"


def _rate(broker: Broker, now: float) -> float:
    """Items per second that became done over the last minute."""
    first_at, first = broker.samples[0] if broker.samples else (now, broker.done_items)
    return (broker.done_items - first) / (now - first_at) if now > first_at else 0.0


def _worker(broker: Broker, state: PeerState, now: float) -> WorkerView:
    return WorkerView(
        name=state.name,
        contributor=state.peer.contributor,
        instance=state.instance,
        rate=state.rate,
        in_flight=state.in_flight,
        leases=sum(broker.owns(state, lease) for lease in broker.leases.current()),
        unacked_bytes=state.unacked_bytes,
        heard_seconds_ago=max(now - state.heard, 0.0),
        waiting=state.peer.connection in broker.granting.waiting,
        engine=state.figures.engine,
        load=state.figures.load,
        host=state.figures.host,
    )
