"""The comparison with CaptionFlow as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.layout import on_machine, spread, table
from benchmarks.versus_figures import Case, Kill, Pace, Versus


def _named(case: Case, side: str, standard: int) -> str:
    words = [
        f"{case.workers} worker{'s' if case.workers > 1 else ''}",
        f"{case.prompts} prompt{'s' if case.prompts > 1 else ''}",
    ]
    if not case.encrypted:
        words.append("no TLS")
    if not case.decoded:
        words.append("nothing decoded")
    if case.images != standard:
        words.append(f"{case.images:,} images")
    return f"{side}: {case.source}, {', '.join(words)}"


def _cpu(pace: Pace) -> str:
    return " + ".join(f"{used:.2f}" for used in pace.cpu_ms.values())


def _processes(paces: Sequence[Pace]) -> str:
    sides = {pace.side: ", ".join(pace.cpu_ms) for pace in paces}
    return "; ".join(f"{side}: {names}" for side, names in sides.items())


def _rows(paces: Sequence[Pace], standard: int) -> list[list[str]]:
    by_case: dict[tuple[str, str], list[Pace]] = {}
    for pace in paces:
        by_case.setdefault((pace.case.model_dump_json(), pace.side), []).append(pace)

    def cell(found: Sequence[Pace], value: Callable[[Pace], float], form: str) -> str:
        return spread(map(value, found), form)

    rows = []
    for (_, side), found in by_case.items():
        case = found[0].case
        middle = sorted(found, key=lambda pace: sum(pace.cpu_ms.values()))[len(found) // 2]
        rows.append(
            [
                _named(case, side, standard),
                cell(found, lambda pace: pace.images_per_second, ",.0f"),
                cell(found, lambda pace: pace.half_per_second, ",.0f"),
                cell(found, lambda pace: pace.images_per_second * pace.case.prompts, ",.0f"),
                _cpu(middle),
                " + ".join(f"{size:,.0f}" for size in middle.peak_mib.values()),
                cell(found, lambda pace: pace.first_generated_seconds, ".1f"),
                cell(found, lambda pace: pace.first_row_seconds, ".1f"),
                cell(found, lambda pace: pace.last_to_disk_seconds, ".2f"),
                cell(found, lambda pace: pace.bytes_per_caption, ",.0f"),
                cell(found, lambda pace: pace.cores_of_others, ".2f"),
            ]
        )
    return rows


def _ratios(paces: Sequence[Pace]) -> list[str]:
    """How many times as fast cfbus was in the same case of the same round, CURVE against TLS."""
    found: dict[str, dict[str, list[Pace]]] = {}
    for pace in paces:
        found.setdefault(pace.case.model_dump_json(), {}).setdefault(pace.side, []).append(pace)
    rows = [["", "images a second, times", "CPU an image, all processes: a part of"]]
    for sides in found.values():
        if len(sides) == 2:
            ours, theirs = sides.values() if next(iter(sides)) == "cfbus" else list(sides.values())[::-1]
            pairs = list(zip(ours, theirs, strict=False))
            name = _named(ours[0].case, "", 2000).removeprefix(": ")
            speed = spread((one.images_per_second / two.images_per_second for one, two in pairs), ",.0f")
            cost = spread((sum(one.cpu_ms.values()) / sum(two.cpu_ms.values()) for one, two in pairs), ".0%")
            rows.append([name, speed, cost])
    return ["What cfbus did in the same cases, measured against the other, round by round:", table(rows)]


def _kills(kills: Sequence[Kill], batch: int) -> list[str]:
    head = ["killed and started again", "", "lost (generated, in no row)", "doubled", "never done", "a hand", "s"]
    rows = [
        [f"{kill.what}, {kill.source}", kill.side, f"{kill.again:,}", f"{kill.doubled:,}", f"{kill.missing:,}",
         hand(kill), f"{kill.seconds:.0f}"]
        for kill in kills
    ]  # fmt: skip
    return [
        f"The model takes 20 ms for a batch of {batch}. In the middle processes are ended, and started again a second"
        " later:",
        table([head, *rows]),
    ]


def hand(kill: Kill) -> str:
    """Whether a person had to do something, and what then was."""
    if not kill.missing:
        return "none"
    if not kill.hand:
        return "nothing helps"
    return f"{kill.hand}; then {kill.missing_after_hand:,} never done"


def whole(report: Versus) -> str:
    """All tables, and where they were made."""
    where = (
        f"{report.when}, {on_machine(report.machine)}; CaptionFlow {report.version} with Python {report.python};"
        f" the load of the machine was {report.load:.1f} at the start."
    )
    parts = [where, *report.not_run]
    if report.paces:
        standard = max(pace.case.images for pace in report.paces)
        head = [
            "", "images a second", "in the first half", "captions a second", "CPU ms an image", "peak MiB",
            "s to the first caption generated", "s to the first on the disk", "s from the last generated to all there",
            "bytes a caption", "cores that others used",
        ]  # fmt: skip
        told = (
            f"{standard:,} JPEGs of 64 x 64, {report.caption_chars} characters a caption; the median (least to most)."
            f" CPU and memory by process: {_processes(report.paces)}."
        )
        parts += [told, table([head, *_rows(report.paces, standard)]), *_ratios(report.paces)]
    if report.kills:
        parts += _kills(report.kills, report.engine_batch)
    return "\n\n".join(parts)
