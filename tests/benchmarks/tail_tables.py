"""How soon the end comes, as text: what was simulated, then real processes."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.figures import End, Ends, RealEnd
from benchmarks.layout import on_machine, spread, table


def whole(report: Ends) -> str:
    """Both tables, and where they were made."""
    where = (
        f"{report.when}, {on_machine(report.machine)}; the load of the machine was {report.load:.1f} at the start. Of"
        " several seeds or rounds the median (least to most)."
    )
    parts = [where]
    if report.simulated:
        parts.append(_simulated(report.simulated))
    if report.real:
        parts += _real(report.real)
    return "\n\n".join(parts)


def _simulated(ends: Sequence[End]) -> str:
    by_items: dict[int, list[End]] = {}
    for end in ends:
        by_items.setdefault(end.items, []).append(end)
    rows = [["simulated", "minutes", "late", "s late", "waste", "leases", "of them backups", "messages an item"]]
    for items, found in by_items.items():
        seeds = ", ".join(str(end.seed) for end in found)
        rows.append(
            [
                f"{items:,} items (seed{'s' if len(found) > 1 else ''} {seeds})",
                spread((end.end / 60 for end in found), ".1f"),
                spread((end.end / end.ideal - 1 for end in found), ".2%"),
                spread((end.end - end.ideal for end in found), ".1f"),
                spread(((end.captioned_twice + end.thrown_away) / end.items for end in found), ".2%"),
                spread(end.leases for end in found),
                spread(end.backups for end in found),
                spread((end.messages / end.items for end in found), ".2f"),
            ]
        )
    return table(rows)


def _real(ends: Sequence[RealEnd]) -> list[str]:
    first = ends[0]
    told = (
        f"Real processes: broker, writer and {first.workers} `cfbus-gpu` from {first.slowest:.0f} to"
        f" {first.fastest:.0f} items a second, {first.items:,} items, {first.ideal:.0f} s at best:"
    )
    head = ["rounds", "late", "s late", "s from the first worker's last result to the end", "waste", "backup leases"]
    row = [
        str(len(ends)),
        spread((end.end / end.ideal - 1 for end in ends), ".1%"),
        spread((end.end - end.ideal for end in ends), ".1f"),
        spread((end.end - end.first_to_stop for end in ends), ".1f"),
        spread((end.waste for end in ends), ".1%"),
        spread(end.backups for end in ends),
    ]
    return [told, table([head, row])]
