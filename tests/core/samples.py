"""One message of each kind."""

from __future__ import annotations

from core.bus_rig import instance_of

from cfbus.bus import messages as m

ANN = instance_of("ann")
SPEC = m.Spec(
    hash="e" * 16, engine="scripted", pixel_budget=1, max_pixels=1, slots=(m.Slot(name="a", prompt="p", prompt_id="p"),)
)
SAMPLES: dict[type[m.Message], m.Message] = {
    m.Hello: m.Hello(role=m.Role.WORKER, instance=ANN, software="t", name="n"),
    m.Heartbeat: m.Heartbeat(),
    m.Config: m.Config(generation=2, lease_seconds=1.0, spec=SPEC),
    m.Applied: m.Applied(generation=1, outcome="applied"),
    m.Bye: m.Bye(),
    m.Lease: m.Lease(want=1, rate=0.0),
    m.Renew: m.Renew(leases=(), unacked_bytes=0, rate=0.0),
    m.Result: m.Result(lease=ANN, instance=ANN, number=1, ranges=((0, 1),), size=0, crc=0),
    m.Failed: m.Failed(
        lease=ANN, instance=ANN, number=1, items=(m.FailedItem(index=0, reason="r", fault="item"),)
    ),
    m.Release: m.Release(lease=ANN),
    m.Drain: m.Drain(),
    m.Undrain: m.Undrain(),
    m.Commit: m.Commit(after=0, position=0, room=0, shards=0, passes=0, captions=0, dead_letters=0),
    m.State: m.State(table="shards", first=0, position=0, snapshot=False, last=False),
    m.Listed: m.Listed(shard=0, start=0, rows=0),
    m.Progress: m.Progress(task=ANN, count=0),
    m.Done: m.Done(task=ANN),
    m.Admin: m.Admin(request=ANN, verb="status"),
    m.Tally: m.Tally(slots=(), credits=(), contributors=0, unsealed_bytes=0),
    m.Enrol: m.Enrol(public="x" * 40, name="n", dataset="d"),
    m.Enrolled: m.Enrolled(state="active", now=0, dataset="d"),
    m.Since: m.Since(shards=0),
    m.Resend: m.Resend(),
    m.Ack: m.Ack(results=(), window=0),
    m.Wait: m.Wait(reason="r", ask_again=0.0),
    m.Renewed: m.Renewed(leases=(), window=0),
    m.IndexShard: m.IndexShard(shard=0, start=0, end=1),
    m.Task: m.Task(task=ANN, kind="seal"),
    m.Reply: m.Reply(request=ANN),
    m.Error: m.Error(code="c", sentence="s"),
    m.Allow: m.Allow(lease=ANN, worker="x" * 40, shard=0, shard_name="s", start=0, end=1, ttl=1.0),
    m.Allowed: m.Allowed(lease=ANN),
    m.Forbid: m.Forbid(leases=(ANN,)),
    m.Fetch: m.Fetch(lease=ANN, credit=0),
    m.Data: m.Data(lease=ANN, index=0),
    m.Welcome: m.Welcome(
        software="t", store_id=None, dataset="d", heartbeat_seconds=1.0, lease_seconds=1.0, window=0, generation=0,
        spec=None,
    ),
    m.Grant: m.Grant(
        lease=ANN, pass_number=1, shard=0, shard_name="s", start=0, end=1, slots=("a",), backup=False, ttl=1.0, window=0
    ),
}  # fmt: skip
