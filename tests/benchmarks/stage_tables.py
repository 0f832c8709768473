"""Each stage of the pipeline against its own limit, and a sentence that names the one that bounds it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from benchmarks.figures import Report, Run
from benchmarks.layout import spread, table

_SHOWN = {
    "bus": "CURVE from a DEALER to a ROUTER, frames of 64 KiB, both ends",
    "commits": "SQLite: the same frames, a durable commit for every 4 MiB",
    "packing": "a worker's frames made and packed, without a bus",
    "decoding": "JPEGs of 1024 x 768 decoded, on one core",
}


class Bound(NamedTuple):
    """A stage of the pipeline: what it takes of the processor for a caption, and what its own limit takes."""

    name: str
    used: float
    least: float
    of: str

    @property
    def times(self) -> float:
        """How far it is from its limit."""
        return self.used / self.least


def bounds(report: Report, runs: Sequence[Run]) -> list[Bound]:
    """The stages of these runs, the most expensive first."""
    least = _medians(report)
    used = {part: median(run.cpu_us[part] for run in runs) for part in ("broker", "writer", "worker")}
    limit, hop = median(one.cpu_us for one in report.limits), least["bus"]
    found = [
        Bound("the broker", used["broker"], hop, "the frames received and sent on by CURVE"),
        Bound(
            "the writer", used["writer"], least["commits"] + limit + hop / 2,
            "the frames received by CURVE, committed by SQLite, decoded and written as parquet",
        ),
        Bound("the workers", used["worker"], least["packing"] + hop / 2, "the frames packed and sent by CURVE"),
    ]  # fmt: skip
    return sorted(found, key=lambda bound: -bound.used)


def _medians(report: Report) -> Mapping[str, float]:
    names = dict.fromkeys(stage.name for stage in report.stages)
    return {name: median(stage.cpu_us for stage in report.stages if stage.name == name) for name in names}


def parts(report: Report) -> list[str]:
    """The limits of stages, each stage against its own, and which one bounds the pipeline."""
    if not report.stages:
        return []
    head = ["by itself, in as few lines as it takes", "a second", "CPU µs each", "MiB a second"]
    rows = []
    for name in _medians(report):
        found = [stage for stage in report.stages if stage.name == name]
        rows.append(
            [
                _SHOWN[name], f"{spread((stage.rate for stage in found), ',.0f')} {found[0].unit}",
                spread((stage.cpu_us for stage in found), ",.1f"),
                spread((stage.mib_per_second for stage in found), ",.0f"),
            ]
        )  # fmt: skip
    most = max(run.workers for run in report.runs)
    runs = [run for run in report.runs if run.workers == most]
    ranked = bounds(report, runs)
    against = [["", "CPU µs a caption", "its own limit's", "times", "the limit"]]
    against += [[b.name, f"{b.used:.1f}", f"{b.least:.1f}", f"{b.times:.1f}", b.of] for b in ranked]
    return ["The least that each stage does:", table([head, *rows]), _sentence(report, runs, ranked), table(against)]


def _sentence(report: Report, runs: Sequence[Run], ranked: Sequence[Bound]) -> str:
    first = ranked[0]
    total = median(sum(run.cpu_us.values()) for run in runs)
    cores = median(sum(run.cpu_us.values()) * run.sealed / 1e6 for run in runs)
    picture = median(stage.cpu_us for stage in report.stages if stage.name == "decoding")
    workers = runs[0].workers
    return (
        f"**What bounds the pipeline is {first.name}.** With {workers} workers, from the first lease until all is"
        f" sealed, all processes keep {cores:.1f} of {report.machine.cores} cores busy; of the {total:.1f} µs of the"
        f" processor that a caption takes, {first.used:.1f} are spent by {first.name}: {first.times:.1f} times what its"
        f" own limit takes ({first.least:.1f} µs). To decode one picture takes as long as"
        f" {picture / total:,.0f} captions on their whole way, so with real pictures workers' decoding comes first."
    )
