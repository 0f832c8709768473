"""A benchmark's figures as text: for the screen and, the same, for docs/performance.md.

Knows no other source of figures than the report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from benchmarks import stage_tables
from benchmarks.figures import (
    Billion,
    ByProcess,
    CatchUp,
    Extras,
    Large,
    Limit,
    Listing,
    Memory,
    Package,
    Report,
    Run,
)
from benchmarks.layout import on_machine, spread, table

MIB = 1 << 20
SHOWN_MIB = 0.5
OfRun: TypeAlias = Callable[[Run], float | None]
OfLimit: TypeAlias = Callable[[Limit], float | None]
PARTS = ("broker", "writer", "worker", "run", "seal")
_NAMES = {
    "broker": "broker", "writer": "writer, with its children", "worker": "a worker", "run": "`cfbus run` itself",
    "seal": "the writer's child that seals",
}  # fmt: skip


def whole(report: Report) -> str:
    """All tables of a report, with where it was made."""
    rounds = len(report.runs) // len(_workers(report))
    parts = [
        f"{report.when}, {on_machine(report.machine)}; the load of the machine was {report.load:.1f} at the start. "
        f"{report.items:,} captions a run, {rounds} round{'s' if rounds > 1 else ''}: the median (least to most).",
        _main(report),
        *stage_tables.parts(report),
    ]
    return "\n\n".join(parts)


def large(report: Large) -> str:
    """Large datasets, listings and sizes, with where that was measured."""
    where = f"{report.when}, {on_machine(report.machine)}; the load of the machine was {report.load:.1f}."
    return "\n\n".join([where, *_extras(report.extras)])


def _main(report: Report) -> str:
    by_workers = {workers: [r for r in report.runs if r.workers == workers] for workers in _workers(report)}
    limits = report.limits

    def row(name: str, of_run: OfRun, of_limit: OfLimit | None = None, form: str = ",.0f") -> list[str]:
        cells = [_cell(map(of_run, runs), form) for runs in by_workers.values()]
        return [name, *cells, _cell(map(of_limit, limits), form) if of_limit else ""]

    def of_part(name: str, figures: Callable[[Run], ByProcess], part: str, form: str) -> list[str]:
        return row(f"{name}, {_NAMES[part]}", lambda run: figures(run).get(part), None, form)

    pairs = [(run, one) for run, one in zip(report.runs, limits, strict=True)]

    def share(name: str, of: Callable[[Run, Limit], float]) -> list[str]:
        cells = [
            spread((of(run, one) for run, one in pairs if run.workers == workers), ".0%") for workers in by_workers
        ]
        return [name, *cells, ""]

    rows = [
        ["", *(f"{n} worker{'s' if n > 1 else ''}" for n in by_workers), "the limit"],
        row("durable captions a second", lambda run: run.durable, lambda one: one.rate),
        row("sealed captions a second", lambda run: run.sealed, lambda one: one.rate),
        share("durable, of the limit's rate", lambda run, one: run.durable / one.rate),
        share("sealed, of the limit's rate", lambda run, one: run.sealed / one.rate),
        row("CPU µs a caption, all processes", lambda run: sum(run.cpu_us.values()), lambda one: one.cpu_us, ".1f"),
        share("the limit's CPU, of that", lambda run, one: one.cpu_us / sum(run.cpu_us.values())),
        *(of_part("CPU µs a caption", lambda run: run.cpu_us, part, ".1f") for part in PARTS[:-1]),
        row("seconds to the first lease", lambda run: run.first_lease_seconds, None, ".1f"),
        row("seconds to the first durable caption", lambda run: run.first_caption_seconds, None, ".1f"),
        *(of_part("peak MiB", lambda run: run.peak_mib, part, ",.0f") for part in PARTS),
        row("peak MiB, all frames in memory", lambda _: None, lambda one: one.peak_mib),
        row("MiB of parquet", lambda run: run.parquet_bytes / MIB, lambda one: one.parquet_bytes / MIB, ".1f"),
        row("cores that others used", lambda run: run.cores_of_others, lambda one: one.cores_of_others, ".2f"),
    ]
    return table(rows)


def _workers(report: Report) -> list[int]:
    return sorted({run.workers for run in report.runs})


def _cell(values: Iterable[float | None], form: str) -> str:
    return spread((value for value in values if value is not None), form)


def _extras(extras: Extras) -> list[str]:
    core = extras.core
    total = sum(package.mib for package in extras.packages)
    return [
        "The broker's core alone, without sockets or encoding:",
        table(
            [
                ["", "in a second of the processor"],
                ["leases granted", f"{core.grants:,.0f}"],
                ["results passed on", f"{core.results:,.0f}"],
                ["results settled, 64 to a COMMIT", f"{core.commits_settled:,.0f}"],
            ]
        ),
        "What it takes to know what is done, in a pass of which a share is done in scattered ranges:",
        table([["items", "done", "ranges of", "ranges", "MiB", "bytes a range"], *map(_memory, extras.memory)]),
        *(_catch_up(extras.catch_up) if extras.catch_up else []),
        *(_billion(extras.billion) if extras.billion else []),
        *_listings(extras.listings),
        f"`cfbus --help` takes {spread(extras.help_seconds, '.2f')} seconds.",
        f"`pip install cfbus` brings {total:.0f} MiB, of which:",
        table([["package", "version", "MiB"], *(_package(one) for one in extras.packages if one.mib >= SHOWN_MIB)]),
    ]


def _catch_up(found: CatchUp) -> list[str]:
    rows = [
        ["", "seconds"],
        ["from the start until the writer has opened the store", f"{found.open_seconds:.1f}"],
        ["from its HELLO until the broker knows what is done", f"{found.catch_up_seconds:.1f}"],
        ["from the start until the first lease", f"{found.first_lease_seconds:.1f}"],
        *([f"processor time until then, {name}", f"{used:.1f}"] for name, used in found.cpu_seconds.items()),
    ]
    peaks = ", ".join(f"{name} {peak:,.0f}" for name, peak in found.peak_mib.items())
    return [
        f"Starting on a store of {found.items:,} items with {found.ranges:,} ranges done (peak MiB: {peaks}):",
        table(rows),
    ]


def _billion(cases: Sequence[Billion]) -> list[str]:
    rows = [
        [one.part, f"{one.shard_items:,}", f"{one.shards:,}", f"{one.listed_mib:.0f}", f"{one.done_mib:.0f}"]
        for one in cases
    ]
    head = ["core", "items a shard", "shards", "MiB, listed", "MiB, all done"]
    return ["What a billion items take in memory:", table([head, *rows])]


def _memory(case: Memory) -> list[str]:
    counts = [f"{case.items:,}", f"{case.share:.0%}", str(case.length), f"{case.ranges:,}"]
    return [*counts, f"{case.mib:.1f}", f"{case.bytes_per_range:.0f}"]


def _listings(listings: Sequence[Listing]) -> list[str]:
    if not listings:
        return []
    head = [
        "", "items", "items a second", "CPU µs an item", "times the least", "s to the first shard", "MiB more",
        "`cfbus run`: s to the first lease", "s until all is listed",
    ]  # fmt: skip
    rows = [
        [
            one.kind, f"{one.items:,}", f"{one.items / one.seconds:,.0f}", f"{one.cpu_seconds / one.items * 1e6:.1f}",
            f"{one.seconds / one.bare_seconds:.1f}", f"{one.first_shard_seconds:.2f}", f"{one.more_mib:.0f}",
            _seconds(one.run_first_lease_seconds), _seconds(one.run_listed_seconds),
        ]
        for one in listings
    ]  # fmt: skip
    least = "The least is a bare `os.scandir` for a folder, and reading all bytes for a tar."
    return [f"Listing a source, its files in the page cache. {least}", table([head, *rows])]


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _package(package: Package) -> list[str]:
    return [package.name, package.version, f"{package.mib:.1f}"]
