"""A run as `cfbus-top` sees it, for tests of its screen."""

from __future__ import annotations

from cfbus.bus.figures import EngineFigures, GpuFigures, HostFigures, Load
from cfbus.core.snapshot import (
    Activity,
    Happening,
    Leaderboard,
    Quality,
    SlotQuality,
    Standing,
    Status,
    Throughput,
    WorkersPage,
    WorkerView,
)
from cfbus.tools.top_state import Seen, Snapshot, View

NOW = 1000.0


def status(**given: object) -> Status:
    facts: dict[str, object] = {
        "dataset": "holiday", "store_id": "0" * 16, "generation": 1, "items": 100_000, "done": 61_234, "leased": 2_000,
        "captions": 122_468, "dead_letters": 12, "to_try_again": 3, "passes": 1, "listing": False, "paused": False,
        "finished": False, "sealed": False, "position": 900, "rate": 214.2, "rate_now": 220.4, "rate_quarter": 190.0,
        "writer": "open", "why": "", "problem": "", "workers": 3, "leases_granted": 80, "leases_ended": 70,
        "backups_granted": 2, "results_refused": 1, "messages_refused": 0, "duplicates": 4,
        "unsealed_bytes": 15 << 20, "unacked_bytes": 300_000, "window": 256 << 20,
    }  # fmt: skip
    return Status.model_validate({**{name: facts.get(name, 0) for name in Status.model_fields}, **facts, **given})


def worker(name: str, **given: object) -> WorkerView:
    facts: dict[str, object] = {
        "name": name, "contributor": "c-1", "instance": "0" * 16, "rate": 71.5, "in_flight": 64, "leases": 2,
        "unacked_bytes": 100_000, "heard_seconds_ago": 0.4, "waiting": False, "draining": False,
        "job": "holiday-00001:2000-3000@1.4", "captioned": 500, "items": 2000,
    }  # fmt: skip
    return WorkerView.model_validate({**facts, **given})


WORKERS = (
    worker(
        "rig-a",
        engine=EngineFigures(
            reading=3,
            decoding=2,
            running=48,
            waiting=13,
            kv_usage=0.81,
            prefix_hits=0.52,
            image_hits=0.66,
            tokens_per_second=4321.0,
        ),
        load=Load(state="saturated", images_per_second=71.5),
        host=HostFigures(
            driver="580.95.05",
            gpus=(
                GpuFigures(
                    name="NVIDIA H100 80GB HBM3",
                    utilisation=0.97,
                    memory_used=71 << 30,
                    memory_total=80 << 30,
                    celsius=61,
                    watts=655.0,
                ),
            ),
        ),
    ),
    worker("rig-b", rate=140.0, contributor="c-2", captioned=1990, load=Load(state="starved", reason="reading")),
    worker("attic", rate=2.5, in_flight=0, leases=0, job="", items=0, captioned=0, waiting=True, heard_seconds_ago=1.0),
    worker("gone", rate=0.0, heard_seconds_ago=14.0),
)
SEEN = (
    Seen()
    .after(status(), NOW)
    .after(WorkersPage(first=0, total=4, workers=WORKERS), NOW)
    .after(Throughput(seconds=15.0, rates=(100.0, 150.0, 0.0, 220.0, 214.0, 190.0)), NOW)
    .after(
        Quality(
            slots=(
                SlotQuality(
                    slot="short", captions=61_234, tokens=1, empty=0, truncated=30, refused=7_000, repeated=0,
                    lengths=(0, 10, 400, 30_000, 30_000, 824, 0, 0, 0, 0, 0, 0),
                ),
                SlotQuality(
                    slot="tags", captions=61_234, tokens=1, empty=90, truncated=0, refused=0, repeated=12,
                    lengths=(90, 0, 0, 0, 144, 31_000, 30_000, 0, 0, 0, 0, 0),
                ),
            )
        ),
        NOW,
    )
    .after(
        Leaderboard(
            total=2,
            contributors=(
                Standing(contributor="c-2", name="bea", captions=80_000, workers=1, rate=140.0),
                Standing(contributor="c-1", name="ada", captions=42_468, workers=3, rate=74.0),
            ),
        ),
        NOW,
    )
    .after(
        Activity(
            events=(
                Happening(at=1_700_000_000.0, event="worker.joined", facts=(("worker", "rig-b"), ("by", "c-2"))),
                Happening(at=1_700_000_060.0, event="lease.expired", facts=(("job", "holiday-00000:0-9@1.1"),)),
            )
        ),
        NOW,
    )
)  # fmt: skip
LIVE = Snapshot(SEEN, View(), NOW + 0.5, "12:00:00", "tcp://127.0.0.1:7711")
