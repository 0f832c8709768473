"""What those who watch the bus are shown: a pure reading of the broker's state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cfbus.bus.columns import FLAGS
from cfbus.bus.messages import Role
from cfbus.core.history import COARSE_SECONDS, NOW_SECONDS
from cfbus.core.pages import pages
from cfbus.core.snapshot import (
    Leaderboard,
    Quality,
    SlotQuality,
    Standing,
    Status,
    Throughput,
    WorkersPage,
    WorkerView,
)

if TYPE_CHECKING:
    from cfbus.core.broker import Broker
    from cfbus.core.state import PeerState

MINUTE, QUARTER = 60.0, 900.0
CONTRIBUTORS_SHOWN = 64
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
        items=sum(walk.items for walk in broker.passes.values()) if broker.passes else broker.shards.items,
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
        rate=broker.history.rate(now, broker.done_items, MINUTE),
        rate_now=broker.history.rate(now, broker.done_items, NOW_SECONDS),
        rate_quarter=broker.history.rate(now, broker.done_items, QUARTER),
        writer=("catching-up" if not writer.caught_up else writer.state) if writer else "away",
        why=broker.granting.why(),
        problem=broker.catchup.problem,
        workers=len(broker.workers()),
        feeders=len(broker.feeding.feeders),
        workers_starved=sum(_is_starved(state) for state in broker.workers()),
        leases_granted=broker.counts.granted,
        leases_ended=broker.counts.ended,
        backups_granted=broker.counts.backups,
        results_refused=broker.counts.refused_results,
        messages_refused=sum(broker.counts.refused_messages.values()),
        duplicates=broker.counts.duplicates,
        unsealed_bytes=broker.tally.unsealed_bytes,
        unacked_bytes=sum(state.unacked_bytes for state in broker.workers()),
        window=broker.window(),
    )


def workers(broker: Broker, now: float) -> list[WorkersPage]:
    """All workers, also those that drain, in pages that fit a message of the stats socket."""
    views = [_worker(broker, state, now) for state in broker.peers.values() if state.peer.role is Role.WORKER]
    found: list[WorkersPage] = []
    first = 0
    for part in pages(views, view_bytes, WORKERS_PAGE_BYTES):
        found.append(WorkersPage(first=first, total=len(views), workers=tuple(part)))
        first += len(part)
    return found


def view_bytes(view: WorkerView) -> int:
    """At most so many bytes a worker takes in a page, whatever it says of itself."""
    gpus = len(view.host.gpus) if view.host is not None else 0
    return VIEW_BYTES + GPU_BYTES * gpus + CHAR_BYTES * (len(view.name) + len(view.contributor) + len(view.job))


def _is_starved(state: PeerState) -> bool:
    load = state.figures.load
    return load is not None and load.state == "starved"


def throughput(broker: Broker) -> Throughput:
    """How fast it was."""
    return Throughput(seconds=COARSE_SECONDS, rates=broker.history.rates())


def quality(broker: Broker) -> Quality:
    """What the captions are like, as the writer counts them."""
    slots = tuple(
        SlotQuality(
            slot=tally.slot, captions=tally.captions, tokens=tally.tokens, lengths=tally.lengths,
            **dict(zip(FLAGS, tally.flags, strict=True)),
        )
        for tally in broker.tally.slots
    )  # fmt: skip
    return Quality(slots=slots)


def leaderboard(broker: Broker) -> Leaderboard:
    """Contributors, those with the most captions first, as many as a message of the stats socket holds."""
    names = {one: name for one, name, _ in broker.contributors}
    at_work: dict[str, list[float]] = {}
    for state in broker.workers():
        at_work.setdefault(state.peer.contributor, []).append(state.rate)
    captions = {credit.contributor: credit.captions for credit in broker.tally.credits}
    order = sorted({*captions, *at_work}, key=lambda one: (-captions.get(one, 0), one))
    standings = tuple(
        Standing(
            contributor=one, name=names.get(one, one), captions=captions.get(one, 0),
            workers=len(at_work.get(one, ())), rate=round(sum(at_work.get(one, ())), 2),
        )
        for one in order[:CONTRIBUTORS_SHOWN]
    )  # fmt: skip
    return Leaderboard(total=max(broker.tally.contributors, len(order)), contributors=standings)


def _worker(broker: Broker, state: PeerState, now: float) -> WorkerView:
    held = [lease for lease in broker.leases.of(state.instance) if broker.owns(state, lease) and not lease.preparing]
    return WorkerView(
        name=state.name,
        contributor=state.peer.contributor,
        instance=state.instance,
        rate=state.rate,
        in_flight=state.in_flight,
        leases=len(held),
        unacked_bytes=state.unacked_bytes,
        heard_seconds_ago=max(now - state.heard, 0.0),
        waiting=state.peer.connection in broker.granting.waiting,
        draining=state.draining,
        job=next((lease.row.job for lease in held if lease.captioned < lease.items), ""),
        captioned=sum(lease.captioned for lease in held),
        items=sum(lease.items for lease in held),
        engine=state.figures.engine,
        load=state.figures.load,
        host=state.figures.host,
    )
