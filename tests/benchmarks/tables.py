"""A benchmark's figures as text: for the screen and, the same, for docs/performance.md. Knows no other source of figures
than the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

from benchmarks.figures import Extras, Limit, Report, Run

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
PARTS = ("broker", "writer", "worker", "run", "seal")
_NAMES = {
    "broker": "broker", "writer": "writer, with its children", "worker": "a worker", "run": "`cfbus run` itself",
    "seal": "the writer's child that seals",
}  # fmt: skip


def spread(values: Iterable[float], form: str = ",.0f") -> str:
    """The median, and from where to where they go."""
    known = sorted(values)
    if not known:
        return ""
    middle = format(median(known), form)
    return middle if len(known) == 1 else f"{middle} ({format(known[0], form)} to {format(known[-1], form)})"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first as the head, as Markdown that is aligned for those who read it as text."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def whole(report: Report) -> str:
    """All tables of a report, with where it was made."""
    machine = report.machine
    changed = f" with {machine.changed_files} files changed" if machine.changed_files else ""
    parts = [
        f"{report.when}, revision {machine.revision}{changed}. {machine.cores} cores of {machine.processor}, "
        f"{machine.memory_gib:.0f} GiB, Linux {machine.kernel}, {machine.file_system}; Python {machine.python}, "
        f"pyzmq {machine.pyzmq}, libzmq {machine.libzmq}, pyarrow {machine.pyarrow}, SQLite {machine.sqlite}. "
        f"{report.items:,} captions a run, {len(report.limits)} rounds: the median (least to most).",
        _main(report),
    ]
    if report.extras:
        parts += _extras(report.extras)
    return "\n\n".join(parts)


def _main(report: Report) -> str:
    by_workers = {workers: [r for r in report.runs if r.workers == workers] for workers in _workers(report)}
    limits = report.limits

    def row(
        name: str, of_run: Callable[[Run], float | None], of_limit: Callable[[Limit], float | None], form: str = ",.0f"
    ) -> list[str]:
        cells = [_cell(map(of_run, runs), form) for runs in by_workers.values()]
        return [name, *cells, _cell(map(of_limit, limits), form)]

    limit = median(one.rate for one in limits)
    limit_cpu = median(one.cpu_us for one in limits)
    rows = [
        ["", *(f"{n} worker{'s' if n > 1 else ''}" for n in by_workers), "the limit"],
        row("durable captions a second", lambda run: run.durable, lambda one: one.rate),
        row("sealed captions a second", lambda run: run.sealed, lambda one: one.rate),
        row("durable, of the limit's rate", lambda run: run.durable / limit, lambda _: None, ".0%"),
        row("sealed, of the limit's rate", lambda run: run.sealed / limit, lambda _: None, ".0%"),
        row("CPU µs a caption, all processes", lambda run: sum(run.cpu_us.values()), lambda one: one.cpu_us, ".1f"),
        row("the limit's CPU, of that", lambda run: limit_cpu / sum(run.cpu_us.values()), lambda _: None, ".0%"),
        *(
            row(f"CPU µs a caption, {_NAMES[part]}", lambda run, part=part: run.cpu_us.get(part), lambda _: None, ".1f")
            for part in PARTS[:-1]
        ),
        row("seconds to the first lease", lambda run: run.first_lease_seconds, lambda _: None, ".1f"),
        row("seconds to the first durable caption", lambda run: run.first_caption_seconds, lambda _: None, ".1f"),
        *(
            row(f"peak MiB, {_NAMES[part]}", lambda run, part=part: run.peak_mib.get(part), lambda _: None)
            for part in PARTS
        ),
        row("peak MiB, all frames in memory", lambda _: None, lambda one: one.peak_mib),
        row("MiB of parquet", lambda run: run.parquet_bytes / (1 << 20), lambda one: one.parquet_bytes / (1 << 20), ".1f"),
        row("cores that others used meanwhile", lambda run: run.cores_of_others, lambda one: one.cores_of_others, ".2f"),
    ]  # fmt: skip
    return table(rows)


def _workers(report: Report) -> list[int]:
    return sorted({run.workers for run in report.runs})


def _cell(values: Iterable[float | None], form: str) -> str:
    return spread((value for value in values if value is not None), form)


def _extras(extras: Extras) -> list[str]:
    core = extras.core
    total = sum(package.mib for package in extras.packages)
    return [
        "The broker's core alone, a thread of pure Python without sockets or encoding:",
        table(
            [
                ["", "a second"],
                ["leases granted", f"{core.grants:,.0f}"],
                ["results passed on", f"{core.results:,.0f}"],
                ["results settled, 64 to a COMMIT", f"{core.commits_settled:,.0f}"],
            ]
        ),
        "What it takes to know what is done, in a pass of which a share is done in scattered ranges:",
        table(
            [
                ["items", "done", "ranges of", "ranges", "MiB", "bytes a range"],
                *(
                    [f"{m.items:,}", f"{m.share:.0%}", str(m.length), f"{m.ranges:,}", f"{m.mib:.1f}", f"{m.bytes_per_range:.0f}"]
                    for m in extras.memory
                ),
            ]
        ),
        f"`cfbus --help` takes {spread(extras.help_seconds, '.2f')} seconds.",
        f"`pip install cfbus` brings {total:.0f} MiB:",
        table(
            [["package", "version", "MiB"], *([p.name, p.version, f"{p.mib:.1f}"] for p in extras.packages if p.mib >= 0.5)]
        ),
    ]  # fmt: skip


def write_docs(report: Report, page: Path) -> None:
    """Put the tables between the marks in the page, in place of those that were there."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no {BEGIN} followed by {END}")
    page.write_text(f"{before}{BEGIN}\n\n{whole(report)}\n\n{END}{after}", encoding="utf-8")
