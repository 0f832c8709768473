"""Verbs of admins about workers, leases and shards: who does what, what happened, and taking leases back. Pure.

Invariants: what is done is never undone here; a lease that is taken back keeps its claim to results that are on their
way, so that nothing is captioned for nothing that need not be; a dry run changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from cfbus.bus import messages as m
from cfbus.core.effects import Effect, Note, Send
from cfbus.core.leases import LeaseState
from cfbus.core.told import Arguments, Told
from cfbus.core.watching import workers as worker_pages

if TYPE_CHECKING:
    from cfbus.core.broker import Broker

STALE_SECONDS = 60.0
"""A lease without progress for this long is stale, unless another time is asked for."""
NAMED = 8
RESETS = ("place", "stale", "contributor", "failed")


class _ProblemError(Exception):
    """Something in the arguments cannot be."""


# ---------------------------------------------------------------------- looking


def workers(broker: Broker, _arguments: Arguments, now: float) -> Told:
    """All workers on the bus."""
    columns = ("name", "contributor", "state", "rate", "in_flight", "leases", "captioned", "of", "unacked", "heard")
    rows = []
    for page in worker_pages(broker, now):
        for view in page.workers:
            load = view.load.state if view.load is not None else "waiting" if view.waiting else "working"
            state = "draining" if view.draining else load
            counts = (view.in_flight, view.leases, view.captioned, view.items, view.unacked_bytes)
            told = (f"{view.rate:.1f}", *map(str, counts), f"{view.heard_seconds_ago:.0f} s")
            rows.append((view.name, view.contributor, state, *told))
    return Told(columns=columns, rows=tuple(rows))


def leases(broker: Broker, arguments: Arguments, now: float) -> Told:
    """The leases that run, of all workers or of one."""
    name = arguments.get("worker")
    rows = []
    for lease in broker.leases.current():
        state = broker.peers.get(broker.routes.get(lease.row.instance))
        holder = state.name if state is not None else "(away)"
        if name is not None and name not in (holder, lease.row.contributor):
            continue
        kind = "preparing" if lease.preparing else "backup" if lease.row.backup else "primary"
        counts = (lease.captioned, lease.items, len(lease.undone))
        times = (f"{now - lease.progressed:.0f} s", f"{max(lease.deadline - now, 0):.0f} s")
        rows.append((lease.row.job, holder, lease.row.contributor, kind, *map(str, counts), *times))
    columns = ("job", "worker", "contributor", "kind", "captioned", "items", "undone", "since_progress", "ends_in")
    return Told(columns=columns, rows=tuple(rows))


def story(broker: Broker, arguments: Arguments, _now: float) -> Told:
    """Everything that is remembered of a shard, or of some items of it, in order, and since when it is everything."""
    try:
        shard, start, end = _place(broker, arguments.get("place", ""))
    except _ProblemError as problem:
        return Told(problem=str(problem))
    names = {one: name for one, name, _ in broker.contributors}
    rows = []
    for line in broker.story.of(shard, (start, end)):
        what = (str(line.at), f"{line.start}-{line.end}", str(line.pass_number), line.what)
        worker = "(broker)" if line.worker == broker.rules.instance else line.worker  # dead letters are its own
        rows.append((*what, worker, line.contributor, names.get(line.contributor, ""), line.job))
    started = broker.rules.started
    since = (("since", str(broker.story.since(shard, started))), ("started", str(started)))
    done = tuple(
        (f"pass_{number}", f"{sum(b - a for a, b in walk.done_in(shard, start, end))} of {end - start} done")
        for number, walk in sorted(broker.passes.items())[-NAMED:]
    )
    columns = ("at", "items", "pass", "what", "worker", "contributor", "name", "job")
    return Told(facts=(*since, *done), columns=columns, rows=tuple(rows))


# ---------------------------------------------------------------------- acting


def drain(broker: Broker, arguments: Arguments, _now: float) -> Told:
    """Workers finish what is in flight, hand the rest back, and take nothing new until `undrain` or their restart."""
    name = arguments.get("worker")
    there = [state for state in broker.workers() if name in (None, state.name, state.instance)]
    if not there:
        return Told(problem=_no_worker(broker, name))
    for state in there:
        state.draining = True
        broker.granting.forget(state.peer.connection)
    sent = tuple(Send(state.peer.connection, m.Drain()) for state in there)
    names = ", ".join(state.name for state in there[:NAMED])
    return Told(facts=(("draining", str(len(there))), ("workers", names[:256])), effects=sent)


def undrain(broker: Broker, arguments: Arguments, _now: float) -> Told:
    """Workers that drain are told to take work again. Each answers for itself: one that is being stopped does not."""
    if broker.ending == "drained":
        return Told(problem="The broker ends when nothing is leased. Start it again, then say undrain.")
    name = arguments.get("worker")
    draining = [state for state in broker.peers.values() if state.peer.role is m.Role.WORKER and state.draining]
    there = [state for state in draining if name in (None, state.name, state.instance)]
    if not there:
        which = "No worker drains" if name is None else f"There is no worker {name[:100]!r} that drains"
        return Told(problem=f"{which}.{_known(state.name for state in draining)}")
    sent = tuple(Send(state.peer.connection, m.Undrain()) for state in there)
    names = ", ".join(state.name for state in there[:NAMED])
    return Told(facts=(("told", str(len(there))), ("workers", names[:256])), effects=sent)


def reset(broker: Broker, arguments: Arguments, now: float) -> Told:
    """Take leases back, or try accused items anew. Captions that are durable stay; so do dead letters."""
    dry = arguments.get("dry-run", "no") == "yes"
    wanted = [name for name in RESETS if name in arguments]
    if len(wanted) != 1:
        return Told(problem="Say what to reset: SHARD[:START-END], --stale, --failed, or --contributor NAME.")
    try:
        if wanted[0] == "failed":
            return _reset_failed(broker, arguments.get("fault"), dry=dry)
        found = _chosen(broker, arguments, now)
    except _ProblemError as problem:
        return Told(problem=str(problem))
    items = sum(len(lease.undone) for lease in found)
    facts = (("leases", str(len(found))), ("items", str(items)), ("done", "nothing: a dry run" if dry else "yes"))
    rows = tuple((lease.row.job, lease.row.contributor, str(len(lease.undone))) for lease in found)
    if dry:
        return Told(facts=facts, columns=("job", "contributor", "undone"), rows=rows)
    effects: list[Effect] = []
    for lease in found:
        broker.end_lease(lease)
        effects.append(Note("lease.reset", (("job", lease.row.job), ("contributor", lease.row.contributor))))
        if lease.connection is not None:
            told = m.Renewed(leases=(broker.lease_state(lease, now),), window=broker.window())
            effects.append(Send(lease.connection, told))
    return Told(facts=facts, columns=("job", "contributor", "undone"), rows=rows, effects=tuple(effects))


def _chosen(broker: Broker, arguments: Arguments, now: float) -> list[LeaseState]:
    running = [lease for lease in broker.leases.current() if not lease.preparing]
    if "place" in arguments:
        shard, start, end = _place(broker, arguments["place"])
        return [it for it in running if it.row.shard == shard and it.row.start < end and start < it.row.end]
    if "stale" in arguments:
        seconds = float(arguments["stale"]) if re.fullmatch(r"[0-9]{1,6}", arguments["stale"]) else STALE_SECONDS
        return [lease for lease in running if now - lease.progressed >= seconds]
    who = arguments["contributor"]
    names = {name: one for one, name, _ in broker.contributors}
    one = names.get(who, who)
    known = {*names.values(), *(lease.row.contributor for lease in running)}
    if one not in known:
        raise _ProblemError(f"There is no contributor {who[:100]!r}.{_known(names)}")
    return [lease for lease in running if lease.row.contributor == one]


def _reset_failed(broker: Broker, fault: str | None, *, dry: bool) -> Told:
    count = broker.claims.count(fault) if dry else broker.claims.forgive(fault)
    facts = (("items", str(count)), ("done", "nothing: a dry run" if dry else "yes"))
    return Told(facts=facts)


# ---------------------------------------------------------------------- arguments


def _place(broker: Broker, text: str) -> tuple[int, int, int]:
    """SHARD, SHARD:INDEX or SHARD:START-END; of a name with colons the longest that is a shard's."""
    names = broker.shards.names
    whole = _number(names, text)
    if whole is not None:
        return whole, 0, broker.shards.lengths[whole]
    name, _, part = text.rpartition(":")
    shard = _number(names, name)
    asked = re.fullmatch(r"([0-9]{1,10})(?:-([0-9]{1,10}))?", part)
    if shard is None or asked is None:
        near = [each for each in names if text[:4] and each.startswith(text[:4])][:3]
        raise _ProblemError(f"There is no shard {text[:200]!r}.{_known(near or names[:3])}")
    start, length = int(asked[1]), broker.shards.lengths[shard]
    end = int(asked[2]) if asked[2] else start + 1
    if not start < end <= length:
        raise _ProblemError(f"{name[:200]} has the items 0-{length}; {part} is not among them.")
    return shard, start, end


def _number(names: list[str], name: str) -> int | None:
    return names.index(name) if name in names else None


def _known(names: Iterable[str]) -> str:
    there = [name[:60] for name in names][:NAMED]
    return f" There are, for example: {', '.join(there)}." if there else ""


def _no_worker(broker: Broker, name: str | None) -> str:
    there = [state.name for state in broker.workers()]
    if name is None:
        return "No worker is on the bus, or all drain already."
    return f"There is no worker {name[:100]!r} that takes work.{_known(there)}"
